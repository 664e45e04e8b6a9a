"""Training on a small piece of the real data, from the files to `model.bin`."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, Samples, torchvision_root
from test_artifact import saved
from torch import Tensor, nn
from tqdm import tqdm

import train
from model import artifact
from model.classifier import Classifier
from model.network import (
    CNN,
)
from training import data as data_room
from training import epoch as lesson
from training import release
from training.data import Data

EPOCHS = 3


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Scale the settings down to a hundred pictures."""
    monkeypatch.setattr(data_room, "VALIDATION_SIZE", 20)
    monkeypatch.setattr(train, "BATCH_SIZE", 16)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def folder(tmp_path: Path, samples: Samples) -> Path:
    return torchvision_root(tmp_path, samples)


@pytest.fixture
def data(folder: Path) -> Data:
    return data_room.get_data(folder)


def weights(network: nn.Module) -> Tensor:
    return torch.cat(
        [value.flatten().float() for value in network.state_dict().values()]
    )


def run(
    data: Data,
    path: Path,
    seed: int = 1,
    start: dict[str, Any] | None = None,
    resume: bool = False,
) -> CNN:
    plan = train.Run(EPOCHS, seed, start)
    return train.train(data, plan, path / "checkpoint", resume=resume)[0]


def test_fine_tuning_starts_from_a_model(classifier: Classifier) -> None:
    start = train.read_start(ROOT / "model.bin")
    tuned = train.build(1, 100, torch.device("cpu"), start)
    fresh = train.build(1, 100, torch.device("cpu"))
    network = CNN(28)
    network.load_state_dict(start["state_dict"])
    network.dequantise()
    assert torch.equal(weights(tuned.network), weights(network))
    assert not torch.equal(weights(fresh.network), weights(network))
    rates = [max(parts.schedule.get_last_lr()) for parts in (tuned, fresh)]
    assert rates[0] < rates[1]
    assert train.Run(3, 1, start).facts()["start"] == classifier.version


def test_a_fine_tuned_network_goes_part_of_the_way_back(data: Data) -> None:
    start = torch.load(ROOT / "model.bin", weights_only=True)
    torch.manual_seed(1)
    network = CNN(28)
    tuned = network.head.weight.detach().clone()
    train.go_back(network, start, data.train.pixels)
    old, share = start["state_dict"]["head.weight"], train.START_SHARE
    assert torch.allclose(network.head.weight, (1 - share) * tuned + share * old)
    assert network.has_ranges()
    assert network.arguments["quantised"]


