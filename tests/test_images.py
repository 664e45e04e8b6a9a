"""Pictures of every kind become the pixels the network knows."""

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from conftest import ROOT, Encode, Samples, to_pixels
from PIL import Image, ImageColor, ImageDraw, ImageOps

from model.images import (
    GREY,
    PNG,
    BrokenImageError,
    ImageError,
    Pixels,
    TooLargeError,
    UnsupportedImageError,
    decode,
    decode_plain_png,
)

LOSSLESS: dict[str, dict[str, bool]] = {
    "PNG": {},
    "TIFF": {},
    "BMP": {},
    "GIF": {},
    "WEBP": {"lossless": True},
}
Colour = str | tuple[int, ...]

MODES = {  # that a format holds without loss
    "PNG": ["L", "RGB", "RGBA", "LA", "P", "I;16"],
    "TIFF": ["L", "RGB", "RGBA", "LA", "P", "CMYK", "YCbCr", "I", "I;16", "F"],
    "BMP": ["L", "RGB", "RGBA", "P"],
    "GIF": ["L", "RGB", "P", "LA"],
    "WEBP": ["RGB", "RGBA"],
}


def in_mode(pixels: Pixels, mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(pixels.astype(np.uint16))
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize(
    ("picture_format", "mode"),
    [(f, mode) for f, modes in MODES.items() for mode in modes],
)
def test_a_fashion_mnist_picture_passes_to_the_bit(
    samples: Samples, encode: Encode, picture_format: str, mode: str
) -> None:
    for pixels in samples.pixels[::10]:
        image = in_mode(pixels, mode)
        data = encode(image, picture_format, **LOSSLESS[picture_format])
        assert (to_pixels(data) == pixels).all()


@pytest.mark.parametrize(
    "scale",
    [257, 1023 / 255, 4095 / 255, 1 / 255, 1.0005 / 255],
    ids=["16 bit", "10 bit", "12 bit", "0 to 1", "a little over 1"],
)
def test_deep_greys_are_scaled_back(
    samples: Samples, encode: Encode, scale: float
) -> None:
    kind = np.uint16 if scale > 1 else np.float32
    for pixels in samples.pixels[::10]:
        data = encode((pixels * np.float64(scale)).astype(kind), "TIFF")
        assert (to_pixels(data) == pixels).all()


def test_jpeg_of_a_fashion_mnist_picture_is_its_decoded_grey(
    samples: Samples, encode: Encode
) -> None:
    data = encode(samples.pixels[0], "JPEG", quality=90)
    expected = np.asarray(Image.open(io.BytesIO(data)))
    assert (to_pixels(data) == expected).all()


def trouser(
    size: tuple[int, int] = (300, 400),
    ground: Colour = "white",
    colour: Colour = "navy",
    mode: str = "RGB",
) -> Image.Image:
    """A drawn pair of trousers."""
    image = Image.new(mode, size, ground)
    outline = [(100, 50), (200, 50), (210, 350), (165, 350), (150, 150), (135, 350)]
    ImageDraw.Draw(image).polygon([*outline, (90, 350)], fill=colour)
    return image


GROUNDS = ["white", "#fdfdfd", "black", "grey", "red", "beige", "navy"]


@pytest.mark.parametrize("colour", ["navy", "black", "white", "olive"])
@pytest.mark.parametrize("ground", GROUNDS)
def test_a_garment_is_bright_on_black_whatever_the_ground(
    encode: Encode, ground: Colour, colour: Colour
) -> None:
    expected = to_pixels(encode(trouser(ground="white", colour="black"))) > 127
    pixels = to_pixels(encode(trouser(ground=ground, colour=colour), "JPEG"))
    assert pixels.dtype == np.uint8
    if ImageColor.getrgb(ground) == ImageColor.getrgb(colour):
        assert pixels.max() == 0
        return
    if ground != "#fdfdfd" or colour != "white":  # two levels apart: next to blank
        assert ((pixels > pixels.max() / 2) == expected).mean() > 0.97


def test_white_on_nearly_white_is_not_blown_up(encode: Encode) -> None:
    assert to_pixels(encode(trouser(ground="#fdfdfd", colour="white"))).max() < 20


def test_the_ground_may_be_uneven(encode: Encode) -> None:
    """Light that falls off, grain and a floor of another colour."""
    expected = to_pixels(encode(trouser(colour="black"))) > 127
    image = np.asarray(trouser(ground="tan", colour="navy")).astype(np.float32)
    image[380:] = 90, 60, 40
    light = (
        np.linspace(0.85, 1.1, 300)[:, None] * np.linspace(1, 0.9, 400)[:, None, None]
    )
    grain = np.random.default_rng(1).normal(0, 4, image.shape)
    uneven = (image * light + grain).clip(0, 255).astype(np.uint8)
    assert ((to_pixels(encode(uneven)) > 100) == expected).mean() > 0.95


def test_a_garment_may_reach_the_edge(encode: Encode) -> None:
    image = trouser(ground="white", colour="navy").crop((0, 0, 300, 200))
    pixels = to_pixels(encode(image))
    assert pixels[2:].max(axis=1).min() > 200


def test_a_speck_does_not_shrink_the_garment(encode: Encode) -> None:
    image = trouser()
    image.putpixel((5, 5), (0, 0, 0))
    before, after = (to_pixels(encode(i)).astype(int) for i in (trouser(), image))
    assert abs(after - before).max() <= 2  # the ground's mean colour has moved a hair


@pytest.mark.parametrize("colour", GROUNDS)
def test_a_blank_picture_is_black(encode: Encode, colour: Colour) -> None:
    assert to_pixels(encode(Image.new("RGB", (300, 400), colour), "JPEG")).max() == 0


def test_a_large_jpeg_is_not_decoded_in_full(encode: Encode) -> None:
    large = trouser().resize((3000, 4000))
    data = encode(large, "JPEG", quality=95)
    assert max(decode(data).size) <= 500
    difference = to_pixels(data).astype(int) - to_pixels(encode(trouser()))
    assert abs(difference).mean() < 10


def test_object_fills_the_longest_side(encode: Encode) -> None:
    rows = to_pixels(encode(trouser())).max(axis=1)
    assert rows[0] > 100
    assert rows[-1] > 100


def test_steps_equal_the_paper_done_by_hand() -> None:
    """A black bar of 14 x 28 on white, worked out without `images`."""
    canvas = np.full((40, 40), 255, np.uint8)
    canvas[6:34, 13:27] = 0
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, "PNG")
    expected = np.zeros((28, 28), np.uint8)
    expected[:, 7:21] = 255  # trimmed, centred, negated
    assert (to_pixels(buffer.getvalue()) == expected).all()


