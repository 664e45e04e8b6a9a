"""Train the network on Fashion-MNIST and write `model.bin`.

    python train.py                    all of it, about 17 minutes on 2 cores
    python train.py --quick            a first try, under 2 minutes
    python train.py --data DIR         a torchvision root that has the data already
    python train.py --resume           go on after Ctrl-C, from the last whole epoch

5,000 of the 60,000 training pictures are set aside for every choice: temperature,
unknown threshold. The test pictures are looked at once, at the end.
"""

import argparse
import hashlib
import io
import platform
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, Never, cast

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.datasets import FashionMNIST
from tqdm import tqdm

import artifact
from augment import augment
from classifier import Classifier
from model import Calibrated, FashionCNN, export_onnx, fit_temperature, fit_threshold

# data
VALIDATION_SIZE = 5_000
SPLIT_SEED = 0  # the same split whatever the seed, so that runs compare
# optimisation: AdamW (arXiv 1711.05101), one cycle (arXiv 1708.07120)
EPOCHS = 45
QUICK_EPOCHS = 3
BATCH_SIZE = 128
LEARNING_RATE = 4e-3  # at its peak
WARMUP_SHARE = 0.2  # of the steps
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.1
AVERAGE_EVERY = 4  # steps
AVERAGE_SHARE = 0.03  # of the run: how far the weights' moving average looks back
# what is measured and shown
EVALUATION_BATCH = 1_000
BAR_EVERY = 20  # steps
MAX_DIFFERENCE = 1e-4  # of a probability, ONNX Runtime to PyTorch
RECORDED = (  # settings that `model.json` tells
    "SPLIT_SEED",
    "BATCH_SIZE",
    "LEARNING_RATE",
    "WARMUP_SHARE",
    "WEIGHT_DECAY",
    "LABEL_SMOOTHING",
    "AVERAGE_EVERY",
    "AVERAGE_SHARE",
)

Facts = dict[str, Any]


class Split(NamedTuple):
    """Pictures and their classes."""

    pixels: Tensor  # uint8 [N, 28, 28]
    labels: Tensor  # int64 [N]


class Data(NamedTuple):
    """Fashion-MNIST, with a validation split taken out of its training pictures."""

    train: Split
    validation: Split
    test: Split
    classes: list[str]
    fingerprint: str  # SHA-256 of all pixels and labels, in the published order


def get_data(folder: Path) -> Data:
    """Read Fashion-MNIST from a torchvision root; download it if it is not there."""
    parts = [FashionMNIST(folder, train, download=True) for train in (True, False)]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.data.numpy().tobytes())
        digest.update(part.targets.numpy().tobytes())
    (pixels, labels), test = [Split(part.data, part.targets) for part in parts]
    order = torch.randperm(len(labels), generator=Generator().manual_seed(SPLIT_SEED))
    aside, rest = order[:VALIDATION_SIZE], order[VALIDATION_SIZE:]
    return Data(
        train=Split(pixels[rest], labels[rest]),
        validation=Split(pixels[aside], labels[aside]),
        test=test,
        classes=parts[0].classes,
        fingerprint=digest.hexdigest(),
    )


class Parts(NamedTuple):
    """What training changes, and what a checkpoint keeps."""

    network: FashionCNN
    average: AveragedModel  # of the network's weights: what is evaluated and served
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.OneCycleLR


def build(seed: int, total_steps: int, device: torch.device) -> Parts:
    """Make a fresh network and what trains it. The seed decides its weights."""
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = True
    network = FashionCNN().to(device).to(memory_format=torch.channels_last)
    decay = max(0.0, 1 - AVERAGE_EVERY / (AVERAGE_SHARE * total_steps))
    average = AveragedModel(
        network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True
    )
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim == 1]  # biases, batch norm
    decayed = {"params": matrices, "weight_decay": WEIGHT_DECAY}
    optimizer = torch.optim.AdamW([decayed, {"params": vectors, "weight_decay": 0.0}])
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        LEARNING_RATE,
        total_steps=total_steps,
        pct_start=WARMUP_SHARE,
        cycle_momentum=False,
    )
    return Parts(network, average, optimizer, schedule)


