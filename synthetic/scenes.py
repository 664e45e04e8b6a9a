"""Colour photos drawn in code, as the service sees them.

    >>> random = torch.Generator().manual_seed(1)
    >>> see_garments(pixels, labels, random).shape == pixels.shape
    >>> see_strangers(1000, random).shape
    torch.Size([1000, 28, 28])

Garments of Fashion-MNIST and other things are dyed, laid on grounds of any colour, lit,
photographed and then go the way of every real photo, so that training meets what
`images.preprocess` makes of shadows, textures and colours close to one another.
"""

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from model.images import SIDE, WHITE, preprocess
from synthetic.drawing import (
    chance,
    curves,
    fill,
    glyphs,
    gradients,
    outlines,
    straps,
    twins,
    uniform,
    vessels,
)
from synthetic.outliers import CHUNK, Drawer, heaps, leaves, portion
from synthetic.parallel import parallel_map
from synthetic.people import BAG, SHOES, Drawn, Frame, among, cover, dress, dye, place

PHOTO_SIDE = 56  # pixels
WORN_SHARE, CARRIED_SHARE = 0.6, 0.2  # the latter of shoes and bags
SHADOW = 4  # pixels, how far a shadow falls aside, and how soft it is
STUDIO_SHARE = 0.5  # of the grounds, half as many behind other things
TILT, SHOE_TILT = 0.25, 0.7  # radians, at most
PAIR_SHARE = 0.3  # of the shoes
PRINTED_SHARE = 0.3  # of the other things, as packets and labels are

SHAPES: dict[Drawer, int] = {
    heaps: 8,
    vessels: 6,
    twins: 2,
    straps: 2,
    leaves: 2,
    curves: 1,
    outlines: 1,
    glyphs: 1,
    lambda size, _: torch.zeros(size, SIDE, SIDE): 1,  # nothing, just the ground
}


def shoot(things: Drawn, studio: Tensor, random: Generator) -> Tensor:
    """Photograph things [N, 56, 56] on a ground: uint8 [N, 56, 56, 3].

    In a `studio`, bool [N, 1, 1], it is plain but for the light.
    """
    size = len(things.mask)
    texture = _enlarge(fill(size, random))
    contrast = 0.8 * uniform(size, random, 0, 1) ** 2
    ground = dye(texture, random, torch.where(studio, 0.02, contrast))
    pale = 1 - 0.3 * uniform(size, random, 0, 1)[..., None] ** 2
    pale = pale + 0.02 * torch.randn(size, 3, 1, 1, generator=random)
    ground = torch.where((studio & chance(size, random, 0.7))[..., None], pale, ground)
    dark = uniform(size, random, 0, 0.5) * chance(size, random, 0.5)
    left, top = torch.randint(2 * SHADOW + 1, (2,), generator=random).tolist()
    framed = pad(things.mask, [2 * SHADOW] * 4)
    reach = PHOTO_SIDE + 2 * SHADOW
    aside = framed[:, top : top + reach, left : left + reach]
    shadow = avg_pool2d(aside, 2 * SHADOW + 1, stride=1) * dark
    lit = ground * (1 - shadow[:, None])
    pictures = torch.lerp(lit, things.colours, things.mask[:, None])
    light = _enlarge(gradients(size, random)) * uniform(size, random, 0, 0.4)
    pictures = (pictures * (1 - light[:, None])).clamp(0, 1)
    pictures = pictures ** uniform(size, random, 0.6, 1.6)[..., None]
    soft = avg_pool2d(pictures, 3, stride=1, padding=1)
    pictures = torch.where(chance(size, random, 0.4)[..., None], soft, pictures)
    grain = torch.randn(pictures.shape, generator=random)
    pictures = pictures + grain * (0.04 * uniform(size, random, 0, 1) ** 2)[..., None]
    pictures = (pictures.clamp(0, 1) * WHITE).round().to(torch.uint8)
    return pictures.permute(0, 2, 3, 1)


