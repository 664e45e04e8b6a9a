"""The typed requests and answers of every route: /predict, V2, Seldon, and problems.

    >>> InferenceRequest.model_validate_json(body).inputs[0].shape
    [1, 28, 28]

They check requests, shape answers, and `openapi.py` describes them. Lists fail at the
first fault: a hostile one could have a million. The contents of tensors stay plain
lists, checked with NumPy, or become bytes: an object per number would be slow.

After RFC 9457 (problems), github.com/kserve/open-inference-protocol
(specification/protocol/inference_rest.md), Triton's binary tensor data extension
(github.com/triton-inference-server/server, docs/protocol/extension_binary_data.md) and
prediction.proto of github.com/SeldonIO/seldon-core.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from service.problems import PROBLEMS

MAX_DIMENSION = 2**64 - 1  # the specification's unsigned 64 bits

Dimension = Annotated[int, Field(ge=0, le=MAX_DIMENSION)]
Shape = Annotated[list[Dimension], Field(fail_fast=True)]
# flat whole numbers from 0 to 255; telling 784 of them from others takes Python 15 us
Levels = SkipJsonSchema[
    Annotated[list[int], Field(fail_fast=True), AfterValidator(bytes)]
]
Numbers = Annotated[Levels | list[Any], Field(union_mode="left_to_right")]
Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64",
]  # fmt: skip
OutputName = Literal[
    "probabilities", "class_id", "label", "is_unknown", "unknown_score"
]


class Message(BaseModel):
    """The base of all: types are not converted, unknown fields are ignored."""

    model_config = ConfigDict(strict=True, use_attribute_docstrings=True)


# /predict


class ImageRequest(Message):
    """One picture."""

    image: str
    """A picture file in base64."""


class ImagesRequest(Message):
    """A batch of pictures."""

    images: list[Any] = Field(min_length=1)
    """Picture files in base64; a bad one fails alone."""


class PixelsRequest(Message):
    """One picture or a batch, as numbers."""

    pixels: list[Any]
    """Numbers from 0 to 255 of the model's input shape or a batch of it, rounded."""


PredictRequest = ImageRequest | ImagesRequest | PixelsRequest


class Model(Message):
    """The model that answered."""

    name: str
    """Its name."""
    version: str
    """12 hex digits of its hash."""


class Explanation(Message):
    """The input array and the class activation, with `explain=true`."""

    pixels: list[Any]
    """The model's input, numbers from 0 to 255."""
    activation: list[list[float]] | None
    """How much each part of the picture contributes to the class; null if the model
    has no class activation."""
    unknown_threshold: float | None
    """An unknown score above it means none of the classes; null if the model refuses
    no picture."""


class Prediction(Message):
    """A picture's class."""

    class_: str = Field(alias="class")
    """The class with the highest probability."""
    class_id: int
    """Its index among the model's classes."""
    probability: float
    """Its probability, calibrated."""
    probabilities: dict[str, float]
    """The probability of each class."""
    unknown_score: float | None
    """Higher is less like any of the classes; null if the model refuses no picture."""
    explain: Explanation | None = None
    """Only with `explain=true`."""


class Answer(Prediction):
    """The answer to one picture."""

    model: Model
    """The model that answered."""


class Problem(Message):
    """An error (RFC 9457) with a stable code."""

    title: str
    """The code in words."""
    status: int
    """The HTTP status."""
    detail: str
    """The reason, for people."""
    code: str = Field(json_schema_extra={"enum": list(PROBLEMS)})
    """The reason, for programs."""


class UnknownClass(Problem):
    """A picture of none of the classes."""

    unknown_score: float
    """Higher is less like any of the classes."""
    unknown_threshold: float
    """The threshold that the score exceeds."""
    nearest: dict[str, float]
    """The probability of each class, if it were one of them."""
    explain: Explanation | None = None
    """Only with `explain=true`."""


class Failure(Message):
    """A picture of a batch without a class."""

    error: UnknownClass | Problem
    """The reason."""


class Batch(Message):
    """The answers to a batch."""

    predictions: list[Prediction | Failure]
    """One for each picture, in the order sent; a bad picture fails alone."""
    model: Model
    """The model that answered."""


# Open Inference Protocol V2


class TensorParameters(Message):
    """Parameters of a tensor, in requests and answers."""

    binary_data_size: int | None = Field(default=None, ge=0)
    """Bytes of this tensor after the JSON, in place of `data`."""


class InputTensor(Message):
    """The common part of both inputs."""

    parameters: TensorParameters | None = None
    """Given if the tensor is sent as binary data."""


class PixelsInput(InputTensor):
    """Pictures as numbers, preprocessed as in training."""

    name: Literal["pixels"]
    """The input of numbers."""
    datatype: Datatype
    """Whatever it is, numbers from 0 to 255; fractions are rounded."""
    shape: Shape
    """The model's input shape, or its numbers in one row, after the batch size; a grey
    model's may have an axis of one channel, first or last."""
    data: Numbers | None = None
    """The numbers, flat or nested like the shape."""


