"""Train the network on Fashion-MNIST, and photos if you have some; write `model.bin`.

    python train.py                    all of it, some 50 minutes on 2 cores
    python train.py --quick            a first try, about 4 minutes
    python train.py --dataset mnist    other pictures of 28x28: mnist or kmnist
    python train.py --data DIR         a torchvision root that has the data already
    python train.py --photos DIR       photos too: DIR/dress/1.jpg, DIR/shoes/2.jpg
    python train.py --outliers DIR     pictures that are none of the classes, too
    python train.py --images DIR       your own classes: DIR/ants/1.jpg, DIR/bees/2.jpg
    python train.py --start model.bin  fine-tune a model, on photos of your own, say
    python train.py --images DIR --check    print what labelled pictures hold, and stop
    python train.py ... --resume       go on after Ctrl-C, from the last whole epoch

5,000 of the 60,000 training pictures, and a fifth of the photos, are for validation:
every choice is made by them. The test pictures are used once, at the end.
"""

import argparse
import ctypes
import io
import sys
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple, Never, cast

import torch
from torch import Generator, Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_avg_fn
from tqdm import tqdm

from model import artifact
from model.network import CNN
from training import augment as augmentation
from training import custom, transfer
from training import epoch as epochs
from training import optimizer as optimization
from training.augment import augment
from training.check import check, describe_files, describe_pictures, print_lines
from training.checkpoint import (
    Progress,
    TrainingState,
    load_checkpoint,
    save_checkpoint,
)
from training.custom import (
    name_of,
    preprocessing_of,
    release_custom,
    train_custom,
    usual_size,
)
from training.data import Data, get_data
from training.epoch import (
    EpochData,
    EpochPlan,
    Scenes,
    build_epoch,
    distil,
    epoch_size,
    make_scenes,
    plan_epochs,
    synthetic_share,
    training_loss,
)
from training.export import Facts, constants
from training.folders import scan
from training.labelled import find_labelled
from training.optimizer import build_optimizer, build_schedule
from training.options import SOUP_RUNS, parse_options
from training.pictures import load_pictures
from training.recipes import RECIPES, Recipe
from training.release import release, report, validation_accuracy

# settings of the run; those of epochs, loss and learning rate stand in their modules
BATCH_SIZE = 128
DISTIL_AFTER = 20  # epochs, then photos get soft targets
CLEAN_EPOCHS = 8  # the last ones of a new network, without erasing
AVERAGE_EVERY = 4  # steps
AVERAGE_SHARE = 0.03  # of the run: the time constant of the weights' moving average
QUANTISED_SHARE = 0.08  # of the steps, the last ones, with fake quantisation
RANGE_PICTURES = 4_000  # by which the ranges of activations are observed
START_WEIGHT = 0.3  # of the start's weights in the result
LOG_EVERY = 20  # steps


class Run(NamedTuple):
    """The options that, with the data, determine the result."""

    epochs: int
    seed: int
    start: Facts | None = None  # the content of a `model.bin`, as `torch.load` gives it

    @property
    def repeats(self) -> int:
        """How often it is trained: fine-tuning several times, for a model soup."""
        return SOUP_RUNS if self.start else 1

    def settings(self) -> Facts:
        """Return the options, with the version of the start, and all hyperparameters.

        These are the numeric constants of this file and of the modules that train.
        """
        modules = augmentation, epochs, optimization, sys.modules[__name__]
        start = self.start["version"] if self.start else "nothing"
        chosen = {"epochs": self.epochs, "seed": self.seed, "start": start}
        return constants(*modules) | chosen


def main() -> None:
    """Get the data, train, release."""
    options = parse_options(str(__doc__))
    if options.check:
        check(options.images, options.labels, options.check)
        return
    if options.checkpoint.is_file() and not options.resume:
        print(f"replaces {options.checkpoint} of a stopped run: --resume continues it")
    keep_freed_memory()
    facts = train_images(options) if options.own_pictures else train_recipe(options)
    options.checkpoint.unlink(missing_ok=True)
    report(facts)
    print(f"wrote {options.output}, version {facts['version']}")


def train_images(options: argparse.Namespace) -> Facts:
    """Train on pictures of one's own classes; return the facts of `model.json`."""
    started = time.perf_counter()
    found = find_labelled(options.images, options.labels)
    found.outliers.extend(file for path in options.outliers for file in scan(path)[0])
    print_lines(describe_files(found))
    epochs = 0 if options.head_only else options.epochs
    size = options.size or usual_size(len(found.files), epochs)
    run = transfer.Run(options.backbone, size, epochs, options.seed)
    network = transfer.build_network(run, len(found.classes))
    pictures = load_pictures(found, preprocessing_of(size))
    print_lines(describe_pictures(pictures))
    trained = train_custom(
        network, pictures, run, options.checkpoint, resume=options.resume
    )
    facts = {
        "name": options.name or name_of((options.images or [options.labels.parent])[0]),
        "classes": found.classes,
        "settings": run._asdict() | constants(transfer, augmentation, custom),
        "seconds": round(time.perf_counter() - started, 1),
    }
    return release_custom(options.output, trained, facts, options.samples)


