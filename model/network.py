"""The network: a small residual CNN in PyTorch, and its export to ONNX.

    >>> logits = FashionCNN()(torch.zeros(1, 28, 28, dtype=torch.uint8))

Pixels go in as they are stored (uint8, bright on black); scaling, calibration
and softmax are part of the graph, so nobody can forget them when serving.

A trained network is rounded: activations take 256 levels and weights 127, in which
processors multiply three times as fast. It then goes on training as it will be
served (Jacob et al., arXiv 1712.05877), and the ONNX graph computes the same.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy

from model.images import WHITE

LEVELS = 255  # of activations, above zero
# levels of weights, above zero as below: processors without VNNI add two products in
# 16 bits, which 2 x 255 x 63 fits and 2 x 255 x 127 does not
MOST = 63
SMALLEST = 1e-8  # largest weight of a channel that does nothing
FAINT = -3.0  # logarithm of the bend from which calibration is fitted


class Rounding(nn.Module):
    """Activations to whole multiples of a scale, once they have been watched."""

    def __init__(self, signed: bool = False) -> None:
        super().__init__()
        self.is_watching, self.is_on = False, False
        self.register_buffer("scale", torch.zeros(()))
        kind = torch.int32
        self.register_buffer("zero", torch.tensor(128 if signed else 0, dtype=kind))

    scale: Tensor
    zero: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Return them as they are, or rounded and cut off at 256 levels."""
        if self.is_watching:
            levels = LEVELS - self.zero
            self.scale.copy_(torch.maximum(self.scale, x.abs().max() / levels))
        if not self.is_on:
            return x
        if torch.onnx.is_in_onnx_export():
            return decoded(encoded(x, self.scale, self.zero), self.scale, self.zero)
        return torch.fake_quantize_per_tensor_affine(
            x.float(), self.scale, self.zero, 0, LEVELS
        )


def encoded(x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Put an ONNX node for x / scale + zero, rounded to uint8, into an export."""
    inputs = (x, scale, zero.to(torch.uint8))
    return torch.onnx.ops.symbolic(
        "QuantizeLinear", inputs, dtype=torch.uint8, shape=x.shape
    )


def decoded(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """Put an ONNX node for (x - zero) * scale into an export; a scale a row, or one."""
    zero = torch.zeros_like(scale, dtype=x.dtype) if zero is None else zero.to(x.dtype)
    return torch.onnx.ops.symbolic(
        "DequantizeLinear",
        (x, scale, zero),
        {"axis": 0},
        dtype=torch.float32,
        shape=x.shape,
    )


class Convolution(nn.Module):
    """3x3 convolution, batch norm, which rounding folds into it, and ReLU."""

    frozen: tuple[Tensor, Tensor | None, Tensor] | None = None  # to be exported

    def __init__(
        self, channels_in: int, channels_out: int, stride: int = 1, *, relu: bool = True
    ) -> None:
        super().__init__()
        self.convolve = nn.Conv2d(
            channels_in, channels_out, 3, stride, padding=1, bias=False
        )
        self.normalize = nn.BatchNorm2d(channels_out)
        self.rounding = Rounding(signed=not relu)
        self.is_first = channels_in == 1
        self.relu = nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] to [N, D, h / stride, w / stride]."""
        if not self.rounding.is_on:
            x = self.normalize(self.convolve(x))
        else:
            weight, bias = self.folded()
            x = conv2d(x, weight, bias, self.convolve.stride, padding=1)
        return cast("Tensor", self.rounding(self.relu(x)))

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return rounded weight, and bias, of the convolution that does both."""
        if self.frozen is not None:
            weight, scale, bias = self.frozen
            return weight if scale is None else decoded(weight, scale), bias
        norm = self.normalize
        mean, variance = (
            cast("Tensor", norm.running_mean),
            cast("Tensor", norm.running_var),
        )
        factor = norm.weight * (variance + norm.eps).rsqrt()
        weight = self.convolve.weight * factor[:, None, None, None]
        bias = norm.bias - mean * factor
        if self.is_first:  # few weights, and no time to be gained
            return weight, bias
        zeros = torch.zeros_like(bias, dtype=torch.int32)
        scale = scale_of(weight)
        weight = torch.fake_quantize_per_channel_affine(
            weight, scale, zeros, 0, -MOST, MOST
        )
        return weight, bias

    @torch.no_grad()
    def freeze(self) -> None:
        """Keep weights as they are to be exported: as whole numbers."""
        weight, bias = self.folded()
        if self.is_first:
            self.frozen = weight, None, bias
            return
        scale = scale_of(weight)
        whole = (weight / scale[:, None, None, None]).round().to(torch.int8)
        self.frozen = whole, scale, bias


def scale_of(weight: Tensor) -> Tensor:
    """Return for each channel what makes weights [D, C, 3, 3] whole numbers: [D]."""
    return weight.detach().abs().amax((1, 2, 3)).clamp(min=SMALLEST) / MOST


class Residual(nn.Module):
    """Two convolutions beside a shortcut (He et al., arXiv 1512.03385)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = Convolution(channels, channels)
        self.second = Convolution(channels, channels, relu=False)
        self.rounding = Rounding()

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] to the same shape."""
        return cast("Tensor", self.rounding((x + self.second(self.first(x))).relu()))


class FashionCNN(nn.Module):
    """28x28 pixels to activations of 4x4 for each class and for the unknown.

    Their means are the logits: one a class, and a last one for "none of them".
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 48, 64, 128),
        classes: int = 10,
        *,
        rounded: bool = False,
    ) -> None:
        super().__init__()
        self.arguments = {"widths": list(widths), "classes": classes}
        stem, *stages = widths
        layers: list[nn.Module] = [Convolution(1, stem)]
        for channels_in, channels in itertools.pairwise([stem, *stages]):
            layers += [
                Convolution(channels_in, channels, stride=2),  # 14x14, 7x7, 4x4
                Residual(channels),
            ]
        self.features = nn.Sequential(*layers)
        self.head = nn.Conv2d(widths[-1], classes + 1, 1)
        if rounded:
            self.round()

    def round(self) -> None:
        """Compute from now on as the exported graph does."""
        self.arguments["rounded"] = True
        for rounding in self.roundings():
            rounding.is_on = True

    @torch.no_grad()
    def watch(self, pixels: Tensor) -> None:
        """Find how large activations become, by pixels uint8 [N, 28, 28]."""
        was_training = self.training
        self.eval()
        for rounding in self.roundings():
            rounding.is_watching = True
        self(pixels)
        for rounding in self.roundings():
            rounding.is_watching = False
        self.train(was_training)

    def unround(self) -> None:
        """Compute in full precision, as if never rounded."""
        self.arguments.pop("rounded", None)
        for rounding in self.roundings():
            rounding.is_on = False
            rounding.scale.zero_()

    def is_watched(self) -> bool:
        """Tell whether it is known how large activations become."""
        return all(rounding.scale.item() > 0 for rounding in self.roundings())

    def roundings(self) -> list[Rounding]:
        """Return where activations are rounded, in no particular order."""
        return [module for module in self.modules() if isinstance(module, Rounding)]

    def activation(self, pixels: Tensor) -> Tensor:
        """Pixels uint8 [N, 28, 28] to activations float32 [N, classes + 1, 4, 4].

        A 1x1 convolution before the mean gives the same logits as a linear layer
        after it, and a map of where each class was seen (Zhou et al., 1512.04150).
        """
        return self.head(self.features(pixels.unsqueeze(1).float() / WHITE))

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels uint8 [N, 28, 28] to uncalibrated logits [N, classes + 1]."""
        return self.activation(pixels).mean((2, 3))


class Calibration(NamedTuple):
    """How far to trust logits: see `boost`."""

    scale: float
    slope: float
    bend: float


AS_IT_IS = Calibration(1.0, 1.0, 0.0)


class Calibrated(nn.Module):
    """What is served: the network, its calibration and its unknown score."""

    def __init__(
        self, network: FashionCNN, calibration: Calibration = AS_IT_IS
    ) -> None:
        super().__init__()
        self.network = network
        self.calibration = calibration

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels uint8 [N, 28, 28] to the three outputs of `model.onnx`.

        Probabilities [N, classes] are calibrated. The unknown score [N] is the
        log-odds of "none of them" that the network has learnt from outliers: higher
        is stranger. Class activation [N, classes, 4, 4] has the calibrated logits as
        its mean.
        """
        activation = self.network.activation(pixels)
        logits = activation.mean((2, 3))
        classes, scale = logits[:, :-1], self.calibration.scale
        boosted = boost(classes, *self.calibration)
        score = unknown_score(logits)
        activation = activation[:, :-1] * scale + boosted[:, :, None, None]
        return (classes * scale + boosted).softmax(1), score, activation


