"""Synthetic outliers are varied, repeatable and no garments."""

import pytest
import torch
from conftest import Samples
from torch import Generator, Tensor

from synthetic import outliers


@pytest.fixture
def garments(samples: Samples) -> Tensor:
    return torch.from_numpy(samples.pixels)


def make(garments: Tensor, count: int = 600, seed: int = 1) -> Tensor:
    random = Generator().manual_seed(seed)
    return outliers.make_outliers(garments, count, random)


@pytest.mark.parametrize("count", [0, 1, 7, 600])
def test_the_count_is_exact(garments: Tensor, count: int) -> None:
    pictures = make(garments, count)
    assert pictures.shape == (count, 28, 28)
    assert pictures.dtype == torch.uint8


def test_the_seed_decides(garments: Tensor) -> None:
    assert (make(garments, 60) == make(garments, 60)).all()
    assert (make(garments, 60) != make(garments, 60, seed=2)).any()


def test_outliers_are_distinct_and_no_garments(garments: Tensor) -> None:
    pictures = make(garments).flatten(1)
    shown = pictures[pictures.amax(1) > pictures.amin(1)]  # blank ones may be equal
    assert len(shown) > 500
    assert len(shown.unique(dim=0)) == len(shown)
    both = torch.cat([shown, garments.flatten(1)]).unique(dim=0)
    assert len(both) == len(shown) + len(garments.flatten(1).unique(dim=0))


def test_some_are_blank_and_some_use_all_levels(garments: Tensor) -> None:
    pictures = make(garments).flatten(1).int()
    contrast = pictures.amax(1) - pictures.amin(1)
    assert (contrast < 6).sum() > 10
    assert (contrast > 250).sum() > 100


def test_shuffled_tiles_keep_the_pixels_and_move_them(garments: Tensor) -> None:
    floats = garments.float()
    moved = outliers.shuffled_tiles(floats, Generator().manual_seed(1))
    assert (moved.flatten(1).sort(1)[0] == floats.flatten(1).sort(1)[0]).all()
    assert (moved != floats).flatten(1).any(1).all()
