"""Photos are laid out for training, and a part of them set aside."""

from pathlib import Path

import pytest
import torch
from conftest import Samples
from PIL import Image
from torchvision.datasets import FashionMNIST

from training import data
from training import folders as photos

CLASSES = FashionMNIST.classes


@pytest.fixture
def tree(tmp_path: Path, samples: Samples, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten different photos: four of T-shirts, two of shoes, four of hats."""
    monkeypatch.setattr(data, "VIEWS", 3)
    pictures = iter(samples.pixels)
    for folder, count in (("t-shirt", 4), ("Shoes", 2), ("hat", 4)):
        (tmp_path / "photos" / folder / "more").mkdir(parents=True)
        for index in range(count):
            picture = Image.fromarray(255 - next(pictures)).resize((400, 300))
            inner = "more/" if index % 2 else ""
            picture.convert("RGB").save(
                tmp_path / "photos" / folder / f"{inner}{index}.jpg"
            )
    (tmp_path / "photos" / "hat" / "notes.txt").write_text("no picture")
    (tmp_path / "photos" / ".cache").mkdir()
    (tmp_path / "photos" / ".cache" / "1.jpg").write_bytes(b"")
    return tmp_path / "photos"


def test_photos_are_read_in_views(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = data.read_photos(tree, CLASSES)
    assert found.views.shape == (10, 3, 28, 28)
    assert found.scraps.shape == (10, photos.SCRAPS, 28, 28)
    assert found.targets[:, 10].sum() == 4  # the hats
    assert found.targets[:, 0].sum() == 4
    assert found.targets[:, [5, 7, 9]].sum() == 6
    said = capsys.readouterr().out
    assert "no pictures: 1" in said
    assert "none of the classes: hat\n" in said
    again = data.read_photos(tree, CLASSES)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


def test_photos_are_seen_as_the_service_sees_them(tree: Path) -> None:
    files = [file for file in photos.find_files(tree) if file.suffix == ".jpg"]
    expected = photos.read_pictures(tree, files)[1]
    assert (data.read_photos(tree, CLASSES).seen.numpy() == expected).all()


def test_small_grey_photos_are_not_looked_for_a_garment(
    tree: Path, samples: Samples
) -> None:
    """The service takes them as they are."""
    file = tree / "t-shirt" / "small.png"
    Image.fromarray(samples.pixels[0]).save(file)
    found = photos.look(file, seed=1, views=3)
    assert found is not None
    assert (found.seen == samples.pixels[0]).all()
    assert (found.views[0] == samples.pixels[0]).all()


def test_folders_may_be_links(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "dress").symlink_to(tree / "t-shirt")
    (tree / "t-shirt" / "round").symlink_to(tmp_path / "linked")
    (tree / "t-shirt" / "twin").symlink_to(tree / "t-shirt" / "more")
    files, names = photos.find_photos(tmp_path / "linked", CLASSES, data.RECIPE.aliases)
    assert {file.name for file in files} == {f"{index}.jpg" for index in range(4)}
    assert set(names) == {"dress"}


def test_a_damaged_data_set_is_named(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (raw / f"{part}-{kind}-ubyte").touch()
    with pytest.raises(ValueError, match="FashionMNIST is damaged, delete it"):
        data.get_data(tmp_path)


def photos_of(count: int) -> data.Photos:
    """Make up photos of T-shirts, no two alike."""
    seen = torch.randint(
        256, (count, 28, 28), generator=torch.Generator().manual_seed(1)
    )
    targets = data.targets_of(torch.zeros(count, dtype=torch.int64), 10)
    pixels = seen.byte()
    views = pixels[:, None]
    lots = torch.randint(2**32, (count,), generator=torch.Generator().manual_seed(1))
    return data.Photos(pixels, views, views, lots, targets, targets.float())


def test_split_sets_a_fifth_aside() -> None:
    rest, aside = photos_of(1000).split()
    assert len(rest.seen) + len(aside.seen) == 1000
    assert 160 < len(aside.seen) < 240
    both = torch.cat([rest.seen, aside.seen]).flatten(1)
    assert len(both.unique(dim=0)) == 1000  # none in both


def test_a_photo_stays_on_its_side_when_others_come() -> None:
    """What is aside today was not trained on yesterday."""
    more = photos_of(100)
    fewer = data.Photos(*(part[7:60] for part in more))
    sides = [
        [{row.numpy().tobytes() for row in side.seen} for side in some.split()]
        for some in (fewer, more)
    ]
    assert all(old < new for old, new in zip(*sides, strict=True))


def test_too_few_photos_are_refused_before_training(tree: Path) -> None:
    few = data.Photos(*(part[-4:] for part in data.read_photos(tree, CLASSES)))
    with pytest.raises(ValueError, match="too few"):
        few.split()


def test_a_tree_without_classes_is_refused(tree: Path) -> None:
    with pytest.raises(ValueError, match="no folder named for a class"):
        data.read_photos(tree.parent, CLASSES)
