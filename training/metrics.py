"""Metrics of predictions: accuracy, calibration, confusion, detection of the unknown.

>>> auroc(known.unknown_scores, unknown.unknown_scores)
0.998
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    confusion_matrix,
    precision_recall_fscore_support,
    roc_auc_score,
)

from training.folders import classes_of

BINS = 15  # of the calibration error

Floats = NDArray[np.float64]
ClassIds = NDArray[np.integer]


class Predictions(NamedTuple):
    """What the classifier returned for N pictures."""

    probabilities: Floats  # [N, classes]
    unknown_scores: Floats  # [N]; NaN of a model that has none
    is_unknown: NDArray[np.bool_]  # [N]

    @property
    def class_ids(self) -> NDArray[np.intp]:
        """The most probable class of each, unknown or not: [N]."""
        likeliest: NDArray[np.intp] = self.probabilities.argmax(1)
        return likeliest


def calibration_bins(predictions: Predictions, labels: ClassIds) -> list[Floats]:
    """Return share of pictures, mean confidence and accuracy of `BINS` equal bins.

    An empty bin has the values 0.
    """
    confidence = predictions.probabilities.max(1)
    is_right = predictions.class_ids == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    sums = [np.bincount(bins, values, BINS) for values in (confidence, is_right)]
    return [counts / len(labels)] + [total / counts.clip(1) for total in sums]


def calibration_error(predictions: Predictions, labels: ClassIds) -> float:
    """Return the expected calibration error (Guo et al., arXiv 1706.04599)."""
    share, confidence, accuracy = calibration_bins(predictions, labels)
    return float((share * np.abs(confidence - accuracy)).sum())


def auroc(known: Floats, unknown: Floats) -> float:
    """Return the area under the ROC curve of unknown scores that detect the unknown."""
    truth = np.repeat([0, 1], [len(known), len(unknown)])
    return float(roc_auc_score(truth, np.concatenate([known, unknown])))


def recall_precision(
    labels: ClassIds, class_ids: ClassIds, count: int
) -> tuple[list[float], list[float]]:
    """Return recall and precision of each of `count` classes, 0 where undefined."""
    precision, recall, _, _ = precision_recall_fscore_support(
        labels, class_ids, labels=range(count), zero_division=0
    )
    return recall.tolist(), precision.tolist()


def measure_known(predictions: Predictions, labels: ClassIds) -> dict[str, Any]:
    """Return the metrics of labelled pictures; accuracy is before refusal."""
    count, class_ids = predictions.probabilities.shape[1], predictions.class_ids
    recall, precision = recall_precision(labels, class_ids, count)
    confusion = confusion_matrix(labels, class_ids, labels=range(count))
    return {
        "pictures": len(labels),
        "accuracy": float(np.mean(class_ids == labels)),
        "balanced_accuracy": float(np.mean([recall[i] for i in np.unique(labels)])),
        "refused": float(predictions.is_unknown.mean()),
        "calibration_error": calibration_error(predictions, labels),
        "recall": recall,
        "precision": precision,
        "confusion": confusion.tolist(),  # true class down, predicted class across
    }


def measure_unknown(predictions: Predictions, known: Predictions) -> dict[str, Any]:
    """Return how many outliers are accepted, and the AUROC against known pictures."""
    has_scores = not np.isnan(known.unknown_scores).any()
    scores = known.unknown_scores, predictions.unknown_scores
    return {
        "pictures": len(predictions.unknown_scores),
        "accepted": float(1 - predictions.is_unknown.mean()),
        "auroc": auroc(*scores) if has_scores else None,
    }


def measure_photos(
    predictions: Predictions,
    folders: Sequence[str],
    classes: Sequence[str],
    aliases: Mapping[str, list[str]],
) -> dict[str, Any]:
    """Return accuracy before refusal and refusals of photos, in all and by folder.

    A photo is right if its class is any of those that its folder's name stands for.
    """
    names = np.array(folders)
    allowed = {name: classes_of(name, classes, aliases) for name in set(folders)}
    has_class = np.array([bool(allowed[name]) for name in folders])
    rows = zip(predictions.class_ids, folders, strict=True)
    is_right = np.array([classes[class_id] in allowed[name] for class_id, name in rows])

    def measure(chosen: NDArray[np.bool_]) -> dict[str, Any]:
        return {
            "pictures": int(chosen.sum()),
            "accuracy": _mean(is_right[chosen & has_class]),
            "refused": _mean(predictions.is_unknown[chosen]),
        }

    by_folder = {
        name: {"classes": allowed[name]} | measure(names == name)
        for name in sorted(allowed)
    }
    return measure(has_class) | {"folders": by_folder}


def _mean(values: NDArray[np.bool_]) -> float | None:
    return float(values.mean()) if len(values) else None
