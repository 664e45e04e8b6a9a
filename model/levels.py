"""Scale pictures of over 8 bits per channel to 8 bits.

    >>> to_8_bit(image, white=1023).mode
    'L'

Files do not state the level of white: 1.0, 255, 65535 and others are in use. It is the
smallest of them that contains the highest level of the picture.
"""

import sys
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile, _Tile
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    TiffImageFile,
)

MAX_LEVEL = np.iinfo(np.uint8).max
WHITE_LEVELS = 255, 1023, 4095, 16383, 65535  # of 8 to 16 bits
MAX_16_BIT = WHITE_LEVELS[-1]
WHITE_TOLERANCE = 1.01  # x white, which the highest level may have
MAX_OVER = 16  # x white 1.0: floating-point levels up to it are highlights
DARK = 64  # upper 8 of 16 bits: of a picture below, the lower are needed
BAND_PIXELS = 250_000  # that are converted at once
GREY_ALPHA = "LA;16B"  # of a PNG, which Pillow decodes to "RGBA"
BITS = 8
SEPARATE, WHITE_IS_ZERO = 2, 0  # TIFF 6.0, section 8


def highest_level(image: Image.Image) -> float:
    """Return the highest finite level of a picture of over 8 bits, at least 0."""
    tops = []
    for _left, _top, band in bands(image, 1):
        levels = np.asarray(band)
        tops.append(float(levels.max(initial=0, where=np.isfinite(levels))))
    return max(tops)


def white_level(top: float, *, is_float: bool = False) -> float:
    """Return the level of white of a picture whose highest level is `top`."""
    if is_float and top <= MAX_OVER:
        return top if top > WHITE_TOLERANCE else 1
    fits = (white for white in WHITE_LEVELS if top <= WHITE_TOLERANCE * white)
    return next(fits, top)


def to_8_bit(
    image: Image.Image, top: float, *, is_inverted: bool = False
) -> Image.Image:
    """Scale grey levels of up to `top` to "L"."""
    white = white_level(top, is_float=image.mode == "F")
    levels = np.nan_to_num(np.asarray(image, np.float32), nan=0, posinf=top, neginf=0)
    scaled = (levels * np.float32(MAX_LEVEL / white)).round().clip(0, MAX_LEVEL)
    return Image.fromarray(
        (MAX_LEVEL - scaled if is_inverted else scaled).astype(np.uint8)
    )


def is_white_zero(image: Image.Image) -> bool:
    """Return whether 0 is white in a grey TIFF of over 8 bits: Pillow does not ask."""
    tags = getattr(image, "tag_v2", {})
    return tags.get(PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO


def bands(image: Image.Image, step: int) -> Iterator[tuple[int, int, Image.Image]]:
    """Yield bands across the longer side of a picture: left, top and the band.

    They begin at multiples of `step`.
    """
    (width, height), breadth = image.size, min(image.size)
    length = step * max(1, BAND_PIXELS // (breadth * step))
    for start in range(0, max(image.size), length):
        if width > height:
            box = (start, 0, min(start + length, width), height)
        else:
            box = (0, start, width, min(start + length, height))
        yield box[0], box[1], image.crop(box)


def read_planes(image: ImageFile) -> None:
    """Have the planes of a TIFF of 16 bits decoded as such: Pillow takes them for 8.

    Raises `NotImplementedError` if they cannot be.
    """
    if not isinstance(image, TiffImageFile):
        return
    tags = image.tag_v2
    is_deep = max(tags.get(BITSPERSAMPLE, (1,))) > BITS
    if tags.get(PLANAR_CONFIGURATION) != SEPARATE or not is_deep:
        return
    if image.mode not in ("RGB", "RGBA") or image.tile[0].codec_name != "raw":
        raise NotImplementedError("a TIFF of 16 bits in separate planes")
    order = ";16L" if tags.prefix == b"II" else ";16B"
    image.tile = [_with_raw_mode(tile, raw_mode(tile) + order) for tile in image.tile]


def raw_mode(tile: _Tile) -> str:
    """Return Pillow's name for bytes of pixels: in "RGB;16B" the upper are first."""
    return str(tile.args[0] if isinstance(tile.args, tuple) else tile.args)


def _with_raw_mode(tile: _Tile, raw: str) -> _Tile:
    args = tile.args
    return tile._replace(args=(raw, *args[1:]) if isinstance(args, tuple) else raw)


def needs_low_bytes(image: Image.Image, raw: str) -> bool:
    """Return whether a colour picture of 16 bits is dark, or uses few of them."""
    if ";16" not in raw or image.mode not in ("RGB", "RGBA", "CMYK"):
        return False
    return bool((np.array(image.getextrema())[:3, 1] < DARK).all())


def read_low_bytes(image: ImageFile) -> Image.Image:
    """Return the lower bytes of 16-bit colours, of which Pillow decodes the upper.

    Raises `NotImplementedError` if they cannot be decoded.
    """
    raw = raw_mode(image.tile[0])
    if raw == GREY_ALPHA:  # four bytes of a pixel
        image.tile = [_with_raw_mode(tile, "RGBA") for tile in image.tile]
        _, grey, _, alpha = image.split()
        return Image.merge("RGBA", (grey, grey, grey, alpha))
    if raw.startswith(("RGBa", "CMYK")):
        raise NotImplementedError(f"a dark {image.mode} picture of 16 bits")
    orders = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
    image.tile = [
        _with_raw_mode(tile, raw_mode(tile)[:-1] + orders[raw[-1]])
        for tile in image.tile
    ]
    image.load()
    return image


def join_bytes(high: Image.Image, low: Image.Image) -> None:
    """Scale 16-bit colours, and their opacity, to 8 bits in `high`."""
    tops = np.zeros(len(high.getbands()))
    for _left, _top, levels in _levels(high, low):
        tops = np.maximum(tops, levels.max((0, 1)))
    tops[:3] = tops[:3].max()
    factors = [MAX_LEVEL / white_level(top) for top in tops]
    for left, top, levels in _levels(high, low):
        scaled = (levels * factors).round().clip(0, MAX_LEVEL).astype(np.uint8)
        high.paste(Image.fromarray(scaled), (left, top))


def _levels(
    high: Image.Image, low: Image.Image
) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
    for one, other in zip(bands(high, 1), bands(low, 1), strict=True):
        levels = np.asarray(one[2], np.float32) * 256 + np.asarray(other[2])
        yield one[0], one[1], levels
