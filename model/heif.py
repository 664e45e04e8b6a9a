"""The reader of a HEIC or AVIF file, and limits on what its boxes may announce.

    >>> heif_costs_too_much(data)       # a tile of 25 million pixels, used 1,000 times
    True

A few hundred bytes can refer to one picture many times, list megabytes of metadata for
each of a thousand pictures, or hold frames far larger than stated. All is counted here
before a decoder reads it. The names are those of ISO/IEC 14496-12 (boxes), 23008-12
(items), 14496-15 (HEVC in them) and of the AV1 specification, 5.3 to 5.5 (OBUs).
"""

import struct
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from PIL import AvifImagePlugin
from PIL.ImageFile import ImageFile

from model.headers import MAX_EXIF, MAX_PIXELS, MAX_TEXT

MAX_BRANDS = 200  # bytes of the list of formats that a file conforms to
MAX_HEADER = 1 << 17  # bytes of lists and profiles; a telephone writes 6 kB
MAX_UNITS = 1000  # pictures in a picture, and units of coded data in each of them
MAX_DECODED = MAX_PIXELS * 5 // 4  # pixels of all tiles, which overlap the edges
LONG_HEADER = 16  # bytes
SEQUENCE_HEADER, FRAME_HEADER, FRAME = 1, 3, 6  # types of OBUs
FIRST_OTHER_UNIT = 32  # lower types of HEVC units are slices
LENGTH_SIZE = 21  # byte of "hvcC" with the size of lengths, before its lists
LAST_SHORT_INFE = 2  # version of "infe" with numbers of 2 bytes
LOW_LEVEL = 7  # above it, a bit for the tier follows
MAX_SEQUENCE_HEADER = 200  # bytes, of 32 operating points
LARGER = 2  # x the stated size, which a cropped frame may have
MANY = 1 << 40
AV1_BRANDS, HEIF_BRANDS = (b"avif", b"avis"), (b"mif1", b"msf1")
HEVC_BRANDS = b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"
LISTS = frozenset({b"pitm", b"iinf", b"iloc", b"iref", b"iprp", b"idat"})
Place = tuple[int, int]  # first byte and the one after the last

AvifImagePlugin.DEFAULT_MAX_THREADS = 1


@dataclass
class Item:
    """A picture or metadata."""

    kind: bytes = b""
    places: list[Place] = field(default_factory=list)
    properties: list[tuple[bytes, Place]] = field(default_factory=list)
    length: int = 0  # bytes
    tiles: list[int] = field(default_factory=list)  # items that it is made of
    auxiliary: list[int] = field(default_factory=list)  # its transparency and others


Items = defaultdict[int, Item]


class Reader:
    """Big-endian numbers of a part of a file, one after the other."""

    def __init__(self, data: bytes, place: Place) -> None:
        self.data = data
        self.start, self.end = place

    def take(self, size: int) -> int:
        """Return the number in the next bytes. Raises `ValueError` at the end."""
        self.skip(size)
        return int.from_bytes(self.data[self.start - size : self.start])

    def skip(self, size: int) -> None:
        """Go on after some bytes. Raises `ValueError` behind the end."""
        if size > self.end - self.start:
            raise ValueError("data are cut short")
        self.start += size

    def version(self) -> int:
        """Return the version of a box, which begins with it and three flags."""
        return self.take(4) >> 24

    def unit(self, size: int) -> int:
        """Skip a unit behind its length; return its first byte."""
        length = self.take(size)
        first = self.data[self.start] if length else 0
        self.skip(length)
        return first

    def leb128(self) -> int:
        """Return a number of up to eight groups of 7 bits, the lowest first."""
        number = 0
        for shift in range(0, 56, 7):
            byte = self.take(1)
            number |= (byte & 127) << shift
            if not byte >> 7:
                break
        return number

    def boxes(self) -> Iterator[tuple[bytes, Place]]:
        """Yield name and content of the boxes up to the end."""
        while self.start + 8 <= self.end:
            size, name = struct.unpack_from(">I4s", self.data, self.start)
            begin, start = self.start, self.start + 8
            if size == 1:
                size = int.from_bytes(self.data[start : start + 8])
                start = begin + LONG_HEADER
            stop = begin + size if size else self.end
            if not start <= stop <= self.end:
                return
            self.start = stop
            yield name, (start, stop)


