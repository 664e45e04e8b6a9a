"""Measure `model.bin` through the service's own code and write `report/`.

    python evaluate.py                                   Fashion-MNIST alone, 15 seconds
    python evaluate.py --data DIR                        a torchvision root
    python evaluate.py --unknown cats/ digits.npz        what should be refused
    python evaluate.py --photos DIR                      photos, one folder a class

Writes `metrics.json`, figures and a model card. Pictures go the way of a request:
bytes, `images.to_pixels`, `Classifier.classify`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from model import artifact
from model.classifier import Classifier
from model.images import SIDE, WHITE, Pixels
from training import plots as figures
from training.data import RECIPE, add_options, fingerprint, read_dataset
from training.folders import find_photos, read_all_unknown, read_pictures
from training.metrics import (
    Answers,
    Floats,
    calibration,
    measure_known,
    measure_photos,
    measure_unknown,
)

BATCH_SIZE = 250
MADE_UP = 1_000  # pictures of each kind of noise
SEED = 0
DECIMALS = 4


def ask(classifier: Classifier, pixels: Pixels, name: str) -> Answers:
    """Classify uint8 [N, 28, 28] in batches, with a progress bar."""
    found = []
    for start in tqdm(range(0, len(pixels), BATCH_SIZE), desc=name, leave=False):
        found += classifier.classify(pixels[start : start + BATCH_SIZE])
    return Answers(
        np.array([list(p.probabilities.values()) for p in found]),
        np.array([p.unknown_score for p in found]),
        np.array([p.is_unknown for p in found]),
    )


def made_up(garments: Pixels) -> dict[str, Pixels]:
    """Draw what shows nothing, and invert garments.

    These are kinds that training draws too, if by other code and other numbers.
    """
    random = np.random.default_rng(SEED)
    shape = MADE_UP, SIDE, SIDE
    down, across = np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)
    frequency = np.hypot(down, across).clip(1 / SIDE)

    def clouds(exponent: float) -> Pixels:
        spectrum = np.fft.rfft2(random.normal(size=shape)) * frequency**-exponent
        return _spread(np.fft.irfft2(spectrum))

    def bytes_of(values: NDArray[np.floating]) -> Pixels:
        return values.clip(0, WHITE).round().astype(np.uint8)

    line = np.linspace(0, 1, SIDE)
    turn = random.uniform(0, 2 * np.pi, (MADE_UP, 1, 1))
    slope = np.cos(turn) * line + np.sin(turn) * line[:, None]
    level = random.uniform(0, WHITE, (MADE_UP, 1, 1))
    share = random.uniform(0.02, 0.5, (MADE_UP, 1, 1))
    return {
        "blank, every level": np.full(
            (256, SIDE, SIDE), np.arange(256)[:, None, None], np.uint8
        ),
        "nearly blank": bytes_of(level + random.normal(0, 2, shape)),
        "gradients": bytes_of(_spread(slope) * random.uniform(0.1, 1, (MADE_UP, 1, 1))),
        "uniform noise": random.integers(0, 256, shape, np.uint8),
        "Gaussian noise": bytes_of(random.normal(128, 50, shape)),
        "dark noise": bytes_of(np.abs(random.normal(0, 40, shape))),
        "salt and pepper": bytes_of((random.random(shape) < share) * float(WHITE)),
        "pink noise": clouds(1),
        "brown noise": clouds(2),
        "clouds": clouds(3),
        "inverted garments": WHITE - garments[:MADE_UP],
    }


def _spread(values: Floats) -> Pixels:
    """Stretch each picture's levels to 0..255."""
    low, high = values.min((1, 2), keepdims=True), values.max((1, 2), keepdims=True)
    levels: Floats = (values - low) / (high - low) * WHITE
    return levels.round().astype(np.uint8)


class Report(NamedTuple):
    """What is measured, and the pictures and answers that figures need."""

    metrics: dict[str, Any]
    pixels: Pixels  # of the test set
    labels: NDArray[np.integer]
    known: Answers
    strangers: dict[str, Answers]
    photos: tuple[list[Path], Pixels] | None


