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

import evaluate
import train
from model import artifact
from model.classifier import Classifier
from model.network import CNN
from training import data as data_module
from training import epoch, release
from training.data import Data, Photos, get_data, one_hot_targets
from training.options import SOUP_RUNS, parse_options
from training.recipes import RECIPES

RECIPE = RECIPES["fashion-mnist"]
EPOCHS = 3
Facts = dict[str, Any]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Scale the settings down to a hundred pictures."""
    monkeypatch.setattr(data_module, "VALIDATION_SIZE", 20)
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
    return get_data(RECIPE, folder)


@pytest.fixture
def start(data: Data) -> Facts:
    """A model to fine-tune, as `read_start` returns it."""
    torch.manual_seed(5)
    network = CNN(**RECIPE.arguments())
    network(data.train.pixels)  # for the statistics of the batch norms
    network.observe_ranges(data.train.pixels)
    network.quantise()
    return {
        "arguments": network.arguments,
        "state_dict": network.state_dict(),
        "classes": data.classes,
        "version": "of the start",
    }


def weights(network: nn.Module) -> Tensor:
    return torch.cat(
        [value.detach().flatten().float() for value in network.state_dict().values()]
    )


def run(
    data: Data, path: Path, seed: int = 1, start: Facts | None = None, **options: bool
) -> CNN:
    options = {"resume": False} | options
    plan = train.Run(EPOCHS, seed, start)
    return train.train(data, plan, path / "checkpoint", **options)[0]


def test_the_seed_decides_the_weights(data: Data, tmp_path: Path) -> None:
    first = weights(run(data, tmp_path))
    assert torch.equal(first, weights(run(data, tmp_path)))
    assert not torch.equal(first, weights(run(data, tmp_path, seed=2)))


def test_training_lowers_the_loss(data: Data) -> None:
    state = train.build_state(train.Run(EPOCHS, 1), RECIPE.arguments(), 100)
    random = torch.Generator().manual_seed(1)
    plan = epoch.plan_epochs(data, EPOCHS, 1.0)[-1]
    scenes = epoch.make_scenes(data, EPOCHS, 1.0, seed=1)
    pictures = epoch.build_epoch(data, scenes, None, plan, random)
    with tqdm(disable=True) as bar:
        losses = [train.train_epoch(state, pictures, random, bar) for _ in range(8)]
    assert losses[-1] < 0.8 * losses[0]


def test_fine_tuning_begins_with_the_weights_of_the_start(start: Facts) -> None:
    tuned = train.build_state(train.Run(EPOCHS, 1, start), start["arguments"], 100)
    fresh = train.build_state(train.Run(EPOCHS, 1), RECIPE.arguments(), 100)
    weight = start["state_dict"]["head.weight"]
    assert torch.equal(tuned.network.head.weight, weight)
    assert not torch.equal(fresh.network.head.weight, weight)
    assert not tuned.network.has_ranges()  # it is trained in full precision


def test_a_released_model_can_be_fine_tuned(classifier: Classifier) -> None:
    start = train.read_start(ROOT / "model.bin", RECIPE)
    train.build_state(train.Run(EPOCHS, 1, start), start["arguments"], 100)
    assert train.Run(EPOCHS, 1, start).settings()["start"] == classifier.version


def test_fine_tuning_keeps_a_share_of_the_start(data: Data, start: Facts) -> None:
    torch.manual_seed(1)
    network = CNN(**RECIPE.arguments())
    tuned = network.head.weight.detach().clone()
    train.interpolate_weights(network, start, data.train.pixels)
    old = start["state_dict"]["head.weight"]
    expected = tuned.lerp(old, train.START_WEIGHT)
    assert torch.allclose(network.head.weight, expected)
    assert network.arguments["quantised"]
    assert network.has_ranges()


def test_fine_tuning_averages_runs_from_one_start(
    data: Data, start: Facts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not epochs, nor runs that continue where the one before stopped."""
    after: list[Tensor] = []  # each epoch

    def parameters(network: nn.Module) -> Tensor:
        return torch.cat([p.detach().flatten() for p in network.parameters()])

    def log_epoch(_name: str, _loss: float, network: CNN, _data: Data) -> None:
        after.append(parameters(network))

    monkeypatch.setattr(train, "log_epoch", log_epoch)
    monkeypatch.setattr(train, "START_WEIGHT", 0.0)
    tuned = parameters(run(data, tmp_path, start=start))
    begin, ends = (torch.stack(after[at::EPOCHS]) for at in (0, EPOCHS - 1))
    assert len(ends) == SOUP_RUNS
    assert torch.allclose(tuned, ends.mean(0), atol=1e-6)
    assert not torch.allclose(tuned, ends[0], atol=1e-6)
    assert (begin[1] - begin[0]).norm() < (begin[1] - ends[0]).norm()


