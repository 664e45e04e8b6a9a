"""The pages of the report: what `evaluate.py` measured, as figures and a model card.

    >>> draw_confusion(Path("report"), metrics["test"]["confusion"], classes)

Every function writes one file into a folder that is there.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from model.artifact import replace
from model.images import SIDE, WHITE, Pixels, decode

mpl.use("Agg")
plt.rcParams.update({"font.size": 13, "savefig.dpi": 100, "axes.titlesize": 14})
KNOWN, STRANGE, RULE = "#0072b2", "#d55e00", "#333333"  # told apart by the colour-blind
MISTAKES = 24
SHEET_PICTURES = 50
SHEET_COLUMNS = 10
CELL = 3 * SIDE  # pixels, side of a picture on a contact sheet
GAP = 6  # pixels
SCORE_BINS = 80


def _save(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def draw_confusion(
    folder: Path, confusion: Sequence[Sequence[int]], classes: Sequence[str]
) -> None:
    """Write `confusion.png`: true class down, predicted class across."""
    counts = np.array(confusion)
    figure, axes = plt.subplots(figsize=(10, 9))
    axes.imshow(np.sqrt(counts), cmap="Blues")
    dark = counts.max() / 4
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if count > dark else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="predicted", ylabel="true", title="Fashion-MNIST test pictures")
    _save(figure, folder / "confusion.png")


def draw_calibration(
    folder: Path, share: NDArray[Any], confidence: NDArray[Any], accuracy: NDArray[Any]
) -> None:
    """Write `calibration.png`: how often answers of each probability are right."""
    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(8, 8), height_ratios=[3, 1], sharex=True
    )
    filled = share > 0
    upper.plot([0, 1], [0, 1], color=RULE, linestyle=":", label="perfect")
    upper.plot(
        confidence[filled], accuracy[filled], "o-", color=KNOWN, label="model.bin"
    )
    upper.set(ylabel="share that is right", title="Calibration on the test pictures")
    upper.legend()
    edges = np.linspace(0, 1, len(share) + 1)
    lower.bar(edges[:-1], share, width=edges[1], align="edge", color=KNOWN)
    lower.set(xlabel="probability of the answer", ylabel="share of answers")
    _save(figure, folder / "calibration.png")


def draw_classes(folder: Path, test: dict[str, Any], classes: Sequence[str]) -> None:
    """Write `classes.png`: recall and precision of each class."""
    figure, axes = plt.subplots(figsize=(10, 6))
    rows = np.arange(len(classes))
    for name, shift, colour in (("recall", -0.2, KNOWN), ("precision", 0.2, STRANGE)):
        bars = axes.barh(rows + shift, test[name], 0.38, color=colour, label=name)
        axes.bar_label(bars, [f"{value:.1%}" for value in test[name]], padding=3)
    axes.set_yticks(rows, classes)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.12), title="Fashion-MNIST test pictures")
    axes.legend(loc="lower right")
    _save(figure, folder / "classes.png")


def draw_scores(
    folder: Path,
    known: NDArray[Any],
    strangers: dict[str, NDArray[Any]],
    threshold: float,
) -> None:
    """Write `scores.png`: unknown scores of garments, and of each set of strangers."""
    values = np.concatenate([known, *strangers.values()])
    low, high = np.quantile(values, [0.001, 0.999])
    edges = np.linspace(low, high, SCORE_BINS)
    rows = {"Fashion-MNIST": known} | strangers
    figure, all_axes = plt.subplots(
        len(rows), 1, figsize=(10, 0.75 * len(rows) + 1.5), sharex=True
    )
    for axes, (name, scores) in zip(np.atleast_1d(all_axes), rows.items(), strict=True):
        colour = KNOWN if scores is known else STRANGE
        _draw_scores(axes, name, scores, edges, colour)
        axes.axvline(threshold, color=RULE, linestyle=":")
    axes.set_xlabel("unknown score; right of the dotted line is refused")
    _save(figure, folder / "scores.png")


def _draw_scores(
    axes: Axes, name: str, scores: NDArray[Any], edges: NDArray[Any], colour: str
) -> None:
    axes.hist(scores.clip(edges[0], edges[-1]), edges.tolist(), color=colour)
    axes.set_yticks([])
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.set_ylabel(name, rotation=0, ha="right", va="center")


def draw_mistakes(
    folder: Path,
    pixels: Pixels,
    truth: Sequence[str],
    answers: Sequence[str],
    confidence: NDArray[Any],
) -> None:
    """Write `mistakes.png`: the wrong answers that were surest."""
    wrong = np.flatnonzero(np.array(truth) != np.array(answers))
    worst = wrong[np.argsort(-confidence[wrong])][:MISTAKES]
    figure, axes = plt.subplots(4, 6, figsize=(12, 10))
    for place, index in zip(axes.flat, worst, strict=False):
        place.imshow(pixels[index], cmap="gray", vmin=0, vmax=WHITE)
        place.set_title(
            f"{truth[index]},\nsaid {answers[index]}\n{confidence[index]:.1%}",
            fontsize=11,
        )
    for place in axes.flat:
        place.set_axis_off()
    _save(figure, folder / "mistakes.png")


def draw_pictures(folder: Path, files: Sequence[Path], pixels: Pixels) -> None:
    """Write `pictures.png`: photos, evenly drawn, beside what the network sees."""
    chosen = np.linspace(0, len(files) - 1, min(SHEET_PICTURES, len(files)))
    rows = -(-len(chosen) // SHEET_COLUMNS)
    width = 2 * CELL + GAP
    size = (SHEET_COLUMNS * width, rows * (CELL + GAP))
    sheet = Image.new("RGB", size, "white")
    for place, index in enumerate(chosen.astype(int)):
        row, column = divmod(place, SHEET_COLUMNS)
        photo = decode(files[index].read_bytes())
        photo.thumbnail((CELL, CELL))
        sheet.paste(photo, (column * width, row * (CELL + GAP)))
        seen = Image.fromarray(pixels[index])
        seen = seen.resize((CELL, CELL), Image.Resampling.NEAREST)
        sheet.paste(seen, (column * width + CELL, row * (CELL + GAP)))
    sheet.save(folder / "pictures.png", optimize=True)


def write_card(folder: Path, metrics: dict[str, Any], facts: dict[str, Any]) -> None:
    """Write `model-card.md`: use, data, figures and limits of the model."""
    test, data, settings = metrics["test"], facts["data"], facts["settings"]
    classes = "".join(
        f"| {name} | {recall:.1%} | {precision:.1%} |\n"
        for name, recall, precision in zip(
            facts["classes"], test["recall"], test["precision"], strict=True
        )
    )
    text = f"""# Model card: {metrics["model"]["name"]} {metrics["model"]["version"]}

