"""What an epoch shows, on a small piece of the real data."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Samples, torchvision_root
from PIL import Image
from torch import Tensor

from model.network import CNN
from training import data as data_room
from training import epoch as lesson
from training.data import Data

EPOCHS, ALL = 3, 1.0


@pytest.fixture
def folder(tmp_path: Path, samples: Samples, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(data_room, "VALIDATION_SIZE", 20)
    return torchvision_root(tmp_path, samples)


@pytest.fixture
def data(folder: Path) -> Data:
    return data_room.get_data(folder)


@pytest.mark.parametrize("network", [None, CNN(28)])
def test_an_epoch_shows_each_garment_and_strangers(
    data: Data, network: CNN | None
) -> None:
    plan = lesson.plan_of(data, EPOCHS, ALL)
    scenes = lesson.draw_scenes(data.train, EPOCHS, ALL, seed=1)
    random = torch.Generator().manual_seed(1)
    pixels, targets, recalled = lesson.mix(data, scenes, network, plan[0], random)
    assert len(pixels) == len(targets) == lesson.size_of_mix(data, plan[0])
    assert recalled.shape == targets.shape
    assert not recalled.any()
    assert (pixels[: len(data.train.labels)] == data.train.pixels).all()
    assert (targets.sum(1) == 1).all()
    count = len(data.train.labels)
    drawn = round(lesson.STRANGE_SCENE_SHARE * count)
    assert targets[:, -1].sum() == drawn + round(lesson.OUTLIER_SHARE * count)


def test_photos_and_outliers_are_shown_too(
    folder: Path, tmp_path: Path, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_room, "VIEWS", 4)
    for name in ("shoes", "hat"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(20):
            picture = Image.fromarray(samples.pixels[index]).resize((90, 60))
            picture.save(tmp_path / "photos" / name / f"{index}.png")
    np.savez(tmp_path / "digits.npz", images=samples.pixels)
    plain = data_room.get_data(folder)
    data = data_room.get_data(folder, tmp_path / "photos", [tmp_path / "digits.npz"])
    assert data.fingerprint != plain.fingerprint
    plan = lesson.plan_of(data, EPOCHS, ALL)
    views = plan[1].views
    assert 1 < views < lesson.PHOTO_VIEWS
    scenes = lesson.draw_scenes(data.train, EPOCHS, ALL, seed=1)
    random = torch.Generator().manual_seed(1)
    network = CNN(28)
    photos = data.photos
    assert photos is not None
    assert not photos.recalled.any()
    photos = lesson.recall(network, photos)
    said = photos.recalled
    count = len(said)
    assert 20 < count < 40  # some are set aside
    assert torch.allclose(said.sum(1), torch.ones(count))
    fewer, shown = (
        lesson.mix(part, scenes, network, plan[1], random)
        for part in (plain, data._replace(photos=photos))
    )
    assert len(shown.targets) == lesson.size_of_mix(data, plan[1])
    more = [int(s.targets[:, -1].sum()) for s in (fewer, shown)]
    shoes = shown.targets[:, [5, 7, 9]].all(1).sum()
    hats = int(photos.targets[:, -1].sum())
    held = shown.recalled.any(1)
    assert torch.equal(shown.recalled[held], said.repeat_interleave(views, 0))
    assert torch.equal(shown.targets[held], photos.targets.repeat_interleave(views, 0))
    assert shoes == (count - hats) * views
    assert more[1] - more[0] == 100 + count + hats * views


def test_the_hardest_strangers_are_shown() -> None:
    """Bright ones, to a network that takes what is bright for garments."""

    class Bright(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, pixels: Tensor) -> Tensor:
            light = pixels.float().mean((1, 2))[:, None] * self.weight
            return torch.cat([light.expand(-1, 10), -light], 1)

    levels = torch.arange(10, dtype=torch.uint8)[:, None, None].expand(-1, 28, 28)
    kept = lesson.hardest(Bright(), levels, 3)
    assert sorted(kept[:, 0, 0].tolist()) == [7, 8, 9]


def test_photos_are_shown_less_and_less(data: Data) -> None:
    views = [epoch.views for epoch in lesson.plan_of(data, 80, ALL)]
    assert views == sorted(views, reverse=True)
    assert (views[0], views[-1]) == (lesson.PHOTO_VIEWS, 1)


def test_a_short_run_shows_less_that_is_drawn(data: Data) -> None:
    assert lesson.share_drawn(lesson.FULL_EPOCHS) == ALL
    assert lesson.share_drawn(2 * lesson.FULL_EPOCHS) == ALL
    share = lesson.share_drawn(9)
    assert share == 0.2
    some, full = (lesson.plan_of(data, 9, part)[0] for part in (share, ALL))
    for less, most in zip(some[:3], full[:3], strict=True):
        assert abs(less - share * most) <= 1
    assert some.views == full.views


def test_scenes_are_drawn_for_a_tenth_of_the_epochs(data: Data) -> None:
    count = len(data.train.labels)
    for share in (0.5, ALL):
        scenes = lesson.draw_scenes(data.train, EPOCHS, share, seed=1)
        drawn = EPOCHS / 10 * share * count
        assert abs(len(scenes.garments.labels) - lesson.SCENE_SHARE * drawn) < 1
        strange = lesson.CANDIDATES * lesson.STRANGE_SCENE_SHARE * drawn
        assert abs(len(scenes.strangers) - strange) < 1
