"""HEIC and AVIF are read upright; what their lists announce cannot cost too much."""

import base64
import struct
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from conftest import Encode
from PIL import Image
from test_garment import trousers

from model.images import BrokenImageError, ImageError, TooLargeError, decode

# a drawing of 256 x 256, by pillow-heif 1.8 with x265:
# image.save("tile.heic", quality=35, enc_params={"x265:info": 0})
# Rectangles on white: (0, 0, 127, 63) red, (128, 64, 255, 127) blue, (0, 128, 63, 255)
# black.
TILE = base64.b64decode("""
AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAVdtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABw
aWN0AAAAAAAAAAAAAAAAAAAAACJpbG9jAAAAAERAAAEAAQAAAAABewABAAAAAAAAAL0AAAAjaWlu
ZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA12lwcnAAAAC4aXBj
bwAAAHlodmNDAQNwAAAAkAAAAAAAPPAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMA
PLoCQGEAAQAsQgEBA3AAAAMAkAAAAwAAAwA8oAgIBAWW6kkprm4CGgwIAAADAMgAAAMACEBiAAEA
B0QBwXKwYkAAAAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAABAAAAAQAAAAAQcGl4aQAA
AAADCAgIAAAAF2lwbWEAAAAAAAAAAQABBIECAwQAAADFbWRhdAAAALkoAa80hp4UIPUv6Of/9ser
/Yi+H3fH4qOlQwfYETf7+SwvToL/p5xIDEb4dU3sGdisowX5v9/JYXp0F/09t39H4BW3///kSase
vtD7BEzd8KuAnA7j//xN2ABSTEXjmzAAGLCL5whoLoSLseuwAAah7tmrzo1XOD4t4b+c47KjS6QA
k6hX2SQSckjFdrzNvQVmeohvAA3otsEE4GGRoDLIEdeBmBDSMACiGbPZTvSjqqanr09R6xBgoA==
""")
CODED = TILE[TILE.index(b"mdat") + 4 :]
START = TILE.index(b"hvcC") - 4
CONFIG = TILE[START : START + 0x79]
MILLION = 1_000_000
Item = tuple[bytes, bytes, Sequence[bytes]]  # kind, data, properties
Reference = tuple[bytes, int, Sequence[int]]


def box(name: bytes, *parts: bytes) -> bytes:
    data = b"".join(parts)
    return struct.pack(">I4s", 8 + len(data), name) + data


def size(width: int, height: int) -> bytes:
    return box(b"ispe", struct.pack(">III", 0, width, height))


def heic(*items: Item, references: Sequence[Reference] = (), primary: int = 1) -> bytes:
    """A HEIC of items that are numbered from 1."""
    head = box(b"ftyp", b"heic", bytes(4), b"mif1heic")
    start, places, kinds, owners = len(head) + 8, b"", b"", b""
    listed = list({one for _, _, properties in items for one in properties})
    for number, (kind, data, properties) in enumerate(items, 1):
        places += struct.pack(">HHHII", number, 0, 1, start, len(data))
        start += len(data)
        kinds += box(b"infe", struct.pack(">IHH", 2 << 24, number, 0), kind, b"\0")
        owners += struct.pack(">HB", number, len(properties))
        owners += bytes(listed.index(one) + 1 for one in properties)
    total = len(items)
    refs = b"".join(
        box(name, struct.pack(f">HH{len(to)}H", of, len(to), *to))
        for name, of, to in references
    )
    meta = box(
        b"meta",
        bytes(4),
        box(b"hdlr", bytes(8), b"pict", bytes(13)),
        box(b"pitm", struct.pack(">IH", 0, primary)),
        box(b"iloc", struct.pack(">IBBH", 0, 0x44, 0, total), places),
        box(b"iinf", struct.pack(">IH", 0, total), kinds),
        box(b"iref", bytes(4), refs),
        box(
            b"iprp",
            box(b"ipco", *listed),
            box(b"ipma", struct.pack(">II", 0, total), owners),
        ),
    )
    return head + box(b"mdat", *(data for _, data, _ in items)) + meta


def tile(*properties: bytes, coded: bytes = CODED) -> Item:
    return b"hvc1", coded, [CONFIG, size(256, 256), *properties]


def grid(columns: int, rows: int, side: int = 256) -> Item:
    sides = columns * side, rows * side
    data = struct.pack(">BBBBII", 0, 1, rows - 1, columns - 1, *sides)
    return b"grid", data, [size(*sides)]


def exif(orientation: int) -> bytes:
    entry = struct.pack(">HHHIHHI", 1, 274, 3, 1, orientation, 0, 0)
    return bytes(4) + b"MM\0*\0\0\0\x08" + entry


def same(one: Image.Image, other: Image.Image) -> bool:
    difference = np.asarray(one).astype(int) - np.asarray(other)
    return one.size == other.size and bool(abs(difference).mean() < 1)


def test_a_heic_is_read() -> None:
    image = decode(TILE)
    colours = np.asarray(image)[[32, 32, 96], [64, 192, 192]]
    expected = [192, 32, 32], [255, 255, 255], [32, 32, 192]
    assert np.allclose(colours, expected, rtol=0, atol=9)
    assert same(decode(heic(tile())), image)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_turned_heic_is_turned_once(orientation: int) -> None:
    """By its box; EXIF repeats it, and does not count."""
    turned = tile(box(b"irot", b"\3"))
    data = heic(
        turned, (b"Exif", exif(orientation), []), references=[(b"cdsc", 2, [1])]
    )
    upright = decode(TILE).transpose(Image.Transpose.ROTATE_270)
    assert same(decode(data), upright)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_avif_is_turned_once(encode: Encode, orientation: int) -> None:
    tag = Image.Exif()
    tag[274] = orientation
    stored = trousers()
    as_avif = decode(encode(stored, "AVIF", exif=tag.tobytes(), quality=90))
    as_png = decode(encode(stored, "PNG", exif=tag))
    assert as_avif.size == as_png.size
    difference = np.asarray(as_avif).astype(int) - np.asarray(as_png)
    assert abs(difference).mean() < 5


