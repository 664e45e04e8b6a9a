"""What pictures are like: sizes, brightness, sharpness, and which of them are equal.

    >>> found = measure(data, image)
    >>> group_equal(np.concatenate([found, found])).tolist()
    [0, 0]

Without torch, which would slow down the start of each process.
"""

import hashlib

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageStat
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from model.images import Pixels

MEASURE_SIDE = 256  # pixels, longest side of what is measured
THUMBNAIL_SIDE = 16  # pixels, by which nearly equal pictures are compared
HASH_DISTANCE = 6  # bits of 64 that the perceptual hashes of near-equal ones differ by
MAX_DIFFERENCE = 0.15  # of the contrast, between thumbnails of near-equal pictures
MIN_CONTRAST = 8  # levels, that differences are at least compared with
HASH_ROWS = 512  # compared with all others at a time
LAPLACIAN = ImageFilter.Kernel((3, 3), (0, 1, 0, 1, -4, 1, 0, 1, 0), 1, 128)


MEASURES = np.dtype(
    [
        ("digest", np.int64),  # the first 8 bytes of the file's SHA-256
        ("hash", np.uint64),  # perceptual
        ("thumbnail", np.uint8, (THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3)),
        ("size", np.int64, 2),  # width and height in pixels, as decoded
        ("dark", np.float64),  # 99th percentile of brightness, from 0 to 1
        ("bright", np.float64),  # 5th percentile
        ("entropy", np.float64),  # bits a pixel
        ("sharpness", np.float64),  # variance of the Laplacian, in levels squared
    ]
)
Measures = NDArray[np.void]  # MEASURES [N], of N pictures


def measure(data: bytes, image: Image.Image) -> Measures:
    """Measure an upright "L" or "RGB" picture and its file's bytes: MEASURES [1]."""
    small = image.copy()
    small.thumbnail((MEASURE_SIDE, MEASURE_SIDE), reducing_gap=2.0)
    grey = small.convert("L")
    side = THUMBNAIL_SIDE, THUMBNAIL_SIDE
    low, high = np.percentile(np.asarray(grey), (5, 99)) / 255
    row = (
        np.frombuffer(hashlib.sha256(data).digest(), np.int64)[0],
        np.packbits(imagehash.phash(grey).hash).view(np.uint64)[0],
        np.asarray(small.convert("RGB").resize(side, Image.Resampling.BOX)),
        image.size,
        high,
        low,
        grey.entropy(),
        ImageStat.Stat(grey.filter(LAPLACIAN)).var[0],
    )
    return np.array([row], MEASURES)


def group_equal(found: Measures) -> NDArray[np.int64]:
    """Return int64 [N], the same number for equal and nearly equal pictures.

    Equal are equal bytes; nearly equal are those whose perceptual hashes and thumbnails
    hardly differ, and those nearly equal to a third.
    """
    pairs = near_pairs(found)
    order = np.argsort(found["digest"], kind="stable")
    is_equal = np.diff(found["digest"][order]) == 0
    equal = np.stack([order[:-1][is_equal], order[1:][is_equal]], axis=1)
    first, second = np.concatenate([pairs, equal]).T
    count = len(found["digest"])
    graph = coo_array((np.ones(len(first), bool), (first, second)), (count, count))
    groups: NDArray[np.int64] = connected_components(graph, directed=False)[1]
    return groups.astype(np.int64)


def near_pairs(found: Measures) -> NDArray[np.int64]:
    """Return the indices int64 [P, 2] of nearly equal pictures."""
    pairs = [np.zeros((0, 2), np.int64)]
    for start in range(0, len(found["hash"]), HASH_ROWS):
        rows = found["hash"][start : start + HASH_ROWS, None]
        distance = np.bitwise_count(rows ^ found["hash"][start:])
        one, other = np.nonzero(np.triu(distance <= HASH_DISTANCE, 1))
        one, other = one + start, other + start
        is_near = are_alike(found["thumbnail"][one], found["thumbnail"][other])
        pairs.append(np.stack([one[is_near], other[is_near]], axis=1))
    return np.concatenate(pairs)


def are_alike(one: Pixels, other: Pixels) -> NDArray[np.bool_]:
    """Return whether thumbnails [P, ...] differ little, for their contrast: [P]."""
    axes = 1, 2, 3
    levels = one.astype(np.float32)
    difference = np.sqrt(((levels - other) ** 2).mean(axes))
    contrast = np.maximum(levels.std(axes), MIN_CONTRAST)
    return np.asarray(difference <= MAX_DIFFERENCE * contrast)


def find_conflicts(found: Measures, labels: NDArray[np.int64]) -> dict[int, int]:
    """Return pictures of equal bytes and other labels: index -> index of another."""
    order = np.lexsort((labels, found["digest"]))
    bounds = np.flatnonzero(np.diff(found["digest"][order])) + 1
    opposed: dict[int, int] = {}
    for same in np.split(order, bounds):
        first, last = int(same[0]), int(same[-1])
        if labels[first] != labels[last]:
            opposed |= {
                i: last if labels[i] == labels[first] else first for i in same.tolist()
            }
    return opposed
