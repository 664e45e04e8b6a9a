"""Folders of pictures are read as people keep them."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, Samples
from PIL import Image
from test_artifact import pack
from torchvision.datasets import FashionMNIST

from training import folders as photos
from training.data import RECIPE

CLASSES = FashionMNIST.classes


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("Ankle boot", ["Ankle boot"]),
        ("ankle-boots", ["Ankle boot"]),
        ("T-SHIRT", ["T-shirt/top"]),
        ("t_shirt_top", ["T-shirt/top"]),
        ("pants", ["Trouser"]),
        ("jean", ["Trouser"]),
        ("shoe", ["Sandal", "Sneaker", "Ankle boot"]),
        ("trousers", ["Trouser"]),
        ("dresses", ["Dress"]),
        ("shoes", ["Sandal", "Sneaker", "Ankle boot"]),
        ("hat", []),
        ("shorts", []),
    ],
)
def test_folders_name_classes(folder: str, expected: list[str]) -> None:
    assert photos.classes_of(folder, CLASSES, RECIPE.aliases) == expected


def test_every_named_class_is_one() -> None:
    assert {name for names in RECIPE.aliases.values() for name in names} <= set(CLASSES)


def test_looks_vary_and_repeat(tmp_path: Path, samples: Samples) -> None:
    Image.fromarray(255 - samples.pixels[0]).resize((300, 400)).save(tmp_path / "1.png")
    first, again, other = (
        photos.look(tmp_path / "1.png", seed, 5) for seed in (1, 1, 2)
    )
    assert first is not None
    assert again is not None
    assert other is not None
    assert len(np.unique(first.views.reshape(5, -1), axis=0)) == 5
    assert (first.views == again.views).all()
    assert (first.scraps != other.scraps).any()


def test_a_file_that_is_no_picture_is_none(tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("no picture")
    assert photos.look(tmp_path / "notes.jpg", 1, 5) is None


def test_unknown_pictures_come_from_a_folder_or_an_npz(
    tmp_path: Path, samples: Samples
) -> None:
    np.savez(tmp_path / "digits.npz", images=samples.pixels)
    sets = photos.read_all_unknown([tmp_path / "digits.npz", ROOT / "static/pictures"])
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
        photos.read_unknown(tmp_path / "odd.npz")


def packed(middle: bytes) -> bytes:
    """Make an NPZ file whose compressed data is not what it was."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=np.zeros((3, 28, 28), np.uint8))
    content = bytearray(buffer.getvalue())
    content[60 : 60 + len(middle)] = middle
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
    [b"", b"no archive", b"PK\3\4 cut short", packed(b"\xff" * 20), lone_array()],
)
def test_a_damaged_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "odd.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"odd\.npz"):
        photos.read_unknown(tmp_path / "odd.npz")


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
        photos.read_unknown(tmp_path / "odd.npz")


def test_an_empty_folder_and_twins_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no pictures"):
        photos.read_unknown(tmp_path)
    pictures = ROOT / "static/pictures"
    with pytest.raises(ValueError, match="two sets"):
        photos.read_all_unknown([pictures, pictures])
