"""The network: a small residual CNN in PyTorch, and its export to ONNX.

    >>> logits = FashionCNN()(torch.zeros(1, 28, 28, dtype=torch.uint8))

Pixels go in as they are stored (uint8, bright on black); scaling, calibration
and softmax are part of the graph, so nobody can forget them when serving.
"""

import itertools
from collections.abc import Sequence
from typing import cast

import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from images import WHITE

MIN_CONTRAST = 0.02  # of the full range; every garment in the data has over 0.99
FLAT_PENALTY = 100.0  # added to the unknown score of a picture with no contrast
REFUSED_SHARE = 0.02  # of the validation garments that may be called unknown
TEMPERATURES = torch.logspace(-1, 1, 401)


def convolution(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution and batch norm, which is folded into it at export."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
    )


class Residual(nn.Module):
    """Two convolutions beside a shortcut (He et al., arXiv 1512.03385)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = convolution(channels, channels)
        self.second = convolution(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] to the same shape."""
        return (x + self.second(self.first(x).relu())).relu()


class FashionCNN(nn.Module):
    """28x28 pixels to ten class activations of 4x4, whose mean is the logits."""

    def __init__(
        self, widths: Sequence[int] = (16, 32, 64, 128), classes: int = 10
    ) -> None:
        super().__init__()
        self.arguments = {"widths": list(widths), "classes": classes}
        stem, *stages = widths
        layers: list[nn.Module] = [convolution(1, stem), nn.ReLU()]
        for channels_in, channels in itertools.pairwise([stem, *stages]):
            layers += [
                convolution(channels_in, channels, stride=2),  # 14x14, 7x7, 4x4
                nn.ReLU(),
                Residual(channels),
            ]
        self.features = nn.Sequential(*layers)
        self.head = nn.Conv2d(widths[-1], classes, 1)

    def activation(self, pixels: Tensor) -> Tensor:
        """Pixels uint8 [N, 28, 28] to class activations float32 [N, classes, 4, 4].

        A 1x1 convolution before the mean gives the same logits as a linear layer
        after it, and a map of where each class was seen (Zhou et al., 1512.04150).
        """
        return self.head(self.features(pixels.unsqueeze(1).float() / WHITE))

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels uint8 [N, 28, 28] to uncalibrated logits float32 [N, classes]."""
        return self.activation(pixels).mean((2, 3))


class Calibrated(nn.Module):
    """What is served: the network, its temperature and its unknown score."""

    def __init__(self, network: FashionCNN, temperature: float) -> None:
        super().__init__()
        self.network = network
        self.temperature = temperature

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels uint8 [N, 28, 28] to the three outputs of `model.onnx`.

        Probabilities [N, classes] are softened by one temperature (Guo et al.,
        arXiv 1706.04599). The unknown score [N] is the energy of the calibrated
        logits (Liu et al., arXiv 2010.03759): higher is stranger. A picture
        without contrast shows nothing, whatever the network thinks of it. Class
        activation [N, classes, 4, 4] has the calibrated logits as its mean.
        """
        activation = self.network.activation(pixels) / self.temperature
        logits = activation.mean((2, 3))
        energy = -logits.logsumexp(1)
        levels = pixels.flatten(1)
        contrast = (levels.amax(1).float() - levels.amin(1).float()) / WHITE
        flatness = (1 - contrast / MIN_CONTRAST).relu()
        return logits.softmax(1), energy + FLAT_PENALTY * flatness, activation


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Choose the temperature with the least cross-entropy on validation data."""
    losses = [cross_entropy(logits / t, labels) for t in TEMPERATURES.tolist()]
    return TEMPERATURES[torch.stack(losses).argmin()].item()


@torch.no_grad()
def fit_threshold(model: Calibrated, pixels: Tensor) -> float:
    """Choose the unknown threshold that refuses 2 % of validation garments."""
    scores = model(pixels)[1]
    return scores.double().quantile(1 - REFUSED_SHARE).item()


def export_onnx(model: Calibrated) -> bytes:
    """Return `model` as an ONNX file, weights inside, for any number of pictures."""
    example = torch.zeros(2, 28, 28, dtype=torch.uint8)
    program = cast(
        "torch.onnx.ONNXProgram",
        torch.onnx.export(
            model.eval(),
            (example,),
            input_names=["pixels"],
            output_names=["probabilities", "unknown_score", "class_activation"],
            dynamic_shapes={"pixels": {0: torch.export.Dim("pictures")}},
            verbose=False,
        ),
    )
    ClearMetadataAndDocStringPass()(program.model)  # it names paths of this machine
    return program.model_proto.SerializeToString()
