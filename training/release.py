"""A trained network becomes `model.bin`: calibrated, measured, checked, described.

    >>> facts = release(Path("model.bin"), network, data, {"seed": 1}, seconds=2400)

Everything is chosen on what `data` sets aside; a run looks at the test pictures once.
"""

import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from model import artifact
from model.classifier import Classifier
from model.network import (
    Calibrated,
    FashionCNN,
    export_onnx,
    fit_calibration,
    fit_threshold,
    unknown_score,
)
from training.augment import augment
from training.data import SPLIT_SEED, VIEWS, Data, Split, fingerprint
from training.metrics import recall_precision

EVALUATION_BATCH = 250  # fastest: its activations stay in the cache
CALIBRATION_COPIES = 8  # of each garment set aside, each moved in its own way
# the unknown threshold: shares of what is set aside that it may refuse
REFUSED_SHARE = 0.02  # of Fashion-MNIST
PHOTOS_REFUSED_SHARE = 0.12
FEWEST_PHOTOS = 50  # from fewer than so many of garments such a share is not told
MAX_APART = 0.002  # of the test pictures, on which ONNX Runtime and PyTorch disagree
MAX_LOSS = 0.001  # of accuracy
FEW = 2  # pictures, that may lie on a boundary whatever their share
PACKAGES = ("torch", "torchvision", "onnx", "onnxruntime", "numpy", "pillow")

Facts = dict[str, Any]


def release(
    path: Path, network: FashionCNN, data: Data, settings: Facts, seconds: float
) -> Facts:
    """Calibrate, measure, export, check and write; return what `model.json` says.

    Raises `ValueError` if the exported graph is not what PyTorch computes.
    """
    model, threshold = calibrate(network, data)
    facts = describe(model, threshold, data, settings)
    facts["seconds"] = round(seconds, 1)  # of training
    save(path, model, facts, data.test)
    return facts


@torch.no_grad()
def evaluate(network: nn.Module, pixels: Tensor) -> Tensor:
    """Return the logits float32 [N, classes + 1] of pixels uint8 [N, 28, 28]."""
    network.eval()
    device = next(network.parameters()).device
    batches = pixels.split(EVALUATION_BATCH)
    return torch.cat([network(batch.to(device)).cpu() for batch in batches])


def accuracy_aside(network: nn.Module, data: Data) -> dict[str, float]:
    """Return the shares that it gets right of the pictures kept aside for choosing."""
    logits = evaluate(network, data.validation.pixels)[:, :-1]
    right = logits.argmax(1) == data.validation.labels
    shares = {"validation": right.float().mean().item()}
    if data.photos_aside:
        known = ~data.photos_aside.targets[:, -1]
        logits = evaluate(network, data.photos_aside.seen)[:, :-1]
        hits = data.photos_aside.targets.gather(1, logits.argmax(1, keepdim=True))
        shares["photos_aside"] = hits[known].float().mean().item()
    return shares


def calibrate(network: FashionCNN, data: Data) -> tuple[Calibrated, float]:
    """Fit the calibration and the unknown threshold on what was set aside.

    The network is more often right on garments set aside than on new ones. So
    probabilities are calibrated on copies that are flipped and shifted, of which it
    is as sure and as often wrong as of new ones.

    The threshold refuses a share of the garments of Fashion-MNIST, or of the photos
    if there are enough of them and that takes a higher one.
    """
    logits = evaluate(network, data.validation.pixels)
    threshold = fit_threshold(unknown_score(logits), REFUSED_SHARE)
    if data.photos_aside:
        known = ~data.photos_aside.targets[:, -1]
        scores = unknown_score(evaluate(network, data.photos_aside.seen[known]))
        if len(scores) >= FEWEST_PHOTOS:
            threshold = max(threshold, fit_threshold(scores, PHOTOS_REFUSED_SHARE))
    random = Generator().manual_seed(SPLIT_SEED)
    copies = data.validation.pixels.repeat(CALIBRATION_COPIES, 1, 1)
    logits = evaluate(network, augment(copies, random, erasing=False))[:, :-1]
    labels = data.validation.labels.repeat(CALIBRATION_COPIES)
    return Calibrated(network, fit_calibration(logits, labels)).eval(), threshold