def test_the_primary_picture_of_several_is_read_from_its_tiles() -> None:
    items = tile(), tile(), grid(2, 1)
    references = [(b"dimg", 3, [1, 2])]
    image = decode(heic(*items, references=references, primary=3))
    assert image.size == (512, 256)
    assert same(image.crop((256, 0, 512, 256)), decode(TILE))
    assert same(decode(heic(*items, references=references)), decode(TILE))


def test_the_largest_heic_from_a_telephone_is_read() -> None:
    """24 million pixels in tiles that overlap the edges."""
    canvas = b"grid", struct.pack(">BBBBII", 0, 1, 16, 22, 5712, 4284)
    items = *[tile()] * 391, (*canvas, [size(5712, 4284)])
    references = [(b"dimg", 392, range(1, 392))]
    image = decode(heic(*items, references=references, primary=392))
    assert image.width / image.height == pytest.approx(5712 / 4284, abs=0.01)


def test_first_frame_of_an_avif_animation_counts(encode: Encode) -> None:
    first, second = trousers(), Image.new("RGB", (300, 400), "red")
    moving = encode(first, "AVIF", save_all=True, append_images=[second])
    assert b"avis" in moving
    difference = np.asarray(decode(moving)).astype(int) - np.asarray(first)
    assert abs(difference).mean() < 5


def test_transparent_avif_is_on_a_background(encode: Encode) -> None:
    image = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 32, 64))
    colours = np.asarray(decode(encode(image, "AVIF")))[9, [9, 55]]
    assert np.allclose(colours, [[0] * 3, [128] * 3], rtol=0, atol=9)


def test_grey_avif_is_grey(encode: Encode) -> None:
    assert decode(encode(Image.radial_gradient("L"), "AVIF")).mode == "L"


def avif(encode: Encode, side: int) -> bytes:
    return encode(Image.new("L", (side, side)), "AVIF", speed=10)


def hidden_size(encode: Encode) -> bytes:
    data = avif(encode, 4000)
    return data.replace(size(4000, 4000), size(16, 16))


Make = Callable[[Encode], bytes]
COSTLY: dict[str, Make] = {
    "one tile many times": lambda _: heic(
        tile(), grid(25, 25), references=[(b"dimg", 2, [1] * 625)], primary=2
    ),
    "grid of itself": lambda _: heic(grid(1, 1), references=[(b"dimg", 1, [1, 1])]),
    "grid of another size": lambda _: heic(
        tile(),
        (b"grid", grid(16, 16, 4096)[1], [size(256, 256)]),
        references=[(b"dimg", 2, [1] * 256)],
        primary=2,
    ),
    "slices": lambda _: heic(tile(coded=CODED * 1000)),
    "empty units": lambda _: heic(tile(coded=bytes(4) * MILLION + CODED)),
    "profile": lambda _: heic(tile(box(b"colr", b"prof", bytes(200_000)))),
    "EXIF": lambda _: heic(
        tile(), (b"Exif", bytes(2 * MILLION), []), references=[(b"cdsc", 2, [1])]
    ),
    "metadata of many pictures": lambda _: heic(
        tile(), (b"mime", bytes(20 * MILLION), []), references=[(b"cdsc", 2, [1])] * 9
    ),
    "pixels": lambda encode: avif(encode, 5000),
    "AVIF of another size": hidden_size,
}


@pytest.mark.parametrize("name", COSTLY)
def test_pictures_that_cost_far_more_than_their_size_are_refused(
    name: str, encode: Encode
) -> None:
    data = COSTLY[name](encode)
    with pytest.raises(TooLargeError):
        decode(data)


def test_the_same_bytes_for_many_items_are_refused() -> None:
    data = bytearray(heic(tile(), *[(b"mime", b"x", [])] * 9))
    at = data.index(b"iloc") + 12
    entry = data[at : at + 14]
    for number in range(2, 11):
        data[at + 14 * (number - 1) :][:14] = entry
        data[at + 14 * (number - 1) : at + 14 * number] = (
            struct.pack(">H", number) + entry[2:]
        )
    with pytest.raises(TooLargeError):
        decode(bytes(data))


def test_a_damaged_file_is_broken(encode: Encode) -> None:
    random = np.random.default_rng(1)
    for whole in (TILE, encode(trousers().resize((64, 64)), "AVIF")):
        for end in range(40, len(whole) - 1, 7):
            with pytest.raises(ImageError):
                decode(whole[:end])
        for _ in range(200):
            damaged = bytearray(whole)
            for at in random.integers(12, len(whole), 3):
                damaged[at] ^= 1 << random.integers(8)
            try:
                decode(bytes(damaged))
            except ImageError:
                continue


@pytest.mark.parametrize("data", [b"\0\0\0\x18ftypheic" + bytes(40), TILE[:300]])
def test_a_header_without_its_lists_is_broken(data: bytes) -> None:
    with pytest.raises(BrokenImageError, match="list of its pictures"):
        decode(data)


def test_metadata_of_a_kind_that_is_no_text_are_broken() -> None:
    data = heic(tile(), (b"Ex\xf8f", exif(1), []), references=[(b"cdsc", 2, [1])])
    with pytest.raises(BrokenImageError):
        decode(data)
