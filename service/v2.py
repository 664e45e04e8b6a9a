"""The Open Inference Protocol V2: tensors in, tensors out, in JSON or binary.

    curl localhost:9696/v2/models/fashion

An unknown picture is an output here, not an error; a bad one fails its whole request.
The specification is github.com/kserve/open-inference-protocol; binary data follow
Triton's extension (docs/protocol/extension_binary_data.md of its server).
"""

import math
import re
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.classifier import Classifier, Prediction
from model.images import ImageError, TooLargeError
from service.answers import JSON, Outcome
from service.bodies import (
    GREY_AXES,
    Picture,
    from_base64,
    from_numbers,
    parse_json,
    to_array,
)
from service.problems import MAX_PICTURES, TOO_MANY, RequestError
from service.schemas import (
    ImageInput,
    InferenceError,
    InferenceRequest,
    InferenceResponse,
    Message,
    ModelMetadata,
    ModelParameters,
    OutputName,
    OutputTensor,
    PixelsInput,
    TensorMetadata,
    TensorParameters,
)

INFER_RULES = (
    "/v2/models/<name>/infer",
    "/v2/models/<name>/versions/<version>/infer",
)
HEADER_LENGTH = "Inference-Header-Content-Length"  # bytes of JSON before binary data
BINARY = "application/octet-stream"
MAX_DETAIL = 500  # characters of an error's text, which may quote the request
IMAGE_ROWS: tuple[list[int], ...] = ([], [1])  # shapes of one element
DTYPES = {
    "BOOL": "?",
    **{f"UINT{8 * size}": f"<u{size}" for size in (1, 2, 4, 8)},
    **{f"INT{8 * size}": f"<i{size}" for size in (1, 2, 4, 8)},
    **{f"FP{8 * size}": f"<f{size}" for size in (2, 4, 8)},
}

Output = tuple[str, Callable[[Prediction], list[Any]]]  # datatype, values of a picture

OUTPUTS: dict[OutputName, Output] = {
    "probabilities": ("FP32", lambda one: list(one.probabilities.values())),
    "class_id": ("INT64", lambda one: [one.class_id]),
    "label": ("BYTES", lambda one: [one.label]),
    "is_unknown": ("BOOL", lambda one: [one.is_unknown]),
    "unknown_score": ("FP32", lambda one: [one.unknown_score]),
}
NAMES_OF_UNKNOWN: set[OutputName] = {"is_unknown", "unknown_score"}


class InferenceCall(NamedTuple):
    """A request that is read: its pictures, and which outputs it wants."""

    id: str | None
    outputs: dict[OutputName, bool]  # in order; whether as binary data
    pictures: list[Picture]


def read(
    body: bytes, headers: Mapping[str, str], classifier: Classifier
) -> InferenceCall:
    """Read an inference request. Raises `RequestError`, `TooLargeError`."""
    head, binary = split_body(body, headers.get(HEADER_LENGTH.lower()))
    message = parse_json(InferenceRequest, head, classifier.input_shape)
    outputs = requested_outputs(message, outputs_of(classifier))
    pictures = read_input(message, binary, classifier.input_shape)
    return InferenceCall(message.id, outputs, pictures)


def render(
    call: InferenceCall, outcomes: list[Outcome], classifier: Classifier
) -> tuple[dict[str, str], bytes]:
    """Return headers and body of the answer. Raises a picture's `ImageError`."""
    predictions = to_predictions(outcomes)
    tensors = [to_tensor(*out, predictions, classifier) for out in call.outputs.items()]
    response = InferenceResponse(
        model_name=classifier.name,
        model_version=classifier.version,
        id=call.id,
        outputs=[tensor for tensor, _ in tensors],
    )
    head = dump(response)
    binary = b"".join(data for _, data in tensors)
    if not binary:
        return {"Content-Type": JSON}, head + b"\n"
    return {"Content-Type": BINARY, HEADER_LENGTH: str(len(head))}, head + binary


def error(detail: str) -> bytes:
    """Return an error as the protocol has it."""
    return dump(InferenceError(error=detail[:MAX_DETAIL])) + b"\n"


def dump(message: Message) -> bytes:
    """Return a message as JSON."""
    return message.model_dump_json(exclude_none=True).encode()


def metadata(classifier: Classifier) -> ModelMetadata:
    """Describe the inputs and outputs of the model."""
    shape = [-1, *classifier.input_shape]
    return ModelMetadata(
        name=classifier.name,
        versions=[classifier.version],
        platform="onnx_onnxv1",
        inputs=[
            TensorMetadata(name="pixels", datatype="UINT8", shape=shape),
            TensorMetadata(name="image", datatype="BYTES", shape=[-1]),
        ],
        outputs=[
            TensorMetadata(
                name=name, datatype=datatype, shape=output_shape(name, -1, classifier)
            )
            for name, (datatype, _) in outputs_of(classifier).items()
        ],
        parameters=ModelParameters(refuses_unknown=classifier.refuses_unknown),
    )


def outputs_of(classifier: Classifier) -> dict[OutputName, Output]:
    """Return the outputs of a model; without those of an unknown score it has none."""
    missing = set() if classifier.refuses_unknown else NAMES_OF_UNKNOWN
    return {name: output for name, output in OUTPUTS.items() if name not in missing}


def to_predictions(outcomes: list[Outcome]) -> list[Prediction]:
    """Return outcomes if all are predictions, else raise the first `ImageError`."""
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, ImageError):
            raise type(outcome)(f"image[{index}]: {outcome}")
    return [one for one in outcomes if isinstance(one, Prediction)]


