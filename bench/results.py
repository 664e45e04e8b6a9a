"""What came out: medians and spreads, as a table and as a chart.

    >>> summarise(loads)[0]["rate"]["ratio"]
    [0.71, 0.68, 0.74]

A figure is a median, the lowest and the highest of all rounds. A ratio is one of two
loads right after another, before any median.
"""

import statistics
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from bench.kinds import BUSY
from training.plots import KNOWN, UNKNOWN

Json = dict[str, Any]
SIDES = {"us": KNOWN, "them": UNKNOWN}
KEY = ("workload", "rival", "kind", "connections")  # what is one row
CHARTED = "28x28 PNG"


def summarise(loads: list[Json]) -> list[Json]:
    """Bring the loads of all rounds to a row a comparison; void pairs are left out."""

    def key(load: Json) -> tuple[Any, ...]:
        return tuple(load[name] for name in KEY)

    order = list(dict.fromkeys(map(key, loads)))
    rows = []
    for one, group in groupby(sorted(loads, key=lambda x: order.index(key(x))), key):
        pairs = list(pairs_of(group))
        if pairs:
            rows.append(dict(zip(KEY, one, strict=True)) | compare(pairs))
    workloads = list(dict.fromkeys(row["workload"] for row in rows))
    return sorted(rows, key=lambda row: workloads.index(row["workload"]))


def pairs_of(loads: Iterable[Json]) -> Iterator[tuple[Json, Json]]:
    """Put together what was measured right after another, if both are good."""
    rounds: dict[int, dict[str, Json]] = {}
    for load in loads:
        if not load["is_void"]:
            rounds.setdefault(load["round"], {})[load["side"]] = load
    for pair in rounds.values():
        if len(pair) == len(SIDES):
            yield pair["us"], pair["them"]


def compare(pairs: list[tuple[Json, Json]]) -> Json:
    """Compare the two sides; what one of them does not have is left out."""
    row: Json = {"rounds": len(pairs)}
    for figure in ("rate", "p50", "p99"):
        both = [(us[figure], them[figure]) for us, them in pairs if figure in them]
        if both:
            us, them = zip(*both, strict=True)
            ratio = [ours / theirs for ours, theirs in both]
            values = {"us": us, "them": them, "ratio": ratio}
            row[figure] = {name: spread(each) for name, each in values.items()}
    return row


def spread(values: Iterable[float]) -> tuple[float, float, float]:
    """Return median, lowest and highest."""
    found = sorted(values)
    return statistics.median(found), found[0], found[-1]


def table(rows: list[Json]) -> str:
    """Lay the rows out in Markdown, a line a rival and kind of request."""
    crowds = sorted({row["connections"] for row in rows})
    heads = [f"{crowd} connection{'s' * (crowd > 1)}" for crowd in crowds]
    lines = [["", "beside", "sent as", *heads, f"p99 in ms, {BUSY} connections"]]
    lines.append(["---"] * len(lines[0]))
    for one in dict.fromkeys(tuple(row[name] for name in KEY[:3]) for row in rows):
        at = {
            row["connections"]: row
            for row in rows
            if tuple(row[name] for name in KEY[:3]) == one
        }
        cells = [tell(at.get(crowd, {}).get("rate"), 0) for crowd in crowds]
        lines.append([*one, *cells, tell(at.get(BUSY, {}).get("p99"), 1)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "| " + " | ".join(map(str.ljust, cells, widths)) + " |" for cells in lines
    )


def tell(figure: Json | None, digits: int) -> str:
    """Write ours as a multiple of theirs, both medians with their spreads."""
    if figure is None:
        return ""
    ratio, low, high = (f"{value:.2f}" for value in figure["ratio"])
    theirs, least, most = (f"{value:,.{digits}f}" for value in figure["them"])
    return f"{ratio} ({low} to {high}) x {theirs} ({least} to {most})"


def draw(path: Path, rows: list[Json]) -> None:
    """Write the chart: requests a second for small pictures, a panel a crowd."""
    charted = [row for row in rows if row["workload"] == CHARTED]
    crowds = sorted({row["connections"] for row in charted})
    rivals = list(dict.fromkeys(row["rival"] for row in charted))
    figure, panels = plt.subplots(
        1,
        len(crowds),
        figsize=(5 * len(crowds), 1.5 + 0.7 * len(rivals)),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for axes, crowd in zip(panels[0], crowds, strict=True):
        shown = [row for row in charted if row["connections"] == crowd]
        draw_bars(axes, shown, rivals)
        axes.set_title(f"{crowd} connection{'s' * (crowd > 1)}")
    panels[0][0].set_yticks(range(len(rivals)), rivals)
    panels[0][0].invert_yaxis()
    panels[0][-1].legend(loc="lower right")
    figure.supxlabel(f"requests a second, {CHARTED}: median, lowest, highest")
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def draw_bars(axes: Axes, rows: list[Json], rivals: list[str]) -> None:
    """Draw us and them side by side."""
    for shift, (side, colour) in zip((-0.2, 0.2), SIDES.items(), strict=True):
        places = [rivals.index(row["rival"]) + shift for row in rows]
        middle, low, high = zip(*(row["rate"][side] for row in rows), strict=True)
        errors = [
            [m - x for m, x in zip(middle, low, strict=True)],
            [x - m for m, x in zip(middle, high, strict=True)],
        ]
        axes.barh(places, middle, 0.38, xerr=errors, color=colour, label=side)
