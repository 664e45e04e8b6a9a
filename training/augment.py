"""Augmentation: a random variation of each picture in every epoch.

    >>> augment(pixels, torch.Generator().manual_seed(1)).shape == pixels.shape

Pictures are square, uint8 [N, size, size] or [N, size, size, 3], on the CPU.
"""

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

FLIP_SHARE = 0.5
MAX_SHIFT = 2  # pixels, each way
ERASE_SHARE = 0.5
ERASE_SIDES = 4, 13  # erased rectangles are 3 to 11 pixels wide and high


def augment(
    pixels: Tensor, random: Generator, *, flips: bool = True, erasing: bool = True
) -> Tensor:
    """Return shifted copies of pictures, some of them flipped or erased."""
    shifted = shift(flip(pixels, random) if flips else pixels, random)
    return erase(shifted, random) if erasing else shifted


def flip(pixels: Tensor, random: Generator) -> Tensor:
    """Mirror a share of the pictures left to right."""
    return torch.where(_choose(pixels, FLIP_SHARE, random), pixels.flip(2), pixels)


def shift(pixels: Tensor, random: Generator) -> Tensor:
    """Move each picture by up to `MAX_SHIFT` pixels, with black behind it."""
    corners = _draw_pairs(pixels, 0, 2 * MAX_SHIFT + 1, random)
    line = torch.arange(pixels.shape[1])
    rows, columns = (corners[:, :, None] + line).unbind(1)
    pictures = torch.arange(len(pixels))[:, None, None]
    colours = [0, 0] * (pixels.ndim - 3)
    padded = pad(pixels, colours + [MAX_SHIFT] * 4)
    return padded[pictures, rows[:, :, None], columns[:, None, :]]


def erase(pixels: Tensor, random: Generator) -> Tensor:
    """Fill a rectangle of a share with noise (Zhong et al., arXiv 1708.04896)."""
    size = pixels.shape[1]
    sides = _draw_pairs(pixels, *ERASE_SIDES, random)
    centres = _draw_pairs(pixels, 0, size, random)
    distance = (torch.arange(size) - centres[:, :, None]).abs()
    rows, columns = (distance * 2 < sides[:, :, None]).unbind(1)
    erased = rows[:, :, None] & columns[:, None, :]
    erased = erased.reshape(erased.shape + (1,) * (pixels.ndim - 3))
    noise = torch.randint(256, pixels.shape, generator=random, dtype=torch.uint8)
    return torch.where(erased & _choose(pixels, ERASE_SHARE, random), noise, pixels)


def _choose(pixels: Tensor, share: float, random: Generator) -> Tensor:
    """Choose a share of the pictures: bool [N, 1, 1] or [N, 1, 1, 1]."""
    shape = len(pixels), *[1] * (pixels.ndim - 1)
    return torch.rand(shape, generator=random) < share


def _draw_pairs(pixels: Tensor, low: int, high: int, random: Generator) -> Tensor:
    """Draw two integers from low to high - 1 for each picture: int64 [N, 2]."""
    return torch.randint(low, high, (len(pixels), 2), generator=random)
