"""Figures worked out from answers: accuracy, calibration, confusion, refusals.

    >>> auroc(known.scores, unknown.scores)
    0.998

Plain numpy on what a classifier said and what is true; no pictures, no files.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.data import RECIPE
from training.folders import classes_of

BINS = 15  # of the calibration error

Floats = NDArray[np.float64]


class Answers(NamedTuple):
    """What the classifier said of N pictures."""

    probabilities: Floats  # [N, classes]
    scores: Floats  # [N], higher is stranger
    refused: NDArray[np.bool_]  # [N]

    @property
    def class_ids(self) -> NDArray[np.intp]:
        """The likeliest class of each, refused or not."""
        likeliest: NDArray[np.intp] = self.probabilities.argmax(1)
        return likeliest


def calibration(answers: Answers, labels: NDArray[np.integer]) -> list[Floats]:
    """Sort answers into bins of confidence: share, mean confidence, accuracy of each.

    Bins are of equal width; an empty one has the values 0.
    """
    confidence = answers.probabilities.max(1)
    right = answers.class_ids == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    sums = [np.bincount(bins, values, BINS) for values in (confidence, right)]
    return [counts / len(labels)] + [total / counts.clip(1) for total in sums]


def calibration_error(answers: Answers, labels: NDArray[np.integer]) -> float:
    """Return the expected calibration error (Guo et al., arXiv 1706.04599)."""
    share, confidence, accuracy = calibration(answers, labels)
    return float((share * np.abs(confidence - accuracy)).sum())


def auroc(known: Floats, unknown: Floats) -> float:
    """Return how often an unknown picture scores higher than a known one."""
    ordered = np.sort(known)
    below = [np.searchsorted(ordered, unknown, side) for side in ("left", "right")]
    return float(np.mean(below) / len(known))


def confuse(
    labels: NDArray[np.integer], class_ids: NDArray[np.integer], count: int
) -> NDArray[np.intp]:
    """Count the answers by true class, down, and predicted one: [count, count]."""
    pairs = labels.astype(np.intp) * count + class_ids
    return np.bincount(pairs, minlength=count**2).reshape(count, count)


def recall_precision(confusion: NDArray[np.intp]) -> tuple[list[float], list[float]]:
    """Return the share found of each class, and the share right of each answer."""
    hits = confusion.diagonal()
    recall, precision = (hits / confusion.sum(axis).clip(1) for axis in (1, 0))
    return recall.tolist(), precision.tolist()


def measure_known(answers: Answers, labels: NDArray[np.integer]) -> dict[str, Any]:
    """Return accuracy, refusals, calibration and the confusion of labelled pictures."""
    count = answers.probabilities.shape[1]
    confusion = confuse(labels, answers.class_ids, count)
    recall, precision = recall_precision(confusion)
    return {
        "pictures": len(labels),
        "accuracy": float(np.mean(answers.class_ids == labels)),
        "refused": float(answers.refused.mean()),
        "calibration_error": calibration_error(answers, labels),
        "recall": recall,
        "precision": precision,
        "confusion": confusion.tolist(),
    }


def measure_unknown(answers: Answers, known: Answers) -> dict[str, Any]:
    """Return how many strangers are accepted, and how well the score tells them."""
    return {
        "pictures": len(answers.scores),
        "accepted": float(1 - answers.refused.mean()),
        "auroc": auroc(known.scores, answers.scores),
    }


def measure_photos(
    answers: Answers, folders: Sequence[str], classes: Sequence[str]
) -> dict[str, Any]:
    """Return accuracy before refusal and refusals, in all and by folder."""
    allowed = {
        folder: classes_of(folder, classes, RECIPE.aliases) for folder in set(folders)
    }
    known = np.array([bool(allowed[folder]) for folder in folders])
    right = np.array(
        [
            classes[class_id] in allowed[folder]
            for class_id, folder in zip(answers.class_ids, folders, strict=True)
        ]
    )
    by_folder = {}
    for folder in sorted(allowed):
        chosen = np.array([name == folder for name in folders])
        by_folder[folder] = {
            "pictures": int(chosen.sum()),
            "classes": allowed[folder],
            "accuracy": float(right[chosen].mean()) if allowed[folder] else None,
            "refused": float(answers.refused[chosen].mean()),
        }
    return {
        "pictures": int(known.sum()),
        "accuracy": float(right[known].mean()) if known.any() else None,
        "refused": float(answers.refused[known].mean()) if known.any() else None,
        "folders": by_folder,
    }
