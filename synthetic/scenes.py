"""Synthetic colour photos, preprocessed as the service does it.

    >>> random = torch.Generator().manual_seed(1)
    >>> render_scenes(pixels, labels, random, Garment(size=28)).shape == pixels.shape
    True
    >>> render_outlier_scenes(1000, random, Garment(size=28)).shape
    torch.Size([1000, 28, 28])

Pictures of a data set and other objects get colours, a background, a shadow and light,
and are then preprocessed like any real photo. So training includes what
preprocessing makes of shadows, textures and colours that are close to one another.
"""

from collections.abc import Iterable

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from model.images import WHITE
from model.preprocessing import Preprocessing
from synthetic.documents import draw_document
from synthetic.drawing import (
    SIDE,
    bands,
    chance,
    container_pairs,
    containers,
    gradients,
    outlines,
    pen_strokes,
    text,
    textures,
    uniform,
)
from synthetic.outliers import (
    CHUNK_SIZE,
    Draw,
    dead_leaves,
    shape_clusters,
    split_by_shares,
)
from synthetic.parallel import parallel_map
from synthetic.people import (
    BAGS,
    PHOTO_SIDE,
    SHOES,
    Frame,
    Layer,
    draw_people,
    dye,
    garment_mask,
    is_any_of,
    paste,
)

WORN_SHARE, CARRIED_SHARE = 0.6, 0.2  # drawn on people; the latter of shoes and bags
SHADOW = 4  # pixels, greatest offset of a shadow, and radius of its blur
STUDIO_SHARE = 0.5  # of the backgrounds, half as many behind other objects
TILT, SHOE_TILT = 0.25, 0.7  # radians, at most
PAIR_SHARE = 0.3  # of the shoes
PRINTED_SHARE = 0.3  # of the other objects, with text on them
DOCUMENT_SHARE = 0.4  # of the outliers: charts, screenshots, pages and logos

SHAPES: dict[Draw, int] = {
    shape_clusters: 8,
    containers: 6,
    container_pairs: 2,
    bands: 2,
    dead_leaves: 2,
    pen_strokes: 1,
    outlines: 1,
    text: 1,
    lambda count, _: torch.zeros(count, SIDE, SIDE): 1,  # the background alone
}


def render_scenes(
    pixels: Tensor, garments: Tensor, random: Generator, preprocessing: Preprocessing
) -> Tensor:
    """Render photos of objects uint8 [N, 28, 28]: uint8 [N, 28, 28].

    `garments` are the classes of Fashion-MNIST, int64 [N]: people wear some of them. -1
    is any other object, which lies flat.
    """
    parts = torch.split(pixels, CHUNK_SIZE), torch.split(garments, CHUNK_SIZE)
    seeds = _draw_seeds(len(parts[0]), random)
    kinds = [preprocessing] * len(seeds)
    rows = list(zip(*parts, kinds, seeds, strict=True))
    return torch.cat(list(parallel_map(_object_chunk, rows, "scenes")))


def render_outlier_scenes(
    count: int, random: Generator, preprocessing: Preprocessing
) -> Tensor:
    """Render photos of other objects, and documents: uint8 [count, 28, 28]."""
    sizes = [len(part) for part in torch.split(torch.arange(count), CHUNK_SIZE)]
    seeds = _draw_seeds(len(sizes), random)
    rows = [
        (size, preprocessing, seed) for size, seed in zip(sizes, seeds, strict=True)
    ]
    return torch.cat(list(parallel_map(_outlier_chunk, rows, "scenes")))


def photograph(objects: Layer, is_studio: Tensor, random: Generator) -> Tensor:
    """Render objects [N, 56, 56] in front of a background: uint8 [N, 56, 56, 3].

    In a studio, bool [N, 1, 1], that is plain.
    """
    background = _draw_background(is_studio, random)
    background = background * (1 - _draw_shadow(objects.mask, random)[:, None])
    pictures = torch.lerp(background, objects.colours, objects.mask[:, None])
    return _expose(pictures, random).permute(0, 2, 3, 1)


def _draw_background(is_studio: Tensor, random: Generator) -> Tensor:
    """Draw textures of two colours, nearly plain in a studio: [N, 3, 56, 56]."""
    count = len(is_studio)
    texture = _enlarge(textures(count, random))
    contrast = 0.8 * uniform(count, random, 0, 1) ** 2
    colours = dye(texture, torch.where(is_studio, 0.02, contrast), random)
    pale = 1 - 0.3 * uniform(count, random, 0, 1)[..., None] ** 2
    pale = pale + 0.02 * torch.randn(count, 3, 1, 1, generator=random)
    is_pale = is_studio & chance(count, random, 0.7)
    return torch.where(is_pale[..., None], pale, colours)


def _draw_shadow(mask: Tensor, random: Generator) -> Tensor:
    """Draw soft shadows of a mask [N, 56, 56], all offset alike: 0..1."""
    count = len(mask)
    darkness = uniform(count, random, 0, 0.5) * chance(count, random, 0.5)
    left, top = torch.randint(2 * SHADOW + 1, (2,), generator=random).tolist()
    padded = pad(mask, [2 * SHADOW] * 4)
    side = PHOTO_SIDE + 2 * SHADOW
    shifted = padded[:, top : top + side, left : left + side]
    return avg_pool2d(shifted, 2 * SHADOW + 1, stride=1) * darkness


