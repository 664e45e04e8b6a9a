"""Picture bytes to 28x28 grey pixels, the way Fashion-MNIST was made.

    >>> to_pixels(Path("static/pictures/ankle-boot.png").read_bytes()).shape
    (28, 28)

The one preprocessing: the service, evaluation and training photos all come through
here. The steps follow the data set's paper (Xiao, Rasul, Vollgraf, arXiv 1708.07747,
section 2), made for grounds of any colour and for photos.
"""

import io
import warnings

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
Values = NDArray[np.float32]

SIDE = 28  # pixels, of the square every picture becomes
MAX_PIXELS = 25_000_000  # of a picture, read from its header before it is decoded
WHITE = 255
DEEP_WHITE = 65535  # of a 16-bit picture

# How a garment is found, in levels of 0..255 where nothing else is said.
WORK_SIDE = 84  # pixels, longest side while looking, so that a photo costs little
DRAFT_SIDE = 2 * WORK_SIDE  # pixels, a JPEG is decoded at no more than it takes
EDGE_STEP = 3  # of the pixels along the edges one in so many is looked at
EDGE_SHARE = 0.03  # of the longest side: how wide the edges that show the ground are
GROUND_COLOURS = 4  # at most
GROUND_MIN_SHARE = 0.15  # of the edges, or it is a garment that reaches them
GROUND_QUANTILE = 0.8  # of the edges' distances: how far the ground may vary
BRIGHT_QUANTILE = 0.97  # of a picture's distances: what is farther is as bright
TRIM_LEVEL = 0.25  # of the brightest: less does not make a garment
MIN_LEVEL = 6  # nor does less than this
TRIM_SHARE = 0.1  # of the fullest row or column: less is a speck
MIN_CONTRAST = 40  # the least that is stretched to white

SIGNATURES: dict[bytes, type[ImageFile]] = {
    b"\x89PNG\r\n\x1a\n": PngImageFile,
    b"\xff\xd8\xff": JpegImageFile,  # of an MPO the first picture
    b"GIF87a": GifImageFile,
    b"GIF89a": GifImageFile,
    b"BM": BmpImageFile,
    b"II*\0": TiffImageFile,  # little-endian
    b"MM\0*": TiffImageFile,  # big-endian
    b"II+\0": TiffImageFile,  # BigTIFF
    b"MM\0+": TiffImageFile,
}
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
    image = decode(data)
    if image.size == (SIDE, SIDE) and is_grey(image):
        return np.asarray(image if image.mode == "L" else image.getchannel(0))
    return preprocess(image)


def decode(data: bytes) -> Image.Image:
    """Decode the first frame to upright 8-bit "L" or "RGB". Raises `ImageError`."""
    reader = reader_of(data)
    if reader is None:
        raise UnsupportedImageError(_why_unsupported(data))
    try:  # Pillow's readers raise any kind of error on bytes that lie
        image = reader(io.BytesIO(data))
        _refuse_if_large(image)
        image.draft("RGB", (DRAFT_SIDE, DRAFT_SIDE))  # JPEG: decode at a fraction
        image.load()
        return flatten(turn_upright(image))
    except ImageError:
        raise
    except Exception as error:
        raise BrokenImageError(f"the picture cannot be decoded: {error}") from error


