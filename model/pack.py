"""Make a `model.bin` of an ONNX classifier that another framework has trained.

    python -m model pack --onnx net.onnx --classes cat dog --size 64 --colour \
        --scale 0..1 --samples pictures/ --labelled validation/

Normalisation becomes part of the graph, which then takes uint8 `pixels` like any other
of this service. Labelled pictures calibrate the probabilities by a temperature (Guo et
al., arXiv 1706.04599) and set the unknown threshold. The unknown score is minus the
highest logit (Hendrycks et al., arXiv 1911.11132), or minus the highest logarithm of a
probability: energy would be the same for all pictures where there are no logits.
"""

import argparse
import io
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from model import artifact
from model.artifact import Artifact, ArtifactError
from model.classifier import Classifier, sample_of
from model.images import ImageError, Pixels
from model.onnx_network import Network
from model.preprocessing import Preprocessing, Square

Facts = dict[str, Any]

MAX_DIFFERENCE = 0.001  # of a probability, from what the given graph answers
REFUSED_SHARE = 0.02  # of the labelled pictures
FEW_PICTURES = 100  # labelled: from fewer, the threshold is rough
LOG_TEMPERATURES = -3, 3  # the range of the fit
# of a sample, until it is small enough: the format, the suffix, the quality
FORMATS = ("PNG", "png", 0), ("JPEG", "jpg", 95), ("JPEG", "jpg", 70)
PACKAGES = ("onnx", "onnxruntime", "numpy", "pillow", "scipy")


def read_classes(words: list[str]) -> list[str]:
    """Return the names given, or the lines of the one text file given."""
    if len(words) == 1:
        words = Path(words[0]).read_text(encoding="utf-8-sig").splitlines()
    return [word.strip() for word in words if word.strip()]


def find_files(folder: Path) -> dict[str, list[Path]]:
    """Return the files below a folder by the first folder below it, both sorted."""
    if not folder.is_dir():
        raise ArtifactError(f"there is no folder {folder}")
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*")):
        parts = file.relative_to(folder).parts
        if file.is_file() and not any(part.startswith(".") for part in parts):
            found.setdefault(parts[0] if len(parts) > 1 else "", []).append(file)
    return found


def read_pictures(files: Iterable[Path], spec: Preprocessing) -> Iterator[Pixels]:
    """Yield the input arrays of the files that are pictures."""
    for file in files:
        try:
            yield spec.to_pixels(file.read_bytes())
        except ImageError:
            continue


def choose_samples(folder: Path, spec: Preprocessing) -> dict[str, bytes]:
    """Return small files of the first pictures of each folder in turn."""
    turns = zip_longest(*find_files(folder).values())
    files = (file for turn in turns for file in turn if file)
    pictures = islice(read_pictures(files, spec), artifact.MAX_SAMPLES)
    samples = dict(encode(row, str(index)) for index, row in enumerate(pictures))
    if not samples:
        raise ArtifactError(f"{folder} holds no picture that can be read")
    return samples


def encode(pixels: Pixels, name: str) -> tuple[str, bytes]:
    """Return an input array as a file: its name, and the bytes."""
    for kind, suffix, quality in FORMATS:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind, quality=quality)
        if buffer.tell() <= artifact.MAX_SAMPLE_BYTES:
            return f"{name}.{suffix}", buffer.getvalue()
    raise ArtifactError("pictures of this size are too large for samples")


class Fit(NamedTuple):
    """What labelled pictures determine."""

    temperature: float = 1.0
    threshold: float | None = None
    metrics: Facts = {}  # noqa: RUF012 - nobody changes it


