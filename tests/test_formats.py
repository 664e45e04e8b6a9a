"""A format that is not read is named, with what to do."""

import struct

import pytest
from conftest import Encode
from test_garment import trousers
from test_headers import segment, tiff

from model.formats import UNREAD
from model.images import UnsupportedImageError, decode

NAMED = [
    (b"8BPS\0\1", "Photoshop"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
    (b"\xef\xbb\xbf\n<svg/>", "SVG"),
    (b"P6 2 2 255\n", "Netpbm"),
    (b"\0\0\0\x18ftypisom", "a video"),
    (b"\0\0\0\x18ftypcrx ", "a camera's raw format"),
    (b"\0\0\0\x18ftypavci", "HEIF"),
    (b"RIFF\0\0\0\0AVI ", "a video"),
    (bytes(128) + b"DICM", "DICOM"),
    (tiff({259: 34712, 273: 1000, 279: 9}, bytes(9)), "JPEG 2000 compression"),
    (tiff({259: 9999, 273: 1000, 279: 9}, bytes(9)), "unknown compression"),
    (tiff({339: 3, 258: 64, 273: 1000, 279: 9}, bytes(9)), "TIFF of this kind"),
    (
        b"\xff\xd8" + segment(0xC1, b"\x0c\0\1\0\1\1\1\x11\0") + b"\xff\xd9",
        "JPEG of this kind",
    ),
]


@pytest.mark.parametrize(("data", "name"), NAMED, ids=[name for _, name in NAMED])
def test_what_is_not_read_is_named(data: bytes, name: str) -> None:
    with pytest.raises(UnsupportedImageError, match=f"{name}.* save it as JPEG"):
        decode(data + bytes(40))


@pytest.mark.parametrize("signature", UNREAD)
def test_each_signature_has_a_name(signature: bytes) -> None:
    with pytest.raises(UnsupportedImageError, match="save it as JPEG"):
        decode(signature + b"\0\xff" * 40)


def test_a_compression_of_bmp_that_is_not_read_is_named(encode: Encode) -> None:
    data = encode(trousers(), "BMP")
    with pytest.raises(UnsupportedImageError, match="a BMP of this kind"):
        decode(data[:30] + struct.pack("<I", 4) + data[34:])
