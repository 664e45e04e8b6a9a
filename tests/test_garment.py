"""A garment is separated from its background, its light and the person in it."""

from collections.abc import Callable

import numpy as np
import pytest
from conftest import ROOT, Encode, Samples, to_pixels
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageOps

from model import garment
from model.garment import (
    BACKGROUND_DISTANCE,
    OBJECT_DISTANCE,
    border_colour,
    correct_illumination,
    distance_from_background,
)

Colour = str | tuple[int, ...]
COLOURS = ["white", "#fdfdfd", "black", "grey", "red", "beige", "navy"]


def trousers(
    background: Colour = "white", colour: Colour = "navy", mode: str = "RGB"
) -> Image.Image:
    """A drawn pair of trousers."""
    image = Image.new(mode, (300, 400), background)
    outline = [(100, 50), (200, 50), (210, 350), (165, 350), (150, 150), (135, 350)]
    ImageDraw.Draw(image).polygon([*outline, (90, 350)], fill=colour)
    return image


IS_CLOTH = np.asarray(trousers("white", "black").convert("L")) == 0


@pytest.fixture
def shape(encode: Encode) -> NDArray[np.bool_]:
    """Where the trousers are in the pixels, bool [28, 28]."""
    return to_pixels(encode(trousers("white", "black"))) > 127


@pytest.mark.parametrize("colour", ["navy", "black", "white", "olive"])
@pytest.mark.parametrize("background", COLOURS)
def test_a_garment_is_bright_on_black_on_any_background(
    encode: Encode, shape: NDArray[np.bool_], background: Colour, colour: Colour
) -> None:
    pixels = to_pixels(encode(trousers(background, colour), "JPEG"))
    if background == colour:
        assert pixels.max() == 0
    elif (background, colour) == ("#fdfdfd", "white"):  # two levels apart
        assert pixels.max() < 20
    else:
        assert ((pixels > pixels.max() / 2) == shape).mean() > 0.97


@pytest.mark.parametrize("colour", COLOURS)
def test_a_blank_picture_is_black(encode: Encode, colour: Colour) -> None:
    assert to_pixels(encode(Image.new("RGB", (300, 400), colour), "JPEG")).max() == 0


def uneven_light() -> NDArray[np.floating]:
    """Light that falls off, grain and a floor of another colour."""
    colours = np.asarray(trousers("tan", "navy")).astype(np.float32)
    colours[380:] = 90, 60, 40
    down, across = np.linspace(0.85, 1.1, 300), np.linspace(1, 0.9, 400)
    grain = np.random.default_rng(1).normal(0, 4, colours.shape)
    return colours * down[:, None] * across[:, None, None] + grain


def white_folds(background: int) -> NDArray[np.floating]:
    """Folds about as light as the background, and a black label."""
    folds = 235 + 15 * np.sin(np.arange(300) / 4)
    levels = np.where(IS_CLOTH, folds, background)
    levels[60:75, 110:190] = 0
    return levels


def studio() -> NDArray[np.floating]:
    """A grey wall, darker to its corners, and a shadow beside the garment."""
    rows, columns = np.mgrid[-1:1:400j, -1:1:300j]
    wall = 215 - 45 * (rows**2 + columns**2)
    shadow = 30 * np.exp(-6 * (np.square(rows - 0.8) + np.square(columns - 0.5)))
    return np.where(IS_CLOTH, 60, wall - shadow)


def soft_shadow() -> NDArray[np.floating]:
    image = Image.new("RGB", (300, 400), "white")
    image.paste("#f0f0f0", (60, 300, 300, 390))
    cloth = ImageOps.invert(trousers().convert("L")).point(bool, "1")
    image.paste(trousers(), mask=cloth)
    return np.asarray(image).astype(np.float32)


@pytest.mark.parametrize(
    ("scene", "level", "share"),
    [
        (uneven_light, 100, 0.95),
        (lambda: white_folds(255), 40, 0.95),
        (lambda: white_folds(240), 40, 0.95),
        (lambda: np.where(IS_CLOTH, 240, 255), 127, 0.97),
        (lambda: np.where(IS_CLOTH, 244, 255), 127, 0.97),
        (lambda: np.where(IS_CLOTH, 250, 255), 127, 0.97),
        (studio, 100, 0.95),
        (soft_shadow, 127, 0.97),
    ],
    ids=["uneven", "folds", "folds on grey", "240", "244", "250", "studio", "shadow"],
)
def test_a_garment_is_found_in_any_light(
    encode: Encode,
    shape: NDArray[np.bool_],
    scene: Callable[[], NDArray[np.floating]],
    level: int,
    share: float,
) -> None:
    levels = scene().round().clip(0, 255).astype(np.uint8)
    for form in ("PNG", "JPEG"):
        pixels = to_pixels(encode(Image.fromarray(levels).convert("RGB"), form))
        assert ((pixels > level) == shape).mean() > share


