"""People who wear garments of Fashion-MNIST, drawn in colour as shops photograph them.

    >>> people = draw_people(pixels, labels, random)
    >>> people.colours.shape, people.mask.shape
    (torch.Size([100, 3, 56, 56]), torch.Size([100, 56, 56]))

Whole batches at a time. Positions and lengths are [N, 1, 1], in halves of the picture's
side: -1 is its left or upper edge, 1 the right or lower one. Skin, hair and each
garment have colours of their own, by which preprocessing separates them.
"""

from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample, max_pool2d

from model.images import WHITE
from synthetic.drawing import chance, mask_from_distance, uniform

PHOTO_SIDE = 56  # pixels, of all drawn photos
AXIS = torch.linspace(-1, 1, PHOTO_SIDE)
ROWS, COLUMNS = AXIS[:, None], AXIS[None, :]

# class numbers of Fashion-MNIST
TOPS = 0, 2, 4, 6  # T-shirt, pullover, coat, shirt
LONG_SLEEVES = 2, 4, 6
TROUSERS, DRESSES = (1,), (3,)
SHOES, BAGS = (5, 7, 9), (8,)

DARK_SKIN, PALE_SKIN = (0.25, 0.14, 0.1), (0.97, 0.82, 0.74)  # red, green, blue
DARK_HAIR, PALE_HAIR = (0.04, 0.03, 0.03), (0.88, 0.72, 0.5)

BACK_SHARE = 0.25  # of the people, seen from behind
AT_HIP_SHARE = 0.4  # of the arms, with the hand at the hip
CROSSED_SHARE = 0.15  # of the arms, in front of the garment
SLEEVED_SHARE = 0.7  # of the people in long sleeves, whose arms have the cloth's colour
# ranges of a garment's upper and lower edge in most pictures, in those taken from close
# by, and in those of the whole person
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
DRESS_SPANS = (
    ((-0.7, -0.5), (0.1, 0.6)),
    ((-0.9, -0.5), (0.6, 1.1)),
    ((-0.7, -0.6), (0.0, 0.4)),
)
CLOSE_SHARE, WHOLE_SHARE = 0.35, 0.2  # of the pictures

Point = tuple[Tensor, Tensor | float]  # right and down


class Frame(NamedTuple):
    """The part of a drawn photo that a picture fills: its centre and half sides."""

    x: Tensor
    y: Tensor
    width: Tensor
    height: Tensor


class Layer(NamedTuple):
    """Objects in colour, and where they are."""

    colours: Tensor  # float [N, 3, 56, 56]
    mask: Tensor  # float [N, 56, 56], 1 inside and 0 outside

    def paint(self, colours: Tensor, mask: Tensor) -> "Layer":
        """Composite colours, [N, 3, 56, 56] or [N, 3, 1, 1], over it."""
        return Layer(
            torch.lerp(self.colours, colours, mask[:, None]),
            torch.maximum(self.mask, mask),
        )


class Kinds(NamedTuple):
    """Which garments are of a kind: bool [N, 1, 1] each."""

    top: Tensor
    trousers: Tensor
    dress: Tensor
    shoe: Tensor
    long_sleeved: Tensor

    @property
    def worn(self) -> Tensor:
        """Whether a whole person is drawn: for shoes it is a leg, for bags nothing."""
        return self.top | self.trousers | self.dress


class Torso(NamedTuple):
    """A trunk between shoulders and hips."""

    x: Tensor
    shoulders: Tensor  # how far down
    hips: Tensor
    width: Tensor  # half of it, at the shoulders

    def trousers(self) -> Frame:
        """Return the frame of trousers below it."""
        height = (self.hips - self.shoulders) * 0.9
        return Frame(self.x, self.hips + height * 0.85, self.width * 2.3, height)

    def top(self) -> Frame:
        """Return the frame of a top on it."""
        height = (self.hips - self.shoulders) * 0.6
        return Frame(self.x, self.shoulders + height * 0.9, self.width * 2, height)


