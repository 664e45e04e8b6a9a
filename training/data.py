"""What is learnt from: Fashion-MNIST, photos, outliers, and what is set aside.

    >>> data = get_data(Path("data"))                    # downloads it if need be
    >>> photos = read_photos(Path("clothing-photos/train"), data.classes)

What may be chosen by is set aside here, once and for every run alike.
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
from torchvision.datasets import FashionMNIST
from tqdm import tqdm

from model.preprocessing import Garment, Preprocessing
from training.folders import classes_of, find_photos, look_at_all, read_all_unknown


class Recipe(NamedTuple):
    """A data set to train on, and what its pictures become."""

    name: str  # of the model
    title: str  # of the data set
    dataset: type[FashionMNIST]  # its reader in torchvision
    preprocessing: Preprocessing  # picture -> input array
    aliases: dict[str, list[str]]  # folder, singular -> classes its photos may be

    def arguments(self) -> dict[str, int]:
        """Return the constructor arguments of a new network."""
        size, channels = self.preprocessing.size, self.preprocessing.channels
        classes = len(self.dataset.classes)
        return {"size": size, "channels": channels, "classes": classes}


RECIPE = Recipe(
    name="fashion",
    title="Fashion-MNIST",
    dataset=FashionMNIST,
    preprocessing=Garment(size=28),
    aliases={
        "t-shirt": ["T-shirt/top"],
        "top": ["T-shirt/top"],
        "pant": ["Trouser"],
        "jean": ["Trouser"],
        "longsleeve": ["Pullover"],
        "sweater": ["Pullover"],
        "hoodie": ["Pullover"],
        "outwear": ["Coat"],
        "outerwear": ["Coat"],
        "jacket": ["Coat"],
        "shoe": ["Sandal", "Sneaker", "Ankle boot"],
        "boot": ["Ankle boot"],
    },
)

VALIDATION_SIZE = 5_000
SPLIT_SEED = 0  # the same split whatever the seed, so that runs compare
PHOTOS_ASIDE = 5  # one photo in so many is kept for choosing, never trained on
VIEWS = 24  # of each photo


class Split(NamedTuple):
    """Pictures and their classes."""

    pixels: Tensor  # uint8 [N, 28, 28]
    labels: Tensor  # int64 [N]


class Photos(NamedTuple):
    """Labelled photos, as the service sees them, in varied views, and scraps."""

    seen: Tensor  # uint8 [N, 28, 28]
    views: Tensor  # uint8 [N, VIEWS, 28, 28]
    scraps: Tensor  # uint8 [N, SCRAPS, 28, 28]
    lots: Tensor  # int64 [N], by which some are set aside
    targets: Tensor  # bool [N, classes + 1]: what each may be, last of all unknown
    recalled: Tensor  # float32, likewise: what a network said of it; zeros before

    def split(self) -> tuple["Photos", "Photos"]:
        """Set one in `PHOTOS_ASIDE` aside: those to train on, those to choose by.

        A photo's own bytes decide, so it stays on its side when others come or go, and
        whatever is seen in it.
        Raises `ValueError` if there is nothing of the classes on either side.
        """
        aside = self.lots % PHOTOS_ASIDE == 0
        if any(self.targets[side, -1].all() for side in (aside, ~aside)):
            count = int((~self.targets[:, -1]).sum())
            raise ValueError(f"{count} photos of garments: too few to set some aside")
        return Photos(*(p[~aside] for p in self)), Photos(*(p[aside] for p in self))


class Data(NamedTuple):
    """All that a run uses. What is set aside for choosing is never trained on."""

    train: Split
    validation: Split  # taken out of the training pictures of Fashion-MNIST
    test: Split
    classes: list[str]
    photos: Photos | None  # to train on
    photos_aside: Photos | None
    outliers: dict[str, Tensor]  # by name, uint8 [N, 28, 28], beside those made up
    fingerprint: str  # SHA-256 of all of it
    before: dict[str, Any]  # what the network that training starts from learnt by


def add_options(parser: argparse.ArgumentParser) -> None:
    """Let a command line say where Fashion-MNIST and photos are."""
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("data"),
        metavar="DIR",
        help="a torchvision root; Fashion-MNIST is downloaded if missing (data)",
    )
    parser.add_argument(
        "--photos",
        type=Path,
        metavar="DIR",
        help="photos too, one folder a class; other folders are unknown",
    )


def get_data(
    folder: Path,
    photos: Path | None = None,
    outliers: Sequence[Path] = (),
    views: int = VIEWS,
) -> Data:
    """Read Fashion-MNIST from a torchvision root; download it if it is not there.

    `photos` is a tree for `read_photos`, `outliers` are folders or NPZ files of
    pictures that are none of the classes. Each photo is varied into `views`.
    """
    parts = [read_dataset(folder, is_train) for is_train in (True, False)]
    (pixels, labels), test = [Split(part.data, part.targets) for part in parts]
    classes = parts[0].classes
    order = torch.randperm(len(labels), generator=Generator().manual_seed(SPLIT_SEED))
    aside, rest = order[:VALIDATION_SIZE], order[VALIDATION_SIZE:]
    sets = read_all_unknown(outliers)
    strangers = {name: torch.from_numpy(pixels) for name, pixels in sets.items()}
    taken = read_photos(photos, classes, views).split() if photos else (None, None)
    train, validation = (Split(pixels[of], labels[of]) for of in (rest, aside))
    return Data(
        train=train,
        validation=validation,
        test=test,
        classes=classes,
        photos=taken[0],
        photos_aside=taken[1],
        outliers=strangers,
        fingerprint=fingerprint(
            chain(train, validation, test, strangers.values(), *filter(None, taken))
        ),
        before={},
    )


def read_dataset(folder: Path, is_train: bool) -> FashionMNIST:
    """Read training or test pictures of the recipe; download them if missing.

    Raises `ValueError` if that fails, or if a stop while unpacking left damaged files.
    """
    try:
        return RECIPE.dataset(folder, is_train, download=True)
    except (EOFError, RuntimeError, ValueError) as error:
        name = folder / RECIPE.dataset.__name__
        raise ValueError(f"{error}; if {name} is damaged, delete it") from error


def fingerprint(tensors: Iterable[Tensor]) -> str:
    """Hash pictures and labels, in their order: SHA-256 in hex."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def targets_of(labels: Tensor, classes: int) -> Tensor:
    """Class ids int64 [N] to what a picture may be: bool [N, classes + 1]."""
    return one_hot(labels, classes + 1).bool()


