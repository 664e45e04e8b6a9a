"""What an epoch has, on a small piece of the real data, and its loss."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Samples, torchvision_root
from PIL import Image
from torch import Tensor

from model.network import CNN
from training import data as data_module
from training import epoch
from training.data import Data, get_data
from training.recipes import RECIPES

RECIPE = RECIPES["fashion-mnist"]
EPOCHS, ALL = 3, 1.0


@pytest.fixture
def folder(tmp_path: Path, samples: Samples, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(data_module, "VALIDATION_SIZE", 20)
    return torchvision_root(tmp_path, samples)


@pytest.fixture
def data(folder: Path) -> Data:
    return get_data(RECIPE, folder)


@pytest.mark.parametrize("network", [None, CNN(**RECIPE.arguments())])
def test_an_epoch_has_all_training_pictures_and_outliers(
    data: Data, network: CNN | None
) -> None:
    plan = epoch.plan_epochs(data, EPOCHS, ALL)[0]
    scenes = epoch.make_scenes(data, EPOCHS, ALL, seed=1)
    random = torch.Generator().manual_seed(1)
    pixels, targets, soft_targets = epoch.build_epoch(
        data, scenes, network, plan, random
    )
    assert len(pixels) == len(targets) == epoch.epoch_size(data, plan)
    assert soft_targets.shape == targets.shape
    assert not soft_targets.any()
    assert (pixels[: len(data.train.labels)] == data.train.pixels).all()
    assert (targets.sum(1) == 1).all()
    assert targets[:, -1].sum() == plan.outlier_scenes + plan.outliers


def test_an_epoch_has_photos_and_outliers_that_are_given(
    folder: Path, tmp_path: Path, samples: Samples
) -> None:
    for name in ("shoes", "hat"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(20):
            picture = Image.fromarray(samples.pixels[index]).resize((90, 60))
            picture.save(tmp_path / "photos" / name / f"{index}.png")
    np.savez(tmp_path / "digits.npz", images=samples.pixels)
    data = get_data(RECIPE, folder, tmp_path / "photos", [tmp_path / "digits.npz"], 6)
    assert data.fingerprint != get_data(RECIPE, folder).fingerprint
    assert data.photos
    photos = epoch.distil(CNN(**RECIPE.arguments()), data.photos)
    count, hats = len(photos.targets), int(photos.targets[:, -1].sum())
    assert torch.allclose(photos.soft_targets.sum(1), torch.ones(count))
    plan = epoch.plan_epochs(data, EPOCHS, ALL)[1]
    scenes = epoch.make_scenes(data, EPOCHS, ALL, seed=1)
    pictures = epoch.build_epoch(
        data._replace(photos=photos), scenes, None, plan, torch.Generator()
    )
    assert len(pictures.pixels) == epoch.epoch_size(data, plan)
    of_photos = pictures.soft_targets.any(1)
    assert torch.equal(
        pictures.soft_targets[of_photos],
        photos.soft_targets.repeat_interleave(plan.views, 0),
    )
    assert torch.equal(
        pictures.targets[of_photos], photos.targets.repeat_interleave(plan.views, 0)
    )
    shoes = pictures.targets[:, [5, 7, 9]].all(1)
    assert shoes.sum() == (count - hats) * plan.views
    crops = count * epoch.EPOCH_CROPS
    synthetic = plan.outlier_scenes + plan.outliers
    given = len(samples.pixels) + hats * plan.views
    assert pictures.targets[:, -1].sum() == synthetic + given + crops


def test_the_hardest_outliers_are_selected() -> None:
    """Bright ones, for a network that takes bright pictures for known."""

    class Bright(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, pixels: Tensor) -> Tensor:
            light = pixels.float().mean((1, 2))[:, None] * self.weight
            return torch.cat([light.expand(-1, 10), -light], 1)

    levels = torch.arange(10, dtype=torch.uint8)[:, None, None].expand(-1, 28, 28)
    selected = epoch.hardest(Bright(), levels, 3)
    assert sorted(selected[:, 0, 0].tolist()) == [7, 8, 9]


def test_views_of_photos_become_fewer(data: Data) -> None:
    views = [plan.views for plan in epoch.plan_epochs(data, 80, ALL)]
    assert views == sorted(views, reverse=True)
    assert (views[0], views[-1]) == (epoch.EPOCH_VIEWS, 1)


def test_a_short_run_has_fewer_synthetic_pictures(data: Data) -> None:
    assert epoch.synthetic_share(epoch.FULL_EPOCHS) == ALL
    assert epoch.synthetic_share(2 * epoch.FULL_EPOCHS) == ALL
    share = epoch.synthetic_share(9)
    assert share == 0.2
    some, full = (epoch.plan_epochs(data, 9, part)[0] for part in (share, ALL))
    for fewer, most in zip(some[:3], full[:3], strict=True):
        assert abs(fewer - share * most) <= 1
    assert some.views == full.views


def test_scenes_are_rendered_for_a_tenth_of_the_epochs(data: Data) -> None:
    share = 0.5
    scenes = epoch.make_scenes(data, EPOCHS, share, seed=1)
    count = EPOCHS / 10 * share * len(data.train.labels)
    assert abs(len(scenes.labelled.labels) - epoch.SCENE_SHARE * count) < 1
    outliers = epoch.OUTLIER_CANDIDATES * epoch.OUTLIER_SCENE_SHARE * count
    assert abs(len(scenes.outliers) - outliers) < 1


def test_the_loss_is_of_the_possible_classes() -> None:
    """Worked out by hand."""
    logits = torch.log(torch.tensor([[0.1, 0.2, 0.3, 0.4]]))
    possible = torch.tensor([[True, False, True, False]])
    smoothing = -np.log([0.1, 0.2, 0.3]).mean()
    expected = 0.9 * -np.log(0.1 + 0.3) + 0.1 * smoothing
    nothing = torch.zeros(1, 4)
    loss = epoch.training_loss(logits, possible, nothing).item()
    assert loss == pytest.approx(expected)
    unknown = torch.tensor([[False, False, False, True]])
    loss = epoch.training_loss(logits, unknown, nothing).item()
    assert loss == pytest.approx(-np.log(0.4))
    soft_targets = torch.tensor([[0.5, 0.5, 0, 0]])
    share = epoch.DISTIL_SHARE
    expected = (1 - share) * loss - share * np.log([0.1, 0.2]).mean()
    loss = epoch.training_loss(logits, unknown, soft_targets).item()
    assert loss == pytest.approx(expected)
