"""Predictions in the words of the contract: answers, problems, lines of a log.

    >>> answer(prediction)["class"]
    'Ankle boot'

What is said, whichever way it is asked for; nothing here knows HTTP.
"""

import hashlib
from typing import Any

from pydantic_core import to_json

from model.classifier import Prediction
from model.images import ImageError
from service.bodies import Picture
from service.problems import to_problem

Json = dict[str, Any]
Outcome = Prediction | ImageError  # of one picture


def answer(outcome: Outcome) -> Json:
    """Put a prediction, or why there is none, in the words of the contract."""
    if isinstance(outcome, ImageError):
        return {"error": to_problem(outcome.code, str(outcome))}
    if outcome.is_unknown:
        detail = f"none of the classes; the nearest is {outcome.label}"
        return {
            "error": to_problem("unknown_class", detail)
            | {
                "unknown_score": outcome.unknown_score,
                "unknown_threshold": outcome.unknown_threshold,
                "nearest": outcome.probabilities,
                **explanation(outcome),
            }
        }
    return {
        "class": outcome.label,
        "class_id": outcome.class_id,
        "probability": outcome.probability,
        "probabilities": outcome.probabilities,
        "unknown_score": outcome.unknown_score,
        **explanation(outcome),
    }


def explanation(prediction: Prediction) -> Json:
    """Show what the network saw and where it looked; nothing if not asked to.

    The pixels are numbers, as `pixels` in a request: they can be sent back as they are.
    """
    if prediction.activation is None:
        return {}
    return {
        "explain": {
            "pixels": prediction.pixels,
            "activation": prediction.activation,
            "unknown_threshold": prediction.unknown_threshold,
        }
    }


def document_of(answers: list[Json], model: Json, is_batch: bool) -> Json:
    """Put answers and the model that gave them together, or one picture's problem."""
    if is_batch:
        return {"predictions": answers, "model": model}
    return answers[0].get("error") or answers[0] | {"model": model}


def written(body: Json) -> bytes:
    """Write a document in one line of JSON."""
    return to_json(body) + b"\n"


def summarise(outcome: Outcome) -> Json:
    """Tell what was answered of one picture: its class, or why it has none."""
    if isinstance(outcome, ImageError):
        return {"code": outcome.code}
    if outcome.is_unknown:
        return {"code": "unknown_class", "unknown_score": outcome.unknown_score}
    return {
        "class": outcome.label,
        "probability": outcome.probability,
        "unknown_score": outcome.unknown_score,
    }


def sign(picture: Picture, line: Json) -> Json:
    """Tell which picture a line is about, without the picture."""
    data = b"" if isinstance(picture, ImageError) else bytes(picture)
    digest = hashlib.sha256(data).hexdigest() if data else None
    return {"sha256": digest, "bytes": len(data), **line}
