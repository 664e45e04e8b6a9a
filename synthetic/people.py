"""Garments of Fashion-MNIST on people, drawn in colour, as shops photograph them.

    >>> seen = dress(pixels, labels, random)
    >>> seen.colours.shape, seen.mask.shape
    (torch.Size([100, 3, 56, 56]), torch.Size([100, 56, 56]))

Whole batches at a time. Places and sizes are shares of half a side of the picture,
-1 to 1, as [N, 1, 1]. Skin, hair and each garment have colours of their own: by these
the service tells them apart.
"""

from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample

from model.images import WHITE
from synthetic.cloth import PHOTO_SIDE, cover, detail, dye, folds, tint, usual_colour
from synthetic.drawing import chance, inside, uniform

LINE = torch.linspace(-1, 1, PHOTO_SIDE)
ROWS, COLUMNS = LINE[:, None], LINE[None, :]
TOPS = 0, 2, 4, 6  # T-shirt, pullover, coat, shirt
LONG_SLEEVES = 2, 4, 6
TROUSER, DRESS, COAT = 1, 3, 4
SHOES, BAG = (5, 7, 9), 8
DARK_SKIN, PALE_SKIN = (0.25, 0.14, 0.1), (0.97, 0.82, 0.74)
DARK_HAIR, PALE_HAIR = (0.04, 0.03, 0.03), (0.88, 0.72, 0.5)
BACK_SHARE = 0.25  # of the people, who turn their back
POSED_SHARE = 0.4  # of the arms, with the hand at the hip
CROSSED_SHARE = 0.15  # likewise, laid across
SLEEVED_SHARE = 0.7  # of those in long sleeves: these go where the arms go
OPEN_SHARE, OPEN_COAT_SHARE = 0.35, 0.6  # of the tops, that are open below the neck
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
# how deep and wide an open collar and an open coat are, in trunks and half trunks
COLLAR_SPANS = (0.1, 0.4), (0.2, 0.45)
FLAP_SPANS = (0.3, 2), (0.15, 0.5)

Point = tuple[Tensor, Tensor | float]  # right and down


class Frame(NamedTuple):
    """Where pictures are drawn: centre and half sides."""

    x: Tensor
    y: Tensor
    width: Tensor
    height: Tensor


class Drawn(NamedTuple):
    """Things in colour, and where they are: 1 inside and 0 outside."""

    colours: Tensor  # float [N, 3, h, w]
    mask: Tensor  # float [N, h, w]

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
    coat: Tensor
    sleeved: Tensor  # with long sleeves

    @property
    def person(self) -> Tensor:
        """Tell where somebody is drawn, not only a leg."""
        return self.top | self.trouser | self.gown


def dress(pixels: Tensor, labels: Tensor, random: Generator) -> Drawn:
    """Draw uint8 [N, 28, 28] on people; bags, int64 label 8, are carried by nobody.

    The garment that is asked for is the one in the middle.
    """
    size = len(pixels)
    classes = TOPS, (TROUSER,), (DRESS,), SHOES, (COAT,), LONG_SLEEVES
    kinds = Kinds(*(among(labels, kind) for kind in classes))
    frame = _frame(kinds, random)
    torso = _torso(frame, kinds.trouser, random)
    shades = place(pixels, frame)
    hidden = cover(shades)
    shades = detail(shades, hidden, random)
    garment = dye(shades, random, uniform(size, random, 0, 1))
    flesh = tint(DARK_SKIN, PALE_SKIN, size, random).expand_as(garment)

    drawn = Drawn(torch.zeros_like(garment), torch.zeros_like(hidden))
    drawn = _paint_head(drawn, torso, flesh, kinds.person, random)
    drawn = drawn.painted(flesh, _legs(frame, torso, kinds, random))
    lower = _choose(pixels, kinds.trouser, torso.below(), 0.5, random)
    drawn = drawn.painted(lower.colours, lower.mask * kinds.top)
    upper = _choose(pixels, kinds.top, torso.above(), 0.7, random)
    worn, tucked = upper.mask * kinds.trouser, chance(size, random, 0.5)
    drawn = drawn.painted(upper.colours, worn * tucked)

    sleeved = kinds.sleeved & chance(size, random, SLEEVED_SHARE)
    arms = _arms(torso, sleeved, random)
    cloth = usual_colour(garment, hidden) * uniform(size, random, 0.75, 1.05)[..., None]
    arm = torch.where(sleeved[:, None], cloth * folds(size, random)[:, None], flesh)
    drawn = drawn.painted(arm, arms.behind * kinds.person)
    # as it lies flat, it has sleeves where no arm is
    hidden = hidden * torch.where(sleeved, _trunk(torso, random), 1)
    garment = garment * (folds(size, random) * _roundness(torso, random))[:, None]
    drawn = drawn.painted(garment, hidden)
    under = dye(shades, random, uniform(size, random, 0, 0.1))
    under = torch.where(chance(size, random, 0.5)[..., None], under, flesh)
    drawn = drawn.painted(under, hidden * _opening(torso, kinds, random))
    drawn = drawn.painted(upper.colours, worn * ~tucked)
    drawn = drawn.painted(arm, arms.before * kinds.person)
    return drawn.painted(flesh, arms.hands * (kinds.person & sleeved))


