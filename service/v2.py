"""The Open Inference Protocol V2 and the Seldon protocol, over the same classifier.

    curl localhost:9696/v2/models/fashion
    seldon-core-tester contract.json 127.0.0.1 9696 -p

`predict.py` registers both blueprints and lends them its `classifier` and `classify`.
An unknown picture is an output here, not an error; a bad one fails its whole request.
Errors are raised as everywhere, and `refuse` words them as the protocol wants.
"""

import math
import struct
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote_to_bytes

import numpy as np
from flask import Blueprint, Response, current_app, g, request
from numpy.typing import NDArray
from pydantic import ValidationError
from werkzeug.exceptions import BadRequest, NotFound, UnsupportedMediaType

from model.classifier import Classifier, Prediction
from model.images import SIDE, ImageError, TooLargeError
from service.answers import Outcome
from service.bodies import (
    MAX_NUMBERS,
    Picture,
    from_base64,
    from_numbers,
    read_body,
    to_array,
)
from service.openapi import VERSION
from service.problems import MAX_PICTURES, TOO_MANY
from service.schemas import (
    ImageInput,
    InferenceError,
    InferenceRequest,
    InferenceResponse,
    Message,
    ModelMetadata,
    ModelReady,
    OutputName,
    OutputTensor,
    PixelsInput,
    SeldonData,
    SeldonError,
    SeldonMessage,
    SeldonMeta,
    SeldonStatus,
    SeldonTensor,
    ServerLive,
    ServerMetadata,
    ServerReady,
    TensorMetadata,
    TensorParameters,
)

INFER = "/v2/models/<name>/infer"
HEADER_LENGTH = "Inference-Header-Content-Length"  # bytes of JSON before binary data
SELDON_FORM = b"json="  # how a body starts that is the Seldon form
MAX_COMMAS = MAX_NUMBERS + 4096  # of a body: its numbers, and what is beside them
MAX_DETAIL = 500  # characters of an error's text, which may quote the request

PIXELS_ROWS = [SIDE, SIDE], [SIDE * SIDE], [1, SIDE, SIDE]  # shapes of one picture
IMAGE_ROWS: tuple[list[int], ...] = ([], [1])

DTYPES = {"UINT8": "u1", "FP32": "<f4", "INT64": "<i8", "BOOL": "?"}

# name: datatype, values of one picture
OUTPUTS: dict[OutputName, tuple[str, Callable[[Prediction], list[Any]]]] = {
    "probabilities": ("FP32", lambda one: list(one.probabilities.values())),
    "class_id": ("INT64", lambda one: [one.class_id]),
    "label": ("BYTES", lambda one: [one.label]),
    "is_unknown": ("BOOL", lambda one: [one.is_unknown]),
    "unknown_score": ("FP32", lambda one: [one.unknown_score]),
}

M = TypeVar("M", bound=Message)


class PlainRequest(NamedTuple):
    """A request that holds and wants no binary data."""

    message: InferenceRequest
    wanted: dict[OutputName, bool]
    pictures: list[Picture]


v2 = Blueprint("v2", __name__, url_prefix="/v2")
seldon = Blueprint("seldon", __name__)


@v2.get("/health/live")
def live() -> Response:
    """Tell that the service answers."""
    return respond(ServerLive(live=True))


@v2.get("/health/ready")
def ready() -> Response:
    """Tell that this worker can classify: a `Classifier` has run its network once."""
    return respond(ServerReady(live=True, ready=True))


@v2.get("", strict_slashes=False)
def server_metadata() -> Response:
    """Tell what the service is."""
    return respond(
        ServerMetadata(
            name="fashion-mnist", version=VERSION, extensions=["binary_tensor_data"]
        )
    )


@v2.get("/models/<name>")
@v2.get("/models/<name>/versions/<version>")
def model_metadata(name: str, version: str | None = None) -> Response:
    """Tell what the model takes and gives."""
    model = find_model(name, version)
    inputs = [
        TensorMetadata(name="pixels", datatype="UINT8", shape=[-1, SIDE, SIDE]),
        TensorMetadata(name="image", datatype="BYTES", shape=[-1]),
    ]
    outputs = [
        TensorMetadata(
            name=output, datatype=datatype, shape=shape_of(output, -1, model)
        )
        for output, (datatype, _) in OUTPUTS.items()
    ]
    return respond(
        ModelMetadata(
            name=model.name,
            versions=[model.version],
            platform="onnx_onnxv1",
            inputs=inputs,
            outputs=outputs,
        )
    )


