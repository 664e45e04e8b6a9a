"""Drawn people wear the garments that they are given."""

import pytest
import torch
from conftest import Samples
from torch import Generator, Tensor

from synthetic import people
from synthetic.people import PHOTO_SIDE

SHIRT, DRESS, BAG = 0, 3, 8


@pytest.fixture
def pixels(samples: Samples) -> Tensor:
    return torch.from_numpy(samples.pixels)


def draw(pixels: Tensor, label: int) -> people.Layer:
    labels = torch.full((len(pixels),), label)
    return people.draw_people(pixels, labels, Generator().manual_seed(1))


@pytest.mark.parametrize("label", [SHIRT, DRESS])
def test_most_people_have_heads(pixels: Tensor, label: int) -> None:
    """Something is in the upper middle, nothing in the corner."""
    colours, mask = draw(pixels, label)
    assert (mask[:, 4:12, 24:32].amax((1, 2)) > 0.5).float().mean() > 0.6
    assert mask[:, :6, :6].mean() < 0.15
    assert colours.shape == (len(pixels), 3, PHOTO_SIDE, PHOTO_SIDE)
    assert min(mask.min(), colours.min()) >= 0
    assert max(mask.max(), colours.max()) <= 1


def test_nobody_wears_a_bag(pixels: Tensor, samples: Samples) -> None:
    bags = pixels[torch.from_numpy(samples.labels) == BAG]
    drawn = draw(bags, BAG).mask
    large = torch.nn.functional.interpolate(bags[:, None].float(), drawn.shape[1:])
    pair = torch.stack([large[:, 0].mean(0).flatten(), drawn.mean(0).flatten()])
    assert torch.corrcoef(pair)[0, 1] > 0.6


def test_skin_is_no_garment(pixels: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most people in black clothes show both these and their pale skin."""

    def black(shades: Tensor, *_: object) -> Tensor:
        return torch.zeros(len(shades), 3, PHOTO_SIDE, PHOTO_SIDE)

    monkeypatch.setattr(people, "dye", black)
    monkeypatch.setattr(people, "DARK_SKIN", people.PALE_SKIN)
    colours, mask = draw(pixels, SHIRT)
    level, inside = colours.mean(1), mask > 0.9
    for part in (level < 0.1, level > 0.7):
        share = (part & inside).sum((1, 2)) / inside.sum((1, 2))
        assert (share > 0.1).float().mean() > 0.6


def test_pictures_fill_their_frames() -> None:
    white = torch.full((1, 28, 28), 255, dtype=torch.uint8)
    half, middle = torch.full((1, 1, 1), 0.5), torch.zeros(1, 1, 1)
    pasted = people.paste(white, people.Frame(middle, middle, half, half))[0]
    assert pasted[16:40, 16:40].min() == 1
    assert pasted[:12].max() == pasted[:, :12].max() == 0
