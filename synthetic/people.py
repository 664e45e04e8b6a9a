"""Garments of Fashion-MNIST on people, drawn in colour, as shops photograph them.

    >>> seen = dress(pixels, labels, side=56, random=random)
    >>> seen.colours.shape, seen.mask.shape
    (torch.Size([100, 3, 56, 56]), torch.Size([100, 56, 56]))

Whole batches at a time. Places and sizes are shares of half a side of the picture,
-1 to 1, as [N, 1, 1]. Skin, hair and each garment have colours of their own: by these
the service tells them apart.
"""

from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample, max_pool2d

from model.images import WHITE
from synthetic.drawing import chance, uniform

TOPS = 0, 2, 4, 6  # T-shirt, pullover, coat, shirt
LONG_SLEEVES = 2, 4, 6
TROUSER, DRESS = 1, 3
SHOES, BAG = (5, 7, 9), 8
DARK_SKIN, PALE_SKIN = (0.25, 0.14, 0.1), (0.97, 0.82, 0.74)
DARK_HAIR, PALE_HAIR = (0.04, 0.03, 0.03), (0.88, 0.72, 0.5)
BACK_SHARE = 0.25  # of the people, who turn their back
POSED_SHARE = 0.4  # of the arms, with the hand at the hip
CROSSED_SHARE = 0.15  # likewise, laid across
SLEEVED_SHARE = 0.7  # of those in long sleeves, whose arms, too, are seen in them
# where garments begin and end: usually, from close by, and when all of somebody is seen
TOP_SPANS = (
    ((-0.6, -0.3), (0.3, 0.9)),
    ((-1.0, -0.85), (0.4, 1.1)),
    ((-0.7, -0.6), (-0.2, 0.1)),
)
TROUSER_SPANS = (
    ((-0.8, -0.3), (0.6, 1.05)),
    ((-0.9, -0.6), (0.9, 1.1)),
    ((-0.15, 0.05), (0.6, 0.9)),
)
GOWN_SPANS = (
    ((-0.7, -0.5), (0.1, 0.6)),
    ((-0.9, -0.5), (0.6, 1.1)),
    ((-0.7, -0.6), (0.0, 0.4)),
)
NEAR_SHARE, WHOLE_SHARE = 0.35, 0.2  # of the pictures

Point = tuple[Tensor, Tensor | float]  # right and down


class Frame(NamedTuple):
    """Where pictures are drawn: centre and half sides."""

    x: Tensor
    y: Tensor
    width: Tensor
    height: Tensor


class Drawn(NamedTuple):
    """Things in colour, and where they are: 1 inside and 0 outside."""

    colours: Tensor  # float [N, 3, side, side]
    mask: Tensor  # float [N, side, side]

    def painted(self, colours: Tensor, mask: Tensor) -> "Drawn":
        """Lay something over it."""
        return Drawn(
            torch.lerp(self.colours, colours, mask[:, None]),
            torch.maximum(self.mask, mask),
        )


class Kinds(NamedTuple):
    """What a garment is, bool [N, 1, 1] each."""

    top: Tensor
    trouser: Tensor
    gown: Tensor
    shoe: Tensor
    sleeved: Tensor  # with long sleeves

    @property
    def person(self) -> Tensor:
        """Tell where somebody is drawn, not only a leg."""
        return self.top | self.trouser | self.gown


def dress(pixels: Tensor, labels: Tensor, side: int, random: Generator) -> Drawn:
    """Draw uint8 [N, 28, 28] on people; bags, int64 label 8, are carried by nobody.

    The garment that is asked for is the one in the middle.
    """
    size = len(pixels)
    kinds = Kinds(
        *(
            among(labels, kind)
            for kind in (TOPS, (TROUSER,), (DRESS,), SHOES, LONG_SLEEVES)
        )
    )
    frame = _frame(kinds, random)
    torso = _torso(frame, kinds.trouser, random)
    shades = place(pixels, frame, side=side)
    hidden = cover(shades)
    garment = dye(shades, random, uniform(size, random, 0, 1))
    skin = tint(DARK_SKIN, PALE_SKIN, size, random)
    flesh = skin.expand_as(garment)
    nothing = torch.zeros(size, side, side)

    drawn = Drawn(torch.zeros_like(garment), nothing)
    drawn = _paint_head(drawn, torso, skin, kinds.person, random)
    bare = _legs(torso, side, random) * (kinds.gown | kinds.trouser)
    shin = limb((frame.x, -1.2), (frame.x, frame.y), frame.width / 3, side)
    drawn = drawn.painted(flesh, torch.maximum(bare, shin * kinds.shoe))

    lower = place(others(pixels, kinds.trouser, random), torso.below(), side=side)
    colours = dye(lower, random, uniform(size, random, 0, 0.5))
    drawn = drawn.painted(colours, cover(lower) * kinds.top)
    upper = place(others(pixels, kinds.top, random), torso.above(), side=side)
    colours = dye(upper, random, uniform(size, random, 0, 0.7))
    worn, tucked = cover(upper) * kinds.trouser, chance(size, random, 0.5)
    drawn = drawn.painted(colours, worn * tucked)

    before, behind = _arms(torso, side, random)
    shown = hidden.sum((1, 2)).clamp(min=1)
    cloth = (garment * hidden[:, None]).sum((2, 3)) / shown[:, None]
    sleeved = (kinds.sleeved & chance(size, random, SLEEVED_SHARE))[:, None]
    arm = torch.where(sleeved, cloth[:, :, None, None], skin).expand_as(garment)
    drawn = drawn.painted(arm, behind * kinds.person)
    drawn = drawn.painted(garment, hidden)
    drawn = drawn.painted(colours, worn * ~tucked)
    return drawn.painted(arm, before * kinds.person)


