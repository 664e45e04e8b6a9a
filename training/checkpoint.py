"""Checkpoints: what a run needs to go on after a stop, in one file.

save_checkpoint(path, state, settings, Progress(epochs=3, seconds=90))
progress = load_checkpoint(path, state, settings)
"""

import io
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel

from model import artifact
from model.network import CNN
from training.optimizer import Muon

# what `torch.load` and the lookup of an entry raise if a file is no checkpoint
NO_CHECKPOINT = EOFError, LookupError, RuntimeError, TypeError, UnpicklingError


class State(Protocol):
    """Named parts, each with a `state_dict`, as a `NamedTuple` of them has."""

    def _asdict(self) -> dict[str, Any]: ...


class TrainingState(NamedTuple):
    """What training changes."""

    network: CNN
    average: AveragedModel  # moving average of the network's weights
    soup: AveragedModel  # mean of such averages, of several runs of fine-tuning
    optimizer: Muon
    schedule: OneCycleLR

    @property
    def averaged(self) -> CNN:
        """The network with averaged weights, which is evaluated and released."""
        return cast("CNN", self.average.module)


class Progress(NamedTuple):
    """How far a run is."""

    epochs: int = 0
    seconds: float = 0.0
    soft_targets: Tensor | None = None  # of the photos, if there are any


def save_checkpoint(
    path: Path, state: State, settings: dict[str, Any], progress: Progress
) -> None:
    """Write a checkpoint of a run with these settings, atomically."""
    states = {name: part.state_dict() for name, part in state._asdict().items()}
    buffer = io.BytesIO()
    torch.save({**settings, "progress": tuple(progress), **states}, buffer)
    artifact.replace(path, buffer.getvalue())


def load_checkpoint(path: Path, state: State, settings: dict[str, Any]) -> Progress:
    """Load a checkpoint into `state` and return its progress.

    Raises `ValueError` if it is no checkpoint, or if its settings differ.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        progress = Progress(*saved["progress"])
    except NO_CHECKPOINT as error:
        raise ValueError(f"{path} is no checkpoint") from error
    for name, value in settings.items():
        if saved.get(name) != value:
            other = "other data" if name == "data" else f"{name} {saved.get(name)}"
            raise ValueError(f"{path} is of a run with {other}: repeat its options")
    for name, part in state._asdict().items():
        part.load_state_dict(saved[name])
    if isinstance(state, TrainingState):
        for network in (state.network, state.averaged):
            if network.has_ranges():
                network.quantise()
    return progress
