"""Transfer learning: a pretrained network learns somebody's own classes.

    >>> features = compute_features(network, pixels, "features")
    >>> set_head(network, fit_head(features, labels))

The features of all pictures are computed once, and a logistic regression on them is
the head. Then a copy of the last layers is fine-tuned on random views. Pretrained
features of training pictures are kept: the unknown is far from all of them.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Never, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy, dropout
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from training.augment import random_views
from training.backbone import NONE, TransferNetwork, unknown_distance
from training.checkpoint import Progress
from training.data import SPLIT_SEED
from training.export import Labelled
from training.optimizer import WEIGHT_DECAY, build_schedule

FEATURE_BATCH = 32  # pictures
INVERSE_REGULARISATION = 10.0  # of the logistic regression, on features of length 1
MAX_ITERATIONS = 2_000  # of the logistic regression
BANK_PICTURES = 250  # whose features, and those of their mirror images, are the bank
BANK_PER_CLASS = 10  # at least
FOLDS = 5  # by which pictures are held out in turn, where they are too few to set aside
# fine-tuning
EPOCHS = 8
UNTRAINED_EPOCHS = 40  # of a network that is trained from nothing
VIEW_SIZE = 160  # pixels: smaller than served, since a view shows a part of a picture
BATCH_SIZE = 32
LABEL_SMOOTHING = 0.1
DROPOUT = 0.2
AVERAGE_SHARE = 0.05  # of the run: the time constant of the weights' moving average
TUNED_STRIDE = 16  # of the first maps, by pixel, of the layers that are tuned
BALANCE = 0.5  # a class of n pictures is sampled in proportion to n ** (1 - BALANCE)


class Run(NamedTuple):
    """The options that, with the data, determine the result."""

    backbone: str
    size: int
    epochs: int  # 0: the head alone is trained
    seed: int


class TransferState(NamedTuple):
    """What fine-tuning changes."""

    network: TransferNetwork
    average: AveragedModel  # moving average of the network's weights
    optimizer: torch.optim.AdamW
    schedule: OneCycleLR


def build_network(run: Run, classes: int) -> TransferNetwork:
    """Return a network with a pretrained backbone, on a GPU if there is one."""
    torch.manual_seed(run.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = TransferNetwork(run.backbone, run.size, classes)
    return network.to(device)


def epochs_of(backbone: str) -> int:
    """Return the usual number of epochs."""
    return UNTRAINED_EPOCHS if backbone == NONE else EPOCHS


def device_of(network: nn.Module) -> torch.device:
    """Return where a network's weights are."""
    return next(network.parameters()).device


@torch.no_grad()
def compute_features(
    network: TransferNetwork, pixels: NDArray[np.uint8], description: str
) -> Tensor:
    """Return the means of feature maps: float32 [2, N, channels], on the CPU.

    The second half is of the mirror images.
    """
    network.eval()
    device, found = device_of(network), [torch.zeros(2, 0, network.head.in_channels)]
    batches = range(0, len(pixels), FEATURE_BATCH)
    for start in tqdm(batches, description, unit="batch", leave=False):
        batch = torch.from_numpy(pixels[start : start + FEATURE_BATCH]).to(device)
        views = torch.cat([batch, batch.flip(2)])
        means = network.feature_maps(views).mean((2, 3)).cpu()
        found.append(means.unflatten(0, (2, len(batch))))
    return torch.cat(found, 1)


def fit_head(features: Tensor, labels: NDArray[np.int64]) -> nn.Linear:
    """Return a linear layer from features to logits, by logistic regression.

    Features are [2, N, C], of pictures and of their mirror images.
    """
    scale = features.norm(dim=2).mean()
    regression = LogisticRegression(C=INVERSE_REGULARISATION, max_iter=MAX_ITERATIONS)
    both = np.concatenate([labels, labels])
    rows = (features / scale).flatten(0, 1).numpy()
    regression.fit(rows, both, sample_weight=sample_weights(both) / 2)
    weight, bias = (
        torch.from_numpy(value).float()
        for value in (regression.coef_, regression.intercept_)
    )
    if len(bias) == 1:  # two classes: the regression has the log-odds of the second
        weight, bias = (torch.cat([-v / 2, v / 2]) for v in (weight, bias))
    head = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        head.weight.copy_(weight / scale)
        head.bias.copy_(bias)
    return head


