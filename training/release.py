"""Release a network as `model.bin`: calibrate, measure, export, check, describe.

    >>> facts = release(Path("model.bin"), network, data, {"seed": 1}, seconds=2400)

    python -m training.release model.bin --photos DIR

exports, measures and describes the weights of a `model.bin` again, for a new format or
new figures, in some minutes. Weights, calibration, threshold, settings and the facts of
the training data stay.

All choices are made by pictures that `data` sets aside. The test pictures are used once
a run, to measure.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn

from model import artifact
from model.artifact import MODEL, Artifact, Sample
from model.classifier import Classifier, sample_of
from model.images import decode
from model.network import CNN, Calibrated, Calibration, export_onnx, unknown_score
from training.augment import augment
from training.calibration import fit_calibration, fit_threshold
from training.data import (
    SPLIT_SEED,
    VIEWS,
    Data,
    add_data_options,
    fingerprint,
    get_data,
)
from training.export import (
    EXACT,
    Facts,
    Labelled,
    check,
    choose_samples,
    compute_probabilities,
    encode_png,
    encode_small,
    made_with,
    reference,
)
from training.metrics import recall_precision
from training.recipes import find_recipe

PICTURES = MODEL.parent / "static" / "pictures"
EVALUATION_BATCH = 250  # fastest: its activations stay in the cache
CALIBRATION_COPIES = 8  # of each validation picture, each augmented in its own way
# the unknown threshold: shares of the pictures set aside that it may refuse
REFUSED_SHARE = 0.02  # of the validation pictures
PHOTOS_REFUSED_SHARE = 0.12
MIN_PHOTOS = 50  # of known classes, for the photos to have a share


def release(
    path: Path, network: CNN, data: Data, settings: Facts, seconds: float
) -> Facts:
    """Calibrate, measure, export, check and write; return the facts of `model.json`.

    `seconds` are those of training. Raises `ValueError` if the exported graph does not
    compute what PyTorch does.
    """
    model, threshold = calibrate(network, data)
    facts = {
        "unknown_threshold": threshold,
        "calibration": model.calibration._asdict(),
        "settings": settings | shares(),
        "data": describe_data(data),
        "seconds": round(seconds, 1),
    }
    return save(path, model, facts, data)


def release_again(path: Path, old: Path, data: Data) -> Facts:
    """Release the weights of the `model.bin` at `old` with facts of today.

    Raises `ArtifactError`, `ValueError`.
    """
    known = artifact.load(str(old)).facts
    if known["classes"] != data.classes:
        raise ValueError(f"{old} knows other classes")
    checkpoint = torch.load(old, weights_only=True)
    network = CNN(**checkpoint["arguments"])
    network.load_state_dict(checkpoint["state_dict"])
    model = Calibrated(network, Calibration(**known["calibration"])).eval()
    return save(path, model, known, data)


def save(path: Path, model: Calibrated, facts: Facts, data: Data) -> Facts:
    """Export, measure and check `model`, and write it; return `facts` and more."""
    onnx = export_onnx(model)
    facts = describe(data) | facts | {"metrics": {}} | made_with()
    classifier = Classifier(Artifact(onnx, facts))
    test, validation = (
        Labelled(split.pixels.numpy(), split.labels.numpy())
        for split in (data.test, data.validation)
    )
    facts["metrics"] = measure(model, facts["unknown_threshold"], data)
    facts["metrics"] |= check(
        compute_probabilities(model, test.pixels),
        classifier.classify(test.pixels),
        test.labels,
        EXACT,
    )
    facts["reference"] = reference(
        classifier.classify(validation.pixels),
        validation.pixels,
        np.full(len(validation.pixels), classifier.size),
        data.classes,
    )
    samples = choose_samples(
        classifier, validation.labels, lambda row: encode_png(validation.pixels[row])
    )
    samples += extra_samples(classifier, data.recipe.samples)
    checkpoint = {
        "state_dict": model.network.state_dict(),
        "arguments": model.network.arguments,
        **facts,
    }
    artifact.write(path, checkpoint, Artifact(onnx, facts, samples))
    return facts


def extra_samples(classifier: Classifier, names: Sequence[str]) -> tuple[Sample, ...]:
    """Return files of `PICTURES` as samples, answered by the model."""
    encoded = [encode_small(decode((PICTURES / name).read_bytes())) for name in names]
    return tuple(
        sample_of(classifier, picture, f"extra-{index}.{ending}")
        for index, (picture, ending) in enumerate(encoded)
    )


@torch.no_grad()
def evaluate(network: nn.Module, pixels: Tensor) -> Tensor:
    """Return the logits float32 [N, classes + 1] of pixels uint8 [N, size, size]."""
    network.eval()
    device = next(network.parameters()).device
    batches = pixels.split(EVALUATION_BATCH)
    return torch.cat([network(batch.to(device)).cpu() for batch in batches])


def validation_accuracy(network: nn.Module, data: Data) -> dict[str, float]:
    """Return the accuracy on the pictures that were set aside, before refusal."""
    logits = evaluate(network, data.validation.pixels)[:, :-1]
    right = logits.argmax(1) == data.validation.labels
    accuracy = {"validation": right.float().mean().item()}
    if data.validation_photos:
        known = ~data.validation_photos.targets[:, -1]
        logits = evaluate(network, data.validation_photos.pixels)[:, :-1]
        hits = data.validation_photos.targets.gather(1, logits.argmax(1, keepdim=True))
        accuracy["validation_photos"] = hits[known].float().mean().item()
    return accuracy


def calibrate(network: CNN, data: Data) -> tuple[Calibrated, float]:
    """Fit the calibration and the unknown threshold on what was set aside."""
    calibration = calibration_of(network, data)
    return Calibrated(network, calibration).eval(), threshold_of(network, data)


def calibration_of(network: CNN, data: Data) -> Calibration:
    """Fit the calibration on flipped and shifted copies of the validation pictures.

    The network is more often right on validation pictures than on new ones, by which
    it was chosen; on such copies it is as confident and as often wrong as on new ones.
    """
    random = Generator().manual_seed(SPLIT_SEED)
    copies = data.validation.pixels.repeat(CALIBRATION_COPIES, 1, 1)
    copies = augment(copies, random, flips=data.recipe.flips, erasing=False)
    logits = evaluate(network, copies)[:, :-1]
    return fit_calibration(logits, data.validation.labels.repeat(CALIBRATION_COPIES))


def threshold_of(network: CNN, data: Data) -> float:
    """Return the unknown threshold that refuses a share of the validation pictures.

    Or of the photos, if there are enough of them and that takes a higher one.
    """
    scores = unknown_score(evaluate(network, data.validation.pixels))
    threshold = fit_threshold(scores, REFUSED_SHARE)
    if data.validation_photos:
        known = ~data.validation_photos.targets[:, -1]
        scores = unknown_score(evaluate(network, data.validation_photos.pixels[known]))
        if len(scores) >= MIN_PHOTOS:
            threshold = max(threshold, fit_threshold(scores, PHOTOS_REFUSED_SHARE))
    return threshold


def measure(model: Calibrated, threshold: float, data: Data) -> Facts:
    """Return accuracy and refusals of the finished model, computed by PyTorch."""
    logits = evaluate(model.network, data.test.pixels)
    classes, count = logits[:, :-1].argmax(1), len(data.classes)
    rows = recall_precision(data.test.labels.numpy(), classes.numpy(), count)
    right = (classes == data.test.labels).double().mean()
    refused = unknown_score(logits) > threshold
    validation = validation_accuracy(model.network, data)
    return {
        "test_accuracy": round(right.item(), 4),
        "test_refused": round(refused.double().mean().item(), 4),
        **{f"{name}_accuracy": round(share, 4) for name, share in validation.items()},
        "per_class": {
            name: {"recall": round(recall, 4), "precision": round(precision, 4)}
            for name, recall, precision in zip(data.classes, *rows, strict=True)
        },
    }


def describe(data: Data) -> Facts:
    """Return the facts that serving needs, but for version and threshold."""
    return {
        "name": data.recipe.name,
        "version": "unsaved",
        "classes": data.classes,
        **data.recipe.preprocessing.facts(),
    }


def describe_data(data: Data) -> Facts:
    """Return where the training data is from, and how much there is of it."""
    return {
        "name": data.recipe.title,
        "split_seed": SPLIT_SEED,
        "photo_views": VIEWS,
        "fingerprint": data.fingerprint,
        **{part: len(getattr(data, part).labels) for part in Data._fields[:3]},
        "duplicates": data.duplicates,
        "photos": len(data.photos.targets) if data.photos else 0,
        "photos_aside": len(data.validation_photos.targets)
        if data.validation_photos
        else 0,
        "outliers": {
            name: fingerprint([pixels]) for name, pixels in data.outliers.items()
        },
        "before": data.parent,
    }


def shares() -> Facts:
    """Return the settings of this module that a release depends on."""
    return {
        "refused_share": REFUSED_SHARE,
        "photos_refused_share": PHOTOS_REFUSED_SHARE,
        "fewest_photos": MIN_PHOTOS,
    }


def report(facts: Facts) -> None:
    """Print the figures of a finished model; `python -m model show` prints all."""
    metrics = facts["metrics"]
    print(f"\n{'class':12} recall  precision")
    for name, row in metrics["per_class"].items():
        print(f"{name:12} {row['recall']:6.1%}  {row['precision']:9.1%}")
    measured = metrics.get("measured_on", "test")
    accuracy = (
        metrics["accuracy"] if "accuracy" in metrics else metrics["test_accuracy"]
    )
    print(f"\naccuracy {accuracy:.2%} ({measured})", end=", ")
    print(f"{facts['seconds'] / 60:.1f} minutes, seed {facts['settings']['seed']}")


def main() -> None:
    """Release the weights of a `model.bin` again."""
    parser = argparse.ArgumentParser(
        prog="python -m training.release",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, help="a model.bin, which stays")
    add_data_options(parser)
    parser.add_argument(
        "--output", type=Path, default=Path("model.bin"), help="(model.bin)"
    )
    options = parser.parse_args()
    try:
        artifact.check_output(options.output)
        recipe = find_recipe(artifact.load(str(options.model)).facts["data"]["name"])
        data = get_data(recipe, options.data, options.photos, views=1)
        facts = release_again(options.output, options.model, data)
    except (artifact.ArtifactError, OSError, ValueError) as error:
        sys.exit(f"release: {error}")
    report(facts)
    print(f"wrote {options.output}, version {facts['version']}")


if __name__ == "__main__":
    main()
