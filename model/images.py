"""Decode pictures in any format to upright 8-bit "L" or "RGB", within limits.

    >>> decode(Path("static/pictures/ankle-boot.png").read_bytes()).size
    (28, 28)

The bytes come from anybody: what is wrong with them is an `ImageError`, and neither the
header (see `model.headers`) nor the pixels may cost more than the limits allow.
"""

import io
import math
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.TiffTags import TAGS_V2_GROUPS
from PIL.WebPImagePlugin import WebPImageFile

from model.headers import (
    MAX_AVIF_PIXELS,
    MAX_DEEP_HEIF_PIXELS,
    MAX_EXIF,
    MAX_PIXELS,
    MAX_READS,
    MAX_WEBP_PIXELS,
    costs_too_much,
    lists_too_much,
)
from model.heif import heif_costs_too_much, heif_reader

Pixels = NDArray[np.uint8]

FULL_PIXELS = 4_000_000  # a picture of more is reduced while it is converted
REDUCED_PIXELS = 1_000_000  # of a reduced picture, at least
BAND_PIXELS = 250_000  # that are converted at once
MEAN_MODES = "RGBA", "LA", "CMYK", "YCbCr"  # may be reduced before they are converted
TOO_COSTLY = "the picture takes too long to decode: save it smaller or as PNG"
WHITE = 255
WHITE_LEVELS = 255, 1023, 4095, 16383, 65535  # of grey pictures of 8 to 16 bits
WHITE_TOLERANCE = 1.01  # x white, which the highest level may have

WORK_SIDE = 84  # pixels, longest side while a garment is isolated: photos cost little
DRAFT_SIDE = 100  # pixels: the least size at which a larger JPEG is decoded
BRIGHT = 200  # mean level above which a cut-out is not visible on white
CUT_OUT = 230  # mean opacity below which a picture is a cut-out
CHROMA, DEPTH = 420, 10  # of HEIC from cameras: a quarter of the colours; bits
GREY_TOLERANCE = 2  # levels between the channels of grey after lossy compression

PNG = b"\x89PNG\r\n\x1a\n"
# an 8-bit grey PNG with its pixels in one chunk (PNG specification, 5.3 and 11.2)
PLAIN_PNG = struct.Struct(">8sI4s8s5sI I4s")
PNG_HEADER = PNG, 13, b"IHDR"
GREY = bytes([8, 0, 0, 0, 0])  # bits, colour, compression, filter, interlace
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
SIGNATURES: dict[bytes, type[ImageFile]] = {
    PNG: PngImageFile,
    b"\xff\xd8\xff": JpegImageFile,  # of an MPO the first picture
    b"GIF87a": GifImageFile,
    b"GIF89a": GifImageFile,
    b"BM": BmpImageFile,
    b"II*\0": TiffImageFile,  # little-endian
    b"MM\0*": TiffImageFile,  # big-endian
    b"II+\0": TiffImageFile,  # BigTIFF
    b"MM\0+": TiffImageFile,
}
DROPPED_BY_CURL = b"\0\r\n"  # by `curl -d @FILE`
UNSUPPORTED = "not a picture in PNG, JPEG, WebP, HEIC, AVIF, GIF, BMP or TIFF format"
STRIPPED = "bytes are missing: curl -d drops some, --data-binary none"
TO_UPRIGHT = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
Image.MAX_IMAGE_PIXELS = None  # `decode` refuses large pictures itself
warnings.filterwarnings("ignore", module="PIL")  # about bytes that clients send


class BoundedFile(io.BytesIO):
    """Bytes as a file with a limited number of reads.

    Pillow reads a header piece by piece, in Python: a few megabytes of empty pieces
    would take seconds.
    """

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes. Raises `TooLargeError` after `MAX_READS` calls."""
        self.reads += 1
        if self.reads > MAX_READS:
            raise TooLargeError(TOO_COSTLY)
        return super().read(size)


class ImageError(ValueError):
    """A picture that cannot be read; `code` is stable, the message is for people."""

    code = "bad_request"


class UnsupportedImageError(ImageError):
    """The bytes are not a picture in one of the supported formats."""

    code = "unsupported_image"


class BrokenImageError(ImageError):
    """The bytes start like a picture and cannot be decoded."""

    code = "broken_image"


class TooLargeError(ImageError):
    """More pixels, or more pictures, than one request may hold."""

    code = "too_large"


def reader_of(data: bytes) -> type[ImageFile] | None:
    """Return Pillow's reader for the signature of `data`, or None."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return WebPImageFile
    if data[4:8] == b"ftyp":
        return heif_reader(data)
    for signature, reader in SIGNATURES.items():
        if data.startswith(signature):
            return reader
    return None