def measure(model: Calibrated, threshold: float, data: Data) -> Facts:
    """Return the finished model's figures: its one look at the test pictures."""
    shares = accuracy_aside(model.network, data)
    logits = evaluate(model.network, data.test.pixels)
    classes, count = logits[:, :-1].argmax(1), len(data.classes)
    pairs = recall_precision(data.test.labels.numpy(), classes.numpy(), count)
    right = (classes == data.test.labels).double().mean()
    refused = unknown_score(logits) > threshold
    return {
        "test_accuracy": round(right.item(), 4),
        "test_refused": round(refused.double().mean().item(), 4),
        **{f"{name}_accuracy": round(share, 4) for name, share in shares.items()},
        "per_class": {
            name: {"recall": round(r, 4), "precision": round(p, 4)}
            for name, r, p in zip(data.classes, *pairs, strict=True)
        },
    }


@torch.no_grad()
def check(model: Calibrated, onnx: bytes, facts: Facts, test: Split) -> Facts:
    """Hold the ONNX graph against PyTorch; return how far they agree.

    Both round, and now and then to different sides, so a probability may differ.
    Raises `ValueError` if classes differ more often than one in 500 times, or if the
    graph is less often right by more than one in 1,000.
    """
    classifier = Classifier(artifact.Artifact(onnx, facts))
    expected, predictions = [], []
    for batch in test.pixels.split(EVALUATION_BATCH):
        expected.append(model(batch)[0].numpy())
        predictions += classifier.classify(batch.numpy())
    ours = np.array([list(p.probabilities.values()) for p in predictions])
    theirs = np.concatenate(expected)
    named = np.array([p.class_id for p in predictions])  # before rounding
    labels = test.labels.numpy()
    same = np.mean(named == theirs.argmax(1))
    right, meant = (np.mean(ids == labels) for ids in (named, theirs.argmax(1)))
    chance = FEW / len(labels)
    if same < 1 - max(MAX_APART, chance) or right < meant - max(MAX_LOSS, chance):
        raise ValueError(
            f"the ONNX graph says the same as PyTorch of {same:.2%}, and is right of"
            f" {right:.2%}, not {meant:.2%}"
        )
    return {
        "onnx_same_class": round(float(same), 4),
        "onnx_accuracy": round(float(right), 4),
        "onnx_mean_difference": round(float(np.abs(ours - theirs).mean()), 7),
    }


def describe(model: Calibrated, threshold: float, data: Data, settings: Facts) -> Facts:
    """Gather what `model.json` says, all but the version."""
    return {
        "name": "fashion",
        "version": "unsaved",
        "classes": data.classes,
        "input_shape": list(data.test.pixels.shape[1:]),
        "unknown_threshold": threshold,
        "calibration": model.calibration._asdict(),
        "metrics": measure(model, threshold, data),
        "settings": settings
        | {
            "refused_share": REFUSED_SHARE,
            "photos_refused_share": PHOTOS_REFUSED_SHARE,
            "fewest_photos": FEWEST_PHOTOS,
        },
        "data": {
            "name": "Fashion-MNIST",
            "split_seed": SPLIT_SEED,
            "photo_views": VIEWS,
            "fingerprint": data.fingerprint,
            **{part: len(getattr(data, part).labels) for part in Data._fields[:3]},
            "photos": len(data.photos.targets) if data.photos else 0,
            "photos_aside": len(data.photos_aside.targets) if data.photos_aside else 0,
            "outliers": {
                name: fingerprint([pixels]) for name, pixels in data.outliers.items()
            },
            "before": data.before,
        },
        "libraries": {
            "python": platform.python_version(),
            **{package: version(package) for package in PACKAGES},
        },
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def save(path: Path, model: Calibrated, facts: Facts, test: Split) -> None:
    """Export, check the graph on all test pictures, then write `model.bin`."""
    onnx = export_onnx(model)
    facts["metrics"] |= check(model, onnx, facts, test)
    checkpoint = {
        "state_dict": model.network.state_dict(),
        "arguments": model.network.arguments,
        **facts,
    }
    artifact.write(path, checkpoint, artifact.Artifact(onnx, facts))


def report(facts: Facts) -> None:
    """Print the figures of a finished model; `python -m model show` has all of it."""
    print(f"\n{'class':12} recall  precision")
    for name, row in facts["metrics"]["per_class"].items():
        print(f"{name:12} {row['recall']:6.1%}  {row['precision']:9.1%}")
    print(f"\ntest accuracy {facts['metrics']['test_accuracy']:.2%}", end=", ")
    print(f"{facts['seconds'] / 60:.1f} minutes, seed {facts['settings']['seed']}")
