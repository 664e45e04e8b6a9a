"""Pictures out of a request's body, however they are sent.

    >>> read_pictures(body, "image/png", (28, 28)).is_batch
    False

Multipart is recognised by its header, everything else by its first bytes: clients send
pictures and JSON under any content type. What a header or a list announces is bounded
before it is parsed.
"""

import base64
import binascii
import codecs
import math
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Annotated, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import (
    Data,
    Epilogue,
    Event,
    File,
    MultipartDecoder,
    NeedData,
    State,
)
from werkzeug.sansio.multipart import Field as FormField

from model.formats import PNG, reader_of
from model.images import WHITE, ImageError, Pixels
from service.problems import EMPTY, MAX_PICTURES, TOO_MANY, RequestError
from service.schemas import ImageRequest, ImagesRequest, PredictRequest

MULTIPART = "multipart/form-data"
MAX_PARTS = 2 * MAX_PICTURES  # of a form: fields that are no files count as well
MAX_PART_HEAD = 2048  # bytes of the header fields of a part
FORM_CHUNK = 64 * 1024  # bytes that are parsed at a time
BLANK_LINE = re.compile(rb"\r\n\r\n|\n\n|\r\r")
MAX_JSON_NUMBERS = 1_000_000  # of a body, whatever the model's input shape
SMALL_PIXELS = 128 * 128
FIRST_CHUNK = PNG + b"\0\0\0\x0dIHDR"  # PNG specification, 11.2.1
# of a PNG, which may make much work of few bytes: text and profiles are compressed
COSTLY_CHUNKS = (b"zTXt", b"iTXt", b"iCCP", b"acTL")
JSON_EXTRA = 4096  # commas and brackets of a JSON body beside those of its numbers
NUMBERS_CHUNK = 64 * 1024  # numbers that are converted at a time
LINE_ENDS = b"\r\n\t"
WEB_SAFE = bytes.maketrans(b"-_", b"+/")  # of base64, RFC 4648
DATA_URL = b"data:"
MAX_BASE64_HEAD = 256  # bytes of a body by which base64 of a picture is recognised
FILE_TYPES = ("image/", "application/octet-stream")  # of a part without a file name
TO_ASCII = bytes(range(128)) + b"?" * 128
# zlib's window bits of each Content-Encoding: gzip, zlib and deflate without a header
WINDOW_BITS = {"gzip": [31], "x-gzip": [31], "deflate": [15, -15]}
REQUEST: TypeAdapter[PredictRequest] = TypeAdapter(
    Annotated[PredictRequest, Field(union_mode="left_to_right")]
)

GREY_AXES = 2  # of an input shape: height and width

Picture = bytes | Pixels | ImageError  # encoded, an input array, or unreadable
Schema = TypeVar("Schema", bound=BaseModel)
Parsed = TypeVar("Parsed")


class Pictures(NamedTuple):
    """The pictures of a request, in the order sent."""

    pictures: list[Picture]
    is_batch: bool  # the answer is a list, even of one


def read_pictures(
    body: bytes, content_type: str, input_shape: tuple[int, ...]
) -> Pictures:
    """Read the pictures of a body. Raises `RequestError`."""
    if content_type[: len(MULTIPART)].lower() == MULTIPART:
        files = read_form(body, content_type)
        return Pictures([*files], len(files) > 1)
    if not body:
        raise RequestError("bad_request", EMPTY)
    if reader_of(body) is not None:
        return Pictures([body], is_batch=False)
    text = to_utf8(body)
    if is_base64(text):
        return Pictures([from_base64(text)], is_batch=False)
    if is_json(text, content_type):
        return read_json(text, input_shape)
    return Pictures([body], is_batch=False)


def is_json(body: bytes, content_type: str) -> bool:
    """Return whether a body is JSON by its header or its first byte."""
    if "json" in content_type.lower():
        return True
    return body[:64].lstrip().startswith((b"{", b"["))


