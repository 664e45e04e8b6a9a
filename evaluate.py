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
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import torch
from tqdm import tqdm

from model import artifact
from model.artifact import printable
from model.classifier import Classifier
from model.images import Pixels
from training import plots
from training.charts import draw_charts
from training.check import print_lines
from training.data import add_data_options, fingerprint, read_dataset
from training.folders import find_photos, read_outlier_sets, read_pictures
from training.labelled import (
    OUTLIERS,
    TRAIN_SPLITS,
    Entry,
    LabelledFiles,
    list_labelled,
)
from training.metrics import (
    ClassIds,
    Predictions,
    calibration_bins,
    measure_known,
    measure_photos,
    measure_unknown,
)
from training.noise import noise_sets
from training.pictures import allocate, read_all
from training.recipes import Recipe, find_recipe

BATCH_SIZE = 250
NAMES_PRINTED = 5  # of folders and of classes, if none matches
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
    trained_on = compare_training(sets, loaded.facts.get("data", {}), drawn)
    metrics: dict[str, Any] = {
        "model": {"name": classifier.name, "version": classifier.version},
        "unknown_threshold": classifier.unknown_threshold,
        "test": {"name": test.title, **measure_known(known, test.labels)},
        "unknown": {
            name: measure_unknown(found, known) | trained_on[name]
            for name, found in outliers.items()
        },
    }
    read = None
    if labelled and recipe:
        read, metrics["photos"] = measure_folder(classifier, recipe, photos, *labelled)
    return Report(metrics, test.pixels, test.labels, known, outliers, read)


def compare_training(
    sets: Mapping[str, Pixels], data: dict[str, Any], drawn: Collection[str]
) -> dict[str, dict[str, bool]]:
    """Return by name of a set whether it, or its kind, was trained on as outliers."""
    is_built_in = recipe_of({"data": data}) is not None
    own = [f"{OUTLIERS}/"] if data.get("outliers") else []
    kinds, digests = drawn if is_built_in else own, outliers_of(data)
    return {
        name: {
            "kind_trained_on": name in kinds,
            "trained_on": fingerprint([torch.from_numpy(pixels)]) in digests,
        }
        for name, pixels in sets.items()
    }


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

    Folders of no class of the model, such as none/, are sets of outliers.
    Raises `ValueError` if all folders are.
    """
    entries = find_entries(list_labelled(folders), classifier)
    pixels = allocate((len(entries), *classifier.input_shape))
    files = [entry.file for entry in entries]
    indices, _, left_out = read_all(files, classifier.preprocessing, pixels)
    print_lines(map(str, left_out))
    names = np.array([entries[index].name for index in indices])
    count = int(np.isin(names, classifier.classes).sum())  # the others come after
    if not count:
        raise ValueError(f"no picture of a class can be read: {left_out[0]}, ...")
    labels = np.array([classifier.classes.index(name) for name in names[:count]])
    others = sorted(set(names[count:].tolist()))
    outliers = {f"{name}/": pixels[: len(names)][names == name] for name in others}
    title = printable(", ".join(folder.resolve().name for folder in folders))
    return Test(title, pixels[:count], labels, outliers)


def find_entries(found: LabelledFiles, classifier: Classifier) -> list[Entry]:
    """Return the files to measure by, those of the model's classes first.

    Prints which folders are no class, and which classes have no pictures. Raises
    `ValueError` if none has.
    """
    names = [found.classes[label] for label in found.labels]
    rows = map(Entry, found.files, names, found.splits)
    is_split = any(split not in TRAIN_SPLITS for split in found.splits)
    entries = [row for row in rows if not (is_split and row.split == "train")]
    known = [entry for entry in entries if entry.name in classifier.classes]
    if not known:
        folders, classes = (
            ", ".join([*group[:NAMES_PRINTED], "..."][: len(group)])
            for group in (found.classes, classifier.classes)
        )
        raise ValueError(f"no folder is named for a class of {classes}: {folders}")
    others = [entry for entry in entries if entry.name not in classifier.classes]
    counts = Counter(entry.name for entry in entries)
    print_lines(map(str, found.left_out))
    print_lines(
        f"{name}/ is no class of the model: its {counts[name]} files are outliers"
        for name in sorted({entry.name for entry in others})
    )
    print_lines(
        f"no files of {name}" for name in classifier.classes if not counts[name]
    )
    return [*known, *others, *(Entry(file, OUTLIERS) for file in found.outliers)]


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
        found += [
            (np.array([*p.probabilities.values()]), p.unknown_score, p.is_unknown)
            for p in classifier.classify(pixels[start : start + BATCH_SIZE])
        ]
    probabilities, scores, is_unknown = zip(*found, strict=True)
    return Predictions(
        np.stack(probabilities), np.array(scores, float), np.array(is_unknown)
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


def write(report: Report, facts: dict[str, Any], folder: Path) -> None:
    """Write the figures, `model-card.md` and `metrics.json` into a folder."""
    metrics, classes = rounded(report.metrics), facts["classes"]
    folder.mkdir(parents=True, exist_ok=True)
    plots.draw_confusion(folder, metrics["test"]["confusion"], classes)
    plots.draw_classes(folder, metrics["test"], classes)
    plots.draw_calibration(folder, *calibration_bins(report.known, report.labels))
    if metrics["unknown_threshold"] is not None:
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
        finalize=escape_bars,
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


def escape_bars(value: Any) -> Any:
    """Escape what would end a cell of a Markdown table."""
    return value.replace("|", r"\|") if isinstance(value, str) else value


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
