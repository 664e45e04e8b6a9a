"""A garment is separated from its background, its light and the person in it."""

import numpy as np
import pytest
from conftest import Encode, Samples
from PIL import Image, ImageDraw

from model import garment
from model.garment import (
    BACKGROUND_DISTANCE,
    OBJECT_DISTANCE,
    border_colour,
    correct_illumination,
    distance_from_background,
)
from model.preprocessing import Garment


@pytest.mark.parametrize("hook", [0, 8, 12])
def test_a_garment_alone_is_no_person(
    samples: Samples, encode: Encode, hook: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Product photos: enlarged, negated, on white, on a hanger or none."""
    photos = []
    for pixels in samples.pixels:
        grey = Image.fromarray(255 - pixels // 2).resize((300, 300))
        photo = Image.new("L", (360, 400), 255)
        photo.paste(grey, (30, 70))
        if hook:
            ImageDraw.Draw(photo).line((180, 30, 180, 90), fill=90, width=hook)
        photos.append(encode(photo))
    to_pixels = Garment(size=28).to_pixels
    found = np.stack([to_pixels(photo) for photo in photos])
    monkeypatch.setattr(garment, "HEAD_CONTRAST", garment.LEVELS)  # no head has it
    whole = np.stack([to_pixels(photo) for photo in photos])
    assert np.count_nonzero((found != whole).any((1, 2))) <= 3


def test_only_abrupt_changes_of_colour_are_a_distance() -> None:
    ramp = np.linspace(100, 180, 84)[None, :, None].repeat(3, 0).repeat(84, 2)
    corrected = correct_illumination(ramp.round().astype(np.uint8))
    distance = distance_from_background(corrected, border_colour(corrected)[0])
    assert distance.max() <= BACKGROUND_DISTANCE
    ramp[:, 30:50, 30:50] = [[[200]], [[40]], [[40]]]
    corrected = correct_illumination(ramp.round().astype(np.uint8))
    distance = distance_from_background(corrected, border_colour(corrected)[0])
    assert distance[32:48, 32:48].min() >= OBJECT_DISTANCE
    distance[30:50, 30:50] = 0
    assert distance.max() <= BACKGROUND_DISTANCE


def test_only_the_light_on_the_background_is_corrected() -> None:
    """An object keeps its contrast, and a flat background its colour."""
    flat = np.full((3, 84, 84), 180, np.uint8)
    flat[:, 30:60, 30:60] = [[[40]], [[60]], [[90]]]
    assert (correct_illumination(flat) == flat).all()
    light = np.linspace(-30, 30, 84)
    corrected = correct_illumination((flat + light).round().astype(np.uint8))
    assert np.ptp(corrected[:, [0, -1]].astype(int)) <= 4
    contrast = corrected[:, 45, 45].astype(int) - corrected[:, 0, 0]
    assert np.abs(contrast - (flat[:, 45, 45] - 180.0)).max() < 8
