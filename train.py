"""Train the network on Fashion-MNIST, and photos if you have some; write `model.bin`.

    python train.py                    all of it, about 25 minutes on 2 cores
    python train.py --quick            a first try, 2 to 3 minutes
    python train.py --data DIR         a torchvision root that has the data already
    python train.py --photos DIR       photos too: DIR/dress/1.jpg, DIR/shoes/2.jpg
    python train.py --outliers DIR     pictures that are none of the classes, too
    python train.py --start model.bin  fine-tune a model, on photos of your own, say
    python train.py --resume           go on after Ctrl-C, from the last whole epoch

5,000 of the 60,000 training pictures, and a fifth of the photos, are set aside for
every choice. A run looks at the test pictures once, at the end.
"""

import argparse
import ctypes
import io
import math
import sys
import time
from pathlib import Path
from typing import NamedTuple, Never, cast

import torch
from torch import Generator, Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

import artifact
from augment import augment
from data import Data, Split, add_options, get_data, targets_of
from model import FashionCNN, unknown_score
from outliers import make_outliers
from release import Facts, choose, evaluate, release, report
from scenes import see_garments, see_strangers

# what an epoch shows: all garments once, and as a share of their number
SCENE_SHARE = 0.14  # garments in drawn photos
STRANGE_SCENE_SHARE = 0.08  # other things in drawn photos
OUTLIER_SHARE = 0.14  # other pictures that are none of the classes
PHOTO_VIEWS = 8  # of each photo, if there are photos; fewer and fewer, at last one
SCRAP_VIEWS = 1
SCENE_EPOCHS = 4  # worth of scenes is drawn; a short run draws less
CANDIDATES = 2  # for each place of a made-up stranger: those it errs on most are shown
CLEAN_SHARE = 0.1  # of the epochs, the last ones, in which nothing is erased
ROUNDED_SHARE = 0.08  # of the steps, the last ones, in which the network is rounded
WATCHED = 4_000  # pictures, by which it is rounded
# optimisation: AdamW (arXiv 1711.05101), one cycle (arXiv 1708.07120)
EPOCHS = 45
QUICK_EPOCHS = 3
BATCH_SIZE = 128
LEARNING_RATE = 4e-3  # at its peak
FINE_TUNING_RATE = 1e-3  # likewise, of a network that is trained already
WARMUP_SHARE = 0.2  # of the steps
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.1
AVERAGE_EVERY = 4  # steps
AVERAGE_SHARE = 0.03  # of the run: how far the weights' moving average looks back
BAR_EVERY = 20  # steps, between two looks at the loss
RECORDED = (  # settings that `model.json` tells
    "SCENE_SHARE",
    "STRANGE_SCENE_SHARE",
    "OUTLIER_SHARE",
    "PHOTO_VIEWS",
    "SCRAP_VIEWS",
    "SCENE_EPOCHS",
    "CANDIDATES",
    "CLEAN_SHARE",
    "ROUNDED_SHARE",
    "WATCHED",
    "BATCH_SIZE",
    "LEARNING_RATE",
    "FINE_TUNING_RATE",
    "WARMUP_SHARE",
    "WEIGHT_DECAY",
    "LABEL_SMOOTHING",
    "AVERAGE_EVERY",
    "AVERAGE_SHARE",
)

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


class Run(NamedTuple):
    """What decides, with the data, what comes out of a run."""

    epochs: int
    seed: int
    start: Facts | None = None  # of a `model.bin`, as `torch.load` finds it

    def facts(self) -> Facts:
        """Tell the same in numbers and names."""
        start = self.start["version"] if self.start else "nothing"
        return self._asdict() | {"start": start}


class Scenes(NamedTuple):
    """What drawn photos show, made once a run."""

    garments: Split
    strangers: Tensor  # uint8 [N, 28, 28]


class Parts(NamedTuple):
    """What training changes, and what a checkpoint keeps."""

    network: FashionCNN
    average: AveragedModel  # of the network's weights: what is evaluated and served
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.OneCycleLR


