"""Files with labels of any classes, from folders or a table.

    >>> found = find_labelled([Path("hymenoptera/train")])
    >>> found.classes
    ['ants', 'bees']

The first folder below the one given is the class. No file is opened, none is written.
"""

import csv
import io
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from model.artifact import MAX_NAME, Name, printable
from training.folders import (
    LeftOut,
    fault_of_file,
    is_ignored,
    scan,
)

SPLITS = {"train": "train", "test": "test"}
SPLITS |= dict.fromkeys(("val", "valid", "validation"), "validation")
TRAIN_SPLITS = "", "train"
OUTLIERS = "none"  # the folder of pictures of none of the classes
UNLABELLED = {"unlabelled", "unlabeled"}  # folders that are left out
MIN_PICTURES = 2  # of a class, to train on
PATH_COLUMNS = {"path", "file", "filename", "file_name", "image", "picture"}
LABEL_COLUMNS = {"label", "class", "category"}
DELIMITERS = ",;\t"  # of a table; the first that its first line has
NAME = TypeAdapter[str](Name)


class LabelledFiles(NamedTuple):
    """Files with labels, none of them read yet."""

    classes: list[str]  # sorted, as the folders are named
    files: list[Path]
    labels: list[int]  # class id of each file
    splits: list[str]  # "train", "validation", "test", or "" where nothing is split
    outliers: list[Path]  # of folders named none/
    left_out: list[LeftOut]


class Entry(NamedTuple):
    """A file with the name of its class."""

    file: Path
    name: str
    split: str = ""


Entries = tuple[list[Entry], list[LeftOut]]


def find_labelled(folders: Sequence[Path], table: Path | None = None) -> LabelledFiles:
    """Find labelled files in folders, or in a table of paths and labels.

    Several folders are joined by the names of their classes. No file is opened.
    Raises `ValueError` with one line if they are nothing to train on.
    """
    found = list_labelled(folders, table)
    if len(found.classes) == 1:
        source = printable(str(table or folders[0]))
        raise ValueError(
            f"{source} has one class, {found.classes[0]}: a model needs two"
        )
    rows = zip(found.labels, found.splits, strict=True)
    train = (found.classes[label] for label, split in rows if split in TRAIN_SPLITS)
    check_counts(found.classes, train)
    return found


def list_labelled(folders: Sequence[Path], table: Path | None = None) -> LabelledFiles:
    """Return what `find_labelled` does, of any number of classes and files.

    Raises `ValueError` if there is none, or if a name cannot be that of a class.
    """
    check_folders(folders)
    if not folders and not table:
        raise ValueError("no folder of pictures is given")
    found = read_table(table, folders) if table else find_in_folders(folders)
    entries = [e for e in found[0] if e.name.lower() not in UNLABELLED]
    outliers = [entry.file for entry in entries if entry.name.lower() == OUTLIERS]
    entries = [entry for entry in entries if entry.name.lower() != OUTLIERS]
    classes = sorted({entry.name for entry in entries})
    check_names(classes)
    source = printable(str(table or folders[0]))
    if not classes:
        raise ValueError(f"no pictures in folders of classes, such as {source}/cat/")
    ids = {name: index for index, name in enumerate(classes)}
    return LabelledFiles(
        classes,
        [entry.file for entry in entries],
        [ids[entry.name] for entry in entries],
        [entry.split for entry in entries],
        outliers,
        found[1],
    )


def check_folders(folders: Sequence[Path]) -> None:
    """Raise `ValueError` if a folder is missing, or lies in another or is the same."""
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(printable(f"there is no folder {folder}"))
    for one, other in permutations([folder.resolve() for folder in folders], 2):
        if one == other:
            raise ValueError(printable(f"{one} is given twice"))
        if one in other.parents:
            raise ValueError(printable(f"{other} lies in {one}: give only one of them"))


def check_names(classes: Sequence[str]) -> None:
    """Raise `ValueError` if a name cannot be that of a class, or two are confusable."""
    lower: dict[str, str] = {}
    for name in classes:
        try:
            NAME.validate_python(name)
        except ValidationError as error:
            raise ValueError(
                f"no class can have the name '{printable(name[: 2 * MAX_NAME])}': 1 to"
                f" {MAX_NAME} printable characters, without a space at the ends"
            ) from error
        other = lower.setdefault(name.lower(), name)
        if other != name:
            raise ValueError(f"the classes {other} and {name} differ by capitals only")


def check_counts(classes: Sequence[str], train: Iterable[str]) -> None:
    """Raise `ValueError` if a class has too few of the pictures to train on."""
    counts = Counter(train)
    few = [name for name in classes if counts[name] < MIN_PICTURES]
    if few:
        raise ValueError(
            f"a class needs {MIN_PICTURES} pictures to train on: {', '.join(few[:9])}"
        )


