"""Charts, screenshots, scanned pages and logos, drawn in code as colour pictures.

    >>> draw_document(7).mode
    'RGB'

People try a classifier on the files of their computer. A document is a canvas divided
into boxes, each filled with one block: a plot, text, a table, a code, a map, a symbol.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from random import Random

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFilter, ImageFont

from model.images import WHITE

SIDES = 160, 720  # pixels, of the longer side of a document
MIN_BOX, MIN_TEXT = 24, 7  # pixels, of a box that is divided, of letters
WORDS = "total net class of the and area Model Sales Q1 2024 12.5 0.87 37% Jan id value"
ONE, FEW, MANY = [(1, 1)] * 4, [(1, 2), (2, 1), (2, 2)], [(2, 3), (3, 4), (5, 5)]

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels
Colour = tuple[int, ...]
Points = list[tuple[float, float]]


class Canvas:
    """A picture with a palette, on which blocks are drawn."""

    def __init__(
        self, random: Random, aspect: tuple[float, float], dark: float
    ) -> None:
        """Choose a size, and a palette that is dark with a probability."""
        self.random = random
        side, ratio = random.randint(*SIDES), random.uniform(*aspect)
        size = round(side * min(1, ratio)), round(side * min(1, 1 / ratio))
        hue, step = random.randint(0, 360), random.choice((0, 20, 47, 120, 137))
        strength = random.choice((0, random.randint(30, 100)))
        lights = [random.randint(30, 75) for _ in range(8)]
        self.colours = [hsl(hue + i * step, strength, x) for i, x in enumerate(lights)]
        pale = random.choice((100, random.randint(88, 100)))
        ink, paper = hsl(hue, 20, random.randint(0, 25)), hsl(hue, strength // 2, pale)
        self.ink, self.paper = (paper, ink) if self.chance(dark) else (ink, paper)
        self.image = Image.new("RGB", size, self.paper)
        self.draw = ImageDraw.Draw(self.image)
        self.box = (0.0, 0.0, float(size[0]), float(size[1]))
        self.text_size = max(MIN_TEXT, round(side * random.uniform(0.01, 0.04)))

    def chance(self, share: float) -> bool:
        """Return true with a probability."""
        return self.random.random() < share

    def colour(self) -> Colour:
        """Choose a colour of the palette, or ink."""
        return self.random.choice([*self.colours[:4], self.ink])

    def shade(self, share: float, colour: Colour) -> Colour:
        """Return a colour between paper, 0, and another, 1."""
        both = zip(self.paper, colour, strict=True)
        return tuple(round(p + share * (c - p)) for p, c in both)

    def write(self, x: float, y: float, count: int, size: float, anchor: str) -> None:
        """Write words at a point."""
        words = " ".join(self.random.choices(WORDS.split(), k=count))
        font = load_font(max(MIN_TEXT, round(size)))
        self.draw.text((x, y), words, self.ink, font, anchor)

    def walk(self, box: Box, count: int, step: float) -> Points:
        """Return points from left to right whose heights are a random walk."""
        height, points = self.random.random(), []
        for x in np.linspace(box[0], box[2], count).tolist():
            height = min(1, max(0, height + self.random.gauss(0, step)))
            points.append((x, box[3] - height * (box[3] - box[1])))
        return points


Block = Callable[[Canvas, Box], None]  # fills a box


@cache
def load_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own font, of a size in pixels."""
    return ImageFont.load_default(size)


def hsl(hue: int, saturation: int, lightness: int) -> Colour:
    """Return red, green and blue of a hue in degrees and percentages."""
    return ImageColor.getrgb(f"hsl({hue % 360},{saturation}%,{lightness}%)")


def inner(box: Box, share: float) -> Box:
    """Return a box without a margin, a share of its shorter side."""
    left, top, right, bottom = box
    margin = share * min(right - left, bottom - top)
    return left + margin, top + margin, right - margin, bottom - margin