class ImageInput(InputTensor):
    """Pictures as files, in any format that `/predict` reads."""

    name: Literal["image"]
    """The input of files."""
    datatype: Literal["BYTES"]
    """Always BYTES."""
    shape: Shape
    """[N] or [N, 1]."""
    data: list[Any] | None = None
    """The files in base64. Binary data may contain the files themselves."""


Input = Annotated[PixelsInput | ImageInput, Field(discriminator="name")]


class OutputParameters(Message):
    """Parameters of a requested output."""

    binary_data: bool | None = None
    """True for binary data after the JSON, false for `data` in it."""


class RequestedOutput(Message):
    """A requested output."""

    name: OutputName
    """The output's name."""
    parameters: OutputParameters | None = None
    """How to send it."""


class RequestParameters(Message):
    """Parameters of a request."""

    binary_data_output: bool | None = None
    """The default of `binary_data` for every output."""


class InferenceRequest(Message):
    """A request of the Open Inference Protocol V2."""

    id: str | None = None
    """Returned unchanged."""
    parameters: RequestParameters | None = None
    """Parameters of the whole request."""
    inputs: list[Input] = Field(fail_fast=True)
    """One input, `pixels` or `image`."""
    outputs: list[RequestedOutput] | None = Field(default=None, fail_fast=True)
    """The outputs wanted; all if left out or empty."""


class OutputTensor(Message):
    """An output: one row for each picture."""

    name: OutputName
    """The output's name."""
    datatype: str
    """FP32, INT64, BYTES (text) or BOOL."""
    shape: Shape
    """[N, classes] for `probabilities`, else [N]."""
    parameters: TensorParameters | None = None
    """Given if the tensor is sent as binary data."""
    data: list[Any] | None = None
    """The values, flat, unless they are sent as binary data."""


class InferenceResponse(Message):
    """An answer of the Open Inference Protocol V2."""

    model_name: str
    """The model that answered."""
    model_version: str
    """Its version."""
    id: str | None = None
    """The request's, if it had one."""
    outputs: list[OutputTensor]
    """The outputs, in the order requested."""


class InferenceError(Message):
    """An error on the routes below `/v2`."""

    error: str
    """The reason, for people."""


class ServerLive(Message):
    """Whether the service answers at all."""

    live: bool
    """Always true."""


class ServerReady(ServerLive):
    """Whether the model has run in the worker that answers.

    The specification's text names the field `live`, KServe's clients read `ready`.
    """

    ready: bool
    """True once the model has run."""


class ServerMetadata(Message):
    """Facts about the service."""

    name: str
    """Name of the service."""
    version: str
    """Version of the API."""
    extensions: list[str]
    """Supported extensions of the protocol."""


class TensorMetadata(Message):
    """An input or an output of the model."""

    name: str
    """Name of the tensor."""
    datatype: str
    """Type of its elements."""
    shape: list[int]
    """Its shape; -1 is the batch size."""


class ModelParameters(Message):
    """What the model does beside naming classes."""

    refuses_unknown: bool
    """False if a picture of none of the classes gets a class all the same: the outputs
    `is_unknown` and `unknown_score` are missing then."""


class ModelMetadata(Message):
    """The model's inputs and outputs."""

    name: str
    """Name of the model."""
    versions: list[str]
    """The version that is served."""
    platform: str
    """Format and runtime of the model."""
    inputs: list[TensorMetadata]
    """The inputs; a request has one of them."""
    outputs: list[TensorMetadata]
    """The outputs; a request names those it wants."""
    parameters: ModelParameters
    """What else the model does."""


class ModelReady(Message):
    """Whether the model has run in the worker that answers."""

    name: str
    """Name of the model."""
    ready: bool
    """True once the model has run."""


# Seldon protocol


class SeldonTensor(Message):
    """Numbers in one flat list."""

    shape: Shape
    """Their shape."""
    values: Numbers
    """The numbers."""


class SeldonData(Message):
    """Numbers, as `tensor` or as `ndarray`: pixels in, probabilities out."""

    names: list[str] | None = Field(default=None, fail_fast=True)
    """Names of the columns; in the answer the classes."""
    tensor: SeldonTensor | None = None
    """Numbers from 0 to 255 of the shapes that the V2 input `pixels` has."""
    ndarray: list[Any] | None = None
    """The same as nested lists."""


class SeldonMeta(Message):
    """Metadata of a message."""

    puid: str | None = None
    """Identifier of the request, returned unchanged."""
    tags: dict[str, Any] | None = None
    """In the answer `label`, `class_id`, `unknown` and `unknown_score` of each picture,
    and the `model`."""


class SeldonMessage(Message):
    """A request and an answer of the Seldon protocol."""

    meta: SeldonMeta | None = None
    """The request's identifier and the answer's tags."""
    data: SeldonData
    """The numbers."""


class SeldonStatus(Message):
    """An error in the Seldon protocol's terms."""

    code: int
    """The HTTP status."""
    info: str
    """The reason, for people."""
    reason: Literal["MICROSERVICE_BAD_DATA", "MICROSERVICE_INTERNAL_ERROR"]
    """The client's fault or the service's."""
    status: Literal["FAILURE"] = "FAILURE"
    """Always FAILURE."""


class SeldonError(Message):
    """The body of an error on the Seldon routes."""

    status: SeldonStatus
    """The error."""
