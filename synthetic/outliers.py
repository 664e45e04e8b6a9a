"""Synthetic pictures of none of the classes, which the network learns to refuse.

    >>> make_outliers(garments, 1000, torch.Generator().manual_seed(1)).shape
    torch.Size([1000, 28, 28])

Outlier exposure (Hendrycks et al., arXiv 1812.04606) with nothing to download: each
kind is drawn in code or cut from garments of the training set, as float32 [N, 28, 28]
in 0..1.
"""

from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise
from typing import TypeVar

import torch
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample

from model.images import WHITE
from synthetic.drawing import (
    COLUMNS,
    ROWS,
    SIDE,
    blobs,
    chance,
    gradients,
    noise,
    outlines,
    pen_strokes,
    randomise_levels,
    stretch_contrast,
    stripes,
    text,
    textures,
    uniform,
)

LEAVES = 24  # shapes in a picture of dead leaves
CHUNK_SIZE = 250  # pictures drawn at once, which bounds memory

Draw = Callable[[int, Generator], Tensor]  # from a number of pictures
Make = Callable[[Tensor, Generator], Tensor]  # from as many garments
Kind = TypeVar("Kind")


def make_outliers(garments: Tensor, count: int, random: Generator) -> Tensor:
    """Make `count` outliers of all kinds: uint8 [count, 28, 28], in order of kind.

    Some are cut from `garments`, uint8 [N, 28, 28].
    """
    pictures = [torch.empty(0, SIDE, SIDE)]
    for make, size in split_by_shares(SHARES, count):
        chosen = torch.randint(len(garments), (size,), generator=random)
        pictures.append(make(garments[chosen].float() / WHITE, random))
    return (torch.cat(pictures).clamp(0, 1) * WHITE).round().to(torch.uint8)


def split_by_shares(shares: dict[Kind, int], count: int) -> Iterator[tuple[Kind, int]]:
    """Yield each kind with its share of a count, at most `CHUNK_SIZE` at a time."""
    weights = shares.values()
    ends = [round(count * end / sum(weights)) for end in accumulate(weights)]
    for kind, (start, end) in zip(shares, pairwise([0, *ends]), strict=True):
        for begin in range(start, end, CHUNK_SIZE):
            yield kind, min(CHUNK_SIZE, end - begin)


def blank(count: int, random: Generator) -> Tensor:
    """Draw blank and nearly blank pictures and gradients, half of them with grain."""
    level = uniform(count, random, 0, 1)
    contrast = uniform(count, random, 0, 1) ** 3  # most of them low
    contrast = contrast * chance(count, random, 0.8)
    grain = torch.randn(count, SIDE, SIDE, generator=random)
    grain = grain * uniform(count, random, 0, 0.04) * chance(count, random, 0.5)
    return level + (gradients(count, random) - 0.5) * contrast + grain


def dead_leaves(count: int, random: Generator) -> Tensor:
    """Draw shapes of all sizes that occlude one another: the dead leaves model.

    It has the statistics of photographs (Lee, Mumford and Huang, Occlusion Models for
    Natural Images, 2001).
    """
    pictures = randomise_levels(gradients(count, random), random)
    largest = uniform(count, random, 0.3, 1.2)
    for leaf in range(LEAVES):
        radius = largest / (1 + leaf * uniform(count, random, 0.05, 0.3))
        shade = randomise_levels(gradients(count, random), random)
        soft = pictures.mean((1, 2), keepdim=True) * 0.5 + shade * 0.5
        mask = blobs(count, random, radius, reach=1.0)
        pictures = torch.lerp(pictures, soft, mask)
    grain = torch.randn(count, SIDE, SIDE, generator=random)
    pictures = pictures + grain * uniform(count, random, 0, 0.06)
    return stretch_contrast(pictures) * uniform(count, random, 0.4, 1)


