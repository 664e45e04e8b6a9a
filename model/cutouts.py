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
DARK, VISIBLE, DISTINCT = 90, 12, 35  # differences between colours, in levels
BLACK, WHITE, GREY = (0, 0, 0), (255, 255, 255), (128, 128, 128)
GROUNDS = [GREY, BLACK, WHITE]


def composite(image: Image.Image, ground: Colour) -> Image.Image:
    """Composite a picture with transparency over a colour, to "RGB"."""
    image = to_rgba(image)
    below = Image.new("RGBA", image.size, ground)
    return Image.alpha_composite(below, image).convert("RGB")


def to_rgba(image: Image.Image) -> Image.Image:
    """Convert to "RGBA", premultiplied grey via "LA"."""
    return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")


def choose_ground(image: Image.Image) -> Colour:
    """Return white; for a cut-out a grey that all of it differs from.

    One that is a little darker than a garment shows its shades best: black under dark
    cloth, else grey.
    """
    sample = to_rgba(image.resize((SAMPLE_SIDE, SAMPLE_SIDE), Image.Resampling.NEAREST))
    pixels = np.asarray(sample).reshape(-1, 4)
    opacity = pixels[:, 3]
    colours = pixels[opacity >= OPAQUE, :3].astype(np.float32)
    if opacity.mean() >= CUT_OUT or not colours.size:
        return WHITE
    differences = np.sqrt(
        np.square(np.array(GROUNDS, np.float32)[:, None] - colours).mean(2)
    )
    least = np.quantile(differences, LEAST_SHARE, axis=1)
    shades = differences[GROUNDS.index(BLACK)]
    if np.quantile(shades, 1 - LEAST_SHARE) < DARK and np.median(shades) > VISIBLE:
        return BLACK
    return GREY if least[0] >= DISTINCT else GROUNDS[least.argmax()]


def has_opacity(image: Image.Image) -> bool:
    """Return whether a picture has transparency that its writer meant.

    Many writers leave the fourth byte of a pixel of a BMP 0.
    """
    if image.mode != "La" and not image.has_transparency_data:
        return False
    return image.format != "BMP" or image.getchannel("A").getextrema() != (0, 0)