def is_base64(body: bytes) -> bool:
    """Return whether a body is a data URL or base64 of a picture: its first bytes."""
    if body[: len(DATA_URL)].lower() == DATA_URL:
        return True
    head = body[:MAX_BASE64_HEAD].translate(WEB_SAFE, LINE_ENDS).strip()
    try:
        decoded = base64.b64decode(head[: len(head) // 4 * 4], validate=True)
    except binascii.Error:
        return False
    return reader_of(decoded) is not None


def to_utf8(text: bytes) -> bytes:
    """Return text without its byte order mark, which may say that it is UTF-16."""
    if text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return text.decode("utf-16", "replace").encode()
    return text.removeprefix(codecs.BOM_UTF8)


def unpack(body: bytes, encoding: str, limit: int) -> bytes | None:
    """Return a body without its Content-Encoding; None if it is over the limit.

    Raises `RequestError` if the encoding is another than gzip or deflate, or not true.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return body
    if name not in WINDOW_BITS:
        detail = f"send the body as it is, or as gzip or deflate, not {encoding}"
        accepted = {"Accept-Encoding": "gzip, deflate"}
        raise RequestError("unsupported_image", detail, accepted)
    for bits in WINDOW_BITS[name]:
        decoder = zlib.decompressobj(bits)
        try:
            unpacked = decoder.decompress(body, limit + 1)
        except zlib.error:
            continue
        if len(unpacked) > limit:
            return None
        if decoder.eof and not decoder.unused_data:
            return unpacked
    raise RequestError("bad_request", f"the body is not one whole stream of {name}")


def read_form(body: bytes, content_type: str) -> list[bytes]:
    """Return the files of a multipart form, whatever their names.

    Raises `RequestError` if it does not parse or holds no file.
    """
    boundary = parse_options_header(content_type)[1].get("boundary", "")
    try:
        if not boundary:
            raise ValueError("no boundary in its header")
        files = decode_form(boundary.encode(), body)
    except RequestEntityTooLarge as error:
        raise RequestError("too_large", TOO_MANY) from error
    except ValueError as error:
        detail = f"the form does not parse: {error}"
        raise RequestError("bad_request", detail) from error
    if not files:
        detail = "no file in the form: curl -F image=@picture.png"
        raise RequestError("bad_request", detail)
    return files


def decode_form(boundary: bytes, body: bytes) -> list[bytes]:
    """Return the files of a form. Raises `ValueError`, `RequestEntityTooLarge`."""
    files: list[list[bytes]] = []
    chunks: list[bytes] = []
    names: list[str] = []
    for event in form_events(MultipartDecoder(boundary, max_parts=MAX_PARTS), body):
        if isinstance(event, File | FormField):
            chunks = []
            if is_file(event):
                files.append(chunks)
                names.append(getattr(event, "filename", ""))
        elif isinstance(event, Data):
            chunks.append(event.data)
    joined = [b"".join(chunks) for chunks in files]
    # an input without a choice is sent as a file without a name
    return [data for name, data in zip(names, joined, strict=True) if name or data]


def is_file(part: File | FormField) -> bool:
    """Return whether a part of a form is a file, by its file name or its type."""
    kind = part.headers.get("Content-Type", "").lower()
    return isinstance(part, File) or kind.startswith(FILE_TYPES)


def form_events(decoder: MultipartDecoder, body: bytes) -> Iterator[Event]:
    """Decode a form in small steps: one costs what is buffered.

    Raises `ValueError` if the form does not parse or has a long head.
    """
    for start in range(0, len(body) + FORM_CHUNK, FORM_CHUNK):
        decoder.receive_data(body[start : start + FORM_CHUNK] or None)
        while True:
            check_head(decoder)
            event = decoder.next_event()
            if isinstance(event, NeedData):
                break
            yield event
            if isinstance(event, Epilogue):
                return


def check_head(decoder: MultipartDecoder) -> None:
    """Raise `ValueError` if what is before a part's data is too long to parse.

    What is not ASCII in a head, a file name in Latin-1 for instance, is replaced.
    """
    if decoder.state is State.PREAMBLE and len(decoder.buffer) > FORM_CHUNK:
        raise ValueError("it does not begin with its boundary")
    if decoder.state is State.PART:
        head = decoder.buffer[:MAX_PART_HEAD]
        end = BLANK_LINE.search(head)
        if end:
            decoder.buffer[: end.end()] = head[: end.end()].translate(TO_ASCII)
        elif len(head) == MAX_PART_HEAD:
            raise ValueError(f"the head of a part is over {MAX_PART_HEAD} bytes")


def read_json(body: bytes, input_shape: tuple[int, ...]) -> Pictures:
    """Read `image`, `images` or `pixels` out of a JSON body."""
    check_json_size(body, input_shape)
    try:
        document = validate(REQUEST.validate_json, body)
    except ValidationError as error:
        raise RequestError("bad_request", why_invalid(error)) from error
    if isinstance(document, ImageRequest):
        return Pictures([from_base64(document.image)], is_batch=False)
    if isinstance(document, ImagesRequest):
        return Pictures([from_base64(text) for text in document.images], is_batch=True)
    return read_numbers(document.pixels, input_shape)


def parse_json(
    schema: type[Schema], body: bytes, input_shape: tuple[int, ...]
) -> Schema:
    """Validate a message of a protocol. Raises `RequestError` with the first fault."""
    check_json_size(body, input_shape)
    try:
        return validate(schema.model_validate_json, to_utf8(body))
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        parts = [str(part) for part in fault["loc"]]  # [...]: a type of a union
        place = ".".join(part for part in parts if "[" not in part) or "the body"
        raise RequestError("bad_request", f"{place}: {fault['msg']}") from error


def validate(parse: Callable[[bytes], Parsed], body: bytes) -> Parsed:
    """Parse JSON, in a string of which line ends may stand: `"$(base64 shirt.jpg)"`.

    Raises `ValidationError`.
    """
    try:
        return parse(body)
    except ValidationError as error:
        if "control character" not in str(error.errors()[0]["msg"]):
            raise
    return parse(body.translate(None, LINE_ENDS))


def check_json_size(body: bytes, input_shape: tuple[int, ...]) -> None:
    """Raise `RequestError` if a body holds more values or lists than any request needs.

    Counted before the parse, which costs some 400 bytes and 2 us for each.
    """
    numbers = max_numbers(input_shape)
    most = numbers + JSON_EXTRA
    # a list a number, with a channel axis, and those of rows and pictures around them
    lists = most + 2 * numbers // input_shape[-1]
    if body.count(b",") > most or body.count(b"[") + body.count(b"{") > lists:
        raise RequestError("too_large", TOO_MANY)


def max_numbers(input_shape: tuple[int, ...]) -> int:
    """Return how many numbers a JSON body may hold."""
    return min(MAX_PICTURES * math.prod(input_shape), MAX_JSON_NUMBERS)


def why_invalid(error: ValidationError) -> str:
    """Describe why a JSON body is no request: it does not parse, or has no picture."""
    fault = error.errors(include_url=False, include_input=False)[0]
    if fault["type"] == "json_invalid":
        return f"the JSON does not parse: {fault['msg']}"
    return 'send {"image": "<base64>"}, {"images": [...]} or {"pixels": [[...]]}'


def read_numbers(values: list[Any], input_shape: tuple[int, ...]) -> Pictures:
    """Read numbers of the model's input shape as one picture, [N, ...] as a batch."""
    numbers = to_array(values)
    if numbers.ndim > len(input_shape) == GREY_AXES and numbers.shape[-1] == 1:
        numbers = numbers[..., 0]  # an axis of channels, last
    if numbers.shape not in (input_shape, (len(values), *input_shape)):
        shape = "x".join(map(str, input_shape))
        detail = f"pixels must be {shape} or Nx{shape}, not {numbers.shape}"
        raise RequestError("bad_request", detail)
    is_batch = numbers.shape != input_shape
    pixels = from_numbers(numbers).reshape(-1, *input_shape)
    return Pictures([*pixels], is_batch)


def from_base64(text: object) -> Picture:
    """Decode one picture; return an `ImageError` if it is not base64.

    Line ends and a missing padding are no fault, both alphabets of RFC 4648 are read,
    and so is a data URL (RFC 2397).
    """
    try:
        data = text.encode() if isinstance(text, str) else text
        if not isinstance(data, bytes):
            raise TypeError("it is no text")
        if data[: len(DATA_URL)].lower() == DATA_URL:
            data = data[data.find(b",") + 1 :]
        # a space within is a fault: it is what decoding a form makes of a plus
        data = data.translate(WEB_SAFE, LINE_ENDS).strip()
        return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        return ImageError(f"the picture is not base64: {error}")


def to_array(values: list[Any] | bytes) -> NDArray[Any]:
    """Return levels as an array of uint8, lists as one of objects.

    Uneven rows stay lists inside of it.
    """
    if isinstance(values, bytes):
        return np.frombuffer(values, np.uint8)
    return np.array(values, dtype=object)  # other types copy strings at length


def from_numbers(numbers: NDArray[Any]) -> Pixels:
    """Round numbers from 0 to 255: uint8 of the same shape. Raises `RequestError`.

    If all are 0 or 1 they are a mask, and 1 is white.
    """
    flat = numbers.reshape(-1)
    pixels = np.empty(flat.size, np.uint8)
    is_whole = True
    for start in range(0, flat.size, NUMBERS_CHUNK):
        part = flat[start : start + NUMBERS_CHUNK]
        levels = pixels[start : start + NUMBERS_CHUNK]
        levels[:] = to_levels(part)
        is_whole = is_whole and bool((levels == part).all())
    if pixels.max(initial=0) <= 1:
        if not is_whole:
            detail = "pixels are from 0 to 255, these from 0 to 1: times 255"
            raise RequestError("bad_request", detail)
        pixels *= WHITE
    return pixels.reshape(numbers.shape)


def to_levels(numbers: NDArray[Any]) -> NDArray[Any]:
    """Return rounded numbers from 0 to 255. Raises `RequestError` at any other."""
    if numbers.dtype == np.uint8:
        return numbers
    fault = RequestError("bad_request", "pixels must be numbers from 0 to 255")
    if numbers.dtype == object:
        types = set(map(type, numbers))
        if not types <= {int, float} and types != {bool}:
            raise fault
        try:
            numbers = numbers.astype(np.float64)
        except OverflowError as error:
            raise fault from error
    if not ((numbers >= 0) & (numbers <= WHITE)).all():  # NaN is neither
        raise fault
    return numbers.round() if numbers.dtype.kind == "f" else numbers


def is_small_png(picture: Picture) -> bool:
    """Return whether a picture is a PNG that is quickly decoded, whatever it claims."""
    if not isinstance(picture, bytes) or not picture.startswith(FIRST_CHUNK):
        return False
    width, height = (int.from_bytes(picture[at : at + 4], "big") for at in (16, 20))
    return (
        width * height <= SMALL_PIXELS
        and picture.count(b"IHDR") == 1
        and not any(map(picture.count, COSTLY_CHUNKS))
    )