def test_fine_tuning_erases_to_the_end_and_has_all_synthetic_pictures(
    data: Data, start: Facts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    erased: list[bool] = []
    shares: list[float] = []

    def augment(
        pixels: Tensor, _random: torch.Generator, *, flips: bool, erasing: bool
    ) -> Tensor:
        assert flips
        erased.append(erasing)
        return pixels

    def plan_epochs(data: Data, epochs: int, share: float) -> list[epoch.EpochPlan]:
        shares.append(share)
        return epoch.plan_epochs(data, epochs, share)

    monkeypatch.setattr(train, "augment", augment)
    monkeypatch.setattr(train, "plan_epochs", plan_epochs)
    monkeypatch.setattr(train, "CLEAN_EPOCHS", 2)
    run(data, tmp_path)
    run(data, tmp_path, start=start)
    assert erased == [True, False, False] + SOUP_RUNS * EPOCHS * [True]
    assert shares == [epoch.synthetic_share(EPOCHS), 1]


def test_fine_tuning_refuses_a_model_of_another_data_set() -> None:
    with pytest.raises(ValueError, match="of Fashion-MNIST, not of KMNIST"):
        train.read_start(ROOT / "model.bin", RECIPES["kmnist"])


def resume(
    data: Data,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    start: Facts | None = None,
) -> Tensor:
    """Interrupt a run in its last epoch, or the soup's second run, and resume it."""
    train_epoch = train.train_epoch
    calls = []

    def interrupted(*arguments: Any) -> float:
        calls.append(1)
        if len(calls) == (EPOCHS + 2 if start else EPOCHS):
            raise KeyboardInterrupt
        return train_epoch(*arguments)

    monkeypatch.setattr(train, "train_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(data, path, start=start)
    monkeypatch.setattr(train, "train_epoch", train_epoch)
    return weights(run(data, path, start=start, resume=True))


@pytest.mark.parametrize("share", [0.08, 0.8], ids=["exact", "quantised"])
def test_a_resumed_run_ends_like_an_unbroken_one(
    data: Data,
    start: Facts,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    share: float,
) -> None:
    """A new network's, and one of fine-tuning."""
    monkeypatch.setattr(train, "QUANTISED_SHARE", share)
    for begin in (None, start):
        unbroken = weights(run(data, tmp_path, start=begin))
        assert torch.equal(unbroken, resume(data, tmp_path, monkeypatch, begin))


def test_a_resumed_run_has_the_soft_targets_of_before(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels, labels = data.train.pixels[:40], data.train.labels[:40]
    targets = one_hot_targets(labels, 10)
    views = pixels[:, None].expand(-1, epoch.EPOCH_VIEWS, -1, -1)
    photos = Photos(pixels, views, views, labels, targets, targets.float() * 0)
    data = data._replace(photos=photos)
    plain = weights(run(data, tmp_path))
    monkeypatch.setattr(train, "DISTIL_AFTER", 1)
    unbroken = weights(run(data, tmp_path))
    assert not torch.equal(plain, unbroken)
    assert torch.equal(unbroken, resume(data, tmp_path, monkeypatch))


def test_resume_refuses_another_run(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(data, tmp_path)
    with pytest.raises(ValueError, match="seed 1"):
        run(data, tmp_path, seed=2, resume=True)
    monkeypatch.setattr(epoch, "LABEL_SMOOTHING", 0.2)
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


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": False}, False),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": True}, True),
        ({"cpu_name": "AMD EPYC", "avx512_bf16": True}, True),
        ({"cpu_name": "AMD EPYC"}, False),
        ({}, False),
    ],
)
def test_bfloat16_is_used_where_it_was_faster(
    monkeypatch: pytest.MonkeyPatch, capabilities: Facts, expected: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert train.prefers_bfloat16(torch.device("cpu")) == expected


def command_line(
    monkeypatch: pytest.MonkeyPatch, folder: Path, output: Path, *options: str
) -> None:
    arguments = ["--data", str(folder), "--output", str(output), "--epochs", "2"]
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments, *options])


