"""What training sees: every epoch its own variation of each picture.

    >>> augment(pixels, torch.Generator().manual_seed(1)).shape == pixels.shape

`augment` is for every picture. `place`, `cover` and `wear` are what `scenes.py` draws
photos of garments with, worn by a person or alone. Whole batches at a time, on the CPU.
"""

from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample, max_pool2d, pad

from drawing import COLUMNS, ROWS, chance, uniform
from images import SIDE, WHITE

FLIP_SHARE = 0.5
MAX_SHIFT = 2  # pixels, each way
ERASE_SHARE = 0.5
ERASE_SIDES = 4, 13  # holes are 3 to 11 pixels wide and high
TOPS = 0, 2, 4, 6  # T-shirt, pullover, coat, shirt
TROUSER, DRESS = 1, 3
SHOES = 5, 7, 9


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
    corners = _integers(pixels, 0, 2 * MAX_SHIFT + 1, random, columns=2)
    line = torch.arange(SIDE)
    rows, columns = (corners[:, :, None] + line).unbind(1)
    pictures = torch.arange(len(pixels))[:, None, None]
    framed = pad(pixels, [MAX_SHIFT] * 4)
    return framed[pictures, rows[:, :, None], columns[:, None, :]]


def erase(pixels: Tensor, random: Generator) -> Tensor:
    """Fill a rectangle with noise in a share of them (Zhong, arXiv 1708.04896)."""
    sides = _integers(pixels, *ERASE_SIDES, random, columns=2)
    centres = _integers(pixels, 0, SIDE, random, columns=2)
    line = torch.arange(SIDE)
    inside = (line - centres[:, :, None]).abs() * 2 < sides[:, :, None]
    rows, columns = inside.unbind(1)
    hole = rows[:, :, None] & columns[:, None, :]
    static = torch.randint(256, pixels.shape, generator=random, dtype=torch.uint8)
    chosen = chance(len(pixels), random, ERASE_SHARE)
    return torch.where(hole & chosen, static, pixels)


class Frame(NamedTuple):
    """Where garments are drawn: centre and half sides, -1 to 1, each [N, 1, 1]."""

    x: Tensor
    y: Tensor
    width: Tensor
    height: Tensor


def wear(pixels: Tensor, labels: Tensor, random: Generator) -> Tensor:
    """Draw a person about each garment: uint8 [N, 28, 28].

    `labels` int64 [N] are the classes of Fashion-MNIST. Tops get a head, arms and
    somebody's trousers, dresses legs, trousers somebody's top, shoes a leg; bags get
    none. The garment that is asked for is the one in the middle.
    """
    size = len(pixels)
    top, dress, trouser, shoe = (
        torch.isin(labels, torch.tensor(kind))[:, None, None]
        for kind in (TOPS, DRESS, TROUSER, SHOES)
    )
    frame = _frame(top, dress, trouser, shoe, random)
    garments = place(pixels, frame)
    skin = uniform(size, random, 0.1, 0.7)

    body = _head(frame, skin, random) + _arms(frame, skin, random)
    body = body.clamp(max=1) * (top | dress)
    body = torch.where(dress, torch.maximum(body, _legs(frame, skin, random)), body)
    ankle = frame.x + frame.width / 2
    shin = limb(ankle, -1.2, ankle, frame.y, frame.width / 3) * skin
    body = torch.where(shoe, shin, body)

    reach = frame.height * uniform(size, random, 0.6, 1.1)
    overlap = frame.height * uniform(size, random, 0.1, 0.4)
    below = frame.y + frame.height + reach - overlap
    lower = _others(pixels, labels == TROUSER, random)
    lower = place(lower, Frame(frame.x, below, frame.width * 0.7, reach))
    clothed = over(torch.where(top, over(body, lower), body), garments)

    above = frame.y - frame.height - reach + overlap
    upper = _others(pixels, top.flatten(), random)
    upper = place(upper, Frame(frame.x, above, frame.width * 1.2, reach))
    tucked = chance(size, random, 0.5)
    dressed = torch.where(tucked, over(upper, garments), over(garments, upper))
    return to_bytes(torch.where(trouser, dressed, clothed))


def _frame(
    top: Tensor, dress: Tensor, trouser: Tensor, shoe: Tensor, random: Generator
) -> Frame:
    """Choose where on a person a garment of each kind is seen."""
    size = len(top)
    headed = chance(size, random, 0.8)
    first, last = -torch.ones(size, 1, 1), torch.ones(size, 1, 1)
    for kind, below_head, at_edge, lowest in (
        (top, (-0.7, -0.4), (-1.0, -0.9), (0.35, 1.05)),
        (dress, (-0.75, -0.5), (-1.0, -0.8), (0.2, 0.9)),
        (trouser, (-0.6, 0.0), (-0.9, -0.6), (0.7, 1.1)),
        (shoe, (-0.5, 0.1), (-1.0, -0.5), (0.9, 1.2)),
    ):
        start = uniform(size, random, *below_head)
        start = torch.where(headed, start, uniform(size, random, *at_edge))
        first = torch.where(kind, start, first)
        last = torch.where(kind, uniform(size, random, *lowest), last)
    height = (last - first) / 2
    width = (height * uniform(size, random, 0.9, 1.25)).clamp(max=1)
    x = uniform(size, random, -0.15, 0.15)
    return Frame(x, (first + last) / 2, width, height)


