"""Picture bytes to 28x28 grey pixels, the way Fashion-MNIST was made.

    >>> to_pixels(Path("static/pictures/ankle-boot.png").read_bytes()).shape
    (28, 28)

The one preprocessing: the service, evaluation and training photos all come through
here. The steps follow the data set's paper (Xiao, Rasul, Vollgraf, arXiv 1708.07747,
section 2), made for grounds of any colour and for photos.
"""

import io
import re
import struct
import warnings
import zlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

Pixels = NDArray[np.uint8]
Values = NDArray[np.floating]

SIDE = 28  # pixels, of the square every picture becomes
MAX_PIXELS = 25_000_000  # of a picture, read from its header before it is decoded
MAX_READS = 100_000  # of a file: Pillow reads some headers byte by byte
MAX_SCANS = 40  # of a JPEG, which may refine the same pixels without end
START_OF_SCAN = 0xDAFF  # a marker of JPEG, FF DA; in what is coded it cannot occur
SCAN = re.compile(rb"\xff\xda\0[\x08\x0a\x0c\x0e][\1-\4]")  # ITU T.81, B.2.3
MAX_PROFILES = 10  # of a PNG, which may be packed a thousand times
MAX_RUN_PIXELS = 1_000_000  # of a BMP in runs, which Pillow unpacks in Python
MAX_FAX_ROWS = 10_000  # of a fax in a TIFF: libtiff may print a line for each
TOO_COSTLY = "the picture takes too long to unpack: save it anew"
WHITE = 255
WHITES = 255, 1023, 4095, 16383, 65535  # of deep grey pictures
SLACK = 1.01  # by which a level may be above white

# How a garment is found, in levels of 0..255 where nothing else is said.
WORK_SIDE = 84  # pixels, longest side while looking, so that a photo costs little
DRAFT_SIDE = 100  # pixels, a JPEG is decoded at no fewer, if it has as many
EDGE_SHARE = 0.05  # of the longest side: how wide the edges that show the ground are
MIDDLE = 0.55  # of half a side: how wide a bell the middle is that shows the garment
BIN = 16  # levels of a channel that count as one
BINS = (WHITE + 1) // BIN  # of each channel
SHADES = np.arange(BINS, dtype=np.float32)
SPREAD = np.exp(-0.5 * np.subtract.outer(SHADES, SHADES) ** 2) / 2.5  # a bell
RARE = 1e-5  # of the pixels: a colour so rare tells nothing
AGREEMENT = 2.0  # log-odds that a pixel's neighbours add at most
ROUNDS = 3  # of asking the neighbours
REACH = 2  # pixels, how far away they are
INNER_GROUND = 0.2  # of what ground at the edges counts for the ground's mean colour
SURE = 0.5, 0.8  # likelihoods between which a pixel fades in
BRIGHT_QUANTILE = 0.97  # of a picture's levels: what is higher is as bright
TRIM_LEVEL = 0.25  # of the brightest: less does not make a garment
MIN_LEVEL = 6  # nor does less than this
TRIM_SHARE = 0.1  # of the fullest row or column: less is a speck
MIN_CONTRAST = 40  # the least that is stretched to white
NEAR = 2 * BIN  # levels from a plain ground's colour, too few to tell apart
NEAR_SHARE = 0.4  # of what differs from the ground, so near at least
MIN_OFFSET = 5  # fewer are the ground's own
SPECKS = 0.05  # of the edges of the plainest grounds differ, at most
FEWEST = 20  # pixels that differ from the ground: fewer are specks
# How a smooth ground is told, in levels.
SMOOTH = 1  # that neighbours may differ without a step
USUAL = 6  # that the edges may differ from their usual colour
SWEEPS = 4  # of the picture, each in four directions
FAR = 1 << 13  # steps, more than any way takes
GROUND, APART = 3, 9  # steps up to which it is ground, and from which it is none
DEGREE = 3  # of the surface that a ground's light makes
FITS = 4  # of that surface, each trusting less what lies off the one before
OFF = 3  # levels off a surface that halve the trust
POWERS = (DEGREE + 1) * (DEGREE + 2) // 2  # of row and column in such a surface
STIFF = np.eye(POWERS, dtype=np.float32)  # pixels' worth of each power being none
LYING = 10, 0.6  # so near lies so great a share of the edges, or it is no such ground
MIN_SLOPE = 6  # less is no change of light
# How a person is told from a garment, in shares of height, from the top, and width.
HEAD, SHOULDERS, TRUNK = (0.0, 0.1), (0.25, 0.45), (0.35, 0.5)
WIDEST = 0.95  # quantile of the rows' widths that is taken for the greatest
HEAD_WIDTHS = 0.15, 0.65  # of that; the hook of a hanger is narrower
SHOULDER_WIDTH = 0.7  # likewise, at least
SOLID = 0.85  # of a head's width that shows: the handles of a bag have a hole
UNLIKE = 40  # levels between a head's colour and the trunk's: a hood has none
CROWN = 0.1  # cut off, so that hair or skin is at the edge
BRIGHT = 200  # level from which a cut-out would be lost on white
CUT_OUT = 230  # opacity, of 255 on average, below which a picture is one
TINT = 2  # levels: coded grey comes out as little off as that

