"""Train the network on Fashion-MNIST, and photos if you have some; write `model.bin`.

    python train.py                    all of it, some 50 minutes on 2 cores
    python train.py --quick            a first try, about 4 minutes
    python train.py --data DIR         a torchvision root that has the data already
    python train.py --photos DIR       photos too: DIR/dress/1.jpg, DIR/shoes/2.jpg
    python train.py --outliers DIR     pictures that are none of the classes, too
    python train.py --start model.bin  fine-tune a model, on photos of your own, say
    python train.py ... --resume       go on after Ctrl-C, from the last whole epoch

5,000 of the 60,000 training pictures, and a fifth of the photos, are set aside for
every choice. A run looks at the test pictures once, at the end.
"""

import argparse
import ctypes
import io
import sys
import time
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import NamedTuple, Never, cast

import torch
from torch import Generator, Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_avg_fn
from tqdm import tqdm

from model import artifact
from model.network import CNN, Convolution
from training import epoch as lesson
from training.augment import augment
from training.data import RECIPE, Data, add_options, get_data
from training.epoch import (
    FULL_EPOCHS,
    Portions,
    Scenes,
    Shown,
    draw_scenes,
    mix,
    plan_of,
    recall,
    share_drawn,
    size_of_mix,
)
from training.optimizer import Muon
from training.release import Facts, accuracy_aside, release, report

# what differs later in a run
RECALL_EPOCHS = 20  # after which photos ask for what the network says of them then
RECALL_SHARE = 0.5  # of their loss; the rest asks for their labels
CLEAN_EPOCHS = 8  # the last ones, in which nothing is erased, but in fine-tuning
ROUNDED_SHARE = 0.08  # of the steps, the last ones, in which the network is rounded
WATCHED = 4_000  # pictures, by which it is rounded
# optimisation: Muon and AdamW (arXiv 1711.05101), one cycle (arXiv 1708.07120)
QUICK_EPOCHS = 5
BATCH_SIZE = 128
LEARNING_RATE = 4e-3  # at its peak
FINE_TUNING_EPOCHS = 3  # of each round, of a network that is trained already
FINE_TUNING_RATE = 1e-3
ROUNDS = 3  # of fine-tuning, all from the same start; their mean is taken
START_SHARE = 0.3  # how far that mean goes back to where it started
WARMUP_SHARE = 0.2  # of the steps
WEIGHT_DECAY = 0.05
MOMENTUM = 0.95  # of the kernels, but in fine-tuning, where Muon gained nothing
LABEL_SMOOTHING = 0.1
AVERAGE_EVERY = 4  # steps
AVERAGE_SHARE = 0.03  # of the run: how far the weights' moving average looks back
BAR_EVERY = 20  # steps, between two looks at the loss
RECORDED = (  # settings that `model.json` tells, also those that a run did not heed
    "RECALL_EPOCHS",
    "RECALL_SHARE",
    "CLEAN_EPOCHS",
    "ROUNDED_SHARE",
    "WATCHED",
    "BATCH_SIZE",
    "LEARNING_RATE",
    "FINE_TUNING_RATE",
    "ROUNDS",
    "START_SHARE",
    "WARMUP_SHARE",
    "WEIGHT_DECAY",
    "MOMENTUM",
    "LABEL_SMOOTHING",
    "AVERAGE_EVERY",
    "AVERAGE_SHARE",
)

# what reading a file raises that is none
NO_CHECKPOINT = EOFError, LookupError, RuntimeError, TypeError, UnpicklingError

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


def settings_of(run: Run) -> Facts:
    """Tell a run's own settings, and those recorded of this file and `lesson.py`."""
    rooms = lesson, sys.modules[__name__]
    recorded = {n.lower(): vars(room)[n] for room in rooms for n in room.RECORDED}
    return run.facts() | recorded


class Parts(NamedTuple):
    """What training changes, and what a checkpoint keeps."""

    network: CNN
    average: AveragedModel  # of the network's weights: what is evaluated and served
    mean: AveragedModel  # of such averages, one a round
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.OneCycleLR


class Past(NamedTuple):
    """What was done before a run goes on."""

    epochs: int = 0
    seconds: float = 0.0
    recalled: Tensor | None = None  # as in `Photos`, if there are any


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
    network = CNN(**(start["arguments"] if start else RECIPE.arguments()))
    if start:
        network.load_state_dict(start["state_dict"])
        network.dequantise()
    network = network.to(device).to(memory_format=torch.channels_last)
    decay = max(0.0, 1 - AVERAGE_EVERY / (AVERAGE_SHARE * total_steps))
    average = AveragedModel(
        network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True
    )
    mean = AveragedModel(network, avg_fn=get_swa_avg_fn(), use_buffers=True)
    kernels, matrices, vectors = parameters_of(network)
    momentum = {} if start else {"momentum": MOMENTUM}
    optimizer = Muon(
        [
            {"params": kernels, "weight_decay": WEIGHT_DECAY, **momentum},
            {"params": matrices, "weight_decay": WEIGHT_DECAY},
            {"params": vectors, "weight_decay": 0.0},
        ]
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        FINE_TUNING_RATE if start else LEARNING_RATE,
        total_steps=total_steps,
        pct_start=WARMUP_SHARE,
        cycle_momentum=False,
    )
    return Parts(network, average, mean, optimizer, schedule)


