"""Labelled pictures as inputs of the network, measured and compared.

    >>> found = find_labelled([Path("hymenoptera/train")])
    >>> load_pictures(found, Square(size=224, draft_side=448)).pixels.shape
    (244, 224, 224, 3)

Without torch, which would slow down the start of each process.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.images import ImageError, Pixels
from model.preprocessing import Preprocessing
from synthetic.parallel import parallel_map
from training.folders import LeftOut, read_file, reason_of
from training.inspection import Measures, find_conflicts, group_equal, measure
from training.labelled import OUTLIERS, TRAIN_SPLITS, LabelledFiles, check_counts

MIN_SIDE = 8  # pixels; smaller pictures are left out
RANKS = {"": 0, "train": 0, "validation": 1, "test": 2}  # of splits
MAX_MEMORY = 4 * 1024**3  # bytes of pixels; more are kept in a temporary file


class Pictures(NamedTuple):
    """Labelled pictures as inputs of the network."""

    pixels: Pixels  # uint8 [N, *input_shape]
    labels: NDArray[np.int64]  # [N]
    files: list[Path]
    splits: list[str]  # as in `LabelledFiles`
    groups: NDArray[np.int64]  # [N], the same for equal and nearly equal pictures
    outliers: Pixels  # uint8 [M, *input_shape]
    measures: Measures  # of the N pictures
    left_out: list[LeftOut]  # with those of `LabelledFiles`


def load_pictures(found: LabelledFiles, preprocessing: Preprocessing) -> Pictures:
    """Read each file once, on all cores, with a progress bar.

    Left out are files that are no pictures, all of equal bytes with two labels, and
    those to train on that are nearly equal to one of another split.
    Raises `ValueError` if a class has too few left.
    """
    files = [*found.files, *found.outliers]
    labels = np.array([*found.labels, *[-1] * len(found.outliers)])
    splits = [*found.splits, *[""] * len(found.outliers)]
    pixels = allocate((len(files), *preprocessing.input_shape))
    indices, measures, left_out = read_all(files, preprocessing, pixels)
    groups = group_equal(measures)
    leaks = find_leaks(groups, [splits[index] for index in indices])
    reasons = {
        row: f"nearly equal to one of {splits[indices[other]]}: {files[indices[other]]}"
        for row, other in leaks.items()
    }
    names = [*found.classes, OUTLIERS]
    for row, other in find_conflicts(measures, labels[indices]).items():
        reasons[row] = f"equal to one of {names[labels[indices[other]]]}"
        reasons[row] += f": {files[indices[other]]}"
    left_out += [LeftOut(files[indices[row]], why) for row, why in reasons.items()]
    rows = [row for row in range(len(indices)) if row not in reasons]
    for row, source in enumerate(rows):
        if row != source:
            pixels[row] = pixels[source]
    indices = indices[rows]
    count = int((labels[indices] >= 0).sum())  # outliers are the last
    check_read(found, indices[:count], left_out)
    return Pictures(
        pixels[:count],
        labels[indices[:count]],
        [files[index] for index in indices[:count]],
        [splits[index] for index in indices[:count]],
        groups[rows][:count],
        pixels[count : len(rows)],
        measures[rows][:count],
        found.left_out + left_out,
    )


def find_leaks(groups: NDArray[np.int64], splits: Sequence[str]) -> dict[int, int]:
    """Return pictures with a nearly equal one in a later split: index -> its index."""
    ranks = np.array([RANKS[split] for split in splits])
    last = {int(groups[index]): int(index) for index in np.argsort(ranks)}
    return {
        index: last[group]
        for index, group in enumerate(groups.tolist())
        if ranks[index] < ranks[last[group]]
    }


def check_read(
    found: LabelledFiles, indices: NDArray[np.int64], left_out: Sequence[LeftOut]
) -> None:
    """Raise `ValueError` if a class has too few files of these `indices`."""
    train = [index for index in indices if found.splits[index] in TRAIN_SPLITS]
    try:
        check_counts(
            found.classes, (found.classes[found.labels[index]] for index in train)
        )
    except ValueError as error:
        raise ValueError(f"{error} (left out: {left_out[0]}, ...)") from error


def read_all(
    files: Sequence[Path], preprocessing: Preprocessing, pixels: Pixels
) -> tuple[NDArray[np.int64], Measures, list[LeftOut]]:
    """Read pictures into the first rows of `pixels`; return their indices int64 [K].

    Raises `ValueError` if there is none.
    """
    kept: list[int] = []
    measures: list[Measures] = []
    left_out: list[LeftOut] = []
    rows = [(file, preprocessing) for file in files]
    for index, result in enumerate(parallel_map(load_picture, rows, "pictures")):
        if isinstance(result, str):
            left_out.append(LeftOut(files[index], result))
            continue
        pixels[len(kept)], found = result
        kept.append(index)
        measures.append(found)
    if not kept:
        raise ValueError(f"no picture can be read: {left_out[0]}, ...")
    return np.array(kept), np.concatenate(measures), left_out


def load_picture(
    file: Path, preprocessing: Preprocessing
) -> tuple[Pixels, Measures] | str:
    """Return a picture as input with its measures, or why it cannot be one."""
    try:
        data = read_file(file)
        image = preprocessing.decode(data)
    except (ImageError, OSError, MemoryError) as error:
        return reason_of(error)
    if min(image.size) < MIN_SIDE:
        return f"too small: {image.width} x {image.height} pixels"
    return preprocessing.preprocess(image), measure(data, image)


def allocate(shape: tuple[int, ...]) -> Pixels:
    """Return an array uint8 of `shape`; a large one is in a temporary file.

    Raises `OSError` if there is no space for it.
    """
    size = int(np.prod(shape))
    if size <= MAX_MEMORY:
        return np.empty(shape, np.uint8)
    with tempfile.TemporaryFile() as file:
        if hasattr(os, "posix_fallocate"):  # else a full disk kills the process later
            os.posix_fallocate(file.fileno(), 0, size)
        return np.memmap(file, np.uint8, "w+", shape=shape)
