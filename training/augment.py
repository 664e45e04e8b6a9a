"""What training sees: every epoch its own variation of each picture.

    >>> augment(pixels, torch.Generator().manual_seed(1)).shape == pixels.shape

Whole batches at a time, on the CPU.
"""

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from model.images import SIDE
from synthetic.drawing import chance

FLIP_SHARE = 0.5
MAX_SHIFT = 2  # pixels, each way
ERASE_SHARE = 0.5
ERASE_SIDES = 4, 13  # holes are 3 to 11 pixels wide and high


def augment(pixels: Tensor, random: Generator, erasing: bool = True) -> Tensor:
    """Flip, shift and erase uint8 [N, 28, 28]; the input is left as it is."""
    moved = shift(flip(pixels, random), random)
    return erase(moved, random) if erasing else moved


def flip(pixels: Tensor, random: Generator) -> Tensor:
    """Mirror a share of the pictures left to right."""
    chosen = chance(len(pixels), random, FLIP_SHARE)
    return torch.where(chosen, pixels.flip(2), pixels)


def shift(pixels: Tensor, random: Generator) -> Tensor:
    """Move each picture by up to `MAX_SHIFT` pixels, black flowing in."""
    corners = _pairs(pixels, 0, 2 * MAX_SHIFT + 1, random)
    line = torch.arange(SIDE)
    rows, columns = (corners[:, :, None] + line).unbind(1)
    pictures = torch.arange(len(pixels))[:, None, None]
    framed = pad(pixels, [MAX_SHIFT] * 4)
    return framed[pictures, rows[:, :, None], columns[:, None, :]]


def erase(pixels: Tensor, random: Generator) -> Tensor:
    """Fill a rectangle with noise in a share of them (Zhong, arXiv 1708.04896)."""
    sides = _pairs(pixels, *ERASE_SIDES, random)
    centres = _pairs(pixels, 0, SIDE, random)
    line = torch.arange(SIDE)
    inside = (line - centres[:, :, None]).abs() * 2 < sides[:, :, None]
    rows, columns = inside.unbind(1)
    hole = rows[:, :, None] & columns[:, None, :]
    static = torch.randint(256, pixels.shape, generator=random, dtype=torch.uint8)
    chosen = chance(len(pixels), random, ERASE_SHARE)
    return torch.where(hole & chosen, static, pixels)


def _pairs(pixels: Tensor, low: int, high: int, random: Generator) -> Tensor:
    """Draw two whole numbers from low to high - 1 for each picture: [N, 2]."""
    return torch.randint(low, high, (len(pixels), 2), generator=random)
