"""Pictures that are made to cost as much as possible to open and to decode."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

from PIL import Image

SIDE = 5000  # pixels; 25 million are allowed
LIMIT = 31_000_000  # bytes
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
START_OF_SCAN, END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
SHORT, LONG = 3, 4  # types of a TIFF entry
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
STRIP_OFFSETS, ROWS_PER_STRIP, STRIP_SIZES = 273, 278, 279


def encode(
    mode: str, name: str, size: tuple[int, int] = (SIDE, SIDE), **options: Any
) -> bytes:
    """Return a picture of one colour in a mode and format of Pillow's."""
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, name, **options)
    return buffer.getvalue()


def png_chunk(name: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG."""
    checksum = zlib.crc32(name + data)
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)


def png_with(chunks: bytes) -> bytes:
    """Return a small PNG with more chunks after its header."""
    png = encode("L", "PNG", (28, 28))
    end = len(PNG_SIGNATURE) + 25  # of the header
    return png[:end] + chunks + png[end:]


def png_of_size(width: int, height: int) -> bytes:
    """Return a PNG whose header announces a size, without data."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return PNG_SIGNATURE + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"")


def png_of_tiny_chunks() -> bytes:
    """Return a PNG whose data comes in chunks of no bytes, as many as fit."""
    return png_with(png_chunk(b"IDAT", b"") * (LIMIT // 12))


def tiff_of_strips(rows: int) -> bytes:
    """Return a TIFF of width 1 with a strip a row, all of them the same byte."""
    offsets, sizes = 8, 8 + 4 * rows
    directory = sizes + 4 * rows
    entries = [
        (WIDTH, SHORT, 1, 1),
        (HEIGHT, LONG, 1, rows),
        (BITS, SHORT, 1, 8),
        (COMPRESSION, SHORT, 1, 1),
        (PHOTOMETRIC, SHORT, 1, 1),
        (STRIP_OFFSETS, LONG, rows, offsets),
        (ROWS_PER_STRIP, LONG, 1, 1),
        (STRIP_SIZES, LONG, rows, sizes),
    ]
    data = struct.pack("<2sHI", b"II", 42, directory)
    data += struct.pack("<I", 8) * rows + struct.pack("<I", 1) * rows
    data += struct.pack("<H", len(entries))
    data += b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return data + struct.pack("<I", 0)


def jpeg_of_scans(count: int) -> bytes:
    """Return a progressive JPEG whose last scan comes many times."""
    jpeg = encode("L", "JPEG", progressive=True)
    last = jpeg.rindex(START_OF_SCAN)
    scan = jpeg[last : -len(END_OF_IMAGE)]
    return jpeg[:last] + scan * min(count, LIMIT // len(scan)) + END_OF_IMAGE


def jpeg_of_segments() -> bytes:
    """Return a JPEG with as many empty application segments as fit."""
    jpeg = encode("L", "JPEG", (28, 28))
    return jpeg[:2] + b"\xff\xe1\x00\x02" * (LIMIT // 4) + jpeg[2:]


def gif_of_frames() -> bytes:
    """Return a GIF with as many frames as fit."""
    gif = encode("L", "GIF", (28, 28))
    start = gif.index(b",")
    return gif[:start] + gif[start:-1] * (LIMIT // (len(gif) - start)) + b";"


def avif_of_size(width: int, height: int) -> bytes:
    """Return an AVIF of the largest frame that its boxes announce to be another."""
    avif = encode("L", "AVIF", (SIDE, SIDE), speed=10)
    size = struct.pack(">II", SIDE, SIDE)
    return avif.replace(b"ispe\0\0\0\0" + size, AVIF_SIZE.pack(b"ispe", width, height))


def heic_of_items() -> bytes:
    """Return a HEIC that lists as many pictures as fit, none of which is there."""
    entry = struct.pack(">I4sIHH4sB", 21, b"infe", 2 << 24, 1, 0, b"hvc1", 0)
    entries = entry * (LIMIT // len(entry) - 100)
    lists = struct.pack(">I4sIH", 14 + len(entries), b"iinf", 0, 0) + entries
    for name in (b"pitm", b"iloc", b"iprp"):
        lists += struct.pack(">I4sQ", 16, name, 0)
    brands = struct.pack(">I4s4sI4s", 20, b"ftyp", b"heic", 0, b"mif1")
    return brands + struct.pack(">I4sI", 12 + len(lists), b"meta", 0) + lists


def text_bomb() -> bytes:
    """Return a PNG with compressed text that is a thousand times as long."""
    text = b"a\0\0" + zlib.compress(bytes(60_000_000), 9)
    return png_with(png_chunk(b"zTXt", text) * 100)


AVIF_SIZE = struct.Struct(">4s4xII")
Make = Callable[[], bytes]
PICTURES: dict[str, tuple[Make, bool]] = {  # how to make it, and whether it is whole
    "TIFF, width 1, a million strips": (lambda: tiff_of_strips(1_000_000), True),
    "TIFF, width 1, 3.8 million strips": (lambda: tiff_of_strips(3_800_000), True),
    "PNG, 25 million pixels": (lambda: encode("L", "PNG"), True),
    "PNG of 1 bit with tRNS, 25 million": (
        lambda: encode("1", "PNG", transparency=0),
        True,
    ),
    "PNG of RGBA, 25 million": (lambda: encode("RGBA", "PNG", compress_level=1), True),
    "PNG of 16 bits, 25 million": (
        lambda: encode("I;16", "PNG", compress_level=1),
        True,
    ),
    "PNG of a palette with tRNS, 25 million": (
        lambda: encode("P", "PNG", transparency=0),
        True,
    ),
    "TIFF of floats, 25 million": (
        lambda: encode("F", "TIFF", compression="tiff_adobe_deflate"),
        True,
    ),
    "TIFF of RGBA, 25 million": (
        lambda: encode("RGBA", "TIFF", compression="tiff_adobe_deflate"),
        True,
    ),
    "TIFF of CMYK, 25 million": (
        lambda: encode("CMYK", "TIFF", compression="tiff_lzw"),
        True,
    ),
    "TIFF of 1 bit, group 4, 25 million": (
        lambda: encode("1", "TIFF", compression="group4"),
        True,
    ),
    "progressive JPEG, 25 million pixels": (
        lambda: encode("RGB", "JPEG", progressive=True),
        True,
    ),
    "JPEG of CMYK, 25 million": (lambda: encode("CMYK", "JPEG"), True),
    "WebP, lossless, 25 million": (lambda: encode("RGBA", "WEBP", lossless=True), True),
    "AVIF of RGBA, 12 million": (lambda: encode("RGBA", "AVIF", (3500, 3500)), True),
    "AVIF of 25 million that announces 256": (lambda: avif_of_size(16, 16), False),
    "AVIF that announces 4 gigapixels": (lambda: avif_of_size(65_536, 65_536), False),
    "HEIC that lists 1.4 million pictures": (heic_of_items, False),
    "BMP of 1 bit, 25 million": (lambda: encode("1", "BMP"), True),
    "GIF, 25 million": (lambda: encode("P", "GIF"), True),
    "JPEG, 1,000 scans of 25 million": (lambda: jpeg_of_scans(1000), True),
    "JPEG of 8 million segments": (jpeg_of_segments, True),
    "GIF of many frames": (gif_of_frames, True),
    "PNG of 2.6 million empty chunks": (png_of_tiny_chunks, True),
    "PNG of 2 million texts": (
        lambda: png_with(png_chunk(b"tEXt", b"a\0b") * (LIMIT // 15)),
        True,
    ),
    "PNG, 100 texts of 60 MB": (text_bomb, True),
    "PNG that announces 10 gigapixels": (lambda: png_of_size(100_000, 100_000), False),
    "PNG that announces 4 billion rows": (lambda: png_of_size(1, 2**31 - 1), False),
}
