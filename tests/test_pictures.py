"""Every labelled file is used, or left out with a reason."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image, ImageFilter

from model.preprocessing import Square
from training import pictures
from training.labelled import find_labelled
from training.pictures import Pictures, load_pictures

SQUARE = Square(size=32, draft_side=64)
SHIRT = ROOT / "static/pictures/photo-t-shirt.jpg"


def noise(seed: int, side: int = 64) -> Image.Image:
    """Draw blobs of colour."""
    levels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(levels).resize((side, side), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder of two classes with two pictures each."""
    for seed, name in enumerate(["cat/1", "cat/2", "dog/1", "dog/2"]):
        file = tmp_path / f"{name}.png"
        file.parent.mkdir(exist_ok=True)
        noise(seed).save(file)
    return tmp_path


def load(folder: Path) -> Pictures:
    return load_pictures(find_labelled([folder]), SQUARE)


def test_pictures_are_read_as_the_service_reads_them(folder: Path) -> None:
    (folder / "none").mkdir()
    noise(9).save(folder / "none/1.png")
    found = load(folder)
    for pixels, file in zip(found.pixels, found.files, strict=True):
        assert (pixels == SQUARE.to_pixels(file.read_bytes())).all()
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert len(set(found.groups)) == 4
    assert found.outliers.shape == (1, 32, 32, 3)
    assert not found.left_out


def test_what_is_no_picture_is_left_out_with_a_reason(folder: Path) -> None:
    cat = folder / "cat"
    (cat / "text\n.jpg").write_text("no picture")
    (cat / "empty.jpg").touch()
    (cat / "cut.jpg").write_bytes(SHIRT.read_bytes()[:3000])
    (cat / "memory.jpg").symlink_to("/proc/self/mem")
    Image.new("L", (3, 40)).save(cat / "dot.png")
    found = load(folder)
    assert len(found.pixels) == 4
    lines = {item.path.name: str(item) for item in found.left_out}
    assert len(lines) == 5
    assert all(line.isprintable() for line in lines.values())
    assert "too small: 3 x 40" in lines["dot.png"]


def test_near_equal_pictures_are_one_group(folder: Path) -> None:
    first = Image.open(folder / "cat/1.png")
    shutil.copy(folder / "cat/1.png", folder / "cat/copy.png")
    first.resize((500, 500)).save(folder / "dog/large.jpg", quality=60)
    first.filter(ImageFilter.GaussianBlur(1)).save(folder / "dog/soft.png")
    found = load(folder)
    group = found.groups[found.files.index(folder / "cat/1.png")]
    same = [found.files[index].name for index in np.flatnonzero(found.groups == group)]
    assert same == ["1.png", "copy.png", "large.jpg", "soft.png"]


def test_equal_files_of_two_labels_are_all_left_out(folder: Path) -> None:
    noise(5).save(folder / "cat/3.png")
    for name in ("dog/3.png", "dog/4.png"):
        shutil.copy(folder / "cat/3.png", folder / name)
    (folder / "none").mkdir()
    shutil.copy(folder / "dog/2.png", folder / "none/1.png")
    noise(6).save(folder / "dog/5.png")
    found = load(folder)
    names = [f"{file.parent.name}/{file.name}" for file in found.files]
    assert names == ["cat/1.png", "cat/2.png", "dog/1.png", "dog/5.png"]
    for pixels, file in zip(found.pixels, found.files, strict=True):
        assert (pixels == SQUARE.to_pixels(file.read_bytes())).all()
    assert len(found.outliers) == 0
    assert len(found.left_out) == 5
    lines = {f"{x.path.parent.name}/{x.path.name}": x.reason for x in found.left_out}
    assert "of dog: " in lines["cat/3.png"]
    assert lines["dog/4.png"].endswith("cat/3.png")
    assert lines["none/1.png"].endswith("dog/2.png")


def test_a_class_without_a_readable_picture_is_refused(folder: Path) -> None:
    for number in "12":
        (folder / f"dog/{number}.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"2 pictures.*: dog .*1\.png"):
        load(folder)


def test_many_pixels_are_kept_in_a_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load(folder).pixels
    monkeypatch.setattr(pictures, "MAX_MEMORY", 1)
    pixels = load(folder).pixels
    assert isinstance(pixels, np.memmap)
    assert (pixels == before).all()