def measure(
    loaded: artifact.Artifact, data: Path, unknown: Sequence[Path], photos: Path | None
) -> Report:
    """Ask the classifier about everything, and count. Raises `ValueError`."""
    classifier = Classifier(loaded)
    files, folders = (
        find_photos(photos, classifier.classes, RECIPE.aliases) if photos else ([], [])
    )
    given = read_all_unknown(unknown)
    test = read_dataset(data, is_train=False)
    pixels, labels = test.data.numpy(), test.targets.numpy()
    own = made_up(pixels)
    if own.keys() & given.keys():
        raise ValueError(f"{', '.join(own.keys() & given.keys())}: a name of our own")
    known = ask(classifier, pixels, "Fashion-MNIST")
    sets = given | own
    strangers = {name: ask(classifier, sets[name], name) for name in sets}
    learnt = learnt_by(loaded.facts["data"])
    metrics = {
        "model": {"name": classifier.name, "version": classifier.version},
        "unknown_threshold": classifier.unknown_threshold,
        "test": measure_known(known, labels),
        "unknown": {
            name: measure_unknown(answers, known)
            | {
                "kind_trained_on": name in own,
                "trained_on": fingerprint([torch.from_numpy(sets[name])]) in learnt,
            }
            for name, answers in strangers.items()
        },
    }
    seen = None
    if photos:
        read, photo_pixels = read_pictures(photos, files)
        seen = [files[index] for index in read], photo_pixels
        answers = ask(classifier, photo_pixels, "photos")
        metrics["photos"] = measure_photos(
            answers, [folders[index] for index in read], classifier.classes
        )
    return Report(metrics, pixels, labels, known, strangers, seen)


def learnt_by(data: dict[str, Any]) -> set[str]:
    """Name the sets of outliers that a model, and what it started from, learnt by."""
    before = learnt_by(data["before"]) if data.get("before") else set()
    return before | set(data.get("outliers", {}).values())


def write(report: Report, facts: dict[str, Any], folder: Path) -> None:
    """Write the figures, the model card and `metrics.json` into a folder."""
    metrics, classes = rounded(report.metrics), facts["classes"]
    folder.mkdir(parents=True, exist_ok=True)
    figures.draw_confusion(folder, metrics["test"]["confusion"], classes)
    figures.draw_classes(folder, metrics["test"], classes)
    figures.draw_calibration(folder, *calibration(report.known, report.labels))
    figures.draw_scores(
        folder,
        report.known.scores,
        {name: answers.scores for name, answers in report.strangers.items()},
        metrics["unknown_threshold"],
    )
    figures.draw_mistakes(
        folder,
        report.pixels,
        [classes[label] for label in report.labels],
        [classes[class_id] for class_id in report.known.class_ids],
        report.known.probabilities.max(1),
    )
    if report.photos:
        figures.draw_pictures(folder, *report.photos)
    figures.write_card(folder, metrics, facts)
    text = json.dumps(metrics, indent=1) + "\n"
    artifact.replace(folder / "metrics.json", text.encode())


def rounded(value: Any) -> Any:
    """Round all fractions in a structure, so that two reports compare."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, DECIMALS) if isinstance(value, float) else value


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument(
        "--unknown",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR|NPZ",
        help="pictures of none of the classes: a folder, or `images` of an NPZ file",
    )
    parser.add_argument("--model", default="model.bin", help="(model.bin)")
    parser.add_argument(
        "--output", type=Path, default=Path("report"), metavar="DIR", help="(report)"
    )
    return parser.parse_args()


def main() -> None:
    """Measure, draw, write."""
    options = parse_options()
    loaded = artifact.load(options.model)
    report = measure(loaded, options.data, options.unknown, options.photos)
    write(report, loaded.facts, options.output)
    print((options.output / "model-card.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nstopped; nothing more is written")
    except (artifact.ArtifactError, OSError, RuntimeError, ValueError) as error:
        sys.exit(f"evaluate: {error}")
