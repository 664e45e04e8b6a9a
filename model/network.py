"""The network: a small residual CNN in PyTorch, and its export to ONNX.

    >>> logits = CNN(size=28)(torch.zeros(1, 28, 28, dtype=torch.uint8))

The input is uint8 pixels as they are stored; scaling, calibration and softmax are part
of the graph, so that serving cannot leave them out.

A trained network is quantised: activations to 256 levels and weights to 127, which
processors multiply three times as fast. Training then continues with fake
quantisation (Jacob et al., arXiv 1712.05877), and the ONNX graph computes the same.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, nn
from torch.nn.functional import conv2d

from model.images import WHITE

ACTIVATION_MAX = 255  # quantised activations are 0 to 255
# quantised weights are -63 to 63: processors without VNNI add two products in 16 bits,
# which hold 2 x 255 x 63 and not 2 x 255 x 127
WEIGHT_MAX = 63
MIN_WEIGHT_RANGE = 1e-8  # of an output channel whose weights are all zero


class Quantiser(nn.Module):
    """Fake quantisation of activations, to multiples of an observed scale."""

    def __init__(self, signed: bool = False) -> None:
        super().__init__()
        self.is_observing, self.is_on = False, False
        self.register_buffer("scale", torch.zeros(()))
        zero_point = torch.tensor(128 if signed else 0, dtype=torch.int32)
        self.register_buffer("zero_point", zero_point)

    scale: Tensor
    zero_point: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Return x as it is, or rounded and clamped to 256 levels."""
        if self.is_observing:
            levels = ACTIVATION_MAX - self.zero_point
            self.scale.copy_(torch.maximum(self.scale, x.abs().max() / levels))
        if not self.is_on:
            return x
        if torch.onnx.is_in_onnx_export():
            quantised = quantize_linear(x, self.scale, self.zero_point)
            return dequantize_linear(quantised, self.scale, self.zero_point)
        return torch.fake_quantize_per_tensor_affine(
            x.float(), self.scale, self.zero_point, 0, ACTIVATION_MAX
        )


