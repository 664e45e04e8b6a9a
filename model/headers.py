"""Limits on what the header of a picture may announce.

    >>> lists_too_much(data, TiffImageFile)     # as many strips as rows
    True

Pillow builds some lists of a header in Python: tags, strips, segments, chunks. A few
megabytes of tiny entries cost seconds and gigabytes, so they are counted before Pillow
reads them; what they announce is checked before pixels are decoded.
"""

import math
import re
import struct
from collections import Counter
from collections.abc import Iterator

import numpy as np
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

MAX_PIXELS = 25_000_000  # of a picture
MAX_JPEG_PIXELS = 200_000_000  # of one that is decoded row by row, at a fraction
MAX_COEFFICIENTS = 76_000_000  # of one that is decoded at once, of 2 bytes each
MAX_WEBP_PIXELS = 14_000_000  # since its decoder holds four copies
MAX_AVIF_PIXELS = 12_500_000  # up to 20 bytes a pixel: 12 bits, full colour, alpha
MAX_DEEP_HEIF_PIXELS = 12_500_000  # of over 10 bits or colour in every pixel
MAX_DARK_PIXELS = 12_500_000  # of 16-bit colours of which both bytes are decoded
MAX_READS = 100_000  # of a file, and of the chunks in it
MAX_EXIF = 1 << 20  # bytes; a camera writes at most 64 kB

# JPEG: ITU T.81, annex B
MAX_SEGMENTS = 10_000  # before the first scan
MAX_PARSED = 1 << 20  # bytes of segments that Pillow parses value by value
MAX_SCANS = 40  # of a progressive picture, each of which refines the same pixels
MAX_PROGRESSIVE = 20_000_000  # bytes of a picture with many scans
FEW_SCANS = 4  # of a picture that is not progressive: one for each channel
MAX_SCANNED = 500_000_000  # pixels in all scans: 20 scans of the largest picture
SEGMENT = re.compile(rb"\xff([\xc0-\xc7\xc9-\xcf\xda-\xef\xfe])(..)", re.DOTALL)
SCAN = re.compile(rb"\xff\xda\0[\x08\x0a\x0c\x0e][\1-\4]")
PROGRESSIVE = re.compile(rb"\xff\xc2\0[\x0b\x11\x14]\x08....[\1\3\4]", re.DOTALL)
START_OF_SCAN = 0xDAFF  # the marker FF DA; in coded data it cannot occur
SOS, APP1 = 0xDA, 0xE1  # markers, without FF
PARSED_MARKERS = frozenset(b"\xdb\xde\xed") | set(range(0xC0, 0xD0)) - {0xC4, 0xCC}

# PNG: third edition, sections 5 and 11
MAX_TEXT = 1 << 24  # bytes of text, profiles and EXIF; some editors write megabytes
TEXT_CHUNKS = b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf"
MAX_PACKED = 40  # compressed ones among them, each up to 1 MB when unpacked
PACKED_CHUNKS = b"zTXt", b"iTXt", b"iCCP"

# TIFF: 6.0, section 2, and BigTIFF
MAX_VALUES = 50_000  # numbers in the tags of a picture, such as offsets of strips
TYPE_BYTES = {3: 2, 4: 4, 16: 8}  # of types of tags
BYTE_TYPES = 1, 2, 7  # of tags; Pillow keeps them as bytes or text
MAX_BLOCK = 4 * MAX_PIXELS  # bytes of a strip or tile, which is decoded at once
MAX_UNPACKED = 2 * MAX_BLOCK  # bytes of all, what lies beside the picture included
MAX_FAX_ROWS = 10_000  # libtiff may print a line for each
WIDTH, LENGTH, BITS, COMPRESSION = 256, 257, 258, 259
SAMPLES, ROWS_PER_STRIP = 277, 278
TILE_WIDTH, TILE_LENGTH = 322, 323
FAXES, JPEGS, LZMA = (2, 3, 4), (6, 7), 34925  # compressions; LZMA is slow
STRIP_OFFSETS, STRIP_SIZES, TILE_OFFSETS, TILE_SIZES = 273, 279, 324, 325
NEEDED = BITS, STRIP_OFFSETS, TILE_OFFSETS