def heif_reader(data: bytes) -> type[ImageFile] | None:
    """Return the reader for the brands of a HEIF file, or None."""
    end = min(int.from_bytes(data[:4]), MAX_BRANDS)
    brands = [data[8:12], *(data[place : place + 4] for place in range(16, end, 4))]
    codecs = [b for b in brands if b in (*AV1_BRANDS, *HEVC_BRANDS)]
    if not codecs or brands[0] not in (codecs[0], *HEIF_BRANDS):
        return None
    if codecs[0] in AV1_BRANDS:
        return AvifImagePlugin.AvifImageFile
    # few requests need it, and every start of a worker would pay for it
    from pillow_heif import HeifImageFile, options  # noqa: PLC0415

    options.DECODE_THREADS = 1
    options.THUMBNAILS = options.DEPTH_IMAGES = options.AUX_IMAGES = False
    reader: type[ImageFile] = HeifImageFile
    return reader


def heif_costs_too_much(data: bytes) -> bool:
    """Return whether a picture costs more than its size, or lists too much.

    Raises `ValueError` if its lists cannot be read without doubt.
    """
    top = _unique(Reader(data, (0, len(data))), {b"meta", b"mini"})
    if top.keys() != {b"meta"}:
        raise ValueError("it has no list of its pictures")
    start, end = top[b"meta"]
    boxes = _unique(Reader(data, (start + 4, end)), LISTS)
    if not {b"pitm", b"iinf", b"iloc", b"iprp"} <= boxes.keys():
        raise ValueError("a list of its pictures is missing")
    first, last = boxes.get(b"idat", (0, 0))
    if end - start - (last - first) > MAX_HEADER:
        return True
    items: Items = defaultdict(Item)
    _read_kinds(Reader(data, boxes[b"iinf"]), items)
    _read_places(Reader(data, boxes[b"iloc"]), items, first)
    _read_properties(Reader(data, boxes[b"iprp"]), items)
    if sum(item.length for item in items.values()) > len(
        data
    ):  # the same bytes many times
        return True
    exif = sum(item.length for item in items.values() if item.kind == b"Exif")
    if exif > MAX_EXIF:
        return True
    if b"iref" in boxes:
        copied = _read_references(Reader(data, boxes[b"iref"]), items)
        if copied > MAX_TEXT:
            return True
    primary = Reader(data, boxes[b"pitm"])
    number = primary.take(2 if primary.version() == 0 else 4)
    pictures = [number, *items[number].auxiliary]
    return any(_count_pixels(data, items, one) > MAX_DECODED for one in pictures)


def _unique(reader: Reader, names: frozenset[bytes] | set[bytes]) -> dict[bytes, Place]:
    """Return the boxes of these names. Raises `ValueError` if one comes twice."""
    found: dict[bytes, Place] = {}
    for name, place in reader.boxes():
        if name in found:
            raise ValueError(f"it has two boxes {name.decode()}")
        if name in names:
            found[name] = place
    return found


def _read_kinds(reader: Reader, items: Items) -> None:
    """Read the kind of each item. Raises `ValueError` if one is no text."""
    reader.take(2 if reader.version() == 0 else 4)
    for name, place in reader.boxes():
        entry = Reader(reader.data, place)
        if name == b"infe":
            number = entry.take(4 if entry.version() > LAST_SHORT_INFE else 2)
            entry.take(2)
            items[number].kind = entry.take(4).to_bytes(4)
            # libheif 1.23.0 crashed on kinds and names that are no text
            entry.data[entry.start - 4 : entry.end].decode()


def _read_places(reader: Reader, items: Items, idat: int) -> None:
    """Read where the data of each item are. Raises `ValueError` if not in the file."""
    version = reader.version()
    sizes = reader.take(2)
    width = 4 if version > 1 else 2
    offset, length, base, index = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    for _ in range(reader.take(width)):
        item = items[reader.take(width)]
        method = reader.take(2) & 15 if version else 0
        if method > 1 or reader.take(2):
            raise ValueError("data of a picture are in no known place")
        begin = reader.take(base) + (idat if method else 0)
        for _ in range(reader.take(2)):
            reader.take(index if version else 0)
            start = begin + reader.take(offset)
            place = start, start + reader.take(length)
            if place[1] > len(reader.data):
                raise ValueError("data of a picture are missing")
            item.places.append(place)
            item.length += place[1] - place[0]


def _read_properties(reader: Reader, items: Items) -> None:
    """Read which properties each item has: its size, its codec's parameters."""
    parts = list(reader.boxes())
    lists = [
        list(Reader(reader.data, at).boxes()) for name, at in parts if name == b"ipco"
    ]
    if len(lists) != 1:
        raise ValueError("it has no list of properties")
    for entries in (Reader(reader.data, at) for name, at in parts if name == b"ipma"):
        version, flags = entries.version(), entries.data[entries.start - 1]
        for _ in range(entries.take(4)):
            item = items[entries.take(2 if version == 0 else 4)]
            for _ in range(entries.take(1)):
                index = (
                    entries.take(2) & 0x7FFF if flags & 1 else entries.take(1) & 0x7F
                )
                item.properties += lists[0][index - 1 : index] if index else []