@v2.get("/models/<name>/ready")
@v2.get("/models/<name>/versions/<version>/ready")
def model_ready(name: str, version: str | None = None) -> Response:
    """Tell that the model can classify, as `ready` does."""
    return respond(ModelReady(name=find_model(name, version).name, ready=True))


@v2.post(INFER.removeprefix("/v2"))
@v2.post("/models/<name>/versions/<version>/infer")
def infer(name: str, version: str | None = None) -> Response:
    """Classify the pictures of one input tensor; answer with the outputs asked for."""
    model = find_model(name, version)
    head, binary = split_body(receive())
    message = parse(InferenceRequest, head)
    wanted = wanted_outputs(message)
    predictions = classify(read_input(message, binary))
    answer, data = say(message, wanted, predictions, model)
    return respond(answer, binary=data)


def say(
    message: InferenceRequest,
    wanted: dict[OutputName, bool],
    predictions: list[Prediction],
    model: Classifier,
) -> tuple[InferenceResponse, bytes]:
    """Make the answer to a request, and the binary data that follows it."""
    written = [write_output(*output, predictions, model) for output in wanted.items()]
    answer = InferenceResponse(
        model_name=model.name,
        model_version=model.version,
        id=message.id,
        outputs=[tensor for tensor, _ in written],
    )
    return answer, b"".join(chunk for _, chunk in written)


def read_plain(body: bytes) -> PlainRequest | None:
    """Read a request of pixels, all in JSON, for `shortcut.py`; no other."""
    if b"pixels" not in body:  # pictures may take long to decode
        return None
    message = parse(InferenceRequest, body)
    wanted = wanted_outputs(message)
    pictures = read_input(message, b"")
    are_pixels = all(isinstance(one, np.ndarray) for one in pictures)
    if any(wanted.values()) or not are_pixels:
        return None
    return PlainRequest(message, wanted, pictures)


def say_plainly(
    asked: PlainRequest, outcomes: list[Outcome], model: Classifier
) -> bytes:
    """Write the answer to such a request."""
    answer, _ = say(asked.message, asked.wanted, predictions_of(outcomes), model)
    return to_text(answer) + b"\n"


@seldon.post("/api/v1.0/predictions")
def seldon_predictions() -> Response:
    """Classify the pictures of a Seldon message."""
    return predict_seldon(receive())


def predict_seldon(body: bytes) -> Response:
    """Answer a Seldon message, JSON or a form: probabilities, and more in the tags."""
    g.is_seldon = True
    message = parse(SeldonMessage, unwrap(body))
    predictions = classify(read_data(message.data))
    model = served_model()
    tags = {
        "label": [one.label for one in predictions],
        "class_id": [one.class_id for one in predictions],
        "unknown": [one.is_unknown for one in predictions],
        "unknown_score": [one.unknown_score for one in predictions],
        "model": {"name": model.name, "version": model.version},
    }
    rows = [list(one.probabilities.values()) for one in predictions]
    data = SeldonData(names=model.classes)
    if message.data.tensor is None:
        data.ndarray = rows
    else:
        shape = [len(rows), len(model.classes)]
        data.tensor = SeldonTensor(shape=shape, values=[p for row in rows for p in row])
    puid = message.meta.puid if message.meta else None
    return respond(SeldonMessage(meta=SeldonMeta(puid=puid, tags=tags), data=data))


def served_model() -> Classifier:
    """Return the one model there is."""
    model: Classifier = current_app.extensions["classifier"]
    return model


def find_model(name: str, version: str | None) -> Classifier:
    """Return the model that a path names. Raises `NotFound`."""
    model = served_model()
    if name != model.name:
        raise NotFound(f"there is no model {name!r}, only {model.name!r}")
    if version not in (None, model.version):
        raise NotFound(f"there is no version {version!r}, only {model.version!r}")
    return model


def receive() -> bytes:
    """Read the body. Compressed ones are refused: a small one could unpack to much."""
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise UnsupportedMediaType(f"send the body as it is, not {encoding}")
    return read_body()