@pytest.mark.parametrize("level", [240, 244, 250])
def test_a_white_garment_on_white_is_found(encode: Encode, level: int) -> None:
    """Levels that count as one colour where there is more to see."""
    expected = to_pixels(encode(trouser(ground="white", colour="black"))) > 127
    image = trouser(ground="white", colour=(level, level, level))
    for picture_format in ("PNG", "JPEG"):
        pixels = to_pixels(encode(image, picture_format))
        assert ((pixels > 127) == expected).mean() > 0.97


@pytest.mark.parametrize("ground", [255, 240])
def test_a_shaded_white_garment_is_found(encode: Encode, ground: int) -> None:
    """Folds about as light as the ground, and a black label."""
    cloth = np.asarray(trouser(ground="white", colour="black").convert("L")) == 0
    folds = 235 + 15 * np.sin(np.arange(300) / 4)
    levels = np.where(cloth, folds, ground).round().astype(np.uint8)
    levels[60:75, 110:190] = 0
    pixels = to_pixels(encode(Image.fromarray(levels).convert("RGB"), "JPEG"))
    expected = to_pixels(encode(trouser(ground="white", colour="black"))) > 127
    assert ((pixels > 40) == expected).mean() > 0.95


def test_photos_are_seen_as_when_the_threshold_was_chosen(encode: Encode) -> None:
    """Elsewise `model.bin` refuses other photos than `report/` says.

    A photo as it is, and large enough to be decoded at a fraction of its size.
    """
    photo = (ROOT / "static" / "pictures" / "photo-t-shirt.jpg").read_bytes()
    enlarged = Image.open(io.BytesIO(photo)).resize((900, 1200))
    seen = to_pixels(photo), to_pixels(encode(enlarged, "JPEG", quality=90))
    with np.load(ROOT / "tests" / "pictures.npz") as file:
        apart = np.abs(np.stack(seen).astype(int) - file["photo"])
    assert apart.max() <= 2  # another libjpeg may round otherwise