def cells(box: Box, rows: int, columns: int) -> list[Box]:
    """Divide a box into equal ones, row by row."""
    x = np.linspace(box[0], box[2], columns + 1).tolist()
    y = np.linspace(box[1], box[3], rows + 1).tolist()
    places = np.ndindex(rows, columns)
    return [(x[c], y[r], x[c + 1], y[r + 1]) for r, c in places]


def cut(box: Box, share: float, *, down: bool) -> tuple[Box, Box]:
    """Cut a box in two, at a share of its height or width."""
    left, top, right, bottom = box
    x, y = left + share * (right - left), top + share * (bottom - top)
    if down:
        return (left, top, right, y), (left, y, right, bottom)
    return (left, top, x, bottom), (x, top, right, bottom)


def bars(canvas: Canvas, box: Box) -> None:
    """Draw bars, upright or not, sorted or not, in one colour or many, some stacked."""
    random, count, upright = (
        canvas.random,
        canvas.random.randint(2, 20),
        canvas.chance(0.6),
    )
    gap, least = random.choice((0, random.uniform(0, 0.3))), random.choice((0.05, 0.7))
    values = [random.uniform(least, 1) for _ in range(count)]
    values = sorted(values) if canvas.chance(0.3) else values
    colours, parts = random.choice((1, 8)), random.choice((1, 1, 1, 2, 3))
    for i, cell in enumerate(cells(box, *((1, count) if upright else (count, 1)))):
        ends = cut(cut(cell, gap, down=not upright)[1], 1 - gap, down=not upright)[0]
        for part in range(parts):
            share = values[i] * (1 - part / parts)
            bar = cut(ends, 1 - share if upright else share, down=upright)[upright]
            canvas.draw.rectangle(bar, canvas.colours[(i % colours + part) % 8])


def curves(canvas: Canvas, box: Box) -> None:
    """Draw one to five curves, areas below them, or points."""
    random, count, width = (
        canvas.random,
        canvas.random.randint(3, 60),
        canvas.random.randint(1, 4),
    )
    kind, step = random.choice(("line", "area", "points")), random.uniform(0.02, 0.3)
    for colour in canvas.colours[: random.randint(1, 5)]:
        points = canvas.walk(box, count, step)
        if kind == "points":
            for point in points:
                canvas.draw.circle(point, width + 1, colour)
        elif kind == "area":
            canvas.draw.polygon([box[:1] + box[3:], *points, box[2:]], colour)
        else:
            canvas.draw.line(points, colour, width)


