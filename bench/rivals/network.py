"""What every rival does with a picture: plain Pillow, the same graph, one thread.

    >>> classify(Path("static/pictures/ankle-boot.png").read_bytes())["class_id"]
    9

`MODEL` is the path of `model.bin`. Nothing is checked and no garment is segmented: a
picture gets the colours and the size of the model's input, if it has others.
"""

import io
import json
import os
import zipfile
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image, ImageOps

with zipfile.ZipFile(os.environ["MODEL"]) as archive:
    graph = archive.read("archive/model.onnx")
    facts = json.loads(archive.read("archive/model.json"))

classes, size = facts["classes"], (facts["input"]["size"],) * 2
mode = "L" if facts["input"]["channels"] == 1 else "RGB"

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(graph, options)


def classify(data: bytes) -> dict[str, Any]:
    """Classify one encoded picture."""
    return classify_images([Image.open(io.BytesIO(data))])[0]


def classify_images(images: list[Image.Image]) -> list[dict[str, Any]]:
    """Classify pictures in one pass."""
    probabilities = infer(np.stack([to_pixels(image) for image in images]))
    return [answer(row) for row in probabilities.tolist()]


def to_pixels(image: Image.Image) -> NDArray[np.uint8]:
    """Return a picture as an input of the network, of a large one the middle."""
    picture = image.convert(mode)
    return np.asarray(picture if picture.size == size else ImageOps.fit(picture, size))


def infer(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the probabilities [N, classes] of uint8 [N, *input_shape]."""
    found: NDArray[np.float32] = session.run(["probabilities"], {"pixels": pixels})[0]
    return found


def answer(row: list[float]) -> dict[str, Any]:
    """Return the answer for one picture, in the form of our service's."""
    class_id = row.index(max(row))
    return {
        "class": classes[class_id],
        "class_id": class_id,
        "probability": row[class_id],
        "probabilities": dict(zip(classes, row, strict=True)),
    }
