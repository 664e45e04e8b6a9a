"""The data set, photos and outliers are read and split."""

from pathlib import Path

import pytest
import torch
from conftest import Samples, torchvision_root
from PIL import Image

from training import data, folders
from training.data import Photos
from training.recipes import RECIPES

RECIPE = RECIPES["fashion-mnist"]


@pytest.fixture
def tree(tmp_path: Path, samples: Samples) -> Path:
    """Ten different photos: four of T-shirts, two of shoes, four of hats."""
    photos = tmp_path / "photos"
    pictures = iter(samples.pixels)
    for folder, count in (("t-shirt", 4), ("Shoes", 2), ("hat", 4)):
        (photos / folder / "more").mkdir(parents=True)
        for index in range(count):
            picture = Image.fromarray(255 - next(pictures)).resize((400, 300))
            name = f"more/{index}.jpg" if index % 2 else f"{index}.jpg"
            picture.convert("RGB").save(photos / folder / name)
    (photos / "hat" / "notes.txt").write_text("no picture")
    (photos / ".cache").mkdir()
    (photos / ".cache" / "1.jpg").write_bytes(b"")
    return photos


def make_photos(count: int) -> Photos:
    """Make up photos of T-shirts, no two alike."""
    random = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (count, 28, 28), generator=random).byte()
    split_hash = torch.randint(2**32, (count,), generator=random)
    targets = data.one_hot_targets(torch.zeros(count, dtype=torch.int64), 10)
    views = pixels[:, None]
    return Photos(pixels, views, views, split_hash, targets, targets.float())


def test_validation_pictures_are_never_trained_on(
    tmp_path: Path, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "VALIDATION_SIZE", 20)
    parts = data.get_data(RECIPE, torchvision_root(tmp_path, samples))
    assert [len(part.labels) for part in parts[:3]] == [80, 20, 100]
    both = torch.cat([parts.train.pixels, parts.validation.pixels]).flatten(1)
    assert len(both.unique(dim=0)) == len(
        torch.from_numpy(samples.pixels).unique(dim=0)
    )
    assert parts.classes[9] == "Ankle boot"


def test_training_pictures_of_the_test_set_are_left_out(
    tmp_path: Path,
    samples: Samples,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And the others stay in the part where they were."""
    monkeypatch.setattr(data, "VALIDATION_SIZE", 20)
    every, fewer = (
        data.get_data(
            RECIPE, torchvision_root(tmp_path / str(n), samples, duplicates=n)
        )
        for n in (0, 7)
    )
    assert (every.duplicates, fewer.duplicates) == (0, 7)
    assert "the test set has them: 7\n" in capsys.readouterr().out
    for before, after in zip(every[:2], fewer[:2], strict=True):
        kept = [row.tobytes() for row in after.pixels.numpy()]
        assert kept == [
            row for row in (r.tobytes() for r in before.pixels.numpy()) if row in kept
        ]
    pictures = torch.cat([fewer.train.pixels, fewer.validation.pixels])
    assert len(pictures) == 93
    assert not data.is_equal(pictures, fewer.test.pixels).any()


def test_other_data_has_another_fingerprint(tmp_path: Path, samples: Samples) -> None:
    root = torchvision_root(tmp_path, samples)
    first = data.get_data(RECIPE, root).fingerprint
    assert data.get_data(RECIPE, root).fingerprint == first
    labels = root / "FashionMNIST" / "raw" / "t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1] + b"\0")
    assert data.get_data(RECIPE, root).fingerprint != first


def test_a_damaged_data_set_is_named(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (raw / f"{part}-{kind}-ubyte").touch()
    with pytest.raises(ValueError, match="FashionMNIST is damaged, delete it"):
        data.get_data(RECIPE, tmp_path)


def test_photos_are_read_in_views(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = data.read_photos(tree, RECIPE, views=3)
    assert photos.views.shape == (10, 3, 28, 28)
    assert photos.crops.shape == (10, folders.CROPS, 28, 28)
    assert photos.targets[:, 10].sum() == 4  # the hats
    assert photos.targets[:, 0].sum() == 4
    assert photos.targets[:, [5, 7, 9]].sum() == 6
    printed = capsys.readouterr().out
    assert "no pictures: 1" in printed
    assert "hat/ 5 files: none of the classes\n" in printed
    again = data.read_photos(tree, RECIPE, views=3)
    assert all(torch.equal(a, b) for a, b in zip(photos, again, strict=True))


def test_photos_are_preprocessed_as_by_the_service(tree: Path) -> None:
    files = [file for file in folders.find_files(tree) if file.suffix == ".jpg"]
    expected = folders.read_pictures(tree, files, RECIPE.preprocessing)[1]
    assert (data.read_photos(tree, RECIPE, views=3).pixels.numpy() == expected).all()


def test_a_fifth_of_the_photos_is_for_validation() -> None:
    train, validation = make_photos(1000).split()
    assert len(train.pixels) + len(validation.pixels) == 1000
    assert 160 < len(validation.pixels) < 240
    both = torch.cat([train.pixels, validation.pixels]).flatten(1)
    assert len(both.unique(dim=0)) == 1000  # none in both


def test_a_photo_stays_in_its_part_when_others_come() -> None:
    """Else a photo trained on yesterday would validate today."""
    more = make_photos(100)
    fewer = Photos(*(part[7:60] for part in more))
    parts = [
        [{row.numpy().tobytes() for row in part.pixels} for part in photos.split()]
        for photos in (fewer, more)
    ]
    assert all(old < new for old, new in zip(*parts, strict=True))


def test_too_few_photos_are_refused_before_training(tree: Path) -> None:
    few = Photos(*(part[-4:] for part in data.read_photos(tree, RECIPE, views=3)))
    with pytest.raises(ValueError, match="too few"):
        few.split()


def test_a_tree_without_classes_is_refused(tree: Path) -> None:
    with pytest.raises(ValueError, match="no folder named for a class"):
        data.read_photos(tree.parent, RECIPE)
