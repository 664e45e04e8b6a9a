"""Predictions as our own protocol has them: one picture, a batch, a problem.

>>> to_answer(prediction)["class"]
'Ankle boot'
"""

from typing import Any

import pydantic_core

from model.classifier import Prediction
from model.images import ImageError
from service.problems import to_problem

JSON, PROBLEM = "application/json", "application/problem+json"

Json = dict[str, Any]
Outcome = Prediction | ImageError  # of one picture


def to_answer(outcome: Outcome) -> Json:
    """Return the answer to one picture, or why there is none."""
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
    """Return the input array and the class activation; nothing if not asked for.

    The pixels are numbers, as `pixels` in a request: they can be sent back as they are.
    """
    if prediction.pixels is None:
        return {}
    return {
        "explain": {
            "pixels": prediction.pixels,
            "activation": prediction.activation,
            "unknown_threshold": prediction.unknown_threshold,
        }
    }


def to_document(outcomes: list[Outcome], model: Json, is_batch: bool) -> Json:
    """Return a batch, one answer with the model that gave it, or one problem."""
    found = [to_answer(outcome) for outcome in outcomes]
    if is_batch:
        return {"predictions": found, "model": model}
    return found[0].get("error") or found[0] | {"model": model}


def to_json(document: Json) -> bytes:
    """Return a document as one line of JSON."""
    return pydantic_core.to_json(document) + b"\n"