def _refuse_if_large(image: Image.Image) -> None:
    """Raise `TooLargeError` by what the header says, before anything is decoded."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise TooLargeError(
            f"the picture has {width} x {height} pixels; at most"
            f" {MAX_PIXELS // 1_000_000} million are read: send a smaller one"
        )


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
    """Reduce any mode to opaque 8-bit "L" or "RGB", transparent parts on white."""
    if image.mode == "L" and not image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(to_8_bit(np.asarray(image)))
    if image.mode == "La":  # premultiplied grey converts by way of plain grey
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    if image.mode == "LAB":
        return image.getchannel("L")
    if image.mode in ("1", "L"):
        return image.convert("L")
    return image.convert("RGB")


def to_8_bit(values: NDArray[np.generic]) -> Pixels:
    """Scale deep grey values to 0..255 by the smallest common range that holds them.

    Files do not say what white is: 1.0, 255 and 65535 are all in use.
    """
    levels = np.nan_to_num(values.astype(np.float32))
    top = levels.max()
    if top <= 1 and values.dtype.kind == "f":
        levels = levels * WHITE
    elif top > WHITE:
        levels = levels * (WHITE / max(top, DEEP_WHITE))
    return levels.round().clip(0, WHITE).astype(np.uint8)


def is_grey(image: Image.Image) -> bool:
    """Tell whether all channels of an "L" or "RGB" picture are equal."""
    if image.mode == "L":
        return True
    channels = np.asarray(image)
    return bool((channels == channels[..., :1]).all())


def preprocess(image: Image.Image) -> Pixels:
    """See an "L" or "RGB" picture the way Fashion-MNIST shows garments: uint8 [28, 28].

    The paper trims white thumbnails, resizes, extends, negates and greys them. Here
    white may be any colour, or a few: a pixel is as bright as its colour is far from
    the ground's, which on white is the negative. What is left of the ground is black.
    """
    image = image.convert("RGB")
    image.thumbnail((WORK_SIDE, WORK_SIDE), Image.Resampling.BOX, reducing_gap=2.0)
    garment = trim(distance_from_ground(np.asarray(image, np.float32)))
    scale = SIDE / max(garment.shape)
    height, width = (max(1, round(side * scale)) for side in garment.shape)
    small = Image.fromarray(garment).resize((width, height), Image.Resampling.BOX)
    levels = np.asarray(small)
    brightest = np.quantile(levels, BRIGHT_QUANTILE)
    levels = levels * (WHITE / max(brightest, MIN_CONTRAST))
    pixels = np.zeros((SIDE, SIDE), np.uint8)
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    pixels[top : top + height, left : left + width] = levels.round().clip(0, WHITE)
    return pixels


def distance_from_ground(colours: Values) -> Values:
    """RGB [h, w, 3] to how far each pixel is from the ground's colours: [h, w].

    The ground is what the edges of the picture show: up to four colours that fill
    enough of them, give or take what varies there. Distances are root mean squares
    over the channels, so that grey on white is as far as it is dark.
    """
    edges = _edges(colours)
    grounds = _palette(edges)
    allowance = np.quantile(_nearest(edges, grounds), GROUND_QUANTILE)
    return (_nearest(colours, grounds) - allowance).clip(0)


def _edges(colours: Values) -> Values:
    """Gather the pixels along the four edges: [N, 3]."""
    width = max(1, round(EDGE_SHARE * max(colours.shape)))
    inner = colours[width:-width]
    parts = [colours[:width], colours[-width:], inner[:, :width], inner[:, -width:]]
    return np.concatenate([part.reshape(-1, 3) for part in parts])[::EDGE_STEP]


def _palette(edges: Values) -> list[Values]:
    """Choose the colours that stand for enough of the pixels [N, 3]."""
    strip = Image.fromarray(edges.astype(np.uint8)[None])
    strip = strip.quantize(GROUND_COLOURS, Image.Quantize.MEDIANCUT, kmeans=1)
    counts = np.bincount(np.asarray(strip).ravel())
    colours = np.array(strip.getpalette(), np.float32).reshape(-1, 3)
    enough = min(GROUND_MIN_SHARE * len(edges), counts.max())
    return [colours[index] for index in np.flatnonzero(counts >= enough)]


def _nearest(colours: Values, grounds: list[Values]) -> Values:
    """Measure the distance of each colour [..., 3] to the nearest ground: [...]."""
    squares = [np.square(colours - ground) @ EVENLY for ground in grounds]
    nearest: Values = np.sqrt(np.minimum.reduce(squares))
    return nearest


def trim(distances: Values) -> Values:
    """Cut rows and columns that show next to nothing but glows and stray specks."""
    brightest = float(np.quantile(distances, BRIGHT_QUANTILE))
    shown = (distances > max(TRIM_LEVEL * brightest, MIN_LEVEL)).astype(np.float32)
    spans = []
    for axis in (1, 0):
        profile = shown.mean(axis)
        inside = np.flatnonzero(profile > TRIM_SHARE * profile.max())
        spans.append(slice(inside[0], inside[-1] + 1) if inside.size else slice(None))
    return distances[spans[0], spans[1]]