def train_recipe(options: argparse.Namespace) -> Facts:
    """Train on a built-in data set; return the facts of `model.json`."""
    recipe = RECIPES[options.dataset]
    start = read_start(options.start, recipe) if options.start else None
    data = get_data(recipe, options.data, options.photos, options.outliers)
    data = data._replace(parent=start["data"] if start else {})
    run = Run(options.epochs, options.seed, start)
    network, seconds = train(data, run, options.checkpoint, resume=options.resume)
    return release(options.output, network, data, run.settings(), seconds)


def read_start(path: Path, recipe: Recipe) -> Facts:
    """Read a `model.bin` to fine-tune, with its version.

    Raises `artifact.ArtifactError` if it is none, `ValueError` if it has other classes.
    """
    facts = artifact.load(str(path)).facts
    if facts["classes"] != recipe.classes:
        raise ValueError(
            f"{path} is a model of {facts['data']['name']}, not of {recipe.title}"
        )
    return {**torch.load(path, weights_only=True), "version": facts["version"]}


def train(data: Data, run: Run, checkpoint: Path, *, resume: bool) -> tuple[CNN, float]:
    """Train, on a GPU if there is one, with a checkpoint after each epoch.

    Returns the averaged network, and the seconds it took, before a stop included.
    Raises `ValueError` for a start or a checkpoint that does not fit.
    """
    share = 1.0 if run.start else synthetic_share(run.epochs)
    plans = plan_epochs(data, run.epochs, share) * run.repeats
    steps = [epoch_size(data, plan) // BATCH_SIZE for plan in plans]
    arguments = run.start["arguments"] if run.start else data.recipe.arguments()
    build = partial(build_state, run, arguments, sum(steps) // run.repeats)
    state, settings = build(), run.settings() | {"data": data.fingerprint}
    done = load_checkpoint(checkpoint, state, settings) if resume else Progress()
    data = with_soft_targets(data, done)
    started = time.perf_counter() - done.seconds
    scenes = make_scenes(data, len(plans), share, run.seed)
    with tqdm(total=sum(steps), initial=sum(steps[: done.epochs]), unit="step") as bar:
        for epoch in range(done.epochs, len(plans)):
            if epoch and epoch % run.epochs == 0:  # the soup's next run
                state = build()._replace(soup=state.soup)
            if data.photos and epoch == DISTIL_AFTER and not run.start:
                data = data._replace(photos=distil(state.averaged, data.photos))
            random = Generator().manual_seed(run.seed * 10_000 + epoch)
            selector = state.averaged if run.start else None
            pictures = build_epoch(data, scenes, selector, plans[epoch], random)
            erasing = run.start is not None or epoch < run.epochs - CLEAN_EPOCHS
            pixels = augment(
                pictures.pixels, random, flips=data.recipe.flips, erasing=erasing
            )
            loss = train_epoch(state, pictures._replace(pixels=pixels), random, bar)
            if (epoch + 1) % run.epochs == 0:
                state.soup.update_parameters(state.averaged)
            log_epoch(f"{epoch + 1}/{len(plans)}", loss, state.averaged, data)
            soft_targets = data.photos.soft_targets if data.photos else None
            progress = Progress(epoch + 1, time.perf_counter() - started, soft_targets)
            save_checkpoint(checkpoint, state, settings, progress)
    network = final_network(state, data, scenes, plans[-1], run)
    return network, time.perf_counter() - started


def with_soft_targets(data: Data, progress: Progress) -> Data:
    """Return the data with the soft targets of a checkpoint, if it has any."""
    if data.photos is None or progress.soft_targets is None:
        return data
    photos = data.photos._replace(soft_targets=progress.soft_targets)
    return data._replace(photos=photos)


def build_state(run: Run, arguments: Facts, total_steps: int) -> TrainingState:
    """Return a network, with the weights of the start or by the seed, and optimizer."""
    torch.manual_seed(run.seed)
    torch.backends.cudnn.deterministic = True
    fine_tuning = run.start is not None
    network = CNN(**arguments)
    if run.start:
        network.load_state_dict(run.start["state_dict"])
        network.dequantise()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = network.to(device).to(memory_format=torch.channels_last)
    decay = max(0.0, 1 - AVERAGE_EVERY / (AVERAGE_SHARE * total_steps))
    moving_average = get_ema_multi_avg_fn(decay)
    optimizer = build_optimizer(network, fine_tuning=fine_tuning)
    return TrainingState(
        network,
        AveragedModel(network, multi_avg_fn=moving_average, use_buffers=True),
        AveragedModel(network, avg_fn=get_swa_avg_fn(), use_buffers=True),
        optimizer,
        build_schedule(optimizer, total_steps, fine_tuning=fine_tuning),
    )


def train_epoch(
    state: TrainingState, pictures: EpochData, random: Generator, bar: "tqdm[Never]"
) -> float:
    """Train on every picture once, in random order; return the mean loss."""
    pixels, *targets = pictures
    device = next(state.network.parameters()).device
    state.network.train()
    total = torch.zeros((), device=device)
    order = torch.randperm(len(pixels), generator=random)
    quantised_from = round((1 - QUANTISED_SHARE) * state.schedule.total_steps)
    for step in range(1, len(order) // BATCH_SIZE + 1):
        if state.schedule.last_epoch == quantised_from:
            start_quantisation(state, pixels[order[:RANGE_PICTURES]].to(device))
        batch = order[(step - 1) * BATCH_SIZE : step * BATCH_SIZE]
        with torch.autocast(device.type, torch.bfloat16, prefers_bfloat16(device)):
            logits = state.network(pixels[batch].to(device))
        batch_targets = (part[batch].to(device) for part in targets)
        loss = training_loss(logits.float(), *batch_targets)
        state.optimizer.zero_grad()
        loss.backward()
        state.optimizer.step()
        state.schedule.step()
        if step % AVERAGE_EVERY == 0:
            state.average.update_parameters(state.network)
        total += loss.detach()
        bar.update()
        if step % LOG_EVERY == 0:
            bar.set_postfix(loss=f"{total.item() / step:.3f}")
    return total.item() / step


def prefers_bfloat16(device: torch.device) -> bool:
    """Return whether bfloat16 is faster than float32 on this device."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    is_intel = "Intel" in str(capabilities.get("cpu_name"))
    # Intel without AMX needs 1.4 times as long
    return bool(capabilities.get("amx_bf16" if is_intel else "avx512_bf16"))


def start_quantisation(state: TrainingState, pixels: Tensor) -> None:
    """Continue with the averaged weights, quantised as they will be served."""
    state.averaged.observe_ranges(pixels)
    state.network.load_state_dict(state.averaged.state_dict())
    for network in (state.averaged, state.network):
        network.quantise()


def log_epoch(name: str, loss: float, network: CNN, data: Data) -> None:
    """Print the loss and the validation accuracy above the progress bar."""
    shares = validation_accuracy(network, data).items()
    figures = ", ".join(f"{share:.2%} {part}" for part, share in shares)
    tqdm.write(f"epoch {name}: loss {loss:.3f}, {figures}")


def final_network(
    state: TrainingState, data: Data, scenes: Scenes, plan: EpochPlan, run: Run
) -> CNN:
    """Return the averaged network; after fine-tuning the soup, with the start in it."""
    if run.start is None:
        return state.averaged.cpu()
    network = cast("CNN", state.soup.module.cpu())
    network.quantise()  # as it will be when it selects outliers
    random = Generator().manual_seed(run.seed)
    plan = plan._replace(views=1)
    pixels = build_epoch(data, scenes, network, plan, random).pixels
    chosen = torch.randperm(len(pixels), generator=random)[:RANGE_PICTURES]
    interpolate_weights(network, run.start, pixels[chosen])
    return network


def interpolate_weights(network: CNN, start: Facts, pixels: Tensor) -> None:
    """Move a fine-tuned network's weights towards those of its start.

    It forgets less of what the start knew (Wortsman et al., arXiv 2109.01903). The
    ranges of activations are observed anew, by `pixels`.
    """
    old = start["state_dict"]
    network.load_state_dict(
        {
            name: value.lerp(old[name], START_WEIGHT)
            if value.is_floating_point()
            else value
            for name, value in network.state_dict().items()
        }
    )
    network.dequantise()
    network.observe_ranges(pixels)
    network.quantise()


def keep_freed_memory() -> None:
    """Have glibc keep freed memory: to allocate it anew takes a third of a step."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has none
        mallopt(-3, 2**25)  # M_MMAP_THRESHOLD of malloc.h, the greatest value allowed
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names may not fit its encoding
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nstopped; --resume continues after the last whole epoch, if any")
    except (artifact.ArtifactError, OSError, RuntimeError, ValueError) as error:
        sys.exit(f"train: {error}")
