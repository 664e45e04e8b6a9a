"""Augmentation: a random variation of each picture in every epoch.

    >>> augment(pixels, torch.Generator().manual_seed(1)).shape == pixels.shape

Pictures are square, uint8 [N, size, size] or [N, size, size, 3], on the CPU.
"""

import torch
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample, pad

from model.images import WHITE

FLIP_SHARE = 0.5
MAX_SHIFT = 2  # pixels, each way
ERASE_SHARE = 0.5
ERASE_SIDES = 4, 13  # erased rectangles are 3 to 11 pixels wide and high
# of colour pictures
VIEW_AREA = 0.35, 1.0  # of the picture, that a view shows
VIEW_ASPECT = 0.3  # greatest logarithm of a view's change of width over height
COLOUR_JITTER = 0.3  # greatest change of brightness, contrast and saturation


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


def random_views(pixels: Tensor, size: int, random: Generator) -> Tensor:
    """Return a random crop of each colour picture: uint8 [N, size, size, 3].

    It is resized (Szegedy et al., arXiv 1409.4842), mirrored or not, and changed in
    brightness, contrast and saturation.
    """
    count = len(pixels)
    area = _uniform((count,), *VIEW_AREA, random)
    aspect = _uniform((count,), -VIEW_ASPECT, VIEW_ASPECT, random).exp()
    scale = torch.stack([area * aspect, area / aspect], 1).sqrt().clamp(max=1)
    shift = (1 - scale) * _uniform((count, 2), -1, 1, random)
    mirror = torch.where(torch.rand(count, generator=random) < FLIP_SHARE, -1.0, 1.0)
    matrix = torch.zeros(count, 2, 3)
    matrix[:, 0, 0], matrix[:, 1, 1] = scale[:, 0] * mirror, scale[:, 1]
    matrix[:, :, 2] = shift
    grid = affine_grid(matrix, [count, 3, size, size], align_corners=False)
    levels = pixels.permute(0, 3, 1, 2).float()
    views = grid_sample(levels, grid, padding_mode="border", align_corners=False)
    views = _jitter(views, random).clamp(0, WHITE).byte()
    return views.permute(0, 2, 3, 1).contiguous()  # trains 1.5 times as fast


def _jitter(levels: Tensor, random: Generator) -> Tensor:
    """Change brightness, contrast and saturation of float32 [N, 3, h, w]."""
    low, high = 1 - COLOUR_JITTER, 1 + COLOUR_JITTER
    factors = _uniform((3, len(levels), 1, 1, 1), low, high, random)
    levels = levels * factors[0]
    mean = levels.mean((1, 2, 3), keepdim=True)
    levels = mean + (levels - mean) * factors[1]
    grey = levels.mean(1, keepdim=True)
    return grey + (levels - grey) * factors[2]


def _uniform(
    shape: tuple[int, ...], low: float, high: float, random: Generator
) -> Tensor:
    """Draw float32 numbers from low to high."""
    return torch.rand(shape, generator=random) * (high - low) + low


def _choose(pixels: Tensor, share: float, random: Generator) -> Tensor:
    """Choose a share of the pictures: bool [N, 1, 1] or [N, 1, 1, 1]."""
    shape = len(pixels), *[1] * (pixels.ndim - 1)
    return torch.rand(shape, generator=random) < share


def _draw_pairs(pixels: Tensor, low: int, high: int, random: Generator) -> Tensor:
    """Draw two integers from low to high - 1 for each picture: int64 [N, 2]."""
    return torch.randint(low, high, (len(pixels), 2), generator=random)
