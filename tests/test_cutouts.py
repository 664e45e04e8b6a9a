"""A cut-out is visible on the ground that it is laid on."""

import numpy as np
import pytest
from conftest import Encode
from PIL import Image, ImageDraw

from model.cutouts import BLACK, GREY, WHITE, choose_ground
from model.images import decode
from model.preprocessing import Garment

SHIRT = [
    (30, 10),
    (90, 10),
    (118, 45),
    (95, 60),
    (95, 150),
    (25, 150),
    (25, 60),
    (2, 45),
]


def shirt(colour: str, print_colour: str | None = None) -> Image.Image:
    """A shirt in front of nothing, perhaps with a print."""
    image = Image.new("RGBA", (120, 160))
    draw = ImageDraw.Draw(image)
    draw.polygon(SHIRT, fill=colour)
    if print_colour:
        draw.rectangle((40, 60, 80, 110), fill=print_colour)
    return image


@pytest.mark.parametrize("colour", ["white", "black", "#808080", "#404040", "navy"])
@pytest.mark.parametrize("print_colour", [None, "#141420", "white", "red"])
def test_all_of_a_cut_out_is_shown(
    colour: str, print_colour: str | None, encode: Encode
) -> None:
    image = shirt(colour, print_colour)
    found = Garment(size=28).to_pixels(encode(image))
    alone = shirt("white")
    black = Image.alpha_composite(Image.new("RGBA", image.size, "black"), alone)
    expected = Garment(size=28).to_pixels(encode(black.convert("RGB")))
    assert ((found > 30) == (expected > 30)).mean() > 0.9


def test_a_picture_that_is_no_cut_out_is_put_on_white(encode: Encode) -> None:
    image = Image.new("RGBA", (100, 100), "white")
    image.putpixel((0, 0), (0, 0, 0, 0))
    assert choose_ground(image) == WHITE
    assert choose_ground(shirt("white", "black")) == GREY
    assert choose_ground(shirt("#808080")) in (BLACK, WHITE)
    assert decode(encode(image)).getpixel((0, 0)) == WHITE


def test_a_bmp_whose_opacity_is_0_everywhere_is_opaque() -> None:
    pixels = np.zeros((40, 30, 4), np.uint8)
    pixels[..., :3] = 200, 100, 50
    head = (124).to_bytes(4, "little") + np.array([30, 40], "<i4").tobytes()
    head += np.array([1, 32], "<u2").tobytes() + np.array([3, 4800], "<u4").tobytes()
    head += bytes(16) + np.array([0xFF0000, 0xFF00, 0xFF, 0xFF << 24], "<u4").tobytes()
    head += b"BGRs" + bytes(64)
    data = b"BM" + np.array([138 + 4800, 0, 138], "<u4").tobytes() + head
    assert decode(data + pixels.tobytes()).getpixel((9, 9)) == (50, 100, 200)
