"""The typed requests and answers of every route: /predict, V2, Seldon, and problems.

    >>> InferenceRequest.model_validate_json(body).inputs[0].shape
    [1, 28, 28]

They check what comes in, shape what goes out, and `openapi.py` describes them. Lists
fail at the first fault: a hostile one could have a million. The contents of tensors
stay plain lists, checked with NumPy, or become bytes: an object a number would be slow.

After RFC 9457 (problems), github.com/kserve/open-inference-protocol
(specification/protocol/inference_rest.md), Triton's binary tensor data extension
(github.com/triton-inference-server/server, docs/protocol/extension_binary_data.md) and
prediction.proto of github.com/SeldonIO/seldon-core.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from service.problems import PROBLEMS

LONGEST = 2**64 - 1  # of a dimension: the specification's unsigned 64 bits

Dimension = Annotated[int, Field(ge=0, le=LONGEST)]
Shape = list[Dimension]
# flat whole numbers from 0 to 255; to tell 784 of them from others takes Python 15 us
Levels = SkipJsonSchema[
    Annotated[list[int], Field(fail_fast=True), AfterValidator(bytes)]
]
OutputName = Literal[
    "probabilities", "class_id", "label", "is_unknown", "unknown_score"
]


class Message(BaseModel):
    """What all have in common: no type passes for another, unknown fields may be."""

    model_config = ConfigDict(strict=True)


class ImageRequest(Message):
    """One picture."""

    image: str = Field(
        description="A picture file in base64.", examples=["iVBORw0KGgo..."]
    )


class ImagesRequest(Message):
    """A batch of pictures."""

    images: list[Any] = Field(
        min_length=1,
        description="Picture files in base64; anything else costs only itself.",
        examples=[["iVBORw0KGgo...", "/9j/4AAQSkZ..."]],
    )


class PixelsRequest(Message):
    """One picture or a batch, as numbers."""

    pixels: list[Any] = Field(
        description="28x28 or Nx28x28 numbers from 0 to 255, the object bright on"
        " black; fractions are rounded.",
        examples=[[[0] * 28] * 28],
    )


PredictRequest = ImageRequest | ImagesRequest | PixelsRequest


class Model(Message):
    """The model that answered."""

    name: str = Field(description="Its name.", examples=["fashion"])
    version: str = Field(
        description="12 hex digits of its hash.", examples=["aab7ea0c5317"]
    )


class Explanation(Message):
    """What the network saw and where it looked, with `explain=true`."""

    pixels: list[list[int]] = Field(
        description="28x28 numbers from 0 to 255.", examples=[[[0] * 28] * 28]
    )
    activation: list[list[float]] = Field(
        description="How much each part of the picture speaks for the class.",
        examples=[[[0.5] * 4] * 4],
    )
    unknown_threshold: float = Field(
        description="An unknown score above it means none of the classes.",
        examples=[-2.7],
    )


class Prediction(Message):
    """A picture's class."""

    class_: str = Field(
        alias="class", description="The likeliest class.", examples=["Ankle boot"]
    )
    class_id: int = Field(description="Its number.", examples=[9])
    probability: float = Field(
        description="Its probability, calibrated.", examples=[0.996]
    )
    probabilities: dict[str, float] = Field(
        description="The probability of each class.",
        examples=[{"Ankle boot": 0.996, "Sneaker": 0.004}],
    )
    unknown_score: float = Field(
        description="Higher is stranger: log-odds of none of the classes.",
        examples=[-12.9],
    )
    explain: Explanation | None = Field(
        default=None, description="Only if it was asked for.", examples=[None]
    )


class Answer(Prediction):
    """The answer to one picture."""

    model: Model = Field(
        description="The model that answered.",
        examples=[{"name": "fashion", "version": "aab7ea0c5317"}],
    )


class Problem(Message):
    """Why there is no answer (RFC 9457), with a stable code."""

    title: str = Field(description="The code in words.", examples=["Bad request"])
    status: int = Field(description="The HTTP status.", examples=[400])
    detail: str = Field(
        description="The reason, for people.", examples=["the body is empty"]
    )
    code: str = Field(
        description="The reason, for programs.",
        examples=["bad_request"],
        json_schema_extra={"enum": list(PROBLEMS)},
    )


class UnknownClass(Problem):
    """A picture of none of the classes."""

    unknown_score: float = Field(description="Higher is stranger.", examples=[4.2])
    unknown_threshold: float = Field(
        description="What the score exceeds.", examples=[-2.7]
    )
    nearest: dict[str, float] = Field(
        description="The probability of each class, were it one of them.",
        examples=[{"Bag": 0.7, "Dress": 0.3}],
    )
    explain: Explanation | None = Field(
        default=None, description="Only if it was asked for.", examples=[None]
    )


class Failure(Message):
    """A picture of a batch that got no class."""

    error: UnknownClass | Problem = Field(
        description="Why.",
        examples=[
            {
                "title": "Broken image",
                "status": 422,
                "detail": "the picture cannot be decoded",
                "code": "broken_image",
            }
        ],
    )