def read_photos(
    folder: Path, classes: Sequence[str], view_count: int = VIEWS
) -> Photos:
    """Read a tree of labelled photos, `folder/<name of class>/**`.

    A folder whose name is no class holds strangers. Files that are no pictures are
    skipped, with a line that says how many. Raises `ValueError` if none is left.
    """
    files, names = find_photos(folder, classes, RECIPE.aliases)
    looks = list(look_at_all(files, view_count))
    kept = [found for found in looks if found is not None]
    if not kept:
        raise ValueError(f"no pictures in {folder}")
    if len(kept) < len(files):
        tqdm.write(f"files of {folder} that are no pictures: {len(files) - len(kept)}")
    strange = sorted(
        n for n in set(names) if not classes_of(n, classes, RECIPE.aliases)
    )
    if strange:
        tqdm.write(f"folders taken for none of the classes: {', '.join(strange)}")
    targets = torch.zeros(len(kept), len(classes) + 1, dtype=torch.bool)
    known = [name for name, found in zip(names, looks, strict=True) if found]
    for row, name in enumerate(known):
        found = [
            classes.index(label) for label in classes_of(name, classes, RECIPE.aliases)
        ]
        targets[row, found or [len(classes)]] = True
    seen, views, scraps, lots = (
        torch.from_numpy(np.stack(part)) for part in zip(*kept, strict=True)
    )
    return Photos(seen, views, scraps, lots, targets, torch.zeros(targets.shape))
