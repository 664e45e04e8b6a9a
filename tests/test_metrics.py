"""Metrics are computed as textbooks define them."""

import numpy as np
import pytest

from training import metrics
from training.metrics import Predictions


def predictions(probabilities: list[list[float]], scores: list[float]) -> Predictions:
    values = np.array(scores)
    return Predictions(np.array(probabilities), values, values > 0)


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    known, unknown = np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0])
    pairs = [(k < u) + (k == u) / 2 for k in known for u in unknown]
    assert metrics.auroc(known, unknown) == pytest.approx(np.mean(pairs))


def test_calibration_error_by_hand() -> None:
    """Two predictions at 0.9 of which one is right, two at 0.6 both right."""
    rows = [[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]]
    labels = np.array([0, 1, 0, 0])
    error = metrics.calibration_error(predictions(rows, [0.0] * 4), labels)
    assert error == pytest.approx(0.5 * 0.4 + 0.5 * 0.4)


def test_known_pictures_are_counted() -> None:
    """Classes without pictures are counted too, with recall and precision 0."""
    rows = [[0.9, 0.1, 0], [0.2, 0.8, 0], [0.7, 0.3, 0], [0.6, 0.4, 0]]
    found = metrics.measure_known(
        predictions(rows, [-1, -1, -1, 1]), np.array([0, 1, 1, 0])
    )
    assert found["accuracy"] == 0.75
    assert found["refused"] == 0.25
    assert found["confusion"] == [[2, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert found["recall"] == [1, 0.5, 0]
    assert found["precision"] == [pytest.approx(2 / 3), 1, 0]


def test_photos_are_right_if_any_class_of_their_folder() -> None:
    classes = ["Sandal", "Sneaker", "Ankle boot", "Dress"]
    found = predictions(np.eye(4)[[0, 1, 3, 3, 2]].tolist(), [-1, 1, -1, -1, 1])
    folders = ["shoes", "shoes", "shoes", "dress", "hat"]
    aliases = {"shoe": classes[:3]}
    measured = metrics.measure_photos(found, folders, classes, aliases)
    assert measured["pictures"] == 4
    assert measured["accuracy"] == 0.75
    assert measured["refused"] == 0.25
    assert measured["folders"]["hat"]["accuracy"] is None
    assert measured["folders"]["hat"]["refused"] == 1
