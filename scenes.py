"""Colour photos drawn in code, as the service sees them.

    >>> random = torch.Generator().manual_seed(1)
    >>> see_garments(pixels, labels, random).shape == pixels.shape
    >>> see_strangers(1000, random).shape
    torch.Size([1000, 28, 28])

Garments of Fashion-MNIST and other things are dyed, laid on grounds of any colour, lit,
photographed and then go the way of every real photo, so that training meets what
`images.preprocess` makes of shadows, textures and colours close to one another.
"""

from multiprocessing import parent_process

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn.functional import avg_pool2d, interpolate

from augment import Frame, cover, place, wear
from drawing import (
    chance,
    curves,
    fill,
    glyphs,
    gradients,
    outlines,
    uniform,
    vessels,
)
from images import SIDE, WHITE, preprocess
from outliers import CHUNK, Drawer, heaps, leaves, portion
from photos import on_all_cores

PHOTO_SIDE = 56  # pixels
WORN_SHARE = 0.4
PRINTED_SHARE = 0.3  # of the other things, as packets and labels are

SHAPES: dict[Drawer, int] = {
    heaps: 8,
    vessels: 6,
    leaves: 2,
    curves: 1,
    outlines: 1,
    glyphs: 1,
    lambda size, _: torch.zeros(size, SIDE, SIDE): 1,  # nothing, just the ground
}


def shoot(shades: Tensor, masks: Tensor, random: Generator) -> Tensor:
    """Photograph things, float [N, 56, 56], on a ground: uint8 [N, 56, 56, 3]."""
    size = len(shades)
    texture = _enlarge(fill(size, random))
    ground = _dye(texture, random, 0.8 * uniform(size, random, 0, 1) ** 2)
    dark = uniform(size, random, 0, 0.5) * chance(size, random, 0.5)
    corner = torch.randint(-4, 5, (2,), generator=random).tolist()
    shadow = avg_pool2d(masks.roll(corner, (1, 2)), 9, stride=1, padding=4) * dark
    things = _dye(shades, random, uniform(size, random, 0.2, 1))
    pictures = torch.lerp(ground * (1 - shadow[:, None]), things, masks[:, None])
    light = _enlarge(gradients(size, random)) * uniform(size, random, 0, 0.4)
    pictures = (pictures * (1 - light[:, None])).clamp(0, 1)
    pictures = pictures ** uniform(size, random, 0.6, 1.6)[..., None]
    soft = avg_pool2d(pictures, 3, stride=1, padding=1)
    pictures = torch.where(chance(size, random, 0.4)[..., None], soft, pictures)
    grain = torch.randn(pictures.shape, generator=random)
    pictures = pictures + grain * (0.04 * uniform(size, random, 0, 1) ** 2)[..., None]
    pictures = (pictures.clamp(0, 1) * WHITE).round().to(torch.uint8)
    return pictures.permute(0, 2, 3, 1)


def _dye(shades: Tensor, random: Generator, contrast: Tensor) -> Tensor:
    """Give levels [N, h, w] two colours that far apart: [N, 3, h, w]."""
    size = len(shades)
    first, second = (_colours(size, random) for _ in range(2))
    pull = contrast[..., None]
    return torch.lerp(first, torch.lerp(first, second, pull), shades[:, None])


def _colours(size: int, random: Generator) -> Tensor:
    """Choose colours, greys and pale ones most: [size, 3, 1, 1]."""
    grey = uniform(size, random, 0, 1)
    grey = torch.where(chance(size, random, 0.4), 1 - 0.3 * grey, grey)
    strength = uniform(size, random, 0, 1) ** 2
    hue = torch.rand(size, 3, 1, generator=random)
    return torch.lerp(grey.expand(-1, 3, -1), hue, strength)[..., None]


def _enlarge(pictures: Tensor) -> Tensor:
    side = [PHOTO_SIDE, PHOTO_SIDE]
    return interpolate(pictures[:, None], side, mode="bilinear")[:, 0]


def see_garments(pixels: Tensor, labels: Tensor, random: Generator) -> Tensor:
    """See garments as photos would show them, some of them worn: uint8 [N, 28, 28]."""
    parts = torch.split(pixels, CHUNK), torch.split(labels, CHUNK)
    seeds = _seeds(len(parts[0]), random)
    return torch.cat(list(on_all_cores(_garments, *parts, seeds, what="scenes")))


def see_strangers(count: int, random: Generator) -> Tensor:
    """See photos of things that are no garments: uint8 [count, 28, 28]."""
    sizes = [len(part) for part in torch.split(torch.arange(count), CHUNK)]
    seeds = _seeds(len(sizes), random)
    return torch.cat(list(on_all_cores(_strangers, sizes, seeds, what="scenes")))


def _garments(pixels: Tensor, labels: Tensor, seed: int) -> Tensor:
    random = _begin(seed)
    size = len(pixels)
    worn = wear(pixels, labels, random)
    pixels = torch.where(chance(size, random, WORN_SHARE), worn, pixels)
    x, y = (uniform(size, random, -0.15, 0.15) for _ in "xy")
    width, height = (uniform(size, random, 0.55, 0.95) for _ in "wh")
    tilt = uniform(size, random, -0.25, 0.25)
    shades = place(pixels, Frame(x, y, width, height), tilt, PHOTO_SIDE)
    return _see(shoot(shades, cover(shades), random))


def _strangers(size: int, seed: int) -> Tensor:
    random = _begin(seed)
    masks = torch.cat([draw(some, random) for draw, some in portion(SHAPES, size)])
    textured = chance(size, random, 0.7)
    shades = torch.where(textured, fill(size, random), masks)
    printed = glyphs(size, random) * chance(size, random, PRINTED_SHARE)
    shades = torch.lerp(shades, 1 - shades, printed)
    return _see(shoot(_enlarge(shades), _enlarge(masks), random))


def _seeds(count: int, random: Generator) -> list[int]:
    """Draw what each process starts from, for no two to draw the same scenes."""
    return torch.randint(2**62, (count,), generator=random).tolist()


def _begin(seed: int) -> Generator:
    if parent_process():  # others have the other cores
        torch.set_num_threads(1)
    return Generator().manual_seed(seed)


def _see(pictures: Tensor) -> Tensor:
    seen = [preprocess(Image.fromarray(picture)) for picture in pictures.numpy()]
    return torch.from_numpy(np.stack(seen))
