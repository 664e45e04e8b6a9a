"""What a run trains on: a data set, photos and outliers, and what validates it.

    >>> data = get_data(RECIPES["mnist"], Path("data"))     # downloads it if missing
    >>> photos = read_photos(Path("clothing-photos/train"), data.recipe)

The validation pictures are split off here, the same for every run.
"""

import argparse
import hashlib
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot
from torchvision.datasets import MNIST
from tqdm import tqdm

from training.folders import (
    classes_of,
    describe_folders,
    find_photos,
    load_all_views,
    read_outlier_sets,
)
from training.recipes import Recipe

VALIDATION_SIZE = 5_000  # of the training pictures
SPLIT_SEED = 0  # not the run's, so that all runs have the same validation pictures
PHOTO_FOLDS = 5  # photos are split into so many parts, one of them for validation
VIEWS = 24  # of each photo


class Split(NamedTuple):
    """Pictures and their classes."""

    pixels: Tensor  # uint8 [N, *input_shape]
    labels: Tensor  # int64 [N]


class Photos(NamedTuple):
    """Labelled photos, preprocessed, with random views and small crops of each."""

    pixels: Tensor  # uint8 [N, *input_shape], as the service preprocesses them
    views: Tensor  # uint8 [N, VIEWS, *input_shape]
    crops: Tensor  # uint8 [N, CROPS, *input_shape]
    split_hash: Tensor  # int64 [N], of the file's bytes
    targets: Tensor  # bool [N, classes + 1]: the possible classes, the last is unknown
    soft_targets: Tensor  # float32 [N, classes + 1], of `epoch.distil`; zeros before it

    def split(self) -> tuple["Photos", "Photos"]:
        """Return the photos to train on and those to validate on.

        The bytes of a file decide, so that a photo stays in its part when others are
        added or removed, and however it is preprocessed.
        Raises `ValueError` if a part has no photo of a class.
        """
        held_out = self.split_hash % PHOTO_FOLDS == 0
        if any(self.targets[part, -1].all() for part in (held_out, ~held_out)):
            count = int((~self.targets[:, -1]).sum())
            raise ValueError(f"{count} photos of the classes are too few to split")
        return Photos(*(p[~held_out] for p in self)), Photos(
            *(p[held_out] for p in self)
        )


class Data(NamedTuple):
    """All data of a run. No validation or test picture is ever trained on."""

    train: Split
    validation: Split  # taken from the training pictures of the data set
    test: Split
    recipe: Recipe
    duplicates: int  # training pictures left out, for the test set has them
    photos: Photos | None  # to train on
    validation_photos: Photos | None
    outliers: dict[
        str, Tensor
    ]  # by name, uint8 [N, *input_shape], beside synthetic ones
    fingerprint: str  # SHA-256 of all of the above
    parent: dict[str, Any]  # the data facts of the model that training starts from

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of their ids."""
        return self.recipe.classes


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the data set and photos."""
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("data"),
        metavar="DIR",
        help="torchvision root; the data set is downloaded if missing (data)",
    )
    parser.add_argument(
        "--photos",
        type=Path,
        metavar="DIR",
        help="folder of photos, one folder a class; other folders are unknown (none)",
    )


def get_data(
    recipe: Recipe,
    folder: Path,
    photos: Path | None = None,
    outliers: Sequence[Path] = (),
    views: int = VIEWS,
) -> Data:
    """Read a data set from a torchvision root; download it if missing.

    `photos` is a tree for `read_photos`, which makes `views` of each; `outliers` are
    folders or NPZ files of pictures of none of the classes.
    """
    parts = [read_dataset(recipe, folder, is_train) for is_train in (True, False)]
    (pixels, labels), test = [Split(part.data, part.targets) for part in parts]
    order = torch.randperm(len(labels), generator=Generator().manual_seed(SPLIT_SEED))
    held_out, rest = order[:VALIDATION_SIZE], order[VALIDATION_SIZE:]
    indices = [part[~is_equal(pixels[part], test.pixels)] for part in (rest, held_out)]
    train, validation = (Split(pixels[part], labels[part]) for part in indices)
    if duplicates := len(labels) - sum(map(len, indices)):
        tqdm.write(
            f"training pictures left out, for the test set has them: {duplicates}"
        )
    arrays = read_outlier_sets(outliers, recipe.preprocessing)
    sets = {name: torch.from_numpy(array) for name, array in arrays.items()}
    both = read_photos(photos, recipe, views).split() if photos else (None, None)
    return Data(
        train=train,
        validation=validation,
        test=test,
        recipe=recipe,
        duplicates=duplicates,
        photos=both[0],
        validation_photos=both[1],
        outliers=sets,
        fingerprint=fingerprint(
            chain(train, validation, test, sets.values(), *filter(None, both))
        ),
        parent={},
    )


def is_equal(pixels: Tensor, others: Tensor) -> Tensor:
    """Return which pictures are among others, byte for byte: bool [N]."""
    known = {picture.tobytes() for picture in others.numpy()}
    rows = [row.tobytes() in known for row in pixels.numpy()]
    return torch.tensor(rows, dtype=torch.bool)


def read_dataset(recipe: Recipe, folder: Path, is_train: bool) -> MNIST:
    """Read training or test pictures of a recipe; download them if missing.

    Raises `ValueError` if that fails, or if a stop while unpacking left damaged files.
    """
    try:
        return recipe.dataset(folder, is_train, download=True)
    except (EOFError, RuntimeError, ValueError) as error:
        name = folder / recipe.dataset.__name__
        raise ValueError(f"{error}; if {name} is damaged, delete it") from error


def fingerprint(tensors: Iterable[Tensor]) -> str:
    """Return the SHA-256 of tensors, in their order, in hex digits."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def one_hot_targets(labels: Tensor, classes: int) -> Tensor:
    """Return targets bool [N, classes + 1] of class ids int64 [N]."""
    return one_hot(labels, classes + 1).bool()


def read_photos(folder: Path, recipe: Recipe, views: int = VIEWS) -> Photos:
    """Read a tree of labelled photos, `folder/<class>/**`.

    Photos in a folder that names no class are unknown. Files that are no pictures are
    skipped, with one line of their number. Raises `ValueError` if none is left.
    """
    classes, aliases = recipe.classes, recipe.aliases
    files, names = find_photos(folder, classes, aliases)
    for line in describe_folders(names, classes, aliases):
        tqdm.write(line)
    loaded = list(load_all_views(files, views, recipe.preprocessing))
    photos = [photo for photo in loaded if photo]
    if not photos:
        raise ValueError(f"no pictures in {folder}")
    if len(photos) < len(files):
        tqdm.write(
            f"files of {folder} that are no pictures: {len(files) - len(photos)}"
        )
    ids = {
        name: [classes.index(c) for c in classes_of(name, classes, aliases)]
        for name in set(names)
    }
    targets = torch.zeros(len(photos), len(classes) + 1, dtype=torch.bool)
    kept = [name for name, photo in zip(names, loaded, strict=True) if photo]
    for target, name in zip(targets, kept, strict=True):
        target[ids[name] or -1] = True
    pixels, inputs, crops, split_hash = (
        torch.from_numpy(np.stack(part)) for part in zip(*photos, strict=True)
    )
    soft_targets = torch.zeros(targets.shape)
    return Photos(pixels, inputs, crops, split_hash, targets, soft_targets)