def among(labels: Tensor, classes: tuple[int, ...]) -> Tensor:
    """Tell which labels, int64 [N], are of some classes: bool [N, 1, 1]."""
    return torch.isin(labels, torch.tensor(classes))[:, None, None]


class Torso(NamedTuple):
    """A trunk between shoulders and hips."""

    x: Tensor
    shoulders: Tensor  # how far down
    hips: Tensor
    width: Tensor  # half of it, at the shoulders

    def below(self) -> Frame:
        """Tell where trousers go."""
        height = (self.hips - self.shoulders) * 0.9
        return Frame(self.x, self.hips + height * 0.85, self.width * 2.3, height)

    def above(self) -> Frame:
        """Tell where a top goes."""
        height = (self.hips - self.shoulders) * 0.6
        return Frame(self.x, self.shoulders + height * 0.9, self.width * 2, height)


def _frame(kinds: Kinds, random: Generator) -> Frame:
    """Choose where in the picture a garment of each kind is seen."""
    size = len(kinds.top)
    near, whole = chance(size, random, NEAR_SHARE), chance(size, random, WHOLE_SHARE)
    anything = torch.ones_like(near)
    first = uniform(size, random, -0.85, -0.6)
    last = uniform(size, random, 0.6, 0.9)
    for kind, spans in zip(kinds, (TOP_SPANS, TROUSER_SPANS, GOWN_SPANS), strict=False):
        for seen, (top, bottom) in zip((anything, near, whole), spans, strict=True):
            first = torch.where(kind & seen, uniform(size, random, *top), first)
            last = torch.where(kind & seen, uniform(size, random, *bottom), last)
    x, height = uniform(size, random, -0.12, 0.12), (last - first) / 2
    width = height * uniform(size, random, 0.85, 1.2)
    return Frame(x, (first + last) / 2, width.clamp(max=1), height)


def _torso(frame: Frame, trouser: Tensor, random: Generator) -> Torso:
    """Tell where the trunk is that fills a garment: a top, or what is under a dress."""
    size = len(trouser)
    start = frame.y - frame.height
    width = frame.width * uniform(size, random, 0.5, 0.62)
    wide = frame.width * uniform(size, random, 0.4, 0.6)  # of trousers
    width = torch.where(trouser, wide, width)
    long = width * uniform(size, random, 2.2, 3)
    shoulders = torch.where(trouser, start - long, start + frame.height * 0.05)
    hips = torch.where(trouser, start, shoulders + long)
    return Torso(frame.x, shoulders, hips, width)


def _paint_head(
    drawn: Drawn, torso: Torso, skin: Tensor, person: Tensor, random: Generator
) -> Drawn:
    """Draw a neck, a face and hair, from the front or the back, above a trunk."""
    size, side = len(skin), drawn.mask.shape[-1]
    x, width = torso.x + torso.width * uniform(size, random, -0.15, 0.15), torso.width
    wide = width * uniform(size, random, 0.33, 0.45)
    tall = wide * uniform(size, random, 1.1, 1.4)
    y = torso.shoulders - tall * uniform(size, random, 1.1, 1.5)
    hair = tint(DARK_HAIR, PALE_HAIR, size, random).expand_as(drawn.colours)
    long = uniform(size, random, 0, 1) ** 2 * width * 1.6
    hung = wide * uniform(size, random, 1.15, 1.5)
    fall = limb((x, y - tall * 0.1), (x, y + long), hung, side)
    collar = torso.shoulders + width * 0.2
    neck = limb((x, y), (torso.x, collar), wide * 0.6, side)
    left, right = torso.x - width * 0.7, torso.x + width * 0.7
    bare = limb((left, collar), (right, collar), width * 0.2, side)
    face = limb((x, y - tall * 0.2), (x, y + tall * 0.3), wide * 0.85, side)
    face = face * ~chance(size, random, BACK_SHARE)
    flesh = skin.expand_as(drawn.colours)
    drawn = drawn.painted(flesh, torch.maximum(neck, bare) * person)
    drawn = drawn.painted(hair, fall * person)
    return drawn.painted(flesh, face * person)


