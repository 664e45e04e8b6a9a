"""Read the ONNX graph of a classifier, and put further nodes before and after it.

Only `python -m model pack` imports it: `onnx` is a development package.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper

from model.artifact import MAX_ONNX_BYTES, ArtifactError
from model.classifier import session_options

PREFIX = "network/"  # of all names of the given graph, so that others are free
REDUCE_AXES_OPSET = 18  # since which the axes of ReduceMax are an input
MAX_BYTES = MAX_ONNX_BYTES - 1024**2  # so that what is added fits as well


class Input(NamedTuple):
    """The one input of a graph."""

    name: str
    elem_type: int  # of `onnx.TensorProto`
    shape: list[int | None]  # of one picture; None: any

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy type of its numbers."""
        return helper.tensor_dtype_to_np_dtype(self.elem_type)


def load(path: Path) -> ModelProto:
    """Load a graph with its weights, also from files beside it.

    Raises `ArtifactError` if it is none or too large, `OSError`.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"over {MAX_BYTES} bytes")
        model = onnx.load(path)
        if not model.graph.output:
            raise ValueError("no outputs")
        if model.ByteSize() > MAX_BYTES:
            raise ValueError(f"over {MAX_BYTES} bytes with its weights")
    except OSError:
        raise
    except Exception as error:  # protobuf's and onnx's exceptions share no base
        raise ArtifactError(f"{path} is not an ONNX file to use: {error}") from error
    return onnx.compose.add_prefix(model, PREFIX)


def input_of(model: ModelProto) -> Input:
    """Return the input. Raises `ArtifactError` if there is not exactly one tensor."""
    weights = {weight.name for weight in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise ArtifactError(f"the graph has {len(inputs)} inputs, not one")
    tensor = inputs[0].type.tensor_type
    shape = [dim.dim_value or None for dim in tensor.shape.dim]
    return Input(inputs[0].name, tensor.elem_type, shape[1:])


def remove_class_maps(model: ModelProto, classes: list[str]) -> None:
    """Output numbers where scikit-learn's graphs output `{class: probability}`.

    Raises `ArtifactError` if they have the classes in another order.
    """
    for output in model.graph.output:
        node = producer(model, output.name)
        if node is None or node.op_type != "ZipMap":
            continue
        names = [name.decode() for each in node.attribute for name in each.strings]
        if names != classes and sorted(names) == sorted(classes):
            raise ArtifactError(f"the graph orders the classes {' '.join(names)}")
        output.CopyFrom(helper.make_empty_tensor_value_info(node.input[0]))


def producer(model: ModelProto, name: str) -> NodeProto | None:
    """Return the node that computes a tensor, or the tensor that it copies."""
    node = next((node for node in model.graph.node if name in node.output), None)
    if node is not None and node.op_type == "Identity":
        return producer(model, node.input[0])
    return node


def keep_scores(model: ModelProto, picture: NDArray[Any], columns: set[int]) -> bool:
    """Keep one output, of so many `columns`; return whether it is known to be logits.

    It is what a softmax takes, or a sigmoid of one column, if that ends the graph.
    Raises `ArtifactError` if no output has such a shape.
    """
    answers = run(start(model), picture)
    shapes = {(1, column) for column in columns}
    fits = [answer.dtype.kind == "f" and answer.shape in shapes for answer in answers]
    if True not in fits:
        found = " and ".join(str(list(answer.shape)) for answer in answers)
        raise ArtifactError(f"the graph answers {found}, not [1, {max(columns)}]")
    index = fits.index(True)
    output = model.graph.output[index]
    node = producer(model, output.name)
    ends = {"Softmax", "Sigmoid"} if answers[index].size == 1 else {"Softmax"}
    is_end = node is not None and node.op_type in ends
    kept = helper.make_tensor_value_info(
        node.input[0] if node is not None and is_end else output.name,
        helper.np_dtype_to_tensor_dtype(answers[index].dtype),
        [None, answers[index].size],
    )
    del model.graph.output[:]
    model.graph.output.append(kept)
    return is_end


def start(model: ModelProto) -> onnxruntime.InferenceSession:
    """Return a session that runs a graph. Raises `ArtifactError`."""
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(),
            session_options(),
            providers=["CPUExecutionProvider"],
        )
    except Exception as error:  # ONNX Runtime's exceptions share no base
        raise ArtifactError(f"ONNX Runtime cannot load the graph: {error}") from error


def run(session: onnxruntime.InferenceSession, inputs: NDArray[Any]) -> list[Any]:
    """Return all outputs of a graph with one input. Raises `ArtifactError`."""
    name = session.get_inputs()[0].name
    try:
        return [np.asarray(value) for value in session.run(None, {name: inputs})]
    except Exception as error:
        raise ArtifactError(f"the graph does not run: {error}") from error


def opset_of(model: ModelProto) -> int:
    """Return the version of ONNX's own operators in a graph."""
    versions = (each.version for each in model.opset_import if not each.domain)
    return int(max(versions, default=1))


def surround(model: ModelProto, before: str, after: str) -> ModelProto:
    """Return the graph with nodes before and after it.

    They are graphs in ONNX's text format: the output of the first becomes its input,
    its output becomes the input of the second.
    """
    first, last = (
        onnx.parser.parse_model(
            f'<ir_version: {model.ir_version}, opset_import: ["": {opset_of(model)}]>'
            f" {text}"
        )
        for text in (before, after)
    )
    ends = [(first.graph.output[0].name, input_of(model).name)]
    merged = onnx.compose.merge_models(first, model, ends)
    ends = [(merged.graph.output[0].name, last.graph.input[0].name)]
    merged = onnx.compose.merge_models(merged, last, ends)
    del merged.graph.value_info[:]  # may state the number of pictures
    return merged


def reduce_max(model: ModelProto) -> str:
    """Return the node from [N, C] to [N] in text, as the graph's opset has it."""
    if opset_of(model) < REDUCE_AXES_OPSET:
        return "ReduceMax<axes=[1], keepdims=0>({})"
    return "ReduceMax<keepdims=0>({}, axes)"


def chain(start: str, end: str, steps: Sequence[str]) -> list[str]:
    """Return nodes in ONNX's text format, each with the one before it for `{}`."""
    names = [start, *(f"{end}_{index}" for index in range(1, len(steps))), end]
    return [
        f"{output} = {step.format(given)}"
        for step, (given, output) in zip(steps, pairwise(names), strict=True)
    ]


def to_text(ends: str, lines: list[str], numbers: dict[str, Sequence[float]]) -> str:
    """Return a graph in ONNX's text format, with those of the numbers that it uses."""
    constants = [
        f"{'int64' if isinstance(values[0], int) else 'float'}[{len(values)}] {name}"
        f" = {{{', '.join(map(str, values))}}}"
        for name, values in numbers.items()
        if any(f", {name})" in line for line in lines)
    ]
    nodes = "\n".join(lines)
    return f"added {ends} <{', '.join(constants)}> {{\n{nodes}\n}}"


def dims(shape: Sequence[int]) -> str:
    """Return the shape of a batch in ONNX's text format."""
    return f"[{', '.join(['pictures', *map(str, shape)])}]"