Written by `evaluate.py`; every number is measured through the code of the service.

## Use

For pictures of one garment, shoe or bag: product photos, photos of clothes on a bed or
a hanger, Fashion-MNIST itself. It names one of {", ".join(facts["classes"])}, or says
that it is none of them. It sees 28x28 grey pixels: no brand, no size, no colour. Not
for telling people apart, nor for any decision about a person.

## Data

{data["train"]:,} garments of Fashion-MNIST to train on and {data["validation"]:,} aside
to choose by; {_lessons(data)}. {settings["epochs"]} epochs{_rounds(settings)},
starting from {settings["start"]}, seed {settings["seed"]},
{facts["seconds"] / 60:.0f} minutes. Probabilities are calibrated on garments of
Fashion-MNIST set aside, not on photos. The unknown threshold is
{facts["unknown_threshold"]:.3f}.

## Fashion-MNIST, {test["pictures"]:,} test pictures

Accuracy before refusal {test["accuracy"]:.2%}; {test["refused"]:.2%} are refused.
Expected calibration error {test["calibration_error"]:.2%}.

| class | recall | precision |
| --- | --- | --- |
{classes}
![confusion](confusion.png) ![calibration](calibration.png) ![mistakes](mistakes.png)

## What is none of the classes

AUROC is how often a stranger scores higher than a test garment.

| pictures | how many | wrongly accepted | AUROC | seen in training |
| --- | --- | --- | --- | --- |
{_unknown_rows(metrics["unknown"])}
![scores](scores.png)
{_photos(metrics.get("photos"))}
## Limits

- A garment of nearly the colour of its ground is hardly seen. Of garments worn by a
  person far fewer are read right than of those alone; several in one picture were not
  measured.
- Outliers to train on are made up: a stranger that looks like a garment may be taken
  for one.
- Fashion-MNIST is the stock of one European shop of 2017: what is worn elsewhere, or
  later, may be read less well.
- An inverted garment, dark on white at 28x28, is stated above and promised neither way.
"""
    replace(folder / "model-card.md", text.encode())


def _lessons(data: dict[str, Any]) -> str:
    """Tell what the network learnt from, and its predecessors, if from other data."""
    told: list[str] = []
    while data:
        names = ", ".join(data.get("outliers", {}))
        lesson = f"""{data.get("photos", 0):,} photos to train on and
{data.get("photos_aside", 0):,} aside; outliers made up in code
{f"and {names}" if names else "alone"}"""
        told += [lesson] if lesson not in told else []
        data = data.get("before", {})
    return ";\nbefore that ".join(told)


def _rounds(settings: dict[str, Any]) -> str:
    is_tuned = settings["start"] != "nothing" and "rounds" in settings
    return f" in each of {settings['rounds']} rounds" if is_tuned else ""


def _unknown_rows(unknown: dict[str, Any]) -> str:
    return "".join(
        f"| {name} | {row['pictures']:,} | {row['accepted']:.1%} | {row['auroc']:.4f}"
        f" | {_seen(row)} |\n"
        for name, row in unknown.items()
    )


def _seen(row: dict[str, Any]) -> str:
    if row["trained_on"]:
        return "yes"
    return "its kind" if row["kind_trained_on"] else "no"


def _photos(photos: dict[str, Any] | None) -> str:
    """Return the section about photos; nothing if none were measured."""
    if not photos:
        return ""
    rows = "".join(
        f"| {folder} | {row['pictures']} | {' or '.join(row['classes']) or 'none'}"
        f" | {_percent(row['accuracy'])} | {_percent(row['refused'])} |\n"
        for folder, row in photos["folders"].items()
    )
    return f"""
## Photos

Of {photos["pictures"]} photos of the classes {_percent(photos["accuracy"])} are right
before refusal, and {_percent(photos["refused"])} are refused.

| folder | photos | class | right | refused |
| --- | --- | --- | --- | --- |
{rows}
Photos, and the pixels that the network sees of them:

![pictures](pictures.png)
"""


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"
