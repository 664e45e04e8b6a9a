"""Print what a set of labelled pictures holds, and draw its most unusual ones.

    >>> check([Path("hymenoptera/train")], None, Path("check.png"))

`train.py` prints this before it trains; `train.py --check` does nothing else.
"""

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from model.artifact import check_output, printable, replace
from model.preprocessing import Square
from training.folders import LeftOut, read_file
from training.inspection import MEASURE_SIDE, find_kinds
from training.labelled import LabelledFiles, find_labelled
from training.pictures import Pictures, load_pictures

PREPROCESSING = Square(size=32, draft_side=MEASURE_SIDE)
MAX_CLASSES = 20  # of which each is printed; of more the largest and smallest
EXAMPLES = 3  # of each fault that are printed
CHECK_EXAMPLES = 20  # of `check`
UNEVEN = 10  # times as many pictures in the largest class as in the smallest
COLUMNS, CELL, TITLE_HEIGHT = 8, 160, 14  # of the contact sheet, in pixels


def check(folders: Sequence[Path], table: Path | None, sheet: Path) -> None:
    """Print what is found, and draw a contact sheet of the unusual pictures, if any.

    Raises `ValueError` for a set that cannot be trained on.
    """
    check_output(sheet)
    for folder in folders:
        if folder.resolve() in sheet.resolve().parents:
            raise ValueError(f"nothing is written into {folder}: --check FILE.png")
    found = find_labelled(folders, table)
    print_lines(describe_files(found))
    pictures = load_pictures(found, PREPROCESSING)
    print_lines(describe_pictures(pictures, CHECK_EXAMPLES))
    rows = {
        name: [*chain.from_iterable(files)]
        for name, files in equal_files(pictures).items()
    }
    rows |= unusual_files(pictures)
    if rows:
        replace(sheet, draw_sheet(rows))
        print_lines([f"wrote {sheet}: {', '.join(rows)}"])


def print_lines(lines: Iterable[str]) -> None:
    """Print lines above a progress bar, control characters escaped."""
    for line in lines:
        tqdm.write(printable(line))


def describe_files(found: LabelledFiles) -> list[str]:
    """Return lines of the classes with their numbers of files, by split."""
    splits = list(dict.fromkeys(found.splits))
    counts = Counter(zip(found.labels, found.splits, strict=True))
    sizes = Counter(found.labels)
    rows = [
        [name, *(str(counts[index, split]) for split in splits)]
        for index, name in sorted(
            enumerate(found.classes), key=lambda item: -sizes[item[0]]
        )
    ]
    half = MAX_CLASSES // 2
    if len(rows) > MAX_CLASSES:
        dots = [f"... {len(rows) - 2 * half} more", *[""] * len(splits)]
        rows = [*rows[:half], dots, *rows[-half:]]
    heads = [["class", *splits]] if any(splits) else []
    width = max(len(row[0]) for row in heads + rows)
    table = [
        f"  {name:{width}}" + "".join(f"{cell:>11}" for cell in cells)
        for name, *cells in heads + rows
    ]
    others = f", {len(found.outliers)} outliers" if found.outliers else ""
    title = f"{len(found.files)} files of {len(found.classes)} classes{others}"
    largest, smallest = max(sizes.values()), min(sizes.values())
    if largest < UNEVEN * smallest:
        return [title, *table]
    return [title, *table, f"uneven: {largest} files to {smallest}"]


def describe_pictures(pictures: Pictures, examples: int = EXAMPLES) -> list[str]:
    """Return lines of what was left out, of equal pictures and of unusual ones."""
    lines = [f"{len(pictures.files)} pictures are used"]
    lines += describe_left_out(pictures.left_out, examples)
    for name, groups in equal_files(pictures).items():
        names = [" = ".join(map(short, files)) for files in groups]
        lines += listed(f"{name}: {sum(map(len, groups))}", names, examples)
    for name, files in unusual_files(pictures).items():
        lines += listed(f"{name}: {len(files)}", map(short, files), examples)
    return lines


def describe_left_out(left_out: Sequence[LeftOut], examples: int) -> list[str]:
    """Return lines of the files that are not used, by reason."""
    reasons: dict[str, list[str]] = {}
    for path, reason in left_out:
        kind, _, detail = reason.partition(": ")
        name = f"{short(path)} ({detail})" if detail else short(path)
        reasons.setdefault(kind, []).append(name)
    return [
        line
        for kind, names in reasons.items()
        for line in listed(f"left out, {kind}: {len(names)}", names, examples)
    ]


def listed(title: str, names: Iterable[str], examples: int) -> list[str]:
    """Return a title and the first names, one a line."""
    first = [f"    {name}" for name in names]
    dots = ["    ..."] if len(first) > examples else []
    return [title, *first[:examples], *dots]


def short(path: Path) -> str:
    """Return a file's name with its folder's."""
    return f"{path.parent.name}/{path.name}"


def equal_files(pictures: Pictures) -> dict[str, list[list[Path]]]:
    """Return the groups of equal and nearly equal files, of two classes or of one."""
    order = np.argsort(pictures.groups, kind="stable")
    bounds = np.flatnonzero(np.diff(pictures.groups[order])) + 1
    found: dict[str, list[list[Path]]] = {}
    for group in np.split(order, bounds):
        if len(group) > 1:
            is_mixed = np.ptp(pictures.labels[group]) > 0
            name = (
                "nearly equal, of two classes" if is_mixed else "equal or nearly equal"
            )
            found.setdefault(name, []).append([pictures.files[i] for i in group])
    return dict(sorted(found.items(), reverse=True))


def unusual_files(pictures: Pictures) -> dict[str, list[Path]]:
    """Return unusual files by kind, the worst first."""
    return {
        name: [pictures.files[index] for index in indices]
        for name, indices in find_kinds(pictures.measures).items()
    }


def draw_sheet(rows: dict[str, list[Path]]) -> bytes:
    """Draw the first files of each row with their names: a PNG."""
    height = TITLE_HEIGHT + CELL
    sheet = Image.new("RGB", (COLUMNS * CELL, len(rows) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (name, files) in enumerate(rows.items()):
        for column, file in enumerate(files[:COLUMNS]):
            place = column * CELL, row * height
            image = PREPROCESSING.decode(read_file(file)).convert("RGB")
            image.thumbnail((CELL - 4, CELL - TITLE_HEIGHT - 4))
            sheet.paste(image, (place[0], place[1] + 2 * TITLE_HEIGHT))
            draw.text(place, "" if column else name, "black")
            draw.text((place[0], place[1] + TITLE_HEIGHT), short(file)[:24], "black")
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()
