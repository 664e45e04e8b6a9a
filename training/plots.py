"""The figures of the report that `evaluate.py` writes.

    >>> draw_confusion(Path("report"), metrics["test"]["confusion"], classes)

Each function writes one file into an existing folder.
"""

import warnings
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

from model.images import WHITE, Pixels, decode

mpl.use("Agg")
plt.rcParams.update({"font.size": 13, "savefig.dpi": 100, "axes.titlesize": 14})
plt.rcParams["text.parse_math"] = False  # a class may be named $5
KNOWN, UNKNOWN, RULE = "#0072b2", "#d55e00", "#333333"  # for the colour-blind too
MISTAKES = 24  # pictures in `mistakes.png`
SHEET_PICTURES = 50  # photos in `pictures.png`
SHEET_COLUMNS = 10
MAX_CLASSES = 30  # in a figure
MAX_LETTERS = 24  # of a name in a figure
CELL, GAP = 84, 6  # pixels, side of a picture in `pictures.png`, and between photos
SCORE_BINS = 80  # of the histograms


def _save(figure: Figure, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a box for a letter without a font
        figure.tight_layout()
        figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def _short(name: str) -> str:
    return name if len(name) <= MAX_LETTERS else f"{name[: MAX_LETTERS - 1]}…"


def draw_confusion(
    folder: Path, confusion: Sequence[Sequence[int]], classes: Sequence[str]
) -> None:
    """Write `confusion.png`: true class down, predicted class across.

    Of many classes, those with the most mistakes are shown.
    """
    counts = np.array(confusion)
    mistakes = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
    shown = np.sort(np.argsort(-mistakes, kind="stable")[:MAX_CLASSES])
    counts, classes = counts[np.ix_(shown, shown)], [_short(classes[i]) for i in shown]
    figure, axes = plt.subplots(figsize=(10, 9))
    axes.imshow(np.sqrt(counts), cmap="Blues")
    dark = counts.max() / 4
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if count > dark else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="predicted", ylabel="true", title="Test pictures")
    _save(figure, folder / "confusion.png")


def draw_calibration(
    folder: Path, share: NDArray[Any], confidence: NDArray[Any], accuracy: NDArray[Any]
) -> None:
    """Write `calibration.png`: a reliability diagram (Guo et al., arXiv 1706.04599)."""
    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(8, 8), height_ratios=[3, 1], sharex=True
    )
    filled = share > 0
    upper.plot([0, 1], [0, 1], color=RULE, linestyle=":", label="perfect")
    upper.plot(
        confidence[filled], accuracy[filled], "o-", color=KNOWN, label="model.bin"
    )
    upper.set(ylabel="accuracy", title="Calibration on the test pictures")
    upper.legend()
    edges = np.linspace(0, 1, len(share) + 1)
    lower.bar(edges[:-1], share, width=edges[1], align="edge", color=KNOWN)
    lower.set(xlabel="probability of the predicted class", ylabel="share")
    _save(figure, folder / "calibration.png")


def draw_classes(folder: Path, test: dict[str, Any], classes: Sequence[str]) -> None:
    """Write `classes.png`: recall and precision of each class, of many the worst."""
    present = np.flatnonzero(np.sum(test["confusion"], 1))
    recall = np.array(test["recall"])[present]
    shown = np.sort(present[np.argsort(recall, kind="stable")[:MAX_CLASSES]])
    rows = np.arange(len(shown))
    figure, axes = plt.subplots(figsize=(10, max(6, 0.4 * len(shown))))
    for name, shift, colour in (("recall", -0.2, KNOWN), ("precision", 0.2, UNKNOWN)):
        values = [test[name][i] for i in shown]
        bars = axes.barh(rows + shift, values, 0.38, color=colour, label=name)
        axes.bar_label(bars, [f"{value:.1%}" for value in values], padding=3)
    axes.set_yticks(rows, [_short(classes[i]) for i in shown])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.12), title="Test pictures")
    axes.legend(loc="lower right")
    _save(figure, folder / "classes.png")


def draw_scores(
    folder: Path,
    known: NDArray[Any],
    outliers: dict[str, NDArray[Any]],
    threshold: float,
) -> None:
    """Write `scores.png`: unknown scores of test pictures and each set of outliers."""
    values = np.concatenate([known, *outliers.values()])
    low, high = np.quantile(values, [0.001, 0.999])
    edges = np.linspace(low, high, SCORE_BINS)
    rows = {"test pictures": known} | outliers
    figure, all_axes = plt.subplots(
        len(rows), 1, figsize=(10, 0.75 * len(rows) + 1.5), sharex=True
    )
    for axes, (name, scores) in zip(np.atleast_1d(all_axes), rows.items(), strict=True):
        colour = KNOWN if scores is known else UNKNOWN
        _draw_scores(axes, name, scores, edges, colour)
        axes.axvline(threshold, color=RULE, linestyle=":")
    axes.set_xlabel("unknown score; pictures right of the dotted line are refused")
    _save(figure, folder / "scores.png")


def _draw_scores(
    axes: Axes, name: str, scores: NDArray[Any], edges: NDArray[Any], colour: str
) -> None:
    axes.hist(scores.clip(edges[0], edges[-1]), edges.tolist(), color=colour)
    axes.set_yticks([])
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.set_ylabel(_short(name), rotation=0, ha="right", va="center")


def draw_mistakes(
    folder: Path,
    pixels: Pixels,
    truth: Sequence[str],
    predicted: Sequence[str],
    confidence: NDArray[Any],
) -> None:
    """Write `mistakes.png`: the wrong predictions of the highest probability."""
    wrong = np.flatnonzero(np.array(truth) != np.array(predicted))
    worst = wrong[np.argsort(-confidence[wrong])][:MISTAKES]
    figure, axes = plt.subplots(4, 6, figsize=(12, 11))
    for panel, index in zip(axes.flat, worst, strict=False):
        panel.imshow(pixels[index], cmap="gray", vmin=0, vmax=WHITE)
        names = f"{_short(truth[index])} →\n{_short(predicted[index])}"
        title = f"{names}\n{confidence[index]:.1%}"
        panel.set_title(title, fontsize=11)
    for panel in axes.flat:
        panel.set_axis_off()
    figure.suptitle("true class → predicted class, and its probability")
    _save(figure, folder / "mistakes.png")


def draw_pictures(folder: Path, files: Sequence[Path], pixels: Pixels) -> None:
    """Write `pictures.png`: every so many photos, each beside its input array."""
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
        array = Image.fromarray(pixels[index])
        array = array.resize((CELL, CELL), Image.Resampling.NEAREST)
        sheet.paste(array, (column * width + CELL, row * (CELL + GAP)))
    sheet.save(folder / "pictures.png", optimize=True)
