"""What requests hold: pictures as bytes, files, base64 or numbers, out of any body.

    >>> read_pictures(Path("static/pictures/ankle-boot.png").read_bytes())[1]
    False

Every route reads its pictures here, so that limits and error texts are the same.
"""

import base64
import binascii
import io
import re
from typing import Annotated, Any

import numpy as np
from flask import current_app, request
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError
from werkzeug.exceptions import BadRequest
from werkzeug.formparser import FormDataParser

from model.images import (
    PNG,
    SIDE,
    WHITE,
    ImageError,
    Pixels,
    TooLargeError,
    reader_of,
    to_pixels,
)
from service.problems import MAX_PICTURES, TOO_MANY
from service.schemas import ImageRequest, ImagesRequest, PredictRequest

MAX_NUMBERS = MAX_PICTURES * SIDE * SIDE
SMALL = 128 * 128  # pixels
FORM = re.compile(r'multipart/form-data; boundary=("?)([0-9A-Za-z-]{1,70})\1')
FILE = re.compile(  # how one begins in a form, as curl and most libraries write it
    rb'\r\nContent-Disposition: form-data; name="[ !#-[\]-~]*"; filename="[ !#-[\]-~]*"'
    rb"\r\n(?:Content-Type: [ -~]*\r\n)?\r\n"
)
PLAIN_JSON = re.compile(
    rb'\{[ \t\r\n]*"image":[ \t\r\n]*"([^"]+)"[ \t\r\n]*\}[ \t\r\n]*'
)
FIRST_CHUNK = PNG + b"\0\0\0\x0dIHDR"  # PNG specification, 11.2.1
# of a PNG, which may make much work of few bytes: text and profiles are packed
COSTLY_CHUNKS = (b"zTXt", b"iTXt", b"iCCP", b"acTL")
REQUEST: TypeAdapter[PredictRequest] = TypeAdapter(
    Annotated[PredictRequest, Field(union_mode="left_to_right")]
)

Picture = bytes | Pixels | ImageError  # encoded, ready for the network, or unreadable


def plain_pictures(body: bytes, kind: str, *, small: bool) -> list[bytes]:
    """Return the pictures of a body: as it is, files in a plain form, or one in JSON.

    `kind` is the body's Content-Type. With `small` there must be one, a small PNG. Of
    all other bodies nothing is returned: `read_files` and `read_pictures` read those.
    """
    if kind.lower().startswith("multipart/"):
        pictures = out_of_form(body, kind)
    elif body.startswith(b"{"):
        pictures = out_of_json(body)
    else:
        pictures = [body]
    if small:
        return pictures if len(pictures) == 1 and is_small_png(pictures[0]) else []
    is_taken = len(pictures) <= MAX_PICTURES and all(map(reader_of, pictures))
    return pictures if is_taken else []


def is_small_png(picture: bytes) -> bool:
    """Tell whether a picture is a PNG that is quickly decoded, whatever it claims."""
    if not picture.startswith(FIRST_CHUNK) or picture.count(b"IHDR") > 1:
        return False
    width, height = (int.from_bytes(picture[at : at + 4], "big") for at in (16, 20))
    return width * height <= SMALL and not any(map(picture.count, COSTLY_CHUNKS))


def out_of_form(body: bytes, kind: str) -> list[bytes]:
    """Return the files of a form as curl writes it; nothing of any other."""
    found = FORM.fullmatch(kind)
    boundary = b"--" + found[2].encode() if found else b""
    if not boundary or not body.startswith(boundary):
        return []
    *parts, end = body[len(boundary) :].split(b"\r\n" + boundary)
    if end not in (b"--", b"--\r\n") or body.count(boundary) > len(parts) + 1:
        return []
    heads = [FILE.match(part) for part in parts]
    files = [
        part[head.end() :] for part, head in zip(parts, heads, strict=True) if head
    ]
    return files if len(files) == len(parts) else []


def out_of_json(body: bytes) -> list[bytes]:
    """Return the picture of a plain JSON request; nothing of any other."""
    found = PLAIN_JSON.fullmatch(body)
    try:
        return [binascii.a2b_base64(found[1], strict_mode=True)] if found else []
    except binascii.Error:
        return []


def read_body() -> bytes:
    """Read the body in one piece if its length is known: growing a buffer is slow."""
    try:
        if request.content_length is not None:
            return request.stream.read(request.content_length)
        body = request.get_data(cache=False)
        request.stream.read(1)  # raises 413 if the limit has cut the body short
    except OSError as error:  # the client has left
        raise BadRequest(f"the body cannot be read: {error}") from error
    return body


