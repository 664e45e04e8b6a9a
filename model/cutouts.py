"""Lay pictures with transparency on a ground on which all of them is visible.

    >>> choose_ground(white_shirt_with_a_dark_print)
    (128, 128, 128)

Background removers leave the opacity as a mask. A ground that is like no colour of what
is opaque keeps its outline for whatever separates an object from its background.
"""

import numpy as np
from PIL import Image

Colour = tuple[int, int, int]

SAMPLE_SIDE = 84  # pixels, of a small copy from which the ground is chosen
CUT_OUT = 230  # mean opacity below which a picture is a cut-out
OPAQUE = 128  # least opacity of a pixel that counts
LEAST_SHARE = 0.05  # of the opaque pixels: smaller parts need not be visible
BLACK, WHITE, GREY = (0, 0, 0), (255, 255, 255), (128, 128, 128)
GROUNDS = np.array([WHITE, BLACK, GREY], np.float32)


def composite(image: Image.Image, ground: Colour) -> Image.Image:
    """Composite a picture with transparency over a colour, to "RGB"."""
    image = to_rgba(image)
    below = Image.new("RGBA", image.size, ground)
    return Image.alpha_composite(below, image).convert("RGB")


def to_rgba(image: Image.Image) -> Image.Image:
    """Convert to "RGBA", premultiplied grey via "LA"."""
    return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")


def choose_ground(image: Image.Image) -> Colour:
    """Return white, or for a cut-out the grey that is farthest from its colours."""
    sample = to_rgba(image.resize((SAMPLE_SIDE, SAMPLE_SIDE), Image.Resampling.NEAREST))
    pixels = np.asarray(sample).reshape(-1, 4)
    opacity = pixels[:, 3]
    colours = pixels[opacity >= OPAQUE, :3]
    if opacity.mean() >= CUT_OUT or not colours.size:
        return WHITE
    distances = np.square(GROUNDS[:, None] - colours).mean(2)
    best = np.quantile(distances, LEAST_SHARE, axis=1).argmax()
    red, green, blue = map(int, GROUNDS[best])
    return red, green, blue


def has_opacity(image: Image.Image) -> bool:
    """Return whether a picture has transparency that its writer meant.

    Many writers leave the fourth byte of a pixel of a BMP 0.
    """
    if image.mode != "La" and not image.has_transparency_data:
        return False
    return image.format != "BMP" or image.getchannel("A").getextrema() != (0, 0)