def test_a_garment_may_reach_the_border(encode: Encode) -> None:
    pixels = to_pixels(encode(trousers().crop((0, 0, 300, 200))))
    assert pixels[2:].max(axis=1).min() > 200


def test_a_garment_fills_the_longest_side_with_specks_or_without(
    encode: Encode,
) -> None:
    image = trousers()
    clean = to_pixels(encode(image)).astype(int)
    assert clean[[0, -1]].max(axis=1).min() > 100
    image.putpixel((5, 5), (0, 0, 0))
    assert abs(to_pixels(encode(image)) - clean).max() <= 2


def test_steps_equal_the_paper_done_by_hand(encode: Encode) -> None:
    """A black bar of 14 x 28 on white is trimmed, centred and negated."""
    canvas = np.full((40, 40), 255, np.uint8)
    canvas[6:34, 13:27] = 0
    expected = np.zeros((28, 28), np.uint8)
    expected[:, 7:21] = 255
    assert (to_pixels(encode(canvas)) == expected).all()


def test_photos_are_preprocessed_as_when_the_threshold_was_chosen(
    encode: Encode,
) -> None:
    """Otherwise `model.bin` refuses other photos than `report/` says.

    A photo as it is, and large enough to be decoded at a fraction of its size.
    """
    file = ROOT / "static" / "pictures" / "photo-t-shirt.jpg"
    enlarged = encode(Image.open(file).resize((900, 1200)), "JPEG", quality=90)
    pixels = np.stack([to_pixels(data) for data in (file.read_bytes(), enlarged)])
    with np.load(ROOT / "tests" / "pictures.npz") as arrays:
        difference = np.abs(pixels.astype(int) - arrays["photo"])
    assert difference.max() <= 2  # another libjpeg may round otherwise


@pytest.mark.parametrize("colour", ["navy", "red", "grey"])
def test_a_garment_is_separated_from_the_person_in_it(
    encode: Encode, colour: str
) -> None:
    """A sleeveless top is bright, the drawn person's arms and legs are dark."""
    image = Image.new("RGB", (300, 400), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((100, 300, 200, 400), fill="olive")
    for left in (60, 210):
        draw.rectangle((left, 120, left + 30, 320), fill="#c89678")
    draw.rectangle((135, 80, 165, 130), fill="#c89678")
    draw.ellipse((115, 10, 185, 100), fill="#c89678")
    draw.rectangle((90, 110, 210, 330), fill=colour)
    is_bright = to_pixels(encode(image, "JPEG")) > 127
    assert is_bright[[0, -1]].any(axis=1).all()
    columns = np.flatnonzero(is_bright.any(axis=0))
    width = columns[-1] + 1 - columns[0]
    assert is_bright.sum() > 0.9 * 28 * width  # a rectangle, with nothing beside it
    assert 0.4 < width / 28 < 0.7  # 120 of 220


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
    found = np.stack([to_pixels(photo) for photo in photos])
    monkeypatch.setattr(garment, "HEAD_CONTRAST", garment.LEVELS)  # no head has it
    whole = np.stack([to_pixels(photo) for photo in photos])
    assert np.count_nonzero((found != whole).any((1, 2))) <= 3


@pytest.mark.parametrize(
    ("colour", "ground"), [("white", "grey"), ("#f5f5f0", "grey"), ("navy", "black")]
)
def test_a_cut_out_is_on_a_ground_that_shows_it(
    encode: Encode, colour: str, ground: str
) -> None:
    opaque = (*ImageColor.getrgb(colour)[:3], 255)
    cut_out = trousers((0, 0, 0, 0), opaque, "RGBA")
    expected = to_pixels(encode(trousers(ground, colour)))
    assert (to_pixels(encode(cut_out)) == expected).all()


def test_a_photo_with_transparent_corners_is_on_white(encode: Encode) -> None:
    photo = trousers((255, 255, 255, 255), (200, 0, 0, 255), "RGBA")
    expected = to_pixels(encode(photo))
    photo.paste((0, 0, 0, 0), (0, 0, 20, 20))  # a rounded corner
    assert (to_pixels(encode(photo)) == expected).all()


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
