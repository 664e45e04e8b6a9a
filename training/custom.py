"""A model of one's own pictures: split, transfer learning, threshold, `model.bin`.

    >>> trained = train_custom(network, pictures, run, checkpoint, resume=False)
    >>> facts = release_custom(path, trained, {"name": "insects", "classes": names}, 12)

Pictures are set aside, by which calibration and the unknown threshold are fitted. Where
they are too few for that, each is held out once (out of fold), and all are trained on.
"""

import re
from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model import artifact
from model.artifact import MAX_NAME, Artifact
from model.images import decode
from model.network import Calibrated, Calibration
from model.preprocessing import Square
from training.backbone import NONE, TransferNetwork
from training.calibration import fit_temperature, fit_threshold
from training.checkpoint import Progress, load_checkpoint, save_checkpoint
from training.data import SPLIT_SEED
from training.data import fingerprint as data_fingerprint
from training.export import (
    SAMPLE_SIDE,
    Facts,
    Graph,
    Labelled,
    batches,
    choose_graph,
    choose_samples,
    encode_small,
    made_with,
    reference,
)
from training.labelled import SPLITS
from training.metrics import recall_precision
from training.pictures import Pictures
from training.transfer import (
    BANK_PICTURES,
    FOLDS,
    Run,
    TransferState,
    choose_bank,
    compute_features,
    fine_tune,
    fit_head,
    folds,
    out_of_fold,
    set_head,
)

SIZE, HEAD_SIZE = 192, 224  # pixels: of the input, and if the head alone is trained
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


def usual_size(files: int, epochs: int) -> int:
    """Return the usual sides of the input in pixels, by what will be trained.

    Fine-tuning on smaller views suits a smaller input (Touvron et al., arXiv
    1906.06423).
    """
    return SIZE if epochs and files >= FOLDS * MIN_HELD_OUT else HEAD_SIZE


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


class Trained(NamedTuple):
    """A network, and what it was trained on and is to be judged by."""

    network: TransferNetwork
    pictures: Pictures
    parts: Parts
    scores: Scores
    fingerprint: str  # of labels and pixels


def train_custom(
    network: TransferNetwork,
    pictures: Pictures,
    run: Run,
    checkpoint: Path,
    *,
    resume: bool,
) -> Trained:
    """Train, with a checkpoint after each epoch.

    Raises `ValueError` for a checkpoint that does not fit.
    """
    parts, fingerprint = divide(pictures, run.backbone), fingerprint_of(pictures)
    rows = np.flatnonzero(parts.train)
    train = Labelled(pictures.pixels[rows], pictures.labels[rows])
    features = compute_features(network, train.pixels, "features")
    set_head(network, fit_head(features, train.labels))
    if run.epochs and parts.held_out.any():
        settings = run._asdict() | {"data": fingerprint}

        def load(state: TransferState) -> Progress:
            return (
                load_checkpoint(checkpoint, state, settings) if resume else Progress()
            )

        def save(state: TransferState, progress: Progress) -> None:
            save_checkpoint(checkpoint, state, settings, progress)

        network = fine_tune(network, train, run, save, load)
        if run.backbone == NONE:
            features = compute_features(network, train.pixels, "features")
    outliers = compute_features(network, pictures.outliers, "outliers")
    banks = (features, choose_bank(train.labels)), (outliers, slice(BANK_PICTURES))
    network.set_bank(*(found[:, rows].flatten(0, 1) for found, rows in banks))
    network.cpu().eval()
    if parts.held_out.any():
        scores = score(network, pictures, parts)
    else:
        scores = score_folds(features, train.labels, pictures.groups[rows])
    return Trained(network, pictures, parts, scores, fingerprint)


@torch.no_grad()
def score(network: TransferNetwork, pictures: Pictures, parts: Parts) -> Scores:
    """Return the network's answers for the pictures that were held out."""
    rows = batches(pictures.pixels[parts.held_out])
    found = [network.outputs(torch.from_numpy(batch))[1:] for batch in rows]
    logits, unknown = (torch.cat(part) for part in zip(*found, strict=True))
    return Scores(logits, unknown, pictures.labels[parts.held_out], "validation")


def score_folds(
    features: Tensor, labels: NDArray[np.int64], groups: NDArray[np.int64]
) -> Scores:
    """Return answers for all pictures that can be held out in turn."""
    logits, unknown, chosen = out_of_fold(features, labels, groups)
    return Scores(logits[chosen], unknown[chosen], labels[chosen], "out of fold")