class Batch(Message):
    """The answers to a batch, in the order sent."""

    predictions: list[Prediction | Failure] = Field(
        description="One a picture; a bad picture costs only itself.", examples=[[]]
    )
    model: Model = Field(
        description="The model that answered.",
        examples=[{"name": "fashion", "version": "aab7ea0c5317"}],
    )


class TensorParameters(Message):
    """Parameters of a tensor, sent or returned."""

    binary_data_size: int | None = Field(
        default=None,
        ge=0,
        description="Bytes of this tensor after the JSON, in place of `data`.",
        examples=[784],
    )


class InputTensor(Message):
    """What both inputs have in common."""

    parameters: TensorParameters | None = Field(
        default=None,
        description="Given if the tensor is sent as binary data.",
        examples=[{"binary_data_size": 784}],
    )


class PixelsInput(InputTensor):
    """Pictures as numbers, the object bright on black, as in Fashion-MNIST."""

    name: Literal["pixels"] = Field(description="The input.", examples=["pixels"])
    datatype: Literal["UINT8", "FP32"] = Field(
        description="Either way numbers from 0 to 255; fractions are rounded.",
        examples=["UINT8"],
    )
    shape: Shape = Field(
        fail_fast=True,
        description="[N, 28, 28], [N, 784] or [N, 1, 28, 28], N up to 256.",
        examples=[[1, 28, 28]],
    )
    data: Levels | list[Any] | None = Field(
        default=None,
        union_mode="left_to_right",
        description="The numbers, flat or nested like the shape.",
        examples=[[[[0] * 28] * 28]],
    )


class ImageInput(InputTensor):
    """Pictures as files, in any of the formats that `/predict` reads."""

    name: Literal["image"] = Field(description="The input.", examples=["image"])
    datatype: Literal["BYTES"] = Field(description="Always.", examples=["BYTES"])
    shape: Shape = Field(
        fail_fast=True,
        description="[N] or [N, 1], N up to 256.",
        examples=[[1]],
    )
    data: list[Any] | None = Field(
        default=None,
        description="The files in base64. Binary data may hold the files themselves.",
        examples=[["iVBORw0KGgo..."]],
    )


Input = Annotated[PixelsInput | ImageInput, Field(discriminator="name")]


class OutputParameters(Message):
    """Parameters of a requested output."""

    binary_data: bool | None = Field(
        default=None,
        description="True for binary data after the JSON, false for `data` in it.",
        examples=[True],
    )


class RequestedOutput(Message):
    """An output that is asked for."""

    name: OutputName = Field(description="The output.", examples=["label"])
    parameters: OutputParameters | None = Field(
        default=None,
        description="How to send it.",
        examples=[{"binary_data": True}],
    )


class RequestParameters(Message):
    """Parameters of a request."""

    binary_data_output: bool | None = Field(
        default=None,
        description="True for binary data in every output that does not say otherwise.",
        examples=[False],
    )


class InferenceRequest(Message):
    """A request of the Open Inference Protocol V2."""

    id: str | None = Field(
        default=None,
        description="Returned as it is.",
        examples=["42"],
    )
    parameters: RequestParameters | None = Field(
        default=None,
        description="Settings of the whole request.",
        examples=[{"binary_data_output": False}],
    )
    inputs: list[Input] = Field(
        fail_fast=True,
        description="One input, `pixels` or `image`.",
        examples=[
            [{"name": "image", "shape": [1], "datatype": "BYTES", "data": ["iVBO..."]}]
        ],
    )
    outputs: list[RequestedOutput] | None = Field(
        default=None,
        fail_fast=True,
        description="The outputs wanted; all if left out or empty.",
        examples=[[{"name": "label"}, {"name": "is_unknown"}]],
    )


class OutputTensor(Message):
    """An output: one row a picture."""

    name: OutputName = Field(description="The output.", examples=["label"])
    datatype: str = Field(
        description="FP32, INT64, BYTES (text) or BOOL.", examples=["BYTES"]
    )
    shape: Shape = Field(
        description="[N, 10] for `probabilities`, else [N].", examples=[[1]]
    )
    parameters: TensorParameters | None = Field(
        default=None,
        description="Given if the tensor is sent as binary data.",
        examples=[{"binary_data_size": 14}],
    )
    data: list[Any] | None = Field(
        default=None,
        description="The values, flat, if they are not sent as binary data.",
        examples=[["Ankle boot"]],
    )


class InferenceResponse(Message):
    """An answer of the Open Inference Protocol V2."""

    model_name: str = Field(description="The model.", examples=["fashion"])
    model_version: str = Field(description="Its version.", examples=["aab7ea0c5317"])
    id: str | None = Field(
        default=None,
        description="The request's, if it had one.",
        examples=["42"],
    )
    outputs: list[OutputTensor] = Field(
        description="The outputs, in the order asked for.",
        examples=[
            [
                {
                    "name": "label",
                    "datatype": "BYTES",
                    "shape": [1],
                    "data": ["Ankle boot"],
                }
            ]
        ],
    )


