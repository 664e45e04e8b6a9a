"""Make a `model.bin` of an ONNX classifier that another framework has trained.

    python -m model pack --onnx net.onnx --classes cat dog --size 64 --colour \
        --scale 0..1 --samples pictures/ --labelled validation/

Labelled pictures calibrate the probabilities by a temperature (Guo et al., arXiv
1706.04599) and set the unknown threshold. The unknown score is minus the highest logit
(Hendrycks et al., arXiv 1911.11132), or minus the highest logarithm of a probability.
"""

import argparse
import io
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from model import artifact
from model.artifact import Artifact, ArtifactError
from model.classifier import Classifier, sample_of
from model.images import ImageError, Pixels
from model.onnx_graph import SCALES, Floats, Network
from model.preprocessing import MAX_SIDE, Preprocessing, Square

Facts = dict[str, Any]

MAX_DIFFERENCE = 0.001  # of a probability, from what the given graph answers
REFUSED_SHARE = 0.02  # of the labelled pictures
FEW_PICTURES = 100  # labelled: from fewer, the threshold is rough
LOG_TEMPERATURES = -3, 3  # the range of the fit
SAMPLES = 12  # pictures in a model.bin, or one a class
LARGE = 256  # pixels, both sides: larger samples are compressed more
PACKAGES = ("onnx", "onnxruntime", "numpy", "pillow", "scipy")
WEAK = (
    "warning: the unknown score is weak: 33 % to 95 % of pictures of other kinds were"
    " accepted by such models, as measured in docs/other-frameworks.md"
)