def read_files() -> list[Picture]:
    """Read the files of a multipart form, in the order sent, whatever their names."""
    parser = FormDataParser(
        stream_factory=lambda *_args, **_kwargs: io.BytesIO(),  # the body is bounded
        max_form_memory_size=current_app.config["MAX_CONTENT_LENGTH"],
        max_form_parts=2 * MAX_PICTURES,  # fields that are no files count as well
        cls=list,  # type: ignore[arg-type]  # a dictionary would lose the order
        silent=False,
    )
    options = request.mimetype_params
    try:
        files: Any = parser.parse(request.stream, request.mimetype, None, options)[2]
    except (OSError, ValueError) as error:
        raise BadRequest(f"the form does not parse: {error}") from error
    if not files:
        raise BadRequest("no file in the form: curl -F image=@shirt.png")
    return [file.read() for _, file in files]


def read_pictures(body: bytes) -> tuple[list[Picture], bool]:
    """Take the pictures out of a body that is no form; tell if they are a batch."""
    if not body:
        raise BadRequest(
            "the body is empty: send a picture, a form with a file or JSON"
        )
    if reader_of(body) is None and (
        request.is_json or body.lstrip().startswith((b"{", b"["))
    ):
        return read_json(body)
    return [body], False


def read_json(body: bytes) -> tuple[list[Picture], bool]:
    """Read `image`, `images` or `pixels` out of a JSON body."""
    if body.count(b",") > MAX_NUMBERS:  # told before a costly parse
        raise TooLargeError(TOO_MANY)
    try:
        document = REQUEST.validate_json(body)
    except ValidationError as error:
        raise BadRequest(why_invalid(error)) from error
    if isinstance(document, ImageRequest):
        return [from_base64(document.image)], False
    if isinstance(document, ImagesRequest):
        return [from_base64(text) for text in document.images], True
    return read_numbers(document.pixels)


def why_invalid(error: ValidationError) -> str:
    """Tell JSON that does not parse from JSON that says something else."""
    fault = error.errors(include_url=False, include_input=False)[0]
    if fault["type"] == "json_invalid":
        return f"the JSON does not parse: {fault['msg']}"
    return 'send {"image": "<base64>"}, {"images": [...]} or {"pixels": [[...]]}'


def read_numbers(values: list[Any]) -> tuple[list[Picture], bool]:
    """Read 28x28 numbers as one picture, Nx28x28 as a batch."""
    numbers = to_array(values)
    if numbers.ndim > 3 or numbers.shape[-2:] != (SIDE, SIDE):  # noqa: PLR2004
        raise BadRequest(f"pixels must be 28x28 or Nx28x28, not {numbers.shape}")
    is_batch = numbers.shape != (SIDE, SIDE)
    return list(from_numbers(numbers).reshape(-1, SIDE, SIDE)), is_batch


def from_base64(text: object) -> Picture:
    """Decode one picture, or say why it cannot be."""
    try:
        return base64.b64decode(text, validate=True)  # type: ignore[arg-type]
    except (binascii.Error, ValueError, TypeError) as error:
        is_url = isinstance(text, str) and text.startswith("data:")
        why = "leave out what is before the comma" if is_url else error
        return ImageError(f"the picture is not base64: {why}")


def to_array(values: list[Any] | bytes) -> NDArray[Any]:
    """Hold levels as an array of uint8, lists as one of objects.

    Uneven rows stay lists inside of it.
    """
    if isinstance(values, bytes):
        return np.frombuffer(values, np.uint8)
    return np.array(values, dtype=object)  # other types copy strings at length


def from_numbers(numbers: NDArray[Any]) -> Pixels:
    """Round numbers from 0 to 255: uint8 of the same shape. Raises `BadRequest`."""
    if numbers.dtype == np.uint8:
        return numbers
    complaint = BadRequest("pixels must be numbers from 0 to 255")
    if numbers.dtype == object and not set(map(type, numbers.flat)) <= {int, float}:
        raise complaint
    try:
        levels = numbers.astype(np.float64)
    except OverflowError as error:
        raise complaint from error
    if not ((levels >= 0) & (levels <= WHITE)).all():  # NaN is neither
        raise complaint
    whole = levels.round()
    if levels.max(initial=0) <= 1 and (levels != whole).any():
        raise BadRequest("pixels are from 0 to 255, these from 0 to 1: times 255")
    return whole.astype(np.uint8)


def decode(picture: Picture) -> Pixels | ImageError:
    """Bring a picture to pixels, or return the error that says why not."""
    if not isinstance(picture, bytes):
        return picture
    try:
        return to_pixels(picture)
    except ImageError as error:
        return error
