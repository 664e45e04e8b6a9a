"""Noise and other pictures of nothing, to measure what a model makes of them.

    >>> sorted(noise_sets(test_pictures))[:2]
    ['Gaussian noise', 'blank, every level']

Training on a built-in data set has the same kinds, drawn by other code with other
parameters (`synthetic/outliers.py`).
"""

import numpy as np
from numpy.typing import NDArray

from model.images import WHITE, Pixels
from training.metrics import Floats

NOISE_COUNT = 1_000  # pictures of each kind, fewer if they are large
NOISE_PIXELS = 5_000_000  # of each kind at most
SEED = 0


def noise_sets(pictures: Pixels) -> dict[str, Pixels]:
    """Return noise, and inverted test pictures: uint8 [N, *input_shape]."""
    random = np.random.default_rng(SEED)
    side = pictures.shape[1]
    count = min(NOISE_COUNT, NOISE_PIXELS // side**2)
    sets = grey_noise(count, side, random)
    if pictures.ndim > 3:  # noqa: PLR2004 - in colour
        sets = {name: np.repeat(found[..., None], 3, 3) for name, found in sets.items()}
    return sets | {"inverted test pictures": WHITE - pictures[:count]}


def grey_noise(count: int, side: int, random: np.random.Generator) -> dict[str, Pixels]:
    """Return grey pictures of nothing: uint8 [count, side, side]."""
    shape, each = (count, side, side), (count, 1, 1)
    axis = np.linspace(0, 1, side)
    angle = random.uniform(0, 2 * np.pi, each)
    slope = np.cos(angle) * axis + np.sin(angle) * axis[:, None]
    level = random.uniform(0, WHITE, each)
    share = random.uniform(0.02, 0.5, each)
    levels = np.arange(0, WHITE + 1, -(-WHITE // count), dtype=np.uint8)[:, None, None]
    return {
        "blank, every level": np.tile(levels, (1, side, side)),
        "nearly blank": to_uint8(level + random.normal(0, 2, shape)),
        "gradients": to_uint8(stretch(slope) * random.uniform(0.1, 1, each)),
        "uniform noise": random.integers(0, 256, shape, np.uint8),
        "Gaussian noise": to_uint8(random.normal(128, 50, shape)),
        "dark noise": to_uint8(np.abs(random.normal(0, 40, shape))),
        "salt and pepper": to_uint8((random.random(shape) < share) * float(WHITE)),
        "pink noise": power_law_noise(shape, 1, random),
        "brown noise": power_law_noise(shape, 2, random),
        "clouds": power_law_noise(shape, 3, random),
    }


def power_law_noise(
    shape: tuple[int, int, int], exponent: float, random: np.random.Generator
) -> Pixels:
    """Draw square pictures with an amplitude spectrum of 1/f**exponent."""
    side = shape[1]
    down, across = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)
    frequency = np.hypot(down, across).clip(1 / side)
    spectrum = np.fft.rfft2(random.normal(size=shape)) * frequency**-exponent
    return to_uint8(stretch(np.fft.irfft2(spectrum)))


def stretch(values: Floats) -> Floats:
    """Map the least and greatest value of each picture to 0 and 255."""
    low, high = values.min((1, 2), keepdims=True), values.max((1, 2), keepdims=True)
    levels: Floats = (values - low) / (high - low) * WHITE
    return levels


def to_uint8(values: NDArray[np.floating]) -> Pixels:
    """Clip to 0..255 and round."""
    return values.clip(0, WHITE).round().astype(np.uint8)
