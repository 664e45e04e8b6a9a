"""Made-up strangers are varied, repeatable and no garments."""

import pytest
import torch
from conftest import Samples
from torch import Tensor

from synthetic import outliers


def random(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def garments(samples: Samples) -> Tensor:
    return torch.from_numpy(samples.pixels)


@pytest.mark.parametrize("count", [0, 1, 7, 600])
def test_as_many_as_asked_for(garments: Tensor, count: int) -> None:
    pictures = outliers.make_outliers(garments, count, random())
    assert pictures.shape == (count, 28, 28)
    assert pictures.dtype == torch.uint8


def test_the_seed_decides(garments: Tensor) -> None:
    first, again, other = (
        outliers.make_outliers(garments, 60, random(seed)) for seed in (1, 1, 2)
    )
    assert (first == again).all()
    assert (first != other).any()


def test_no_two_are_alike_and_none_is_a_garment(garments: Tensor) -> None:
    pictures = outliers.make_outliers(garments, 600, random()).flatten(1)
    shown = pictures[pictures.amax(1) > pictures.amin(1)]  # blanks may be twins
    assert len(shown) > 500
    assert len(shown.unique(dim=0)) == len(shown)
    both = torch.cat([shown, garments.flatten(1)]).unique(dim=0)
    assert len(both) == len(shown) + len(garments.flatten(1).unique(dim=0))


def test_some_are_blank_and_some_use_all_levels(garments: Tensor) -> None:
    pictures = outliers.make_outliers(garments, 600, random()).flatten(1).int()
    contrast = pictures.amax(1) - pictures.amin(1)
    assert (contrast < 6).sum() > 10
    assert (contrast > 250).sum() > 100


def test_shuffled_keeps_the_pixels_and_moves_them(garments: Tensor) -> None:
    floats = garments.float()
    moved = outliers.shuffled(floats, random())
    assert (moved.flatten(1).sort(1)[0] == floats.flatten(1).sort(1)[0]).all()
    assert (moved != floats).flatten(1).any(1).all()
