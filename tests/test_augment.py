"""Augmentation varies training pictures and nothing else."""

import pytest
import torch
from conftest import Samples
from torch import Tensor

from training import augment


def random(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def pixels(samples: Samples) -> Tensor:
    return torch.from_numpy(samples.pixels)


@pytest.mark.parametrize("is_colour", [False, True], ids=["grey", "colour"])
@pytest.mark.parametrize("step", ["flip", "shift", "erase", "augment"])
def test_pictures_change_and_the_input_does_not(
    pixels: Tensor, step: str, is_colour: bool
) -> None:
    if is_colour:
        pixels = torch.stack([pixels, pixels // 2, 255 - pixels], -1)
    before = pixels.clone()
    after = getattr(augment, step)(pixels, random())
    assert after.shape == before.shape
    assert after.dtype == torch.uint8
    assert (pixels == before).all()
    assert (after != before).any()


def test_the_seed_decides(pixels: Tensor) -> None:
    first, again, other = (augment.augment(pixels, random(s)) for s in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_flip_mirrors_about_half(pixels: Tensor) -> None:
    after = augment.flip(pixels, random())
    same = (after == pixels).flatten(1).all(1)
    assert 30 < same.sum() < 70
    assert (after[~same] == pixels[~same].flip(2)).all()


def test_shift_moves_whole_pictures(pixels: Tensor) -> None:
    after = augment.shift(pixels, random())
    for before, moved in zip(pixels, after, strict=True):
        assert any(
            (moved[2:-2, 2:-2] == before[2 + y : 26 + y, 2 + x : 26 + x]).all()
            for y in range(-2, 3)
            for x in range(-2, 3)
        )


def test_erase_keeps_most_of_a_picture(pixels: Tensor) -> None:
    changed = (augment.erase(pixels, random()) != pixels).flatten(1).float().mean(1)
    assert (changed == 0).float().mean() > 0.3
    assert changed.max() < 0.3


def test_flips_and_erasing_are_optional(pixels: Tensor) -> None:
    same = random()
    moved = augment.shift(augment.flip(pixels, same), same)
    assert (augment.augment(pixels, random(), erasing=False) == moved).all()
    assert (augment.augment(pixels, random()) != moved).any()
    moved = augment.shift(pixels, random())
    kept = augment.augment(pixels, random(), flips=False, erasing=False)
    assert (kept == moved).all()