def compose(mask: Tensor, random: Generator) -> Tensor:
    """Fill a shape with a texture, on black, a faint gradient or another texture."""
    count = len(mask)
    inside = textures(count, random) * uniform(count, random, 0.3, 1)
    inside = inside + uniform(count, random, 0, 0.4)
    texture = randomise_levels(textures(count, random), random)
    glow = gradients(count, random) * uniform(count, random, 0, 0.25)
    kind = uniform(count, random, 0, 1)
    behind = torch.where(kind < 0.25, texture, glow * (kind > 0.6))
    pictures = torch.lerp(behind, inside.clamp(0, 1), mask)
    soft = avg_pool2d(pictures, 3, stride=1, padding=1)
    pictures = torch.where(chance(count, random, 0.4), soft, pictures)
    return torch.where(chance(count, random, 0.6), stretch_contrast(pictures), pictures)


def objects(count: int, random: Generator) -> Tensor:
    """Draw textured objects of any shape."""
    return compose(shape_clusters(count, random), random)


def shape_clusters(count: int, random: Generator) -> Tensor:
    """Draw one to three overlapping shapes, some mirrored, some with a hole."""
    radius = uniform(count, random, 0.3, 0.9)
    mask = blobs(count, random, radius)
    for share in (0.5, 0.3):
        more = blobs(count, random, radius * 0.7, reach=0.7)
        mask = torch.maximum(mask, more * chance(count, random, share))
    hole = blobs(count, random, radius * uniform(count, random, 0.2, 0.9))
    mask = mask * (1 - hole * chance(count, random, 0.3))
    mirrored = torch.maximum(mask, mask.flip(2))
    return torch.where(chance(count, random, 0.4), mirrored, mask)


def drawings(count: int, random: Generator) -> Tensor:
    """Draw doodles, white on black or in any shades."""
    pen, shapes = pen_strokes(count, random), outlines(count, random)
    mask = torch.where(chance(count, random, 0.5), shapes, pen)
    mask = torch.where(chance(count, random, 0.2), torch.maximum(shapes, pen), mask)
    return torch.where(chance(count, random, 0.6), mask, compose(mask, random))


def printed_text(count: int, random: Generator) -> Tensor:
    """Draw letters and digits, white on black or in any shades."""
    masks = text(count, random)
    return torch.where(chance(count, random, 0.6), masks, compose(masks, random))


def shuffled_tiles(garments: Tensor, random: Generator) -> Tensor:
    """Cut garments into 2x2, 4x4 or 7x7 tiles, in another order."""
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
    """Put two garments over or beside one another, one of them upside down."""
    others = garments.roll(1, 0).flip(1)  # else two of a kind would be a garment
    share = uniform(len(garments), random, 0.4, 0.6)
    kind = uniform(len(garments), random, 0, 1)
    halves = torch.where(COLUMNS < 0, garments, others)
    halves = torch.where(kind < 0.2, torch.where(ROWS < 0, others, garments), halves)
    mixed = torch.lerp(garments, others, share)
    return torch.where(kind < 0.5, halves, mixed)


def magnified(garments: Tensor, random: Generator) -> Tensor:
    """Cut a small piece of each garment and enlarge it."""
    count = len(garments)
    zoom = uniform(count, random, 0.15, 0.4)[..., 0]
    x, y = (uniform(count, random, -0.5, 0.5)[..., 0] for _ in "xy")
    zero = torch.zeros_like(zoom)
    rows = torch.cat([zoom, zero, x, zero, zoom, y], 1).view(count, 2, 3)
    grid = affine_grid(rows, [count, 1, SIDE, SIDE], align_corners=False)
    return grid_sample(garments[:, None], grid, align_corners=False)[:, 0]


def _drawn(draw: Draw) -> Make:
    """Adapt a kind that needs no garments."""
    return lambda garments, random: draw(len(garments), random)


SHARES: dict[Make, int] = {
    _drawn(blank): 1,
    _drawn(noise): 1,
    _drawn(stripes): 1,
    _drawn(dead_leaves): 1,
    _drawn(objects): 3,
    _drawn(drawings): 2,
    _drawn(printed_text): 1,
    shuffled_tiles: 1,
    blended: 1,
    magnified: 1,
}
