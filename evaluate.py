"""Measure `model.bin` through the service's own code, and write `report/`.

    python evaluate.py                                   its test pictures, 15 seconds
    python evaluate.py --data DIR                        another torchvision root
    python evaluate.py --unknown cats/ digits.npz        pictures of none of the classes
    python evaluate.py --photos DIR                      photos, one folder a class
    python evaluate.py --images DIR --model mine.bin     a model of your own classes

Writes `metrics.json`, figures and `model-card.md`, and prints the latter. Pictures are
preprocessed and classified as in a request, by `Classifier.to_pixels` and `classify`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from model import artifact
from model.classifier import Classifier
from model.images import WHITE, Pixels
from training import plots
from training.charts import draw_charts
from training.check import describe_pictures, print_lines
from training.data import add_data_options, fingerprint, read_dataset
from training.folders import find_photos, read_outlier_sets, read_pictures
from training.labelled import find_labelled
from training.metrics import (
    ClassIds,
    Floats,
    Predictions,
    calibration_bins,
    measure_known,
    measure_photos,
    measure_unknown,
)
from training.pictures import load_pictures
from training.recipes import Recipe, find_recipe

BATCH_SIZE = 250
NOISE_COUNT = 1_000  # pictures of each kind of noise, fewer if they are large
NOISE_PIXELS = 5_000_000
SEED = 0  # of the noise
DECIMALS = 4  # of all fractions in the report
TEMPLATE = Path(__file__).parent / "training" / "model-card.md.jinja"


class Report(NamedTuple):
    """What was measured, with the pictures and predictions that figures need."""

    metrics: dict[str, Any]
    pixels: Pixels  # uint8 [N, *input_shape], of the test pictures
    labels: ClassIds  # [N]
    known: Predictions  # for the test pictures
    outliers: dict[str, Predictions]  # by the name of a set
    photos: tuple[list[Path], Pixels] | None


class Test(NamedTuple):
    """Labelled pictures that a model is measured by."""

    title: str
    pixels: Pixels  # uint8 [N, *input_shape]
    labels: ClassIds  # [N]
    outliers: dict[str, Pixels]  # found beside them


def measure(loaded: artifact.Artifact, options: argparse.Namespace) -> Report:
    """Classify all pictures and compute the metrics. Raises `ValueError`."""
    classifier = Classifier(loaded)
    recipe = recipe_of(loaded.facts)
    if recipe is None and (options.photos or not options.images):
        raise ValueError(f"{classifier.name} knows classes of its own: give --images")
    photos = options.photos
    labelled = None
    if photos and recipe:
        labelled = find_photos(photos, recipe.classes, recipe.aliases)
    given = read_outlier_sets(options.unknown, classifier.preprocessing)
    if options.images or recipe is None:
        test = read_images(classifier, options.images)
    else:
        test = read_test(recipe, options.data)
    drawn = noise_sets(test.pixels)
    drawn["charts and pages"] = draw_charts(classifier.preprocessing)
    if same := (drawn.keys() | test.outliers.keys()) & given.keys():
        raise ValueError(f"{', '.join(same)}: evaluate.py has a set of this name")
    known = classify(classifier, test.pixels, test.title)
    sets = given | test.outliers | drawn
    outliers = {name: classify(classifier, sets[name], name) for name in sets}
    trained_on = outliers_of(loaded.facts.get("data", {}))
    metrics: dict[str, Any] = {
        "model": {"name": classifier.name, "version": classifier.version},
        "unknown_threshold": classifier.unknown_threshold,
        "test": {"name": test.title, **measure_known(known, test.labels)},
        "unknown": {
            name: measure_unknown(found, known)
            | {
                "kind_trained_on": recipe is not None and name in drawn,
                "trained_on": fingerprint([torch.from_numpy(sets[name])]) in trained_on,
            }
            for name, found in outliers.items()
        },
    }
    read = None
    if labelled and recipe:
        read, metrics["photos"] = measure_folder(classifier, recipe, photos, *labelled)
    return Report(metrics, test.pixels, test.labels, known, outliers, read)


def recipe_of(facts: dict[str, Any]) -> Recipe | None:
    """Return the built-in data set that a model was trained on, if any."""
    try:
        return find_recipe(facts["data"]["name"])
    except (KeyError, ValueError):
        return None


def read_test(recipe: Recipe, data: Path) -> Test:
    """Read the test pictures of a built-in data set from a torchvision root."""
    test = read_dataset(recipe, data, is_train=False)
    return Test(recipe.title, test.data.numpy(), test.targets.numpy(), {})


def read_images(classifier: Classifier, folders: Sequence[Path]) -> Test:
    """Read pictures of the model's classes, of a split those it was not trained on.

    Folders of no class of the model are outliers. Raises `ValueError` if all are.
    """
    found = find_labelled(folders)
    pictures = load_pictures(found, classifier.preprocessing)
    print_lines(describe_pictures(pictures))
    names = [found.classes[label] for label in pictures.labels]
    is_new = np.array([split != "train" for split in pictures.splits])
    chosen = is_new if is_new.any() else ~is_new
    has_class = np.array([name in classifier.classes for name in names])
    if not (chosen & has_class).any():
        raise ValueError(
            f"no folder is named for a class, such as {classifier.classes[0]}/"
        )
    rows = np.flatnonzero(chosen & has_class)
    labels = np.array([classifier.classes.index(names[row]) for row in rows])
    outliers = {"none/": pictures.outliers} if len(pictures.outliers) else {}
    for name in sorted({name for name in names if name not in classifier.classes}):
        others = [row for row in np.flatnonzero(chosen) if names[row] == name]
        outliers |= {f"{name}/": pictures.pixels[others]} if others else {}
    title = ", ".join(folder.resolve().name for folder in folders)
    return Test(title, pictures.pixels[rows], labels, outliers)


def measure_folder(
    classifier: Classifier,
    recipe: Recipe,
    photos: Path,
    files: list[Path],
    folders: list[str],
) -> tuple[tuple[list[Path], Pixels], dict[str, Any]]:
    """Classify photos; return the files that were read, their pixels and metrics."""
    indices, pixels = read_pictures(photos, files, classifier.preprocessing)
    found = classify(classifier, pixels, "photos")
    names = [folders[index] for index in indices]
    metrics = measure_photos(found, names, recipe.classes, recipe.aliases)
    return ([files[index] for index in indices], pixels), metrics


def classify(classifier: Classifier, pixels: Pixels, description: str) -> Predictions:
    """Classify uint8 [N, *input_shape] in batches, with a progress bar."""
    found = []
    for start in tqdm(range(0, len(pixels), BATCH_SIZE), description, leave=False):
        found += classifier.classify(pixels[start : start + BATCH_SIZE])
    return Predictions(
        np.array([list(p.probabilities.values()) for p in found]),
        np.array([p.unknown_score or 0.0 for p in found]),  # no score: all the same
        np.array([p.is_unknown for p in found]),
    )


def runs_of(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the data facts of a model and of those it started from, newest first."""
    return [data, *runs_of(data["before"])] if data.get("before") else [data]


