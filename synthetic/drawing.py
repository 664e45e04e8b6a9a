"""Textures and shapes drawn in code, whole batches at a time, on the CPU.

    >>> noise(8, torch.Generator().manual_seed(1)).shape
    torch.Size([8, 28, 28])

Scenes and outliers are composed of these. Pictures are float32 [N, 28, 28] in 0..1,
`count` is their number N, and `random` decides everything that varies.
"""

import math

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate, max_pool2d
from torchvision.transforms.functional import pil_to_tensor

from model.images import WHITE

SIDE = 28  # pixels, of the canvas of everything drawn here and of outliers
AXIS = torch.linspace(-1, 1, SIDE)
ROWS, COLUMNS = AXIS[:, None], AXIS[None, :]
CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz?!&%$#@+=*"
STROKES = 8  # of a drawing, at most
STROKE_POINTS = 24  # at which each stroke is sampled


def uniform(count: int, random: Generator, low: float, high: float) -> Tensor:
    """Draw a number for each picture: float [count, 1, 1]."""
    return low + (high - low) * torch.rand(count, 1, 1, generator=random)


def chance(count: int, random: Generator, share: float) -> Tensor:
    """Choose a share of the pictures at random: bool [count, 1, 1]."""
    return uniform(count, random, 0, 1) < share


def randomise_levels(pictures: Tensor, random: Generator) -> Tensor:
    """Map 0 and 1 to two random levels of each picture, in either order."""
    count = len(pictures)
    first, second = uniform(count, random, 0, 1), uniform(count, random, 0, 1)
    return first + (second - first) * pictures


def stretch_contrast(pictures: Tensor) -> Tensor:
    """Map each picture's darkest and brightest level to 0 and 1."""
    low = pictures.amin((1, 2), keepdim=True)
    high = pictures.amax((1, 2), keepdim=True)
    return (pictures - low) / (high - low).clamp(min=1e-6)


# Textures cover the whole picture.


def gradients(count: int, random: Generator) -> Tensor:
    """Draw linear and radial gradients of any direction and centre."""
    turn = uniform(count, random, 0, 2 * math.pi)
    slope = turn.cos() * COLUMNS + turn.sin() * ROWS
    x, y = uniform(count, random, -1, 1), uniform(count, random, -1, 1)
    glow = (COLUMNS - x).square() + (ROWS - y).square()
    return stretch_contrast(torch.where(chance(count, random, 0.5), slope, glow))


def noise(count: int, random: Generator) -> Tensor:
    """Draw noise with a spectrum of 1/f**k, k from 0 to 3, in grey or thresholded."""
    spectrum = torch.fft.rfft2(torch.randn(count, SIDE, SIDE, generator=random))
    down, across = torch.fft.fftfreq(SIDE)[:, None], torch.fft.rfftfreq(SIDE)
    frequency = (down.square() + across.square()).sqrt().clamp(min=1 / SIDE)
    exponent = uniform(count, random, 0, 3)
    clouds = stretch_contrast(torch.fft.irfft2(spectrum * frequency**-exponent))
    speckles = (clouds > uniform(count, random, 0.1, 0.9)).float()
    even = torch.rand(count, SIDE, SIDE, generator=random)
    kind = uniform(count, random, 0, 1)
    clouds = torch.where(kind < 0.3, speckles, clouds)
    clouds = torch.where(kind > 0.8, even ** (8 * kind - 5.4), clouds)
    return randomise_levels(clouds, random)


def stripes(count: int, random: Generator) -> Tensor:
    """Draw waves, bars, checks and plaids of any pitch and direction."""
    turn = uniform(count, random, 0, math.pi)
    pitch = uniform(count, random, 1, 12) * math.pi
    along, across = turn.cos(), turn.sin()
    phase = uniform(count, random, 0, 2 * math.pi)
    bend = uniform(count, random, 0, 1) * (3 * ROWS).sin() * chance(count, random, 0.3)
    first = (pitch * (along * COLUMNS + across * ROWS + bend) + phase).sin()
    second = (pitch * (along * ROWS - across * COLUMNS) + phase).sin()
    kind = uniform(count, random, 0, 1)
    waves = torch.where(kind < 0.3, first * second, first)
    waves = torch.where(kind > 0.8, (first + second) / 2, waves)
    hardness = uniform(count, random, 0.5, 6)
    return randomise_levels((1 + (hardness * waves).tanh()) / 2, random)


