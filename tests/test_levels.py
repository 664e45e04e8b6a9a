"""Pictures of over 8 bits per channel are as bright as they are meant, or refused."""

import struct
import zlib
from typing import Literal

import numpy as np
import pytest
from conftest import Encode, Samples, to_pixels
from numpy.typing import NDArray
from test_garment import trousers
from test_images import chunk

from model.formats import PNG
from model.images import TooLargeError, UnsupportedImageError, decode

Levels = NDArray[np.generic]
Order = Literal["<", ">"]
COLOUR = np.asarray(trousers(colour="orange").resize((60, 80)))
GREY, RGB, GREY_ALPHA, RGBA = 0, 2, 4, 6  # of PNG
SHORT, LONG = 3, 4  # of TIFF


def deep_png(levels: Levels, colour: int) -> bytes:
    """A PNG of 16 bits."""
    height, width = levels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    head = struct.pack(">II5B", width, height, 16, colour, 0, 0, 0)
    chunks = (b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return PNG + b"".join(chunk(*one) for one in chunks)


def deep_tiff(planes: Levels, photometric: int, order: Order = "<") -> bytes:
    """A TIFF of planes, [channels, height, width], one after the other."""
    count, height, width = planes.shape
    data = planes.astype(planes.dtype.newbyteorder(order)).tobytes()
    bits, size = planes.dtype.itemsize * 8, len(data) // count
    form = 3 if planes.dtype.kind == "f" else 1
    tags = {256: [width], 257: [height], 258: [bits] * count, 259: [1]}
    tags |= {262: [photometric], 273: [size * n for n in range(count)], 277: [count]}
    tags |= {278: [height], 279: [size] * count, 284: [2 if count > 1 else 1]}
    tags |= {339: [form] * count}
    start = 8 + 2 + 12 * len(tags) + 4
    end = start + 24 * len(tags)
    entries, more = b"", b""
    for tag, values in tags.items():
        kind, letter = (LONG, "I") if tag in (273, 279) else (SHORT, "H")
        base = end if tag == 273 else 0
        numbers = [base + value for value in values]
        packed = struct.pack(f"{order}{len(numbers)}{letter}", *numbers)
        if len(packed) > 4:
            place, more = start + len(more), more + packed
            packed = struct.pack(order + "I", place)
        head = struct.pack(order + "HHI", tag, kind, len(values))
        entries += head + packed.ljust(4, b"\0")
    begin = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(
        order + "IH", 8, len(tags)
    )
    return (begin + entries + bytes(4) + more).ljust(end, b"\0") + data


def with_alpha(levels: Levels, top: int) -> Levels:
    """The levels with an opacity of `top` everywhere."""
    return np.dstack([levels, np.full(levels.shape[:2], top)])


@pytest.mark.parametrize("top", [255, 1023, 4095, 65535])
def test_a_deep_png_is_as_bright_as_one_of_8_bits(top: int, encode: Encode) -> None:
    levels = COLOUR / 255 * top
    assert COLOUR.max() == 255
    for data in (deep_png(levels, RGB), deep_png(with_alpha(levels, top), RGBA)):
        difference = np.asarray(decode(data)).astype(int) - COLOUR
        assert abs(difference).max() <= 1
    grey = levels[..., 0]
    for data in (deep_png(grey, GREY), deep_png(with_alpha(grey, top), GREY_ALPHA)):
        difference = np.asarray(decode(data).convert("L")).astype(int) - COLOUR[..., 0]
        assert abs(difference).max() <= 1


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("top", [255, 65535])
def test_a_deep_tiff_in_planes_is_as_bright_as_one_of_8_bits(
    top: int, order: Order
) -> None:
    planes = np.moveaxis(COLOUR, 2, 0).astype(np.uint16) * np.uint16(top // 255)
    difference = np.asarray(decode(deep_tiff(planes, 2, order))).astype(int) - COLOUR
    assert abs(difference).max() <= 1


@pytest.mark.parametrize(
    ("kind", "white"), [("u1", 255), ("u2", 65535), ("u2", 255), ("f4", 1)]
)
def test_zero_is_white_where_the_file_states_it(
    kind: str, white: int, samples: Samples
) -> None:
    for pixels in samples.pixels[::10]:
        levels = ((255 - pixels.astype(float)) / 255 * white).astype(kind)
        assert (to_pixels(deep_tiff(levels[None], 0)) == pixels).all()


@pytest.mark.parametrize("top", [0.9, 1, 1.005, 1.3, 2, 8])
def test_floats_above_1_are_highlights(top: float, samples: Samples) -> None:
    for pixels in samples.pixels[::10]:
        levels = (pixels / pixels.max() * top).astype(np.float32)
        found = to_pixels(deep_tiff(levels[None], 1)).astype(float)
        expected = pixels / pixels.max() * (255 * min(top, 1))
        assert abs(found - expected).max() <= 2


@pytest.mark.parametrize(
    ("data", "error", "detail"),
    [
        (deep_tiff(np.zeros((3, 8, 8), np.float32), 2), UnsupportedImageError, "TIFF"),
        (deep_tiff(np.ones((4, 8, 8), np.uint16), 5), UnsupportedImageError, "planes"),
        (deep_png(np.ones((3600, 3600, 3)), RGB), TooLargeError, "12.5 million"),
    ],
    ids=["floating-point colours", "planes of CMYK", "large and dark"],
)
def test_what_would_be_read_wrongly_is_refused(
    data: bytes, error: type[Exception], detail: str
) -> None:
    with pytest.raises(error, match=detail):
        decode(data)