def outliers_of(data: dict[str, Any]) -> set[str]:
    """Return the fingerprints of the sets of outliers that a model was trained on."""
    sets = [run.get("outliers") for run in runs_of(data)]
    return {
        digest for found in sets if isinstance(found, dict) for digest in found.values()
    }


def noise_sets(pictures: Pixels) -> dict[str, Pixels]:
    """Return pictures of nothing, and inverted test pictures: uint8 [N, *input_shape].

    Training on a built-in data set has the same kinds, drawn by other code.
    """
    random = np.random.default_rng(SEED)
    side = pictures.shape[1]
    count = min(NOISE_COUNT, NOISE_PIXELS // side**2)
    sets = grey_noise(count, side, random)
    if pictures.ndim > 3:  # noqa: PLR2004 - in colour
        sets = {name: np.repeat(found[..., None], 3, 3) for name, found in sets.items()}
    return sets | {"inverted test pictures": WHITE - pictures[:count]}


def grey_noise(count: int, side: int, random: np.random.Generator) -> dict[str, Pixels]:
    """Return grey pictures of nothing: uint8 [count, side, side]."""
    shape, each = (count, side, side), (count, 1, 1)
    axis = np.linspace(0, 1, side)
    angle = random.uniform(0, 2 * np.pi, each)
    slope = np.cos(angle) * axis + np.sin(angle) * axis[:, None]
    level = random.uniform(0, WHITE, each)
    share = random.uniform(0.02, 0.5, each)
    levels = np.arange(0, WHITE + 1, -(-WHITE // count), dtype=np.uint8)[:, None, None]
    return {
        "blank, every level": np.tile(levels, (1, side, side)),
        "nearly blank": to_uint8(level + random.normal(0, 2, shape)),
        "gradients": to_uint8(stretch(slope) * random.uniform(0.1, 1, each)),
        "uniform noise": random.integers(0, 256, shape, np.uint8),
        "Gaussian noise": to_uint8(random.normal(128, 50, shape)),
        "dark noise": to_uint8(np.abs(random.normal(0, 40, shape))),
        "salt and pepper": to_uint8((random.random(shape) < share) * float(WHITE)),
        "pink noise": power_law_noise(shape, 1, random),
        "brown noise": power_law_noise(shape, 2, random),
        "clouds": power_law_noise(shape, 3, random),
    }


def power_law_noise(
    shape: tuple[int, int, int], exponent: float, random: np.random.Generator
) -> Pixels:
    """Draw square pictures with an amplitude spectrum of 1/f**exponent."""
    side = shape[1]
    down, across = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)
    frequency = np.hypot(down, across).clip(1 / side)
    spectrum = np.fft.rfft2(random.normal(size=shape)) * frequency**-exponent
    return to_uint8(stretch(np.fft.irfft2(spectrum)))


def stretch(values: Floats) -> Floats:
    """Map the least and greatest value of each picture to 0 and 255."""
    low, high = values.min((1, 2), keepdims=True), values.max((1, 2), keepdims=True)
    levels: Floats = (values - low) / (high - low) * WHITE
    return levels


def to_uint8(values: NDArray[np.floating]) -> Pixels:
    """Clip to 0..255 and round."""
    return values.clip(0, WHITE).round().astype(np.uint8)


def write(report: Report, facts: dict[str, Any], folder: Path) -> None:
    """Write the figures, `model-card.md` and `metrics.json` into a folder."""
    metrics, classes = rounded(report.metrics), facts["classes"]
    folder.mkdir(parents=True, exist_ok=True)
    plots.draw_confusion(folder, metrics["test"]["confusion"], classes)
    plots.draw_classes(folder, metrics["test"], classes)
    plots.draw_calibration(folder, *calibration_bins(report.known, report.labels))
    plots.draw_scores(
        folder,
        report.known.unknown_scores,
        {name: found.unknown_scores for name, found in report.outliers.items()},
        metrics["unknown_threshold"],
    )
    plots.draw_mistakes(
        folder,
        report.pixels,
        [classes[label] for label in report.labels],
        [classes[class_id] for class_id in report.known.class_ids],
        report.known.probabilities.max(1),
    )
    if report.photos:
        plots.draw_pictures(folder, *report.photos)
    card = render_card(metrics, facts, report.pixels.shape[1])
    artifact.replace(folder / "model-card.md", card.encode())
    text = json.dumps(metrics, indent=1) + "\n"
    artifact.replace(folder / "metrics.json", text.encode())


def rounded(value: Any) -> Any:
    """Round all fractions in nested dicts and lists, so that two reports compare."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, DECIMALS) if isinstance(value, float) else value


def render_card(metrics: dict[str, Any], facts: dict[str, Any], size: int) -> str:
    """Return the model card: use, data, metrics and limits of the model."""
    environment = jinja2.Environment(
        autoescape=jinja2.select_autoescape(),  # HTML, not Markdown
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["thousands"] = "{:,}".format
    environment.filters["percent"] = percent
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    data = facts.get("data", {})
    runs = runs_of(data) if recipe_of(facts) else []
    return template.render(
        metrics=metrics, facts=facts, data=data, size=size, runs=runs
    )


def percent(share: float | None, decimals: int = 1) -> str:
    """Format a share; nothing for None."""
    return "" if share is None else f"{share:.{decimals}%}"


def parse_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data_options(parser)
    parser.add_argument(
        "--unknown",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR|NPZ",
        help="pictures of none of the classes: folders, or NPZ files with `images`",
    )
    parser.add_argument(
        "--images",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="pictures of the model's own classes, one folder a class",
    )
    parser.add_argument(
        "--model", default="model.bin", metavar="URI", help="(model.bin)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("report"),
        metavar="DIR",
        help="folder that is written to (report)",
    )
    return parser.parse_args()


def main() -> None:
    """Measure, and write the report."""
    options = parse_options()
    loaded = artifact.load(options.model)
    report = measure(loaded, options)
    write(report, loaded.facts, options.output)
    print((options.output / "model-card.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nstopped; the report is not complete")
    except (artifact.ArtifactError, OSError, RuntimeError, ValueError) as error:
        sys.exit(f"evaluate: {error}")
