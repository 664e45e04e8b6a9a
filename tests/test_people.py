"""Drawn people wear the garments that they are to wear."""

import pytest
import torch
from conftest import Samples
from torch import Generator, Tensor

from synthetic import people

SIDE = 56
SHIRT, TROUSER, GOWN, BAG = 0, 1, 3, 8


@pytest.fixture
def pixels(samples: Samples) -> Tensor:
    return torch.from_numpy(samples.pixels)


def dress(pixels: Tensor, label: int, seed: int = 1) -> people.Drawn:
    labels = torch.full((len(pixels),), label)
    return people.dress(pixels, labels, SIDE, Generator().manual_seed(seed))


def test_the_seed_decides(pixels: Tensor) -> None:
    first, again, other = (dress(pixels, SHIRT, seed) for seed in (1, 1, 2))
    assert first.colours.shape == (len(pixels), 3, SIDE, SIDE)
    assert first.mask.shape == (len(pixels), SIDE, SIDE)
    assert (first.colours == again.colours).all()
    assert (first.colours != other.colours).any()


def test_colours_and_masks_are_shares(pixels: Tensor) -> None:
    for part in dress(pixels, GOWN):
        assert part.min() >= 0
        assert part.max() <= 1


@pytest.mark.parametrize("label", [SHIRT, GOWN])
def test_most_people_have_heads(pixels: Tensor, label: int) -> None:
    """Something in the upper middle, nothing in the corners."""
    mask = dress(pixels, label).mask
    assert (mask[:, 4:12, 24:32].amax((1, 2)) > 0.5).float().mean() > 0.6
    assert mask[:, :6, :6].mean() < 0.15


def test_nobody_wears_a_bag(pixels: Tensor, samples: Samples) -> None:
    bags = pixels[torch.from_numpy(samples.labels) == BAG]
    drawn = dress(bags, BAG)
    wide = torch.nn.functional.interpolate(bags[:, None].float(), [SIDE, SIDE])[:, 0]
    pair = torch.stack([wide.mean(0).flatten(), drawn.mask.mean(0).flatten()])
    assert torch.corrcoef(pair)[0, 1] > 0.6


def test_skin_is_no_garment(pixels: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of most people in black clothes both these and their pale skin are seen."""

    def black(shades: Tensor, *_: object) -> Tensor:
        return torch.zeros(len(shades), 3, SIDE, SIDE)

    def pale(*_: object) -> Tensor:
        return torch.ones(len(pixels), 3, 1, 1)

    monkeypatch.setattr(people, "dye", black)
    monkeypatch.setattr(people, "tint", pale)
    colours, mask = dress(pixels, SHIRT)
    level, inside = colours.mean(1), mask > 0.9
    for shown in (level < 0.1, level > 0.9):
        share = (shown & inside).sum((1, 2)) / inside.sum((1, 2))
        assert (share > 0.1).float().mean() > 0.6


def test_place_puts_a_picture_where_it_is_told() -> None:
    white = torch.full((1, 28, 28), 255, dtype=torch.uint8)
    half, middle = torch.full((1, 1, 1), 0.5), torch.zeros(1, 1, 1)
    frame = people.Frame(middle, middle, half, half)
    placed = people.place(white, frame, side=28)[0]
    assert placed[8:20, 8:20].min() == 1
    assert placed[:6].max() == placed[:, :6].max() == 0