PNG = b"\x89PNG\r\n\x1a\n"
# a PNG of a grey level a byte, all in one chunk (PNG specification, 5.3 and 11.2)
PLAIN_PNG = struct.Struct(">8sI4s8s5sI I4s")
HEAD_OF_PNG = PNG, 13, b"IHDR"
GREY = bytes([8, 0, 0, 0, 0])  # bits, colour, compression, filter, interlace
END_OF_PNG = b"\0\0\0\0IEND\xaeB`\x82"
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
COMPRESSION, TILE_WIDTH, TILE_LENGTH = 259, 322, 323  # tags of TIFF
FAXES = 2, 3, 4  # compressions of TIFF
RUNS = 1, 2  # compressions of BMP
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avif", b"avis")

EVENLY = np.full(3, 1 / 3, np.float32)  # weights of the channels

# How to turn a picture upright, by its EXIF orientation.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
Image.MAX_IMAGE_PIXELS = None  # `decode` has a stricter limit, and refuses, not warns
warnings.filterwarnings("ignore", module="PIL")  # about bytes that strangers send


class BoundedFile(io.BytesIO):
    """Bytes as a file that may be read only so often.

    Pillow goes through the pieces of a header one by one, in Python: a few megabytes
    of empty ones would take seconds.
    """

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read on. Raises `TooLargeError`."""
        self.reads += 1
        if self.reads > MAX_READS:
            raise TooLargeError(TOO_COSTLY)
        return super().read(size)


class ImageError(ValueError):
    """A picture that cannot be read; `code` is stable, the message is for people."""

    code = "bad_request"


class UnsupportedImageError(ImageError):
    """The bytes are not a picture of a format we read."""

    code = "unsupported_image"


class BrokenImageError(ImageError):
    """The bytes start like a picture and cannot be decoded."""

    code = "broken_image"


class TooLargeError(ImageError):
    """More pixels, or more pictures, than one request may hold."""

    code = "too_large"


def reader_of(data: bytes) -> type[ImageFile] | None:
    """Choose Pillow's reader by the first bytes of `data`; None if there is none."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return WebPImageFile
    for signature, reader in SIGNATURES.items():
        if data.startswith(signature):
            return reader
    return None


def to_pixels(data: bytes) -> Pixels:
    """Turn an encoded picture into uint8 [28, 28], object bright on black.

    A Fashion-MNIST picture (28x28, grey in any mode) passes through to the bit.
    Raises an `ImageError` that says what is wrong with `data`.
    """
    return see(decode(data))


def see(image: Image.Image) -> Pixels:
    """Turn an "L" or "RGB" picture into what `to_pixels` makes of it."""
    if image.size == (SIDE, SIDE) and is_grey(image):
        return np.asarray(image.convert("L"))
    return preprocess(image)


