"""Trained models as teachers: a network learns what they say of a picture, too.

    >>> Teacher(Path("model.bin"), classes).answer(pixels)[0].argmax()
    tensor(9)

A model says more than a label: how like a shirt this coat is (Hinton et al., Distilling
the Knowledge in a Neural Network, arXiv 1503.02531). `train.py --teachers` asks about
the garments of Fashion-MNIST only: of all else the labels are surer.
"""

from collections.abc import Sequence
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor

import artifact
from classifier import OUTPUTS

BATCH = 128


class Teacher:
    """A finished model that looks at what a network is shown."""

    def __init__(self, path: Path, classes: Sequence[str]) -> None:
        """Read a `model.bin`. Raises `ValueError` if its classes are others."""
        found = artifact.read(str(path))
        self.version: str = found.facts["version"]
        if found.facts["classes"] != list(classes):
            raise ValueError(f"{path} knows other classes")
        self._session = onnxruntime.InferenceSession(found.onnx)

    def answer(self, pixels: Tensor) -> Tensor:
        """Return how likely each class is, and last none of them: [N, classes + 1].

        `pixels` are uint8 [N, 28, 28].
        """
        return torch.cat([self._ask(batch) for batch in torch.split(pixels, BATCH)])

    def _ask(self, pixels: Tensor) -> Tensor:
        found = self._session.run(OUTPUTS, {"pixels": pixels.numpy()})
        probabilities, score = map(torch.from_numpy, found)
        unknown = score.sigmoid()[:, None]
        return torch.cat([probabilities * (1 - unknown), unknown], 1)