def facets(count: int, random: Generator) -> Tensor:
    """Draw planes that meet at edges, like boxes or crumpled paper."""
    level = torch.zeros(count, SIDE, SIDE)
    for _ in range(6):
        turn = uniform(count, random, 0, 2 * math.pi)
        side = turn.cos() * COLUMNS + turn.sin() * ROWS - uniform(count, random, -1, 1)
        slope = uniform(count, random, -1, 1) * side
        level = level + torch.where(side > 0, uniform(count, random, -1, 1) + slope, 0)
    return stretch_contrast(level)


def textures(count: int, random: Generator) -> Tensor:
    """Draw a random texture each; some are flat."""
    kinds = torch.stack(
        [draw(count, random) for draw in (gradients, noise, facets, noise, stripes)]
        + [torch.ones(count, SIDE, SIDE)]
    )
    choice = torch.randint(len(kinds), (count,), generator=random)
    return kinds[choice, torch.arange(count)]


# Shapes are masks: 1 inside, 0 outside, between them on an edge.


def blobs(count: int, random: Generator, radius: Tensor, reach: float = 0.25) -> Tensor:
    """Draw closed shapes around a centre: discs, ovals, stars, polygons, blots."""
    x, y = (uniform(count, random, -reach, reach) for _ in "xy")
    aspect = uniform(count, random, -0.7, 0.7).exp()
    turn = uniform(count, random, 0, 2 * math.pi)
    across, down = COLUMNS - x, ROWS - y
    right = (across * turn.cos() + down * turn.sin()) * aspect
    up = (down * turn.cos() - across * turn.sin()) / aspect
    angle = torch.atan2(up, right)
    edge = torch.ones(count, 1, 1)
    for order in range(2, 7):  # waves in the outline
        height = uniform(count, random, -0.5, 0.5) * chance(count, random, 0.3)
        edge = edge + height * (order * angle).cos() / 2
    corners = torch.randint(3, 7, (count, 1, 1), generator=random)
    side = 2 * math.pi / corners
    polygon = (math.pi / corners).cos() / (angle % side - side / 2).cos()
    edge = torch.where(chance(count, random, 0.4), polygon, edge)
    distance = radius * edge - (right.square() + up.square()).sqrt()
    return mask_from_distance(distance)


def mask_from_distance(distance: Tensor) -> Tensor:
    """Return an anti-aliased mask [N, h, w], 1 inside of an outline and 0 outside.

    `distance` is the signed distance to the outline, positive inside, in halves of the
    picture's side.
    """
    return (distance * distance.shape[-1] / 2 + 0.5).clamp(0, 1)


def containers(count: int, random: Generator) -> Tensor:
    """Draw bottles, cans, cups, boxes: shapes along an axis, of varying width."""
    turn = uniform(count, random, -0.5, 0.5) * math.pi
    turn = torch.where(chance(count, random, 0.4), turn * 0.1, turn)
    x, y = (uniform(count, random, -0.2, 0.2) for _ in "xy")
    across, down = COLUMNS - x, ROWS - y
    along = down * turn.cos() - across * turn.sin()
    beside = across * turn.cos() + down * turn.sin()
    long, wide = uniform(count, random, 0.4, 1), uniform(count, random, 0.15, 0.8)
    width = torch.ones(count, 1, 1)
    for _ in range(3):  # shoulders, necks, lips: each narrows one end, steeply or not
        start, depth = uniform(count, random, -1.2, 1), uniform(count, random, 0, 0.6)
        slant = uniform(count, random, 1, 20)
        narrowed = 1 - depth * torch.sigmoid(slant * (along / long - start))
        width = torch.where(chance(count, random, 0.5), width * narrowed, width)
    gap = torch.minimum(wide * width - beside.abs(), long - along.abs())
    return mask_from_distance(gap)