def keep_memory() -> None:
    """Have glibc keep what it frees: fetching it anew takes up to a third of a step."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has none
        mallopt(M_MMAP_THRESHOLD, 2**25)  # its greatest value
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def build(
    seed: int, total_steps: int, device: torch.device, start: Facts | None = None
) -> Parts:
    """Make a network and what trains it. The seed decides its weights, or `start` does.

    `start` is what `torch.load` finds in a `model.bin`.
    """
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = True
    network = FashionCNN()
    if start:
        network.load_state_dict(start["state_dict"])
        network.unround()
    network = network.to(device).to(memory_format=torch.channels_last)
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
        FINE_TUNING_RATE if start else LEARNING_RATE,
        total_steps=total_steps,
        pct_start=WARMUP_SHARE,
        cycle_momentum=False,
    )
    return Parts(network, average, optimizer, schedule)


def train(
    data: Data, run: Run, checkpoint: Path, *, resume: bool
) -> tuple[FashionCNN, float]:
    """Train on a GPU if there is one, with a checkpoint after each epoch.

    Returns the averaged network and the seconds of all sittings together.
    """
    epochs, seed, start = run
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    scenes = draw_scenes(data.train, epochs, seed)
    views = [photo_views(epoch / epochs) for epoch in range(epochs)]
    steps = [size_of_mix(data, count) // BATCH_SIZE for count in views]
    parts = build(seed, sum(steps), device, start)
    facts = {**run.facts(), "data": data.fingerprint}
    done, before = load_checkpoint(checkpoint, parts, facts) if resume else (0, 0.0)
    started = time.perf_counter()
    with tqdm(total=sum(steps), initial=sum(steps[:done]), unit="step") as bar:
        for epoch in range(done, epochs):
            random = Generator().manual_seed(seed * 10_000 + epoch)
            strangers = choose_strangers(parts.average.module, data, scenes, random)
            pixels, targets = mix(data, scenes, strangers, views[epoch], random)
            erasing = epoch < (1 - CLEAN_SHARE) * epochs
            pixels = augment(pixels, random, erasing)
            loss = train_epoch(parts, pixels, targets, random, bar)
            figures = ", ".join(
                f"{share:.2%} {name}"
                for name, share in choose(parts.average.module, data).items()
            )
            tqdm.write(f"epoch {epoch + 1}/{epochs}: loss {loss:.3f}, {figures}")
            seconds = before + time.perf_counter() - started
            save_checkpoint(checkpoint, parts, {**facts, "epoch": epoch + 1}, seconds)
    seconds = before + time.perf_counter() - started
    return cast("FashionCNN", parts.average.module.cpu()), seconds


def draw_scenes(garments: Split, epochs: int, seed: int) -> Scenes:
    """Draw the photos that a run's epochs choose from."""
    count = len(garments.labels)
    times = min(SCENE_EPOCHS, epochs / 10)
    random = Generator().manual_seed(seed)
    chosen = torch.randperm(count, generator=random)
    chosen = chosen[: math.ceil(times * SCENE_SHARE * count)]
    shown = Split(garments.pixels[chosen], garments.labels[chosen])
    strange = math.ceil(CANDIDATES * times * STRANGE_SCENE_SHARE * count)
    strangers = see_strangers(strange, random)
    return Scenes(shown._replace(pixels=see_garments(*shown, random)), strangers)


def photo_views(done: float) -> int:
    """Tell how many views of each photo to show, when that share of the run is done.

    The network would learn its photos by heart as the rate falls.
    """
    return max(1, round(PHOTO_VIEWS * (1 - done)))


def size_of_mix(data: Data, views: int) -> int:
    """Count what one epoch shows, with so many views of each photo."""
    count = len(data.train.labels)
    shares = (SCENE_SHARE, STRANGE_SCENE_SHARE, OUTLIER_SHARE)
    drawn = sum(round(share * count) for share in shares)
    given = sum(map(len, data.outliers.values()))
    photos = len(data.photos.targets) if data.photos else 0
    return count + drawn + given + photos * (views + SCRAP_VIEWS)


def choose_strangers(
    network: nn.Module, data: Data, scenes: Scenes, random: Generator
) -> Tensor:
    """Make up an epoch's strangers: uint8 [N, 28, 28].

    Of more than are shown, those which the network takes for garments most: it learns
    little from what it tells apart already (Chen et al., arXiv 2006.15207).
    """
    count, garments = len(data.train.labels), data.train.pixels
    posed, made = (round(s * count) for s in (STRANGE_SCENE_SHARE, OUTLIER_SHARE))
    chosen = pick(scenes.strangers, CANDIDATES * posed, random)
    drawn = make_outliers(garments, CANDIDATES * made, random)
    return torch.cat(
        [
            hardest(network, scenes.strangers[chosen], posed),
            hardest(network, drawn, made),
        ]
    )


def hardest(network: nn.Module, strangers: Tensor, count: int) -> Tensor:
    """Keep the `count` strangers that a network takes for garments most."""
    scores = unknown_score(evaluate(network, strangers))
    return strangers[scores.topk(count, largest=False).indices]


def mix(
    data: Data, scenes: Scenes, strangers: Tensor, views: int, random: Generator
) -> tuple[Tensor, Tensor]:
    """Lay out what one epoch shows: uint8 [N, 28, 28], targets bool [N, classes + 1].

    `views` is how many of each photo are shown, if there are photos. Which scenes and
    views are seen is drawn anew.
    """
    garments, classes = data.train, len(data.classes)
    count = len(garments.labels)
    posed = pick(scenes.garments.labels, SCENE_SHARE * count, random)
    labels = torch.cat([garments.labels, scenes.garments.labels[posed]])
    pixels = [garments.pixels, scenes.garments.pixels[posed]]
    targets = [targets_of(labels, classes)]
    unknown = [strangers, *data.outliers.values()]
    if data.photos:
        pixels.append(draw(data.photos.views, views, random))
        targets.append(data.photos.targets.repeat_interleave(views, 0))
        unknown.append(draw(data.photos.scraps, SCRAP_VIEWS, random))
    labels = torch.full((sum(map(len, unknown)),), classes)
    targets.append(targets_of(labels, classes))
    return torch.cat([*pixels, *unknown]), torch.cat(targets)


