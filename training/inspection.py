"""What pictures are like: size, brightness, sharpness, and which are nearly equal.

    >>> found = measure(data, image)
    >>> group_equal(np.concatenate([found, found])).tolist()
    [0, 0]

Without torch, which would slow down the start of each process.
"""

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import laplace
from scipy.sparse.csgraph import connected_components

MEASURE_SIDE = 256  # pixels, longest side of what is measured
COARSE = 4  # times smaller, the picture that sharpness is relative to
ROUNDING = 20 / 12  # variance that rounding to whole levels adds to the Laplacian's
THUMBNAIL_SIDE = 16  # pixels
MAX_DIFFERENCE = 0.12  # of the contrast, between thumbnails of nearly equal pictures
MIN_CONTRAST = 8  # levels, that differences are at least relative to
NEIGHBOURS = 16  # of each picture, that are compared with it
MEASURES = np.dtype(
    [
        ("digest", np.int64),  # the first 8 bytes of the file's SHA-256
        ("thumbnail", np.uint8, (THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3)),
        ("size", np.int64, 2),  # width and height in pixels, as decoded
        ("darkest", np.float64),  # 1st percentile of brightness, from 0 to 1
        ("low", np.float64),  # 5th percentile
        ("high", np.float64),  # 99th percentile
        ("sharpness", np.float64),  # fine detail, relative to coarse
    ]
)
Measures = NDArray[np.void]  # MEASURES [N], of N pictures


class Kind(NamedTuple):
    """A kind of unusual picture: those under the limit, and far under the median."""

    name: str
    limit: float


# dark, bright and odd shape as in CleanVision 0.3: the same measures and limits
# (github.com/cleanlab/cleanvision); its entropy and its edges' variance, which depend
# on contrast, call a sharp picture of an ant on white blank, and white shirts blurry
KINDS = (
    Kind("blank", 0.1),  # brightness from 1st to 99th percentile
    Kind("dark", 0.32),  # 99th percentile of brightness
    Kind("bright", 0.05),  # 1 - 5th percentile
    Kind("small", 64),  # pixels, shorter side
    Kind("oddly shaped", 0.35),  # shorter side / longer side
    Kind("blurry", 0.06),  # sharpness: blur by 1.5 pixels of 256 gives 0.02
)
MEDIAN_SHARE = 0.5  # a set may be dark or blurry as a whole: its median counts, too


def measure(data: bytes, image: Image.Image) -> Measures:
    """Measure an upright "L" or "RGB" picture and its file's bytes: MEASURES [1]."""
    small = image.copy()
    small.thumbnail((MEASURE_SIDE, MEASURE_SIDE), reducing_gap=2.0)
    side = THUMBNAIL_SIDE, THUMBNAIL_SIDE
    grey = small.convert("L")
    row = (
        np.frombuffer(hashlib.sha256(data).digest(), np.int64)[0],
        np.asarray(small.convert("RGB").resize(side, Image.Resampling.BOX)),
        image.size,
        *np.percentile(np.asarray(grey), (1, 5, 99)) / 255,
        sharpness(grey),
    )
    return np.array([row], MEASURES)


def sharpness(grey: Image.Image) -> float:
    """Return the Laplacian's variance relative to that of a smaller picture.

    Contrast and texture change both alike; a blur changes the fine detail only.
    """
    fine, coarse = (
        float(laplace(np.asarray(picture, np.float32)).var())
        for picture in (grey, grey.reduce(COARSE))
    )
    return max(fine - ROUNDING, 0.0) / max(coarse, 1.0)


def find_kinds(found: Measures) -> dict[str, NDArray[np.int64]]:
    """Return the indices of unusual pictures by kind, the worst first.

    Each picture is of the first kind only that it meets.
    """
    shorter, longer = found["size"].min(axis=1), found["size"].max(axis=1)
    values = (
        found["high"] - found["darkest"],
        found["high"],
        1 - found["low"],
        shorter,
        shorter / longer,
        found["sharpness"],
    )
    is_free = np.ones(len(found), bool)
    kinds: dict[str, NDArray[np.int64]] = {}
    for kind, value in zip(KINDS, values, strict=True):
        limit = min(kind.limit, MEDIAN_SHARE * float(np.median(value)))
        chosen = np.flatnonzero(is_free & (value < limit))
        is_free[chosen] = False
        if len(chosen):
            kinds[kind.name] = chosen[np.argsort(value[chosen], kind="stable")]
    return kinds


def group_equal(found: Measures) -> NDArray[np.int64]:
    """Return int64 [N], the same number for equal and nearly equal pictures.

    Those differ by compression, size, brightness or contrast. Their thumbnails hardly
    differ, once mean and contrast are the same.
    """
    from sklearn.neighbors import kneighbors_graph  # noqa: PLC0415 - slow to import

    levels = found["thumbnail"].reshape(len(found), -1)
    levels, inverse = np.unique(levels, axis=0, return_inverse=True)
    if len(levels) == 1:
        return np.zeros(len(found), np.int64)
    vectors = levels - levels.mean(axis=1, keepdims=True, dtype=np.float32)
    least = MIN_CONTRAST * np.sqrt(vectors.shape[1])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True).clip(least)
    count = min(NEIGHBOURS, len(levels) - 1)
    graph = kneighbors_graph(vectors, count, mode="distance")
    graph.data = graph.data <= MAX_DIFFERENCE
    graph.eliminate_zeros()
    groups: NDArray[np.int64] = connected_components(graph, directed=False)[1]
    return groups.astype(np.int64)[inverse]


def find_conflicts(found: Measures, labels: NDArray[np.int64]) -> dict[int, int]:
    """Return pictures of equal bytes and other labels: index -> index of another."""
    order = np.lexsort((labels, found["digest"]))
    bounds = np.flatnonzero(np.diff(found["digest"][order])) + 1
    opposed: dict[int, int] = {}
    for same in np.split(order, bounds):
        first, last = int(same[0]), int(same[-1])
        if labels[first] != labels[last]:
            opposed |= {
                index: last if labels[index] == labels[first] else first
                for index in same.tolist()
            }
    return opposed