def parameters_of(network: CNN) -> tuple[list[Tensor], ...]:
    """Return kernels between layers, other weights, and biases with batch norm."""
    kernels: list[Tensor] = [
        module.conv.weight
        for module in network.modules()
        if isinstance(module, Convolution) and not module.is_first
    ]
    known = set(map(id, kernels))
    matrices: list[Tensor] = [
        p for p in network.parameters() if p.ndim > 1 and id(p) not in known
    ]
    return kernels, matrices, [p for p in network.parameters() if p.ndim == 1]


def train(data: Data, run: Run, checkpoint: Path, *, resume: bool) -> tuple[CNN, float]:
    """Train on a GPU if there is one, with a checkpoint after each epoch.

    Fine-tuning does so in rounds. Returns the averaged network and the seconds of all
    sittings together.
    """
    epochs, seed, start = run
    if start and start["classes"] != data.classes:
        raise ValueError(f"version {start['version']} knows other classes")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rounds = ROUNDS if start else 1
    share = 1.0 if start else share_drawn(epochs)
    plan = plan_of(data, epochs, share) * rounds
    steps = [size_of_mix(data, portions) // BATCH_SIZE for portions in plan]
    begin = partial(build, seed, sum(steps) // rounds, device, start)
    parts = begin()
    facts = settings_of(run) | {"data": data.fingerprint}
    past = load_checkpoint(checkpoint, parts, facts) if resume else Past()
    if data.photos and past.recalled is not None:
        data = data._replace(photos=data.photos._replace(recalled=past.recalled))
    started = time.perf_counter()
    scenes = draw_scenes(data.train, len(plan), share, seed)
    behind = sum(steps[: past.epochs])
    with tqdm(total=sum(steps), initial=behind, unit="step") as bar:
        for epoch in range(past.epochs, len(steps)):
            random = Generator().manual_seed(seed * 10_000 + epoch)
            if epoch and epoch % epochs == 0:  # the next round begins
                parts = begin()._replace(mean=parts.mean)
            average = parts.average.module
            if data.photos and epoch == RECALL_EPOCHS and not start:
                data = data._replace(photos=recall(average, data.photos))
            chooser = average if start else None  # from the beginning it is no gain
            shown = mix(data, scenes, chooser, plan[epoch], random)
            erasing = start is not None or epoch < epochs - CLEAN_EPOCHS
            shown = shown._replace(pixels=augment(shown.pixels, random, erasing))
            loss = train_epoch(parts, shown, random, bar)
            if (epoch + 1) % epochs == 0:  # it ends
                parts.mean.update_parameters(average)
            shares = accuracy_aside(average, data).items()
            figures = ", ".join(f"{share:.2%} {name}" for name, share in shares)
            tqdm.write(f"epoch {epoch + 1}/{len(steps)}: loss {loss:.3f}, {figures}")
            seconds = past.seconds + time.perf_counter() - started
            recalled = data.photos.recalled if data.photos else None
            save_checkpoint(
                checkpoint, parts, facts, Past(epoch + 1, seconds, recalled)
            )
    network = finish(parts, data, scenes, plan[-1], run)
    return network, past.seconds + time.perf_counter() - started


def finish(
    parts: Parts, data: Data, scenes: Scenes, portions: Portions, run: Run
) -> CNN:
    """Return the network that a run comes to: after fine-tuning, part of the way."""
    if run.start is None:
        return cast("CNN", parts.average.module.cpu())
    network = cast("CNN", parts.mean.module.cpu())
    network.quantise()  # as what it chooses to watch will be seen
    random = Generator().manual_seed(run.seed)
    pixels = mix(data, scenes, network, portions._replace(views=1), random).pixels
    chosen = torch.randperm(len(pixels), generator=random)[:WATCHED]
    go_back(network, run.start, pixels[chosen])
    return network


def go_back(network: CNN, start: Facts, pixels: Tensor) -> None:
    """Average a fine-tuned network's weights with those that it started from.

    It keeps most of what it has learnt and forgets less of what it knew (Wortsman et
    al., arXiv 2109.01903). `pixels` show how large activations are now.
    """
    old = start["state_dict"]
    network.load_state_dict(
        {
            name: value.lerp(old[name], START_SHARE)
            if value.is_floating_point()
            else value
            for name, value in network.state_dict().items()
        }
    )
    network.dequantise()
    network.observe_ranges(pixels)
    network.quantise()


def train_epoch(
    parts: Parts, shown: Shown, random: Generator, bar: "tqdm[Never]"
) -> float:
    """Show the network every picture once; return the mean loss."""
    pixels, *asked = shown
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
        loss = loss_of(logits.float(), *(part[batch].to(device) for part in asked))
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
    average = cast("CNN", parts.average.module)
    average.observe_ranges(pixels)
    parts.network.load_state_dict(average.state_dict())
    for network in (average, parts.network):
        network.quantise()


def loss_of(logits: Tensor, targets: Tensor, recalled: Tensor) -> Tensor:
    """Cross-entropy of logits [N, classes + 1] with what each picture may be.

    A picture that may be several classes asks only that one of them be likely. The
    labels of garments are smoothed over the classes (Szegedy et al., 1512.00567). Where
    something is recalled, that counts as much as the label.
    """
    logs = logits.log_softmax(1)
    losses = -logs.masked_fill(~targets, -torch.inf).logsumexp(1)
    smoothed = torch.lerp(losses, -logs[:, :-1].mean(1), LABEL_SMOOTHING)
    labelled = torch.where(targets[:, -1], losses, smoothed)
    once = -(recalled * logs).sum(1)
    return torch.lerp(labelled, once, RECALL_SHARE * recalled.sum(1)).mean()


def has_bfloat16(device: torch.device) -> bool:
    """Tell whether bfloat16 is faster than float32 on this device."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities()
    is_intel = "Intel" in str(able.get("cpu_name"))  # 1.4 times as slow without AMX
    return bool(able.get("amx_bf16" if is_intel else "avx512_bf16"))


def save_checkpoint(path: Path, parts: Parts, facts: Facts, past: Past) -> None:
    """Write what `load_checkpoint` needs to go on, atomically."""
    states = {name: part.state_dict() for name, part in parts._asdict().items()}
    buffer = io.BytesIO()
    torch.save({**facts, "past": tuple(past), **states}, buffer)
    artifact.replace(path, buffer.getvalue())


def load_checkpoint(path: Path, parts: Parts, facts: Facts) -> Past:
    """Put `parts` back to where a run stopped; return what it had done.

    Raises `ValueError` if it is none, or belongs to another run.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        past = Past(*state["past"])
    except NO_CHECKPOINT as error:
        raise ValueError(f"{path} is no checkpoint") from error
    for name, value in facts.items():
        if state.get(name) != value:
            was = "other data" if name == "data" else f"{name} {state.get(name)}"
            raise ValueError(f"{path} is of a run with {was}: repeat its options")
    for name, part in parts._asdict().items():
        part.load_state_dict(state[name])
    for network in (parts.network, cast("CNN", parts.average.module)):
        if network.has_ranges():
            network.quantise()
    return past


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
        "--output",
        type=Path,
        default=Path("model.bin"),
        help="(model.bin, which it replaces)",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--epochs",
        type=int,
        help=f"({FULL_EPOCHS}), with --start of each of {ROUNDS} rounds"
        f" ({FINE_TUNING_EPOCHS})",
    )
    parser.add_argument("--seed", type=int, default=1, help="(1)")
    length.add_argument(
        "--quick",
        action="store_true",
        help=f"a first try: --epochs {QUICK_EPOCHS}; not with --start",
    )
    parser.add_argument(
        "--start", type=Path, metavar="MODEL", help="a model.bin to go on from"
    )
    parser.add_argument("--resume", action="store_true", help="go on after a stop")
    options = parser.parse_args()
    options.checkpoint = Path(f"{options.output}.checkpoint")
    if options.quick and options.start:
        parser.error("--quick is for a new network; --start is short by itself")
    if options.epochs is None:
        usual = QUICK_EPOCHS if options.quick else FULL_EPOCHS
        options.epochs = FINE_TUNING_EPOCHS if options.start else usual
    if options.epochs < 1:
        parser.error("--epochs is at least 1")
    try:
        artifact.check_output(options.output)
    except artifact.ArtifactError as error:
        parser.error(str(error))
    if options.resume and not options.checkpoint.is_file():
        parser.error(f"nothing to go on from: no {options.checkpoint}")
    return options


def read_start(path: Path) -> Facts:
    """Read a `model.bin` to go on from, with the version that it is known by."""
    known_by = artifact.load(str(path)).facts["version"]
    return {**torch.load(path, weights_only=True), "version": known_by}


def main() -> None:
    """Get the data, train, evaluate, save."""
    options = parse_options()
    keep_memory()
    start = read_start(options.start) if options.start else None
    data = get_data(options.data, options.photos, options.outliers)
    data = data._replace(before=start["data"] if start else {})
    run = Run(options.epochs, options.seed, start)
    network, seconds = train(data, run, options.checkpoint, resume=options.resume)
    facts = release(options.output, network, data, settings_of(run), seconds)
    options.checkpoint.unlink()
    report(facts)
    print(f"wrote {options.output}, version {facts['version']}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nstopped; --resume goes on from the last whole epoch, if any")
    except (artifact.ArtifactError, OSError, RuntimeError, ValueError) as error:
        sys.exit(f"train: {error}")