def _enlarge(pictures: Tensor) -> Tensor:
    side = [PHOTO_SIDE, PHOTO_SIDE]
    return interpolate(pictures[:, None], side, mode="bilinear")[:, 0]


def see_garments(pixels: Tensor, labels: Tensor, random: Generator) -> Tensor:
    """See garments as photos would show them, some of them worn: uint8 [N, 28, 28]."""
    parts = torch.split(pixels, CHUNK), torch.split(labels, CHUNK)
    rows = list(zip(*parts, _seeds(len(parts[0]), random), strict=True))
    return torch.cat(list(parallel_map(_garments, rows, "scenes")))


def see_strangers(count: int, random: Generator) -> Tensor:
    """See photos of things that are no garments: uint8 [count, 28, 28]."""
    sizes = [len(part) for part in torch.split(torch.arange(count), CHUNK)]
    rows = list(zip(sizes, _seeds(len(sizes), random), strict=True))
    return torch.cat(list(parallel_map(_strangers, rows, "scenes")))


def _garments(pixels: Tensor, labels: Tensor, seed: int) -> Tensor:
    random = Generator().manual_seed(seed)
    size = len(pixels)
    people = dress(pixels, labels, PHOTO_SIDE, random)
    alone = _lay(pixels, labels, random)
    carried = among(labels, (*SHOES, BAG))
    shares = torch.where(carried, CARRIED_SHARE, WORN_SHARE)
    worn = uniform(size, random, 0, 1) < shares
    things = Drawn(
        torch.where(worn[..., None], people.colours, alone.colours),
        torch.where(worn, people.mask, alone.mask),
    )
    studio = chance(size, random, STUDIO_SHARE)
    return _see(shoot(things, studio, random))


def _lay(pixels: Tensor, labels: Tensor, random: Generator) -> Drawn:
    """Lay garments down, shoes turned farther than others, some of them in pairs."""
    size = len(pixels)
    shoe = among(labels, SHOES)
    x, y = (uniform(size, random, -0.15, 0.15) for _ in "xy")
    width, height = (uniform(size, random, 0.55, 0.95) for _ in "wh")
    tilt = uniform(size, random, -TILT, TILT)
    turned = shoe & chance(size, random, 0.5)
    tilt = torch.where(turned, tilt * SHOE_TILT / TILT, tilt)
    shades = place(pixels, Frame(x, y, width, height), tilt, side=PHOTO_SIDE)
    right, down = (uniform(size, random, -0.5, 0.5) for _ in "xy")
    second = Frame(x + right, y + down, width, height)
    other = tilt + uniform(size, random, -SHOE_TILT, SHOE_TILT)
    behind = place(pixels, second, other, side=PHOTO_SIDE)
    paired = shoe & chance(size, random, PAIR_SHARE)
    hidden = cover(shades).round().bool()
    shades = torch.where(paired & ~hidden, behind, shades)
    return Drawn(dye(shades, random, uniform(size, random, 0.2, 1)), cover(shades))


def _strangers(size: int, seed: int) -> Tensor:
    random = Generator().manual_seed(seed)
    masks = torch.cat([draw(some, random) for draw, some in portion(SHAPES, size)])
    textured = chance(size, random, 0.7)
    shades = torch.where(textured, fill(size, random), masks)
    printed = glyphs(size, random) * chance(size, random, PRINTED_SHARE)
    shades = torch.lerp(shades, 1 - shades, printed)
    colours = dye(_enlarge(shades), random, uniform(size, random, 0.2, 1))
    studio = chance(size, random, STUDIO_SHARE / 2)
    return _see(shoot(Drawn(colours, _enlarge(masks)), studio, random))


def _seeds(count: int, random: Generator) -> list[int]:
    """Draw what each process starts from, for no two to draw the same scenes."""
    return torch.randint(2**62, (count,), generator=random).tolist()


def _see(pictures: Tensor) -> Tensor:
    seen = [preprocess(Image.fromarray(picture)) for picture in pictures.numpy()]
    return torch.from_numpy(np.stack(seen))
