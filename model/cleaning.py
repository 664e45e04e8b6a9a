"""Drop from encoded pictures what no pixel needs and a reader stumbles over.

    >>> clean(png_with_2_mb_of_text, PngImageFile) == png_without
    True

Browsers show a picture whatever is wrong beside its pixels: long text, profiles,
checksums of metadata, a missing end. The chunks are those of the PNG specification, 5
and 11; the segments those of ITU T.81, annex B.
"""

import struct
import zlib
from collections import defaultdict

from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from model.formats import PNG
from model.headers import MAX_EXIF, SCAN, jpeg_segments, png_chunks

CHECKSUM_BYTES = 4
COLOUR = slice(25, 26)  # of a PNG, its type
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
CRITICAL = frozenset({b"IHDR", b"PLTE", b"IDAT"})  # their checksum counts
ANCILLARY = frozenset({b"tRNS", b"eXIf"})
TEXTS = frozenset({b"tEXt", b"zTXt"})
EXIF_AS_TEXT = b"Raw profile type exif"  # by ImageMagick
ALPHA_BYTES = {0: 2, 2: 6, 3: 1}  # of "tRNS", by the type of colour

JFIF, PROFILE, PHOTOSHOP, ADOBE = 0xE0, 0xE2, 0xED, 0xEE  # markers, without FF
LEAST_BYTES = {JFIF: 16, ADOBE: 14}  # with their length
END, START_OF_SCAN = b"\xff\xd9", b"\xff\xda"
NOISE = b"\x96\x5a\xc3" * 9
# two things to be decoded in place of what is missing, which give different pixels;
# a JPEG may restart at marks between them
JPEG_FILLERS = (
    b"",
    NOISE + b"".join(b"\xff%c" % (0xD0 + n % 8) + NOISE for n in range(17)),
)
GIF_FILLERS = bytes(300), b"\xaa" * 300
COEFFICIENTS = 64  # of a block
GREY = 128, (128, 128, 128)  # of blocks that are missing


def clean(data: bytes, reader: type[ImageFile]) -> bytes:
    """Return the picture without what its reader refuses and no pixel needs.

    Raises `ValueError` if the pixels of a PNG do not have their checksum.
    """
    if reader is PngImageFile:
        return _clean_png(data)
    return _clean_jpeg(data) if reader is JpegImageFile else data


def _clean_png(data: bytes) -> bytes:
    view = memoryview(data)
    parts: list[bytes | memoryview] = [view[: len(PNG)]]
    colour = int.from_bytes(data[COLOUR])
    for name, start, length in png_chunks(data):
        stop = min(start + length, len(data))
        checksum = data[stop : stop + CHECKSUM_BYTES]
        is_right = len(checksum) < CHECKSUM_BYTES or (
            int.from_bytes(checksum) == zlib.crc32(view[start - len(name) : stop])
        )
        if name in CRITICAL and not is_right:
            raise ValueError(f"wrong checksum of {name.decode()}")
        if name == b"IEND":
            break
        if name in CRITICAL or (
            is_right and _is_needed(name, data[start:stop], colour)
        ):
            head = struct.pack(">I4s", stop - start, name)  # the last may be cut short
            parts += head, view[start:stop], checksum.ljust(CHECKSUM_BYTES, b"\0")
    return b"".join([*parts, PNG_END])


def _is_needed(name: bytes, content: bytes, colour: int) -> bool:
    """Return whether a chunk changes the picture: its transparency, its orientation."""
    if name in ANCILLARY:
        return name == b"eXIf" or len(content) >= ALPHA_BYTES.get(colour, 0)
    keyword, _, text = content[: len(EXIF_AS_TEXT) + 2].partition(b"\0")
    if name not in TEXTS or keyword != EXIF_AS_TEXT:
        return False
    return name == b"tEXt" or (text == b"\0" and _unpacks(content))


def _unpacks(content: bytes) -> bool:
    """Return whether compressed text is as short as a camera's."""
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(content[len(EXIF_AS_TEXT) + 2 :], MAX_EXIF)
    except zlib.error:
        return False
    return not unpacker.unconsumed_tail


def _clean_jpeg(data: bytes) -> bytes:
    """Drop profiles, Photoshop's blocks and what is too short to be read."""
    parts, kept = [], 0
    for marker, start, length in jpeg_segments(data):
        is_short = length < LEAST_BYTES.get(marker, 0)
        if marker in (PROFILE, PHOTOSHOP) or is_short:
            parts.append(data[kept : start - 2])
            kept = start + max(length, 2)
    return b"".join([*parts, data[kept:]]) if parts else data


def has_end(data: bytes, reader: type[ImageFile]) -> bool:
    """Return whether a GIF or JPEG has an end; their readers need more than pixels.

    Raises `ValueError` if scans of a JPEG are missing as well.
    """
    if reader is GifImageFile:
        return data.endswith(b";")
    if reader is not JpegImageFile or data.rfind(END) > data.rfind(START_OF_SCAN):
        return True
    finished: dict[int, set[int]] = defaultdict(set)
    for scan in SCAN.finditer(data):
        count = data[scan.end() - 1]
        first, last, bits = data[scan.end() + 2 * count :][:3]
        for channel in data[scan.end() : scan.end() + 2 * count : 2]:
            if not bits & 15:
                finished[channel].update(range(first, last + 1))
    if not finished or min(map(len, finished.values())) < COEFFICIENTS:
        raise ValueError("its end is missing")
    return False


def fill_end(data: bytes, filler: int) -> bytes:
    """Return a GIF or JPEG with the first or the second filler before its end."""
    if data.startswith(b"GIF"):
        return data + GIF_FILLERS[filler]
    end = data.rfind(END)
    place = end if end > data.rfind(START_OF_SCAN) else len(data.rstrip(b"\xff"))
    return data[:place] + JPEG_FILLERS[filler] + END + data[place + len(END) :]


def may_lack_pixels(image: ImageFile) -> bool:
    """Return whether the last pixel of a JPEG is as those that are missing."""
    corner = image.width - 1, image.height - 1
    return image.format == "JPEG" and image.getpixel(corner) in GREY