# BMP
RUNS = 1, 2  # compressions
MAX_RUN_PIXELS = 1_000_000  # of a picture in runs, which Pillow unpacks in Python


def lists_too_much(data: bytes, reader: type[ImageFile]) -> bool:
    """Return whether a header lists more than Pillow can read in time."""
    if reader is JpegImageFile:
        return _has_costly_segments(data)
    if reader is PngImageFile:
        return _has_costly_chunks(data)
    if reader is TiffImageFile:
        return _count_values(data) > MAX_VALUES
    return False


def costs_too_much(image: ImageFile, data: bytes) -> bool:
    """Return whether pixels take far longer to decode than as many usually do.

    42 bytes of a JPEG can be a scan of 17 ms, 10 kB of a TIFF a tile of gigabytes.
    """
    if isinstance(image, JpegImageFile):
        return _has_many_scans(data, image.width * image.height)
    if isinstance(image, BmpImageFile):
        is_run = image.info.get("compression") in RUNS
        return is_run and image.width * image.height > MAX_RUN_PIXELS
    if isinstance(image, TiffImageFile):
        return _has_costly_blocks(image, data)
    return False


def _has_costly_segments(data: bytes) -> bool:
    """Return whether a JPEG has more segments, or longer ones, than any need."""
    parsed = 0
    for count, (marker, start, length) in enumerate(jpeg_segments(data), 1):
        is_exif = marker == APP1 and data.startswith(b"Exif", start + 2)
        if is_exif or marker in PARSED_MARKERS:
            parsed += length
        if count == MAX_SEGMENTS or parsed > MAX_PARSED:
            return True
    return False


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, place of the length and length of segments before the first scan.

    At most `MAX_SEGMENTS`.
    """
    place = 2
    for _ in range(MAX_SEGMENTS):
        segment = SEGMENT.search(data, place, place + MAX_READS)
        if segment is None or segment[1][0] == SOS:
            return
        start, length = segment.start(2), int.from_bytes(segment[2])
        yield segment[1][0], start, length
        place = start + max(length, 2)


def max_jpeg_pixels(image: JpegImageFile, data: bytes) -> int:
    """Return how many pixels of a JPEG are decoded in bounded time and memory.

    What costs time are the bytes, and a little the pixels. If the first scan is not all
    of the picture, the decoder also holds all coefficients (ITU T.81, annex A).
    """
    if image.fp is None:
        return MAX_PIXELS
    count = len(image.layer)
    start = image.fp.tell() - 8 - 2 * count  # of the first scan's header
    header = struct.pack(">HHB", 0xFF00 | SOS, 6 + 2 * count, count)
    if data.startswith(header, start) and not image.info.get("progressive"):
        return MAX_JPEG_PIXELS
    areas = [across * down for _, across, down, _ in image.layer]
    return max(MAX_PIXELS, MAX_COEFFICIENTS * max(areas) // sum(areas))


def _has_many_scans(data: bytes, pixels: int) -> bool:
    """Return whether a JPEG has more scans than any need, a video behind it aside."""
    most = min(MAX_SCANS, MAX_SCANNED // max(pixels, 1))
    # pairs of bytes from even and from odd places: a quarter of what searching takes
    halves = [np.frombuffer(data, "<u2", (len(data) - odd) // 2, odd) for odd in (0, 1)]
    pairs = sum(np.count_nonzero(half == START_OF_SCAN) for half in halves)
    if pairs <= (FEW_SCANS if len(data) > MAX_PROGRESSIVE else most):
        return False
    scans = len(SCAN.findall(data))
    return scans > most or (scans > FEW_SCANS and len(data) > MAX_PROGRESSIVE)


def _has_costly_chunks(data: bytes) -> bool:
    """Return whether a PNG has too much text, or too many chunks."""
    counts: Counter[bytes] = Counter()
    lengths: Counter[bytes] = Counter()
    for name, _start, length in png_chunks(data):
        counts[name] += 1
        lengths[name] += length
    return (
        counts.total() > MAX_READS
        or sum(counts[name] for name in PACKED_CHUNKS) > MAX_PACKED
        or sum(lengths[name] for name in TEXT_CHUNKS) > MAX_TEXT
    )


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and length of the content of the chunks of a PNG.

    At most one over `MAX_READS`; the last may be longer than the file.
    """
    place = 8
    for _ in range(MAX_READS + 1):
        if place + 8 > len(data):
            return
        length, name = struct.unpack_from(">I4s", data, place)
        yield name, place + 8, length
        place += 12 + length