def _choose(
    pixels: Tensor, wanted: Tensor, frame: Frame, contrast: float, random: Generator
) -> Drawn:
    """Draw others of the wanted garments in a frame; nothing if there is none."""
    shades = place(others(pixels, wanted, random), frame)
    pull = uniform(len(pixels), random, 0, contrast)
    return Drawn(dye(shades, random, pull), cover(shades))


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
    width = height * uniform(size, random, 0.7, 1.1)
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
    drawn: Drawn, torso: Torso, flesh: Tensor, person: Tensor, random: Generator
) -> Drawn:
    """Draw a neck, a face and hair, from the front or the back, above a trunk."""
    size = len(flesh)
    x, width = torso.x + torso.width * uniform(size, random, -0.15, 0.15), torso.width
    wide = width * uniform(size, random, 0.33, 0.45)
    tall = wide * uniform(size, random, 1.1, 1.4)
    y = torso.shoulders - tall * uniform(size, random, 1.1, 1.5)
    hair = tint(DARK_HAIR, PALE_HAIR, size, random).expand_as(drawn.colours)
    long = uniform(size, random, 0, 1) ** 2 * width * 1.6
    hung = wide * uniform(size, random, 1.15, 1.5)
    fall = limb((x, y - tall * 0.1), (x, y + long), hung)
    collar = torso.shoulders + width * 0.2
    neck = limb((x, y), (torso.x, collar), wide * 0.6)
    left, right = torso.x - width * 0.7, torso.x + width * 0.7
    bare = limb((left, collar), (right, collar), width * 0.2)
    face = limb((x, y - tall * 0.2), (x, y + tall * 0.3), wide * 0.85)
    face = face * ~chance(size, random, BACK_SHARE)
    drawn = drawn.painted(flesh, torch.maximum(neck, bare) * person)
    drawn = drawn.painted(hair, fall * person)
    return drawn.painted(flesh, face * person)


class Arms(NamedTuple):
    """Where arms are, float [N, h, w] each."""

    before: Tensor  # the garment, across it
    behind: Tensor
    hands: Tensor  # but those at a hip


def _arms(torso: Torso, sleeved: Tensor, random: Generator) -> Arms:
    """Draw arms, thicker in sleeves: hanging, with a hand at the hip, or crossed."""
    size = len(torso.x)
    before = behind = hands = torch.zeros(size, PHOTO_SIDE, PHOTO_SIDE)
    top = torso.shoulders + torso.width * 0.25
    long = torso.hips - torso.shoulders
    thick = torso.width * uniform(size, random, 0.16, 0.24)
    thick = thick * torch.where(sleeved, uniform(size, random, 1.1, 1.5), 1)
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
        upper = limb((shoulder, top), (elbow, middle), thick)
        fore = limb((elbow, middle), (hand, end), thick * 0.85)
        behind = torch.maximum(behind, upper)
        behind = torch.maximum(behind, fore * ~crossed)
        before = torch.maximum(before, fore * crossed)
        held = limb((hand, end), (hand, end), thick * 0.8)
        hands = torch.maximum(hands, held * ~posed)
    return Arms(before, behind, hands)