def decode(data: bytes, side: int = DRAFT_SIDE) -> Image.Image:
    """Decode the first frame to upright 8-bit "L" or "RGB". Raises `ImageError`.

    A JPEG becomes smaller while it is decoded, but for `side` pixels either way.
    """
    plain = decode_plain_png(data)
    if plain is not None:
        return plain
    reader = reader_of(data)
    if reader is None:
        raise UnsupportedImageError(_why_unsupported(data))
    if reader is PngImageFile and data.count(b"iCCP") > MAX_PROFILES:
        raise TooLargeError(TOO_COSTLY)  # the reader unpacks them all as it begins
    try:  # Pillow's readers raise any kind of error on bytes that lie
        image = reader(BoundedFile(data))
        _refuse_if_large(image)
        _refuse_if_endless(image, data)
        _refuse_if_partial(image)
        image.draft("RGB", (side, side))
        image.load()
        return flatten(turn_upright(image))
    except ImageError:
        raise
    except Exception as error:
        raise BrokenImageError(f"the picture cannot be decoded: {error}") from error


def decode_plain_png(data: bytes) -> Image.Image | None:
    """Decode a whole, plain, grey PNG in half of the time that Pillow's reader takes.

    Fashion-MNIST saved as files is such. None for any other, sound or broken.
    """
    if not data.endswith(END_OF_PNG) or len(data) < PLAIN_PNG.size:
        return None
    *head, size, form, checksum, length, name = PLAIN_PNG.unpack_from(data)
    packed = memoryview(data)[PLAIN_PNG.size : -len(END_OF_PNG) - 4]
    if (*head, form, name) != (*HEAD_OF_PNG, GREY, b"IDAT") or len(packed) != length:
        return None
    width, height = struct.unpack(">II", size)
    sums = checksum, int.from_bytes(data[-len(END_OF_PNG) - 4 : -len(END_OF_PNG)])
    if sums != (zlib.crc32(data[12:29]), zlib.crc32(packed, zlib.crc32(name))):
        return None
    if not 0 < width * height <= MAX_PIXELS:
        return None
    try:
        return Image.frombytes("L", (width, height), packed, "zip", "L", False)
    except (ValueError, MemoryError):
        return None