def _read_references(reader: Reader, items: Items) -> int:
    """Read which items belong together; return the bytes of metadata to be copied."""
    size = 2 if reader.version() == 0 else 4
    copied = 0
    for name, place in reader.boxes():
        entry = Reader(reader.data, place)
        number = entry.take(size)
        others = [entry.take(size) for _ in range(entry.take(2))]
        if name == b"dimg":
            items[number].tiles += others
        elif name == b"auxl":
            for other in others:
                items[other].auxiliary.append(number)
        elif name == b"cdsc":
            copied += items[number].length * len(others)
    return copied


def _count_pixels(data: bytes, items: Items, number: int) -> int:
    """Return how many pixels are decoded for a picture and its tiles.

    Raises `ValueError` if it has no end, `NotImplementedError` if its codec is unread.
    """
    total, canvas, units, waiting = 0, 0, 0, [number]
    while waiting:
        units += 1
        item = items[waiting.pop()]
        if units + len(waiting) + len(item.tiles) > MAX_UNITS:
            return MAX_DECODED + 1
        coded = b"".join(data[start:end] for start, end in item.places)
        if item.kind == b"av01":
            stated = _stated_pixels(data, item)
            total += _count_av1(Reader(coded, (0, len(coded))), stated)
        elif item.kind == b"hvc1":
            total += _count_hevc(data, item, coded)
        elif item.kind in (b"grid", b"iden"):
            waiting += item.tiles
            size = 4 if coded[1:2] == b"\1" else 2  # of the sides, after the counts
            width, height = coded[4 : 4 + size], coded[4 + size : 4 + 2 * size]
            canvas = max(canvas, int.from_bytes(width) * int.from_bytes(height))
        else:
            raise NotImplementedError("HEIF of neither HEVC nor AV1")
    return max(total, canvas)


def _stated_pixels(data: bytes, item: Item) -> int:
    """Return the pixels of an item. Raises `ValueError` if it has not one size."""
    (place,) = (place for name, place in item.properties if name == b"ispe")
    size = Reader(data, place)
    size.take(4)
    return size.take(4) * size.take(4)


def _count_hevc(data: bytes, item: Item, coded: bytes) -> int:
    """Return the pixels of all slices of an item, its parameters included."""
    (place,) = (place for name, place in item.properties if name == b"hvcC")
    config = Reader(data, place)
    config.skip(LENGTH_SIZE)
    width = (config.take(1) & 3) + 1
    units = []
    for _ in range(config.take(1)):
        config.take(1)
        units += [config.unit(2) for _ in range(config.take(2))]
    reader = Reader(coded, (0, len(coded)))
    while reader.start < reader.end and len(units) <= MAX_UNITS:
        units.append(reader.unit(width))
    slices = sum(unit >> 1 & 63 < FIRST_OTHER_UNIT for unit in units)
    return _stated_pixels(data, item) * (slices if len(units) <= MAX_UNITS else MANY)


def _count_av1(reader: Reader, stated: int) -> int:
    """Return the pixels of all frames of an item, many if they are of another size."""
    kinds: Counter[int] = Counter()
    pixels = 0
    while reader.start < reader.end and kinds.total() <= MAX_UNITS:
        head = reader.take(1)
        kind = head >> 3 & 15
        reader.take(1 if head & 4 else 0)
        size = reader.leb128() if head & 2 else reader.end - reader.start
        if kind == SEQUENCE_HEADER:
            pixels = max(pixels, frame_pixels(reader.data[reader.start :][:size]))
        kinds[kind] += 1
        reader.skip(size)
    is_bounded = kinds.total() <= MAX_UNITS and pixels <= LARGER * stated
    return pixels * (kinds[FRAME_HEADER] + kinds[FRAME] if is_bounded else MANY)


def frame_pixels(header: bytes) -> int:
    """Return width x height of a sequence header (AV1, 5.5). Raises `ValueError`."""
    bits = "".join(f"{byte:08b}" for byte in header[:MAX_SEQUENCE_HEADER])
    place = 0

    def take(count: int) -> int:
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)  # of no bits: a ValueError

    take(4)  # profile, still picture
    if take(1):  # reduced header
        take(5)
    else:
        if take(1):
            raise ValueError("a picture with times")
        has_delay = take(1)
        for _ in range(take(5) + 1):
            take(12)
            if take(5) > LOW_LEVEL:
                take(1)
            if has_delay and take(1):
                take(4)
    widths = take(4) + 1, take(4) + 1
    return (take(widths[0]) + 1) * (take(widths[1]) + 1)
