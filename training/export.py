"""A trained network as the graph that is served: checked, described, with samples.

    >>> graph = choose_graph(model, facts, held_out, calibration_pixels)
    >>> samples = choose_samples(graph.classifier, held_out.labels, encode)

What is measured here is measured by ONNX Runtime, as the service computes.
"""

import io
import platform
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from model.artifact import Artifact, Sample
from model.classifier import Classifier, Prediction, exceeds, sample_of
from model.images import WHITE, Pixels
from model.network import Calibrated, export_onnx
from training.quantise import quantise

BATCH_SIZE = 250  # small pictures, fastest: their activations stay in the cache
BATCH_BYTES = 2_000_000  # of a batch of large pictures
SAMPLES = 12  # pictures in a model.bin, at least, and one a class
SAMPLE_TRIES = 50  # pictures of a class, of which the first one answered right is taken
SAMPLE_SIDE = 256  # pixels, longest side of a sample
BINS = 20  # of the histograms of the reference figures
PACKAGES = ("torch", "torchvision", "onnx", "onnxruntime", "numpy", "pillow")

Facts = dict[str, Any]


class Labelled(NamedTuple):
    """Pictures as inputs of the network, and their classes."""

    pixels: Pixels  # uint8 [N, *input_shape]
    labels: NDArray[np.int64]  # [N]


class Limits(NamedTuple):
    """How the answers of the exported graph may differ from PyTorch's."""

    other_class: float  # share of the pictures
    accuracy_loss: float
    pictures: int = 2  # that may lie on a boundary, whatever their share


EXACT = Limits(0.002, 0.001)
QUANTISED = Limits(0.03, 0.01)


class Graph(NamedTuple):
    """An exported network, and what it answers for some pictures."""

    onnx: bytes
    classifier: Classifier
    predictions: list[Prediction]
    figures: Facts  # how exact they are