def _as_still(data: bytes) -> bytes:
    """Return a HEIF file without its film: its lists would have to be checked as well.

    Raises `TooLargeError` if it costs more than its size, `ValueError` if it is broken.
    """
    if heif_costs_too_much(data):
        raise TooLargeError(TOO_COSTLY)
    return data[:8] + b"avif" + data[12:] if data[8:12] == b"avis" else data


def decode(
    data: bytes, draft_side: int = DRAFT_SIDE, input_side: int | None = None
) -> Image.Image:
    """Decode the first frame to upright 8-bit "L" or "RGB". Raises `ImageError`.

    A large JPEG is decoded at a fraction of its size, both sides `draft_side` or more.
    A square of `input_side` is a finished input: its background is black.
    """
    plain = decode_plain_png(data)
    if plain is not None:
        return plain
    if _is_stripped_by_curl(data):
        raise BrokenImageError(STRIPPED)
    reader = reader_of(data)
    if reader is None:
        raise UnsupportedImageError(UNSUPPORTED if data else "the picture is empty")
    try:  # Pillow's readers raise any kind of error on inconsistent bytes
        if data[4:8] == b"ftyp":
            data = _as_still(data)
        if lists_too_much(data, reader):
            raise TooLargeError(TOO_COSTLY)
        image = reader(BoundedFile(data))
        _check_size(image)
        if costs_too_much(image, data):
            raise TooLargeError(TOO_COSTLY)
        _check_strips(image)
        _skip_directories(image)
        image.draft("RGB", (draft_side, draft_side))  # JPEG: decode at a fraction
        image.load()
        return turn_upright(flatten(image, input_side), orientation_of(image))
    except ImageError:
        raise
    except Exception as error:
        raise BrokenImageError(f"the picture cannot be decoded: {error}") from error


def decode_plain_png(data: bytes) -> Image.Image | None:
    """Decode an 8-bit grey PNG of one chunk, as Fashion-MNIST is usually saved.

    It takes half as long as Pillow's reader. None for any other or broken picture.
    """
    if not data.endswith(PNG_END) or len(data) < PLAIN_PNG.size:
        return None
    *head, size, form, checksum, length, name = PLAIN_PNG.unpack_from(data)
    packed = memoryview(data)[PLAIN_PNG.size : -len(PNG_END) - 4]
    if (*head, form, name) != (*PNG_HEADER, GREY, b"IDAT") or len(packed) != length:
        return None
    width, height = struct.unpack(">II", size)
    sums = checksum, int.from_bytes(data[-len(PNG_END) - 4 : -len(PNG_END)])
    if sums != (zlib.crc32(data[12:29]), zlib.crc32(packed, zlib.crc32(name))):
        return None
    if not 0 < width * height <= MAX_PIXELS:
        return None
    try:
        return Image.frombytes("L", (width, height), packed, "zip", "L", False)
    except (ValueError, MemoryError):
        return None


def _check_size(image: ImageFile) -> None:
    """Raise `TooLargeError` if the header announces too many pixels."""
    width, height = image.size
    most = _most_pixels(image)
    if width * height > most:
        raise TooLargeError(
            f"the picture has {width} x {height} pixels; at most"
            f" {most / 1_000_000:g} million are read: send a smaller one"
        )


def _most_pixels(image: ImageFile) -> int:
    """Return how many pixels the decoder can hold in the memory of one request."""
    is_plain = image.info.get("chroma", CHROMA) == CHROMA  # absent from grey
    if image.format == "HEIF" and (not is_plain or image.info["bit_depth"] > DEPTH):
        return MAX_DEEP_HEIF_PIXELS
    limits = {"WEBP": MAX_WEBP_PIXELS, "AVIF": MAX_AVIF_PIXELS}
    return limits.get(image.format or "", MAX_PIXELS)


def _check_strips(image: ImageFile) -> None:
    """Raise `ValueError` if strips of a TIFF are missing: they would be black."""
    if image.format != "TIFF":
        return
    boxes = {tile.extents for tile in image.tile if tile.extents}
    area = sum((right - left) * (low - top) for left, top, right, low in boxes)
    if area < image.width * image.height:
        raise ValueError("strips are missing")


def _skip_directories(image: ImageFile) -> None:
    """Keep Pillow from reading a TIFF's EXIF and GPS directories of any length."""
    if image.format == "TIFF":
        exif = image.getexif()
        for directory in TAGS_V2_GROUPS:
            exif.pop(directory, None)


def _is_stripped_by_curl(data: bytes) -> bool:
    """Return whether a picture lacks all bytes that `curl -d @FILE` drops.

    A complete picture has a zero byte, in each of the formats.
    """
    if any(byte in data for byte in DROPPED_BY_CURL) or data.isascii():
        return False
    signatures = *SIGNATURES, b"RIFF"
    return data.startswith(
        tuple(s.translate(None, DROPPED_BY_CURL) for s in signatures)
    )