def fit(network: Network, folder: Path, classes: list[str]) -> Fit:
    """Calibrate with labelled pictures, in one folder a class."""
    found = find_files(folder)
    if unknown := sorted(set(found) - set(classes)):
        raise ArtifactError(f"{folder} has files in no class's folder: {unknown[0]!r}")
    rows = [
        (network.to_logits(network.run(pixels[None]))[0], classes.index(name))
        for name, files in found.items()
        for pixels in read_pictures(files, network.spec)
    ]
    if not rows:
        raise ArtifactError(f"{folder} holds no picture that can be read")
    logits, labels = (np.array(column) for column in zip(*rows, strict=True))

    def loss(log_temperature: float) -> float:
        logs = log_softmax(logits / np.exp(log_temperature), 1)
        return -float(logs[range(len(labels)), labels].mean())

    temperature = np.exp(minimize_scalar(loss, bounds=LOG_TEMPERATURES).x)
    scores = -logits.max(1).astype(float)
    threshold = float(np.quantile(scores, 1 - REFUSED_SHARE))
    metrics = {
        "labelled_pictures": len(labels),
        "labelled_accuracy": round(float(np.mean(logits.argmax(1) == labels)), 4),
        "labelled_refused": round(float(np.mean(scores > threshold)), 4),
    }
    return Fit(float(temperature), threshold, metrics)


def pack(options: argparse.Namespace) -> Facts:
    """Check a graph and write `options.output`; return the facts of `model.json`.

    Raises `ArtifactError`, `OSError`, `ValueError`.
    """
    artifact.check_output(options.output)
    options.classes = read_classes(options.classes)
    spec = Square(
        size=options.size,
        channels=1 if options.grey else 3,
        draft_side=2 * options.size,
    )
    network = Network(options, spec)
    files = choose_samples(options.samples, spec)
    pixels = np.stack([spec.to_pixels(data) for data in files.values()])
    network.find_kind(pixels, options.kind)
    fitted = Fit()
    if options.labelled:
        fitted = fit(network, options.labelled, options.classes)
    facts = describe(options, spec, fitted)
    onnx = network.to_onnx(fitted.temperature, has_score=options.labelled is not None)
    try:
        classifier = Classifier(Artifact(onnx, facts))
    except ArtifactError as error:
        hint = "if it takes only one picture at a time, export it for any number"
        raise ArtifactError(f"{error}; {hint}") from error
    check(classifier, network, pixels, fitted.temperature)
    samples = tuple(
        sample_of(classifier, picture, file) for file, picture in files.items()
    )
    packed = Artifact(onnx, facts, samples)
    Classifier(packed)
    artifact.write(options.output, facts, packed)
    return facts


def check(
    classifier: Classifier, network: Network, pixels: Pixels, temperature: float
) -> None:
    """Raise `ArtifactError` if the classifier answers other than the given graph."""
    expected = softmax(network.to_logits(network.run(pixels)) / temperature, 1)
    predictions = classifier.classify(np.concatenate([pixels, pixels]))
    found = [list(each.probabilities.values()) for each in predictions]
    if (difference := abs(found - np.tile(expected, (2, 1))).max()) > MAX_DIFFERENCE:
        raise ArtifactError(
            f"several pictures at once get other probabilities, by {difference:.3f}"
        )


def describe(options: argparse.Namespace, spec: Square, fitted: Fit) -> Facts:
    """Return the facts of `model.json`."""
    return {
        "name": options.name or options.onnx.stem,
        "version": "unsaved",
        "classes": options.classes,
        **spec.facts(),
        "unknown_threshold": fitted.threshold,
        "calibration": {"temperature": fitted.temperature},
        "settings": {"scale": options.scale, "mean": options.mean, "std": options.std},
        "source": {
            "file": options.onnx.name,
            "sha256": artifact.digest(options.onnx.read_bytes()),
        },
        "metrics": fitted.metrics,
        "libraries": {package: version(package) for package in PACKAGES},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def report(facts: Facts) -> Iterator[str]:
    """Yield lines for a person: what was measured, and what the model lacks."""
    metrics = facts["metrics"]
    if metrics:
        count = metrics["labelled_pictures"]
        yield (
            f"{metrics['labelled_accuracy']:.1%} of {count} labelled pictures right,"
            f" {metrics['labelled_refused']:.1%} refused as unknown"
        )
        if count < FEW_PICTURES:
            yield f"the threshold is rough: label {FEW_PICTURES} pictures or more"
    else:
        yield "it refuses no picture and is not calibrated: --labelled does both"
    yield "its explanations have no map: the graph has no class_activation"