def split_body(body: bytes) -> tuple[bytes, bytes]:
    """Part the JSON from the binary data that follows it if a header says so."""
    header = request.headers.get(HEADER_LENGTH, str(len(body)))
    try:
        length = int(header)
    except ValueError:
        length = -1
    if not 0 <= length <= len(body):
        raise BadRequest(f"{HEADER_LENGTH} must be from 0 to {len(body)}, the body")
    return body[:length], body[length:]


def unwrap(body: bytes) -> bytes:
    """Take the JSON out of a Seldon form; leave anything else as it is."""
    if not body.startswith(SELDON_FORM):
        return body
    field = body.removeprefix(SELDON_FORM).partition(b"&")[0]
    if field.count(b"%") > 2 * MAX_COMMAS:  # told before a costly parse
        raise TooLargeError(TOO_MANY)
    return unquote_to_bytes(field.replace(b"+", b" "))


def parse(schema: type[M], body: bytes) -> M:
    """Read a message. Raises `BadRequest` with the first fault."""
    if body.count(b",") > MAX_COMMAS:  # told before a costly parse
        raise TooLargeError(TOO_MANY)
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        parts = [str(part) for part in fault["loc"]]  # [...]: a type of a union
        place = ".".join(part for part in parts if "[" not in part) or "the body"
        raise BadRequest(f"{place}: {fault['msg']}") from error


def wanted_outputs(message: InferenceRequest) -> dict[OutputName, bool]:
    """Tell which outputs to send, in which order, and which of them as binary data."""
    parameters = message.parameters
    default = bool(parameters and parameters.binary_data_output)
    if not message.outputs:
        return dict.fromkeys(OUTPUTS, default)
    wanted: dict[OutputName, bool] = {}
    for output in message.outputs:
        if output.name in wanted:
            raise BadRequest(f"the output {output.name} is asked for twice")
        choice = output.parameters.binary_data if output.parameters else None
        wanted[output.name] = default if choice is None else choice
    return wanted


def read_input(message: InferenceRequest, binary: bytes) -> list[Picture]:
    """Read the pictures of a request's one input, from `data` or binary data."""
    if len(message.inputs) != 1:
        raise BadRequest(f"send one input, pixels or image, not {len(message.inputs)}")
    tensor = message.inputs[0]
    size = tensor.parameters.binary_data_size if tensor.parameters else None
    if (size is None) == (tensor.data is None):
        raise BadRequest(f"{tensor.name} needs either data or binary_data_size")
    if len(binary) != (size or 0):
        raise BadRequest(
            f"binary_data_size is {size or 0}, {len(binary)} bytes follow the JSON"
            f" ({HEADER_LENGTH} says where it ends)"
        )
    if isinstance(tensor, ImageInput):
        return read_images(tensor, binary)
    return read_pixels(tensor, binary)


def read_pixels(tensor: PixelsInput, binary: bytes) -> list[Picture]:
    """Read numbers, nested, flat or binary."""
    if tensor.data is not None:
        return to_pictures(to_array(tensor.data), tensor.shape)
    dtype = np.dtype(DTYPES[tensor.datatype])
    if len(binary) % dtype.itemsize:
        raise BadRequest(f"{len(binary)} bytes are not a whole number of FP32")
    return to_pictures(np.frombuffer(binary, dtype), tensor.shape)


def read_images(tensor: ImageInput, binary: bytes) -> list[Picture]:
    """Read encoded pictures: base64 in JSON, base64 or the files as binary data."""
    if tensor.data is not None:
        texts = to_array(tensor.data)
        check_shape("image", texts, tensor.shape, IMAGE_ROWS)
        return [from_base64(text) for text in texts.flat]
    elements = split_elements(binary)
    check_shape("image", to_array(elements), tensor.shape, IMAGE_ROWS)
    decoded = [from_base64(element) for element in elements]
    return [
        element if isinstance(picture, ImageError) else picture  # no file is base64
        for element, picture in zip(elements, decoded, strict=True)
    ]


def split_elements(binary: bytes) -> list[bytes]:
    """Take a BYTES tensor apart: before each element its length, 4 bytes."""
    elements: list[bytes] = []
    start = 0
    while start < len(binary):
        if len(elements) == MAX_PICTURES:
            raise TooLargeError(TOO_MANY)
        length = int.from_bytes(binary[start : start + 4], "little")
        start += 4 + length
        if start > len(binary):
            raise BadRequest("the binary data of image ends within an element")
        elements.append(binary[start - length : start])
    return elements


