"""`evaluate.py` writes a complete report, by the code of the service."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, Samples, torchvision_root
from numpy.typing import NDArray

import evaluate
from model import artifact
from training.data import fingerprint


def test_noise_has_the_spectrum_of_its_name(samples: Samples) -> None:
    sets = evaluate.noise_sets(samples.pixels)
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
