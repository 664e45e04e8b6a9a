"""Textures and shapes drawn in code, whole batches at a time, on the CPU.

    >>> noise(8, torch.Generator().manual_seed(1)).shape
    torch.Size([8, 28, 28])

What scenes and outliers are made of. Pictures are float32 [N, 28, 28] in 0..1;
`size` is how many of them there are, `random` decides all that varies.
"""

import math

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate, max_pool2d
from torchvision.transforms.functional import pil_to_tensor

from model.images import SIDE, WHITE

LINE = torch.linspace(-1, 1, SIDE)
ROWS, COLUMNS = LINE[:, None], LINE[None, :]
SIGNS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz?!&%$#@+=*"
STROKES = 8  # of a drawing, at most
STROKE_POINTS = 24


def uniform(size: int, random: Generator, low: float, high: float) -> Tensor:
    """Draw one number a picture: float [size, 1, 1]."""
    return low + (high - low) * torch.rand(size, 1, 1, generator=random)


def chance(size: int, random: Generator, share: float) -> Tensor:
    """Choose a share of the pictures: bool [size, 1, 1]."""
    return uniform(size, random, 0, 1) < share


def relight(pictures: Tensor, random: Generator) -> Tensor:
    """Give each picture its own darkest and brightest level, in either order."""
    size = len(pictures)
    first, second = uniform(size, random, 0, 1), uniform(size, random, 0, 1)
    return first + (second - first) * pictures


def stretch(pictures: Tensor) -> Tensor:
    """Bring each picture's darkest and brightest to 0 and 1."""
    low = pictures.amin((1, 2), keepdim=True)
    high = pictures.amax((1, 2), keepdim=True)
    return (pictures - low) / (high - low).clamp(min=1e-6)


# Textures cover the whole picture.


def gradients(size: int, random: Generator) -> Tensor:
    """Make slopes and round glows in any direction."""
    turn = uniform(size, random, 0, 2 * math.pi)
    slope = turn.cos() * COLUMNS + turn.sin() * ROWS
    x, y = uniform(size, random, -1, 1), uniform(size, random, -1, 1)
    glow = (COLUMNS - x).square() + (ROWS - y).square()
    return stretch(torch.where(chance(size, random, 0.5), slope, glow))


def noise(size: int, random: Generator) -> Tensor:
    """Make noise of any spectrum, from white to clouds, smooth or hard."""
    spectrum = torch.fft.rfft2(torch.randn(size, SIDE, SIDE, generator=random))
    down, across = torch.fft.fftfreq(SIDE)[:, None], torch.fft.rfftfreq(SIDE)
    frequency = (down.square() + across.square()).sqrt().clamp(min=1 / SIDE)
    exponent = uniform(size, random, 0, 3)
    clouds = stretch(torch.fft.irfft2(spectrum * frequency**-exponent))
    speckles = (clouds > uniform(size, random, 0.1, 0.9)).float()
    even = torch.rand(size, SIDE, SIDE, generator=random)
    kind = uniform(size, random, 0, 1)
    clouds = torch.where(kind < 0.3, speckles, clouds)
    clouds = torch.where(kind > 0.8, even ** (8 * kind - 5.4), clouds)
    return relight(clouds, random)


def stripes(size: int, random: Generator) -> Tensor:
    """Make waves, bars, checks and plaids of any pitch and direction."""
    turn = uniform(size, random, 0, math.pi)
    pitch = uniform(size, random, 1, 12) * math.pi
    along, across = turn.cos(), turn.sin()
    phase = uniform(size, random, 0, 2 * math.pi)
    bend = uniform(size, random, 0, 1) * (3 * ROWS).sin() * chance(size, random, 0.3)
    first = (pitch * (along * COLUMNS + across * ROWS + bend) + phase).sin()
    second = (pitch * (along * ROWS - across * COLUMNS) + phase).sin()
    kind = uniform(size, random, 0, 1)
    waves = torch.where(kind < 0.3, first * second, first)
    waves = torch.where(kind > 0.8, (first + second) / 2, waves)
    hardness = uniform(size, random, 0.5, 6)
    return relight((1 + (hardness * waves).tanh()) / 2, random)


