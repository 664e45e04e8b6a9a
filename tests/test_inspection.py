"""Unusual pictures are found, ordinary ones are not, and equal ones are grouped."""

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image, ImageEnhance, ImageFilter

from training.inspection import KINDS, Measures, find_kinds, group_equal, measure

PICTURES = ROOT / "static/pictures"
PHOTO = Image.open(PICTURES / "photo-t-shirt.jpg").convert("RGB")
PHOTO.thumbnail((256, 256))


WHITE = Image.new("RGB", (200, 150), "white")
WHITE.paste("black", (90, 60, 120, 80))  # 2 % of it


def measured(*images: Image.Image) -> Measures:
    return np.concatenate([measure(bytes([i]), x) for i, x in enumerate(images)])


UNUSUAL = {
    "blank": Image.new("RGB", (200, 150), "orange"),
    "dark": ImageEnhance.Brightness(PHOTO).enhance(0.2),
    "bright": WHITE,
    "small": PHOTO.resize((40, 30)),
    "oddly shaped": PHOTO.crop((0, 100, PHOTO.width, 140)).resize((250, 70)),
    "blurry": PHOTO.filter(ImageFilter.GaussianBlur(3)),
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_an_unusual_picture_is_of_its_kind(kind: str) -> None:
    assert list(UNUSUAL) == [kind.name for kind in KINDS]
    found = find_kinds(measured(PHOTO, UNUSUAL[kind], PHOTO))
    assert {name: indices.tolist() for name, indices in found.items()} == {kind: [1]}


def test_what_a_whole_set_has_in_common_is_not_unusual() -> None:
    for image in UNUSUAL.values():
        assert not find_kinds(measured(image, image, image))


def test_copies_are_nearly_equal_and_other_pictures_are_not() -> None:
    copies = (
        PHOTO.resize((90, 120)),
        ImageEnhance.Brightness(PHOTO).enhance(1.1),
        ImageEnhance.Color(PHOTO).enhance(1.2),
        PHOTO.filter(ImageFilter.GaussianBlur(1)),
    )
    others = [Image.open(file).convert("RGB") for file in PICTURES.glob("*.png")]
    groups = group_equal(measured(*others, PHOTO, *copies))
    assert len(set(groups[len(others) :])) == 1
    assert len(set(groups)) == len(others) + 1


def test_a_set_of_one_picture_is_one_group() -> None:
    assert group_equal(measured(PHOTO, PHOTO)).tolist() == [0, 0]