def orientation_of(image: Image.Image) -> object:
    """Return the EXIF orientation; None if the file has none."""
    if not image.info and image.format != "TIFF":
        return None
    profile = image.info.get("Raw profile type exif", "")
    if max(len(image.info.get("exif") or b""), len(profile) // 2) > MAX_EXIF:
        raise TooLargeError(TOO_COSTLY)
    return image.getexif().get(ExifTags.Base.Orientation)


def turn_upright(image: Image.Image, orientation: object) -> Image.Image:
    """Undo an EXIF orientation."""
    if orientation not in TO_UPRIGHT:
        return image
    return image.transpose(TO_UPRIGHT[orientation])


def flatten(image: Image.Image, input_side: int | None = None) -> Image.Image:
    """Convert any mode to opaque 8-bit "L" or "RGB", on a background.

    A picture of more than `FULL_PIXELS` is also reduced, band by band, to save memory.
    """
    convert = choose_conversion(image, input_side)
    pixels = image.width * image.height
    if pixels <= FULL_PIXELS:
        return convert(image)
    factor = math.isqrt(pixels // REDUCED_PIXELS)
    width, height = (-(-side // factor) for side in image.size)
    is_mean = image.mode in MEAN_MODES and "transparency" not in image.info
    parts = []
    for left, top, band in bands(image, factor):
        part = convert(band.reduce(factor)) if is_mean else convert(band).reduce(factor)
        parts.append(((left // factor, top // factor), part))
    reduced = Image.new(parts[0][1].mode, (width, height))
    for place, part in parts:
        reduced.paste(part, place)
    return reduced


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


def choose_conversion(
    image: Image.Image, input_side: int | None
) -> Callable[[Image.Image], Image.Image]:
    """Return what converts a picture, or a band of it, to opaque 8-bit "L" or "RGB"."""
    if image.mode.startswith("I") or image.mode == "F":
        known = image.format == "HEIF"  # white is the highest that 16 bits can hold
        return partial(
            to_8_bit, top=WHITE_LEVELS[-1] if known else highest_level(image)
        )
    if image.mode == "La" or image.has_transparency_data:
        return partial(composite, background=background_for(image, input_side))
    if image.mode == "LAB":
        return lambda band: band.getchannel("L")
    mode = "L" if image.mode in ("1", "L") else "RGB"
    return lambda band: band if band.mode == mode else band.convert(mode)


def composite(image: Image.Image, background: str) -> Image.Image:
    """Composite a picture with transparency over a colour, to "RGB"."""
    image = to_rgba(image)
    below = Image.new("RGBA", image.size, background)
    return Image.alpha_composite(below, image).convert("RGB")


def to_rgba(image: Image.Image) -> Image.Image:
    """Convert to "RGBA", premultiplied grey via "LA"."""
    return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")


def background_for(image: Image.Image, input_side: int | None) -> str:
    """Choose a background that a picture with transparency is visible on.

    It is white, but black for a bright cut-out, and for a finished input.
    """
    sample = to_rgba(image.resize((WORK_SIDE, WORK_SIDE), Image.Resampling.NEAREST))
    mean = sample.resize((1, 1), Image.Resampling.BOX)  # weighted by opacity
    red, green, blue, opacity = mean.getpixel((0, 0))  # type: ignore[misc]
    is_bright = red + green + blue > 3 * BRIGHT and opacity < CUT_OUT
    return "black" if is_bright or image.size == (input_side, input_side) else "white"


def highest_level(image: Image.Image) -> float:
    """Return the highest finite level of a picture of over 8 bits, at least 0."""
    tops = []
    for _left, _top, band in bands(image, 1):
        levels = np.asarray(band)
        tops.append(float(levels.max(initial=0, where=np.isfinite(levels))))
    return max(tops)


def to_8_bit(image: Image.Image, top: float) -> Image.Image:
    """Scale grey levels from the smallest common range that contains `top`: "L".

    Files do not state the level of white: 1.0, 255, 65535 and others are in use.
    """
    whites = [1, *WHITE_LEVELS] if image.mode == "F" else WHITE_LEVELS
    white = next((white for white in whites if top <= WHITE_TOLERANCE * white), top)
    levels = np.nan_to_num(np.asarray(image, np.float32), nan=0, posinf=top, neginf=0)
    scaled = (levels * np.float32(WHITE / white)).round().clip(0, WHITE)
    return Image.fromarray(scaled.astype(np.uint8))


def is_grey(image: Image.Image) -> bool:
    """Return whether an "L" or "RGB" picture is grey, within `GREY_TOLERANCE`."""
    if image.mode == "L":
        return True
    channels = np.asarray(image)
    return bool(np.ptp(channels, axis=2).max() <= GREY_TOLERANCE)
