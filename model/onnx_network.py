"""How the graph of another framework takes pictures, and what it answers.

Normalisation, the order of numbers and a softmax are nodes that are put around it.
"""

import argparse
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model import onnx_graph
from model.artifact import ArtifactError
from model.images import Pixels
from model.preprocessing import Preprocessing

Floats = NDArray[np.float32]

MIN_PROBABILITY = 1e-7  # of which a logarithm is taken
SUM_TOLERANCE = 0.01  # of the probabilities of a picture
# two classes by the logit or the probability of the second: factors, then offsets
ONE_LOGIT = [-0.5, 0.5], [0.0, 0.0]
ONE_PROBABILITY = [-1.0, 1.0], [1.0, 0.0]


class Scale(NamedTuple):
    """From levels of 0 to 255 to the numbers that a network was trained on."""

    mean: Sequence[float] = (0,)  # subtracted first; one number, or one a channel
    std: Sequence[float] = (1,)  # divided by
    is_bgr: bool = False  # in the order blue, green, red


SCALES = {
    "0..255": Scale(),
    "0..1": Scale(std=[255]),
    "-1..1": Scale([127.5], [127.5]),
    "imagenet": Scale([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
    "caffe": Scale([103.939, 116.779, 123.68], is_bgr=True),
}


class Layout(NamedTuple):
    """How a graph takes the numbers of a picture."""

    is_channels_first: bool
    shape: tuple[int, ...]  # of one picture


class Scores(NamedTuple):
    """What a graph answers."""

    are_logits: bool  # else probabilities
    columns: int  # 1: of the second of two classes


class Network:
    """The given graph, run one picture at a time, and its parts of the new graph.

    `feed` and `to_logits` compute in NumPy what `before` and `after` have as nodes.
    """

    def __init__(self, options: argparse.Namespace, spec: Preprocessing) -> None:
        """Load the graph. Raises `ArtifactError`, `OSError`."""
        self.model = onnx_graph.load(options.onnx)
        self.count = len(options.classes)
        onnx_graph.remove_class_maps(self.model, options.classes)
        self.input = onnx_graph.input_of(self.model)
        self.spec, self.scale = spec, choose_scale(options, spec.channels)
        self.layout = choose_layout(self.input.shape, spec, options.layout)
        blank = np.zeros((1, *spec.input_shape), np.uint8)
        columns = {self.count, 1} if self.count == 2 else {self.count}  # noqa: PLR2004
        are_logits = onnx_graph.keep_scores(self.model, self.feed(blank), columns)
        self.session = onnx_graph.start(self.model)
        self.scores = Scores(are_logits, self.run(blank).shape[1])

    def feed(self, pixels: Pixels) -> NDArray[Any]:
        """Turn uint8 [N, *input_shape] into what the given graph takes."""
        values: NDArray[Any] = pixels[..., ::-1] if self.scale.is_bgr else pixels
        values = values.astype(np.float32) - np.array(self.scale.mean, np.float32)
        values /= np.array(self.scale.std, np.float32)
        if self.layout.is_channels_first:
            values = values.transpose(0, 3, 1, 2)
        return values.reshape(-1, *self.layout.shape).astype(self.input.dtype)

    def run(self, pixels: Pixels) -> Floats:
        """Compute its answers, float32 [N, columns], one picture at a time."""
        rows = [onnx_graph.run(self.session, self.feed(each[None])) for each in pixels]
        return np.concatenate([row[0] for row in rows]).astype(np.float32)

    def find_kind(self, pixels: Pixels, wanted: str | None) -> None:
        """Find out by pictures whether it answers logits. Raises `ArtifactError`."""
        values = self.run(pixels)
        if not np.isfinite(values).all():
            raise ArtifactError("the graph answers numbers that are not finite")
        if self.scores.are_logits:
            return
        sums = values.sum(1) if self.scores.columns > 1 else np.ones(len(values))
        are_shares = values.min() >= 0 and values.max() <= 1 + SUM_TOLERANCE
        are_probabilities = are_shares and abs(sums - 1).max() < SUM_TOLERANCE
        if not are_probabilities and wanted == "probabilities":
            raise ArtifactError("the graph's answers are no probabilities: sum to 1")
        if are_shares and not are_probabilities and wanted is None:
            raise ArtifactError("the graph's answers of 0 to 1 do not sum to 1")
        self.scores = Scores(
            wanted == "logits" or not are_probabilities, self.scores.columns
        )

    def to_logits(self, values: Floats) -> Floats:
        """Turn answers [N, columns] into float32 logits [N, classes]."""
        if self.scores.columns == 1:
            factors, offsets = ONE_LOGIT if self.scores.are_logits else ONE_PROBABILITY
            values = values * np.array(factors, np.float32)
            values += np.array(offsets, np.float32)
        if self.scores.are_logits:
            return values
        return np.log(np.maximum(values, np.float32(MIN_PROBABILITY)))

    def to_onnx(self, temperature: float, *, has_score: bool) -> bytes:
        """Return the graph that is served."""
        after = self.after(temperature, has_score=has_score)
        model = onnx_graph.surround(self.model, self.before(), after)
        return bytes(model.SerializeToString())

    def before(self) -> str:
        """Return the nodes from `pixels` to what the given graph takes."""
        is_bgr, is_channels_first = self.scale.is_bgr, self.layout.is_channels_first
        steps = [
            "Cast<to=1>({})",
            *(["Gather<axis=3>({}, order)"] if is_bgr else []),
            "Sub({}, mean)",
            "Div({}, std)",
            *(["Transpose<perm=[0,3,1,2]>({})"] if is_channels_first else []),
            "Reshape({}, shape)",
            f"Cast<to={self.input.elem_type}>({{}})",
        ]
        numbers: dict[str, Sequence[float]] = {
            "order": [2, 1, 0],
            "mean": self.scale.mean,
            "std": self.scale.std,
            "shape": [-1, *self.layout.shape],
        }
        ends = (
            f"(uint8{onnx_graph.dims(self.spec.input_shape)} pixels)"
            f" => (float{onnx_graph.dims(self.layout.shape)} ready)"
        )
        return onnx_graph.to_text(
            ends, onnx_graph.chain("pixels", "ready", steps), numbers
        )

    def after(self, temperature: float, *, has_score: bool) -> str:
        """Return the nodes from what the given graph answers to the outputs served."""
        is_one, are_logits = self.scores.columns == 1, self.scores.are_logits
        factors, offsets = ONE_LOGIT if are_logits else ONE_PROBABILITY
        to_logits = [
            "Cast<to=1>({})",
            *(["Mul({}, factors)", "Add({}, offsets)"] if is_one else []),
            *([] if are_logits else ["Max({}, least)", "Log({})"]),
        ]
        lines = onnx_graph.chain("scores", "logits", to_logits)
        lines += onnx_graph.chain(
            "logits", "probabilities", ["Div({}, temperature)", "Softmax<axis=1>({})"]
        )
        if has_score:
            highest = onnx_graph.reduce_max(self.model)
            lines += onnx_graph.chain("logits", "unknown_score", [highest, "Neg({})"])
        score = ", float[pictures] unknown_score" if has_score else ""
        ends = (
            f"(float{onnx_graph.dims([self.scores.columns])} scores)"
            f" => (float{onnx_graph.dims([self.count])} probabilities{score})"
        )
        numbers: dict[str, Sequence[float]] = {
            "factors": factors,
            "offsets": offsets,
            "least": [MIN_PROBABILITY],
            "temperature": [temperature],
            "axes": [1],
        }
        return onnx_graph.to_text(ends, lines, numbers)


def choose_scale(options: argparse.Namespace, channels: int) -> Scale:
    """Return the named scale, followed by `--mean` and `--std`."""
    if options.scale not in SCALES:
        raise ArtifactError(f"no scale {options.scale!r}: {', '.join(SCALES)}")
    named = SCALES[options.scale]
    mean, std = np.array(options.mean or [0.0]), np.array(options.std or [1.0])
    widths = {len(each) for each in (named.mean, named.std, mean, std)}
    if not widths <= {1, channels} or (named.is_bgr and channels == 1):
        raise ArtifactError(
            f"--scale {options.scale}, --mean and --std are for {max(widths)} channels,"
            f" the pictures have {channels}"
        )
    if not all(np.isfinite(each).all() for each in (mean, std)) or not std.all():
        raise ArtifactError("--mean and --std must be finite, and --std not 0")
    mean = named.mean + mean * named.std
    return named._replace(mean=mean.tolist(), std=(std * named.std).tolist())


def choose_layout(
    found: Sequence[int | None], spec: Preprocessing, wanted: str | None
) -> Layout:
    """Return the one layout of a picture's numbers that fits the shape of an input."""
    size, channels = spec.size, spec.channels
    shapes = {"nhwc": (size, size, channels), "nchw": (channels, size, size)}
    flat = (math.prod(spec.input_shape),)
    layouts = {
        Layout(name == "nchw" and channels > 1, shape)
        for name in ([wanted] if wanted else shapes)
        for shape in {shapes[name], flat, *([(size, size)] if channels == 1 else [])}
        if len(shape) == len(found)
        and all(known in (None, side) for known, side in zip(found, shape, strict=True))
    }
    if not layouts:
        taken = str(["N", *(side or "any" for side in found)]).replace("'", "")
        picture = f"{size} x {size} in {'grey' if channels == 1 else 'colour'}"
        raise ArtifactError(f"the graph takes {taken}, not pictures of {picture}")
    if len(layouts) > 1:
        raise ArtifactError("the graph fits both --layout nhwc and --layout nchw")
    return layouts.pop()
