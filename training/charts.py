"""Charts and pages drawn by matplotlib, to measure what a model makes of them.

    >>> draw_charts(Garment(size=28)).shape
    (60, 28, 28)

Training has such pictures too, drawn by other code (`synthetic/documents.py`).
"""

import io
import textwrap
from collections.abc import Callable

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from model.images import Pixels
from model.preprocessing import Preprocessing

STYLES = "default", "ggplot", "dark_background", "bmh", "grayscale"
SIZES = (6, 4), (8, 4), (4, 4), (4, 6), (6, 8)  # inches, of 60 pixels
DPI = 60

Plot = Callable[[Axes, np.random.Generator], object]

PLOTS: list[Plot] = [
    lambda axes, random: axes.bar(range(8), random.random(8)),
    lambda axes, random: axes.barh(range(10), np.sort(random.uniform(0.7, 1, 10))),
    lambda axes, random: axes.hist(random.normal(size=500), 25),
    lambda axes, random: axes.plot(random.normal(size=(99, 3)).cumsum(0)),
    lambda axes, random: axes.stackplot(range(20), random.random((4, 20))),
    lambda axes, random: axes.scatter(*random.normal(size=(2, 80))),
    lambda axes, random: axes.pie(random.random(5)),
    lambda axes, random: axes.boxplot(random.normal(size=(50, 4))),
    lambda axes, random: axes.violinplot(random.normal(size=(50, 4))),
    lambda axes, random: axes.imshow(random.random((9, 9)) + 2 * np.eye(9)),
    lambda axes, random: axes.table(
        random.integers(0, 99, (9, 4)).astype(str), loc="center"
    ),
    lambda axes, random: axes.text(0, 1, _words(random), va="top"),
]


def _words(random: np.random.Generator) -> str:
    """Return a page of words of random lengths."""
    words = ["x" * length for length in random.integers(1, 12, 240)]
    return textwrap.fill(" ".join(words), 60)


def draw_charts(preprocessing: Preprocessing) -> Pixels:
    """Draw each plot in each style: uint8 [60, *input_shape]."""
    random = np.random.default_rng(0)
    pictures = []
    for plot in PLOTS:
        for style, size in zip(STYLES, SIZES, strict=True):
            file = io.BytesIO()
            with plt.style.context(style):
                figure, axes = plt.subplots(figsize=size)
                plot(axes, random)
                axes.set_axis_off() if plot in PLOTS[-2:] else axes.set_title("Report")
                figure.savefig(file, dpi=DPI)
                plt.close(figure)
            pictures.append(preprocessing.to_pixels(file.getvalue()))
    return np.stack(pictures)