def _head(frame: Frame, skin: Tensor, random: Generator) -> Tensor:
    """Draw a face, hair about it and a neck above a garment: float [N, 28, 28]."""
    size, x, top = len(skin), frame.x, frame.y - frame.height
    tall = uniform(size, random, 0.15, 0.22)
    wide = tall * uniform(size, random, 0.65, 0.9)
    y = top - tall * uniform(size, random, 0.8, 1.1)
    neck = limb(x, y, x, top + 0.1, wide * 0.6) * skin
    longer = uniform(size, random, 0, 0.8)
    hair = limb(x, y - 0.03, x, y + tall * longer, wide * 1.2)
    hair = hair * uniform(size, random, 0.2, 1)
    face = limb(x, y - tall / 3, x, y + tall / 3, wide * 0.8)
    return torch.lerp(torch.maximum(neck, hair), skin.expand_as(face), face)


def _arms(frame: Frame, skin: Tensor, random: Generator) -> Tensor:
    """Draw two arms that hang beside a garment: float [N, 28, 28]."""
    size = len(skin)
    shoulder = frame.y - frame.height * 0.7
    hand = frame.y + frame.height + uniform(size, random, -0.5, 0.15)
    spread = frame.width * uniform(size, random, 0.5, 0.95)
    thick = uniform(size, random, 0.05, 0.09)
    left, right = (
        limb(
            frame.x + side * frame.width / 2,
            shoulder,
            frame.x + side * spread,
            hand,
            thick,
        )
        for side in (-1, 1)
    )
    return torch.maximum(left, right) * skin


def _legs(frame: Frame, skin: Tensor, random: Generator) -> Tensor:
    """Draw two bare legs below a garment: float [N, 28, 28]."""
    size, hem = len(skin), frame.y + frame.height - 0.2
    apart = frame.width * uniform(size, random, 0.06, 0.2)
    thick = uniform(size, random, 0.05, 0.1)
    left, right = (
        limb(frame.x + side * apart, hem, frame.x + side * apart, 1.2, thick)
        for side in (-1, 1)
    )
    return torch.maximum(left, right) * skin


def limb(
    x0: Tensor, y0: Tensor | float, x1: Tensor, y1: Tensor | float, thick: Tensor
) -> Tensor:
    """Draw a line with round ends, 1 inside and 0 outside: float [N, 28, 28]."""
    across, down = x1 - x0, y1 - y0
    length = (across.square() + down * down).clamp(min=1e-6)
    along = ((COLUMNS - x0) * across + (ROWS - y0) * down) / length
    along = along.clamp(0, 1)
    gap = (COLUMNS - x0 - along * across).square() + (ROWS - y0 - along * down).square()
    return ((thick - gap.sqrt()) * SIDE / 2 + 0.5).clamp(0, 1)


def place(
    pixels: Tensor, frame: Frame, tilt: Tensor | None = None, side: int = SIDE
) -> Tensor:
    """Draw uint8 pictures in their frames, tilted by radians: float [N, side, side]."""
    x, y, width, height = frame
    tilt = torch.zeros_like(x) if tilt is None else tilt
    cos, sin = tilt.cos(), tilt.sin()
    across = torch.cat([cos, sin, -(cos * x + sin * y)], 2) / width
    down = torch.cat([-sin, cos, sin * x - cos * y], 2) / height
    size = [len(pixels), 1, side, side]
    grid = affine_grid(torch.cat([across, down], 1), size, align_corners=False)
    pictures = pixels[:, None].float() / WHITE
    return grid_sample(pictures, grid, align_corners=False)[:, 0]


def over(behind: Tensor, garments: Tensor) -> Tensor:
    """Lay garments on what is behind them."""
    return torch.lerp(behind, garments, cover(garments))


def cover(garments: Tensor) -> Tensor:
    """Where garments hide what is behind, 0..1, their small dark spots included."""
    cloth = (garments * 6).clamp(0, 1)
    grown = max_pool2d(cloth, 3, stride=1, padding=1)
    return -max_pool2d(-grown, 3, stride=1, padding=1)


def to_bytes(pictures: Tensor) -> Tensor:
    """Float 0..1 to uint8 0..255, the brightest spot white unless it is very dark."""
    brightest = pictures.amax((1, 2), keepdim=True).clamp(min=0.2)
    return (pictures / brightest * WHITE).round().clamp(0, WHITE).to(torch.uint8)


def _others(pixels: Tensor, wanted: Tensor, random: Generator) -> Tensor:
    """Draw pictures at random from the wanted ones; blank if there is none."""
    chosen = wanted.nonzero()[:, 0]
    if not len(chosen):
        return torch.zeros_like(pixels)
    picks = torch.randint(len(chosen), (len(pixels),), generator=random)
    return pixels[chosen[picks]]


def _integers(
    pixels: Tensor, low: int, high: int, random: Generator, columns: int
) -> Tensor:
    """Draw whole numbers from low to high - 1 for each picture: [N, columns]."""
    shape = (len(pixels), columns)
    return torch.randint(low, high, shape, generator=random)
