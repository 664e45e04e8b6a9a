"""Pictures to the input of a model, as the model's own facts describe it.

    >>> from_facts(artifact.load("model.bin").facts).to_pixels(data).shape
    (28, 28)

The service, evaluation and training all preprocess here. "garment" follows the paper
of Fashion-MNIST (Xiao, Rasul, Vollgraf, arXiv 1708.07747, section 2), extended
to backgrounds of any colour and to photos; "square" is for pictures of anything.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps
from pydantic import BaseModel, Field

from model.garment import BRIGHT_QUANTILE, isolate, quantile
from model.images import DRAFT_SIDE, WHITE, WORK_SIDE, Pixels, decode, is_grey

MAX_SIDE = 1024  # pixels, of an input or of a step towards it
MIN_CONTRAST = 40  # levels, the least that is stretched to white


class Preprocessing(BaseModel, frozen=True, strict=True, extra="forbid"):
    """How pictures become the input of a model, by its own facts."""

    size: int = Field(ge=1, le=MAX_SIDE)  # pixels, of both sides of the input
    channels: Literal[1, 3]  # grey; or red, green and blue
    draft_side: int = Field(ge=1, le=4 * MAX_SIDE)  # as in `decode`

    @property
    def input_shape(self) -> tuple[int, ...]:
        """[size, size], or [size, size, 3]."""
        square = self.size, self.size
        return square if self.channels == 1 else (*square, self.channels)

    def to_pixels(self, data: bytes) -> Pixels:
        """Turn an encoded picture into uint8 `input_shape`. Raises `ImageError`."""
        return self.preprocess(self.decode(data))

    def decode(self, data: bytes) -> Image.Image:
        """Decode to an upright "L" or "RGB" for `preprocess`. Raises `ImageError`."""
        return decode(data, self.draft_side, self.size)

    def preprocess(self, image: Image.Image) -> Pixels:
        """Turn an upright "L" or "RGB" picture into uint8 `input_shape`."""
        raise NotImplementedError

    def facts(self) -> dict[str, dict[str, Any]]:
        """Return what `from_facts` reads: the entries of `model.json`."""
        shape = self.model_dump(include={"size", "channels"})
        numbers = self.model_dump(exclude={"size", "channels"})
        name = next(n for n, kind in PREPROCESSINGS.items() if kind is type(self))
        return {"input": shape, "preprocessing": {"name": name, **numbers}}


class Garment(Preprocessing, frozen=True):
    """Isolate a garment and show it as Fashion-MNIST does: grey, bright on black.

    A grey picture of the right size is a finished input and stays as it is.
    """

    channels: Literal[1] = 1
    draft_side: int = Field(default=DRAFT_SIDE, ge=1, le=4 * MAX_SIDE)
    work_side: int = Field(default=WORK_SIDE, ge=1, le=MAX_SIDE)  # of `isolate`
    margin: int = Field(default=0, ge=0, le=MAX_SIDE)  # pixels, black, on each side

    def preprocess(self, image: Image.Image) -> Pixels:
        """Turn an upright "L" or "RGB" picture into uint8 [size, size]."""
        if image.size == (self.size, self.size) and is_grey(image):
            return np.asarray(image if image.mode == "L" else image.convert("L"))
        return isolate_garment(image, self.size, self.work_side, self.margin)


class Square(Preprocessing, frozen=True):
    """Crop the middle square of a picture and resize it, in colour or in grey."""

    channels: Literal[1, 3] = 3

    def preprocess(self, image: Image.Image) -> Pixels:
        """Turn an upright "L" or "RGB" picture into uint8 `input_shape`."""
        mode = "L" if self.channels == 1 else "RGB"
        by = Image.Resampling.BILINEAR
        return np.asarray(ImageOps.fit(image.convert(mode), (self.size, self.size), by))


PREPROCESSINGS: dict[str, type[Preprocessing]] = {"garment": Garment, "square": Square}


def from_facts(facts: Mapping[str, Any]) -> Preprocessing:
    """Return the preprocessing that `input` and `preprocessing` of `model.json` name.

    Raises `ValueError` if there is none of that name, or with such numbers.
    """
    numbers = dict(facts["preprocessing"])
    name = str(numbers.pop("name", ""))
    if name not in PREPROCESSINGS:
        raise ValueError(f"no preprocessing {name!r}: {', '.join(PREPROCESSINGS)}")
    return PREPROCESSINGS[name](**facts["input"], **numbers)


def isolate_garment(
    image: Image.Image, size: int, work_side: int, margin: int = 0
) -> Pixels:
    """Show a garment the way Fashion-MNIST does: uint8 [size, size].

    The paper trims white thumbnails, resizes, extends, negates and converts them to
    grey. Here the background may be of any colours and becomes black; a pixel is the
    brighter, the likelier it is garment and the farther its colour is from the
    background's.
    The garment is isolated at `work_side` pixels, longest side.
    """
    side = min(work_side, max(image.size))
    small = fit(image, side, Image.Resampling.HAMMING).convert("RGB")
    garment = isolate(np.moveaxis(np.asarray(small), 2, 0).copy())
    side = max(1, size - 2 * margin)
    levels = np.asarray(fit(Image.fromarray(garment), side, Image.Resampling.BOX))
    height, width = levels.shape
    brightest = quantile(levels, BRIGHT_QUANTILE)
    levels = levels * (WHITE / max(brightest, MIN_CONTRAST))
    pixels = np.zeros((size, size), np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    pixels[top : top + height, left : left + width] = levels.round().clip(0, WHITE)
    return pixels


def fit(image: Image.Image, side: int, by: Image.Resampling) -> Image.Image:
    """Resize a picture so that its longer side has `side` pixels."""
    scale = side / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    return image.resize((width, height), by, reducing_gap=2.0)