@pytest.mark.filterwarnings("default")  # the exporter's own
def test_train_writes_a_model_that_serves_and_can_be_fine_tuned(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    samples: Samples,
) -> None:
    first, tuned, odd = (tmp_path / name for name in ("1.bin", "2.bin", "odd.npz"))
    np.savez(odd, images=samples.pixels[:9])
    command_line(monkeypatch, folder, first, "--outliers", str(odd))
    train.main()
    assert "% (test)" in capsys.readouterr().out
    model = artifact.read(str(first))
    assert model.facts["data"]["train"] == 80
    assert model.facts["data"]["outliers"].keys() == {"odd"}
    assert model.facts["settings"]["seed"] == 1
    assert len(Classifier(model).classify(samples.pixels)) == 100
    loaded = torch.load(first, weights_only=True)
    assert all(loaded[name] == model.facts[name] for name in ("classes", "version"))

    command_line(monkeypatch, folder, tuned, "--start", str(first))
    train.main()
    facts = artifact.read(str(tuned)).facts
    assert facts["settings"]["start"] == model.facts["version"]
    assert facts["data"]["outliers"] == {}
    assert facts["data"]["before"] == model.facts["data"]
    files = sorted(path.name for path in tmp_path.iterdir() if path.is_file())
    assert files == ["1.bin", "2.bin", "odd.npz"]  # no checkpoint is left


@pytest.mark.filterwarnings("default")  # the exporter's own
@pytest.mark.parametrize("name", ["mnist", "kmnist"])
def test_another_data_set_is_trained_on_and_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, samples: Samples, name: str
) -> None:
    recipe, output = RECIPES[name], tmp_path / "model.bin"
    root = torchvision_root(tmp_path, samples, recipe.dataset.__name__)
    command_line(monkeypatch, root, output, "--dataset", name)
    train.main()
    model = artifact.read(str(output))
    assert (model.facts["name"], model.facts["classes"]) == (name, recipe.classes)
    assert model.facts["data"]["name"] == recipe.title
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--data", str(root)])
    measured = evaluate.measure(model, evaluate.parse_options()).metrics["test"]
    accuracy = model.facts["metrics"]["onnx_accuracy"]
    assert measured["accuracy"] == pytest.approx(accuracy)


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
def test_options_are_checked_before_training(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    options: list[str],
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", *options])
    with pytest.raises(SystemExit):
        parse_options("")
    assert re.search(reason, capsys.readouterr().err)


def test_fine_tuning_and_a_quick_run_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    for options, epochs in (
        ([], 45),
        (["--dataset", "mnist"], 15),
        (["--start", "x"], 3),
        (["--quick"], 5),
    ):
        monkeypatch.setattr(sys, "argv", ["train.py", *options])
        assert parse_options("").epochs == epochs


def test_an_interrupted_run_leaves_the_old_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "model.bin"
    output.write_bytes(b"the old model")
    command_line(monkeypatch, folder, output)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def interrupt_soon(*_: object) -> Facts:
        monkeypatch.setattr("os.fsync", interrupt)
        return {}

    monkeypatch.setattr(release, "check", interrupt_soon)
    with pytest.raises(KeyboardInterrupt):
        train.main()
    assert output.read_bytes() == b"the old model"
