"""Pictures of every format and mode are decoded, and what is broken is named."""

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from conftest import Encode, Samples, to_pixels
from PIL import Image
from test_garment import trousers

from model.formats import PNG
from model.images import (
    GREY,
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
def test_a_fashion_mnist_picture_stays_as_it_is(
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
def test_greys_of_any_depth_are_scaled_to_8_bits(
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


def test_a_large_jpeg_is_not_decoded_in_full(encode: Encode) -> None:
    large = trousers().resize((3000, 4000))
    data = encode(large, "JPEG", quality=95)
    assert max(decode(data).size) <= 500
    difference = to_pixels(data).astype(int) - to_pixels(encode(trousers()))
    assert abs(difference).mean() < 10


@pytest.mark.parametrize("mode", ["LA", "tRNS"])
def test_fashion_mnist_without_its_background_is_on_black(
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


def test_a_lossy_grey_webp_is_grey(samples: Samples, encode: Encode) -> None:
    for pixels in samples.pixels[::10]:
        data = encode(Image.fromarray(pixels), "WEBP", quality=80)
        difference = to_pixels(data).astype(int) - pixels
        assert abs(difference).mean() < 8  # trimmed and stretched it would be 34


@pytest.mark.parametrize(
    ("orientation", "to_stored"),
    [
        (1, None),
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (4, Image.Transpose.FLIP_TOP_BOTTOM),
        (5, Image.Transpose.TRANSPOSE),
        (6, Image.Transpose.ROTATE_90),
        (7, Image.Transpose.TRANSVERSE),
        (8, Image.Transpose.ROTATE_270),
    ],
)
def test_exif_orientation_is_undone(
    encode: Encode, orientation: int, to_stored: Image.Transpose | None
) -> None:
    upright = trousers()
    stored = upright if to_stored is None else upright.transpose(to_stored)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for form in ("PNG", "TIFF"):
        data = encode(stored, form, exif=exif)
        assert (to_pixels(data) == to_pixels(encode(upright))).all()


@pytest.mark.parametrize("picture_format", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_first_frame_of_an_animation_counts(
    encode: Encode, picture_format: str
) -> None:
    options = LOSSLESS.get(picture_format, {})
    first, second = trousers(), Image.new("RGB", (300, 400), "red")
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
    image = trousers(colour="black")
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
    """A small PNG whose header announces a size."""
    return plain_png(b"\0" * min(width * height, 20_000_000), (width, height))


@pytest.mark.parametrize(
    ("data", "error", "detail"),
    [
        (b"", UnsupportedImageError, "empty"),
        (b"hello, world", UnsupportedImageError, "PNG, JPEG, WebP"),
        (b"\x89PNG\r\n\x1a\n", BrokenImageError, "cannot be decoded"),
        (b"GIF89a", BrokenImageError, "cannot be decoded"),
        (b"BM" + b"\0" * 60, BrokenImageError, "cannot be decoded"),
        (b"II*\0" + b"\0" * 60, BrokenImageError, "cannot be decoded"),
        (b"II+\0" + b"\xff" * 60, BrokenImageError, "cannot be decoded"),
        (b"RIFF\0\0\0\0WEBP", BrokenImageError, "cannot be decoded"),
        (png_header(13_300, 13_300), TooLargeError, "13300 x 13300"),
    ],
)
def test_what_is_wrong_with_a_picture_is_reported(
    data: bytes, error: type[ImageError], detail: str
) -> None:
    with pytest.raises(error, match=detail):
        to_pixels(data)


@pytest.mark.parametrize(
    "picture_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]
)
def test_truncated_picture_is_broken(encode: Encode, picture_format: str) -> None:
    data = encode(trousers(), picture_format)
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
    data = encode(in_mode(np.asarray(trousers().convert("L")), mode), picture_format)
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
def test_bytes_dropped_by_curl_are_reported(
    encode: Encode, picture_format: str
) -> None:
    data = encode(trousers(), picture_format)
    with pytest.raises(BrokenImageError, match="--data-binary"):
        to_pixels(data.translate(None, b"\0\r\n"))


def test_a_palette_picture_without_its_palette_is_broken(encode: Encode) -> None:
    data = encode(trousers().convert("P"))
    start = data.index(b"PLTE") - 4
    length = int.from_bytes(data[start : start + 4], "big")
    with pytest.raises(BrokenImageError):
        to_pixels(data[:start] + data[start + 12 + length :])


def test_premultiplied_grey_is_read(encode: Encode) -> None:
    data = encode(trousers(colour="black").convert("LA"), "TIFF")
    unassociated, associated = (struct.pack("<HHIHH", 338, 3, 1, v, 0) for v in (2, 1))
    assert unassociated in data
    expected = to_pixels(encode(trousers(colour="black")))
    assert (to_pixels(data.replace(unassociated, associated)) == expected).all()


def test_orientation_is_undone_beside_an_odd_tag(encode: Encode) -> None:
    odd = struct.pack("<HHI4s", 0x0100, 2, 4, b"odd")  # a width that is text
    turned = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    directory = struct.pack("<H", 2) + odd + turned + struct.pack("<I", 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + directory
    data = encode(trousers(), "JPEG", exif=exif)
    plain = encode(trousers(), "JPEG")
    assert (to_pixels(data) != to_pixels(plain)).any()


def test_a_huge_picture_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr("PIL.ImageFile.ImageFile.load")
    with pytest.raises(TooLargeError):
        to_pixels(png_header(13_300, 13_300))


def test_levels_that_are_not_finite_are_white_or_black(encode: Encode) -> None:
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


def plain_pngs() -> Iterator[bytes]:
    """Yield plain PNGs, and pictures that differ from one in a detail."""
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
    cases = list(plain_pngs())
    quick = [decode_plain_png(data) is not None for data in cases]
    found = [outcome(data) for data in cases]
    whole = plain_png(b"\0" * 5002 * 5000, (5001, 5000))
    assert decode_plain_png(whole) is None
    monkeypatch.setattr("model.images.decode_plain_png", lambda data: None)
    assert found == [outcome(data) for data in cases]
    assert quick[:4] == [True] * 4
    assert 20 < sum(quick) < len(cases) / 2


def test_fashion_mnist_files_are_plain_pngs(samples: Samples, encode: Encode) -> None:
    for pixels in samples.pixels:
        image = decode_plain_png(encode(Image.fromarray(pixels)))
        assert image is not None
        assert (np.asarray(image) == pixels).all()