def read_data(data: SeldonData) -> list[Picture]:
    """Read the numbers of a Seldon message."""
    if (data.tensor is None) == (data.ndarray is None):
        raise BadRequest("send either data.ndarray or data.tensor")
    if data.tensor is not None:
        return to_pictures(to_array(data.tensor.values), data.tensor.shape)
    numbers = to_array(data.ndarray or [])
    return to_pictures(numbers, list(numbers.shape))


def to_pictures(numbers: NDArray[Any], shape: list[int]) -> list[Picture]:
    """Turn numbers, flat or in their shape, into pixels, picture by picture."""
    check_shape("pixels", numbers, shape, PIXELS_ROWS)
    return list(from_numbers(numbers).reshape(-1, SIDE, SIDE))


def check_shape(
    name: str, values: NDArray[Any], shape: list[int], rows: tuple[list[int], ...]
) -> None:
    """Check that a shape is N times one of `rows`, and that the values fill it."""
    if not shape or shape[1:] not in rows:
        shapes = " or ".join(str(["N", *row]).replace("'", "") for row in rows)
        raise BadRequest(f"{name} must be of shape {shapes}, not {shape}")
    if values.shape not in (tuple(shape), (math.prod(shape),)):
        raise BadRequest(
            f"{name} is said to be of shape {shape}, its data is {list(values.shape)}"
        )
    if not values.size:
        raise BadRequest(f"{name} holds no picture")
    if shape[0] > MAX_PICTURES:
        raise TooLargeError(TOO_MANY)


def classify(pictures: list[Picture]) -> list[Prediction]:
    """Classify all in one pass. Raises the `ImageError` of the first bad one."""
    return predictions_of(current_app.extensions["classify"](pictures))


def predictions_of(outcomes: list[Outcome]) -> list[Prediction]:
    """Return outcomes if all are predictions, else raise the first that is none."""
    predictions = []
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, ImageError):
            raise type(outcome)(f"image[{index}]: {outcome}")
        predictions.append(outcome)
    return predictions


def write_output(
    name: OutputName,
    is_binary: bool,
    predictions: list[Prediction],
    model: Classifier,
) -> tuple[OutputTensor, bytes]:
    """Make an output tensor, and its binary data if that is asked for."""
    datatype, values_of = OUTPUTS[name]
    data = [value for one in predictions for value in values_of(one)]
    shape = shape_of(name, len(predictions), model)
    tensor = OutputTensor(name=name, datatype=datatype, shape=shape)
    if not is_binary:
        tensor.data = data
        return tensor, b""
    binary = to_binary(datatype, data)
    tensor.parameters = TensorParameters(binary_data_size=len(binary))
    return tensor, binary


def shape_of(output: OutputName, count: int, model: Classifier) -> list[int]:
    """Tell the shape of an output: a row a picture, wide for probabilities only."""
    return [count, len(model.classes)] if output == "probabilities" else [count]


def to_binary(datatype: str, data: list[Any]) -> bytes:
    """Lay values out as Triton does: little-endian, before each text its length."""
    if datatype == "BYTES":
        texts = [text.encode() for text in data]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return np.array(data, DTYPES[datatype]).tobytes()


def respond(message: Message, status: int = 200, binary: bytes = b"") -> Response:
    """Answer with JSON, followed by the binary data of its tensors if there is any."""
    text = to_text(message)
    if not binary:
        return Response(text + b"\n", status, mimetype="application/json")
    response = Response(text + binary, status, mimetype="application/octet-stream")
    response.headers[HEADER_LENGTH] = str(len(text))
    return response


def to_text(message: Message) -> bytes:
    """Write a message as JSON."""
    return message.model_dump_json(exclude_none=True).encode()


def refuse(status: int, detail: str) -> Response | None:
    """Word an error as the protocol of the request wants; None if it speaks none."""
    detail = detail[:MAX_DETAIL]
    if request.path == "/v2" or request.path.startswith("/v2/"):
        return respond(InferenceError(error=detail), status)
    if request.path.startswith("/api/") or "is_seldon" in g:
        ours = status >= HTTPStatus.INTERNAL_SERVER_ERROR
        fault = SeldonStatus(
            code=status,
            info=detail,
            reason="MICROSERVICE_INTERNAL_ERROR" if ours else "MICROSERVICE_BAD_DATA",
        )
        return respond(SeldonError(status=fault), status)
    return None