def _count_values(data: bytes) -> int:
    """Count the numbers in the first directory of a TIFF, as Pillow finds it.

    Raises `ValueError` if the file ends before tags without which there are no pixels.
    """
    order = "<" if data.startswith(b"II") else ">"
    is_big = data[2:3] == b"+"
    offset, number, entry = ("Q", "Q", "HHQQ") if is_big else ("I", "H", "HHII")
    entry_form = struct.Struct(order + entry)
    size = struct.calcsize(number)
    try:
        (start,) = struct.unpack_from(order + offset, data, struct.calcsize(offset))
        (length,) = struct.unpack(order + number, data[start : start + size])
    except struct.error:
        return 0  # Pillow refuses it
    start += size
    length = min(length, MAX_READS, (len(data) - start) // entry_form.size)
    entries = data[start : start + length * entry_form.size]
    for tag, kind, count, value in entry_form.iter_unpack(entries):
        length = TYPE_BYTES.get(kind, 0) * count
        is_elsewhere = length > struct.calcsize(offset)
        if tag in NEEDED and is_elsewhere and value + length > len(data):
            raise ValueError("its tags are cut short")
    return sum(
        count
        for _tag, kind, count, _value in entry_form.iter_unpack(entries)
        if kind not in BYTE_TYPES and count <= len(data)  # Pillow skips larger ones
    )


def _has_costly_blocks(image: TiffImageFile, data: bytes) -> bool:
    """Return whether a TIFF has a strip, a tile or a compression that costs too much.

    Raises `ValueError` if the size of its tiles is no number.
    """
    tags = image.tag_v2
    size = tags[WIDTH], tags[LENGTH]  # of the picture before it is turned
    rows = tags.get(ROWS_PER_STRIP, size[1])
    tile = tags.get(TILE_WIDTH, 0), tags.get(TILE_LENGTH, 0)
    if not all(isinstance(length, int) for length in (rows, *tile)):  # but text
        raise ValueError("the size of its tiles is no number")
    bits = tags.get(BITS, (1,))
    depth = max(sum(bits), max(bits) * tags.get(SAMPLES, 1))
    block = tile if all(tile) else (size[0], min(rows, size[1]))
    area = block[0] * block[1]
    count = math.prod(-(-side // of) for side, of in zip(size, block, strict=True))
    if area * depth > 8 * MAX_BLOCK or area * count * depth > 8 * MAX_UNPACKED:
        return True
    compression = tags.get(COMPRESSION)
    return (
        compression == LZMA
        or (compression in FAXES and size[1] > MAX_FAX_ROWS)
        or (compression in JPEGS and PROGRESSIVE.search(data) is not None)
        or _blocks_overlap(image, len(data))
    )


def _blocks_overlap(image: TiffImageFile, length: int) -> bool:
    """Return whether the strips or tiles of a TIFF are the same bytes many times."""
    total = 0
    for offsets, sizes in (STRIP_OFFSETS, STRIP_SIZES), (TILE_OFFSETS, TILE_SIZES):
        numbers = [image.tag_v2.get(tag, ()) for tag in (offsets, sizes)]
        if all(isinstance(values, tuple) for values in numbers):
            pairs = zip(*numbers, strict=False)
            total += sum(size for start, size in pairs if start + size <= length)
    return total > length