def train(
    data: Data, epochs: int, seed: int, checkpoint: Path, resume: bool
) -> tuple[FashionCNN, float]:
    """Train for `epochs`, on a GPU if there is one, with a checkpoint after each.

    Returns the averaged network and the seconds of all sittings together.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    steps = len(data.train.labels) // BATCH_SIZE
    parts = build(seed, epochs * steps, device)
    run = {"epochs": epochs, "seed": seed, "data": data.fingerprint}
    done, before = load_checkpoint(checkpoint, parts, run) if resume else (0, 0.0)
    started = time.perf_counter()
    with tqdm(total=epochs * steps, initial=done * steps, unit="step") as bar:
        for epoch in range(done, epochs):
            random = Generator().manual_seed(seed * 10_000 + epoch)
            loss, accuracy = train_epoch(parts, data.train, random, bar)
            validation, _ = evaluate(parts.average.module, data.validation)
            tqdm.write(
                f"epoch {epoch + 1}/{epochs}: loss {loss:.3f}, accuracy {accuracy:.2%}"
                f" augmented, {validation:.2%} validation"
            )
            seconds = before + time.perf_counter() - started
            save_checkpoint(checkpoint, parts, {**run, "epoch": epoch + 1}, seconds)
    seconds = before + time.perf_counter() - started
    return cast("FashionCNN", parts.average.module.cpu()), seconds


def train_epoch(
    parts: Parts, split: Split, random: Generator, bar: "tqdm[Never]"
) -> tuple[float, float]:
    """Show the network every picture once; return mean loss and accuracy."""
    device = next(parts.network.parameters()).device
    parts.network.train()
    totals = torch.zeros(2, device=device)
    order = torch.randperm(len(split.labels), generator=random)
    for step in range(1, len(order) // BATCH_SIZE + 1):
        batch = order[(step - 1) * BATCH_SIZE : step * BATCH_SIZE]
        labels = split.labels[batch].to(device)
        pixels = augment(split.pixels[batch], random).to(device)
        with torch.autocast(device.type, torch.bfloat16, has_bfloat16(device)):
            logits = parts.network(pixels)
        loss = cross_entropy(logits.float(), labels, label_smoothing=LABEL_SMOOTHING)
        parts.optimizer.zero_grad()
        loss.backward()
        parts.optimizer.step()
        parts.schedule.step()
        if step % AVERAGE_EVERY == 0:
            parts.average.update_parameters(parts.network)
        right = (logits.argmax(1) == labels).float().mean()
        totals += torch.stack([loss.detach(), right])
        bar.update()
        if step % BAR_EVERY == 0:
            mean_loss, accuracy = (totals / step).tolist()
            bar.set_postfix(loss=f"{mean_loss:.3f}", accuracy=f"{accuracy:.2%}")
    mean_loss, accuracy = (totals / step).tolist()
    return mean_loss, accuracy


def has_bfloat16(device: torch.device) -> bool:
    """Tell whether bfloat16 is faster than float32 on this device."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(
        torch.cpu.get_capabilities().get("avx512_bf16")
    )


@torch.no_grad()
def evaluate(network: nn.Module, split: Split) -> tuple[float, Tensor]:
    """Return the share of right classes, and the logits float32 [N, classes]."""
    network.eval()
    device = next(network.parameters()).device
    batches = split.pixels.split(EVALUATION_BATCH)
    logits = torch.cat([network(batch.to(device)).cpu() for batch in batches])
    right = logits.argmax(1) == split.labels
    return right.float().mean().item(), logits


def save_checkpoint(path: Path, parts: Parts, run: Facts, seconds: float) -> None:
    """Write what `load_checkpoint` needs to go on, atomically."""
    states = {name: part.state_dict() for name, part in parts._asdict().items()}
    buffer = io.BytesIO()
    torch.save({**run, "seconds": seconds, **states}, buffer)
    artifact.replace(path, buffer.getvalue())


def load_checkpoint(path: Path, parts: Parts, run: Facts) -> tuple[int, float]:
    """Put `parts` back to where a run stopped; return its epochs and seconds.

    Raises `ValueError` if the checkpoint belongs to another run.
    """
    state = torch.load(path, weights_only=True)
    for name, value in run.items():
        if state[name] != value:
            raise ValueError(f"{path} is of a run with {name} {state[name]}")
    for name, part in parts._asdict().items():
        part.load_state_dict(state[name])
    return state["epoch"], state["seconds"]


def measure(model: Calibrated, data: Data) -> Facts:
    """Return the finished model's figures: the one look at the test pictures."""
    validation, _ = evaluate(model.network, data.validation)
    accuracy, logits = evaluate(model.network, data.test)
    count = len(data.classes)
    pairs = data.test.labels * count + logits.argmax(1)
    confusion = pairs.bincount(minlength=count**2).view(count, count).double()
    hits = confusion.diagonal()
    recall, precision = hits / confusion.sum(1), hits / confusion.sum(0).clamp(min=1)
    return {
        "test_accuracy": round(accuracy, 4),
        "validation_accuracy": round(validation, 4),
        "per_class": {
            name: {"recall": round(r, 4), "precision": round(p, 4)}
            for name, r, p in zip(
                data.classes, recall.tolist(), precision.tolist(), strict=True
            )
        },
    }


