"""`train.py --check` names what it finds, and writes its sheet only."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from PIL import Image
from test_pictures import noise

from training.check import MAX_CLASSES, describe_files
from training.labelled import LabelledFiles


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a split folder with something of each kind."""
    folder = tmp_path / "pets"
    for seed in range(12):
        part = "val" if seed % 3 == 2 else "train"
        file = folder / part / ("cat" if seed % 2 else "dog") / f"{seed}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        noise(seed, 200).save(file)
    Image.new("RGB", (90, 90)).save(folder / "train/cat/black.png")
    shutil.copy(folder / "val/dog/2.png", folder / "train/dog/leak.png")
    noise(1, 150).save(folder / "train/dog/near.png")
    shutil.copy(folder / "train/dog/0.png", folder / "train/cat/0.png")
    (folder / "train/cat/kap\udcf6\ntt.jpg").write_text("no picture")
    return folder


def run_check(folder: Path, cwd: Path, *options: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", "--images", folder, "--check", *options],
        cwd=cwd,
        capture_output=True,
        env={"PYTHONIOENCODING": "utf-8:strict"},
        check=False,
    )
    return done.returncode, (done.stdout + done.stderr).decode()


def test_everything_is_named_and_drawn(folder: Path, tmp_path: Path) -> None:
    before = sorted(folder.rglob("*"))
    code, printed = run_check(folder, tmp_path)
    assert not code, printed
    for line in (
        "17 files of 2 classes",
        "13 pictures are used",
        "left out, not a picture in PNG, JPEG",
        "    cat/kap\\udcf6\\ntt.jpg",
        "left out, equal to one of cat: 1",
        "left out, equal to one of dog: 1",
        "left out, nearly equal to one of validation: 1\n    dog/leak.png",
        "nearly equal, of two classes: 2\n    cat/1.png = dog/near.png",
        "blank: 1\n    cat/black.png",
    ):
        assert line in printed, printed
    with Image.open(tmp_path / "check.png") as sheet:
        assert sheet.format == "PNG"
    assert sorted(folder.rglob("*")) == before


def test_nothing_is_written_into_the_folder(folder: Path) -> None:
    code, printed = run_check(folder, folder)
    assert code
    assert "nothing is written into" in printed
    assert not (folder / "check.png").exists()


def test_of_many_classes_the_largest_and_smallest_are_printed() -> None:
    classes = [f"c{index:03}" for index in range(200)]
    labels = [index for index in range(200) for _ in range(index + 2)]
    files = [Path("x")] * len(labels)
    found = LabelledFiles(classes, files, labels, [""] * len(labels), [], [])
    lines = describe_files(found)
    assert len(lines) == MAX_CLASSES + 3
    assert lines[1].split() == ["c199", "201"]
    assert lines[-2].split() == ["c000", "2"]
    assert lines[-1] == "uneven: 201 files to 2"
