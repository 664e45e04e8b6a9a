"""One epoch of training: which pictures it has, their targets, and the loss.

    >>> epoch = build_epoch(data, scenes, network, plans[0], random)
    >>> training_loss(network(epoch.pixels), epoch.targets, epoch.soft_targets)

Every epoch has all training pictures, views of the photos, and synthetic pictures:
scenes, which are rendered once a run and sampled, and outliers, which are drawn anew.
"""

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from model.network import unknown_score
from synthetic.outliers import make_outliers
from synthetic.scenes import render_outlier_scenes, render_scenes
from training.data import Data, Photos, Split, one_hot_targets
from training.release import evaluate

# synthetic pictures of an epoch, as shares of the training pictures
SCENE_SHARE = 0.3  # of the classes, in synthetic photos
OUTLIER_SCENE_SHARE = 0.12  # of other objects, in synthetic photos, and of documents
OUTLIER_SHARE = 0.14  # other synthetic outliers
SCENE_EPOCHS = 3  # so many epochs' scenes are rendered, fewer for a short run
FULL_EPOCHS = 45  # of a run with these shares; one of 5 epochs has a ninth of them
OUTLIER_CANDIDATES = 2  # for each synthetic outlier that fine-tuning selects
# photos of an epoch
EPOCH_VIEWS = 8  # of each photo in the first epoch, falling to 1 in the last
EPOCH_CROPS = 1  # of each photo
# loss
LABEL_SMOOTHING = 0.1
DISTIL_SHARE = 0.5  # weight of the soft targets, if there are any; labels have the rest


class Scenes(NamedTuple):
    """Synthetic photos, rendered once a run."""

    labelled: Split
    outliers: Tensor  # uint8 [N, *input_shape]


class EpochPlan(NamedTuple):
    """How many pictures an epoch has, beside all training pictures."""

    scenes: int
    outlier_scenes: int
    outliers: int
    views: int  # of each photo


class EpochData(NamedTuple):
    """Pictures of an epoch with their targets."""

    pixels: Tensor  # uint8 [N, *input_shape]
    targets: Tensor  # bool [N, classes + 1], the possible classes
    soft_targets: Tensor  # float32 [N, classes + 1], zeros if there are none


def synthetic_share(epochs: int) -> float:
    """Return which share of the synthetic pictures the epochs of a new network have.

    A short run learns the classes better with fewer, and the unknown no worse.
    """
    return min(1, epochs / FULL_EPOCHS)


def make_scenes(data: Data, epochs: int, share: float, seed: int) -> Scenes:
    """Render the synthetic photos from which the epochs of a run sample."""
    count = len(data.train.labels)
    times = min(SCENE_EPOCHS, epochs / 10)
    random = Generator().manual_seed(seed)
    chosen = torch.randperm(count, generator=random)
    chosen = chosen[: math.ceil(times * SCENE_SHARE * count * share)]
    pixels, labels = data.train.pixels[chosen], data.train.labels[chosen]
    garments = labels if data.recipe.is_worn else torch.full_like(labels, -1)
    preprocessing = data.recipe.preprocessing
    outlier_count = OUTLIER_CANDIDATES * times * OUTLIER_SCENE_SHARE * count * share
    size = math.ceil(outlier_count)
    outliers = render_outlier_scenes(size, random, preprocessing)
    pixels = render_scenes(pixels, garments, random, preprocessing)
    return Scenes(Split(pixels, labels), outliers)


def plan_epochs(data: Data, epochs: int, share: float) -> list[EpochPlan]:
    """Plan the epochs of a run with a share of the synthetic pictures.

    The views of each photo become fewer, for the network would overfit to photos as
    the learning rate falls.
    """
    count = len(data.train.labels) * share
    shares = SCENE_SHARE, OUTLIER_SCENE_SHARE, OUTLIER_SHARE
    scenes, outlier_scenes, outliers = (max(1, round(s * count)) for s in shares)
    views = [max(1, round(EPOCH_VIEWS * (1 - e / epochs))) for e in range(epochs)]
    return [EpochPlan(scenes, outlier_scenes, outliers, view) for view in views]


def epoch_size(data: Data, plan: EpochPlan) -> int:
    """Return the number of pictures of an epoch."""
    *synthetic, views = plan
    outliers = sum(map(len, data.outliers.values()))
    photos = len(data.photos.targets) if data.photos else 0
    given = len(data.train.labels) + outliers + photos * (views + EPOCH_CROPS)
    return given + sum(synthetic)


