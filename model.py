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
    """28x28 pixels to activations of 4x4 for each class and for the unknown.

    Their means are the logits: one a class, and a last one for "none of them".
    """

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
        self.head = nn.Conv2d(widths[-1], classes + 1, 1)

    def activation(self, pixels: Tensor) -> Tensor:
        """Pixels uint8 [N, 28, 28] to activations float32 [N, classes + 1, 4, 4].

        A 1x1 convolution before the mean gives the same logits as a linear layer
        after it, and a map of where each class was seen (Zhou et al., 1512.04150).
        """
        return self.head(self.features(pixels.unsqueeze(1).float() / WHITE))

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels uint8 [N, 28, 28] to uncalibrated logits [N, classes + 1]."""
        return self.activation(pixels).mean((2, 3))


class Calibrated(nn.Module):
    """What is served: the network, its calibration and its unknown score."""

    def __init__(self, network: FashionCNN, scale: float, slope: float) -> None:
        super().__init__()
        self.network = network
        self.scale = scale
        self.slope = slope

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels uint8 [N, 28, 28] to the three outputs of `model.onnx`.

        Probabilities [N, classes] are calibrated; see `sharpness`. The unknown score
        [N] is the log-odds of "none of them" that the network has learnt from
        outliers: higher is stranger. Class activation [N, classes, 4, 4] has the
        calibrated logits as its mean.
        """
        activation = self.network.activation(pixels)
        logits = activation.mean((2, 3))
        classes = logits[:, :-1]
        factor = sharpness(classes, self.scale, self.slope)
        score = unknown_score(logits)
        activation = activation[:, :-1] * factor[:, :, None, None]
        return (classes * factor).softmax(1), score, activation


def sharpness(logits: Tensor, scale: Tensor | float, slope: Tensor | float) -> Tensor:
    """Logits [N, classes] to the factor [N, 1] that calibrates each picture's.

    One over a temperature (Guo et al., arXiv 1706.04599), which here may depend on
    how far the likeliest class is ahead of the next. The order of classes stays.
    """
    best = logits.topk(2).values
    return scale + slope * (best[:, :1] - best[:, 1:])


def unknown_score(logits: Tensor) -> Tensor:
    """Logits [N, classes + 1] to the log-odds of none against any class: [N]."""
    return logits[:, -1] - logits[:, :-1].logsumexp(1)


def fit_calibration(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Choose the scale and slope of `sharpness` with the least cross-entropy."""
    scale, slope = (torch.tensor(v, requires_grad=True) for v in (1.0, 0.0))
    optimizer = torch.optim.LBFGS(
        [scale, slope], max_iter=300, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(logits * sharpness(logits, scale, slope), labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    return scale.item(), slope.item()


def fit_threshold(scores: Tensor, share: float) -> float:
    """Choose the unknown threshold that refuses this share of validation pictures."""
    return scores.double().quantile(1 - share).item()


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