def quantize_linear(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Export the ONNX node QuantizeLinear: x / scale + zero_point, as uint8."""
    inputs = (x, scale, zero_point.to(torch.uint8))
    return torch.onnx.ops.symbolic(
        "QuantizeLinear", inputs, dtype=torch.uint8, shape=x.shape
    )


def dequantize_linear(
    x: Tensor, scale: Tensor, zero_point: Tensor | None = None
) -> Tensor:
    """Export the ONNX node DequantizeLinear: (x - zero_point) * scale.

    `scale` is one number, or one for each index of the first axis.
    """
    zero_point = torch.zeros_like(scale) if zero_point is None else zero_point
    return torch.onnx.ops.symbolic(
        "DequantizeLinear",
        (x, scale, zero_point.to(x.dtype)),
        {"axis": 0},
        dtype=torch.float32,
        shape=x.shape,
    )


class Convolution(nn.Module):
    """3x3 convolution, batch norm and ReLU; quantisation folds the norm into weights.

    The first layer of a network keeps its weights in full precision: they are few.
    """

    exported: tuple[Tensor, Tensor | None, Tensor] | None = None

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        stride: int = 1,
        *,
        relu: bool = True,
        is_first: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            channels_in, channels_out, 3, stride, padding=1, bias=False
        )
        self.norm = nn.BatchNorm2d(channels_out)
        self.quantiser = Quantiser(signed=not relu)
        self.is_first = is_first
        self.relu = nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] to [N, D, h / stride, w / stride]."""
        if not self.quantiser.is_on:
            x = self.norm(self.conv(x))
        else:
            weight, bias = self.folded()
            x = conv2d(x, weight, bias, self.conv.stride, padding=1)
        return cast("Tensor", self.quantiser(self.relu(x)))

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return fake-quantised weight, and bias, of convolution and norm in one."""
        if self.exported is not None:
            weight, scale, bias = self.exported
            return weight if scale is None else dequantize_linear(weight, scale), bias
        norm = self.norm
        mean, variance = (
            cast("Tensor", norm.running_mean),
            cast("Tensor", norm.running_var),
        )
        factor = norm.weight * (variance + norm.eps).rsqrt()
        weight = self.conv.weight * factor[:, None, None, None]
        bias = norm.bias - mean * factor
        if self.is_first:
            return weight, bias
        zero_points = torch.zeros_like(bias, dtype=torch.int32)
        weight = torch.fake_quantize_per_channel_affine(
            weight, weight_scale(weight), zero_points, 0, -WEIGHT_MAX, WEIGHT_MAX
        )
        return weight, bias

    @torch.no_grad()
    def prepare_export(self) -> None:
        """Store the weights as int8, for the graph to hold them so."""
        weight, bias = self.folded()
        if self.is_first:
            self.exported = weight, None, bias
            return
        scale = weight_scale(weight)
        levels = (weight / scale[:, None, None, None]).round().to(torch.int8)
        self.exported = levels, scale, bias


def weight_scale(weight: Tensor) -> Tensor:
    """Return the quantisation scale of each output channel of [D, C, 3, 3]: [D]."""
    largest = weight.detach().abs().amax((1, 2, 3))
    return largest.clamp(min=MIN_WEIGHT_RANGE) / WEIGHT_MAX


class Residual(nn.Module):
    """Two convolutions beside a shortcut (He et al., arXiv 1512.03385)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = Convolution(channels, channels)
        self.second = Convolution(channels, channels, relu=False)
        self.quantiser = Quantiser()

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] to the same shape."""
        return cast("Tensor", self.quantiser((x + self.second(self.first(x))).relu()))


class Network(nn.Module):
    """What can be calibrated and exported. `arguments` rebuild it."""

    input_shape: tuple[int, ...]  # [size, size] or [size, size, 3]
    arguments: dict[str, Any]

    def outputs(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels uint8 [N, *input_shape] to maps, logits and unknown score.

        Float32 [N, classes, h, w], [N, classes], the mean of the maps, and [N].
        """
        raise NotImplementedError


class CNN(Network):
    """Pixels to an activation map for each class and for the unknown.

    The means of the maps are the logits: one a class, the last for "unknown". Maps
    have an eighth of the input's size, rounded up. `arguments` rebuild the network.
    """

    def __init__(
        self,
        size: int,
        channels: int = 1,
        classes: int = 10,
        *,
        widths: Sequence[int] = (16, 48, 64, 128),
        quantised: bool = False,
    ) -> None:
        super().__init__()
        self.arguments = {
            "size": size,
            "channels": channels,
            "classes": classes,
            "widths": list(widths),
        }
        self.input_shape = (size, size) if channels == 1 else (size, size, channels)
        layers: list[nn.Module] = [Convolution(channels, widths[0], is_first=True)]
        for narrow, wide in itertools.pairwise(widths):
            layers += [Convolution(narrow, wide, stride=2), Residual(wide)]
        self.features = nn.Sequential(*layers)
        self.head = nn.Conv2d(widths[-1], classes + 1, 1)
        if quantised:
            self.quantise()

    def quantise(self) -> None:
        """Compute from now on as the exported graph does."""
        self.arguments["quantised"] = True
        for quantiser in self.quantisers():
            quantiser.is_on = True

    @torch.no_grad()
    def observe_ranges(self, pixels: Tensor) -> None:
        """Set the scales by the activations of uint8 [N, *input_shape]."""
        was_training = self.training
        self.eval()
        for quantiser in self.quantisers():
            quantiser.is_observing = True
        self(pixels)
        for quantiser in self.quantisers():
            quantiser.is_observing = False
        self.train(was_training)

    def dequantise(self) -> None:
        """Compute in full precision, and forget the scales."""
        self.arguments.pop("quantised", None)
        for quantiser in self.quantisers():
            quantiser.is_on = False
            quantiser.scale.zero_()

    def has_ranges(self) -> bool:
        """Return whether all scales are set."""
        return all(quantiser.scale.item() > 0 for quantiser in self.quantisers())

    def quantisers(self) -> list[Quantiser]:
        """Return the modules that quantise activations, in no particular order."""
        return [module for module in self.modules() if isinstance(module, Quantiser)]

    def activation(self, pixels: Tensor) -> Tensor:
        """Pixels uint8 [N, *input_shape] to maps float32 [N, classes + 1, h, w].

        A 1x1 convolution before the mean gives the same logits as a linear layer
        after it, and maps of where each class is (Zhou et al., arXiv 1512.04150).
        """
        if len(self.input_shape) == 2:  # noqa: PLR2004 - grey
            pixels = pixels.unsqueeze(1)
        else:
            pixels = pixels.permute(0, 3, 1, 2)
        return self.head(self.features(pixels.float() / WHITE))

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels uint8 [N, *input_shape] to uncalibrated logits [N, classes + 1]."""
        return self.activation(pixels).mean((2, 3))

    def outputs(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels uint8 [N, *input_shape] to maps, logits and unknown score.

        The unknown score is the log-odds of "unknown", which the network has learnt
        from outliers.
        """
        activation = self.activation(pixels)
        logits = activation.mean((2, 3))
        return activation[:, :-1], logits[:, :-1], unknown_score(logits)


