"""What every rival does with a picture: plain Pillow, the same graph, one thread.

    >>> classify(Path("static/pictures/ankle-boot.png").read_bytes())["class_id"]
    9

`MODEL` is the path of `model.bin`. Nothing is checked and no garment is
segmented: a picture is made grey, and 28x28 if it is not.
"""

import io
import json
import os
import zipfile
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

SIZE = (28, 28)

with zipfile.ZipFile(os.environ["MODEL"]) as archive:
    graph = archive.read("archive/model.onnx")
    classes = json.loads(archive.read("archive/model.json"))["classes"]

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
    """Return a picture in grey and 28x28."""
    grey = image.convert("L")
    return np.asarray(grey if grey.size == SIZE else grey.resize(SIZE))


def infer(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the probabilities [N, 10] of uint8 [N, 28, 28]."""
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
