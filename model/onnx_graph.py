"""The ONNX graph of another framework's classifier, and the nodes put around it.

Only `python -m model pack` imports it: `onnx` is a development package.
"""

import argparse
import math
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, ValueInfoProto, helper

from model.artifact import ArtifactError
from model.classifier import session_options
from model.images import WHITE, Pixels
from model.preprocessing import Preprocessing

Floats = NDArray[np.float32]

PREFIX = "network/"  # of all names of the given graph, so that others are free
ENDS = {"Identity", "Softmax", "ZipMap"}  # nodes that may follow the scores
MIN_PROBABILITY = 1e-7  # of which a logarithm is taken
SUM_TOLERANCE = 0.01  # of the probabilities of a picture
# mean and standard deviation of levels from 0 to 1, one number or one a channel
SCALES: dict[str, tuple[list[float], list[float]]] = {
    "0..255": ([0], [1 / WHITE]),
    "0..1": ([0], [1]),
    "-1..1": ([0.5], [0.5]),
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
}


class Network:
    """The given graph: run as it is, or with preprocessing and softmax as nodes."""

    def __init__(
        self, options: argparse.Namespace, spec: Preprocessing, pixels: Pixels
    ) -> None:
        """Load it, and try it on pictures, uint8 [N, *input_shape].

        Raises `ArtifactError` with what does not fit.
        """
        mean, std = SCALES[options.scale]
        numbers = options.mean or mean, options.std or std
        if not {len(each) for each in numbers} <= {1, spec.channels}:
            raise ArtifactError("--scale, --mean and --std need a number a channel")
        if not np.isfinite([*numbers[0], *numbers[1]]).all() or 0 in numbers[1]:
            raise ArtifactError("--mean and --std must be finite, and --std not 0")
        self.mean, self.std = (WHITE * np.array(each, np.float32) for each in numbers)
        self.spec, self.classes = spec, options.classes
        self.model, self.input = load(options.onnx)
        tensor = self.input.type.tensor_type
        self.dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        self.shape = choose_shape([dim.dim_value for dim in tensor.shape.dim[1:]], spec)
        is_channels_first = self.shape[0] == spec.channels == 3  # noqa: PLR2004
        self.order = [0, 3, 1, 2] if is_channels_first else [*range(pixels.ndim)]
        ends = trace_outputs(self.model, self.classes)
        two = {self.input.name: self.feed(pixels[[0, 0]])}
        self.session, self.scores = start(self.model, two, (2, len(self.classes)))
        scores = self.run(pixels)
        if not np.isfinite(scores).all():
            raise ArtifactError("the graph answers numbers that are not finite")
        self.are_logits = ends[self.scores] or are_logits(scores)

    def feed(self, pixels: Pixels) -> NDArray[Any]:
        """Turn uint8 [N, *input_shape] into what the given graph takes."""
        values = (pixels.astype(np.float32) - self.mean) / self.std
        return values.transpose(self.order).reshape(-1, *self.shape).astype(self.dtype)

    def run(self, pixels: Pixels) -> Floats:
        """Compute its scores, float32 [N, classes], one picture at a time."""
        inputs = [{self.input.name: self.feed(each[None])} for each in pixels]
        rows = [self.session.run([self.scores], each)[0] for each in inputs]
        return np.concatenate(rows).astype(np.float32)

    def logits(self, pixels: Pixels) -> Floats:
        """Compute logits, or logarithms of probabilities, float32 [N, classes]."""
        scores = self.run(pixels)
        return (
            scores if self.are_logits else np.log(np.maximum(scores, MIN_PROBABILITY))
        )

    def to_onnx(self, temperature: float, *, has_score: bool) -> bytes:
        """Return the graph that is served."""
        served, added = ModelProto(), self.added_nodes(temperature)
        middle = 1 + [node.output[0] for node in added.node].index("fed")
        before, after = added.node[:middle], added.node[middle:]
        before[-1].output[0], after[0].input[0] = self.input.name, self.scores
        if not has_score:
            del added.output[1:], after[-5:]
        served.CopyFrom(self.model)
        del served.graph.node[:], served.graph.output[:]
        served.graph.node.extend([*before, *self.model.graph.node, *after])
        served.graph.input.remove(self.input)
        served.graph.input.append(added.input[0])
        served.graph.output.extend(added.output)
        return bytes(served.SerializeToString())

    def added_nodes(self, temperature: float) -> GraphProto:
        """Return the nodes from `pixels` to the given graph, and from its scores on."""
        batch = f"float[pictures, {len(self.classes)}]"
        sides = ", ".join(map(str, self.spec.input_shape))
        return onnx.parser.parse_graph(f"""
            added (uint8[pictures, {sides}] pixels, {batch} scores)
            => ({batch} probabilities, float[pictures] unknown_score) {{
                levels = Cast<to=1>(pixels)
                {constant("mean", self.mean.tolist())}
                centred = Sub(levels, mean)
                {constant("std", self.std.tolist())}
                scaled = Div(centred, std)
                ordered = Transpose<perm={self.order}>(scaled)
                {constant("shape", [-1, *self.shape])}
                shaped = Reshape(ordered, shape)
                fed = Cast<to={self.input.type.tensor_type.elem_type}>(shaped)

                values = Cast<to=1>(scores)
                {constant("least", [MIN_PROBABILITY])}
                positive = Max(values, least)
                logits = {"Identity(values)" if self.are_logits else "Log(positive)"}
                {constant("temperature", [temperature])}
                divided = Div(logits, temperature)
                probabilities = Softmax<axis=1>(divided)

                {constant("one", [1])}
                top, place = TopK(logits, one)
                {constant("flat", [-1])}
                highest = Reshape(top, flat)
                unknown_score = Neg(highest)
            }}""")