class Calibration(NamedTuple):
    """The numbers of `calibration_offset`."""

    scale: float
    slope: float
    curve: float


IDENTITY = Calibration(1.0, 1.0, 0.0)


class Calibrated(nn.Module):
    """What is served: the network, its calibration and its unknown score."""

    network: Network

    def __init__(self, network: Network, calibration: Calibration = IDENTITY) -> None:
        super().__init__()
        self.network = network
        self.calibration = calibration

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels uint8 [N, *input_shape] to the three outputs of `model.onnx`.

        Probabilities [N, classes] are calibrated; the unknown score [N] is higher for
        pictures of none of the classes; the mean of the class activation
        [N, classes, h, w] is the calibrated logits.
        """
        activation, logits, score = self.network.outputs(pixels)
        scale = self.calibration.scale
        offset = calibration_offset(logits, *self.calibration)
        activation = activation * scale + offset[:, :, None, None]
        return (logits * scale + offset).softmax(1), score, activation


def calibration_offset(
    logits: Tensor, scale: Tensor | float, slope: Tensor | float, curve: Tensor | float
) -> Tensor:
    """Logits [N, classes] to what calibration adds to `logits * scale`: same shape.

    All classes but the likeliest are scaled by a temperature (Guo et al., arXiv
    1706.04599), which is 1 / scale. The margin of the likeliest over the second becomes
    slope * margin + curve * margin ** 3, which rises: the order of classes stays.
    """
    top = logits.topk(2).values
    margin = top @ top.new_tensor([[1.0], [-1.0]])  # one node instead of three
    offset = ((slope - scale) + curve * margin * margin) * margin
    return torch.where(logits == top[:, :1], offset, 0.0)


def unknown_score(logits: Tensor) -> Tensor:
    """Logits [N, classes + 1] to the log-odds of unknown against any class: [N]."""
    return logits[:, -1] - logits[:, :-1].logsumexp(1)


def export_onnx(model: Calibrated) -> bytes:
    """Return `model` as an ONNX file, weights inside, for any number of pictures."""
    convolutions = [m for m in model.modules() if isinstance(m, Convolution)]
    for convolution in convolutions:
        if convolution.quantiser.is_on:
            convolution.prepare_export()
    example = torch.zeros(2, *model.network.input_shape, dtype=torch.uint8)
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
    for convolution in convolutions:
        convolution.exported = None
    return program.model_proto.SerializeToString()