def release_custom(path: Path, trained: Trained, facts: Facts, samples: int) -> Facts:
    """Calibrate, export, check and write; return `facts` and more.

    `facts` has at least the name and the classes.
    """
    network, pictures, parts, *_ = trained
    facts = describe(trained, facts["classes"]) | facts | made_with()
    calibration = Calibration(**facts["calibration"])
    model = Calibrated(network, calibration).eval()
    chosen = np.flatnonzero(parts.held_out if parts.held_out.any() else parts.train)
    split = Labelled(pictures.pixels[chosen], pictures.labels[chosen])
    rows = np.flatnonzero(parts.train)
    ranges = pictures.pixels[rows[:: max(1, len(rows) // RANGE_PICTURES)]]
    graph = choose_graph(model, facts, split, ranges)
    sides = pictures.measures["size"][chosen].max(1)
    facts["reference"] = reference(
        graph.predictions, split.pixels, sides, facts["classes"]
    )
    facts["metrics"] = measure(graph, trained) | graph.figures
    encode = partial(encode_file, [pictures.files[row] for row in chosen])
    shown = choose_samples(graph.classifier, split.labels, encode, samples)
    weights = {"state_dict": network.trained_state(), "arguments": network.arguments}
    artifact.write(path, weights | facts, Artifact(graph.onnx, facts, shown))
    return facts


def describe(trained: Trained, classes: Sequence[str]) -> Facts:
    """Return the facts that serving needs, but for the name; and those of the data."""
    scores, size = trained.scores, trained.network.input_shape[0]
    calibration = fit_temperature(scores.logits, torch.from_numpy(scores.labels))
    return {
        "version": "unsaved",
        **preprocessing_of(size).facts(),
        "unknown_threshold": fit_threshold(scores.unknown, REFUSED_SHARE),
        "calibration": calibration._asdict(),
        "data": describe_data(trained, classes),
    }


def preprocessing_of(size: int) -> Square:
    """Return how pictures become inputs of `size` pixels."""
    return Square(size=size, draft_side=size)


def encode_file(files: Sequence[Path], index: int) -> tuple[bytes, str]:
    """Encode a small copy of a picture, as a sample."""
    return encode_small(decode(files[index].read_bytes(), SAMPLE_SIDE))


def measure(graph: Graph, trained: Trained) -> Facts:
    """Return accuracy before refusal and refusals, of the exported graph if possible.

    They are of the test pictures if there are any, else of those that were held out,
    whose answers the graph has.
    """
    _network, pictures, parts, scores, _fingerprint = trained
    name, labels, answers = scores.name, scores.labels, graph.predictions
    if parts.test.any():
        name, labels = "test", pictures.labels[parts.test]
        answers = graph.classifier.classify(pictures.pixels[parts.test])
    class_ids = np.array([answer.class_id for answer in answers])
    refused = float(np.mean([answer.is_unknown for answer in answers]))
    if not (parts.test.any() or parts.held_out.any()):
        class_ids, refused = scores.logits.argmax(1).numpy(), REFUSED_SHARE
    classes = graph.classifier.classes
    recall, precision = recall_precision(labels, class_ids, len(classes))
    return {
        "measured_on": name,
        "pictures": len(labels),
        "accuracy": round(float(np.mean(class_ids == labels)), 4),
        "balanced_accuracy": round(float(np.mean(recall)), 4),
        "refused": round(refused, 4),
        "per_class": {
            name: {"recall": round(r, 4), "precision": round(p, 4)}
            for name, r, p in zip(classes, recall, precision, strict=True)
        },
    }


def describe_data(trained: Trained, classes: Sequence[str]) -> Facts:
    """Return how many pictures of each class there are, and how they were divided."""
    _network, pictures, parts, scores, fingerprint = trained
    counts = np.bincount(pictures.labels, minlength=len(classes)).tolist()
    return {
        "name": "pictures",
        "split_seed": SPLIT_SEED,
        "fingerprint": fingerprint,
        "train": int(parts.train.sum()),
        "validation": int(parts.held_out.sum()),
        "test": int(parts.test.sum()),
        "threshold_of": scores.name,
        "classes": dict(zip(classes, counts, strict=True)),
        "outliers": len(pictures.outliers),
        "left_out": len(pictures.left_out),
    }


def fingerprint_of(pictures: Pictures) -> str:
    """Return the SHA-256 of labels and pixels in hex digits."""
    arrays = chain([pictures.labels], pictures.pixels, pictures.outliers)
    return data_fingerprint(map(torch.from_numpy, arrays))


def name_of(folder: Path) -> str:
    """Return a name for the model of a folder of pictures, that a URL can hold."""
    folder = folder.resolve()
    name = folder.parent.name if folder.name in SPLITS else folder.name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:MAX_NAME] or "pictures"