def _arms(torso: Torso, side: int, random: Generator) -> tuple[Tensor, Tensor]:
    """Draw arms: those before a garment, across it or at the hip, and those behind."""
    size = len(torso.x)
    before = behind = torch.zeros(size, side, side)
    top = torso.shoulders + torso.width * 0.25
    long = torso.hips - torso.shoulders
    thick = torso.width * uniform(size, random, 0.16, 0.24)
    for way in (-1, 1):
        shoulder = torso.x + way * torso.width * 0.85
        kind = uniform(size, random, 0, 1)
        posed = kind < POSED_SHARE
        crossed = kind > 1 - CROSSED_SHARE
        out = torch.where(posed, uniform(size, random, 0.4, 0.9), 0.15)
        elbow = shoulder + way * torso.width * out
        middle = top + long * uniform(size, random, 0.45, 0.6)
        inwards = torso.x + way * torso.width * uniform(size, random, 0.5, 0.8)
        hand = shoulder + way * torso.width * uniform(size, random, 0, 0.3)
        hand = torch.where(posed, inwards, hand)
        hand = torch.where(crossed, torso.x - way * torso.width * 0.4, hand)
        end = top + long * uniform(size, random, 0.95, 1.2)
        end = torch.where(posed, torso.hips - long * 0.1, end)
        end = torch.where(crossed, middle - long * 0.05, end)
        upper = limb((shoulder, top), (elbow, middle), thick, side)
        fore = limb((elbow, middle), (hand, end), thick * 0.85, side)
        behind = torch.maximum(behind, upper)
        behind = torch.maximum(behind, fore * ~crossed)
        before = torch.maximum(before, fore * crossed)
    return before, behind


def _legs(torso: Torso, side: int, random: Generator) -> Tensor:
    """Draw two legs and feet below a trunk."""
    size = len(torso.x)
    apart = torso.width * uniform(size, random, 0.25, 0.5)
    thick = torso.width * uniform(size, random, 0.2, 0.3)
    feet = (torso.hips + torso.width * uniform(size, random, 4, 5)).clamp(max=1.3)
    left, right = (
        limb((at, torso.hips), (at, feet), thick, side)
        for at in (torso.x - apart, torso.x + apart)
    )
    return torch.maximum(left, right)


def limb(first: Point, last: Point, thick: Tensor, side: int) -> Tensor:
    """Draw a line with round ends, 1 inside and 0 outside: float [N, side, side]."""
    (x0, y0), (x1, y1) = first, last
    line = torch.linspace(-1, 1, side)
    right, down = line[None, :] - x0, line[:, None] - y0
    across, fall = x1 - x0, y1 - y0
    length = (across.square() + fall * fall).clamp(min=1e-6)
    along = ((right * across + down * fall) / length).clamp(0, 1)
    gap = (right - along * across).square() + (down - along * fall).square()
    return ((thick - gap.sqrt()) * side / 2 + 0.5).clamp(0, 1)


def place(
    pixels: Tensor, frame: Frame, tilt: Tensor | None = None, *, side: int
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


def cover(garments: Tensor) -> Tensor:
    """Where garments hide what is behind, 0..1, their small dark spots included."""
    cloth = (garments * 6).clamp(0, 1)
    grown = max_pool2d(cloth, 3, stride=1, padding=1)
    return -max_pool2d(-grown, 3, stride=1, padding=1)


def others(pixels: Tensor, wanted: Tensor, random: Generator) -> Tensor:
    """Draw pictures at random from the wanted ones; blank if there is none."""
    chosen = wanted.flatten().nonzero()[:, 0]
    if not len(chosen):
        return torch.zeros_like(pixels)
    picks = torch.randint(len(chosen), (len(pixels),), generator=random)
    return pixels[chosen[picks]]


def dye(shades: Tensor, random: Generator, contrast: Tensor) -> Tensor:
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


def tint(
    dark: tuple[float, ...], pale: tuple[float, ...], size: int, random: Generator
) -> Tensor:
    """Choose colours between two, a little off: [size, 3, 1, 1]."""
    first, second = (torch.tensor(colour)[None, :, None] for colour in (dark, pale))
    between = torch.lerp(first, second, uniform(size, random, 0, 1))
    off = 0.06 * (torch.rand(size, 3, 1, generator=random) - 0.5)
    return (between + off).clamp(0, 1)[..., None]
