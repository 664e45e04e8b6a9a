"""A picture whose pixels are all there is read, whatever is wrong beside them."""

import zlib
from collections.abc import Callable

import pytest
from conftest import Encode
from PIL import Image, PngImagePlugin
from test_garment import trousers
from test_headers import segment
from test_images import chunk

from model.images import BrokenImageError, decode

LONG = zlib.compress(b"x" * (2 << 20))
Change = Callable[[bytes], bytes]


def wrong(name: bytes, content: bytes) -> bytes:
    """A chunk with a checksum of 0."""
    return chunk(name, content)[:-4] + bytes(4)


def pixels_chunk(data: bytes) -> slice:
    """Where the pixels of a PNG are."""
    start = data.index(b"IDAT") + 4
    return slice(start, start + int.from_bytes(data[start - 8 : start - 4]))


def split(data: bytes, between: bytes) -> bytes:
    """A PNG with its pixels in two chunks, and something between them."""
    place = pixels_chunk(data)
    pixels = data[place]
    halves = chunk(b"IDAT", pixels[:99]) + between + chunk(b"IDAT", pixels[99:])
    return data[: place.start - 8] + halves + data[place.stop + 4 :]


BESIDE_PNG: dict[str, bytes] = {
    "text of 2 MB": chunk(b"zTXt", b"k\0\0" + LONG),
    "XMP of 2 MB": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LONG),
    "profile of 2 MB": chunk(b"iCCP", b"p\0\0" + LONG),
    "EXIF as text of 2 MB": chunk(b"zTXt", b"Raw profile type exif\0\0" + LONG),
    "text packed in no known way": chunk(b"zTXt", b"k\0\7text"),
    "checksum of text": wrong(b"tEXt", b"a\0b"),
    "checksum of the resolution": wrong(b"pHYs", bytes(9)),
    "checksum of transparency": wrong(b"tRNS", bytes(6)),
    "short resolution": chunk(b"pHYs", b"ab"),
    "short gamma": chunk(b"gAMA", b"a"),
    "short transparency": chunk(b"tRNS", b"a"),
    "short animation": chunk(b"acTL", b"a"),
    "EXIF that is none": chunk(b"eXIf", b"none"),
    "a name that is no text": chunk(b"\xff\xfe\xfd\xfc", b""),
}
BESIDE_JPEG: dict[str, bytes] = {
    "EXIF that is none": segment(0xE1, b"Exif\0\0none"),
    "short JFIF": segment(0xE0, b"JFIF"),
    "short mark of Adobe": segment(0xEE, b"Adobe"),
    "short Photoshop": segment(0xED, b"Photoshop 3.0\x008BIM\4\4"),
    "short profile": segment(0xE2, b"ICC_PROFILE\0\1"),
    "short list of pictures": segment(0xE2, b"MPF\0none"),
}
CUT: dict[str, tuple[str, Change]] = {
    "JPEG without its end": ("JPEG", lambda data: data[:-2]),
    "JPEG with half its end": ("JPEG", lambda data: data[:-1]),
    "JPEG with zeros as its end": ("JPEG", lambda data: data[:-2] + bytes(1000)),
    "GIF without its end": ("GIF", lambda data: data[:-1]),
    "GIF without its last code": ("GIF", lambda data: data[:-3]),
    "PNG without its end": ("PNG", lambda data: data[:-12]),
    "PNG without its last checksums": ("PNG", lambda data: data[:-20]),
    "PNG whose text is cut short": ("PNG", lambda data: data[:-12] + b"\0\0\xfftEXta"),
    "PNG with text between pixels": (
        "PNG",
        lambda data: split(data, chunk(b"tEXt", b"a\0b")),
    ),
}


@pytest.mark.parametrize("name", BESIDE_PNG)
def test_a_png_is_read_whatever_is_beside_its_pixels(name: str, encode: Encode) -> None:
    data, extra = encode(trousers()), BESIDE_PNG[name]
    expected = decode(data).tobytes()
    assert decode(data[:33] + extra + data[33:]).tobytes() == expected
    assert decode(data[:-12] + extra + data[-12:]).tobytes() == expected


@pytest.mark.parametrize("name", BESIDE_JPEG)
def test_a_jpeg_is_read_whatever_is_beside_its_pixels(
    name: str, encode: Encode
) -> None:
    data = encode(trousers(), "JPEG")
    found = decode(data[:2] + BESIDE_JPEG[name] + data[2:])
    assert found.tobytes() == decode(data).tobytes()


@pytest.mark.parametrize("name", CUT)
def test_a_picture_without_its_end_is_read_if_no_pixel_is_missing(
    name: str, encode: Encode
) -> None:
    picture_format, change = CUT[name]
    options = {"quality": 85} if picture_format == "JPEG" else {}
    data = encode(trousers(), picture_format, **options)
    assert decode(change(data)).tobytes() == decode(data).tobytes()


@pytest.mark.parametrize("end", [b"", b"\xff\xd9"])
def test_a_jpeg_is_broken_where_pixels_are_missing(end: bytes, encode: Encode) -> None:
    noise = Image.effect_noise((300, 400), 60)
    plain, marked = encode(noise, "JPEG"), encode(noise, "JPEG", restart_marker_rows=1)
    cut = [data[:-length] for data in (plain, marked) for length in (200, 5000)]
    for data in (*cut, marked[: marked.rindex(b"\xff\xd3")]):
        with pytest.raises(BrokenImageError, match="end is missing"):
            decode(data + end)


def test_a_progressive_jpeg_is_broken_where_scans_are_missing(encode: Encode) -> None:
    data = encode(trousers(), "JPEG", progressive=True)
    assert decode(data[:-2]).tobytes() == decode(data).tobytes()
    with pytest.raises(BrokenImageError, match="end is missing"):
        decode(data[: len(data) // 2])


@pytest.mark.parametrize("name", [b"IHDR", b"PLTE", b"IDAT"])
def test_the_checksum_of_pixels_counts(name: bytes, encode: Encode) -> None:
    data = bytearray(encode(trousers().convert("P")))
    start = data.index(name)
    length = int.from_bytes(data[start - 4 : start])
    data[start + 4 + length] ^= 1
    with pytest.raises(BrokenImageError, match="checksum of " + name.decode()):
        decode(bytes(data))


def test_orientation_as_text_is_undone(encode: Encode) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    text = "\nexif\n 1\n" + exif.tobytes().hex()
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", text, zip=True)
    assert decode(encode(trousers(), pnginfo=info)).size == (400, 300)