@torch.no_grad()
def check(model: Calibrated, onnx: bytes, facts: Facts, pixels: Tensor) -> float:
    """Hold the ONNX graph against PyTorch; return the largest difference.

    Raises `ValueError` if a probability or a class differs.
    """
    classifier = Classifier(artifact.Artifact(onnx, facts))
    largest = 0.0
    for batch in pixels.split(EVALUATION_BATCH):
        expected = model(batch)[0].numpy()
        predictions = classifier.classify(batch.numpy())
        served = np.array([list(p.probabilities.values()) for p in predictions])
        largest = max(largest, float(np.abs(served - expected).max()))
        if [p.class_id for p in predictions] != expected.argmax(1).tolist():
            raise ValueError("the ONNX graph and PyTorch disagree on a class")
    if largest > MAX_DIFFERENCE:
        raise ValueError(f"the ONNX graph differs from PyTorch by {largest:.1e}")
    return largest


def describe(model: Calibrated, data: Data, run: Facts) -> Facts:
    """Gather what `model.json` says, all but the version."""
    packages = ("torch", "torchvision", "onnx", "onnxruntime", "numpy")
    return {
        "name": "fashion",
        "version": "unsaved",
        "classes": data.classes,
        "input_shape": list(data.test.pixels.shape[1:]),
        "unknown_threshold": fit_threshold(model, data.validation.pixels),
        "temperature": model.temperature,
        "metrics": measure(model, data),
        "settings": run | {name.lower(): globals()[name] for name in RECORDED},
        "data": {
            "name": "Fashion-MNIST",
            "fingerprint": data.fingerprint,
            **{part: len(getattr(data, part).labels) for part in Data._fields[:3]},
        },
        "libraries": {
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def save(path: Path, model: Calibrated, facts: Facts, pixels: Tensor) -> None:
    """Export, check the graph on all test pictures, then write `model.bin`."""
    onnx = export_onnx(model)
    facts["metrics"]["onnx_difference"] = check(model, onnx, facts, pixels)
    checkpoint = {
        "state_dict": model.network.state_dict(),
        "arguments": model.network.arguments,
        **facts,
    }
    artifact.write(path, checkpoint, artifact.Artifact(onnx, facts))


def report(facts: Facts) -> None:
    """Print the figures of a finished model, and where they come from."""
    for topic in ("settings", "data", "libraries"):
        items = ", ".join(f"{k} {v}" for k, v in facts[topic].items())
        print(f"\n{topic}: {items}", end="")
    print(f"\n\n{'class':12} recall  precision")
    for name, row in facts["metrics"]["per_class"].items():
        print(f"{name:12} {row['recall']:6.1%}  {row['precision']:9.1%}")
    print(f"\ntest accuracy {facts['metrics']['test_accuracy']:.2%}", end=", ")
    print(f"{facts['seconds'] / 60:.1f} minutes, seed {facts['settings']['seed']}")


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("data"),
        metavar="DIR",
        help="a torchvision root; Fashion-MNIST is downloaded if missing (data)",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("model.bin"), help="(model.bin)"
    )
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"({EPOCHS})")
    parser.add_argument("--seed", type=int, default=1, help="(1)")
    parser.add_argument(
        "--quick",
        dest="epochs",
        action="store_const",
        const=QUICK_EPOCHS,
        help=f"a first try: --epochs {QUICK_EPOCHS}",
    )
    parser.add_argument("--resume", action="store_true", help="go on after a stop")
    options = parser.parse_args()
    if not options.output.parent.is_dir():  # better now than after an hour
        parser.error(f"no folder {options.output.parent} to write to")
    return options


def main() -> None:
    """Get the data, train, evaluate, save."""
    options = parse_options()
    checkpoint = options.output.with_suffix(".checkpoint")
    data = get_data(options.data)
    network, seconds = train(
        data, options.epochs, options.seed, checkpoint, options.resume
    )
    run = {"epochs": options.epochs, "seed": options.seed}
    _, logits = evaluate(network, data.validation)
    model = Calibrated(network, fit_temperature(logits, data.validation.labels)).eval()
    facts = describe(model, data, run) | {"seconds": round(seconds, 1)}
    save(options.output, model, facts, data.test.pixels)
    checkpoint.unlink()
    report(facts)
    print(f"wrote {options.output}, version {facts['version']}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nstopped; --resume goes on from the last whole epoch")
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f"train: {error}")