def draw_people(pixels: Tensor, labels: Tensor, random: Generator) -> Layer:
    """Draw people in garments uint8 [N, 28, 28], int64 [N]; bags have no person.

    Each garment is in the middle; others of the batch complete the clothes.
    """
    count = len(pixels)
    classes = TOPS, TROUSERS, DRESSES, SHOES, LONG_SLEEVES
    kinds = Kinds(*(is_any_of(labels, numbers) for numbers in classes))
    frame = _choose_frame(kinds, random)
    torso = _choose_torso(frame, kinds.trousers, random)
    garment = _dyed(paste(pixels, frame), 1, random)
    skin = _mix(DARK_SKIN, PALE_SKIN, count, random)

    person = Layer(torch.zeros_like(garment.colours), torch.zeros_like(garment.mask))
    person = _paint_head(person, torso, skin, kinds.worn, random)
    person = person.paint(skin, _draw_legs(frame, torso, kinds, random))
    others = _sample(pixels, kinds.trousers, random)
    trousers = _dyed(paste(others, torso.trousers()), 0.5, random)
    person = person.paint(trousers.colours, trousers.mask * kinds.top)
    others = _sample(pixels, kinds.top, random)
    top = _dyed(paste(others, torso.top()), 0.7, random)
    top_mask, is_tucked = top.mask * kinds.trousers, chance(count, random, 0.5)
    person = person.paint(top.colours, top_mask * is_tucked)

    in_front, behind = _draw_arms(torso, random)
    is_sleeved = kinds.long_sleeved & chance(count, random, SLEEVED_SHARE)
    arm = torch.where(is_sleeved[:, None], _mean_colour(garment), skin)
    person = person.paint(arm, behind * kinds.worn)
    person = person.paint(*garment)
    person = person.paint(top.colours, top_mask * ~is_tucked)
    return person.paint(arm, in_front * kinds.worn)


def is_any_of(labels: Tensor, classes: tuple[int, ...]) -> Tensor:
    """Return which labels, int64 [N], are of some classes: bool [N, 1, 1]."""
    return torch.isin(labels, torch.tensor(classes))[:, None, None]


def _choose_frame(kinds: Kinds, random: Generator) -> Frame:
    """Choose where in the picture each garment is."""
    count = len(kinds.top)
    is_close = chance(count, random, CLOSE_SHARE)
    is_whole = chance(count, random, WHOLE_SHARE)
    views = torch.ones_like(is_close), is_close, is_whole
    first = uniform(count, random, -0.85, -0.6)
    last = uniform(count, random, 0.6, 0.9)
    all_spans = TOP_SPANS, TROUSER_SPANS, DRESS_SPANS
    for kind, spans in zip(kinds[:3], all_spans, strict=True):
        for view, (upper, lower) in zip(views, spans, strict=True):
            first = torch.where(kind & view, uniform(count, random, *upper), first)
            last = torch.where(kind & view, uniform(count, random, *lower), last)
    x, height = uniform(count, random, -0.12, 0.12), (last - first) / 2
    width = height * uniform(count, random, 0.85, 1.2)
    return Frame(x, (first + last) / 2, width.clamp(max=1), height)


def _choose_torso(frame: Frame, trousers: Tensor, random: Generator) -> Torso:
    """Choose a trunk that fills a top or dress, or one above trousers."""
    count = len(trousers)
    start = frame.y - frame.height
    width = frame.width * uniform(count, random, 0.5, 0.62)
    waist = frame.width * uniform(count, random, 0.4, 0.6)
    width = torch.where(trousers, waist, width)
    length = width * uniform(count, random, 2.2, 3)
    shoulders = torch.where(trousers, start - length, start + frame.height * 0.05)
    hips = torch.where(trousers, start, shoulders + length)
    return Torso(frame.x, shoulders, hips, width)