def constant(name: str, values: Sequence[float]) -> str:
    """Return a node with numbers in ONNX's text format."""
    kind = "int64" if isinstance(values[0], int) else "float"
    numbers = ", ".join(map(str, values))
    return f"{name} = Constant<value = {kind}[{len(values)}] {{{numbers}}}>()"


def load(path: Path) -> tuple[ModelProto, ValueInfoProto]:
    """Return a graph with its weights, and its input for any number of pictures.

    Raises `ArtifactError` if it is no graph with one input.
    """
    try:
        model = onnx.compose.add_prefix(onnx.load(path), PREFIX)
    except Exception as error:  # protobuf's and onnx's exceptions share no base
        raise ArtifactError(f"{path} is not an ONNX file to use: {error}") from error
    weights = {weight.name for weight in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1 or not inputs[0].type.tensor_type.shape.dim:
        raise ArtifactError(f"{path} has {len(inputs)} inputs, not one of pictures")
    inputs[0].type.tensor_type.shape.dim[0].dim_param = "pictures"
    del model.graph.value_info[:]  # may state the number of pictures
    return model, inputs[0]


def choose_shape(given: list[int], spec: Preprocessing) -> tuple[int, ...]:
    """Return the shape of a picture that fits the sides of an input; 0 fits any."""
    size, channels = spec.size, spec.channels
    flat = (math.prod(spec.input_shape),)
    for shape in (size, size, channels), (channels, size, size), flat, spec.input_shape:
        sides = zip_longest(given, shape, fillvalue=-1)
        if tuple(known or side for known, side in sides) == shape:
            return shape
    wanted = "x".join(map(str, spec.input_shape))
    raise ArtifactError(f"the graph takes {given} (0: any), not pictures of {wanted}")


def trace_outputs(model: ModelProto, classes: list[str]) -> dict[str, bool]:
    """Output what a softmax or a map of classes at the end of the graph is made of.

    Returns for each output whether a softmax made it: whether it is logits.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    found = {}
    for output in model.graph.output:
        name, kind = output.name, ""
        while kind != "Softmax" and name in makers and makers[name].op_type in ENDS:
            kind, node = makers[name].op_type, makers[name]
            order = [word.decode() for each in node.attribute for word in each.strings]
            if order != classes and sorted(order) == sorted(classes):
                raise ArtifactError(f"the graph orders the classes {' '.join(order)}")
            name = node.input[0]
        sides = [dim.dim_value for dim in output.type.tensor_type.shape.dim]
        is_one = sides[1:] == [1] and name in makers
        if is_one and makers[name].op_type == "Sigmoid":
            name, kind = add_first_class(model, makers[name].input[0]), "Softmax"
        found[name] = kind == "Softmax"
    del model.graph.output[:]
    model.graph.output.extend(map(helper.make_empty_tensor_value_info, found))
    return found


def add_first_class(model: ModelProto, logit: str) -> str:
    """Put the logit of the first of two classes, 0, before that of the second.

    Returns the name of both, which a softmax turns into what a sigmoid made of one.
    """
    zero, both = f"{PREFIX}first", f"{PREFIX}both"
    model.graph.node.append(helper.make_node("Sub", [logit, logit], [zero]))
    model.graph.node.append(helper.make_node("Concat", [zero, logit], [both], axis=1))
    return both


def start(
    model: ModelProto, inputs: dict[str, NDArray[Any]], shape: tuple[int, int]
) -> tuple[onnxruntime.InferenceSession, str]:
    """Return a session, and the name of the output that has a shape."""
    providers = ["CPUExecutionProvider"]
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), session_options(), providers=providers
        )
        shapes = [np.shape(answer) for answer in session.run(None, inputs)]
    except Exception as error:  # ONNX Runtime's exceptions share no base
        fault = "the graph does not run with two pictures: export it for any number"
        raise ArtifactError(f"{fault} ({error})") from error
    if shape not in shapes:
        found = " and ".join(map(str, shapes))
        raise ArtifactError(f"the graph answers {found} for two pictures, not {shape}")
    return session, model.graph.output[shapes.index(shape)].name


def are_logits(scores: Floats) -> bool:
    """Return whether scores are no probabilities. Raises `ArtifactError` if unclear."""
    if scores.min() < 0 or scores.max() > 1 + SUM_TOLERANCE:
        return True
    if abs(scores.sum(1) - 1).max() > SUM_TOLERANCE:
        raise ArtifactError("the graph's answers of 0 to 1 do not sum to 1 a picture")
    return False
