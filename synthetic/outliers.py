"""Made-up pictures that are none of the classes: what the network learns to refuse.

    >>> make_outliers(garments, 1000, torch.Generator().manual_seed(1)).shape
    torch.Size([1000, 28, 28])

Outlier exposure (Hendrycks et al., arXiv 1812.04606) with nothing to download: every
kind is drawn in code or cut from the training garments. Each takes as many garments as
pictures are wanted, float32 [N, 28, 28] in 0..1, and may leave them aside.
"""

from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise
from typing import TypeVar

import torch
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample

from model.images import SIDE, WHITE
from synthetic.drawing import (
    COLUMNS,
    ROWS,
    blobs,
    chance,
    curves,
    fill,
    glyphs,
    gradients,
    noise,
    outlines,
    relight,
    stretch,
    stripes,
    uniform,
)

LEAVES = 24  # shapes that cover one another
CHUNK = 250  # pictures drawn at once, to bound memory

Drawer = Callable[[int, Generator], Tensor]
Maker = Callable[[Tensor, Generator], Tensor]
Kind = TypeVar("Kind")


def make_outliers(garments: Tensor, count: int, random: Generator) -> Tensor:
    """Make `count` strangers of all kinds: uint8 [count, 28, 28], in order of kind.

    `garments` uint8 [N, 28, 28] are what some of them are cut from.
    """
    pictures = [torch.empty(0, SIDE, SIDE)]
    for make, size in portion(SHARES, count):
        chosen = torch.randint(len(garments), (size,), generator=random)
        pictures.append(make(garments[chosen].float() / WHITE, random))
    return (torch.cat(pictures).clamp(0, 1) * WHITE).round().to(torch.uint8)


def portion(shares: dict[Kind, int], count: int) -> Iterator[tuple[Kind, int]]:
    """Split a count by shares, each kind's in sizes that bound memory."""
    weights = shares.values()
    ends = [round(count * end / sum(weights)) for end in accumulate(weights)]
    for kind, (start, end) in zip(shares, pairwise([0, *ends]), strict=True):
        for begin in range(start, end, CHUNK):
            yield kind, min(CHUNK, end - begin)


def plain(size: int, random: Generator) -> Tensor:
    """Make blank pictures, flat or nearly so, and gradients; half have grain."""
    level = uniform(size, random, 0, 1)
    contrast = uniform(size, random, 0, 1) ** 3  # most of them low
    contrast = contrast * chance(size, random, 0.8)
    grain = torch.randn(size, SIDE, SIDE, generator=random)
    grain = grain * uniform(size, random, 0, 0.04) * chance(size, random, 0.5)
    return level + (gradients(size, random) - 0.5) * contrast + grain


def leaves(size: int, random: Generator) -> Tensor:
    """Lay shapes of all sizes that cover one another.

    Such dead leaves have the statistics of photographs (Lee, Mumford and Huang,
    Occlusion Models for Natural Images, 2001).
    """
    pictures = relight(gradients(size, random), random)
    largest = uniform(size, random, 0.3, 1.2)
    for leaf in range(LEAVES):
        radius = largest / (1 + leaf * uniform(size, random, 0.05, 0.3))
        shade = relight(gradients(size, random), random)
        soft = pictures.mean((1, 2), keepdim=True) * 0.5 + shade * 0.5
        mask = blobs(size, random, radius, reach=1.0)
        pictures = torch.lerp(pictures, soft, mask)
    grain = torch.randn(size, SIDE, SIDE, generator=random)
    pictures = pictures + grain * uniform(size, random, 0, 0.06)
    return stretch(pictures) * uniform(size, random, 0.4, 1)


def compose(mask: Tensor, random: Generator) -> Tensor:
    """Fill a shape and set it on black, in a faint glow, or on anything."""
    size = len(mask)
    inside = fill(size, random)
    inside = inside * uniform(size, random, 0.3, 1) + uniform(size, random, 0, 0.4)
    anything = relight(fill(size, random), random)
    glow = gradients(size, random) * uniform(size, random, 0, 0.25)
    kind = uniform(size, random, 0, 1)
    behind = torch.where(kind < 0.25, anything, glow * (kind > 0.6))
    pictures = torch.lerp(behind, inside.clamp(0, 1), mask)
    soft = avg_pool2d(pictures, 3, stride=1, padding=1)
    pictures = torch.where(chance(size, random, 0.4), soft, pictures)
    return torch.where(chance(size, random, 0.6), stretch(pictures), pictures)