def facets(size: int, random: Generator) -> Tensor:
    """Make planes that meet at edges, as of boxes or crumpled paper."""
    level = torch.zeros(size, SIDE, SIDE)
    for _ in range(6):
        turn = uniform(size, random, 0, 2 * math.pi)
        side = turn.cos() * COLUMNS + turn.sin() * ROWS - uniform(size, random, -1, 1)
        slope = uniform(size, random, -1, 1) * side
        level = level + torch.where(side > 0, uniform(size, random, -1, 1) + slope, 0)
    return stretch(level)


def fill(size: int, random: Generator) -> Tensor:
    """Make any texture; some of them flat."""
    kinds = torch.stack(
        [make(size, random) for make in (gradients, noise, facets, noise, stripes)]
        + [torch.ones(size, SIDE, SIDE)]
    )
    choice = torch.randint(len(kinds), (size,), generator=random)
    return kinds[choice, torch.arange(size)]


# Shapes are masks, 1 inside and 0 outside.


def blobs(size: int, random: Generator, radius: Tensor, reach: float = 0.25) -> Tensor:
    """Draw closed shapes about a centre: discs, ovals, stars, polygons, blots."""
    x, y = (uniform(size, random, -reach, reach) for _ in "xy")
    aspect = uniform(size, random, -0.7, 0.7).exp()
    turn = uniform(size, random, 0, 2 * math.pi)
    across, down = COLUMNS - x, ROWS - y
    right = (across * turn.cos() + down * turn.sin()) * aspect
    up = (down * turn.cos() - across * turn.sin()) / aspect
    angle = torch.atan2(up, right)
    edge = torch.ones(size, 1, 1)
    for order in range(2, 7):  # waves of the outline
        height = uniform(size, random, -0.5, 0.5) * chance(size, random, 0.3)
        edge = edge + height * (order * angle).cos() / 2
    corners = torch.randint(3, 7, (size, 1, 1), generator=random)
    side = 2 * math.pi / corners
    polygon = (math.pi / corners).cos() / (angle % side - side / 2).cos()
    edge = torch.where(chance(size, random, 0.4), polygon, edge)
    distance = radius * edge - (right.square() + up.square()).sqrt()
    return inside(distance)


def inside(depth: Tensor) -> Tensor:
    """Mark what lies inside an outline with 1, what is outside with 0: [N, h, w].

    `depth` says how far inside, in half sides of the picture.
    """
    return (depth * depth.shape[-1] / 2 + 0.5).clamp(0, 1)


def vessels(size: int, random: Generator) -> Tensor:
    """Draw bottles, cans, cups, boxes: shapes with an axis, wider here than there."""
    turn = uniform(size, random, -0.5, 0.5) * math.pi
    turn = torch.where(chance(size, random, 0.4), turn * 0.1, turn)
    x, y = (uniform(size, random, -0.2, 0.2) for _ in "xy")
    across, down = COLUMNS - x, ROWS - y
    along = down * turn.cos() - across * turn.sin()
    beside = across * turn.cos() + down * turn.sin()
    long, wide = uniform(size, random, 0.4, 1), uniform(size, random, 0.15, 0.8)
    width = torch.ones(size, 1, 1)
    for _ in range(3):  # shoulders, necks, lips: each narrows one end, suddenly or not
        start, depth = uniform(size, random, -1.2, 1), uniform(size, random, 0, 0.6)
        slant = uniform(size, random, 1, 20)
        narrowed = 1 - depth * torch.sigmoid(slant * (along / long - start))
        width = torch.where(chance(size, random, 0.5), width * narrowed, width)
    gap = torch.minimum(wide * width - beside.abs(), long - along.abs())
    return inside(gap)


