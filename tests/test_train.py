"""Training on a small piece of the real data, from the files to `model.bin`."""

import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Samples
from torch import Tensor, nn
from tqdm import tqdm

import artifact
import train
from classifier import Classifier
from model import Calibrated, FashionCNN, export_onnx

EPOCHS = 3


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Scale the settings down to a hundred pictures."""
    monkeypatch.setattr(train, "VALIDATION_SIZE", 20)
    monkeypatch.setattr(train, "BATCH_SIZE", 16)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def folder(tmp_path: Path, samples: Samples) -> Path:
    """A torchvision root with the sample pictures as training and test set."""
    raw = tmp_path / "data" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        header = struct.pack(">iiii", 0x803, len(samples.pixels), 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(
            header + samples.pixels.tobytes()
        )
        header = struct.pack(">ii", 0x801, len(samples.labels))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(
            header + samples.labels.tobytes()
        )
    return tmp_path / "data"


@pytest.fixture
def data(folder: Path) -> train.Data:
    return train.get_data(folder)


def weights(network: nn.Module) -> Tensor:
    return torch.cat(
        [value.flatten().float() for value in network.state_dict().values()]
    )


def run(
    data: train.Data, path: Path, seed: int = 1, resume: bool = False
) -> FashionCNN:
    return train.train(data, EPOCHS, seed, path / "checkpoint", resume)[0]


def test_get_data_splits_without_overlap(data: train.Data, samples: Samples) -> None:
    assert [len(part.labels) for part in data[:3]] == [80, 20, 100]
    both = torch.cat([data.train.pixels, data.validation.pixels]).flatten(1)
    assert len(both.unique(dim=0)) == len(np.unique(samples.pixels, axis=0))
    assert data.classes[9] == "Ankle boot"


def test_the_fingerprint_tells_data_apart(folder: Path, data: train.Data) -> None:
    labels = folder / "FashionMNIST" / "raw" / "t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1] + b"\0")
    assert train.get_data(folder).fingerprint != data.fingerprint


def test_the_seed_decides_the_weights(data: train.Data, tmp_path: Path) -> None:
    first = weights(run(data, tmp_path))
    assert torch.equal(first, weights(run(data, tmp_path)))
    assert not torch.equal(first, weights(run(data, tmp_path, seed=2)))


def test_training_lowers_the_loss(data: train.Data) -> None:
    parts = train.build(1, 100, torch.device("cpu"))
    random = torch.Generator().manual_seed(1)
    with tqdm(disable=True) as bar:
        losses = [
            train.train_epoch(parts, data.train, random, bar)[0] for _ in range(8)
        ]
    assert losses[-1] < 0.8 * losses[0]


def test_resume_ends_where_an_unbroken_run_ends(
    data: train.Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unbroken").mkdir()
    unbroken = weights(run(data, tmp_path / "unbroken"))
    whole_epoch = train.train_epoch
    calls = []

    def interrupted(*arguments: Any) -> tuple[float, float]:
        calls.append(1)
        if len(calls) == EPOCHS:
            raise KeyboardInterrupt
        return whole_epoch(*arguments)

    monkeypatch.setattr(train, "train_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path)
    monkeypatch.setattr(train, "train_epoch", whole_epoch)
    assert torch.equal(unbroken, weights(run(data, tmp_path, resume=True)))


def test_resume_refuses_another_run(data: train.Data, tmp_path: Path) -> None:
    run(data, tmp_path)
    with pytest.raises(ValueError, match="seed 1"):
        run(data, tmp_path, seed=2, resume=True)


def test_evaluate_counts_right_answers(data: train.Data) -> None:
    class Constant(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = torch.nn.Parameter(torch.eye(10)[3])

        def forward(self, pixels: Tensor) -> Tensor:
            return self.logits.expand(len(pixels), 10)

    accuracy, logits = train.evaluate(Constant(), data.test)
    assert accuracy == pytest.approx(0.1)
    assert logits.shape == (100, 10)


def test_check_refuses_another_graph(data: train.Data) -> None:
    """A graph of other weights is never written."""
    torch.manual_seed(1)
    model, other = (Calibrated(FashionCNN(), 1.0).eval() for _ in range(2))
    facts = train.describe(model, data, {})
    with pytest.raises(ValueError, match="PyTorch"):
        train.check(model, export_onnx(other), facts, data.test.pixels)


def command_line(
    monkeypatch: pytest.MonkeyPatch, folder: Path, output: Path, *options: str
) -> None:
    arguments = ["--data", str(folder), "--output", str(output), "--epochs", "2"]
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments, *options])


@pytest.mark.filterwarnings("default")  # the exporter's own
def test_train_writes_a_model_that_serves(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    samples: Samples,
) -> None:
    output = tmp_path / "model.bin"
    command_line(monkeypatch, folder, output)
    train.main()
    model = artifact.read(str(output))
    assert "test accuracy" in capsys.readouterr().out
    assert model.facts["data"]["train"] == 80
    assert model.facts["settings"]["seed"] == 1
    assert len(Classifier(model).classify(samples.pixels)) == 100
    assert torch.load(output, weights_only=True)["classes"] == model.facts["classes"]
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["model.bin"]


def test_an_interrupted_train_leaves_the_old_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "model.bin"
    output.write_bytes(b"the old model")
    command_line(monkeypatch, folder, output)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "check", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train.main()
    assert output.read_bytes() == b"the old model"
