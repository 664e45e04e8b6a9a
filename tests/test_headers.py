"""No header, and no picture of the largest size, costs more than is allowed."""

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, Encode
from PIL import Image
from test_images import chunk

from model.formats import PNG
from model.headers import MAX_SCANS
from model.images import BrokenImageError, decode

MORE_BYTES = 250_000_000  # of memory, for one picture
MORE_SECONDS = 10  # of a core; most take less than 1 where the limits were chosen
MEASURE = """
import resource, sys, time
from pathlib import Path
from model.images import ImageError, decode

data = Path(sys.argv[1]).read_bytes()
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
start = time.process_time()
try:
    print(decode(data).mode)
except ImageError as error:
    print(error.code)
print(time.process_time() - start)
"""
TagValue = int | bytes | tuple[int, int, int]
Make = Callable[[], bytes]


def cost(data: bytes, folder: Path) -> tuple[str, float]:
    """Decode in little memory: the mode, or the error's code, and seconds of a core."""
    file = folder / "picture"
    file.write_bytes(data)
    command = [sys.executable, "-W", "ignore", "-c", MEASURE, str(file)]
    output = subprocess.check_output([*command, str(MORE_BYTES)], cwd=ROOT, text=True)
    answer, seconds = output.split()
    return answer, float(seconds)


def encoded(form: str, side: int = 16, **options: bool) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (side, side)).save(buffer, form, **options)
    return buffer.getvalue()


def jpeg_with(extra: bytes) -> bytes:
    data = encoded("JPEG")
    return data[:20] + extra + data[20:]


def scans(count: int) -> bytes:
    """A progressive JPEG of the largest size, with its last scan so many times."""
    data = encoded("JPEG", 5000, progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * count + data[-2:]


def png_with(extra: bytes) -> bytes:
    data = encoded("PNG")
    return data[:33] + extra + data[33:]


def gif_with(extra: bytes) -> bytes:
    data = encoded("GIF")
    start = data.rindex(b",\0\0\0\0")
    return data[:start] + extra + data[start:]


def webp_with(name: bytes, data: bytes) -> bytes:
    head = struct.pack("<4sIIHBHB", b"VP8X", 10, 8, 15, 0, 15, 0)
    more = struct.pack("<4sI", name, len(data)) + data
    body = b"WEBP" + head + encoded("WEBP")[12:] + more
    return b"RIFF" + struct.pack("<I", len(body)) + body


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def orientations(count: int) -> bytes:
    """EXIF with a list of orientations."""
    entry = struct.pack("<HHHII", 1, 274, 3, count, 40)
    return b"II*\0" + struct.pack("<I", 8) + entry + bytes(18 + 2 * count)


def rle_bmp(width: int) -> bytes:
    """A line of one run, which Pillow fills up in Python."""
    runs, start = bytes([1, 1, 0, 0]), 14 + 40 + 1024
    sizes = 40, width, 1, 1, 8, 1, len(runs), 0, 0, 256, 0
    head = struct.pack("<IiiHHIIiiII", *sizes)
    file = struct.pack("<2sIHHI", b"BM", start + len(runs), 0, 0, start)
    return file + head + bytes(1024) + runs


def tiff(tags: dict[int, TagValue], data: bytes) -> bytes:
    """A grey TIFF of 16x16, unless tags say otherwise, with `data` at byte 1000.

    A tag is a number, a text, or a list: type, length, and where it is in the file.
    """
    values = {256: 16, 257: 16, 258: 8, 259: 1, 262: 1, 277: 1} | tags
    lines = []
    for tag, value in sorted(values.items()):
        if isinstance(value, int):
            lines.append(struct.pack("<HHII", tag, 4, 1, value))
        elif isinstance(value, bytes):
            lines.append(struct.pack("<HHI4s", tag, 1, 1, value))
        else:
            lines.append(struct.pack("<HHII", tag, *value))
    directory = struct.pack("<H", len(lines)) + b"".join(lines)
    return (b"II*\0" + struct.pack("<I", 8) + directory).ljust(1000, b"\0") + data


def big_tiff(entries: int, count: int) -> bytes:
    """A BigTIFF whose entries, all the same, announce so many strips."""
    entry = struct.pack("<HHQQ", 273, 16, count, 8)
    head = struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, entries)
    return head + entry * entries + bytes(8 + 8 * count)


