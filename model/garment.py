"""Separate a garment from its background, whatever the colours of both.

    >>> isolate(colours).shape        # uint8 [3, 84, 63]: a shirt on a bed
    (71, 58)

A pixel is garment if its colour is commoner in the centre of the picture than along its
border, and if colours change abruptly on every path from the border to it.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Colours = NDArray[np.uint8]  # red, green and blue
Values = NDArray[np.floating]

LEVELS = 256  # of a channel
CACHED_SHAPES = 32  # of pictures, whose tables take about 10 MB

# Garment probability by colour. Distances between colours are in levels, 0 to 255.
BORDER_SHARE = 0.05  # width of the border that shows background / longest side
CENTRE_WIDTH = 0.55  # of the Gaussian that weighs the centre / half a side
BIN_LEVELS = 16  # of a channel, in one bin of a histogram
BINS = LEVELS // BIN_LEVELS  # of each channel
BIN_INDICES = np.arange(BINS, dtype=np.float32)
BIN_BLUR = np.exp(-0.5 * np.subtract.outer(BIN_INDICES, BIN_INDICES) ** 2) / 2.5
MIN_SHARE = 1e-5  # added to each bin: rare colours give no evidence
NEIGHBOUR_LOGITS = 2.0  # that a pixel's neighbours add to its log-odds at most
NEIGHBOUR_ROUNDS = 3
BLUR_RADIUS = 2  # pixels, of the neighbourhood
INNER_WEIGHT = 0.2  # of background inside the border in the mean background colour
FADE_RANGE = 0.5, 0.8  # probabilities between which brightness rises from 0 to 1

# Bounding box
BRIGHT_QUANTILE = 0.97  # of the levels of a picture: taken as the brightest
TRIM_LEVEL = 0.25  # of the brightest: a pixel below it is not visible
MIN_LEVEL = 6  # nor is one below this
TRIM_SHARE = 0.1  # of the fullest row or column: one with fewer pixels is cut off

# Low contrast: a garment of nearly the background's colour
MAX_LOW_CONTRAST = 2 * BIN_LEVELS
CONTRAST_QUANTILE = 0.4  # of the differences from the background: the typical one
MIN_DIFFERENCE = 5  # a smaller one is noise of the background
MAX_SPECKS = 0.05  # of the border of a plain background that differs
MIN_PIXELS = 20  # that differ; fewer are specks

# Distance from the background along paths
SMOOTH_STEP = 1  # between neighbours that costs nothing
BORDER_TOLERANCE = 6  # around the usual colour of the border that costs nothing
SWEEPS = 4  # over the picture, each in four directions
MAX_DISTANCE = 1 << 13  # more than any path has
BACKGROUND_DISTANCE, OBJECT_DISTANCE = (
    3,
    9,
)  # at most of background, at least of objects

# Illumination: a polynomial surface, fitted to the border
DEGREE = 3
POWERS = (DEGREE + 1) * (DEGREE + 2) // 2  # of row and column, products included
FITS = 4  # iterations of reweighted least squares
CAUCHY_SCALE = 3  # residual at which a pixel's weight is a half
RIDGE = np.eye(POWERS, dtype=np.float32)  # penalty, in pixels, on each coefficient
INLIER_RESIDUAL = 10
INLIER_SHARE = 0.6  # of the border, without which the surface is not used
MIN_SHADING = 6  # range of a surface, without which it is not used

# Person: shoulders and a head, in shares of height from the top and of width
HEAD, SHOULDERS, TRUNK = (0.0, 0.1), (0.25, 0.45), (0.35, 0.5)
WIDTH_QUANTILE = 0.95  # of the widths of the rows: taken as the greatest
HEAD_WIDTHS = 0.15, 0.65  # of the greatest width; a hanger's hook is narrower
SHOULDER_WIDTH = 0.7  # of the greatest width, at least
HEAD_SOLIDITY = 0.85  # of the head's width that is visible; a bag's handle has a hole
HEAD_CONTRAST = 40  # between head and trunk, at least; a hood has none
HEAD_CUT = 0.1  # of the height, so that hair or skin is at the border
CHANNEL_WEIGHTS = np.full(3, 1 / 3, np.float32)


def isolate(colours: Colours) -> Values:
    """Return the brightness of a garment, cropped to it: uint8 [3, h, w] to [h', w'].

    If a person wears it, the search is repeated inside the person, where skin, hair and
    other clothes are along the border, so that they are background.
    """
    corrected = correct_illumination(colours)
    background, spread = border_colour(corrected)
    distance = distance_from_background(corrected, background)
    is_plain = spread < MIN_DIFFERENCE  # otherwise low contrast is noise
    stretched = stretch_contrast(corrected, background, distance) if is_plain else None
    cover = np.ones(distance.shape, np.float32)
    if stretched is None:
        stretched = corrected
        above = np.float32(distance - BACKGROUND_DISTANCE)
        cover = (above / (OBJECT_DISTANCE - BACKGROUND_DISTANCE)).clip(0, 1)
    levels: Values = garment_levels(stretched) * cover
    rows, columns = bounding_box(levels)
    if not is_person(levels[rows, columns], colours[:, rows, columns]):
        return levels[rows, columns]
    rows = slice(rows.start + round(HEAD_CUT * (rows.stop - rows.start)), rows.stop)
    levels = garment_levels(stretched[:, rows, columns]) * cover[rows, columns]
    return levels[bounding_box(levels)]


def distance_from_background(
    colours: Colours, background: NDArray[np.int16]
) -> NDArray[np.int16]:
    """Sum the changes in colour on the smoothest path from the border: int16 [h, w].

    Paths begin where the border has the colour of the `background`, and follow rows and
    columns. Light and soft shadows change a background gradually, a garment begins
    abruptly (Wei et al., Geodesic Saliency Using Background Priors, 2012).
    """
    _, height, width = colours.shape
    offset = border_pixels(colours) - background[:, None]
    start = (largest_difference(offset) - BORDER_TOLERANCE).clip(0)
    distance = np.full((height, width), MAX_DISTANCE, np.int16)
    distance.ravel()[border_indices(height, width)] = start
    levels = colours.astype(np.int16)
    down, across = (
        largest_difference(np.diff(levels, axis=axis)) - SMOOTH_STEP for axis in (1, 2)
    )
    # costs from the upper and the left border; transposed: sums along rows are slow
    from_top = np.zeros((height, width), np.int16)
    from_left = np.zeros((width, height), np.int16)
    np.cumsum(down.clip(0, OBJECT_DISTANCE), axis=0, out=from_top[1:])
    np.cumsum(across.clip(0, OBJECT_DISTANCE).T, axis=0, out=from_left[1:])
    for _ in range(SWEEPS):
        distance = sweep(distance, from_top)
        distance = sweep(distance.T, from_left).T
    return distance


def sweep(
    distance: NDArray[np.int16], from_top: NDArray[np.int16]
) -> NDArray[np.int16]:
    """Shorten distances by paths down each column, then up: int16 [h, w]."""
    down = np.minimum.accumulate(distance - from_top, 0) + from_top
    up = np.minimum.accumulate((down + from_top)[::-1], 0)[::-1]
    shorter: NDArray[np.int16] = up - from_top
    return shorter


def correct_illumination(colours: Colours) -> Colours:
    """Subtract smoothly changing light from a plain background: uint8 [3, h, w].

    A polynomial surface is fitted to the border by iteratively reweighted least squares
    with Cauchy's weights, so that outliers count little. If most of the border lies on
    the surface, the border is background.
    """
    _, height, width = colours.shape
    basis = polynomials(height, width)
    border_basis = basis.take(border_indices(height, width), 1)
    border = border_pixels(colours)
    target = border - channel_medians(border).astype(np.float32)[:, None]
    residual = np.abs(target).max(0)
    for _ in range(FITS):
        weighted = border_basis / (1 + np.square(residual / CAUCHY_SCALE))
        normal = weighted @ border_basis.T + RIDGE
        surface = np.linalg.solve(normal, weighted @ target.T).T
        light = surface @ border_basis
        residual = np.abs(target - light).max(0)
    is_inlier = residual < INLIER_RESIDUAL
    shading = np.ptp(light, axis=1).max()
    if is_inlier.mean() < INLIER_SHARE or shading < MIN_SHADING:
        return colours
    surface[:, 0] -= light[:, is_inlier].mean(1)  # the first polynomial is constant
    corrected = colours.reshape(3, -1) - surface @ basis
    levels = corrected.round().clip(0, LEVELS - 1)
    return levels.astype(np.uint8).reshape(colours.shape)


@lru_cache(CACHED_SHAPES)
def polynomials(height: int, width: int) -> Values:
    """Return products of powers of row and column up to `DEGREE`: [POWERS, h * w]."""
    rows, columns = (np.linspace(-1, 1, side) for side in (height, width))
    products = [
        np.outer(rows**down, columns**across).ravel()
        for down in range(DEGREE + 1)
        for across in range(DEGREE + 1 - down)
    ]
    return np.stack(products).astype(np.float32)


def stretch_contrast(
    colours: Colours, background: NDArray[np.int16], distance: NDArray[np.int16]
) -> Colours | None:
    """Stretch colours near a plain background's, as white on white: uint8 [3, h, w].

    A difference of one level becomes at most one bin of a histogram. None if what
    differs from the background is not of low contrast. On all but the plainest
    backgrounds, only what is at a `distance` as well counts: the rest is light.
    """
    offset = colours - background[:, None, None]
    contrast = largest_difference(offset)
    differs = contrast >= MIN_DIFFERENCE
    border = differs.ravel()[border_indices(*contrast.shape)]
    if border.mean() >= MAX_SPECKS:
        differs &= distance > BACKGROUND_DISTANCE
    if np.count_nonzero(differs) < MIN_PIXELS:
        return None
    typical = int(quantile(contrast[differs], CONTRAST_QUANTILE))
    if typical >= MAX_LOW_CONTRAST:
        return None
    low, high = max(offset.min(), -2 * typical), min(offset.max(), 2 * typical)
    factor = min(BIN_LEVELS, (LEVELS - 1) // int(high - low))
    stretched: Colours = ((offset.clip(low, high) - low) * factor).astype(np.uint8)
    return stretched


def border_colour(colours: Colours) -> tuple[NDArray[np.int16], float]:
    """Return the median colour of the border, int16 [3], and the median difference."""
    border = border_pixels(colours)
    usual = channel_medians(border)
    return usual, quantile(largest_difference(border - usual[:, None]), 0.5)


def border_pixels(colours: Colours) -> Colours:
    """Return the colours along the border of a picture: uint8 [3, h, w] to [3, n]."""
    return colours.reshape(3, -1).take(border_indices(*colours.shape[1:]), 1)


def channel_medians(colours: Colours) -> NDArray[np.int16]:
    """Return the upper median of each channel: uint8 [3, n] to int16 [3]."""
    half = colours.shape[1] // 2
    return np.partition(colours, half)[:, half].astype(np.int16)


def largest_difference(offset: NDArray[np.int16]) -> NDArray[np.int16]:
    """Return the difference of the channel that differs most: [3, ...] to [...]."""
    largest: NDArray[np.int16] = np.abs(offset).max(0)
    return largest


def is_person(levels: Values, colours: Colours) -> bool:
    """Return whether a cropped object has shoulders, and a head of another colour."""
    height, width = levels.shape
    if height < width:
        return False
    visible = is_visible(levels)
    first, last = visible.argmax(1), width - visible[:, ::-1].argmax(1)
    widths = np.where(visible.any(1), last - first, 0) / width
    counts = visible.sum(1) / width
    greatest = quantile(widths, WIDTH_QUANTILE)
    head, shoulders, trunk = (
        slice(int(start * height), max(int(start * height) + 1, int(end * height)))
        for start, end in (HEAD, SHOULDERS, TRUNK)
    )
    narrow, broad = HEAD_WIDTHS
    if not (
        narrow * greatest < widths[head].mean() < broad * greatest
        and widths[shoulders].max() > SHOULDER_WIDTH * greatest
        and counts[head].sum() > HEAD_SOLIDITY * widths[head].sum()
        and visible[trunk].any()
    ):
        return False
    medians = [
        channel_medians(colours[:, part][:, visible[part]]) for part in (head, trunk)
    ]
    return bool(largest_difference(medians[0] - medians[1]) > HEAD_CONTRAST)


def garment_levels(colours: Colours) -> Values:
    """Return how brightly each pixel shows a garment: uint8 [3, h, w] to [h, w].

    The brightness grows with the pixel's probability to be garment, and with the square
    root of its distance from the mean background, so that similar colours show as well.
    """
    probability = garment_probability(colours)
    border = border_mask(*probability.shape)
    background = np.square(1 - probability) * (INNER_WEIGHT + border)
    offset = colours.reshape(3, -1).astype(np.float32)
    offset -= (offset @ background.ravel() / background.sum())[:, None]
    distance = np.sqrt(CHANNEL_WEIGHTS @ np.square(offset)).reshape(border.shape)
    low, high = FADE_RANGE
    opacity = ((probability - low) / (high - low)).clip(0, 1)
    levels: Values = opacity * np.sqrt((LEVELS - 1) * distance)
    return levels


def garment_probability(colours: Colours) -> Values:
    """Return each pixel's probability to be garment, not background: [h, w].

    Its odds are those of its colour, in the centre against the border of the picture
    (Jones and Rehg, Statistical Color Models, 2002), and its neighbours'.
    """
    _, height, width = colours.shape
    red, green, blue = (colours // BIN_LEVELS).astype(np.intp)
    bins = (red * BINS + green) * BINS + blue
    garment, background = (
        colour_histogram(bins, weights(height, width))
        for weights in (centre_weights, border_mask)
    )
    odds = (garment + MIN_SHARE) / (background + MIN_SHARE)
    logits = np.log(odds).astype(np.float32)[bins]
    probability: Values = 1 / (1 + np.exp(-logits))
    for _ in range(NEIGHBOUR_ROUNDS):
        neighbours = 2 * box_blur(probability) - 1
        probability = 1 / (1 + np.exp(-logits - NEIGHBOUR_LOGITS * neighbours))
    return probability


def colour_histogram(bins: NDArray[np.intp], weights: Values) -> Values:
    """Return the share of each colour, blurred over similar ones: [BINS ** 3]."""
    counts = np.bincount(bins.ravel(), weights.ravel(), BINS**3)
    shares: Values = (counts / weights.sum()).astype(np.float32)
    for _ in range(3):  # each pass blurs the first channel and makes it the last
        shares = shares.reshape(BINS, -1).T @ BIN_BLUR
    return shares.ravel()


@lru_cache(CACHED_SHAPES)
def border_mask(height: int, width: int) -> Values:
    """Return 1 along the border of a picture and 0 inside: [h, w]."""
    thickness = max(1, round(BORDER_SHARE * max(height, width)))
    mask = np.ones((height, width), np.float32)
    mask[thickness:-thickness, thickness:-thickness] = 0
    return mask


@lru_cache(CACHED_SHAPES)
def border_indices(height: int, width: int) -> NDArray[np.intp]:
    """Return the indices of the border in the flattened picture."""
    return np.flatnonzero(border_mask(height, width))


@lru_cache(CACHED_SHAPES)
def centre_weights(height: int, width: int) -> Values:
    """Return a Gaussian around the centre of a picture: [h, w]."""
    rows, columns = (
        np.linspace(-1, 1, side) / CENTRE_WIDTH for side in (height, width)
    )
    gaussian: Values = np.exp(-np.square(rows)[:, None] - np.square(columns))
    return gaussian


def box_blur(levels: Values) -> Values:
    """Average each pixel with those up to `BLUR_RADIUS` away, borders repeated: [h, w].

    Two matrix products are, at this size, several times as fast as running sums.
    """
    rows, columns = (averaging_matrix(side) for side in levels.shape)
    blurred: Values = rows @ levels @ columns.T
    return blurred


@lru_cache(CACHED_SHAPES)
def averaging_matrix(side: int) -> Values:
    """Return the matrix that averages neighbours in a column: [side, side]."""
    places = np.arange(side)[:, None] + np.arange(-BLUR_RADIUS, BLUR_RADIUS + 1)
    weights = np.zeros((side, side), np.float32)
    np.add.at(weights, (np.arange(side)[:, None], places.clip(0, side - 1)), 1)
    return weights / (2 * BLUR_RADIUS + 1)


def bounding_box(levels: Values) -> tuple[slice, slice]:
    """Return the rows and columns that show more than specks and faint blurs."""
    visible = is_visible(levels).astype(np.float32)
    spans = []
    for axis in (1, 0):
        profile = visible.mean(axis)
        inside = np.flatnonzero(profile > TRIM_SHARE * profile.max())
        spans.append(slice(inside[0], inside[-1] + 1) if inside.size else slice(None))
    return spans[0], spans[1]


def is_visible(levels: Values) -> NDArray[np.bool_]:
    """Return which pixels are bright enough to be part of a garment: bool [h, w]."""
    return levels > max(TRIM_LEVEL * quantile(levels, BRIGHT_QUANTILE), MIN_LEVEL)


def quantile(levels: NDArray[np.number], share: float) -> float:
    """Return a quantile as NumPy's linear interpolation does, in half the time."""
    place = share * (levels.size - 1)
    below = int(place)
    above = min(below + 1, levels.size - 1)
    ordered = np.partition(levels, (below, above), axis=None)
    low, high = float(ordered[below]), float(ordered[above])
    return low + (high - low) * (place - below)
