"""Picture bytes to 28x28 grey pixels, the way Fashion-MNIST was made.

    >>> to_pixels(Path("static/pictures/ankle-boot.png").read_bytes()).shape
    (28, 28)

The one preprocessing: the service, evaluation and training photos all come through
`to_pixels`. The steps are those of the data set's paper (Xiao, Rasul, Vollgraf,
arXiv 1708.07747, section 2): trim, resize, sharpen, extend, negate, grey.
"""

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFilter, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

Pixels = NDArray[np.uint8]

SIDE = 28  # pixels, of the square every picture becomes
MAX_PIXELS = 25_000_000  # of a picture, read from its header before it is decoded
WORK_SIDE = 256  # longest side while trimming, so that a large photo costs little
THUMBNAIL_SIDE = 73  # longest side of the product thumbnails the data was made from
TRIM_DISTANCE = 0.05 * 255  # from the corner's colour, in RGB space
WHITE = 255
DEEP_WHITE = 65535  # of a 16-bit picture
MIDDLE_GREY = 128

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

# 3x3 Gaussian of standard deviation 1, subtracted from twice the picture.
_gauss = np.exp(-(np.arange(-1, 2) ** 2) / 2.0)
_sharpen = -np.outer(_gauss, _gauss)
_sharpen[1, 1] = -2 * _sharpen.sum()
SHARPEN = ImageFilter.Kernel((3, 3), _sharpen.ravel().tolist(), _sharpen.sum())

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
        image.draft("RGB", (WORK_SIDE, WORK_SIDE))  # JPEG: decode at a fraction
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
    """Apply the paper's steps to an "L" or "RGB" picture: uint8 [28, 28].

    Two liberties: a large photo is first reduced to the size of the thumbnails
    that the authors began with, and a picture on dark ground is not negated.
    """
    image.thumbnail((WORK_SIDE, WORK_SIDE), reducing_gap=2.0)
    image, ground = trim(image)
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    image = subsample(image).filter(SHARPEN)
    image = ImageOps.pad(image, (SIDE, SIDE), color=ground)
    pixels = np.array(image.convert("L"))
    return WHITE - pixels if np.mean(ground) >= MIDDLE_GREY else pixels


def trim(image: Image.Image) -> tuple[Image.Image, tuple[int, ...]]:
    """Cut edges within 5 % of the corners' colour; return that colour as well."""
    values = np.asarray(image).reshape(image.height, image.width, -1).astype(np.int32)
    corners = values[[0, 0, -1, -1], [0, -1, 0, -1]]
    ground = np.median(corners, axis=0).astype(np.int32)
    object_mask = ((values - ground) ** 2).sum(axis=2) > TRIM_DISTANCE**2
    rows, columns = (object_mask.any(axis).nonzero()[0] for axis in (1, 0))
    if rows.size:
        left, top = int(columns[0]), int(rows[0])
        image = image.crop((left, top, int(columns[-1]) + 1, int(rows[-1]) + 1))
    return image, tuple(map(int, ground))


def subsample(image: Image.Image) -> Image.Image:
    """Bring the longest side to 28 by skipping rows and columns."""
    scale = SIDE / max(image.size)
    size = [max(1, round(side * scale)) for side in image.size]
    return image.resize((size[0], size[1]), Image.Resampling.NEAREST)