def same_strips(data: bytes, form: int) -> bytes:
    """A TIFF of 5000 x 5000 in deep colour whose strips of 50 rows are all the same."""
    places = struct.pack("<I", 2000) * 100 + struct.pack("<I", len(data)) * 100
    depth = struct.pack("<4H", 16, 16, 16, 16)
    tags: dict[int, TagValue] = {256: 5000, 257: 5000, 259: form, 262: 2, 277: 4}
    lists: dict[int, TagValue] = {258: (3, 4, 1800), 273: (4, 100, 1000)}
    lists |= {278: 50, 279: (4, 100, 1400), 338: 2}
    return tiff(tags | lists, places + depth + bytes(192) + data)


MANY = 1_000_000
ZEROS = zlib.compress(bytes(1_000_000))
TILE = zlib.compress(bytes(6000 * 6000), 1)
STRIPS: dict[int, TagValue] = {273: (4, MANY, 1000), 279: (4, MANY, 1000), 278: 1}
TILES: dict[int, TagValue] = {322: 6000, 323: 6000, 324: 1000, 325: len(TILE)}
STRIP: dict[int, TagValue] = {273: 1000, 279: len(TILE), 278: 16}

COSTLY: dict[str, Make] = {
    "JPEG fill": lambda: jpeg_with(b"\xff" * 30 * MANY),
    "JPEG markers": lambda: jpeg_with(b"\xff\xd0" * 15 * MANY),
    "JPEG segments": lambda: jpeg_with(b"\xff\xe5\0\2" * 7 * MANY),
    "JPEG junk": lambda: jpeg_with((bytes(90_000) + b"\xff\xe5\0\2") * 300),
    "JPEG EXIF": lambda: jpeg_with(segment(0xE1, b"Exif\0\0" + bytes(1200)) * 24_000),
    "JPEG blocks": lambda: jpeg_with(
        segment(0xED, b"Photoshop 3.0\0" + (b"8BIM" + bytes(8)) * 5000) * 480
    ),
    "JPEG frames": lambda: jpeg_with(
        segment(0xC0, b"\x08\0\x10\0\x10\1" + b"\1\x11\0" * 21_000) * 480
    ),
    "JPEG tables": lambda: jpeg_with(segment(0xDB, bytes(65_000)) * 480),
    "JPEG scans": lambda: scans(20),
    "JPEG large scans": lambda: scans(0) + bytes(20 * MANY),
    "PNG chunks": lambda: png_with(chunk(b"prVt", b"") * 2 * MANY),
    "PNG end": lambda: encoded("PNG")[:-12] + chunk(b"prVt", b"") * 2 * MANY,
    "PNG profiles": lambda: png_with(chunk(b"iCCP", b"a\0\0" + ZEROS) * 25_000),
    "PNG packed text": lambda: png_with(chunk(b"zTXt", b"\0\0" + ZEROS) * 25_000),
    "PNG text": lambda: png_with(chunk(b"iTXt", b"k" + bytes(5) + b"a" * 30 * MANY)),
    "PNG EXIF": lambda: png_with(chunk(b"eXIf", orientations(7 * MANY))),
    "PNG EXIF as text": lambda: png_with(
        chunk(b"tEXt", b"Raw profile type exif\0" + b"\n" * 15 * MANY)
    ),
    "GIF extensions": lambda: gif_with(b"!\xf9\4\0\0\0\0\0" * 3 * MANY),
    "GIF comment": lambda: gif_with(b"!\xfe" + b"\1a" * 15 * MANY + b"\0"),
    "GIF zeros": lambda: gif_with(bytes(30 * MANY)),
    "BMP run": lambda: rle_bmp(9_000_000),
    "WebP EXIF": lambda: webp_with(b"EXIF", orientations(14 * MANY)),
    "WebP": lambda: encoded("WEBP", 3800),
    "TIFF strips": lambda: tiff(STRIPS | {256: 1, 257: MANY}, bytes(4 * MANY)),
    "TIFF orientations": lambda: tiff(STRIP | {274: (3, MANY, 9)}, bytes(2 * MANY)),
    "BigTIFF strips": lambda: big_tiff(1, MANY),
    "BigTIFF entries": lambda: big_tiff(MANY, 1),
    "TIFF tile": lambda: tiff(TILES | {259: 8, 322: 60_000}, TILE),
    "TIFF tiles": lambda: tiff(
        TILES | {256: 5000, 257: 5000, 259: 8, 322: 360_000, 323: 100}, TILE
    ),
    "TIFF strip": lambda: same_strips(TILE, 8).replace(
        struct.pack("<HHII", 278, 4, 1, 50), struct.pack("<HHII", 278, 4, 1, 5000)
    ),
    "TIFF same strips": lambda: same_strips(zlib.compress(bytes(2_000_000)), 8),
    "TIFF LZMA": lambda: tiff(STRIP | {259: 34925}, TILE),
    "TIFF fax": lambda: tiff(STRIP | {256: 8, 257: 50_000, 258: 1, 259: 4}, TILE),
    "TIFF scans": lambda: tiff(
        TILES | {259: 7, 322: 16, 323: 16}, encoded("JPEG", progressive=True)
    ),
}


