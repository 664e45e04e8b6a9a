"""`evaluate.py` writes a complete report, by the code of the service."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from colour_model import CLASSES, COLOURS, picture
from colour_model import write as write_model
from conftest import ROOT, Samples, torchvision_root
from numpy.typing import NDArray

import evaluate
from model import artifact
from training import plots
from training.data import fingerprint
from training.noise import noise_sets


def test_noise_has_the_spectrum_of_its_name(samples: Samples) -> None:
    sets = noise_sets(samples.pixels)
    assert {pixels.dtype for pixels in sets.values()} == {np.dtype(np.uint8)}
    assert {pixels.shape[1:] for pixels in sets.values()} == {(28, 28)}

    def neighbours(pixels: NDArray[np.uint8]) -> float:
        flat = pixels.astype(float)
        return float(np.corrcoef(flat[:, 1:].ravel(), flat[:, :-1].ravel())[0, 1])

    order = ["uniform noise", "pink noise", "brown noise", "clouds"]
    correlations = [neighbours(sets[name]) for name in order]
    assert correlations == sorted(correlations)
    assert abs(correlations[0]) < 0.01
    assert np.ptp(sets["blank, every level"], axis=(1, 2)).max() == 0


@pytest.fixture
def options(tmp_path: Path, samples: Samples) -> list[str]:
    """Options with a model whose parent was trained on the set `garments`."""
    np.savez(tmp_path / "garments.npz", images=samples.pixels)
    model = artifact.read(str(ROOT / "model.bin"))
    digest = fingerprint([torch.from_numpy(samples.pixels)])
    model.facts["data"]["before"]["outliers"] = {"some": digest}
    artifact.write(tmp_path / "model.bin", {}, model)
    for name in ("bag", "trouser"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        picture = (ROOT / "static" / "pictures" / f"{name}.png").read_bytes()
        (tmp_path / "photos" / name / "1.png").write_bytes(picture)
    options = ["--data", torchvision_root(tmp_path, samples)]
    options += ["--unknown", tmp_path / "garments.npz", "--photos", tmp_path / "photos"]
    options += ["--model", tmp_path / "model.bin", "--output", tmp_path / "report"]
    return list(map(str, options))


def test_a_report_is_complete(
    options: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *options])
    evaluate.main()
    report = Path(options[-1])
    metrics: dict[str, Any] = json.loads((report / "metrics.json").read_text())
    assert metrics["test"]["accuracy"] > 0.85
    assert metrics["unknown"]["garments"]["auroc"] == 0.5
    assert metrics["unknown"]["garments"]["trained_on"]
    assert metrics["unknown"]["uniform noise"]["accepted"] < 0.05
    assert not metrics["unknown"]["uniform noise"]["trained_on"]
    assert metrics["unknown"]["charts and pages"]["pictures"] == 60
    assert metrics["photos"]["accuracy"] == 1
    card = (report / "model-card.md").read_text()
    assert card in capsys.readouterr().out
    assert f"before refusal {metrics['test']['accuracy']:.2%}" in card
    assert "| garments | 100 | " in card
    assert "| bag | 1 | Bag | 100.0% | 0.0% |" in card
    for name in ("confusion", "calibration", "classes", "scores", "mistakes"):
        assert (report / f"{name}.png").stat().st_size > 5_000
    assert (report / "pictures.png").exists()


def evaluated(*options: object) -> tuple[dict[str, Any], str]:
    """Run `evaluate.py`; return the metrics and the model card."""
    report = Path(str(options[-1]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["evaluate.py", *map(str, options)])
        evaluate.main()
    card = (report / "model-card.md").read_text()
    return json.loads((report / "metrics.json").read_text()), card


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """One picture of each of two classes, and of two kinds that are no class."""
    red, _, blue = CLASSES
    folders = dict(zip([red, blue, "$r|ey$", "none"], [*COLOURS] * 2, strict=False))
    for folder, colour in folders.items():
        (tmp_path / "images" / folder).mkdir(parents=True)
        data = picture(COLOURS[colour])
        (tmp_path / "images" / folder / "1.png").write_bytes(data)
    return tmp_path / "images"


@pytest.mark.parametrize("is_complete", [True, False])
def test_a_model_of_other_classes_is_measured_by_folders(
    tmp_path: Path,
    images: Path,
    capsys: pytest.CaptureFixture[str],
    is_complete: bool,
) -> None:
    write_model(tmp_path / "model.bin", is_complete=is_complete)
    options = "--model", tmp_path / "model.bin", "--output", tmp_path / "report"
    metrics, card = evaluated("--images", images, *options)
    assert metrics["test"]["pictures"] == 2
    assert metrics["test"]["accuracy"] == 0.5  # the second folder has green pictures
    assert metrics["test"]["balanced_accuracy"] == 0.5
    assert metrics["unknown"]["none/"]["pictures"] == 1
    lines = capsys.readouterr().out
    assert "$r|ey$/ is no class of the model: its 1 files are outliers" in lines
    assert f"no files of {CLASSES[1]}" in lines
    assert "| $r\\|ey$/ | 1 |" in card
    assert "| no pictures |" in card
    assert "data that it was trained on is not known" in card
    assert "Fashion" not in card
    assert "clothes" not in card
    assert (tmp_path / "report" / "scores.png").exists() == is_complete
    assert (metrics["unknown"]["none/"]["auroc"] is None) != is_complete


def test_of_a_split_only_new_pictures_are_measured(
    tmp_path: Path, images: Path
) -> None:
    write_model(tmp_path / "model.bin")
    (tmp_path / "set").mkdir()
    shutil.copytree(images, tmp_path / "set" / "train")
    shutil.rmtree(images / CLASSES[2])
    images.rename(tmp_path / "set" / "test")
    options = "--model", tmp_path / "model.bin", "--output", tmp_path / "report"
    assert evaluated("--images", tmp_path / "set", *options)[0]["test"]["pictures"] == 1


def test_what_cannot_be_measured_is_refused_in_one_line(
    tmp_path: Path, images: Path
) -> None:
    write_model(tmp_path / "model.bin")
    options = "--model", tmp_path / "model.bin", "--output", tmp_path / "report"
    with pytest.raises(ValueError, match="give --images"):
        evaluated(*options)
    for name in CLASSES:
        shutil.rmtree(images / name, ignore_errors=True)
    with pytest.raises(ValueError, match="no folder is named for a class"):
        evaluated("--images", images, *options)


def test_figures_of_many_awkward_names_are_drawn(tmp_path: Path) -> None:
    classes = [f"$\\frac{{蜂|{index}$ {'long ' * 10}" for index in range(200)]
    confusion = np.eye(200, dtype=int)
    confusion[7, 190] = 3
    test = {"confusion": confusion, "recall": [0.5] * 200, "precision": [0.5] * 200}
    plots.draw_confusion(tmp_path, confusion.tolist(), classes)
    plots.draw_classes(tmp_path, test, classes)
    pixels = np.zeros((2, 32, 32, 3), np.uint8)
    plots.draw_mistakes(tmp_path, pixels, classes[:2], classes[2:4], np.ones(2))
    assert len(list(tmp_path.iterdir())) == 3