def _paint_head(
    person: Layer, torso: Torso, skin: Tensor, shown: Tensor, random: Generator
) -> Layer:
    """Paint a neck, a face and hair, from the front or the back, where it is shown."""
    count = len(skin)
    x, width = torso.x + torso.width * uniform(count, random, -0.15, 0.15), torso.width
    wide = width * uniform(count, random, 0.33, 0.45)
    tall = wide * uniform(count, random, 1.1, 1.4)
    y = torso.shoulders - tall * uniform(count, random, 1.1, 1.5)
    hair_colour = _mix(DARK_HAIR, PALE_HAIR, count, random)
    length = uniform(count, random, 0, 1) ** 2 * width * 1.6
    hair_width = wide * uniform(count, random, 1.15, 1.5)
    hair = capsule((x, y - tall * 0.1), (x, y + length), hair_width)
    collar = torso.shoulders + width * 0.2
    neck = capsule((x, y), (torso.x, collar), wide * 0.6)
    left, right = torso.x - width * 0.7, torso.x + width * 0.7
    shoulders = capsule((left, collar), (right, collar), width * 0.2)
    face = capsule((x, y - tall * 0.2), (x, y + tall * 0.3), wide * 0.85)
    face = face * ~chance(count, random, BACK_SHARE)
    person = person.paint(skin, torch.maximum(neck, shoulders) * shown)
    person = person.paint(hair_colour, hair * shown)
    return person.paint(skin, face * shown)


def _draw_arms(torso: Torso, random: Generator) -> tuple[Tensor, Tensor]:
    """Draw arms, hanging, at the hip or crossed: masks in front of a garment, behind.

    Only crossed forearms are in front.
    """
    count = len(torso.x)
    in_front = behind = torch.zeros(count, PHOTO_SIDE, PHOTO_SIDE)
    top = torso.shoulders + torso.width * 0.25
    length = torso.hips - torso.shoulders
    width = torso.width * uniform(count, random, 0.16, 0.24)
    for side in (-1, 1):
        shoulder = torso.x + side * torso.width * 0.85
        pose = uniform(count, random, 0, 1)
        at_hip, crossed = pose < AT_HIP_SHARE, pose > 1 - CROSSED_SHARE
        out = torch.where(at_hip, uniform(count, random, 0.4, 0.9), 0.15)
        elbow = shoulder + side * torso.width * out
        middle = top + length * uniform(count, random, 0.45, 0.6)
        hip = torso.x + side * torso.width * uniform(count, random, 0.5, 0.8)
        hand = shoulder + side * torso.width * uniform(count, random, 0, 0.3)
        hand = torch.where(at_hip, hip, hand)
        hand = torch.where(crossed, torso.x - side * torso.width * 0.4, hand)
        end = top + length * uniform(count, random, 0.95, 1.2)
        end = torch.where(at_hip, torso.hips - length * 0.1, end)
        end = torch.where(crossed, middle - length * 0.05, end)
        upper = capsule((shoulder, top), (elbow, middle), width)
        forearm = capsule((elbow, middle), (hand, end), width * 0.85)
        behind = torch.maximum(behind, torch.maximum(upper, forearm * ~crossed))
        in_front = torch.maximum(in_front, forearm * crossed)
    return in_front, behind


def _draw_legs(frame: Frame, torso: Torso, kinds: Kinds, random: Generator) -> Tensor:
    """Draw two bare legs below a trunk, or the one that wears a shoe: a mask."""
    count = len(torso.x)
    apart = torso.width * uniform(count, random, 0.25, 0.5)
    width = torso.width * uniform(count, random, 0.2, 0.3)
    feet = (torso.hips + torso.width * uniform(count, random, 4, 5)).clamp(max=1.3)
    left, right = (
        capsule((x, torso.hips), (x, feet), width)
        for x in (torso.x - apart, torso.x + apart)
    )
    legs = torch.maximum(left, right) * (kinds.dress | kinds.trousers)
    shin = capsule((frame.x, -1.2), (frame.x, frame.y), frame.width / 3)
    return torch.maximum(legs, shin * kinds.shoe)