def batches(pixels: Pixels) -> Iterable[Pixels]:
    """Split pixels into batches that take little memory in PyTorch."""
    size = max(1, min(BATCH_SIZE, BATCH_BYTES // pixels[0].size))
    return (pixels[start : start + size] for start in range(0, len(pixels), size))


@torch.no_grad()
def compute_probabilities(model: Calibrated, pixels: Pixels) -> NDArray[np.float32]:
    """Return what PyTorch answers: [N, classes]."""
    found = [model(torch.from_numpy(batch))[0] for batch in batches(pixels)]
    return np.asarray(torch.cat(found))


def check(
    expected: NDArray[np.float32],
    predictions: list[Prediction],
    labels: NDArray[np.int64],
    limits: Limits,
) -> Facts:
    """Compare the answers of an ONNX graph with PyTorch's; return the differences.

    Both round when they quantise, now and then to different sides, so a probability
    may differ. Raises `ValueError` if classes differ more often than `limits` allow.
    """
    ours = np.array([list(p.probabilities.values()) for p in predictions])
    class_ids = np.array([p.class_id for p in predictions])  # before rounding
    same = np.mean(class_ids == expected.argmax(1))
    right, right_before = (
        np.mean(ids == labels) for ids in (class_ids, expected.argmax(1))
    )
    few = limits.pictures / len(labels)
    lost = right_before - right
    if same < 1 - max(limits.other_class, few) or lost > max(limits.accuracy_loss, few):
        raise ValueError(
            f"the ONNX graph answers the class that PyTorch does for {same:.2%}, and"
            f" is right for {right:.2%} instead of {right_before:.2%}"
        )
    return {
        "onnx_same_class": round(float(same), 4),
        "onnx_accuracy": round(float(right), 4),
        "onnx_mean_difference": round(float(np.abs(ours - expected).mean()), 7),
    }


def choose_graph(
    model: Calibrated, facts: Facts, split: Labelled, pixels: Pixels
) -> Graph:
    """Return a quantised graph with its answers for `split`.

    The ranges are observed by `pixels`. A graph in float is returned if the quantised
    one differs too much, with a line that says so.
    """
    expected = compute_probabilities(model, split.pixels)

    def answer(onnx: bytes, limits: Limits) -> Graph:
        classifier = Classifier(Artifact(onnx, facts))
        predictions = classifier.classify(split.pixels)
        figures = check(expected, predictions, split.labels, limits)
        return Graph(onnx, classifier, predictions, figures)

    exact = answer(export_onnx(model), EXACT)
    is_quantised = True
    try:
        chosen = answer(quantise(exact.onnx, pixels), QUANTISED)
    except ValueError as error:
        tqdm.write(f"not quantised, for {error}")
        chosen, is_quantised = exact, False
    return chosen._replace(figures={"quantised": is_quantised, **chosen.figures})


def reference(
    predictions: Sequence[Prediction],
    pixels: Pixels,
    sides: NDArray[np.int64],
    classes: Sequence[str],
) -> Facts:
    """Return how answers and pictures that were set aside are distributed.

    Histograms of the probability, the unknown score, the brightness of the input, from
    0 to 1, and the longer side of the decoded picture in pixels, to notice drift by.
    """
    labels = [prediction.label for prediction in predictions]
    values = {
        "probability": [prediction.probability for prediction in predictions],
        "unknown_score": [prediction.unknown_score for prediction in predictions],
        "brightness": pixels.reshape(len(pixels), -1).mean(1) / WHITE,
        "longer_side": sides,
    }
    return {
        "pictures": len(labels),
        "class_shares": {n: round(labels.count(n) / len(labels), 4) for n in classes},
        **{name: histogram(found) for name, found in values.items()},
    }


def histogram(values: Sequence[float] | NDArray[Any]) -> dict[str, list[float]]:
    """Return the edges of `BINS` equal bins, and the share of the values in each."""
    counts, edges = np.histogram(values, BINS)
    shares = counts / counts.sum()
    return {"edges": edges.round(6).tolist(), "shares": shares.round(4).tolist()}


def choose_samples(
    classifier: Classifier,
    labels: NDArray[np.int64],
    encode: Callable[[int], tuple[bytes, str]],
    count: int = SAMPLES,
) -> tuple[Sample, ...]:
    """Return pictures of each class in turn, `count` or one a class, answered right.

    `encode` returns the bytes of the picture at an index, and the ending of its file.
    """
    if not count:
        return ()
    class_ids = range(len(classifier.classes))
    right: list[list[Sample]] = []
    each = -(-count // len(class_ids))
    for class_id in class_ids:
        found: list[Sample] = []
        for index in np.flatnonzero(labels == class_id)[:SAMPLE_TRIES].tolist():
            picture, ending = encode(index)
            file = f"{class_id}-{len(found)}.{ending}"
            sample = sample_of(classifier, picture, file)
            is_unknown = exceeds(sample.unknown_score, classifier.unknown_threshold)
            if sample.label == classifier.classes[class_id] and not is_unknown:
                found.append(sample)
            if len(found) == each:
                break
        right.append(found)
    rows = [row[turn] for turn in range(each) for row in right if turn < len(row)]
    return tuple(rows[: max(count, len(class_ids))])


def encode_png(pixels: Pixels) -> tuple[bytes, str]:
    """Encode an input array as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue(), "png"


def encode_small(image: Image.Image) -> tuple[bytes, str]:
    """Encode a photo as a small JPEG."""
    image.thumbnail((SAMPLE_SIDE, SAMPLE_SIDE), reducing_gap=2.0)
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=85)
    return buffer.getvalue(), "jpg"


def made_with() -> Facts:
    """Return the versions of libraries, and the time."""
    packages = {package: version(package) for package in PACKAGES}
    return {
        "libraries": {"python": platform.python_version(), **packages},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def constants(*modules: ModuleType) -> Facts:
    """Return the numeric constants of modules: the hyperparameters of a run."""
    return {
        name.lower(): value
        for module in modules
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, int | float)
    }
