"""A picture becomes what the model's own facts ask for."""

from typing import Any

import numpy as np
import pytest
from conftest import Encode
from PIL import Image

from model.preprocessing import Garment, Square, from_facts


@pytest.mark.parametrize("kind", [Garment(size=20), Square(size=24, draft_side=48)])
def test_facts_name_a_preprocessing_and_its_numbers(kind: Garment | Square) -> None:
    assert from_facts(kind.facts()) == kind


def test_a_garment_is_shown_at_the_size_of_the_input(encode: Encode) -> None:
    image = Image.new("RGB", (60, 80), "white")
    image.paste("navy", (20, 0, 40, 80))
    for size in (20, 32):
        pixels = Garment(size=size).to_pixels(encode(image))
        assert pixels.shape == Garment(size=size).input_shape == (size, size)
        assert (pixels[:, size // 2] > 250).all()
        assert not pixels[:, 0].any()


def test_a_square_keeps_the_middle_in_colour(encode: Encode) -> None:
    image = Image.new("RGB", (90, 30), "red")
    image.paste("blue", (30, 0, 60, 30))
    colour = Square(size=10, draft_side=10)
    grey = Square(size=10, draft_side=10, channels=1)
    assert colour.input_shape == (10, 10, 3)
    assert grey.input_shape == (10, 10)
    assert (colour.to_pixels(encode(image))[:, 2:-2] == (0, 0, 255)).all()
    assert (grey.to_pixels(encode(image))[:, 2:-2] == 29).all()  # ITU-R 601-2 luma


def test_a_finished_square_passes_through(encode: Encode) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (10, 10, 3), np.uint8)
    found = Square(size=10, draft_side=10).to_pixels(encode(pixels))
    assert (found == pixels).all()


@pytest.mark.parametrize(
    ("entry", "change", "reason"),
    [
        ("preprocessing", {"name": "circle"}, "no preprocessing 'circle'"),
        ("preprocessing", {"work_side": 0}, "work_side"),
        ("preprocessing", {"work_side": "84"}, "work_side"),
        ("preprocessing", {"crop": 1}, "crop"),
        ("input", {"channels": 3}, "channels"),
        ("input", {"size": 10**6}, "size"),
        ("input", {"size": 28.5}, "size"),
    ],
)
def test_facts_that_cannot_be_met_are_refused(
    entry: str, change: dict[str, Any], reason: str
) -> None:
    facts = Garment(size=28).facts()
    facts[entry] |= change
    with pytest.raises(ValueError, match=reason):
        from_facts(facts)