def distil(network: nn.Module, photos: Photos) -> Photos:
    """Set the soft targets of photos: a network's mean prediction over their views.

    Trained on its own predictions (Furlanello et al., Born-Again Networks, arXiv
    1805.04770), the network overfits less to the labels of a few photos.
    """
    views = photos.views.unbind(1)
    predictions = [evaluate(network, view).softmax(1) for view in views]
    return photos._replace(soft_targets=torch.stack(predictions).mean(0))


def build_epoch(
    data: Data,
    scenes: Scenes,
    network: nn.Module | None,
    plan: EpochPlan,
    random: Generator,
) -> EpochData:
    """Gather the pictures of an epoch, sampled anew.

    A network, if given, selects the synthetic outliers.
    """
    outliers = [select_outliers(data, scenes, network, plan, random)]
    outliers += data.outliers.values()
    classes = len(data.classes)
    sampled = sample_rows(scenes.labelled.labels, plan.scenes, random)
    labels = torch.cat([data.train.labels, scenes.labelled.labels[sampled]])
    pixels = [data.train.pixels, scenes.labelled.pixels[sampled]]
    targets = [one_hot_targets(labels, classes)]
    soft_targets = [torch.zeros(targets[0].shape)]
    if data.photos:
        photos = data.photos
        pixels.append(sample_views(photos.views, plan.views, random))
        targets.append(photos.targets.repeat_interleave(plan.views, 0))
        soft_targets.append(photos.soft_targets.repeat_interleave(plan.views, 0))
        outliers.append(sample_views(photos.crops, EPOCH_CROPS, random))
    labels = torch.full((sum(map(len, outliers)),), classes)
    targets.append(one_hot_targets(labels, classes))
    soft_targets.append(torch.zeros(targets[-1].shape))
    parts = [*pixels, *outliers], targets, soft_targets
    return EpochData(*map(torch.cat, parts))


def select_outliers(
    data: Data,
    scenes: Scenes,
    network: nn.Module | None,
    plan: EpochPlan,
    random: Generator,
) -> Tensor:
    """Return the synthetic outliers of an epoch: uint8 [N, *input_shape].

    A network, if given, selects the hardest of `OUTLIER_CANDIDATES` times as many, for
    the others teach it little (Chen et al., arXiv 2006.15207).
    """
    times = OUTLIER_CANDIDATES if network else 1
    sampled = sample_rows(scenes.outliers, times * plan.outlier_scenes, random)
    drawn = make_outliers(data.train.pixels, times * plan.outliers, random)
    kinds = scenes.outliers[sampled], drawn
    if network is None:
        return torch.cat(kinds)
    return torch.cat([hardest(network, kind, len(kind) // times) for kind in kinds])


def hardest(network: nn.Module, outliers: Tensor, count: int) -> Tensor:
    """Return the `count` outliers with the lowest unknown score."""
    scores = unknown_score(evaluate(network, outliers))
    return outliers[scores.topk(count, largest=False).indices]


def sample_rows(rows: Tensor, count: int, random: Generator) -> Tensor:
    """Return indices of rows, drawn with replacement: int64 [count]."""
    return torch.randint(len(rows), (count,), generator=random)


def sample_views(views: Tensor, count: int, random: Generator) -> Tensor:
    """Draw `count` views of each photo: [N, V, ...] to [N * count, ...]."""
    chosen = torch.rand(views.shape[:2], generator=random).argsort(1)[:, :count]
    return views[torch.arange(len(views))[:, None], chosen].flatten(0, 1)


def training_loss(logits: Tensor, targets: Tensor, soft_targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits [N, classes + 1], a scalar.

    Partial labels: if several classes are possible, the loss is of the sum of their
    probabilities (Jin and Ghahramani, Learning with Multiple Labels, 2002). Labels are
    smoothed over the classes (Szegedy et al., arXiv 1512.00567), but not "unknown".
    Soft targets, where there are any, have the weight `DISTIL_SHARE`.
    """
    logs = logits.log_softmax(1)
    losses = -logs.masked_fill(~targets, -torch.inf).logsumexp(1)
    smoothed = torch.lerp(losses, -logs[:, :-1].mean(1), LABEL_SMOOTHING)
    hard = torch.where(targets[:, -1], losses, smoothed)
    soft = -(soft_targets * logs).sum(1)
    return torch.lerp(hard, soft, DISTIL_SHARE * soft_targets.sum(1)).mean()