@pytest.mark.parametrize("name", COSTLY)
def test_pictures_that_cost_far_more_than_their_size_are_refused(
    name: str, tmp_path: Path
) -> None:
    answer, seconds = cost(COSTLY[name](), tmp_path)
    assert answer == "too_large"
    assert seconds < MORE_SECONDS


def rows(count: int, random: np.random.Generator) -> bytes:
    """5,000 rows of a PNG, of so many bytes each, half of them noise."""
    row = random.bytes(count // 2) + bytes(count - count // 2)
    return b"".join(bytes([filter_ % 5]) + row for filter_ in range(5000))


@pytest.mark.parametrize(
    ("form", "row_bytes", "extra"),
    [
        ((1, 0), 625, chunk(b"tRNS", b"\0\0")),
        ((8, 0), 5000, chunk(b"tRNS", b"\0\0")),
        ((16, 0), 10_000, b""),
        ((8, 4), 10_000, b""),
        ((8, 3), 5000, chunk(b"PLTE", bytes(768)) + chunk(b"tRNS", bytes(range(256)))),
        ((8, 2), 15_000, chunk(b"tRNS", bytes(6))),
        ((8, 6), 20_000, b""),
        ((16, 6), 40_000, b""),
    ],
    ids=["1 bit", "grey", "deep", "grey, alpha", "palette", "RGB", "RGBA", "deep RGBA"],
)
def test_the_largest_png_of_each_mode_is_decoded_in_little_memory(
    form: tuple[int, int], row_bytes: int, extra: bytes, tmp_path: Path
) -> None:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 5000, 5000, *form, 0, 0, 0)) + extra
    lines = rows(row_bytes, np.random.default_rng(1))
    data = PNG + head + chunk(b"IDAT", zlib.compress(lines, 1))
    answer, seconds = cost(data + chunk(b"IEND", b""), tmp_path)
    assert answer in ("L", "RGB")
    assert seconds < MORE_SECONDS


@pytest.mark.parametrize("mode", ["F", "I", "CMYK", "LA"])
def test_the_largest_tiff_of_each_mode_is_decoded_in_little_memory(
    mode: str, encode: Encode, tmp_path: Path
) -> None:
    data = encode(Image.new(mode, (5000, 5000)), "TIFF", compression="tiff_lzw")
    answer, seconds = cost(data, tmp_path)
    assert answer in ("L", "RGB")
    assert seconds < MORE_SECONDS


def test_what_cameras_write_is_accepted(encode: Encode) -> None:
    """A profile, EXIF with a list, XMP, a comment and a video behind the picture."""
    photo = encode(Image.radial_gradient("L"), "JPEG")
    exif = segment(0xE1, b"Exif\0\0" + orientations(30_000))
    xmp = segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(65_000)) * 60
    profile = segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(3000))
    video = np.random.default_rng(1).bytes(6_000_000)
    assert video.count(b"\xff\xda") > MAX_SCANS
    whole = photo[:20] + exif + xmp + profile + photo[20:] + video
    assert decode(whole).tobytes() == decode(photo).tobytes()


def test_a_photo_of_50_million_pixels_is_read_at_a_fraction(
    encode: Encode, tmp_path: Path
) -> None:
    photo = Image.radial_gradient("L").resize((8160, 6120)).convert("RGB")
    for options in ({}, {"progressive": True}):
        data = encode(photo, "JPEG", **options)
        assert max(decode(data).size) <= 1020
        answer, seconds = cost(data, tmp_path)
        assert (answer, seconds < MORE_SECONDS) == ("RGB", True)
    data = encode(photo, "JPEG", progressive=True, subsampling=0)
    assert cost(data, tmp_path)[0] == "too_large"


def test_a_tiff_without_some_of_its_strips_is_broken() -> None:
    strip: dict[int, TagValue] = {278: 16, 273: 1000, 279: 256}
    assert decode(tiff(strip, bytes(256))).getextrema() == (0, 0)
    with pytest.raises(BrokenImageError, match="strips are missing"):
        decode(tiff(strip | {257: 32}, bytes(256)))


def test_a_tiff_whose_tiles_have_no_size_costs_nothing() -> None:
    """A letter two billion times would fill the memory."""
    tile: dict[int, TagValue] = {322: b"A", 323: 2_000_000_000, 273: 1000, 279: 256}
    with pytest.raises(BrokenImageError, match="is no number"):
        decode(tiff(tile, bytes(256)))