def objects(size: int, random: Generator) -> Tensor:
    """Make things of any shape."""
    return compose(heaps(size, random), random)


def heaps(size: int, random: Generator) -> Tensor:
    """Draw one to three shapes in a heap, some mirrored, some with a hole."""
    radius = uniform(size, random, 0.3, 0.9)
    mask = blobs(size, random, radius)
    for share in (0.5, 0.3):
        more = blobs(size, random, radius * 0.7, reach=0.7)
        mask = torch.maximum(mask, more * chance(size, random, share))
    hole = blobs(size, random, radius * uniform(size, random, 0.2, 0.9))
    mask = mask * (1 - hole * chance(size, random, 0.3))
    mirrored = torch.maximum(mask, mask.flip(2))
    return torch.where(chance(size, random, 0.4), mirrored, mask)


def drawings(size: int, random: Generator) -> Tensor:
    """Draw doodles and signs, white on black or in any shades."""
    pen, shapes = curves(size, random), outlines(size, random)
    mask = torch.where(chance(size, random, 0.5), shapes, pen)
    mask = torch.where(chance(size, random, 0.2), torch.maximum(shapes, pen), mask)
    return torch.where(chance(size, random, 0.6), mask, compose(mask, random))


def prints(size: int, random: Generator) -> Tensor:
    """Print letters and digits, white on black or in any shades."""
    masks = glyphs(size, random)
    return torch.where(chance(size, random, 0.6), masks, compose(masks, random))


def shuffled(garments: Tensor, random: Generator) -> Tensor:
    """Cut into 2x2, 4x4 or 7x7 tiles, laid in another order."""
    pictures = []
    for part, tiles in zip(garments.chunk(3), (2, 4, 7), strict=False):
        n, side = len(part), SIDE // tiles
        cut = part.view(n, tiles, side, tiles, side).transpose(2, 3).flatten(1, 2)
        order = torch.rand(n, tiles**2, generator=random).argsort(1)
        unmoved = (order == torch.arange(tiles**2)).all(1, keepdim=True)
        order = torch.where(unmoved, order.flip(1), order)
        cut = cut[torch.arange(n)[:, None], order].view(n, tiles, tiles, side, side)
        pictures.append(cut.transpose(2, 3).reshape(n, SIDE, SIDE))
    return torch.cat(pictures)


def blended(garments: Tensor, random: Generator) -> Tensor:
    """Lay two garments over or beside one another; most are none any more."""
    others = garments.roll(1, 0).flip(1)  # upside down, or twins would be a garment
    share = uniform(len(garments), random, 0.4, 0.6)
    kind = uniform(len(garments), random, 0, 1)
    halves = torch.where(COLUMNS < 0, garments, others)
    halves = torch.where(kind < 0.2, torch.where(ROWS < 0, others, garments), halves)
    mixed = torch.lerp(garments, others, share)
    return torch.where(kind < 0.5, halves, mixed)


def magnified(garments: Tensor, random: Generator) -> Tensor:
    """Cut a piece of cloth from close by."""
    size = len(garments)
    zoom = uniform(size, random, 0.15, 0.4)[..., 0]
    x, y = (uniform(size, random, -0.5, 0.5)[..., 0] for _ in "xy")
    zero = torch.zeros_like(zoom)
    rows = torch.cat([zoom, zero, x, zero, zoom, y], 1).view(size, 2, 3)
    grid = affine_grid(rows, [size, 1, SIDE, SIDE], align_corners=False)
    return grid_sample(garments[:, None], grid, align_corners=False)[:, 0]


def _drawn(make: Drawer) -> Maker:
    """Let a kind that needs no garments stand beside those that do."""
    return lambda garments, random: make(len(garments), random)


SHARES: dict[Maker, int] = {
    _drawn(plain): 1,
    _drawn(noise): 1,
    _drawn(stripes): 1,
    _drawn(leaves): 1,
    _drawn(objects): 3,
    _drawn(drawings): 2,
    _drawn(prints): 1,
    shuffled: 1,
    blended: 1,
    magnified: 1,
}
