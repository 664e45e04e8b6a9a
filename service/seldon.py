"""The Seldon protocol: numbers in, probabilities and tags out.

    seldon-core-tester contract.json 127.0.0.1 9696 -p

Messages are those of prediction.proto of github.com/SeldonIO/seldon-core, as JSON or as
the form field `json`. An unknown picture is an answer with a tag, not an error.
"""

from http import HTTPStatus
from urllib.parse import unquote_to_bytes

from model.classifier import Classifier
from model.images import TooLargeError
from service.answers import Outcome
from service.bodies import JSON_EXTRA, Picture, max_numbers, parse_json, to_array
from service.problems import TOO_MANY, RequestError
from service.schemas import (
    SeldonData,
    SeldonError,
    SeldonMessage,
    SeldonMeta,
    SeldonStatus,
    SeldonTensor,
)
from service.v2 import MAX_DETAIL, dump, to_pictures, to_predictions

PATH = "/api/v1.0/predictions"
FORM = b"json="  # the first bytes of a body that is the form


def read(body: bytes, classifier: Classifier) -> tuple[SeldonMessage, list[Picture]]:
    """Read a message and its pictures. Raises `RequestError`, `TooLargeError`."""
    shape = classifier.input_shape
    message = parse_json(SeldonMessage, unquote_form(body, shape), shape)
    data = message.data
    if (data.tensor is None) == (data.ndarray is None):
        raise RequestError("bad_request", "send either data.ndarray or data.tensor")
    if data.tensor is not None:
        numbers = to_array(data.tensor.values)
        return message, to_pictures(numbers, data.tensor.shape, shape)
    numbers = to_array(data.ndarray or [])
    return message, to_pictures(numbers, [*numbers.shape], shape)


def unquote_form(body: bytes, input_shape: tuple[int, ...]) -> bytes:
    """Return the JSON of a form; anything else as it is."""
    if not body.startswith(FORM):
        return body
    field = body.removeprefix(FORM).partition(b"&")[0]
    # counted before a costly step: each comma and bracket may be quoted
    if field.count(b"%") > 3 * (max_numbers(input_shape) + JSON_EXTRA):
        raise TooLargeError(TOO_MANY)
    return unquote_to_bytes(field.replace(b"+", b" "))


def render(
    message: SeldonMessage, outcomes: list[Outcome], classifier: Classifier
) -> bytes:
    """Return the answer: probabilities in the form of the request, more in the tags."""
    predictions = to_predictions(outcomes)
    tags = {
        "label": [one.label for one in predictions],
        "class_id": [one.class_id for one in predictions],
        "unknown": [one.is_unknown for one in predictions],
        "unknown_score": [one.unknown_score for one in predictions],
        "model": {"name": classifier.name, "version": classifier.version},
    }
    rows = [list(one.probabilities.values()) for one in predictions]
    data = SeldonData(names=classifier.classes)
    if message.data.tensor is None:
        data.ndarray = rows
    else:
        values = [probability for row in rows for probability in row]
        shape = [len(rows), len(classifier.classes)]
        data.tensor = SeldonTensor(shape=shape, values=values)
    puid = message.meta.puid if message.meta else None
    answer = SeldonMessage(meta=SeldonMeta(puid=puid, tags=tags), data=data)
    return dump(answer) + b"\n"


def error(status: int, detail: str) -> bytes:
    """Return an error as the protocol has it."""
    is_ours = status >= HTTPStatus.INTERNAL_SERVER_ERROR
    fault = SeldonStatus(
        code=status,
        info=detail[:MAX_DETAIL],
        reason="MICROSERVICE_INTERNAL_ERROR" if is_ours else "MICROSERVICE_BAD_DATA",
    )
    return dump(SeldonError(status=fault)) + b"\n"