def _trunk(torso: Torso, random: Generator) -> Tensor:
    """Draw a trunk without its arms, some of them narrower at the waist."""
    down = (ROWS - torso.shoulders) / (torso.hips - torso.shoulders)
    narrow = (1 - ((down - 0.6) / 0.6).square()).clamp(min=0)
    waist = uniform(len(torso.x), random, 0, 0.3) * narrow
    return column(torso.x, torso.width * (1.05 - waist))


def _roundness(torso: Torso, random: Generator) -> Tensor:
    """How bright a trunk is where it turns away: float [N, 1, w]."""
    turned = ((COLUMNS - torso.x) / torso.width).square().clamp(max=1)
    return 1 - turned * uniform(len(torso.x), random, 0, 0.3)


def _opening(torso: Torso, kinds: Kinds, random: Generator) -> Tensor:
    """Draw what shows in an open collar, and down an open coat: float [N, h, w]."""
    size, coat = len(torso.x), kinds.coat
    collar, flap = (
        [uniform(size, random, *span) for span in spans]
        for spans in (COLLAR_SPANS, FLAP_SPANS)
    )
    deep, wide = (torch.where(coat, *pair) for pair in zip(flap, collar, strict=True))
    long = (torso.hips - torso.shoulders) * deep
    down = (ROWS - torso.shoulders) / long
    shown = column(torso.x, torso.width * wide * (1 - down).clamp(0, 1))
    share = torch.where(coat, OPEN_COAT_SHARE, OPEN_SHARE)
    is_open = uniform(size, random, 0, 1) < share
    return shown * (down < 1) * (is_open & kinds.top)


def _legs(frame: Frame, torso: Torso, kinds: Kinds, random: Generator) -> Tensor:
    """Draw two bare legs below a trunk, or the one that wears a shoe."""
    size = len(torso.x)
    apart = torso.width * uniform(size, random, 0.25, 0.5)
    thick = torso.width * uniform(size, random, 0.2, 0.3)
    feet = (torso.hips + torso.width * uniform(size, random, 4, 5)).clamp(max=1.3)
    left, right = (
        limb((at, torso.hips), (at, feet), thick)
        for at in (torso.x - apart, torso.x + apart)
    )
    both = torch.maximum(left, right) * (kinds.gown | kinds.trouser)
    shin = limb((frame.x, -1.2), (frame.x, frame.y), frame.width / 3)
    return torch.maximum(both, shin * kinds.shoe)


def column(x: Tensor, width: Tensor) -> Tensor:
    """Draw what reaches so far to both sides of x in each row: float [N, h, w]."""
    return inside(width - (COLUMNS - x).abs())


def limb(first: Point, last: Point, thick: Tensor) -> Tensor:
    """Draw a line with round ends, 1 inside and 0 outside: float [N, h, w]."""
    (x0, y0), (x1, y1) = first, last
    right, down = COLUMNS - x0, ROWS - y0
    across, fall = x1 - x0, y1 - y0
    length = (across.square() + fall * fall).clamp(min=1e-6)
    along = ((right * across + down * fall) / length).clamp(0, 1)
    gap = (right - along * across).square() + (down - along * fall).square()
    return inside(thick - gap.sqrt())


def place(pixels: Tensor, frame: Frame, tilt: Tensor | None = None) -> Tensor:
    """Draw uint8 pictures in their frames, tilted by radians: float [N, h, w]."""
    x, y, width, height = frame
    tilt = torch.zeros_like(x) if tilt is None else tilt
    cos, sin = tilt.cos(), tilt.sin()
    across = torch.cat([cos, sin, -(cos * x + sin * y)], 2) / width
    down = torch.cat([-sin, cos, sin * x - cos * y], 2) / height
    size = [len(pixels), 1, PHOTO_SIDE, PHOTO_SIDE]
    grid = affine_grid(torch.cat([across, down], 1), size, align_corners=False)
    pictures = pixels[:, None].float() / WHITE
    return grid_sample(pictures, grid, align_corners=False)[:, 0]


def others(pixels: Tensor, wanted: Tensor, random: Generator) -> Tensor:
    """Draw pictures at random from the wanted ones; blank if there is none."""
    chosen = wanted.flatten().nonzero()[:, 0]
    if not len(chosen):
        return torch.zeros_like(pixels)
    picks = torch.randint(len(chosen), (len(pixels),), generator=random)
    return pixels[chosen[picks]]