def pie(canvas: Canvas, box: Box) -> None:
    """Draw a pie or a ring of one to eight slices."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    radius = min(box[2] - x, box[3] - y)
    around = (x - radius, y - radius, x + radius, y + radius)
    ends = sorted(canvas.random.choices(range(360), k=canvas.random.randint(1, 8)))
    pairs = zip(ends, [*ends[1:], ends[0] + 360], canvas.colours, strict=False)
    for start, end, fill in pairs:
        canvas.draw.pieslice(around, start, end, fill, canvas.paper)
    if canvas.chance(0.4):
        hole = radius * canvas.random.uniform(0.3, 0.8)
        canvas.draw.circle((x, y), hole, canvas.paper)


def matrix(canvas: Canvas, box: Box) -> None:
    """Draw a grid of shades: a heat map, a QR or bar code, a gradient, a flag."""
    random, side = canvas.random, canvas.random.randint(2, 14)
    kind = random.choice(("map", "diagonal", "square code", "bar code", "flag", "fade"))
    shape = side, side if kind == "diagonal" else random.randint(2, 14)
    shape = {"square code": (25, 25), "bar code": (1, 80), "flag": (3, 1)}.get(
        kind, shape
    )
    levels = np.random.default_rng(random.getrandbits(32)).random(shape)
    if kind == "diagonal":
        levels = np.maximum(levels**4, np.eye(side))
    elif kind.endswith("code"):
        levels = levels.round()
    elif kind == "fade":
        levels = np.linspace(0, 1, 64)[:, None]
    levels = levels.T if canvas.chance(0.3) else levels
    mask = Image.fromarray((levels * WHITE).astype(np.uint8))
    left, top, right, bottom = map(round, box)
    size = max(1, right - left), max(1, bottom - top)
    mask = mask.resize(size, Image.Resampling.NEAREST)
    canvas.image.paste(canvas.colour(), (left, top), mask)


def chart(canvas: Canvas, box: Box) -> None:
    """Draw a plot, most with axes, ticks, grid lines and a title."""
    random, draw, size = canvas.random, canvas.draw, canvas.text_size
    plot = random.choice((bars, bars, bars, curves, curves, curves, pie, matrix))
    left, top, right, bottom = inner(box, random.uniform(0.02, 0.12))
    left, top, bottom = (
        left + size * random.randint(0, 5),
        top + 2 * size,
        bottom - 2 * size,
    )
    if min(right - left, bottom - top) < MIN_BOX:
        return plot(canvas, box)
    axes, grey = (left, top, right, bottom), canvas.shade(0.2, canvas.ink)
    if canvas.chance(0.2):
        draw.rectangle(axes, canvas.shade(0.1, canvas.ink))
    ticks, grid = random.randint(2, 8), canvas.chance(0.4)
    for x, y, *_ in cells(axes, ticks, ticks)[:: ticks + 1] if plot != pie else ():
        draw.line((left, y, right if grid else left - 3, y), grey)
        draw.line((x, top if grid else bottom + 3, x, bottom), grey)
        canvas.write(left - 3, y, 1, size, "rm")
        canvas.write(x, bottom + 3, 1, size, "lt")
    plot(canvas, inner(axes, random.choice((0, 0.03, 0.08))))
    if plot != pie and canvas.chance(0.7):
        corner = right if canvas.chance(0.5) else left
        draw.line((corner, top, left, top, left, bottom, right, bottom), canvas.ink)
        draw.line((right, bottom, corner, top), canvas.ink)
    canvas.write(left, top - 3, random.randint(0, 6), size * 1.3, "lb")
    return None


def text(canvas: Canvas, box: Box) -> None:
    """Write lines: a paragraph, a list, a program, a receipt, handwriting."""
    random, size = canvas.random, canvas.text_size * canvas.random.choice((1, 1, 1, 2))
    left, top, right, bottom = box
    ragged, indent = random.choice((0, 0.1, 0.4, 0.8)), random.choice((0, 0, 4))
    kind, receipt = (
        random.choice(("words", "words", "dashes", "pen")),
        canvas.chance(0.2),
    )
    for y in np.arange(top, bottom - size, size * random.uniform(1.2, 2.2)).tolist():
        x = left + size * random.randint(0, indent)
        end = right - random.random() * ragged * (right - x)
        count, line = int((end - x) / size / 2.2), (x, y, end, y + size)
        if canvas.chance(0.12) or count < 1:
            continue
        if kind == "pen":
            canvas.draw.line(canvas.walk(line, 6 * count, 0.5), canvas.ink)
        elif kind == "dashes":
            canvas.draw.rectangle(inner(line, 0.25), canvas.ink)
        else:
            canvas.write(x, y, count, size, "lt")
        canvas.write(right, y, int(receipt), size, "rt")


def boxes(canvas: Canvas, box: Box) -> None:
    """Draw a table, or rows of buttons, fields, icons, messages or cards."""
    random, size, grey = canvas.random, canvas.text_size, canvas.shade(0.2, canvas.ink)
    rows = max(1, int((box[3] - box[1]) / size / random.choice((1.5, 2, 3, 6))))
    gap, spread = random.choice((0, 0, 0.1, 0.2)), random.choice((0, 0, 0, 0.5))
    fills, line = (canvas.paper, grey, canvas.colour()), random.choice((None, grey))
    columns, icons = random.randint(1, 6), canvas.chance(0.2)
    for i, cell in enumerate(cells(box, rows, columns)):
        left, top, right, bottom = inner(cell, gap)
        left += spread * random.random() * (right - left)
        # Pillow fails for some rounded rectangles between whole pixels
        part = round(left), round(top), round(right), round(bottom)
        fill = fills[min(i // columns, 2) - 1]
        canvas.draw.rounded_rectangle(part, 30 * gap, fill, line)
        if icons:
            symbol(canvas, part)
        else:
            canvas.write(left + 2, (top + bottom) / 2, 1, size, "lm")


def city_map(canvas: Canvas, box: Box) -> None:
    """Draw areas, roads that cross, and names of places."""
    random = canvas.random
    canvas.draw.rectangle(box, canvas.shade(0.1, canvas.colours[0]))
    for _ in range(random.randint(5, 25)):
        across, along = (
            random.choices(range(int(box[k]), int(box[k + 2])), k=4) for k in (0, 1)
        )
        points = list(zip(across, along, strict=True))
        colour = canvas.shade(random.choice((0, 0.4)), canvas.colour())
        if canvas.chance(0.2):
            canvas.draw.polygon(points, colour)
        canvas.draw.line(points[: random.randint(2, 3)], colour, random.randint(1, 7))
        canvas.write(*points[0], int(canvas.chance(0.3)), canvas.text_size, "mm")


def symbol(canvas: Canvas, box: Box) -> None:
    """Draw nested or neighbouring polygons, stars and ovals, some with letters."""
    random, (left, top, right, bottom) = canvas.random, inner(box, 0.05)
    x, y = (left + right) / 2, (top + bottom) / 2
    wide, high = right - x, bottom - y
    if canvas.chance(0.5):
        wide = high = min(wide, high)
    spread, fills = random.choice((0, 0, 0.6)), (canvas.colour(), canvas.paper)
    for part in range(random.randint(1, 6)):
        corners = random.choice((2, 2, 2, 3, 4, 5, 6, 8, 60, 60))
        points = polygon(canvas, corners, (x, y, wide, high))
        fill = fills[part % 2] if canvas.chance(0.8) else canvas.colour()
        if canvas.chance(0.3):
            width = max(1, round(min(wide, high) * random.uniform(0.1, 0.4)))
            canvas.draw.line([*points, *points[:2]], fill, width, "curve")
        else:
            canvas.draw.polygon(points, fill)
        x += random.choice((-1, 0, 0, 1)) * spread * wide
        y += random.choice((-1, 0, 0, 1)) * spread * high
        wide, high = (side * random.uniform(0.4, 0.95) for side in (wide, high))
    count, size = int(canvas.chance(0.3)), high * random.uniform(0.7, 2)
    canvas.write(x, random.choice((y, bottom)), count, size, "mm")


def polygon(canvas: Canvas, corners: int, frame: Box) -> Points:
    """Return the corners of a star or a polygon; `frame` is its centre and radii."""
    random, (x, y, wide, high) = canvas.random, frame
    turn = random.choice((0, 0.5, 0.5, random.random()))
    reaches = 1.0, random.choice((1, 1, 0.4, 0.7))
    angles = [math.pi * (i + turn) / corners for i in range(2 * corners)]
    return [
        (x + wide * reach * math.sin(angle), y - high * reach * math.cos(angle))
        for angle, reach in zip(angles, reaches * corners, strict=True)
    ]


def divide(canvas: Canvas, box: Box, blocks: Sequence[Block], depth: int) -> None:
    """Cut a box at random until its parts hold one block each."""
    width, height = box[2] - box[0], box[3] - box[1]
    if depth and min(width, height) > MIN_BOX:
        down = canvas.chance(height / (width + height))
        for part in cut(box, canvas.random.uniform(0.2, 0.8), down=down):
            divide(canvas, part, blocks, depth - 1)
    elif min(width, height) > MIN_TEXT:
        part = inner(box, canvas.random.uniform(0.02, 0.1))
        if canvas.chance(0.2):
            canvas.draw.rectangle(part, None, canvas.shade(0.25, canvas.ink))
        canvas.random.choice(blocks)(canvas, inner(part, 0.04))


def draw_chart(random: Random) -> Image.Image:
    """Draw a figure of one to six charts."""
    canvas = Canvas(random, (0.7, 2), dark=0.2)
    for cell in cells(canvas.box, *random.choice([*ONE, *FEW, (2, 3)])):
        chart(canvas, cell)
    return canvas.image


def draw_screenshot(random: Random) -> Image.Image:
    """Draw a window, a web page or the screen of a phone, with bars along its edges."""
    canvas = Canvas(random, random.choice(((0.45, 0.6), (1.2, 1.9))), dark=0.4)
    box = canvas.box
    for share, down, first in ((0.1, True, 0), (0.94, True, 1), (0.2, False, 0)):
        if canvas.chance(0.5):
            parts = cut(box, share, down=down)
            bar, rest = parts[first], parts[1 - first]
            fill = canvas.shade(random.choice((0.1, 1)), canvas.colour())
            canvas.draw.rectangle(bar, fill)
            divide(canvas, bar, (text, boxes), 0)
            box = rest
    blocks = (text, text, boxes, boxes, matrix, chart, symbol, city_map)
    divide(
        canvas, box, random.sample(blocks, random.randint(1, 4)), random.randint(0, 3)
    )
    return canvas.image


def draw_page(random: Random) -> Image.Image:
    """Draw a printed page, receipt, form, letter or map, half of them as scanned."""
    aspects = ((0.65, 0.8), (0.65, 0.8), (0.3, 0.6), (1.2, 1.5))
    canvas = Canvas(random, random.choice(aspects), dark=0)
    head, body = cut(inner(canvas.box, random.uniform(0.02, 0.15)), 0.1, down=True)
    canvas.write(*head[:2], random.randint(0, 5), canvas.text_size * 2, "lt")
    blocks = random.sample((*[text] * 6, boxes, chart, matrix, symbol, city_map), 4)
    for column in cells(body, 1, random.choice((1, 1, 1, 2, 3))):
        divide(canvas, column, blocks, random.randint(0, 3))
    return scan(canvas) if canvas.chance(0.5) else canvas.image


def scan(canvas: Canvas) -> Image.Image:
    """Lay a page on a desk, askew, in uneven light, with blur and grain."""
    desk, random = canvas.shade(0.5, canvas.colour()), canvas.random
    angle, by = random.gauss(0, 3), Image.Resampling.BILINEAR
    page = canvas.image.rotate(angle, by, expand=True, fillcolor=desk)
    page = page.filter(ImageFilter.BoxBlur(random.uniform(0, 1.5)))
    seeded = np.random.default_rng(random.getrandbits(32))
    grain = seeded.normal(0, random.uniform(0, 6), (page.height, page.width, 1))
    light = np.linspace(random.uniform(0.6, 1), 1, page.width)[:, None]
    pixels = (np.asarray(page) * light + grain).clip(0, WHITE)
    return Image.fromarray(pixels.astype(np.uint8))


def draw_logo(random: Random) -> Image.Image:
    """Draw a symbol or a name on plain ground, a flag, or a sheet of symbols."""
    canvas = Canvas(random, (0.6, 1.8), dark=0.3)
    if canvas.chance(0.3):
        matrix(canvas, canvas.box)
    block = random.choice((symbol, symbol, symbol, text))
    box = inner(canvas.box, random.uniform(0, 0.3))
    for cell in cells(box, *random.choice([*ONE, *FEW, *MANY])):
        block(canvas, cell)
    return canvas.image


KINDS = draw_chart, draw_screenshot, draw_page, draw_logo


def draw_document(seed: int) -> Image.Image:
    """Draw a document of the kind `seed` modulo 4, as "RGB"."""
    return KINDS[seed % len(KINDS)](Random(seed))  # noqa: S311 - nothing is secret