def sample_weights(labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return weights [N] of mean 1 by which small classes count more."""
    counts = np.bincount(labels)
    weights = counts[labels] ** -BALANCE
    return np.asarray(weights / weights.mean())


def set_head(network: TransferNetwork, head: nn.Linear) -> None:
    """Put a linear layer into the network, as the 1x1 convolution that it has."""
    with torch.no_grad():
        weights = head.weight[:, :, None, None], head.bias
        network.head.load_state_dict(
            dict(zip(("weight", "bias"), weights, strict=True))
        )


def choose_bank(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the indices of pictures of all classes, for the bank of known features."""
    if not len(labels):
        return labels
    count = max(BANK_PICTURES // len(np.unique(labels)), BANK_PER_CLASS)
    random = np.random.default_rng(SPLIT_SEED)
    order = random.permutation(len(labels))
    rows = [order[labels[order] == label][:count] for label in np.unique(labels)]
    return np.concatenate(rows)


def build_state(network: TransferNetwork, steps: int) -> TransferState:
    """Return the network with an optimizer for its head and the layers to tune."""
    network.requires_grad_(requires_grad=False)
    for part in trained_parts(network):
        part.requires_grad_(requires_grad=True)
    weights = [p for p in network.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in weights if p.ndim > 1]},
        {"params": [p for p in weights if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY)
    schedule = build_schedule(optimizer, steps, fine_tuning=True)
    decay = get_ema_multi_avg_fn(max(0.0, 1 - 1 / (AVERAGE_SHARE * steps)))
    average = AveragedModel(network, multi_avg_fn=decay, use_buffers=True)
    return TransferState(network, average, optimizer, schedule)


def trained_parts(network: TransferNetwork) -> tuple[nn.Module, nn.Module]:
    """Return the layers that are trained: the tuned ones, or all, and the head."""
    layers = network.tuned if len(network.tuned) else network.features
    return layers, network.head


@torch.no_grad()
def count_first_layers(network: TransferNetwork) -> int:
    """Return how many layers come before those of `TUNED_STRIDE`."""
    maps = torch.zeros(1, 3, VIEW_SIZE, VIEW_SIZE, device=device_of(network))
    network.eval()
    for index, layer in enumerate(network.features):
        maps = layer(maps)
        if maps.shape[-1] * TUNED_STRIDE <= VIEW_SIZE:
            return index
    return len(network.features)


def train_epoch(
    state: TransferState, split: Labelled, random: Generator, bar: "tqdm[Never]"
) -> float:
    """Train on as many random views as there are pictures; return the mean loss."""
    network, device = state.network, device_of(state.network)
    pixels, labels = split
    network.eval()  # frozen layers keep their batch statistics
    for part in trained_parts(network):
        part.train()
    weights = torch.from_numpy(sample_weights(labels))
    chosen = torch.multinomial(weights, len(labels), replacement=True, generator=random)
    total = 0.0
    batches = chosen.split(BATCH_SIZE)
    for indices in batches:
        rows = indices.numpy()
        views = random_views(torch.from_numpy(pixels[rows]), VIEW_SIZE, random).to(
            device
        )
        maps = network.tuned(network.first_layers(views))
        features = dropout(maps.mean((2, 3)), DROPOUT)
        logits = network.head(features[:, :, None, None]).flatten(1)
        targets = torch.from_numpy(labels[rows]).to(device)
        loss = cross_entropy(logits, targets, label_smoothing=LABEL_SMOOTHING)
        state.optimizer.zero_grad()
        loss.backward()
        state.optimizer.step()
        state.schedule.step()
        state.average.update_parameters(network)
        total += loss.item()
        bar.update()
    return total / len(batches)


def fine_tune(
    network: TransferNetwork,
    split: Labelled,
    run: Run,
    save: Callable[[TransferState, Progress], None],
    load: Callable[[TransferState], Progress],
) -> TransferNetwork:
    """Return the network with the averaged weights of fine-tuning.

    `load` may restore the state of a run that was stopped, `save` is called after each
    epoch.
    """
    if run.backbone != NONE:
        network.copy_layers(count_first_layers(network))
    steps = -(-len(split.labels) // BATCH_SIZE)
    state = build_state(network, run.epochs * steps)
    done = load(state)
    started = time.perf_counter() - done.seconds
    total, initial = run.epochs * steps, done.epochs * steps
    with tqdm(total=total, initial=initial, unit="step") as bar:
        for epoch in range(done.epochs, run.epochs):
            random = torch.manual_seed(run.seed * 10_000 + epoch)  # of dropout, too
            loss = train_epoch(state, split, random, bar)
            tqdm.write(f"epoch {epoch + 1}/{run.epochs}: loss {loss:.3f}")
            save(state, Progress(epoch + 1, time.perf_counter() - started))
    return cast("TransferNetwork", state.average.module)


def out_of_fold(
    features: Tensor, labels: NDArray[np.int64], groups: NDArray[np.int64]
) -> tuple[Tensor, Tensor, NDArray[np.bool_]]:
    """Return logits [N, classes], unknown scores [N], and which N were held out.

    Head and bank are made `FOLDS` times, each time without the pictures that they are
    applied to. Features [2, N, C] are those of pictures and of their mirror images.
    """
    logits = torch.zeros(len(labels), int(labels.max()) + 1)
    scores = torch.zeros(len(labels))
    was_held_out = np.zeros(len(labels), bool)
    for held_out in folds(labels, groups, FOLDS):
        rest = np.flatnonzero(~held_out)
        head = fit_head(features[:, rest], labels[rest])
        bank = features[:, rest[choose_bank(labels[rest])]].flatten(0, 1)
        rows = features[0, held_out]
        with torch.no_grad():
            logits[held_out] = head(rows)
        scores[held_out] = unknown_distance(rows, bank, bank[:0])
        was_held_out |= held_out
    return logits, scores, was_held_out


def folds(
    labels: NDArray[np.int64], groups: NDArray[np.int64], count: int
) -> Iterator[NDArray[np.bool_]]:
    """Yield which pictures each of `count` folds holds out: bool [N].

    Classes are spread evenly, a group of pictures stays together, and of each class a
    picture is left to train on.
    """
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=SPLIT_SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes with few pictures
        for _rest, rows in splitter.split(labels, labels, groups):
            held_out = np.zeros(len(labels), bool)
            held_out[rows] = True
            trained = np.unique(labels[~held_out])
            yield held_out & np.isin(labels, trained)
