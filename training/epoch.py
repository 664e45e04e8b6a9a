"""What an epoch shows: garments, drawn photos, real ones, and strangers.

    >>> shown = mix(data, scenes, network, plan[0], random)

Scenes are drawn once a run; each epoch chooses among them, and makes up new strangers.
"""

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from model.network import unknown_score
from synthetic.outliers import make_outliers
from synthetic.scenes import render_garment_scenes, render_outlier_scenes
from training.data import Data, Photos, Split, targets_of
from training.release import evaluate

# beside all garments once, as a share of their number; in a short run less
SCENE_SHARE = 0.3  # garments in drawn photos
STRANGE_SCENE_SHARE = 0.08  # other things in drawn photos
OUTLIER_SHARE = 0.14  # other pictures that are none of the classes
PHOTO_VIEWS = 8  # of each photo, if there are photos; fewer and fewer, at last one
SCRAP_VIEWS = 1
SCENE_EPOCHS = 3  # worth of scenes is drawn, each garment once; a short run draws less
FULL_EPOCHS = 45  # of a run that shows all that; one of 5 epochs, a ninth
CANDIDATES = 2  # for a made-up stranger's place, where a network chooses among them
RECORDED = (  # settings that `model.json` tells
    "SCENE_SHARE",
    "STRANGE_SCENE_SHARE",
    "OUTLIER_SHARE",
    "PHOTO_VIEWS",
    "SCRAP_VIEWS",
    "SCENE_EPOCHS",
    "FULL_EPOCHS",
    "CANDIDATES",
)


class Scenes(NamedTuple):
    """What drawn photos show, made once a run."""

    garments: Split
    strangers: Tensor  # uint8 [N, 28, 28]


class Portions(NamedTuple):
    """How many of each an epoch shows, beside all garments once."""

    scenes: int
    strange_scenes: int
    outliers: int
    views: int  # of each photo


class Shown(NamedTuple):
    """Pictures of an epoch, and what is to be said of them."""

    pixels: Tensor  # uint8 [N, 28, 28]
    targets: Tensor  # bool [N, classes + 1], what each may be
    recalled: Tensor  # float32 [N, classes + 1], as in `Photos`


def share_drawn(epochs: int) -> float:
    """Tell how much of what is drawn the epochs of a new network show.

    In a short run it is to learn garments first, and tells strangers no worse.
    """
    return min(1, epochs / FULL_EPOCHS)


def draw_scenes(garments: Split, epochs: int, share: float, seed: int) -> Scenes:
    """Draw the photos that a run's epochs choose from."""
    count = len(garments.labels)
    times = min(SCENE_EPOCHS, epochs / 10)
    random = Generator().manual_seed(seed)
    chosen = torch.randperm(count, generator=random)
    chosen = chosen[: math.ceil(times * SCENE_SHARE * count * share)]
    shown = Split(garments.pixels[chosen], garments.labels[chosen])
    strange = math.ceil(CANDIDATES * times * STRANGE_SCENE_SHARE * count * share)
    strangers = render_outlier_scenes(strange, random)
    return Scenes(
        shown._replace(pixels=render_garment_scenes(*shown, random)), strangers
    )


def plan_of(data: Data, epochs: int, share: float) -> list[Portions]:
    """Tell what each epoch is to show, with that share of what is drawn.

    Photos are shown less and less, for the network would learn them by heart as the
    rate falls.
    """
    count = len(data.train.labels) * share
    shares = SCENE_SHARE, STRANGE_SCENE_SHARE, OUTLIER_SHARE
    scenes, strange, outliers = (max(1, round(part * count)) for part in shares)
    views = [max(1, round(PHOTO_VIEWS * (1 - e / epochs))) for e in range(epochs)]
    return [Portions(scenes, strange, outliers, view) for view in views]


def size_of_mix(data: Data, portions: Portions) -> int:
    """Count what one epoch shows."""
    *drawn, views = portions
    given = sum(map(len, data.outliers.values()))
    photos = len(data.photos.targets) if data.photos else 0
    return len(data.train.labels) + sum(drawn) + given + photos * (views + SCRAP_VIEWS)


def recall(network: nn.Module, photos: Photos) -> Photos:
    """Note what a network says of each photo, on the mean of its views.

    It may be held to that later, when it would learn photos by heart.
    """
    said = [evaluate(network, view).softmax(1) for view in photos.views.unbind(1)]
    return photos._replace(recalled=torch.stack(said).mean(0))


def mix(
    data: Data,
    scenes: Scenes,
    network: nn.Module | None,
    portions: Portions,
    random: Generator,
) -> Shown:
    """Lay out what one epoch shows.

    Each part is drawn anew: which scenes and views are seen, which strangers. Those are
    chosen by a network, if it is given.
    """
    strangers = choose_strangers(data, scenes, network, portions, random)
    garments, classes = data.train, len(data.classes)
    posed = pick(scenes.garments.labels, portions.scenes, random)
    labels = torch.cat([garments.labels, scenes.garments.labels[posed]])
    pixels = [garments.pixels, scenes.garments.pixels[posed]]
    targets = [targets_of(labels, classes)]
    unknown = [strangers, *data.outliers.values()]
    recalled = [torch.zeros(targets[0].shape)]
    if data.photos:
        pixels.append(draw(data.photos.views, portions.views, random))
        targets.append(data.photos.targets.repeat_interleave(portions.views, 0))
        recalled.append(data.photos.recalled.repeat_interleave(portions.views, 0))
        unknown.append(draw(data.photos.scraps, SCRAP_VIEWS, random))
    labels = torch.full((sum(map(len, unknown)),), classes)
    targets.append(targets_of(labels, classes))
    recalled.append(torch.zeros(targets[-1].shape))
    parts = [*pixels, *unknown], targets, recalled
    return Shown(*map(torch.cat, parts))


def choose_strangers(
    data: Data,
    scenes: Scenes,
    network: nn.Module | None,
    portions: Portions,
    random: Generator,
) -> Tensor:
    """Choose the strangers of an epoch: uint8 [N, 28, 28].

    If there is a network, of more than are shown those which it takes for garments
    most: what it tells apart already teaches it little (Chen et al., arXiv 2006.15207).
    """
    times = 1 if network is None else CANDIDATES
    chosen = pick(scenes.strangers, times * portions.strange_scenes, random)
    made = make_outliers(data.train.pixels, times * portions.outliers, random)
    kinds = scenes.strangers[chosen], made
    if network is None:
        return torch.cat(kinds)
    return torch.cat([hardest(network, kind, len(kind) // times) for kind in kinds])


def hardest(network: nn.Module, strangers: Tensor, count: int) -> Tensor:
    """Keep the `count` strangers that a network takes for garments most."""
    scores = unknown_score(evaluate(network, strangers))
    return strangers[scores.topk(count, largest=False).indices]


def pick(choices: Tensor, count: int, random: Generator) -> Tensor:
    """Choose rows at random, each as often as chance will have it: int64 [count]."""
    return torch.randint(len(choices), (count,), generator=random)


def draw(views: Tensor, count: int, random: Generator) -> Tensor:
    """Draw `count` views of each: [N, V, 28, 28] to [N * count, 28, 28]."""
    chosen = torch.rand(views.shape[:2], generator=random).argsort(1)[:, :count]
    return views[torch.arange(len(views))[:, None], chosen].flatten(0, 1)
