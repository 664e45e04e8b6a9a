"""A small colour model that knows three classes by the colour that prevails.

    python tests/colour_model.py FILE       write it to try the service by hand

Its names are awkward on purpose, and none of Fashion-MNIST's.
"""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from model import artifact
from model.artifact import Artifact, Sample

NAME = "ants & bees"
SIZE, CELL = 64, 8  # pixels of the input and of a cell of the class activation
CLASSES = ['ant "red"', "<b>bee</b>", "l'été 蜂"]  # red, green and blue
COLOURS = {"red": (255, 20, 0), "green": (20, 255, 0), "blue": (0, 20, 255)}
GREY = (128, 128, 128)
THRESHOLD = -1.0
CONTRAST = 0.05  # of a logit to a level


def picture(colour: tuple[int, int, int], side: int = 90, form: str = "PNG") -> bytes:
    """Return an encoded picture of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side + 10), colour).save(buffer, form)
    return buffer.getvalue()


def build_graph(*, is_complete: bool = True, size: int = SIZE) -> bytes:
    """Return an ONNX graph; without unknown score and activation if not complete."""
    node = helper.make_node
    nodes = [
        node("Cast", ["pixels"], ["levels"], to=TensorProto.FLOAT),
        node("Transpose", ["levels"], ["channels"], perm=[0, 3, 1, 2]),
        node("Mul", ["channels", "contrast"], ["scaled"]),
        node(
            "AveragePool",
            ["scaled"],
            ["class_activation"],
            kernel_shape=[CELL, CELL],
            strides=[CELL, CELL],
        ),
        node("ReduceMean", ["class_activation"], ["logits"], axes=[2, 3], keepdims=0),
        node("Softmax", ["logits"], ["probabilities"], axis=1),
        node("ReduceMax", ["logits"], ["highest"], axes=[1], keepdims=0),
        node("ReduceMean", ["logits"], ["mean"], axes=[1], keepdims=0),
        node("Sub", ["mean", "highest"], ["unknown_score"]),
    ]
    shapes: dict[str, list[Any]] = {"probabilities": ["N", len(CLASSES)]}
    if is_complete:
        cells = size // CELL
        shapes["unknown_score"] = ["N"]
        shapes["class_activation"] = ["N", len(CLASSES), cells, cells]
    value, uint8 = helper.make_tensor_value_info, TensorProto.UINT8
    graph = helper.make_graph(
        nodes,
        "colours",
        [value("pixels", uint8, ["N", size, size, 3])],
        [value(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [numpy_helper.from_array(np.array(CONTRAST, np.float32), "contrast")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def build_model(*, is_complete: bool = True) -> Artifact:
    """Return a model; one that refuses and explains nothing if not complete."""
    facts: dict[str, Any] = {
        "name": NAME,
        "classes": CLASSES,
        "input": {"size": SIZE, "channels": 3},
        "preprocessing": {"name": "square", "draft_side": 2 * SIZE},
        "unknown_threshold": THRESHOLD if is_complete else None,
    }
    samples = tuple(
        Sample(
            file=f"{name}.png",
            label=label,
            probability=1.0,
            unknown_score=-8.0 if is_complete else None,
            picture=picture(COLOURS[name], SIZE),
        )
        for name, label in zip(COLOURS, CLASSES, strict=True)
    )
    model = Artifact(build_graph(is_complete=is_complete), facts, samples)
    facts["version"] = artifact.version(model)
    return model


def write(path: Path, *, is_complete: bool = True) -> None:
    """Write the model to a file."""
    artifact.write(path, {}, build_model(is_complete=is_complete))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