def capsule(first: Point, last: Point, radius: Tensor) -> Tensor:
    """Draw a line with round ends: a mask, float [N, 56, 56]."""
    (x0, y0), (x1, y1) = first, last
    right, down = COLUMNS - x0, ROWS - y0
    across, fall = x1 - x0, y1 - y0
    length = (across.square() + fall * fall).clamp(min=1e-6)
    along = ((right * across + down * fall) / length).clamp(0, 1)
    gap = (right - along * across).square() + (down - along * fall).square()
    return mask_from_distance(radius - gap.sqrt())


def paste(pixels: Tensor, frame: Frame, tilt: Tensor | None = None) -> Tensor:
    """Draw uint8 pictures into frames, tilted by radians: float [N, 56, 56] in 0..1."""
    x, y, width, height = frame
    tilt = torch.zeros_like(x) if tilt is None else tilt
    cos, sin = tilt.cos(), tilt.sin()
    across = torch.cat([cos, sin, -(cos * x + sin * y)], 2) / width
    down = torch.cat([-sin, cos, sin * x - cos * y], 2) / height
    size = [len(pixels), 1, PHOTO_SIDE, PHOTO_SIDE]
    grid = affine_grid(torch.cat([across, down], 1), size, align_corners=False)
    pictures = pixels[:, None].float() / WHITE
    return grid_sample(pictures, grid, align_corners=False)[:, 0]


def garment_mask(shades: Tensor) -> Tensor:
    """Return where garments [N, h, w] on black are, small dark spots included: 0..1."""
    cloth = (shades * 6).clamp(0, 1)
    grown = max_pool2d(cloth, 3, stride=1, padding=1)
    return -max_pool2d(-grown, 3, stride=1, padding=1)


def _sample(pixels: Tensor, wanted: Tensor, random: Generator) -> Tensor:
    """Choose as many of the wanted pictures at random; blank ones if there are none."""
    choices = wanted.flatten().nonzero()[:, 0]
    if not len(choices):
        return torch.zeros_like(pixels)
    chosen = torch.randint(len(choices), (len(pixels),), generator=random)
    return pixels[choices[chosen]]


def _dyed(shades: Tensor, contrast: float, random: Generator) -> Layer:
    """Give garments [N, 56, 56] on black two colours each, of a contrast up to it."""
    contrasts = uniform(len(shades), random, 0, contrast)
    return Layer(dye(shades, contrasts, random), garment_mask(shades))


def dye(shades: Tensor, contrast: Tensor, random: Generator) -> Tensor:
    """Map 0 and 1 to two random colours: [N, h, w] to [N, 3, h, w].

    `contrast` [N, 1, 1] is how far apart they are, 0..1.
    """
    first, second = (_random_colours(len(shades), random) for _ in range(2))
    second = torch.lerp(first, second, contrast[..., None])
    return torch.lerp(first, second, shades[:, None])


def _random_colours(count: int, random: Generator) -> Tensor:
    """Choose colours, most of them grey or pale: [count, 3, 1, 1]."""
    grey = uniform(count, random, 0, 1)
    grey = torch.where(chance(count, random, 0.4), 1 - 0.3 * grey, grey)
    strength = uniform(count, random, 0, 1) ** 2
    hue = torch.rand(count, 3, 1, generator=random)
    return torch.lerp(grey.expand(-1, 3, -1), hue, strength)[..., None]


def _mix(
    dark: tuple[float, ...], pale: tuple[float, ...], count: int, random: Generator
) -> Tensor:
    """Choose colours between two, with some noise: [count, 3, 1, 1]."""
    first, second = (torch.tensor(colour)[None, :, None] for colour in (dark, pale))
    between = torch.lerp(first, second, uniform(count, random, 0, 1))
    noise = 0.06 * (torch.rand(count, 3, 1, generator=random) - 0.5)
    return (between + noise).clamp(0, 1)[..., None]


def _mean_colour(garment: Layer) -> Tensor:
    """Return the mean colour inside of the mask: [N, 3, 1, 1]."""
    area = garment.mask.sum((1, 2)).clamp(min=1)
    mean = (garment.colours * garment.mask[:, None]).sum((2, 3)) / area[:, None]
    return mean[:, :, None, None]
