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
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffTags import TAGS_V2_GROUPS

from model.cleaning import PNG_END, clean, fill_end, has_end, may_lack_pixels
from model.cutouts import BLACK, choose_ground, composite, has_opacity
from model.formats import FORMATS, PNG, SIGNATURES, name_unread, reader_of, why_unread
from model.headers import (
    MAX_AVIF_PIXELS,
    MAX_DARK_PIXELS,
    MAX_DEEP_HEIF_PIXELS,
    MAX_EXIF,
    MAX_PIXELS,
    MAX_READS,
    MAX_WEBP_PIXELS,
    costs_too_much,
    lists_too_much,
    max_jpeg_pixels,
)
from model.heif import heif_costs_too_much
from model.levels import (
    MAX_16_BIT,
    bands,
    highest_level,
    is_white_zero,
    join_bytes,
    needs_low_bytes,
    raw_mode,
    read_low_bytes,
    read_planes,
    to_8_bit,
)

Pixels = NDArray[np.uint8]

FULL_PIXELS = 4_000_000  # a picture of more is reduced while it is converted
REDUCED_PIXELS = 1_000_000  # of a reduced picture, at least
MAX_TWICE = 16_000_000  # bytes of a picture that may be decoded twice
MAX_PROGRESSIVE_TWICE = 4_000_000
MEAN_MODES = "RGBA", "LA", "CMYK", "YCbCr"  # may be reduced before they are converted
TOO_COSTLY = "the picture takes too long to decode: save it smaller or as PNG"
WHITE = 255

WORK_SIDE = 84  # pixels, longest side while a garment is isolated: photos cost little
DRAFT_SIDE = 100  # pixels: the least size at which a larger JPEG is decoded
CHROMA, DEPTH = 420, 10  # of HEIC from cameras: a quarter of the colours; bits
GREY_TOLERANCE = 2  # levels between the channels of grey after lossy compression

# an 8-bit grey PNG with its pixels in one chunk (PNG specification, 5.3 and 11.2)
PLAIN_PNG = struct.Struct(">8sI4s8s5sI I4s")
PNG_HEADER = PNG, 13, b"IHDR"
GREY = bytes([8, 0, 0, 0, 0])  # bits, colour, compression, filter, interlace
DROPPED_BY_CURL = b"\0\r\n"  # by `curl -d @FILE`
UNSUPPORTED = f"not a picture in {FORMATS} format"
UNREAD = "{} is not read: save it as JPEG"
CUT_SHORT = "the picture cannot be decoded: its end is missing"
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
        name = name_unread(data)
        unread = UNREAD.format(name) if name else UNSUPPORTED
        raise UnsupportedImageError(unread if data else "the picture is empty")
    try:  # Pillow's readers raise any kind of error on inconsistent bytes
        if data[4:8] == b"ftyp":
            data = _as_still(data)
        if lists_too_much(data, reader):
            raise TooLargeError(TOO_COSTLY)
        data = clean(data, reader)
        image = _load_whole(data, reader, draft_side)
        return turn_upright(flatten(image, input_side), orientation_of(image))
    except ImageError:
        raise
    except Exception as error:
        name = why_unread(error, reader.format)
        if name:
            raise UnsupportedImageError(UNREAD.format(name)) from error
        raise BrokenImageError(f"the picture cannot be decoded: {error}") from error


def _load_whole(data: bytes, reader: type[ImageFile], draft_side: int) -> ImageFile:
    """Decode the pixels. Raises `BrokenImageError` if some are missing.

    What lacks an end is whole if it does not matter what is put in its place.
    """
    whole = data if has_end(data, reader) else fill_end(data, 0)
    image = _load(whole, reader, draft_side)
    most = MAX_PROGRESSIVE_TWICE if image.info.get("progressive") else MAX_TWICE
    if whole is data and (len(data) > most or not may_lack_pixels(image)):
        return image
    if len(data) > most:
        raise BrokenImageError(CUT_SHORT)
    other = _load(fill_end(data, 1), reader, draft_side)
    if image.tobytes() != other.tobytes():
        raise BrokenImageError(CUT_SHORT)
    return image


def _load(data: bytes, reader: type[ImageFile], draft_side: int) -> ImageFile:
    """Decode the pixels, of a large JPEG fewer. Raises `TooLargeError`."""
    image = _open(data, reader)
    image.draft("RGB", (draft_side, draft_side))  # JPEG: decode at a fraction
    _check_size(image, MAX_PIXELS)
    raw = raw_mode(image.tile[0]) if image.tile else ""
    image.load()
    if needs_low_bytes(image, raw):
        _check_size(image, MAX_DARK_PIXELS)
        join_bytes(image, read_low_bytes(_open(data, reader)))
    return image


def _open(data: bytes, reader: type[ImageFile]) -> ImageFile:
    """Read the header. Raises `TooLargeError` if the pixels cost too much."""
    image = reader(BoundedFile(data))
    _check_size(image, _most_pixels(image, data))
    if costs_too_much(image, data):
        raise TooLargeError(TOO_COSTLY)
    _check_strips(image)
    _skip_directories(image)
    read_planes(image)
    return image


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


def _check_size(image: ImageFile, most: int) -> None:
    """Raise `TooLargeError` if a picture has more pixels than `most`."""
    width, height = image.size
    if width * height > most:
        raise TooLargeError(
            f"the picture has {width} x {height} pixels; at most"
            f" {most / 1_000_000:g} million are read: send a smaller one"
        )


def _most_pixels(image: ImageFile, data: bytes) -> int:
    """Return how many pixels the decoder can hold in the memory of one request."""
    if isinstance(image, JpegImageFile):
        return max_jpeg_pixels(image, data)
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
    try:  # Pillow raises any kind of error on inconsistent bytes
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001  # no pixel depends on them
        return None


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


def choose_conversion(
    image: Image.Image, input_side: int | None
) -> Callable[[Image.Image], Image.Image]:
    """Return what converts a picture, or a band of it, to opaque 8-bit "L" or "RGB"."""
    if image.mode.startswith("I") or image.mode == "F":
        known = image.format == "HEIF"  # white is the highest that 16 bits can hold
        top = MAX_16_BIT if known else highest_level(image)
        return partial(to_8_bit, top=top, is_inverted=is_white_zero(image))
    if has_opacity(image):
        is_input = image.size == (input_side, input_side)
        ground = BLACK if is_input else choose_ground(image)
        return partial(composite, ground=ground)
    if image.mode == "LAB":
        return lambda band: band.getchannel("L")
    mode = "L" if image.mode in ("1", "L") else "RGB"
    return lambda band: band if band.mode == mode else band.convert(mode)


def is_grey(image: Image.Image) -> bool:
    """Return whether an "L" or "RGB" picture is grey, within `GREY_TOLERANCE`."""
    if image.mode == "L":
        return True
    channels = np.asarray(image)
    return bool(np.ptp(channels, axis=2).max() <= GREY_TOLERANCE)