def test_fine_tuning_takes_the_mean_of_rounds_from_one_start(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of the epochs, nor of rounds that go on where the one before stopped."""
    seen: list[Tensor] = []

    def parameters(network: nn.Module) -> Tensor:
        return torch.cat([p.detach().flatten() for p in network.parameters()])

    def look(network: nn.Module, _data: Data) -> dict[str, float]:
        seen.append(parameters(network))
        return {}

    monkeypatch.setattr(train, "accuracy_aside", look)
    monkeypatch.setattr(train, "START_SHARE", 0.0)
    start = train.read_start(ROOT / "model.bin")
    tuned = parameters(run(data, tmp_path, start=start))
    begin, ends = (torch.stack(seen[at::EPOCHS]) for at in (0, EPOCHS - 1))
    assert len(ends) == train.ROUNDS
    assert torch.allclose(tuned, ends.mean(0), atol=1e-6)
    assert not torch.allclose(tuned, ends[0], atol=1e-6)
    assert (begin[1] - begin[0]).norm() < (begin[1] - ends[0]).norm()


def test_get_data_splits_without_overlap(data: Data, samples: Samples) -> None:
    assert [len(part.labels) for part in data[:3]] == [80, 20, 100]
    both = torch.cat([data.train.pixels, data.validation.pixels]).flatten(1)
    assert len(both.unique(dim=0)) == len(np.unique(samples.pixels, axis=0))
    assert data.classes[9] == "Ankle boot"


def test_the_fingerprint_tells_data_apart(folder: Path, data: Data) -> None:
    labels = folder / "FashionMNIST" / "raw" / "t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1] + b"\0")
    assert data_room.get_data(folder).fingerprint != data.fingerprint


def test_the_seed_decides_the_weights(data: Data, tmp_path: Path) -> None:
    first = weights(run(data, tmp_path))
    assert torch.equal(first, weights(run(data, tmp_path)))
    assert not torch.equal(first, weights(run(data, tmp_path, seed=2)))


@pytest.mark.parametrize(
    ("able", "faster"),
    [
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": False}, False),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": True}, True),
        ({"cpu_name": "AMD EPYC", "avx512_bf16": True}, True),
        ({"cpu_name": "AMD EPYC"}, False),
        ({}, False),
    ],
)
def test_bfloat16_is_used_where_it_was_faster(
    monkeypatch: pytest.MonkeyPatch, able: dict[str, Any], faster: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert train.has_bfloat16(torch.device("cpu")) == faster


def test_fine_tuning_erases_to_the_end_and_shows_all_that_is_drawn(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    erased: list[bool] = []

    def augment(pixels: Tensor, _random: torch.Generator, erasing: bool) -> Tensor:
        erased.append(erasing)
        return pixels

    monkeypatch.setattr(train, "augment", augment)
    monkeypatch.setattr(train, "CLEAN_EPOCHS", 2)
    shares: list[float] = []

    def plan_of(data: Data, epochs: int, share: float) -> list[lesson.Portions]:
        shares.append(share)
        return lesson.plan_of(data, epochs, share)

    monkeypatch.setattr(train, "plan_of", plan_of)
    start = train.read_start(ROOT / "model.bin")
    for plan in (train.Run(EPOCHS, 1), train.Run(EPOCHS, 1, start)):
        train.train(data, plan, tmp_path / "checkpoint", resume=False)
    assert erased == [True, False, False] + train.ROUNDS * EPOCHS * [True]
    assert shares == [lesson.share_drawn(EPOCHS), 1]


def test_training_lowers_the_loss(data: Data) -> None:
    parts = train.build(1, 100, torch.device("cpu"))
    random = torch.Generator().manual_seed(1)
    with tqdm(disable=True) as bar:
        plan = lesson.plan_of(data, EPOCHS, 1.0)
        scenes = lesson.draw_scenes(data.train, EPOCHS, 1.0, seed=1)
        shown = lesson.mix(data, scenes, None, plan[-1], random)
        losses = [train.train_epoch(parts, shown, random, bar) for _ in range(8)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("share", [0.08, 0.8], ids=["exact", "rounded"])
@pytest.mark.parametrize("is_start", [False, True], ids=["fresh", "fine-tuned"])
def test_resume_ends_where_an_unbroken_run_ends(
    data: Data,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    share: float,
    is_start: bool,
) -> None:
    monkeypatch.setattr(train, "ROUNDED_SHARE", share)
    start = train.read_start(ROOT / "model.bin") if is_start else None
    resumes_alike(data, tmp_path, monkeypatch, start)


def test_resume_knows_what_was_said_of_photos(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels, labels = data.train.pixels[:40], data.train.labels[:40]
    targets = data_room.targets_of(labels, 10)
    views = pixels[:, None].expand(-1, lesson.PHOTO_VIEWS, -1, -1)
    photos = data_room.Photos(
        pixels, views, views, labels, targets, targets.float() * 0
    )
    data = data._replace(photos=photos)
    plain = weights(run(data, tmp_path))
    monkeypatch.setattr(train, "RECALL_EPOCHS", 1)
    assert not torch.equal(plain, resumes_alike(data, tmp_path, monkeypatch))


def resumes_alike(
    data: Data,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    start: dict[str, Any] | None = None,
) -> Tensor:
    """Interrupt a run, or the second round of fine-tuning; return what it ends with."""
    (path / "unbroken").mkdir()
    unbroken = weights(run(data, path / "unbroken", start=start))
    whole_epoch = train.train_epoch
    calls = []

    def interrupted(*arguments: Any) -> float:
        calls.append(1)
        if len(calls) == (EPOCHS + 2 if start else EPOCHS):
            raise KeyboardInterrupt
        return whole_epoch(*arguments)

    monkeypatch.setattr(train, "train_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(data, path, start=start)
    monkeypatch.setattr(train, "train_epoch", whole_epoch)
    assert torch.equal(unbroken, weights(run(data, path, start=start, resume=True)))
    return unbroken


def test_resume_refuses_another_run(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(data, tmp_path)
    with pytest.raises(ValueError, match="seed 1"):
        run(data, tmp_path, seed=2, resume=True)
    monkeypatch.setattr(train, "LABEL_SMOOTHING", 0.2)
    with pytest.raises(ValueError, match=r"label_smoothing 0\.1"):
        run(data, tmp_path, resume=True)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no checkpoint",
        b"PK\3\4 cut short",
        saved(torch.ones(3)),
        (ROOT / "model.bin").read_bytes(),
    ],
    ids=["empty", "text", "cut", "tensor", "model"],
)
def test_resume_refuses_what_is_no_checkpoint(
    data: Data, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "checkpoint").write_bytes(content)
    with pytest.raises(ValueError, match="checkpoint is no checkpoint"):
        run(data, tmp_path, resume=True)


def test_fine_tuning_refuses_other_classes(data: Data, tmp_path: Path) -> None:
    start = train.read_start(ROOT / "model.bin")
    start["classes"] = start["classes"][::-1]
    with pytest.raises(ValueError, match="other classes"):
        run(data, tmp_path, start=start)


def test_loss_asks_for_one_of_the_classes_allowed() -> None:
    """Worked out by hand, without smoothing's share."""
    logits = torch.log(torch.tensor([[0.1, 0.2, 0.3, 0.4]]))
    allowed = torch.tensor([[True, False, True, False]])
    smoothing = -np.log([0.1, 0.2, 0.3]).mean()
    expected = 0.9 * -np.log(0.1 + 0.3) + 0.1 * smoothing
    nothing = torch.zeros(1, 4)
    assert train.loss_of(logits, allowed, nothing).item() == pytest.approx(expected)
    unknown = torch.tensor([[False, False, False, True]])
    loss = train.loss_of(logits, unknown, nothing).item()
    assert loss == pytest.approx(-np.log(0.4))
    recalled = torch.tensor([[0.5, 0.5, 0, 0]])
    share = train.RECALL_SHARE
    expected = (1 - share) * loss - share * np.log([0.1, 0.2]).mean()
    assert train.loss_of(logits, unknown, recalled).item() == pytest.approx(expected)


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
    loaded = torch.load(output, weights_only=True)
    assert all(loaded[name] == model.facts[name] for name in ("classes", "version"))
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["model.bin"]


@pytest.mark.filterwarnings("default")  # the exporter's own
def test_a_fine_tuned_model_knows_what_its_start_learnt_by(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, samples: Samples
) -> None:
    start, tuned = tmp_path / "start.bin", tmp_path / "tuned.bin"
    np.savez(tmp_path / "odd.npz", images=samples.pixels[:9])
    command_line(monkeypatch, folder, start, "--outliers", str(tmp_path / "odd.npz"))
    train.main()
    command_line(monkeypatch, folder, tuned, "--start", str(start))
    train.main()
    facts = [artifact.read(str(path)).facts for path in (start, tuned)]
    assert facts[1]["settings"]["start"] == facts[0]["version"]
    assert facts[1]["data"]["outliers"] == {}
    assert facts[1]["data"]["before"] == facts[0]["data"]
    assert facts[0]["data"]["outliers"].keys() == {"odd"}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--epochs", "0"], "at least 1"),
        (["--output", "none/model.bin"], "no folder"),
        (["--output", "."], "cannot write"),
        (["--resume"], r"no \S*model\.bin\.checkpoint"),
        (["--quick", "--start", "x"], "short by itself"),
        (["--quick", "--epochs", "3"], "not allowed"),
    ],
)
def test_what_cannot_end_well_does_not_begin(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    options: list[str],
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", *options])
    with pytest.raises(SystemExit):
        train.parse_options()
    assert re.search(reason, capsys.readouterr().err)


def test_fine_tuning_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    for options, epochs in ([], 45), (["--start", "x"], 3), (["--quick"], 5):
        monkeypatch.setattr(sys, "argv", ["train.py", *options])
        assert train.parse_options().epochs == epochs


def test_an_interrupted_train_leaves_the_old_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "model.bin"
    output.write_bytes(b"the old model")
    command_line(monkeypatch, folder, output)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def interrupt_soon(*_: object) -> dict[str, float]:
        monkeypatch.setattr("os.fsync", interrupt)
        return {}

    monkeypatch.setattr(release, "check", interrupt_soon)
    with pytest.raises(KeyboardInterrupt):
        train.main()
    assert output.read_bytes() == b"the old model"
