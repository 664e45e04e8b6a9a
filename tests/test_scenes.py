"""Drawn photos show the garment they are of, and differ with the seed."""

import torch
from conftest import Samples
from torch import Generator, Tensor

from synthetic import outliers, scenes


def see(samples: Samples, seed: int = 1) -> Tensor:
    labels = torch.from_numpy(samples.labels).long()
    random = Generator().manual_seed(seed)
    return scenes.see_garments(torch.from_numpy(samples.pixels), labels, random)


def strange(count: int) -> Tensor:
    return scenes.see_strangers(count, Generator().manual_seed(1))


def test_a_garment_is_still_seen(samples: Samples) -> None:
    """On average: one or another is the colour of its ground."""
    seen = see(samples)
    assert seen.dtype == torch.uint8
    bags = torch.from_numpy(samples.labels == 8)  # nobody wears them
    before = torch.from_numpy(samples.pixels)[bags].float().mean(0).flatten()
    after = seen[bags].float().mean(0).flatten()
    assert torch.corrcoef(torch.stack([before, after]))[0, 1] > 0.6


def test_the_seed_decides(samples: Samples) -> None:
    assert (see(samples) == see(samples)).all()
    assert (see(samples) != see(samples, seed=2)).any()
    assert (strange(60) == strange(60)).all()


def test_several_processes_see_what_one_sees(samples: Samples) -> None:
    """More than one batch is shared out, and comes back in order."""
    size = outliers.CHUNK + 10
    strangers = strange(size)
    assert strangers.shape == (size, 28, 28)
    assert (strangers[: outliers.CHUNK] == strange(outliers.CHUNK)).all()


def test_no_two_strangers_are_alike() -> None:
    strangers = strange(200).flatten(1)
    shown = strangers[strangers.amax(1) > 0]
    assert len(shown) > 150
    assert len(torch.unique(shown, dim=0)) == len(shown)