def find_in_folders(folders: Sequence[Path]) -> Entries:
    """Return the files of all class folders, and what else is there."""
    entries: list[Entry] = []
    left_out: list[LeftOut] = []
    for folder in folders:
        class_folders, loose = find_class_folders(folder)
        left_out += loose
        for path, split in class_folders:
            if path.name.lower() in UNLABELLED:
                continue
            files, faults = scan(path, (folder, path.parent))
            entries += [Entry(file, nfc(path.name), split) for file in files]
            left_out += faults if files or faults else [LeftOut(path, "no files")]
    return entries, left_out


def find_class_folders(
    folder: Path,
) -> tuple[list[tuple[Path, str]], list[LeftOut]]:
    """Return the class folders with their splits, and the files beside them.

    A folder is split if it holds train/ and val/, valid/, validation/ or test/, in any
    capitals, and no folder of another name but none/ and unlabelled/.
    """
    inner, left_out = list_folder(folder)
    names = {path.name.lower() for path in inner} - {OUTLIERS, *UNLABELLED}
    if not ("train" in names and len(names) > 1 and names <= SPLITS.keys()):
        return [(path, "") for path in inner], left_out
    found: list[tuple[Path, str]] = []
    for path in inner:
        split = SPLITS.get(path.name.lower(), "")
        below, loose = list_folder(path) if split else ([path], [])
        found += [(class_folder, split) for class_folder in below]
        left_out += loose
    return found, left_out


def list_folder(folder: Path) -> tuple[list[Path], list[LeftOut]]:
    """Return the folders in a folder, sorted, and the files beside them.

    Raises `ValueError` if two names are the same in other Unicode forms.
    """
    paths = sorted(path for path in folder.iterdir() if not is_ignored(path.name))
    folders = [path for path in paths if os.path.isdir(path)]  # noqa: PTH112 - a circle
    for name, count in Counter(nfc(path.name) for path in folders).items():
        if count > 1:
            raise ValueError(
                printable(f"{folder} has two folders {name}, in other Unicode forms")
            )
    loose = [
        LeftOut(path, fault_of_file(path) or "beside the folders of classes")
        for path in paths
        if path not in set(folders)
    ]
    return folders, loose


def nfc(name: str) -> str:
    """Return a name in Unicode's composed form, whatever the file system has."""
    return unicodedata.normalize("NFC", name)


def read_table(table: Path, folders: Sequence[Path]) -> Entries:
    """Return the files that a CSV file names, and the rows without a file or label.

    Its columns are path and label; a first row may name them. A path is absolute, or
    relative to the table or to one of the folders. Raises `ValueError`.
    """
    text = table.read_text("utf-8-sig", errors="surrogateescape")
    head = text.partition("\n")[0]
    delimiter = next((mark for mark in DELIMITERS if mark in head), ",")
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise ValueError(f"{printable(str(table))}: {error}") from error
    if not rows or len(rows[0]) < len(Entry._fields) - 1:
        raise ValueError(f"{printable(str(table))} has no rows of path,label")
    bases = [table.parent, *folders]
    path_column, label_column, has_header = find_columns(rows[0], bases)
    found: list[Entry] = []
    left_out: list[LeftOut] = []
    for row in filter(any, rows[has_header:]):
        name = row[label_column].strip() if len(row) > label_column else ""
        file = locate(row[path_column], bases)
        fault = fault_of_file(file) if name else "no label"
        if fault:
            left_out.append(LeftOut(file, fault))
        else:
            found.append(Entry(file, nfc(name)))
    return list(dict.fromkeys(found)), left_out


def find_columns(first: Sequence[str], bases: Sequence[Path]) -> tuple[int, int, bool]:
    """Return the columns of path and label, and whether the first row is a header."""
    names = [cell.strip().lower() for cell in first]
    paths, labels = (
        [index for index, name in enumerate(names) if name in known]
        for known in (PATH_COLUMNS, LABEL_COLUMNS)
    )
    if paths and labels:
        return paths[0], labels[0], True
    is_file = not fault_of_file(locate(first[0], bases))
    return 0, 1, not is_file and not Path(first[0]).suffix


def locate(text: str, bases: Sequence[Path]) -> Path:
    """Return the first file of a path relative to `bases`, which may be Windows'."""
    forms = text, text.replace("\\", "/")
    paths = [base / form for form in forms for base in bases]
    return next((path for path in paths if not fault_of_file(path)), paths[0])