def _refuse_if_large(image: Image.Image) -> None:
    """Raise `TooLargeError` by what the header says, before anything is decoded."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise TooLargeError(
            f"the picture has {width} x {height} pixels; at most"
            f" {MAX_PIXELS // 1_000_000} million are read: send a smaller one"
        )


def _refuse_if_endless(image: ImageFile, data: bytes) -> None:
    """Raise `TooLargeError` for what costs far more than its pixels.

    42 bytes of a JPEG can be a scan of 17 ms, 10 kB of a TIFF a tile of gigabytes.
    """
    pixels, rows = image.width * image.height, image.height
    if image.format == "JPEG":
        is_endless = _has_many_scans(data)
    elif image.format == "BMP":
        is_endless = image.info.get("compression") in RUNS and pixels > MAX_RUN_PIXELS
    elif isinstance(image, TiffImageFile):
        tags = image.tag_v2
        width, height = (tags.get(tag, 0) for tag in (TILE_WIDTH, TILE_LENGTH))
        if not (isinstance(width, int) and isinstance(height, int)):  # text, say
            raise ValueError("the size of its tiles is no number")
        tile = width * height
        is_fax = tags.get(COMPRESSION) in FAXES
        is_endless = tile > MAX_PIXELS or (is_fax and rows > MAX_FAX_ROWS)
    else:
        return
    if is_endless:
        raise TooLargeError(TOO_COSTLY)


def _has_many_scans(data: bytes) -> bool:
    """Tell whether a JPEG has more scans than any need; a video behind it has none."""
    # pairs of bytes from even and from odd places: a quarter of what searching takes
    halves = [np.frombuffer(data, "<u2", (len(data) - odd) // 2, odd) for odd in (0, 1)]
    if sum(np.count_nonzero(half == START_OF_SCAN) for half in halves) <= MAX_SCANS:
        return False
    return len(SCAN.findall(data)) > MAX_SCANS


def _refuse_if_partial(image: ImageFile) -> None:
    """Raise `ValueError` for a TIFF that lacks strips: they would be black."""
    if image.format != "TIFF":
        return
    boxes = {tile.extents for tile in image.tile if tile.extents}
    area = sum((right - left) * (low - top) for left, top, right, low in boxes)
    if area < image.width * image.height:
        raise ValueError("strips are missing")


def _why_unsupported(data: bytes) -> str:
    if not data:
        return "the picture is empty"
    if data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS:
        return "HEIC and AVIF are not read: save the picture as JPEG"
    return "not a picture in PNG, JPEG, WebP, GIF, BMP or TIFF format"


def turn_upright(image: Image.Image) -> Image.Image:
    """Undo the EXIF orientation."""
    if not image.info and image.format != "TIFF":
        return image  # nothing in the file says how it lies
    orientation = image.getexif().get(ExifTags.Base.Orientation)
    if orientation not in UPRIGHT:
        return image
    return image.transpose(UPRIGHT[orientation])


def flatten(image: Image.Image) -> Image.Image:
    """Reduce any mode to opaque 8-bit "L" or "RGB"; a ground shows through."""
    if image.mode == "L" and not image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(to_8_bit(np.asarray(image)))
    if image.mode == "La":  # premultiplied grey converts by way of plain grey
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, ground_of(image))
        return Image.alpha_composite(ground, image).convert("RGB")
    if image.mode == "LAB":
        return image.getchannel("L")
    if image.mode in ("1", "L"):
        return image.convert("L")
    return image.convert("RGB")


def ground_of(image: Image.Image) -> str:
    """Choose what shows through an "RGBA" picture: a colour that it stands out from.

    That is white, but black for a bright cut-out, and for what is as small as
    Fashion-MNIST, whose ground is black.
    """
    some = image.resize((WORK_SIDE, WORK_SIDE), Image.Resampling.NEAREST)
    mean = some.resize((1, 1), Image.Resampling.BOX)  # each pixel by its opacity
    red, green, blue, opacity = mean.getpixel((0, 0))  # type: ignore[misc]
    is_bright = red + green + blue > 3 * BRIGHT and opacity < CUT_OUT
    return "black" if is_bright or image.size == (SIDE, SIDE) else "white"


def to_8_bit(values: NDArray[np.generic]) -> Pixels:
    """Scale deep grey values to 0..255 by the smallest common range that holds them.

    Files do not say what white is: 1.0, 255, 65535 and what lies between are in use.
    """
    levels = values.astype(np.float32)
    is_fraction = values.dtype.kind == "f"
    if is_fraction:
        levels[np.isnan(levels)] = 0
        finite = np.isfinite(levels)
        levels = levels.clip(0, levels.max(initial=0, where=finite))
    top = float(levels.max())
    whites = [1, *WHITES] if is_fraction else WHITES
    white = next((white for white in whites if top <= SLACK * white), top)
    return (levels * (WHITE / white)).round().clip(0, WHITE).astype(np.uint8)


def is_grey(image: Image.Image) -> bool:
    """Tell whether the channels of an "L" or "RGB" picture are equal, or as good as."""
    if image.mode == "L":
        return True
    channels = np.asarray(image)
    return bool(np.ptp(channels, axis=2).max() <= TINT)


def preprocess(image: Image.Image) -> Pixels:
    """See an "L" or "RGB" picture the way Fashion-MNIST shows garments: uint8 [28, 28].

    The paper trims white thumbnails, resizes, extends, negates and greys them. Here
    the ground may be of any colours: what is likelier garment than ground is bright,
    the more so the farther its colour is from the ground's, and the ground is black.
    """
    small = fit(image, min(WORK_SIDE, max(image.size))).convert("RGB")
    garment = isolate(np.moveaxis(np.asarray(small), 2, 0).copy())
    levels = np.asarray(fit(Image.fromarray(garment), SIDE))
    height, width = levels.shape
    brightest = quantile(levels, BRIGHT_QUANTILE)
    levels = levels * (WHITE / max(brightest, MIN_CONTRAST))
    pixels = np.zeros((SIDE, SIDE), np.uint8)
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    pixels[top : top + height, left : left + width] = levels.round().clip(0, WHITE)
    return pixels


def fit(image: Image.Image, side: int) -> Image.Image:
    """Resize to so long a longest side; a pixel is the mean of what it comes from."""
    scale = side / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    return image.resize((width, height), Image.Resampling.BOX, reducing_gap=2.0)


def isolate(colours: Pixels) -> Values:
    """RGB uint8 [3, h, w] to how brightly a garment shows, trimmed: [h', w'].

    One that a person wears is looked for again, where the person is: skin, hair and
    what else is worn lie at the edges then, and are ground.
    """
    evened = even_out(colours)
    usual, spread = edge_colour(evened)
    steps = steps_from_ground(evened, usual)
    # where the edges vary, nothing lies too near to them
    apart = stretch(evened, usual, steps) if spread < MIN_OFFSET else evened
    if apart is evened:
        cover = (np.float32(steps - GROUND) / (APART - GROUND)).clip(0, 1)
    else:  # what is as pale as its ground may pass into it without a step
        cover = np.ones(steps.shape, np.float32)
    levels: Values = find_garment(apart) * cover
    rows, columns = trimmed(levels)
    if not is_worn(levels[rows, columns], colours[:, rows, columns]):
        return levels[rows, columns]
    rows = slice(rows.start + round(CROWN * (rows.stop - rows.start)), rows.stop)
    levels = find_garment(apart[:, rows, columns]) * cover[rows, columns]
    return levels[trimmed(levels)]


def steps_from_ground(colours: Pixels, usual: NDArray[np.int16]) -> NDArray[np.int16]:
    """Add up the steps in colour on the smoothest way from the edges: [h, w].

    It begins where they have their `usual` colour.

    Light and soft shadows change a ground little by little, a garment ends at once
    (Wei et al., Geodesic Saliency Using Background Priors, 2012). Ways go along rows
    and columns.
    """
    _, height, width = colours.shape
    around = border(height, width)
    offset = colours.reshape(3, -1).take(around, 1) - usual[:, None]
    steps = np.full((height, width), FAR, np.int16)
    steps.ravel()[around] = (difference(offset) - USUAL).clip(0)
    levels = colours.astype(np.int16)
    down, across = (
        (difference(np.diff(levels, axis=axis)) - SMOOTH).clip(0, APART)
        for axis in (1, 2)
    )
    # what it takes to come here from the upper, or the left edge; rows come first,
    # since sums along them are slow
    from_top = np.zeros((height, width), np.int16)
    from_left = np.zeros((width, height), np.int16)
    np.cumsum(down, axis=0, out=from_top[1:])
    np.cumsum(across.T, axis=0, out=from_left[1:])
    for _ in range(SWEEPS):
        steps = sweep(steps, from_top)
        steps = sweep(steps.T, from_left).T
    return steps


def sweep(steps: NDArray[np.int16], so_far: NDArray[np.int16]) -> NDArray[np.int16]:
    """Carry steps down all columns, then up, if that is a shorter way: [h, w]."""
    forth = np.minimum.accumulate(steps - so_far, 0) + so_far
    back = np.minimum.accumulate((forth + so_far)[::-1], 0)[::-1]
    shorter: NDArray[np.int16] = back - so_far
    return shorter


def even_out(colours: Pixels) -> Pixels:
    """Take out the light of a ground that changes smoothly: RGB uint8 [3, h, w].

    A surface is fitted to the edges, again and again, with less weight on what lies
    off it (Cauchy's). If most of them lie on it, it is the ground.
    """
    _, height, width = colours.shape
    powers, around = surfaces(height, width), border(height, width)
    known = powers.take(around, 1)
    planes = colours.reshape(3, -1)
    usual = edge_colour(colours)[0].astype(np.float32)
    seen = planes.take(around, 1) - usual[:, None]
    off = np.abs(seen).max(0)
    for _ in range(FITS):
        trusted = known / (1 + np.square(off / OFF))
        # what is little seen is rather level
        surface = np.linalg.solve(trusted @ known.T + STIFF, trusted @ seen.T).T
        light = surface @ known
        off = np.abs(seen - light).max(0)
    near, share = LYING
    lying = off < near
    if lying.mean() < share or np.ptp(light, axis=1).max() < MIN_SLOPE:
        return colours
    surface[:, 0] -= light[:, lying].mean(1)  # the first power is level
    evened = (planes - surface @ powers).round().clip(0, WHITE)
    return evened.astype(np.uint8).reshape(colours.shape)


@lru_cache(256)
def surfaces(height: int, width: int) -> Values:
    """Lay out products of powers of row and column up to `DEGREE`: [powers, h * w]."""
    rows, columns = (np.linspace(-1, 1, side) for side in (height, width))
    powers = [
        np.outer(rows**down, columns**across).ravel()
        for down in range(DEGREE + 1)
        for across in range(DEGREE + 1 - down)
    ]
    return np.stack(powers).astype(np.float32)


def stretch(
    colours: Pixels, usual: NDArray[np.int16], steps: NDArray[np.int16]
) -> Pixels:
    """Bring colours apart that lie near a plain ground's: RGB uint8 [3, h, w] likewise.

    White on white, say: each level becomes a colour of its own, at most. Much of what
    differs from the ground has to be as near; that it is `steps` away from it as well
    tells it from the light of all grounds but the plainest.
    """
    offset = colours - usual[:, None, None]
    far = difference(offset)
    differs = far >= MIN_OFFSET
    is_plainest = differs.ravel()[border(*far.shape)].mean() < SPECKS
    shown = far[differs if is_plainest else differs & (steps > GROUND)]
    if shown.size < FEWEST:
        return colours
    typical = int(quantile(shown, NEAR_SHARE))
    if typical >= NEAR:
        return colours
    low, high = max(offset.min(), -2 * typical), min(offset.max(), 2 * typical)
    factor = min(BIN, WHITE // int(high - low))
    apart: Pixels = ((offset.clip(low, high) - low) * factor).astype(np.uint8)
    return apart


def edge_colour(colours: Pixels) -> tuple[NDArray[np.int16], float]:
    """Return the usual colour at the edges, int16 [3], and how far half of them are."""
    around = colours.reshape(3, -1).take(border(*colours.shape[1:]), 1)
    usual = median(around)
    return usual, quantile(difference(around - usual[:, None]), 0.5)


def median(colours: Pixels) -> NDArray[np.int16]:
    """Return the upper median of each channel: uint8 [3, n] to int16 [3]."""
    half = colours.shape[1] // 2
    return np.partition(colours, half)[:, half].astype(np.int16)


def difference(offset: NDArray[np.int16]) -> NDArray[np.int16]:
    """Return the difference of the channel that differs most: [3, ...] to [...]."""
    most: NDArray[np.int16] = np.abs(offset).max(0)
    return most


def is_worn(garment: Values, colours: Pixels) -> bool:
    """Tell whether what was found is a person, with shoulders and a head of its own."""
    height, width = garment.shape
    if height < width:
        return False
    shown = is_shown(garment)
    first, last = shown.argmax(1), width - shown[:, ::-1].argmax(1)
    widths = np.where(shown.any(1), last - first, 0) / width
    counts = shown.sum(1) / width
    widest = quantile(widths, WIDEST)
    head, shoulders, trunk = (
        slice(int(start * height), max(int(start * height) + 1, int(end * height)))
        for start, end in (HEAD, SHOULDERS, TRUNK)
    )
    narrow, broad = HEAD_WIDTHS
    if not (
        narrow * widest < widths[head].mean() < broad * widest
        and widths[shoulders].max() > SHOULDER_WIDTH * widest
        and counts[head].sum() > SOLID * widths[head].sum()
        and shown[trunk].any()
    ):
        return False
    usual = [
        median(colours[:, part].reshape(3, -1).compress(shown[part].ravel(), 1))
        for part in (head, trunk)
    ]
    return bool(difference(usual[0] - usual[1]) > UNLIKE)


def find_garment(colours: Pixels) -> Values:
    """RGB uint8 [3, h, w] to how brightly each pixel shows a garment: [h, w].

    As bright as it is likely to be garment, and as its colour is far from the mean
    of the ground: by the root, so that colours near the ground's show as well.
    """
    likely = likelihood(colours)
    ground = np.square(1 - likely) * (INNER_GROUND + edges(*likely.shape))
    offset = colours.reshape(3, -1).astype(np.float32)
    offset -= (offset @ ground.ravel() / ground.sum())[:, None]
    distance = np.sqrt(EVENLY @ np.square(offset)).reshape(likely.shape)
    low, high = SURE
    shown = ((likely - low) / (high - low)).clip(0, 1)
    levels: Values = shown * np.sqrt(WHITE * distance)
    return levels


def likelihood(colours: Pixels) -> Values:
    """Tell how likely each pixel is to be garment, not ground: [h, w].

    By its colour, as common in the middle as at the edges of the picture (Jones and
    Rehg, Statistical Color Models, 2002), and by what its neighbours are.
    """
    _, height, width = colours.shape
    red, green, blue = (colours // BIN).astype(np.intp)
    bins = (red * BINS + green) * BINS + blue
    garment, ground = (count(bins, weigh(height, width)) for weigh in (middle, edges))
    odds = np.log((garment + RARE) / (ground + RARE)).astype(np.float32)[bins]
    likely: Values = 1 / (1 + np.exp(-odds))
    for _ in range(ROUNDS):
        around = 2 * box_blur(likely, REACH) - 1
        likely = 1 / (1 + np.exp(-odds - AGREEMENT * around))
    return likely


def count(bins: NDArray[np.intp], weights: Values) -> Values:
    """Count colours, each spread a little over those like it: [BINS ** 3]."""
    counts = np.bincount(bins.ravel(), weights.ravel(), BINS**3)
    shares: Values = (counts / weights.sum()).astype(np.float32)
    for _ in range(3):  # each pass spreads the first channel and puts it last
        shares = shares.reshape(BINS, -1).T @ SPREAD
    return shares.ravel()


@lru_cache(256)
def edges(height: int, width: int) -> Values:
    """Mark what lies along the edges of a picture with 1, the rest with 0: [h, w]."""
    thick = max(1, round(EDGE_SHARE * max(height, width)))
    marks = np.ones((height, width), np.float32)
    marks[thick:-thick, thick:-thick] = 0
    return marks


@lru_cache(256)
def border(height: int, width: int) -> NDArray[np.intp]:
    """List where the edges of a picture lie if its rows follow one another."""
    return np.flatnonzero(edges(height, width))


@lru_cache(256)
def middle(height: int, width: int) -> Values:
    """Weigh pixels by how near they are to the middle of a picture: [h, w]."""
    rows, columns = (np.linspace(-1, 1, side) / MIDDLE for side in (height, width))
    bell: Values = np.exp(-np.square(rows)[:, None] - np.square(columns))
    return bell


def box_blur(levels: Values, reach: int) -> Values:
    """Average each pixel with those up to `reach` away, edges repeated: [h, w].

    As two products: at this size, several times as fast as running sums.
    """
    rows, columns = (averages(side, reach) for side in levels.shape)
    blurred: Values = rows @ levels @ columns.T
    return blurred


@lru_cache(256)
def averages(side: int, reach: int) -> Values:
    """Write the matrix that averages neighbours in a column of so many: [h, h]."""
    places = np.arange(side)[:, None] + np.arange(-reach, reach + 1)
    weights = np.zeros((side, side), np.float32)
    np.add.at(weights, (np.arange(side)[:, None], places.clip(0, side - 1)), 1)
    return weights / (2 * reach + 1)


def trimmed(levels: Values) -> tuple[slice, slice]:
    """Leave out rows and columns that show next to nothing but glows and specks."""
    shown = is_shown(levels).astype(np.float32)
    spans = []
    for axis in (1, 0):
        profile = shown.mean(axis)
        inside = np.flatnonzero(profile > TRIM_SHARE * profile.max())
        spans.append(slice(inside[0], inside[-1] + 1) if inside.size else slice(None))
    return spans[0], spans[1]


def is_shown(levels: Values) -> NDArray[np.bool_]:
    """Tell which pixels show something of a garment, not a glow: bool [h, w]."""
    return levels > max(TRIM_LEVEL * quantile(levels, BRIGHT_QUANTILE), MIN_LEVEL)


def quantile(levels: NDArray[np.number], share: float) -> float:
    """Return what NumPy's does, by linear interpolation, in half the time."""
    place = share * (levels.size - 1)
    below = int(place)
    above = min(below + 1, levels.size - 1)
    ordered = np.partition(levels, (below, above), axis=None)
    low, high = float(ordered[below]), float(ordered[above])
    return low + (high - low) * (place - below)
