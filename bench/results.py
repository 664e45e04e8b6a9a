"""The results of `bench.load`: medians and ranges as a table, bounds, a chart.

    >>> summarise(loads)[0]["rate"]["ratio"]
    [0.71, 0.68, 0.74]

A figure is the median, the lowest and the highest of all rounds. A ratio is that of two
loads of one round; its median is taken afterwards.
"""

import statistics
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from bench.bounds import at_least, at_most
from bench.rivals import BARE, DEFAULT, DOCUMENTED
from bench.workloads import BUSY, LARGE, SMALL

Json = dict[str, Any]
mpl.use("Agg")
COLOURS = {"us": "#0072b2", "them": "#d55e00"}  # the colour-blind can distinguish them
KEY = ("pictures", "rival", "workload", "connections")  # of a row
LOOP = "a loop, no HTTP"  # the upper bound
SLOW_SHARE = 0.6  # of the median of a rival's other rounds: about half as fast
MIN_RATIO = {  # of requests a second, by connections
    BARE: {1: 1.0, 8: 1.3, 32: 1.7},
    DOCUMENTED: {1: 1.25, 8: 1.8, 32: 2.3},
}
MIN_RATIO_OTHERS = {1: 1.7, 8: 2.0, 32: 2.0}
MIN_RATIO_PHOTOS = 1.4  # beside FastAPI
MAX_RATIO_P99 = 1.0  # beside bare FastAPI


def summarise(loads: list[Json]) -> list[Json]:
    """Return a row for each comparison of all rounds; void pairs are left out."""

    def key(load: Json) -> tuple[Any, ...]:
        return tuple(load[name] for name in KEY)

    order = list(dict.fromkeys(map(key, loads)))
    rows = []
    for one, group in groupby(sorted(loads, key=lambda x: order.index(key(x))), key):
        pairs = list(pairs_of(group))
        if pairs:
            rows.append(dict(zip(KEY, one, strict=True)) | compare(pairs))
    pictures = list(dict.fromkeys(row["pictures"] for row in rows))
    return sorted(rows, key=lambda row: pictures.index(row["pictures"]))


def pairs_of(loads: Iterable[Json]) -> Iterator[tuple[Json, Json]]:
    """Return ours and the rival's load of each round in which neither is void."""
    rounds: dict[int, dict[str, Json]] = {}
    for load in loads:
        if not load["is_void"]:
            rounds.setdefault(load["round"], {})[load["side"]] = load
    for pair in rounds.values():
        if len(pair) == len(COLOURS):
            yield pair["us"], pair["them"]


def compare(pairs: list[tuple[Json, Json]]) -> Json:
    """Compare the two sides; a figure that one of them lacks is left out."""
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


def slow_rounds(loads: list[Json], rival: str) -> list[int]:
    """Return the rounds in which a rival was half as fast as in its other rounds."""
    rates: dict[tuple[str, int], dict[int, float]] = {}
    for load in loads:
        is_theirs = load["rival"] == rival and load["side"] == "them"
        if is_theirs and "fault" not in load and not load["is_void"]:
            key = load["workload"], load["connections"]
            rates.setdefault(key, {})[load["round"]] = load["rate"]
    slow = set[int]()
    for by_round in rates.values():
        for number, rate in by_round.items():
            others = [x for other, x in by_round.items() if other != number]
            if others and rate < SLOW_SHARE * statistics.median(others):
                slow.add(number)
    return sorted(slow)


def check_bounds(rows: list[Json]) -> bool:
    """Print the bounds of all rows that have one; return whether all hold."""
    holds = []
    for row in rows:
        beside = f"{row['pictures']}, {row['rival']}, {name_level(row['connections'])}"
        least = min_ratio(row)
        if least is not None:
            ratio = row["rate"]["ratio"][0]
            holds.append(at_least(f"{beside}: requests a second", ratio, least, "x", 2))
        where = (row["pictures"], row["rival"], row["connections"])
        if where == (SMALL, BARE, BUSY):
            ratio = row["p99"]["ratio"][0]
            holds.append(at_most(f"{beside}: p99", ratio, MAX_RATIO_P99, "x", 2))
    return all(holds)


def min_ratio(row: Json) -> float | None:
    """Return the least ratio of requests a second, if the row has a bound."""
    if row["pictures"] == LARGE and row["rival"] in DEFAULT:
        return MIN_RATIO_PHOTOS
    if row["pictures"] != SMALL or row["rival"] == LOOP:
        return None
    return MIN_RATIO.get(row["rival"], MIN_RATIO_OTHERS)[row["connections"]]


def table(rows: list[Json]) -> str:
    """Return the rows in Markdown, a line a rival and workload."""
    levels = sorted({row["connections"] for row in rows})
    heads = [name_level(level) for level in levels]
    lines = [["", "beside", "sent as", *heads, f"p99 in ms, {BUSY} connections"]]
    lines.append(["---"] * len(lines[0]))
    for one in dict.fromkeys(tuple(row[name] for name in KEY[:3]) for row in rows):
        at = {
            row["connections"]: row
            for row in rows
            if tuple(row[name] for name in KEY[:3]) == one
        }
        cells = [format_ratio(at.get(level, {}).get("rate"), 0) for level in levels]
        lines.append([*one, *cells, format_ratio(at.get(BUSY, {}).get("p99"), 1)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "| " + " | ".join(map(str.ljust, cells, widths)) + " |" for cells in lines
    )


def name_level(connections: int) -> str:
    """Return a number of connections in words."""
    return f"{connections} connection{'s' * (connections > 1)}"


def format_ratio(figure: Json | None, digits: int) -> str:
    """Return ours as a multiple of theirs, both medians with their ranges."""
    if figure is None:
        return ""
    ratio, low, high = (f"{value:.2f}" for value in figure["ratio"])
    theirs, least, most = (f"{value:,.{digits}f}" for value in figure["them"])
    return f"{ratio} ({low} to {high}) x {theirs} ({least} to {most})"


def draw(path: Path, rows: list[Json]) -> None:
    """Write the chart: requests a second, a panel for each level.

    It is of the first kind of pictures, usually the small ones.
    """
    pictures = rows[0]["pictures"]
    charted = [row for row in rows if row["pictures"] == pictures]
    levels = sorted({row["connections"] for row in charted})
    rivals = list(dict.fromkeys(row["rival"] for row in charted))
    figure, panels = plt.subplots(
        1,
        len(levels),
        figsize=(5 * len(levels), 1.5 + 0.7 * len(rivals)),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for axes, level in zip(panels[0], levels, strict=True):
        shown = [row for row in charted if row["connections"] == level]
        draw_bars(axes, shown, rivals)
        axes.set_title(name_level(level))
    panels[0][0].set_yticks(range(len(rivals)), rivals)
    panels[0][0].invert_yaxis()
    panels[0][-1].legend(loc="lower right")
    figure.supxlabel(f"requests a second, {pictures}: median, lowest, highest")
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def draw_bars(axes: Axes, rows: list[Json], rivals: list[str]) -> None:
    """Draw us and them side by side."""
    for shift, (side, colour) in zip((-0.2, 0.2), COLOURS.items(), strict=True):
        places = [rivals.index(row["rival"]) + shift for row in rows]
        middle, low, high = zip(*(row["rate"][side] for row in rows), strict=True)
        errors = [
            [m - x for m, x in zip(middle, low, strict=True)],
            [x - m for m, x in zip(middle, high, strict=True)],
        ]
        axes.barh(places, middle, 0.38, xerr=errors, color=colour, label=side)