def person(colour: Colour = "navy") -> Image.Image:
    """Somebody drawn, from head to thigh, in a sleeveless top."""
    image = Image.new("RGB", (300, 400), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((100, 300, 200, 400), fill="olive")
    for left in (60, 210):
        draw.rectangle((left, 120, left + 30, 320), fill="#c89678")
    draw.rectangle((135, 80, 165, 130), fill="#c89678")
    draw.ellipse((115, 10, 185, 100), fill="#c89678")
    draw.rectangle((90, 110, 210, 330), fill=colour)
    return image


@pytest.mark.parametrize("colour", ["navy", "red", "grey"])
def test_what_a_person_wears_is_told_from_the_person(
    encode: Encode, colour: str
) -> None:
    """On the top is bright, on arms and legs dark."""
    pixels = to_pixels(encode(person(colour), "JPEG"))
    rows, columns = np.nonzero(pixels > 127)
    assert rows.max() - rows.min() == 27  # the garment alone is that long
    shape = pixels[:, columns.min() : columns.max() + 1] > 127
    assert shape.mean() > 0.9  # a plain rectangle, with nothing beside it
    assert 0.4 < shape.shape[1] / 28 < 0.7  # 120 of 220


def test_a_studio_is_ground(encode: Encode) -> None:
    """A grey wall, darker to its corners, and a shadow beside the garment."""
    garment = np.asarray(trouser(ground="white", colour="black").convert("L")) == 0
    rows, columns = np.mgrid[-1:1:400j, -1:1:300j]
    wall = 215 - 45 * (rows**2 + columns**2)
    shadow = 30 * np.exp(-6 * (np.square(rows - 0.8) + np.square(columns - 0.5)))
    levels = np.where(garment, 60, wall - shadow).round().astype(np.uint8)
    pixels = to_pixels(encode(Image.fromarray(levels).convert("RGB"), "JPEG"))
    expected = to_pixels(encode(trouser(ground="white", colour="black"))) > 127
    assert ((pixels > 100) == expected).mean() > 0.95


def test_a_soft_shadow_is_ground(encode: Encode) -> None:
    image = trouser(ground="white", colour="navy")
    shaded = Image.new("RGB", image.size, "white")
    shaded.paste("#f0f0f0", (60, 300, 300, 390))
    shaded.paste(image, mask=ImageOps.invert(image.convert("L")).point(bool, "1"))
    expected, pixels = (to_pixels(encode(picture)) for picture in (image, shaded))
    assert ((pixels > 127) == (expected > 127)).mean() > 0.97


@pytest.mark.parametrize("colour", ["white", "#f5f5f0"])
def test_a_white_cut_out_is_not_lost_on_white(encode: Encode, colour: str) -> None:
    red, green, blue = ImageColor.getrgb(colour)[:3]
    cut_out = trouser(mode="RGBA", ground=(0, 0, 0, 0), colour=(red, green, blue, 255))
    on_black = trouser(ground="black", colour=colour)
    assert (to_pixels(encode(cut_out)) == to_pixels(encode(on_black))).all()


def test_a_photo_with_clear_corners_lies_on_white(encode: Encode) -> None:
    """Rounded off, say: it is no cut-out, however bright."""
    image = trouser(mode="RGBA", ground=(255, 255, 255, 255), colour=(200, 0, 0, 255))
    expected = to_pixels(encode(image))
    image.paste((0, 0, 0, 0), (0, 0, 20, 20))
    assert (to_pixels(encode(image)) == expected).all()


@pytest.mark.parametrize("mode", ["LA", "tRNS"])
def test_fashion_mnist_without_its_ground_keeps_it_black(
    samples: Samples, encode: Encode, mode: str
) -> None:
    for pixels in samples.pixels[::10]:
        image = Image.fromarray(pixels)
        if mode == "LA":
            opaque = Image.fromarray(np.where(pixels, 255, 0).astype(np.uint8))
            data = encode(Image.merge("LA", (image, opaque)))
        else:
            data = encode(image, transparency=0)
        assert (to_pixels(data) == pixels).all()


def test_a_lossy_grey_webp_is_taken_as_grey(samples: Samples, encode: Encode) -> None:
    for pixels in samples.pixels[::10]:
        data = encode(Image.fromarray(pixels), "WEBP", quality=80)
        difference = to_pixels(data).astype(int) - pixels
        assert abs(difference).mean() < 8  # trimmed and stretched it would be 34


def test_transparency_lies_on_white(encode: Encode) -> None:
    transparent = trouser(mode="RGBA", ground=(0, 0, 0, 0), colour=(0, 0, 128, 255))
    assert (to_pixels(encode(transparent)) == to_pixels(encode(trouser()))).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(encode: Encode, orientation: int) -> None:
    upright = trouser()
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(stored, "PNG", exif=exif)
    assert (to_pixels(data) == to_pixels(encode(upright))).all()


@pytest.mark.parametrize("picture_format", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_first_frame_of_an_animation_counts(
    encode: Encode, picture_format: str
) -> None:
    options = LOSSLESS.get(picture_format, {})
    first, second = trouser(), Image.new("RGB", (300, 400), "red")
    still = encode(first, picture_format, **options)
    moving = encode(
        first,
        picture_format,
        save_all=True,
        append_images=[second],
        **options,
    )
    assert len(moving) > len(still)
    assert (to_pixels(moving) == to_pixels(still)).all()


@pytest.mark.parametrize("mode", ["CMYK", "L", "1", "P", "I;16", "LAB"])
def test_photo_modes_agree_with_rgb(encode: Encode, mode: str) -> None:
    image = trouser(colour="black")
    if mode == "I;16":
        grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
        image_in_mode = Image.fromarray(grey)
    elif mode == "LAB":
        channels = np.zeros((400, 300, 3), np.uint8)
        channels[..., 0] = np.asarray(image.convert("L"))
        image_in_mode = Image.fromarray(channels, "LAB")
    else:
        image_in_mode = image.convert(mode)
    difference = to_pixels(encode(image_in_mode, "TIFF")).astype(int) - to_pixels(
        encode(image)
    )
    assert abs(difference).max() <= 1


def plain_png(rows: bytes, size: tuple[int, int] = (4, 3), form: bytes = GREY) -> bytes:
    head = struct.pack(">II", *size) + form
    chunks = (b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return PNG + b"".join(chunk(*one) for one in chunks)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + crc(name + data)


def crc(data: bytes | bytearray) -> bytes:
    return struct.pack(">I", zlib.crc32(data))


def png_header(width: int, height: int) -> bytes:
    """A small PNG that claims a size."""
    return plain_png(b"\0" * min(width * height, 20_000_000), (width, height))


@pytest.mark.parametrize(
    ("data", "error", "detail"),
    [
        (b"", UnsupportedImageError, "empty"),
        (b"hello, world", UnsupportedImageError, "PNG, JPEG, WebP"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", UnsupportedImageError, "PNG, JPEG, WebP"),
        (b"8BPS\0\1" + b"\0" * 40, UnsupportedImageError, "PNG, JPEG, WebP"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 40, UnsupportedImageError, "save .* as JPEG"),
        (b"\x89PNG\r\n\x1a\n", BrokenImageError, "cannot be decoded"),
        (b"GIF89a", BrokenImageError, "cannot be decoded"),
        (b"BM" + b"\0" * 60, BrokenImageError, "cannot be decoded"),
        (b"II*\0" + b"\0" * 60, BrokenImageError, "cannot be decoded"),
        (b"RIFF\0\0\0\0WEBP", BrokenImageError, "cannot be decoded"),
        (png_header(13_300, 13_300), TooLargeError, "13300 x 13300"),
    ],
)
def test_bad_pictures_are_named(
    data: bytes, error: type[ImageError], detail: str
) -> None:
    with pytest.raises(error, match=detail):
        to_pixels(data)


@pytest.mark.parametrize(
    "picture_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]
)
def test_truncated_picture_is_broken(encode: Encode, picture_format: str) -> None:
    data = encode(trouser(), picture_format)
    with pytest.raises(BrokenImageError):
        to_pixels(data[: len(data) // 2])


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (2, 3), (28, 27)])
def test_tiny_and_thin_pictures_become_pixels(
    encode: Encode, size: tuple[int, int]
) -> None:
    assert to_pixels(encode(Image.new("RGB", size, "red"))).shape == (28, 28)


@pytest.mark.parametrize(
    ("picture_format", "mode"),
    [("JPEG", "RGB"), ("JPEG", "CMYK")]
    + [(f, mode) for f, modes in MODES.items() for mode in modes],
)
def test_damaged_pictures_raise_nothing_but_image_errors(
    encode: Encode, picture_format: str, mode: str
) -> None:
    data = encode(in_mode(np.asarray(trouser().convert("L")), mode), picture_format)
    random = np.random.default_rng(1)
    refused = 0
    for _ in range(50):
        damaged = bytearray(data)
        for place in random.integers(0, 200, 4):
            damaged[place] = random.integers(256)
        try:
            assert to_pixels(bytes(damaged)).shape == (28, 28)
        except ImageError:
            refused += 1
    assert refused


@pytest.mark.parametrize("picture_format", [*LOSSLESS, "JPEG"])
def test_a_picture_stripped_by_curl_is_told_so(
    encode: Encode, picture_format: str
) -> None:
    data = encode(trouser(), picture_format)
    with pytest.raises(BrokenImageError, match="--data-binary"):
        to_pixels(data.translate(None, b"\0\r\n"))


def test_a_palette_picture_without_its_palette_is_broken(encode: Encode) -> None:
    data = encode(trouser().convert("P"))
    start = data.index(b"PLTE") - 4
    length = int.from_bytes(data[start : start + 4], "big")
    with pytest.raises(BrokenImageError):
        to_pixels(data[:start] + data[start + 12 + length :])


def test_premultiplied_grey_is_read(encode: Encode) -> None:
    data = encode(trouser(colour="black").convert("LA"), "TIFF")
    unassociated, associated = (struct.pack("<HHIHH", 338, 3, 1, v, 0) for v in (2, 1))
    assert unassociated in data
    expected = to_pixels(encode(trouser(colour="black")))
    assert (to_pixels(data.replace(unassociated, associated)) == expected).all()


def test_orientation_is_undone_beside_an_odd_tag(encode: Encode) -> None:
    odd = struct.pack("<HHI4s", 0x0100, 2, 4, b"odd")  # a width that is text
    turned = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    directory = struct.pack("<H", 2) + odd + turned + struct.pack("<I", 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + directory
    data = encode(trouser(), "JPEG", exif=exif)
    plain = encode(trouser(), "JPEG")
    assert (to_pixels(data) != to_pixels(plain)).any()


def test_a_huge_picture_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("PIL.ImageFile.ImageFile.load")
    with pytest.raises(TooLargeError):
        to_pixels(png_header(13_300, 13_300))


def test_what_is_not_finite_is_white_or_black(encode: Encode) -> None:
    levels = np.full((28, 28), 0.5, np.float32)
    levels[0, :3] = np.inf, -np.inf, np.nan
    levels[1, :2] = 1, 0
    pixels = to_pixels(encode(Image.fromarray(levels), "TIFF"))
    assert pixels[0, :3].tolist() == [255, 0, 0]
    assert pixels[1, :3].tolist() == [255, 0, 128]


def outcome(data: bytes) -> bytes | str:
    try:
        return decode(data).tobytes()
    except ImageError as error:
        return f"{error.code}: {error}"


def plain_and_not() -> Iterator[bytes]:
    """Make plain PNGs, and such as are so nearly."""
    random = np.random.default_rng(3)
    for filters in ([0, 0, 0], [1, 2, 3], [4, 4, 4], [2, 4, 1], [3, 0, 5]):
        lines = [bytes([filter_]) + random.bytes(4) for filter_ in filters]
        yield plain_png(b"".join(lines))
    rows = b"\0abcd" * 3
    for some in (b"", rows[:9], rows[:-1], rows + b"more", rows * 50):
        yield plain_png(some)
    for size in ((0, 3), (4, 0), (1, 1), (13_300, 13_300), (2**32 - 1, 1)):
        yield plain_png(rows, size)
    for place, values in ((0, (1, 4, 16)), (1, (2, 3, 4, 6)), (2, (1,)), (3, (1,))):
        for value in values:
            yield plain_png(
                rows, form=GREY[:place] + bytes([value]) + GREY[place + 1 :]
            )
    yield plain_png(rows, form=GREY[:4] + b"\1")
    data = plain_png(rows)
    yield from (data[:size] for size in range(len(PNG), len(data)))
    yield data + b"more"
    yield data.replace(b"IDAT", chunk(b"tRNS", b"\0a")[4:] + data[33:37] + b"IDAT")
    for place in range(len(PNG), len(data)):
        for change in (1, 128):
            damaged = bytearray(data)
            damaged[place] ^= change
            yield bytes(damaged)
            damaged[29:33] = crc(damaged[12:29])
            damaged[-16:-12] = crc(damaged[37:-16])
            yield bytes(damaged)


def test_plain_pngs_are_decoded_as_pillow_does(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = list(plain_and_not())
    quick = [decode_plain_png(data) is not None for data in cases]
    found = [outcome(data) for data in cases]
    whole = plain_png(b"\0" * 5002 * 5000, (5001, 5000))
    assert decode_plain_png(whole) is None
    monkeypatch.setattr("model.images.decode_plain_png", lambda data: None)
    assert found == [outcome(data) for data in cases]
    assert quick[:4] == [True] * 4
    assert 20 < sum(quick) < len(cases) / 2


def test_fashion_mnist_as_files_is_plain(samples: Samples, encode: Encode) -> None:
    for pixels in samples.pixels:
        image = decode_plain_png(encode(Image.fromarray(pixels)))
        assert image is not None
        assert (np.asarray(image) == pixels).all()
