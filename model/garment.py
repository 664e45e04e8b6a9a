"""Where the garment is in a picture, and how brightly it shows.

    >>> isolate(colours).shape        # uint8 [3, 84, 63]: a shirt on a bed
    (71, 58)

By what is as common in the middle as at the edges, and by the steps in colour on the
way there. `images` brings what is found to the pixels that the network sees.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Colours = NDArray[np.uint8]  # red, green and blue
Values = NDArray[np.floating]

LEVELS = 256  # of a channel
SHAPES = 32  # of pictures, for which tables are kept: some 10 MB
# How a garment is found, in levels of 0..255 where nothing else is said.
EDGE_SHARE = 0.05  # of the longest side: how wide the edges that show the ground are
MIDDLE = 0.55  # of half a side: how wide a bell the middle is that shows the garment
BIN = 16  # levels of a channel that count as one
BINS = LEVELS // BIN  # of each channel
SHADES = np.arange(BINS, dtype=np.float32)
SPREAD = np.exp(-0.5 * np.subtract.outer(SHADES, SHADES) ** 2) / 2.5  # a bell
RARE = 1e-5  # of the pixels: a colour so rare tells nothing
AGREEMENT = 2.0  # log-odds that a pixel's neighbours add at most
ROUNDS = 3  # of asking the neighbours
REACH = 2  # pixels, how far away they are
INNER_GROUND = 0.2  # of what ground at the edges counts for the ground's mean colour
SURE = 0.5, 0.8  # likelihoods between which a pixel fades in
BRIGHT_QUANTILE = 0.97  # of a picture's levels: what is higher is as bright
TRIM_LEVEL = 0.25  # of the brightest: less does not make a garment
MIN_LEVEL = 6  # nor does less than this
TRIM_SHARE = 0.1  # of the fullest row or column: less is a speck
NEAR = 2 * BIN  # levels from a plain ground's colour, too few to tell apart
NEAR_SHARE = 0.4  # of what differs from the ground, so near at least
MIN_OFFSET = 5  # fewer are the ground's own
SPECKS = 0.05  # of the edges of the plainest grounds differ, at most
FEWEST = 20  # pixels that differ from the ground: fewer are specks
# How a smooth ground is told, in levels.
SMOOTH = 1  # that neighbours may differ without a step
USUAL = 6  # that the edges may differ from their usual colour
SWEEPS = 4  # of the picture, each in four directions
FAR = 1 << 13  # steps, more than any way takes
GROUND, APART = 3, 9  # steps up to which it is ground, and from which it is none
DEGREE = 3  # of the surface that a ground's light makes
FITS = 4  # of that surface, each trusting less what lies off the one before
OFF = 3  # levels off a surface that halve the trust
POWERS = (DEGREE + 1) * (DEGREE + 2) // 2  # of row and column in such a surface
STIFF = np.eye(POWERS, dtype=np.float32)  # pixels' worth of each power being none
LYING = 10, 0.6  # so near lies so great a share of the edges, or it is no such ground
MIN_SLOPE = 6  # less is no change of light
# How a person is told from a garment, in shares of height, from the top, and width.
HEAD, SHOULDERS, TRUNK = (0.0, 0.1), (0.25, 0.45), (0.35, 0.5)
WIDEST = 0.95  # quantile of the rows' widths that is taken for the greatest
HEAD_WIDTHS = 0.15, 0.65  # of that; the hook of a hanger is narrower
SHOULDER_WIDTH = 0.7  # likewise, at least
SOLID = 0.85  # of a head's width that shows: the handles of a bag have a hole
UNLIKE = 40  # levels between a head's colour and the trunk's: a hood has none
CROWN = 0.1  # cut off, so that hair or skin is at the edge
EVENLY = np.full(3, 1 / 3, np.float32)  # weights of the channels


def isolate(colours: Colours) -> Values:
    """RGB uint8 [3, h, w] to how brightly a garment shows, trimmed: [h', w'].

    One that a person wears is looked for again, where the person is: skin, hair and
    what else is worn lie at the edges then, and are ground.
    """
    evened = even_out(colours)
    usual, spread = edge_colour(evened)
    steps = steps_from_ground(evened, usual)
    # where the edges vary, nothing lies too near to them
    apart = stretch(evened, usual, steps) if spread < MIN_OFFSET else None
    # what is as pale as its ground may pass into it without a step
    cover = np.ones(steps.shape, np.float32)
    if apart is None:
        apart = evened
        cover = (np.float32(steps - GROUND) / (APART - GROUND)).clip(0, 1)
    levels: Values = find_garment(apart) * cover
    rows, columns = trimmed(levels)
    if not is_worn(levels[rows, columns], colours[:, rows, columns]):
        return levels[rows, columns]
    rows = slice(rows.start + round(CROWN * (rows.stop - rows.start)), rows.stop)
    levels = find_garment(apart[:, rows, columns]) * cover[rows, columns]
    return levels[trimmed(levels)]


def steps_from_ground(colours: Colours, usual: NDArray[np.int16]) -> NDArray[np.int16]:
    """Add up the steps in colour on the smoothest way from the edges: [h, w].

    Ways begin where the edges have their `usual` colour, and go along rows and columns.
    Light and soft shadows change a ground little by little, a garment ends at once (Wei
    et al., Geodesic Saliency Using Background Priors, 2012).
    """
    _, height, width = colours.shape
    offset = along_edges(colours) - usual[:, None]
    steps = np.full((height, width), FAR, np.int16)
    steps.ravel()[border(height, width)] = (difference(offset) - USUAL).clip(0)
    levels = colours.astype(np.int16)
    down, across = (
        (difference(np.diff(levels, axis=axis)) - SMOOTH).clip(0, APART)
        for axis in (1, 2)
    )
    # what it takes to come here from the upper, or the left edge; rows come first,
    # since sums along them are slow
    from_top = np.zeros((height, width), np.int16)
    from_left = np.zeros((width, height), np.int16)
    np.cumsum(down, axis=0, out=from_top[1:])
    np.cumsum(across.T, axis=0, out=from_left[1:])
    for _ in range(SWEEPS):
        steps = sweep(steps, from_top)
        steps = sweep(steps.T, from_left).T
    return steps


def sweep(steps: NDArray[np.int16], so_far: NDArray[np.int16]) -> NDArray[np.int16]:
    """Carry steps down all columns, then up, if that is a shorter way: [h, w]."""
    forth = np.minimum.accumulate(steps - so_far, 0) + so_far
    back = np.minimum.accumulate((forth + so_far)[::-1], 0)[::-1]
    shorter: NDArray[np.int16] = back - so_far
    return shorter


def even_out(colours: Colours) -> Colours:
    """Take out the light of a ground that changes smoothly: RGB uint8 [3, h, w].

    A surface is fitted to the edges, again and again, with less weight on what lies
    off it (Cauchy's). If most of them lie on it, it is the ground.
    """
    _, height, width = colours.shape
    powers = surfaces(height, width)
    known = powers.take(border(height, width), 1)
    around = along_edges(colours)
    seen = around - median(around).astype(np.float32)[:, None]
    off = np.abs(seen).max(0)
    for _ in range(FITS):
        trusted = known / (1 + np.square(off / OFF))
        # what is little seen is rather level
        surface = np.linalg.solve(trusted @ known.T + STIFF, trusted @ seen.T).T
        light = surface @ known
        off = np.abs(seen - light).max(0)
    near, share = LYING
    lying = off < near
    if lying.mean() < share or np.ptp(light, axis=1).max() < MIN_SLOPE:
        return colours
    surface[:, 0] -= light[:, lying].mean(1)  # the first power is level
    evened = (colours.reshape(3, -1) - surface @ powers).round().clip(0, LEVELS - 1)
    return evened.astype(np.uint8).reshape(colours.shape)


@lru_cache(SHAPES)
def surfaces(height: int, width: int) -> Values:
    """Lay out products of powers of row and column up to `DEGREE`: [powers, h * w]."""
    rows, columns = (np.linspace(-1, 1, side) for side in (height, width))
    powers = [
        np.outer(rows**down, columns**across).ravel()
        for down in range(DEGREE + 1)
        for across in range(DEGREE + 1 - down)
    ]
    return np.stack(powers).astype(np.float32)


def stretch(
    colours: Colours, usual: NDArray[np.int16], steps: NDArray[np.int16]
) -> Colours | None:
    """Bring colours apart that lie near a plain ground's: RGB uint8 [3, h, w].

    White on white, say: each level becomes a colour of its own, at most. Much of what
    differs from the ground has to be as near, or nothing is returned. That it lies
    `steps` away as well tells it from the light of all grounds but the plainest.
    """
    offset = colours - usual[:, None, None]
    far = difference(offset)
    differs = far >= MIN_OFFSET
    is_plainest = differs.ravel()[border(*far.shape)].mean() < SPECKS
    shown = far[differs if is_plainest else differs & (steps > GROUND)]
    if shown.size < FEWEST:
        return None
    typical = int(quantile(shown, NEAR_SHARE))
    if typical >= NEAR:
        return None
    low, high = max(offset.min(), -2 * typical), min(offset.max(), 2 * typical)
    factor = min(BIN, (LEVELS - 1) // int(high - low))
    apart: Colours = ((offset.clip(low, high) - low) * factor).astype(np.uint8)
    return apart


def edge_colour(colours: Colours) -> tuple[NDArray[np.int16], float]:
    """Return the usual colour at the edges, int16 [3], and how far half of them are."""
    around = along_edges(colours)
    usual = median(around)
    return usual, quantile(difference(around - usual[:, None]), 0.5)


def along_edges(colours: Colours) -> Colours:
    """Pick the colours along the edges of a picture: uint8 [3, h, w] to [3, n]."""
    return colours.reshape(3, -1).take(border(*colours.shape[1:]), 1)


def median(colours: Colours) -> NDArray[np.int16]:
    """Return the upper median of each channel: uint8 [3, n] to int16 [3]."""
    half = colours.shape[1] // 2
    return np.partition(colours, half)[:, half].astype(np.int16)


def difference(offset: NDArray[np.int16]) -> NDArray[np.int16]:
    """Return the difference of the channel that differs most: [3, ...] to [...]."""
    most: NDArray[np.int16] = np.abs(offset).max(0)
    return most


def is_worn(garment: Values, colours: Colours) -> bool:
    """Tell whether what was found is a person, with shoulders and a head of its own."""
    height, width = garment.shape
    if height < width:
        return False
    shown = is_shown(garment)
    first, last = shown.argmax(1), width - shown[:, ::-1].argmax(1)
    widths = np.where(shown.any(1), last - first, 0) / width
    counts = shown.sum(1) / width
    widest = quantile(widths, WIDEST)
    head, shoulders, trunk = (
        slice(int(start * height), max(int(start * height) + 1, int(end * height)))
        for start, end in (HEAD, SHOULDERS, TRUNK)
    )
    narrow, broad = HEAD_WIDTHS
    if not (
        narrow * widest < widths[head].mean() < broad * widest
        and widths[shoulders].max() > SHOULDER_WIDTH * widest
        and counts[head].sum() > SOLID * widths[head].sum()
        and shown[trunk].any()
    ):
        return False
    usual = [
        median(colours[:, part].reshape(3, -1).compress(shown[part].ravel(), 1))
        for part in (head, trunk)
    ]
    return bool(difference(usual[0] - usual[1]) > UNLIKE)


def find_garment(colours: Colours) -> Values:
    """RGB uint8 [3, h, w] to how brightly each pixel shows a garment: [h, w].

    As bright as it is likely to be garment, and as its colour is far from the mean
    of the ground: by the root, so that colours near the ground's show as well.
    """
    likely = likelihood(colours)
    ground = np.square(1 - likely) * (INNER_GROUND + edges(*likely.shape))
    offset = colours.reshape(3, -1).astype(np.float32)
    offset -= (offset @ ground.ravel() / ground.sum())[:, None]
    distance = np.sqrt(EVENLY @ np.square(offset)).reshape(likely.shape)
    low, high = SURE
    shown = ((likely - low) / (high - low)).clip(0, 1)
    levels: Values = shown * np.sqrt((LEVELS - 1) * distance)
    return levels


def likelihood(colours: Colours) -> Values:
    """Tell how likely each pixel is to be garment, not ground: [h, w].

    By its colour, as common in the middle as at the edges of the picture (Jones and
    Rehg, Statistical Color Models, 2002), and by what its neighbours are.
    """
    _, height, width = colours.shape
    red, green, blue = (colours // BIN).astype(np.intp)
    bins = (red * BINS + green) * BINS + blue
    garment, ground = (count(bins, weigh(height, width)) for weigh in (middle, edges))
    odds = np.log((garment + RARE) / (ground + RARE)).astype(np.float32)[bins]
    likely: Values = 1 / (1 + np.exp(-odds))
    for _ in range(ROUNDS):
        around = 2 * box_blur(likely) - 1
        likely = 1 / (1 + np.exp(-odds - AGREEMENT * around))
    return likely


def count(bins: NDArray[np.intp], weights: Values) -> Values:
    """Count colours, each spread a little over those like it: [BINS ** 3]."""
    counts = np.bincount(bins.ravel(), weights.ravel(), BINS**3)
    shares: Values = (counts / weights.sum()).astype(np.float32)
    for _ in range(3):  # each pass spreads the first channel and puts it last
        shares = shares.reshape(BINS, -1).T @ SPREAD
    return shares.ravel()


@lru_cache(SHAPES)
def edges(height: int, width: int) -> Values:
    """Mark what lies along the edges of a picture with 1, the rest with 0: [h, w]."""
    thick = max(1, round(EDGE_SHARE * max(height, width)))
    marks = np.ones((height, width), np.float32)
    marks[thick:-thick, thick:-thick] = 0
    return marks


@lru_cache(SHAPES)
def border(height: int, width: int) -> NDArray[np.intp]:
    """List where the edges of a picture lie if its rows follow one another."""
    return np.flatnonzero(edges(height, width))


@lru_cache(SHAPES)
def middle(height: int, width: int) -> Values:
    """Weigh pixels by how near they are to the middle of a picture: [h, w]."""
    rows, columns = (np.linspace(-1, 1, side) / MIDDLE for side in (height, width))
    bell: Values = np.exp(-np.square(rows)[:, None] - np.square(columns))
    return bell


def box_blur(levels: Values) -> Values:
    """Average each pixel with those up to `REACH` away, edges repeated: [h, w].

    As two products: at this size, several times as fast as running sums.
    """
    rows, columns = (averages(side) for side in levels.shape)
    blurred: Values = rows @ levels @ columns.T
    return blurred


@lru_cache(SHAPES)
def averages(side: int) -> Values:
    """Write the matrix that averages neighbours in a column of so many: [h, h]."""
    places = np.arange(side)[:, None] + np.arange(-REACH, REACH + 1)
    weights = np.zeros((side, side), np.float32)
    np.add.at(weights, (np.arange(side)[:, None], places.clip(0, side - 1)), 1)
    return weights / (2 * REACH + 1)


def trimmed(levels: Values) -> tuple[slice, slice]:
    """Leave out rows and columns that show next to nothing but glows and specks."""
    shown = is_shown(levels).astype(np.float32)
    spans = []
    for axis in (1, 0):
        profile = shown.mean(axis)
        inside = np.flatnonzero(profile > TRIM_SHARE * profile.max())
        spans.append(slice(inside[0], inside[-1] + 1) if inside.size else slice(None))
    return spans[0], spans[1]


def is_shown(levels: Values) -> NDArray[np.bool_]:
    """Tell which pixels show something of a garment, not a glow: bool [h, w]."""
    return levels > max(TRIM_LEVEL * quantile(levels, BRIGHT_QUANTILE), MIN_LEVEL)


def quantile(levels: NDArray[np.number], share: float) -> float:
    """Return what NumPy's does, by linear interpolation, in half the time."""
    place = share * (levels.size - 1)
    below = int(place)
    above = min(below + 1, levels.size - 1)
    ordered = np.partition(levels, (below, above), axis=None)
    low, high = float(ordered[below]), float(ordered[above])
    return low + (high - low) * (place - below)