def parse_options(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line; `@FILE` stands for the lines of a text file."""
    parser = argparse.ArgumentParser(
        prog="python -m model pack",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        fromfile_prefix_chars="@",
    )
    add = parser.add_argument
    add("--onnx", type=Path, required=True, help="an ONNX file")
    add("--classes", nargs="+", required=True, help="in order, or @FILE, one a line")
    add("--size", required=True, type=int, help="pixels, of both sides of its input")
    colour = parser.add_mutually_exclusive_group(required=True)
    colour.add_argument("--grey", action="store_true", help="one channel")
    colour.add_argument("--colour", action="store_true", help="red, green and blue")
    add("--scale", required=True, choices=SCALES, help="of its input: --scale=-1..1")
    for name in ("--mean", "--std"):
        add(name, type=float, nargs="+", help="in place of the scale's, of 0 to 1")
    add("--samples", type=Path, required=True, help="pictures to keep in the file")
    add("--labelled", type=Path, help="a folder a class, not used in training")
    add("--name", help="of the model (that of the ONNX file)")
    add("-o", "--output", type=Path, default="model.bin", help="(%(default)s)")
    return parser.parse_args(arguments)


def pack(options: argparse.Namespace) -> Facts:
    """Check a graph and write `options.output`; return the facts of `model.json`.

    Raises `ArtifactError`, `OSError`.
    """
    artifact.check_output(options.output)
    size = options.size
    if not 1 <= size <= MAX_SIDE:
        raise ArtifactError(f"--size is from 1 to {MAX_SIDE}")
    spec = Square(size=size, channels=1 if options.grey else 3, draft_side=2 * size)
    files = choose_samples(options.samples, spec, len(options.classes))
    pixels = np.stack([spec.to_pixels(data) for data in files.values()])
    network = Network(options, spec, pixels)
    facts = describe(options, spec)
    if options.labelled:
        facts |= fit(network, options.labelled, options.classes)
    temperature = facts["calibration"]["temperature"]
    onnx = network.to_onnx(temperature, has_score=options.labelled is not None)
    if len(onnx) > artifact.MAX_ONNX_BYTES:
        raise ArtifactError(f"the graph has over {artifact.MAX_ONNX_BYTES} bytes")
    classifier = Classifier(Artifact(onnx, facts))
    check(classifier, softmax(network.logits(pixels) / temperature, 1), pixels)
    samples = tuple(sample_of(classifier, data, file) for file, data in files.items())
    artifact.write(options.output, facts, Artifact(onnx, facts, samples))
    return facts


def check(classifier: Classifier, expected: Floats, pixels: Pixels) -> None:
    """Raise `ArtifactError` if several pictures at once get other probabilities."""
    predictions = classifier.classify(np.concatenate([pixels, pixels]))
    found = [list(each.probabilities.values()) for each in predictions]
    difference = abs(found - np.tile(expected, (2, 1))).max()
    if not difference <= MAX_DIFFERENCE:  # nor NaN
        raise ArtifactError(
            f"several pictures at once get other probabilities, by {difference:.3f}"
        )


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


def choose_samples(folder: Path, spec: Preprocessing, classes: int) -> dict[str, bytes]:
    """Return the first pictures of each folder in turn as small files, by name."""
    turns = zip_longest(*find_files(folder).values())
    files = (file for turn in turns for file in turn if file)
    count = min(max(SAMPLES, classes), artifact.MAX_SAMPLES)
    quality = 95 if spec.size <= LARGE else 60
    samples = {}
    for index, pixels in enumerate(islice(read_pictures(files, spec), count)):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
        if buffer.tell() <= artifact.MAX_SAMPLE_BYTES:
            samples[f"{index}.jpg"] = buffer.getvalue()
    if not samples:
        raise ArtifactError(f"{folder} holds no picture for samples")
    return samples


def fit(network: Network, folder: Path, classes: list[str]) -> Facts:
    """Return the facts that labelled pictures determine, in one folder a class."""
    found = find_files(folder)
    if unknown := [found[name][0] for name in found if name not in classes]:
        raise ArtifactError(f"{unknown[0]} is in no class's folder of {folder}")
    rows, labels = [], []
    for class_id, name in enumerate(classes):
        pictures = read_pictures(found.get(name, []), network.spec)
        logits = [network.logits(pixels[None])[0] for pixels in pictures]
        if not logits:
            raise ArtifactError(f"{folder} has no picture of the class {name!r}")
        rows += logits
        labels += [class_id] * len(logits)
    table = np.array(rows)

    def loss(log_temperature: float) -> float:
        logs = log_softmax(table / np.exp(log_temperature), 1)
        return -float(logs[range(len(labels)), labels].mean())

    temperature = float(np.exp(minimize_scalar(loss, bounds=LOG_TEMPERATURES).x))
    scores = -table.max(1).astype(float)
    threshold = float(np.quantile(scores, 1 - REFUSED_SHARE))
    return {
        "unknown_threshold": threshold,
        "calibration": {"temperature": temperature},
        "metrics": {
            "labelled_pictures": len(labels),
            "labelled_no_pictures": sum(map(len, found.values())) - len(labels),
            "labelled_accuracy": round(float(np.mean(table.argmax(1) == labels)), 4),
            "labelled_refused": round(float(np.mean(scores > threshold)), 4),
        },
    }


def describe(options: argparse.Namespace, spec: Square) -> Facts:
    """Return the facts of `model.json` of a model that nothing is fitted to."""
    return {
        "name": options.name or options.onnx.stem,
        "version": "unsaved",
        "classes": options.classes,
        **spec.facts(),
        "unknown_threshold": None,
        "calibration": {"temperature": 1.0},
        "settings": {key: getattr(options, key) for key in ("scale", "mean", "std")},
        "source_sha256": artifact.digest(options.onnx.read_bytes()),
        "metrics": {},
        "libraries": {package: version(package) for package in PACKAGES},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def report(facts: Facts) -> Iterator[str]:
    """Yield lines for a person: what was measured, and what the model lacks."""
    if metrics := facts["metrics"]:
        count = metrics["labelled_pictures"]
        yield (
            f"{metrics['labelled_accuracy']:.1%} of {count} labelled pictures right,"
            f" {metrics['labelled_refused']:.1%} refused as unknown;"
            f" files that are no pictures: {metrics['labelled_no_pictures']}"
        )
        if count < FEW_PICTURES:
            yield f"the threshold is rough: label {FEW_PICTURES} pictures or more"
        yield WEAK
    else:
        yield "warning: no picture is refused or calibrated: --labelled does both"
    yield "its explanations have no map: the graph has no class_activation"