def twins(size: int, random: Generator) -> Tensor:
    """Stand two vessels side by side, as sets are sold."""
    pair = vessels(2 * size, random)[:, None]
    left, right = interpolate(pair, (SIDE, SIDE // 2), mode="area")[:, 0].split(size)
    return torch.cat([left, right], 2)


def straps(size: int, random: Generator) -> Tensor:
    """Draw bands with something broader in the middle: watches, belts, collars."""
    turn = uniform(size, random, -0.3, 0.3) + chance(size, random, 0.3) * math.pi / 2
    beside = COLUMNS * turn.cos() + ROWS * turn.sin()
    along = ROWS * turn.cos() - COLUMNS * turn.sin()
    wide, long = uniform(size, random, 0.08, 0.35), uniform(size, random, 0.7, 1.2)
    bent = uniform(size, random, -0.3, 0.3) * along.square()
    gap = torch.minimum(wide - (beside - bent).abs(), long - along.abs())
    band = inside(gap)
    middle = blobs(size, random, wide + uniform(size, random, 0.05, 0.35), reach=0.1)
    return torch.maximum(band, middle)


def proportions(size: int, random: Generator) -> Tensor:
    """Choose how far drawings reach along two axes, one all the way: [size, 2].

    Of those that are shorter along one, it is the second of most.
    """
    short = uniform(size, random, 0.2, 1)[..., 0]
    both = torch.cat([torch.ones(size, 1), short], 1)
    both = torch.where(chance(size, random, 0.3)[..., 0], both.flip(1), both)
    return torch.where(chance(size, random, 0.5)[..., 0], both, 1.0)


def curves(size: int, random: Generator) -> Tensor:
    """Draw one to eight curved strokes of a pen."""
    ends = torch.rand(size, STROKES, 3, 2, generator=random) * 1.8 - 0.9
    joined = chance(size, random, 0.5)[:, 0]
    for stroke in range(1, STROKES):  # half of the drawings never lift the pen
        previous = ends[:, stroke - 1, 2]
        ends[:, stroke, 0] = torch.where(joined, previous, ends[:, stroke, 0])
    ends = ends * uniform(size, random, 0.4, 1)[..., None]
    ends = ends * proportions(size, random)[:, None, None]
    t = torch.linspace(0, 1, STROKE_POINTS)[:, None]
    weights = torch.cat([(1 - t) ** 2, 2 * t * (1 - t), t**2], 1)  # Bezier's
    points = torch.einsum("pk,nskc->nspc", weights, ends)
    drawn = torch.randint(1, STROKES + 1, (size, 1), generator=random)
    lifted = torch.arange(STROKES) >= drawn
    points[lifted] = 9.0  # far outside
    grid = torch.stack(torch.meshgrid(LINE, LINE, indexing="ij"), -1).view(-1, 2)
    gap = torch.cdist(grid.expand(size, -1, 2), points.reshape(size, -1, 2)).amin(2)
    width = 0.02 + uniform(size, random, 0, 0.35) ** 2  # most pens are thin
    return ((width - gap.view(size, SIDE, SIDE)) * SIDE / 2 + 0.7).clamp(0, 1)


def outlines(size: int, random: Generator) -> Tensor:
    """Draw one to five thin outlines of shapes: float [size, 28, 28]."""
    page = torch.zeros(size, SIDE, SIDE)
    zoom = torch.diag_embed(1 / proportions(size, random))
    rows = torch.cat([zoom, torch.zeros(size, 2, 1)], 2)
    grid = affine_grid(rows, [size, 1, SIDE, SIDE], align_corners=False)
    for share in (1, 0.7, 0.5, 0.4, 0.3):
        shape = blobs(size, random, uniform(size, random, 0.1, 0.9), reach=0.5)
        shape = grid_sample(shape[:, None], grid, align_corners=False)[:, 0]
        outline = max_pool2d(shape, 3, stride=1, padding=1) - shape
        page = torch.maximum(page, outline * chance(size, random, share))
    return page


def glyphs(size: int, random: Generator) -> Tensor:
    """Print letters, digits and short words, upright or tilted."""
    return torch.stack([_print(random) for _ in range(size)])


def _print(random: Generator) -> Tensor:
    """Print one to three signs with Pillow's own font: float [28, 28]."""
    length, height = torch.randint(1, 4, (2,), generator=random).tolist()
    choice = torch.randint(len(SIGNS), (length,), generator=random).tolist()
    font = ImageFont.load_default(size=8 + 8 * height)
    page = Image.new("L", (2 * SIDE, 2 * SIDE))
    bold, tilt = torch.rand(2, generator=random).tolist()
    ImageDraw.Draw(page).text(
        (SIDE, SIDE),
        "".join(SIGNS[sign] for sign in choice),
        fill=WHITE,
        font=font,
        anchor="mm",
        stroke_width=round(2 * bold**2),
    )
    page = page.rotate(40 * tilt - 20, Image.Resampling.BILINEAR)
    side = SIDE / 2 if length < 3 else 0  # long words show whole, and smaller
    box = (side, side, 2 * SIDE - side, 2 * SIDE - side)
    page = page.resize((SIDE, SIDE), Image.Resampling.BOX, box)
    return pil_to_tensor(page)[0].float() / WHITE