def split_body(body: bytes, header: str | None) -> tuple[bytes, bytes]:
    """Split the JSON from the binary data that follows it if a header says so."""
    if header is None:
        return body, b""
    length = int(header) if re.fullmatch("[0-9]{1,9}", header) else -1
    if not 0 <= length <= len(body):
        detail = f"{HEADER_LENGTH} must be from 0 to {len(body)}, the body"
        raise RequestError("bad_request", detail)
    return body[:length], body[length:]


def requested_outputs(
    message: InferenceRequest, offered: Collection[OutputName]
) -> dict[OutputName, bool]:
    """Return the outputs to send, in order, and whether each is binary data."""
    parameters = message.parameters
    default = bool(parameters and parameters.binary_data_output)
    if not message.outputs:
        return dict.fromkeys(offered, default)
    outputs: dict[OutputName, bool] = {}
    for output in message.outputs:
        if output.name in outputs:
            detail = f"the output {output.name} is requested twice"
            raise RequestError("bad_request", detail)
        if output.name not in offered:
            detail = f"the model has no {output.name}: it refuses no picture"
            raise RequestError("bad_request", detail)
        choice = output.parameters.binary_data if output.parameters else None
        outputs[output.name] = default if choice is None else choice
    return outputs


def read_input(
    message: InferenceRequest, binary: bytes, input_shape: tuple[int, ...]
) -> list[Picture]:
    """Read the pictures of a request's one input, from `data` or binary data."""
    if len(message.inputs) != 1:
        detail = f"send one input, pixels or image, not {len(message.inputs)}"
        raise RequestError("bad_request", detail)
    tensor = message.inputs[0]
    size = tensor.parameters.binary_data_size if tensor.parameters else None
    if (size is None) == (tensor.data is None):
        detail = f"{tensor.name} needs either data or binary_data_size"
        raise RequestError("bad_request", detail)
    if len(binary) != (size or 0):
        raise RequestError(
            "bad_request",
            f"binary_data_size is {size or 0}, {len(binary)} bytes follow the JSON"
            f" ({HEADER_LENGTH} says where it ends)",
        )
    if isinstance(tensor, ImageInput):
        return read_images(tensor, binary)
    return read_pixels(tensor, binary, input_shape)


def read_pixels(
    tensor: PixelsInput, binary: bytes, input_shape: tuple[int, ...]
) -> list[Picture]:
    """Read numbers, nested, flat or binary."""
    if tensor.data is not None:
        return to_pictures(to_array(tensor.data), tensor.shape, input_shape)
    dtype = np.dtype(DTYPES[tensor.datatype])
    if len(binary) % dtype.itemsize:
        detail = f"{len(binary)} bytes are not a whole number of {tensor.datatype}"
        raise RequestError("bad_request", detail)
    return to_pictures(np.frombuffer(binary, dtype), tensor.shape, input_shape)


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
    """Split a BYTES tensor: before each element its length, 4 bytes."""
    elements: list[bytes] = []
    start = 0
    while start < len(binary):
        if len(elements) == MAX_PICTURES:
            raise TooLargeError(TOO_MANY)
        length = int.from_bytes(binary[start : start + 4], "little")
        start += 4 + length
        if start > len(binary):
            detail = "the binary data of image ends within an element"
            raise RequestError("bad_request", detail)
        elements.append(binary[start - length : start])
    return elements


def to_pictures(
    numbers: NDArray[Any], shape: list[int], input_shape: tuple[int, ...]
) -> list[Picture]:
    """Return numbers, flat or in their shape, as input arrays, one a picture."""
    rows = [[*input_shape], [math.prod(input_shape)], [1, *input_shape]]
    if len(input_shape) == GREY_AXES:
        rows.append([*input_shape, 1])
    check_shape("pixels", numbers, shape, rows)
    return [*from_numbers(numbers).reshape(-1, *input_shape)]


def check_shape(
    name: str, values: NDArray[Any], shape: list[int], rows: Sequence[list[int]]
) -> None:
    """Check that a shape is N times one of `rows`, and that the values fill it."""
    if not shape or shape[1:] not in rows:
        shapes = " or ".join(str(["N", *row]).replace("'", "") for row in rows)
        detail = f"{name} must be of shape {shapes}, not {shape}"
        raise RequestError("bad_request", detail)
    if values.shape not in (tuple(shape), (math.prod(shape),)):
        raise RequestError(
            "bad_request",
            f"{name} is declared with shape {shape}, its data has {list(values.shape)}",
        )
    if not values.size:
        raise RequestError("bad_request", f"{name} holds no picture")
    if shape[0] > MAX_PICTURES:
        raise TooLargeError(TOO_MANY)


def to_tensor(
    name: OutputName,
    is_binary: bool,
    predictions: list[Prediction],
    classifier: Classifier,
) -> tuple[OutputTensor, bytes]:
    """Return an output tensor, and its binary data if that is requested."""
    datatype, values_of = OUTPUTS[name]
    data = [value for one in predictions for value in values_of(one)]
    shape = output_shape(name, len(predictions), classifier)
    tensor = OutputTensor(name=name, datatype=datatype, shape=shape)
    if not is_binary:
        tensor.data = data
        return tensor, b""
    binary = to_binary(datatype, data)
    tensor.parameters = TensorParameters(binary_data_size=len(binary))
    return tensor, binary


def output_shape(name: OutputName, count: int, classifier: Classifier) -> list[int]:
    """Return the shape of an output: a row a picture, wide for probabilities only."""
    return [count, len(classifier.classes)] if name == "probabilities" else [count]


def to_binary(datatype: str, data: list[Any]) -> bytes:
    """Return values as Triton has them: little-endian, before each text its length."""
    if datatype == "BYTES":
        texts = [text.encode() for text in data]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return np.array(data, DTYPES[datatype]).tobytes()