def boost(
    logits: Tensor, scale: Tensor | float, slope: Tensor | float, bend: Tensor | float
) -> Tensor:
    """Logits [N, classes] to what calibration adds to them once scaled, same shape.

    All classes but the likeliest are divided by a temperature (Guo et al., arXiv
    1706.04599), one over `scale`. By how much the likeliest leads has a curve of its
    own, slope * lead + bend * lead ** 3, which rises: the order of classes stays.
    """
    best = logits.topk(2).values
    lead = best @ best.new_tensor([[1.0], [-1.0]])  # one node instead of three
    more = ((slope - scale) + bend * lead * lead) * lead
    return torch.where(logits == best[:, :1], more, 0.0)


def unknown_score(logits: Tensor) -> Tensor:
    """Logits [N, classes + 1] to the log-odds of none against any class: [N]."""
    return logits[:, -1] - logits[:, :-1].logsumexp(1)


def fit_calibration(logits: Tensor, labels: Tensor) -> Calibration:
    """Choose the calibration with the least cross-entropy."""
    logs = torch.tensor([0.0, 0.0, FAINT], requires_grad=True)  # so all are above 0
    optimizer = torch.optim.LBFGS([logs], max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        parts = logs.exp().unbind()
        loss = cross_entropy(logits * parts[0] + boost(logits, *parts), labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    return Calibration(*logs.exp().tolist())


def fit_threshold(scores: Tensor, share: float) -> float:
    """Choose the unknown threshold that refuses this share of validation pictures."""
    return scores.double().quantile(1 - share).item()


def export_onnx(model: Calibrated) -> bytes:
    """Return `model` as an ONNX file, weights inside, for any number of pictures."""
    for module in model.modules():
        if isinstance(module, Convolution) and module.rounding.is_on:
            module.freeze()
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
    for module in model.modules():
        if isinstance(module, Convolution):
            module.frozen = None
    return program.model_proto.SerializeToString()
