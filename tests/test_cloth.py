"""Drawn cloth shows what is on it."""

import torch
from conftest import Samples
from torch import Generator

from synthetic import cloth
from synthetic.cloth import PHOTO_SIDE

COUNT = 200


def generator() -> Generator:
    return Generator().manual_seed(1)


def test_detail_brings_out_what_is_hardly_seen() -> None:
    """A pale half and a paler one end up far apart."""
    shades = torch.zeros(COUNT, PHOTO_SIDE, PHOTO_SIDE)
    shades[:, 10:30, 10:40], shades[:, 30:50, 10:40] = 0.85, 0.95
    seen = cloth.detail(shades, cloth.cover(shades), generator())
    upper, lower = seen[:, 12:28, 12:38], seen[:, 32:48, 12:38]
    apart = (lower - upper).mean((1, 2))
    assert apart.median() > 0.3
    assert apart.max() > 0.8
    assert seen.min() >= 0
    assert seen.max() <= 1


def test_some_cloth_is_printed() -> None:
    """One in four, a part of which with nothing."""
    plain = torch.ones(COUNT, PHOTO_SIDE, PHOTO_SIDE)
    seen = cloth.detail(plain, cloth.cover(plain), generator())
    varied = seen.std((1, 2)) > 0.05
    assert 0.1 < varied.float().mean() < 0.3


def test_nothing_at_all_has_no_detail() -> None:
    nothing = torch.zeros(COUNT, PHOTO_SIDE, PHOTO_SIDE)
    assert cloth.detail(nothing, nothing, generator()).isfinite().all()


def test_folds_darken_by_half_at_most() -> None:
    bright = cloth.folds(COUNT, generator())
    assert bright.shape == (COUNT, PHOTO_SIDE, PHOTO_SIDE)
    assert bright.max() == 1
    assert 0.5 <= bright.min() < 0.7


def test_the_usual_colour_is_that_of_the_cloth(samples: Samples) -> None:
    garments = torch.rand(len(samples.pixels), 3, 1, 1, generator=generator())
    drawn = garments.expand(-1, -1, PHOTO_SIDE, PHOTO_SIDE).clone()
    mask = torch.zeros(len(drawn), PHOTO_SIDE, PHOTO_SIDE)
    mask[:, 20:40, 20:40] = 1
    drawn[:, :, :20] = 0.5
    assert torch.allclose(cloth.usual_colour(drawn, mask), garments, atol=1e-5)
