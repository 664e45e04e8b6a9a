"""The smallest FastAPI service with the same graph: what ours is measured against.

Run by `python -m bench load` in an environment of its own:
    uvicorn rival:app --workers 2
"""

import io
import json
import os
import zipfile

import numpy as np
import onnxruntime
from fastapi import FastAPI, Request
from PIL import Image

with zipfile.ZipFile(os.environ["MODEL"]) as archive:
    graph = archive.read("archive/model.onnx")
    classes = json.loads(archive.read("archive/model.json"))["classes"]

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(graph, options)
app = FastAPI()


@app.get("/ping")
async def ping() -> str:
    """Tell that the service is up."""
    return "PONG"


@app.post("/predict")
async def predict(request: Request) -> dict[str, object]:
    """Classify the raw body, a 28x28 picture; nothing is checked."""
    pixels = np.asarray(Image.open(io.BytesIO(await request.body())).convert("L"))
    probabilities = session.run(["probabilities"], {"pixels": pixels[None]})[0][0]
    class_id = int(probabilities.argmax())
    return {
        "class": classes[class_id],
        "class_id": class_id,
        "probability": float(probabilities[class_id]),
        "probabilities": dict(zip(classes, probabilities.tolist(), strict=True)),
    }