def container_pairs(count: int, random: Generator) -> Tensor:
    """Draw two containers side by side."""
    pair = containers(2 * count, random)[:, None]
    left, right = interpolate(pair, (SIDE, SIDE // 2), mode="area")[:, 0].split(count)
    return torch.cat([left, right], 2)


def bands(count: int, random: Generator) -> Tensor:
    """Draw bands with a broader shape in the middle: watches, belts, collars."""
    turn = uniform(count, random, -0.3, 0.3) + chance(count, random, 0.3) * math.pi / 2
    beside = COLUMNS * turn.cos() + ROWS * turn.sin()
    along = ROWS * turn.cos() - COLUMNS * turn.sin()
    wide, long = uniform(count, random, 0.08, 0.35), uniform(count, random, 0.7, 1.2)
    bent = uniform(count, random, -0.3, 0.3) * along.square()
    gap = torch.minimum(wide - (beside - bent).abs(), long - along.abs())
    band = mask_from_distance(gap)
    middle = blobs(count, random, wide + uniform(count, random, 0.05, 0.35), reach=0.1)
    return torch.maximum(band, middle)


def extents(count: int, random: Generator) -> Tensor:
    """Choose the extents of drawings along two axes, at most 1: [count, 2].

    Half of them are 1 along both; most of the others are shorter along the second.
    """
    short = uniform(count, random, 0.2, 1)[..., 0]
    both = torch.cat([torch.ones(count, 1), short], 1)
    both = torch.where(chance(count, random, 0.3)[..., 0], both.flip(1), both)
    return torch.where(chance(count, random, 0.5)[..., 0], both, 1.0)


def pen_strokes(count: int, random: Generator) -> Tensor:
    """Draw one to eight strokes of a pen, each a quadratic Bezier curve."""
    ends = torch.rand(count, STROKES, 3, 2, generator=random) * 1.8 - 0.9
    joined = chance(count, random, 0.5)[:, 0]
    for stroke in range(1, STROKES):  # half of the drawings are one joined line
        previous = ends[:, stroke - 1, 2]
        ends[:, stroke, 0] = torch.where(joined, previous, ends[:, stroke, 0])
    ends = ends * uniform(count, random, 0.4, 1)[..., None]
    ends = ends * extents(count, random)[:, None, None]
    t = torch.linspace(0, 1, STROKE_POINTS)[:, None]
    weights = torch.cat([(1 - t) ** 2, 2 * t * (1 - t), t**2], 1)
    points = torch.einsum("pk,nskc->nspc", weights, ends)
    drawn = torch.randint(1, STROKES + 1, (count, 1), generator=random)
    lifted = torch.arange(STROKES) >= drawn
    points[lifted] = 9.0  # far outside
    grid = torch.stack(torch.meshgrid(AXIS, AXIS, indexing="ij"), -1).view(-1, 2)
    gap = torch.cdist(grid.expand(count, -1, 2), points.reshape(count, -1, 2)).amin(2)
    width = 0.02 + uniform(count, random, 0, 0.35) ** 2  # most pens are thin
    return ((width - gap.view(count, SIDE, SIDE)) * SIDE / 2 + 0.7).clamp(0, 1)


def outlines(count: int, random: Generator) -> Tensor:
    """Draw one to five thin outlines of shapes: float [count, 28, 28]."""
    page = torch.zeros(count, SIDE, SIDE)
    zoom = torch.diag_embed(1 / extents(count, random))
    rows = torch.cat([zoom, torch.zeros(count, 2, 1)], 2)
    grid = affine_grid(rows, [count, 1, SIDE, SIDE], align_corners=False)
    for share in (1, 0.7, 0.5, 0.4, 0.3):
        shape = blobs(count, random, uniform(count, random, 0.1, 0.9), reach=0.5)
        shape = grid_sample(shape[:, None], grid, align_corners=False)[:, 0]
        outline = max_pool2d(shape, 3, stride=1, padding=1) - shape
        page = torch.maximum(page, outline * chance(count, random, share))
    return page


def text(count: int, random: Generator) -> Tensor:
    """Draw letters, digits and short words, upright or tilted."""
    return torch.stack([_draw_text(random) for _ in range(count)])


def _draw_text(random: Generator) -> Tensor:
    """Draw one to three characters in Pillow's own font: float [28, 28]."""
    length, height = torch.randint(1, 4, (2,), generator=random).tolist()
    choice = torch.randint(len(CHARACTERS), (length,), generator=random).tolist()
    font = ImageFont.load_default(size=8 + 8 * height)
    page = Image.new("L", (2 * SIDE, 2 * SIDE))
    bold, tilt = torch.rand(2, generator=random).tolist()
    ImageDraw.Draw(page).text(
        (SIDE, SIDE),
        "".join(CHARACTERS[index] for index in choice),
        fill=WHITE,
        font=font,
        anchor="mm",
        stroke_width=round(2 * bold**2),
    )
    page = page.rotate(40 * tilt - 20, Image.Resampling.BILINEAR)
    side = SIDE / 2 if length < 3 else 0  # three letters need the whole page
    box = (side, side, 2 * SIDE - side, 2 * SIDE - side)
    page = page.resize((SIDE, SIDE), Image.Resampling.BOX, box)
    return pil_to_tensor(page)[0].float() / WHITE
