"""How cloth looks in drawn photos: its colours, folds and prints.

    >>> garments = dye(detail(shades, cover(shades), random), random, contrast)
    >>> garments.shape            # of `shades` float [100, 56, 56]
    torch.Size([100, 3, 56, 56])

Shades are 0..1, as Fashion-MNIST has them; colours are red, green and blue, 0..1.
"""

import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate, max_pool2d

from synthetic.drawing import chance, fill, uniform

PHOTO_SIDE = 56  # pixels, of all drawn photos
PRINTED_SHARE = 0.25  # of the garments
MOST_OF_IT = torch.tensor([0.1, 0.9])  # quantiles of a garment's shades
FLAT = 0.05  # between a garment's brightest and darkest shades: less is no detail
FOLDED_SHARE = 0.7  # of the garments, those that fall in folds
FOLDS = 7, 9  # down and across


def enlarge(pictures: Tensor) -> Tensor:
    """Bring pictures [N, h, w] to the size of drawn photos."""
    side = [PHOTO_SIDE, PHOTO_SIDE]
    return interpolate(pictures[:, None], side, mode="bilinear")[:, 0]


def cover(garments: Tensor) -> Tensor:
    """Where garments hide what is behind, 0..1, their small dark spots included."""
    cloth = (garments * 6).clamp(0, 1)
    grown = max_pool2d(cloth, 3, stride=1, padding=1)
    return -max_pool2d(-grown, 3, stride=1, padding=1)


def detail(shades: Tensor, mask: Tensor, random: Generator) -> Tensor:
    """Bring out what is on garments, more or less, and print on some: [N, h, w].

    Fashion-MNIST shows most of them in nearly one shade.
    """
    size = len(shades)
    inside = torch.where(mask.round().bool(), shades, torch.nan).flatten(1)
    levels = inside.nanquantile(MOST_OF_IT, 1).nan_to_num()
    dark, bright = levels[..., None, None]
    clear = ((shades - dark) / (bright - dark).clamp(min=FLAT)).clamp(0, 1)
    shades = torch.lerp(shades, clear, uniform(size, random, 0, 1))
    prints = enlarge(fill(size, random))
    strong = uniform(size, random, 0.3, 1) * chance(size, random, PRINTED_SHARE)
    return torch.lerp(shades, prints, strong)


def folds(size: int, random: Generator) -> Tensor:
    """How bright cloth is that falls in folds: float [size, 56, 56]."""
    deep = uniform(size, random, 0, 0.5) * chance(size, random, FOLDED_SHARE)
    return 1 - deep * enlarge(torch.rand(size, *FOLDS, generator=random))


def dye(shades: Tensor, random: Generator, contrast: Tensor) -> Tensor:
    """Give levels [N, h, w] two colours that far apart: [N, 3, h, w]."""
    size = len(shades)
    first, second = (_colours(size, random) for _ in range(2))
    pull = contrast[..., None]
    return torch.lerp(first, torch.lerp(first, second, pull), shades[:, None])


def usual_colour(garments: Tensor, mask: Tensor) -> Tensor:
    """Return the mean colour where the mask [N, h, w] is 1: [N, 3, 1, 1]."""
    shown = mask.sum((1, 2)).clamp(min=1)
    mean = (garments * mask[:, None]).sum((2, 3)) / shown[:, None]
    return mean[:, :, None, None]


def tint(
    dark: tuple[float, ...], pale: tuple[float, ...], size: int, random: Generator
) -> Tensor:
    """Choose colours between two, a little off: [size, 3, 1, 1]."""
    first, second = (torch.tensor(colour)[None, :, None] for colour in (dark, pale))
    between = torch.lerp(first, second, uniform(size, random, 0, 1))
    off = 0.06 * (torch.rand(size, 3, 1, generator=random) - 0.5)
    return (between + off).clamp(0, 1)[..., None]


def _colours(size: int, random: Generator) -> Tensor:
    """Choose colours, greys and pale ones most: [size, 3, 1, 1]."""
    grey = uniform(size, random, 0, 1)
    grey = torch.where(chance(size, random, 0.4), 1 - 0.3 * grey, grey)
    strength = uniform(size, random, 0, 1) ** 2
    hue = torch.rand(size, 3, 1, generator=random)
    return torch.lerp(grey.expand(-1, 3, -1), hue, strength)[..., None]
