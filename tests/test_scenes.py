"""Synthetic photos show the garment they are made of, and depend on the seed."""

import torch
from conftest import Samples
from torch import Generator, Tensor

from model.preprocessing import Garment
from synthetic import outliers, scenes

PREPROCESSING = Garment(size=28)


def garments(samples: Samples, seed: int = 1) -> Tensor:
    labels = torch.from_numpy(samples.labels).long()
    random = Generator().manual_seed(seed)
    pixels = torch.from_numpy(samples.pixels)
    return scenes.render_scenes(pixels, labels, random, PREPROCESSING)


def outlier_scenes(count: int) -> Tensor:
    return scenes.render_outlier_scenes(
        count, Generator().manual_seed(1), PREPROCESSING
    )


def test_scenes_show_the_garment(samples: Samples) -> None:
    """On average: some have the colour of their background."""
    rendered = garments(samples)
    assert rendered.dtype == torch.uint8
    bags = torch.from_numpy(samples.labels == 8)  # nobody wears them
    given = torch.from_numpy(samples.pixels)[bags].float().mean(0).flatten()
    shown = rendered[bags].float().mean(0).flatten()
    assert torch.corrcoef(torch.stack([given, shown]))[0, 1] > 0.6


def test_the_seed_decides(samples: Samples) -> None:
    first = garments(samples)
    assert (first == garments(samples)).all()
    assert (first != garments(samples, seed=2)).any()


def test_several_processes_render_what_one_renders() -> None:
    """More than one chunk is distributed, and comes back in order."""
    size = outliers.CHUNK_SIZE + 10
    several, one = outlier_scenes(size), outlier_scenes(outliers.CHUNK_SIZE)
    assert several.shape == (size, 28, 28)
    assert (several[: len(one)] == one).all()


def test_outlier_scenes_are_distinct() -> None:
    rendered = outlier_scenes(200).flatten(1)
    shown = rendered[rendered.amax(1) > 0]
    assert len(shown) > 150
    assert len(torch.unique(shown, dim=0)) == len(shown)