def pick(choices: Tensor, count: float, random: Generator) -> Tensor:
    """Choose rows at random, each as often as chance will have it: int64 [count]."""
    return torch.randint(len(choices), (round(count),), generator=random)


def draw(views: Tensor, count: int, random: Generator) -> Tensor:
    """Draw `count` views of each: [N, V, 28, 28] to [N * count, 28, 28]."""
    chosen = torch.rand(views.shape[:2], generator=random).argsort(1)[:, :count]
    return views[torch.arange(len(views))[:, None], chosen].flatten(0, 1)


def train_epoch(
    parts: Parts, pixels: Tensor, targets: Tensor, random: Generator, bar: "tqdm[Never]"
) -> float:
    """Show the network every picture once; return the mean loss."""
    device = next(parts.network.parameters()).device
    parts.network.train()
    total = torch.zeros((), device=device)
    order = torch.randperm(len(pixels), generator=random)
    first_rounded = round((1 - ROUNDED_SHARE) * parts.schedule.total_steps)
    for step in range(1, len(order) // BATCH_SIZE + 1):
        if parts.schedule.last_epoch == first_rounded:
            begin_rounding(parts, pixels[order[:WATCHED]].to(device))
        batch = order[(step - 1) * BATCH_SIZE : step * BATCH_SIZE]
        with torch.autocast(device.type, torch.bfloat16, has_bfloat16(device)):
            logits = parts.network(pixels[batch].to(device))
        loss = loss_of(logits.float(), targets[batch].to(device))
        parts.optimizer.zero_grad()
        loss.backward()
        parts.optimizer.step()
        parts.schedule.step()
        if step % AVERAGE_EVERY == 0:
            parts.average.update_parameters(parts.network)
        total += loss.detach()
        bar.update()
        if step % BAR_EVERY == 0:
            bar.set_postfix(loss=f"{total.item() / step:.3f}")
    return total.item() / step


def begin_rounding(parts: Parts, pixels: Tensor) -> None:
    """Go on with the averaged network, rounded as it will be served."""
    average = cast("FashionCNN", parts.average.module)
    average.watch(pixels)
    parts.network.load_state_dict(average.state_dict())
    for network in (average, parts.network):
        network.round()


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of logits [N, classes + 1] with what each picture may be.

    A picture that may be several classes asks only that one of them be likely. The
    labels of garments are smoothed over the classes (Szegedy et al., 1512.00567).
    """
    logs = logits.log_softmax(1)
    losses = -logs.masked_fill(~targets, -torch.inf).logsumexp(1)
    smoothed = torch.lerp(losses, -logs[:, :-1].mean(1), LABEL_SMOOTHING)
    return torch.where(targets[:, -1], losses, smoothed).mean()


def has_bfloat16(device: torch.device) -> bool:
    """Tell whether bfloat16 is faster than float32 on this device."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    able = torch.cpu.get_capabilities()
    is_intel = "Intel" in str(able.get("cpu_name"))  # 1.4 times as slow without AMX
    return bool(able.get("amx_bf16" if is_intel else "avx512_bf16"))


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
    for network in (parts.network, cast("FashionCNN", parts.average.module)):
        if network.is_watched():
            network.round()
    return state["epoch"], state["seconds"]


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument(
        "--outliers",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR|NPZ",
        help="pictures of none of the classes, beside those made up",
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
    parser.add_argument(
        "--start", type=Path, metavar="MODEL", help="a model.bin to go on from"
    )
    parser.add_argument("--resume", action="store_true", help="go on after a stop")
    options = parser.parse_args()
    if not options.output.parent.is_dir():  # better now than after an hour
        parser.error(f"no folder {options.output.parent} to write to")
    return options


def main() -> None:
    """Get the data, train, evaluate, save."""
    options = parse_options()
    keep_memory()
    checkpoint = options.output.with_suffix(".checkpoint")
    start = torch.load(options.start, weights_only=True) if options.start else None
    data = get_data(options.data, options.photos, options.outliers)
    run = Run(options.epochs, options.seed, start)
    network, seconds = train(data, run, checkpoint, resume=options.resume)
    settings = run.facts() | {name.lower(): globals()[name] for name in RECORDED}
    facts = release(options.output, network, data, settings, seconds)
    checkpoint.unlink()
    report(facts)
    print(f"wrote {options.output}, version {facts['version']}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nstopped; --resume goes on from the last whole epoch, if any")
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f"train: {error}")