class InferenceError(Message):
    """What is wrong, on every route below `/v2`."""

    error: str = Field(
        description="The reason, for people.",
        examples=["image[0]: the picture is empty"],
    )


class ServerLive(Message):
    """Whether the service answers at all."""

    live: bool = Field(description="True, or nobody would answer.", examples=[True])


class ServerReady(ServerLive):
    """Whether the network has run in the worker that answers.

    The specification's text names the field `live`, KServe's clients read `ready`.
    """

    ready: bool = Field(description="True once the network has run.", examples=[True])


class ServerMetadata(Message):
    """What the service is."""

    name: str = Field(description="The service.", examples=["fashion-mnist"])
    version: str = Field(description="Version of its contract.", examples=["1.0.0"])
    extensions: list[str] = Field(
        description="What it knows beyond the specification.",
        examples=[["binary_tensor_data"]],
    )


class TensorMetadata(Message):
    """An input or an output of the model."""

    name: str = Field(description="The tensor.", examples=["pixels"])
    datatype: str = Field(description="Type of its elements.", examples=["UINT8"])
    shape: list[int] = Field(
        description="Its shape; -1 is the number of pictures.", examples=[[-1, 28, 28]]
    )


class ModelMetadata(Message):
    """What the model takes and gives."""

    name: str = Field(description="The model.", examples=["fashion"])
    versions: list[str] = Field(
        description="The version that is served.", examples=[["aab7ea0c5317"]]
    )
    platform: str = Field(description="What runs it.", examples=["onnx_onnxv1"])
    inputs: list[TensorMetadata] = Field(
        description="The inputs, of which a request has one.",
        examples=[[{"name": "pixels", "datatype": "UINT8", "shape": [-1, 28, 28]}]],
    )
    outputs: list[TensorMetadata] = Field(
        description="The outputs.",
        examples=[[{"name": "label", "datatype": "BYTES", "shape": [-1]}]],
    )


class ModelReady(Message):
    """Whether the model has run in the worker that answers."""

    name: str = Field(description="The model.", examples=["fashion"])
    ready: bool = Field(description="True once the network has run.", examples=[True])


class SeldonTensor(Message):
    """Numbers in one flat list."""

    shape: Shape = Field(
        fail_fast=True,
        description="Their shape.",
        examples=[[1, 784]],
    )
    values: Levels | list[Any] = Field(
        union_mode="left_to_right",
        description="The numbers.",
        examples=[[0.0] * 784],
    )


class SeldonData(Message):
    """Numbers, as `tensor` or as `ndarray`: pixels in, probabilities out."""

    names: list[str] | None = Field(
        default=None,
        fail_fast=True,
        description="Names of the columns; in the answer the classes.",
        examples=[["pixels"]],
    )
    tensor: SeldonTensor | None = Field(
        default=None,
        description="[N, 28, 28], [N, 784] or [N, 1, 28, 28] numbers from 0 to 255.",
        examples=[{"shape": [1, 784], "values": [0.0] * 784}],
    )
    ndarray: list[Any] | None = Field(
        default=None,
        description="The same as nested lists.",
        examples=[[[0.0] * 784]],
    )


class SeldonMeta(Message):
    """Facts beside the numbers."""

    puid: str | None = Field(
        default=None,
        description="Identifier of the request, returned.",
        examples=["x7f3"],
    )
    tags: dict[str, Any] | None = Field(
        default=None,
        description="In the answer one entry a picture in each of `label`, `class_id`,"
        " `unknown` and `unknown_score`, and the `model`.",
        examples=[{"label": ["Ankle boot"], "unknown": [False]}],
    )


class SeldonMessage(Message):
    """A request and an answer of the Seldon protocol."""

    meta: SeldonMeta | None = Field(
        default=None,
        description="Facts beside the numbers.",
        examples=[{"puid": "x7f3"}],
    )
    data: SeldonData = Field(
        description="The numbers.",
        examples=[{"ndarray": [[0.0] * 784]}],
    )


class SeldonStatus(Message):
    """What is wrong, in Seldon's words."""

    code: int = Field(description="The HTTP status.", examples=[400])
    info: str = Field(
        description="The reason, for people.",
        examples=["pixels must be numbers from 0 to 255"],
    )
    reason: Literal["MICROSERVICE_BAD_DATA", "MICROSERVICE_INTERNAL_ERROR"] = Field(
        description="Whose fault it is.", examples=["MICROSERVICE_BAD_DATA"]
    )
    status: Literal["FAILURE"] = Field(
        default="FAILURE", description="Always.", examples=["FAILURE"]
    )


class SeldonError(Message):
    """An answer that is none, on the Seldon routes."""

    status: SeldonStatus = Field(
        description="What is wrong.",
        examples=[
            {
                "code": 400,
                "info": "pixels must be numbers from 0 to 255",
                "reason": "MICROSERVICE_BAD_DATA",
                "status": "FAILURE",
            }
        ],
    )
