"""Pictures of four shapes, drawn at random: what the graphs here are trained on."""

import random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SHAPES = ["cross", "disc", "ring", "square"]
DRAWN = 4  # times the size, then reduced: smooth edges


def draw_shape(name: str, size: int, rng: random.Random) -> Image.Image:
    """Return an RGB picture of a bright shape on a dark background."""
    side = DRAWN * size
    image = Image.new("RGB", (side, side), _colour(rng, 0, 80))
    draw, colour = ImageDraw.Draw(image), _colour(rng, 150, 255)
    radius = rng.uniform(0.25, 0.4) * side
    x, y = (rng.uniform(radius, side - radius) for _ in range(2))
    box = x - radius, y - radius, x + radius, y + radius
    width = round(0.5 * radius)
    if name == "cross":
        draw.line((box[0], y, box[2], y), colour, width)
        draw.line((x, box[1], x, box[3]), colour, width)
    elif name == "square":
        draw.rectangle(box, colour)
    else:
        draw.ellipse(box, colour if name == "disc" else None, colour, width)
    return image.resize((size, size), Image.Resampling.BOX)


def draw_set(
    count: int, size: int, mode: str, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return uint8 [count, size, size(, 3)] in "L" or "RGB", and labels [count]."""
    rng = random.Random(seed)
    labels = np.arange(count) % len(SHAPES)
    pictures = [draw_shape(SHAPES[label], size, rng).convert(mode) for label in labels]
    return np.stack([np.asarray(picture) for picture in pictures]), labels


def _colour(rng: random.Random, least: int, most: int) -> tuple[int, int, int]:
    return rng.randint(least, most), rng.randint(least, most), rng.randint(least, most)
