"""A garment is told from its ground, its light and who wears it."""

import numpy as np
import pytest
from conftest import Encode, Samples
from PIL import Image, ImageDraw

from model import garment
from model.garment import (
    APART,
    GROUND,
    Colours,
    Values,
    edge_colour,
    even_out,
    steps_from_ground,
)
from model.images import to_pixels


@pytest.mark.parametrize("hook", [0, 8, 12])
def test_a_garment_alone_is_no_person(
    samples: Samples, encode: Encode, hook: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Enlarged, negated, on white, on a hanger or none: product photos."""
    told = []

    def spy(levels: Values, colours: Colours) -> bool:
        told.append(is_worn(levels, colours))
        return told[-1]

    is_worn = garment.is_worn
    monkeypatch.setattr(garment, "is_worn", spy)
    for pixels in samples.pixels:
        grey = Image.fromarray(255 - pixels // 2).resize((300, 300))
        photo = Image.new("L", (360, 400), 255)
        photo.paste(grey, (30, 70))
        if hook:
            ImageDraw.Draw(photo).line((180, 30, 180, 90), fill=90, width=hook)
        to_pixels(encode(photo))
    assert len(told) == len(samples.pixels)
    assert sum(told) <= 3


def test_only_what_ends_at_once_is_a_step_away() -> None:
    ramp = np.linspace(100, 180, 84)[None, :, None].repeat(3, 0).repeat(84, 2)
    colours = ramp.round().astype(np.uint8)
    evened = even_out(colours)
    assert steps_from_ground(evened, edge_colour(evened)[0]).max() <= GROUND
    colours[:, 30:50, 30:50] = [[[200]], [[40]], [[40]]]
    evened = even_out(colours)
    steps = steps_from_ground(evened, edge_colour(evened)[0])
    assert steps[32:48, 32:48].min() >= APART
    steps[30:50, 30:50] = 0
    assert steps.max() <= GROUND


def test_light_is_taken_out_of_the_ground_alone() -> None:
    """The thing stays as far from it as it was, and a flat picture as it is."""
    flat = np.full((3, 84, 84), 180, np.uint8)
    flat[:, 30:60, 30:60] = [[[40]], [[60]], [[90]]]
    assert (even_out(flat) == flat).all()
    light = np.linspace(-30, 30, 84)
    evened = even_out((flat + light).round().astype(np.uint8))
    around = evened[:, [0, -1]].astype(int)
    assert np.ptp(around) <= 4
    found = evened[:, 45, 45].astype(int) - evened[:, 0, 0]
    assert np.abs(found - (flat[:, 45, 45] - 180.0)).max() < 8
