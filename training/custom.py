"""A model of one's own pictures: split, transfer learning, threshold, `model.bin`.

    >>> trained = train_custom(pictures, classes, run, checkpoint, resume=False)
    >>> facts = release_custom(path, pictures, trained, {"name": "insects", ...}, 12)

Pictures are set aside, by which calibration and the unknown threshold are fitted. Where
they are too few for that, each is held out once (out of fold), and all are trained on.
"""

import hashlib
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model import artifact
from model.artifact import MAX_NAME, Artifact
from model.classifier import Classifier
from model.images import Pixels, decode
from model.network import Calibrated, fit_temperature, fit_threshold
from model.preprocessing import Square
from training.backbone import NONE, TransferNetwork
from training.checkpoint import Progress, load_checkpoint, save_checkpoint
from training.export import (
    SAMPLE_SIDE,
    Facts,
    Labelled,
    batches,
    choose_graph,
    choose_samples,
    classify,
    encode_small,
    made_with,
    reference,
)
from training.labelled import SPLITS
from training.metrics import recall_precision
from training.pictures import Pictures
from training.transfer import (
    FOLDS,
    SPLIT_SEED,
    Run,
    TransferState,
    build_network,
    choose_bank,
    compute_features,
    fine_tune,
    fit_head,
    folds,
    out_of_fold,
    set_head,
)

MIN_HELD_OUT = 100  # pictures; fewer make no threshold
MAX_PARTS = 10  # one of so many parts is set aside, fewer if it is then too small
REFUSED_SHARE = 0.02  # of what is set aside
RANGE_PICTURES = 200  # by which the ranges of quantised activations are observed


class Parts(NamedTuple):
    """What each picture is for: bool [N]."""

    train: NDArray[np.bool_]
    held_out: NDArray[np.bool_]  # none, if they are too few
    test: NDArray[np.bool_]  # measured once, at the end


class Scores(NamedTuple):
    """Answers for pictures that were not trained on, before calibration."""

    logits: Tensor  # float32 [N, classes]
    unknown: Tensor  # float32 [N]
    labels: NDArray[np.int64]  # [N]
    name: str  # how they were held out


