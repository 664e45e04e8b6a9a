"""A report is written in full, by the code of the service."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, Samples, torchvision_root
from numpy.typing import NDArray

import evaluate
from model import artifact
from training.data import fingerprint


def test_made_up_pictures_are_as_named(samples: Samples) -> None:
    sets = evaluate.made_up(samples.pixels)
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


def test_evaluate_writes_a_report(
    tmp_path: Path,
    samples: Samples,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, report = torchvision_root(tmp_path, samples), tmp_path / "report"
    np.savez(tmp_path / "garments.npz", images=samples.pixels)
    photos = tmp_path / "photos"
    for name in ("bag", "trouser"):
        (photos / name).mkdir(parents=True)
        picture = (ROOT / "static" / "pictures" / f"{name}.png").read_bytes()
        (photos / name / "1.png").write_bytes(picture)
    options = ["--data", root, "--unknown", tmp_path / "garments.npz"]
    options += ["--photos", photos, "--output", report]
    model = artifact.read(str(ROOT / "model.bin"))
    learnt = fingerprint([torch.from_numpy(samples.pixels)])
    model.facts["data"]["before"] = {"outliers": {"some": learnt}}
    artifact.write(tmp_path / "model.bin", {}, model)
    options += ["--model", tmp_path / "model.bin"]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, options)])
    evaluate.main()
    metrics = json.loads((report / "metrics.json").read_text())
    assert metrics["test"]["accuracy"] > 0.85
    assert metrics["unknown"]["garments"]["auroc"] == 0.5
    assert metrics["unknown"]["garments"]["trained_on"]
    assert metrics["unknown"]["uniform noise"]["accepted"] < 0.05
    assert not metrics["unknown"]["uniform noise"]["trained_on"]
    assert metrics["photos"]["accuracy"] == 1
    card = (report / "model-card.md").read_text()
    assert f"{metrics['test']['accuracy']:.2%}" in card
    assert card in capsys.readouterr().out
    for name in ("confusion", "calibration", "classes", "scores", "mistakes"):
        assert (report / f"{name}.png").stat().st_size > 5_000
    assert (report / "pictures.png").exists()