def _expose(pictures: Tensor, random: Generator) -> Tensor:
    """Apply uneven light, a gamma curve, blur and grain: uint8 [N, 3, 56, 56]."""
    count = len(pictures)
    light = _enlarge(gradients(count, random)) * uniform(count, random, 0, 0.4)
    pictures = (pictures * (1 - light[:, None])).clamp(0, 1)
    pictures = pictures ** uniform(count, random, 0.6, 1.6)[..., None]
    soft = avg_pool2d(pictures, 3, stride=1, padding=1)
    pictures = torch.where(chance(count, random, 0.4)[..., None], soft, pictures)
    grain = torch.randn(pictures.shape, generator=random)
    pictures = pictures + grain * (0.04 * uniform(count, random, 0, 1) ** 2)[..., None]
    return (pictures.clamp(0, 1) * WHITE).round().to(torch.uint8)


def _object_chunk(
    pixels: Tensor, labels: Tensor, preprocessing: Preprocessing, seed: int
) -> Tensor:
    random = Generator().manual_seed(seed)
    count = len(pixels)
    people = draw_people(pixels, labels, random)
    flat = _lay_flat(pixels, labels, random)
    is_carried = is_any_of(labels, SHOES + BAGS)
    shares = torch.where(is_carried, CARRIED_SHARE, WORN_SHARE)
    shares = shares * (labels[:, None, None] >= 0)
    is_worn = uniform(count, random, 0, 1) < shares
    objects = Layer(
        torch.where(is_worn[..., None], people.colours, flat.colours),
        torch.where(is_worn, people.mask, flat.mask),
    )
    is_studio = chance(count, random, STUDIO_SHARE)
    return _preprocess_photos(photograph(objects, is_studio, random), preprocessing)


def _lay_flat(pixels: Tensor, labels: Tensor, random: Generator) -> Layer:
    """Draw garments alone, shoes tilted more than others, some of them in pairs."""
    count = len(pixels)
    is_shoe = is_any_of(labels, SHOES)
    x, y = (uniform(count, random, -0.15, 0.15) for _ in "xy")
    width, height = (uniform(count, random, 0.55, 0.95) for _ in "wh")
    tilt = uniform(count, random, -TILT, TILT)
    is_tilted = is_shoe & chance(count, random, 0.5)
    tilt = torch.where(is_tilted, tilt * SHOE_TILT / TILT, tilt)
    shades = paste(pixels, Frame(x, y, width, height), tilt)
    right, down = (uniform(count, random, -0.5, 0.5) for _ in "xy")
    second_frame = Frame(x + right, y + down, width, height)
    second_tilt = tilt + uniform(count, random, -SHOE_TILT, SHOE_TILT)
    second = paste(pixels, second_frame, second_tilt)
    is_pair = is_shoe & chance(count, random, PAIR_SHARE)
    is_first = garment_mask(shades).round().bool()
    shades = torch.where(is_pair & ~is_first, second, shades)
    contrast = uniform(count, random, 0.2, 1)
    return Layer(dye(shades, contrast, random), garment_mask(shades))


def _outlier_chunk(count: int, preprocessing: Preprocessing, seed: int) -> Tensor:
    random = Generator().manual_seed(seed)
    documents = round(DOCUMENT_SHARE * count)
    seeds = _draw_seeds(documents, random)
    drawn = _preprocess(map(draw_document, seeds), documents, preprocessing)
    photos = _photograph_objects(count - documents, random)
    return torch.cat([drawn, _preprocess_photos(photos, preprocessing)])


def _photograph_objects(count: int, random: Generator) -> Tensor:
    """Render photos of objects of no class: uint8 [count, 56, 56, 3]."""
    parts = split_by_shares(SHAPES, count)
    masks = torch.cat([draw(size, random) for draw, size in parts])
    is_textured = chance(count, random, 0.7)
    shades = torch.where(is_textured, textures(count, random), masks)
    printed = text(count, random) * chance(count, random, PRINTED_SHARE)
    shades = torch.lerp(shades, 1 - shades, printed)
    contrast = uniform(count, random, 0.2, 1)
    objects = Layer(dye(_enlarge(shades), contrast, random), _enlarge(masks))
    is_studio = chance(count, random, STUDIO_SHARE / 2)
    return photograph(objects, is_studio, random)


def _enlarge(pictures: Tensor) -> Tensor:
    """Resize pictures [N, h, w] to [N, 56, 56]."""
    side = [PHOTO_SIDE, PHOTO_SIDE]
    return interpolate(pictures[:, None], side, mode="bilinear")[:, 0]


def _draw_seeds(count: int, random: Generator) -> list[int]:
    """Draw a seed for each chunk, so that no two render the same scenes."""
    return torch.randint(2**62, (count,), generator=random).tolist()


def _preprocess_photos(photos: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Preprocess photos uint8 [N, 56, 56, 3]: uint8 [N, 28, 28]."""
    pictures = map(Image.fromarray, photos.numpy())
    return _preprocess(pictures, len(photos), preprocessing)


def _preprocess(
    pictures: Iterable[Image.Image], count: int, preprocessing: Preprocessing
) -> Tensor:
    """Preprocess `count` pictures as the service does: uint8 [count, 28, 28]."""
    arrays = np.zeros((count, *preprocessing.input_shape), np.uint8)
    for index, picture in enumerate(pictures):
        arrays[index] = preprocessing.preprocess(picture)
    return torch.from_numpy(arrays)
