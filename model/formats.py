"""Which format a picture has, by its first bytes: how it is read, or what it is called.

    >>> name_unread(b"8BPS")
    'Photoshop'

What is not read is named, so that whoever sent it knows what to save differently.
"""

import re

from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from model.heif import heif_reader

PNG = b"\x89PNG\r\n\x1a\n"
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
RAW = "a camera's raw format"
UNREAD: dict[bytes, str] = {  # a name by the first bytes
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"II\xbc\1": "JPEG XR",
    b"8BPS": "Photoshop",
    b"gimp xcf": "GIMP",
    b"%!PS": "PostScript",
    b"\xc5\xd0\xd3\xc6": "PostScript",
    b"%PDF": "PDF",
    b"\0\0\1\0": "Windows icon",
    b"\0\0\2\0": "Windows cursor",
    b"icns": "Apple icon",
    b"\xd7\xcd\xc6\x9a": "Windows metafile",
    b"qoif": "QOI",
    b"DDS ": "DirectDraw surface",
    b"v/1\1": "OpenEXR",
    b"#?RADIANCE": "Radiance HDR",
    b"SIMPLE  =": "FITS",
    b"BPG\xfb": "BPG",
    b"FLIF": "FLIF",
    b"\x8aMNG": "MNG",
    b"\x8bJNG": "JNG",
    b"AT&TFORM": "DjVu",
    b"\x59\xa6\x6a\x95": "Sun raster",
    b"\x01\xda\0": "SGI",
    b"\x01\xda\1": "SGI",
    b"/* XPM */": "XPM",
    b"FUJIFILMCCD-RAW": RAW,
    b"FOVb": RAW,
    b"IIU\0": RAW,
    b"IIRO": RAW,
    b"IIRS": RAW,
    b"\x1aE\xdf\xa3": "a video",
    b"PK\3\4": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"<svg": "SVG",
    b"<!DOCTYPE html": "a web page",
    b"<html": "a web page",
    **{b"P%d%c" % (kind, end): "Netpbm" for kind in range(1, 8) for end in b" \t\r\n"},
}
BRANDS: dict[bytes, str] = {  # a name by the brand of a file of boxes
    b"crx ": RAW,
    b"jxl ": "JPEG XL",
    b"mif1": "HEIF of neither HEVC nor AV1",
    b"msf1": "HEIF of neither HEVC nor AV1",
    b"avci": "HEIF of neither HEVC nor AV1",
    b"jpeg": "HEIF of neither HEVC nor AV1",
}
DICOM = slice(128, 132)
LOOKED_AT = 1000  # bytes, in which an SVG has its first element
COMPRESSIONS: dict[int, str] = {  # of TIFF
    **dict.fromkeys((33003, 33005, 34712), "JPEG 2000"),
    **dict.fromkeys((50002, 52546), "JPEG XL"),
    **dict.fromkeys((32767, 32769, 34713, 34892, 65000), "camera raw"),
    **dict.fromkeys((34661, 34715), "JBIG"),
    34887: "LERC",
}
# what Pillow calls pixels that it has no way to read
NO_WAY = re.compile(
    "unknown (pixel|raw) mode|unsupported bmp (compression|pixel)|cannot handle", re.I
)
FORMATS = "PNG, JPEG, WebP, HEIC, AVIF, GIF, BMP or TIFF"


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


def name_unread(data: bytes) -> str | None:
    """Return the name of a format that has no reader, None if it is not known."""
    start = data[:LOOKED_AT].removeprefix(b"\xef\xbb\xbf").lstrip()
    for signature, name in UNREAD.items():
        if data.startswith(signature) or start[: len(signature)] == signature:
            return name
    if data[4:8] == b"ftyp":
        return BRANDS.get(data[8:12], "a video")
    if data[:4] == b"RIFF" and data[8:12] == b"AVI ":
        return "a video"
    if data[DICOM] == b"DICM":
        return "DICOM"
    return "SVG" if b"<svg" in start and start[:1] == b"<" else None


def why_unread(error: Exception, name: str | None) -> str | None:
    """Return what kind of picture is not read if that is why its reader failed."""
    if isinstance(error, NotImplementedError):
        return str(error)
    cause = error.__cause__
    if isinstance(cause, KeyError) and isinstance(cause.args[0], int):
        kind = COMPRESSIONS.get(cause.args[0], "unknown")
        return f"a {name} with {kind} compression"
    return f"a {name} of this kind ({error})" if NO_WAY.search(str(error)) else None
