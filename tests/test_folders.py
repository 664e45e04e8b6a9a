"""Folders of pictures are read as people keep them."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, Samples
from PIL import Image
from test_artifact import pack

from training import folders
from training.recipes import RECIPES

RECIPE = RECIPES["fashion-mnist"]
CLASSES = RECIPE.classes
PREPROCESSING = RECIPE.preprocessing


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("Ankle boot", ["Ankle boot"]),
        ("ankle-boots", ["Ankle boot"]),
        ("T-SHIRT", ["T-shirt/top"]),
        ("t_shirt_top", ["T-shirt/top"]),
        ("pants", ["Trouser"]),
        ("trousers", ["Trouser"]),
        ("dresses", ["Dress"]),
        ("shoes", ["Sandal", "Sneaker", "Ankle boot"]),
        ("hat", []),
        ("shorts", []),
    ],
)
def test_folders_name_classes(folder: str, expected: list[str]) -> None:
    assert folders.classes_of(folder, CLASSES, RECIPE.aliases) == expected


def test_folders_may_be_links(tmp_path: Path) -> None:
    photos, linked = tmp_path / "photos", tmp_path / "linked"
    (photos / "more").mkdir(parents=True)
    (photos / "1.jpg").touch()
    (photos / "more" / "2.jpg").touch()
    linked.mkdir()
    (linked / "dress").symlink_to(photos)
    (photos / "round").symlink_to(linked)
    (photos / "twin").symlink_to(photos / "more")
    files, names = folders.find_photos(linked, CLASSES, RECIPE.aliases)
    assert [file.name for file in files] == ["1.jpg", "2.jpg"]
    assert set(names) == {"dress"}


def test_views_vary_and_repeat(tmp_path: Path, samples: Samples) -> None:
    file = tmp_path / "1.png"
    Image.fromarray(255 - samples.pixels[0]).resize((300, 400)).save(file)
    first, again, other = (
        folders.load_views(file, seed, 5, PREPROCESSING) for seed in (1, 1, 2)
    )
    assert first
    assert again
    assert other
    assert len(np.unique(first.views.reshape(5, -1), axis=0)) == 5
    assert (first.views == again.views).all()
    assert (first.crops != other.crops).any()


def test_a_finished_input_stays_as_it_is(tmp_path: Path, samples: Samples) -> None:
    """As in the service."""
    Image.fromarray(samples.pixels[0]).save(tmp_path / "small.png")
    found = folders.load_views(tmp_path / "small.png", 1, 3, PREPROCESSING)
    assert found
    assert (found.pixels == samples.pixels[0]).all()
    assert (found.views[0] == samples.pixels[0]).all()


def test_a_file_that_is_no_picture_has_no_views(tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("no picture")
    assert folders.load_views(tmp_path / "notes.jpg", 1, 5, PREPROCESSING) is None


def test_outliers_come_from_a_folder_or_an_npz(
    tmp_path: Path, samples: Samples
) -> None:
    np.savez(tmp_path / "digits.npz", images=samples.pixels)
    paths = [tmp_path / "digits.npz", ROOT / "static/pictures"]
    sets = folders.read_outlier_sets(paths, PREPROCESSING)
    assert (sets["digits"] == samples.pixels).all()
    assert len(sets["pictures"]) >= 10


@pytest.mark.parametrize(
    "arrays",
    [
        {"images": np.zeros((3, 32, 32), np.uint8)},
        {"images": np.zeros((3, 28, 28), np.float32)},
        {"images": np.zeros((0, 28, 28), np.uint8)},
        {"pixels": np.zeros((3, 28, 28), np.uint8)},
    ],
)
def test_an_npz_of_something_else_is_refused(
    tmp_path: Path, arrays: dict[str, Any]
) -> None:
    np.savez(tmp_path / "odd.npz", **arrays)
    with pytest.raises(ValueError, match=r"odd\.npz.*images"):
        folders.read_outliers(tmp_path / "odd.npz", PREPROCESSING)


def damaged_archive() -> bytes:
    """Make an NPZ file whose compressed data is damaged."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=np.zeros((3, 28, 28), np.uint8))
    content = bytearray(buffer.getvalue())
    content[60:80] = b"\xff" * 20
    return bytes(content)


def lone_array() -> bytes:
    """Make an NPY file, which holds one array without a name."""
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((3, 28, 28), np.uint8))
    return buffer.getvalue()


def endless_array() -> bytes:
    """Make the head of an NPY file that claims more than any memory holds."""
    buffer = io.BytesIO()
    head = {"descr": "|u1", "fortran_order": False, "shape": (10**16, 28, 28)}
    np.lib.format.write_array_header_1_0(buffer, head)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"no archive", b"PK\3\4 cut short", damaged_archive(), lone_array()],
)
def test_a_damaged_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "odd.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"odd\.npz"):
        folders.read_outliers(tmp_path / "odd.npz", PREPROCESSING)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("images", b"no array"),
        ("images.npy", b"\x93NUMPY\1\0\x10\0{'descr': '|u1',("),
        ("images.npy", endless_array()),
    ],
)
def test_an_archive_of_no_array_is_refused(
    tmp_path: Path, name: str, content: bytes
) -> None:
    pack(tmp_path / "odd.npz", {name: content})
    with pytest.raises(ValueError, match=r"odd\.npz"):
        folders.read_outliers(tmp_path / "odd.npz", PREPROCESSING)


def test_an_empty_folder_and_equal_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no pictures"):
        folders.read_outliers(tmp_path, PREPROCESSING)
    pictures = ROOT / "static/pictures"
    with pytest.raises(ValueError, match="two sets"):
        folders.read_outlier_sets([pictures, pictures], PREPROCESSING)


def test_folders_of_no_class_are_named_with_the_nearest_that_counts() -> None:
    names = ["shoes"] * 2 + ["tshrt"] * 3 + ["hat"]
    *lines, known = folders.describe_folders(names, CLASSES, RECIPE.aliases)
    assert lines == [
        "  hat/ 1 files: none of the classes",
        "  shoes/ 2 files: Sandal or Sneaker or Ankle boot",
        "  tshrt/ 3 files: none of the classes; is it t-shirt?",
    ]
    assert "Trouser" in known
    assert "hoodie" in known


def test_a_file_that_cannot_be_read_is_named_and_left_out(
    tmp_path: Path, samples: Samples, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(samples.pixels[0]).save(tmp_path / "1.png")
    (tmp_path / "memory.jpg").symlink_to("/proc/self/mem")
    (tmp_path / "nothing.jpg").symlink_to("missing")
    (tmp_path / "kap\udcf6tt.jpg").write_bytes(b"\xff\xd8\xff broken")
    assert len(folders.read_outliers(tmp_path, PREPROCESSING)) == 1
    printed = capsys.readouterr().out
    for name in ("memory.jpg", "nothing.jpg", "kap\\udcf6tt.jpg"):
        assert name in printed
    assert folders.load_views(tmp_path / "memory.jpg", 1, 5, PREPROCESSING) is None