def divide(pictures: Pictures, backbone: str) -> Parts:
    """Divide pictures by the folders of a split, or at random within each class.

    Nearly equal pictures stay on one side. Few pictures are all trained on, but by a
    network that is trained from nothing, whose features fit its own pictures best.
    """
    splits = np.array(pictures.splits)
    held_out, test = splits == "validation", splits == "test"
    train = ~held_out & ~test
    must_hold_out = backbone == NONE
    if held_out.any():
        is_enough = must_hold_out or bool(held_out.sum() >= MIN_HELD_OUT)
        return Parts(train, held_out & is_enough, test | held_out & (not is_enough))
    rows = np.flatnonzero(train)
    count = min(MAX_PARTS, len(rows) // MIN_HELD_OUT)
    if count >= FOLDS or must_hold_out:
        parts = max(count, FOLDS)
        chosen = next(folds(pictures.labels[rows], pictures.groups[rows], parts))
        held_out[rows[chosen]] = True
    return Parts(train & ~held_out, held_out, test)


def train_custom(
    pictures: Pictures,
    classes: Sequence[str],
    run: Run,
    checkpoint: Path,
    *,
    resume: bool,
) -> tuple[TransferNetwork, Scores]:
    """Train; return the network, and its answers for pictures that were held out.

    Raises `ValueError` for a checkpoint that does not fit.
    """
    parts = divide(pictures, run.backbone)
    rows = np.flatnonzero(parts.train)
    train = Labelled(pictures.pixels[rows], pictures.labels[rows])
    if not parts.held_out.any():
        run = run._replace(epochs=0)
    network = build_network(run, len(classes))
    features = compute_features(network, train.pixels, "features")
    set_head(network, fit_head(features, train.labels))
    if run.epochs:
        settings = run._asdict() | {"data": fingerprint_of(pictures)}

        def load(state: TransferState) -> Progress:
            return (
                load_checkpoint(checkpoint, state, settings) if resume else Progress()
            )

        def save(state: TransferState, progress: Progress) -> None:
            save_checkpoint(checkpoint, state, settings, progress)

        network = fine_tune(network, train, run, save, load)
    set_bank(network, train, pictures.outliers)
    network.cpu().eval()
    if parts.held_out.any():
        return network, score(network, pictures, parts.held_out)
    groups = pictures.groups[rows]
    logits, unknown = out_of_fold(features, train.labels, groups)
    return network, Scores(logits, unknown, train.labels, "out of fold")


def set_bank(network: TransferNetwork, train: Labelled, outliers: Pixels) -> None:
    """Keep the features of some training pictures, and of some outliers."""
    chosen = choose_bank(train.labels), choose_bank(np.zeros(len(outliers), np.int64))
    pixels = train.pixels[chosen[0]], outliers[chosen[1]]
    known, unknown = (
        compute_features(network, p, "bank").flatten(0, 1) for p in pixels
    )
    network.set_bank(known, unknown)


@torch.no_grad()
def score(
    network: TransferNetwork, pictures: Pictures, chosen: NDArray[np.bool_]
) -> Scores:
    """Return the network's answers for the pictures that were chosen: bool [N]."""
    rows = batches(pictures.pixels[chosen])
    found = [network.outputs(torch.from_numpy(batch))[1:] for batch in rows]
    logits, unknown = (torch.cat(part) for part in zip(*found, strict=True))
    return Scores(logits, unknown, pictures.labels[chosen], "validation")


def release_custom(
    path: Path,
    pictures: Pictures,
    trained: tuple[TransferNetwork, Scores],
    facts: Facts,
    samples: int,
) -> Facts:
    """Calibrate, export, check and write; return `facts` and more.

    `facts` has at least the name and the classes.
    """
    (network, held_out), classes = trained, facts["classes"]
    labels = torch.from_numpy(held_out.labels)
    calibration = fit_temperature(held_out.logits, labels)
    model = Calibrated(network, calibration).eval()
    size = network.input_shape[0]
    parts = divide(pictures, network.arguments["backbone"])
    facts = {
        "version": "unsaved",
        **Square(size=size, draft_side=size).facts(),
        "unknown_threshold": fit_threshold(held_out.unknown, REFUSED_SHARE),
        "calibration": calibration._asdict(),
        "data": describe_pictures(pictures, parts, classes, held_out.name),
        **facts,
        **made_with(),
    }
    chosen = parts.held_out if parts.held_out.any() else parts.train
    split = Labelled(pictures.pixels[chosen], pictures.labels[chosen])
    ranges = pictures.pixels[parts.train][
        :: max(1, parts.train.sum() // RANGE_PICTURES)
    ]
    graph, answers, figures = choose_graph(model, facts, split, ranges)
    facts["reference"] = reference(answers, split.pixels, classes)
    classifier = Classifier(Artifact(graph, facts))
    facts["metrics"] = measure(classifier, pictures, parts, held_out) | figures
    files = [pictures.files[row] for row in np.flatnonzero(chosen)]
    shown = choose_samples(
        classifier, split.labels, partial(encode_file, files), samples
    )
    checkpoint = {
        "state_dict": network.state_dict(),
        "arguments": network.arguments,
        **facts,
    }
    artifact.write(path, checkpoint, Artifact(graph, facts, shown))
    return facts


def encode_file(files: Sequence[Path], index: int) -> tuple[bytes, str]:
    """Encode a small copy of a picture, as a sample."""
    return encode_small(decode(files[index].read_bytes(), SAMPLE_SIDE))


def measure(
    classifier: Classifier, pictures: Pictures, parts: Parts, held_out: Scores
) -> Facts:
    """Return accuracy before refusal and refusals, of the exported graph if possible.

    They are of the test pictures if there are any, else of those that were held out.
    """
    chosen = parts.test if parts.test.any() else parts.held_out
    if chosen.any():
        labels, name = (
            pictures.labels[chosen],
            "test" if parts.test.any() else "validation",
        )
        answers = classify(classifier, pictures.pixels[chosen])
        class_ids = np.array([answer.class_id for answer in answers])
        refused = float(np.mean([answer.is_unknown for answer in answers]))
    else:
        labels, name = held_out.labels, held_out.name
        class_ids = held_out.logits.argmax(1).numpy()
        refused = REFUSED_SHARE
    recall, precision = recall_precision(labels, class_ids, len(classifier.classes))
    return {
        "measured_on": name,
        "pictures": len(labels),
        "accuracy": round(float(np.mean(class_ids == labels)), 4),
        "balanced_accuracy": round(float(np.mean(recall)), 4),
        "refused": round(refused, 4),
        "per_class": {
            name: {"recall": round(r, 4), "precision": round(p, 4)}
            for name, r, p in zip(classifier.classes, recall, precision, strict=True)
        },
    }


def describe_pictures(
    pictures: Pictures, parts: Parts, classes: Sequence[str], held_out: str
) -> Facts:
    """Return how many pictures of each class there are, and how they were divided."""
    counts = np.bincount(pictures.labels, minlength=len(classes)).tolist()
    return {
        "name": "pictures",
        "split_seed": SPLIT_SEED,
        "fingerprint": fingerprint_of(pictures),
        "train": int(parts.train.sum()),
        "validation": int(parts.held_out.sum()),
        "test": int(parts.test.sum()),
        "threshold_of": held_out,
        "classes": dict(zip(classes, counts, strict=True)),
        "outliers": len(pictures.outliers),
        "left_out": len(pictures.left_out),
    }


def fingerprint_of(pictures: Pictures) -> str:
    """Return the SHA-256 of pixels and labels in hex digits."""
    digest = hashlib.sha256(pictures.labels.tobytes())
    for row in (*pictures.pixels, *pictures.outliers):
        digest.update(row.tobytes())
    return digest.hexdigest()


def name_of(folder: Path) -> str:
    """Return a name for the model of a folder of pictures, that a URL can hold."""
    folder = folder.resolve()
    name = folder.parent.name if folder.name in SPLITS else folder.name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:MAX_NAME] or "pictures"
