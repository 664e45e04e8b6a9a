"""Flask as a first tutorial leaves it: eager PyTorch behind the development server.

    MODEL=../../model.bin flask --app naive_flask run

The parts of https://docs.pytorch.org/tutorials/intermediate/flask_rest_api_tutorial.html:
load, transform, predict, answer. Everything else is the default.
"""

import os
from typing import Any

import numpy as np
import torch
from flask import Flask, request
from PIL import Image

from model.network import CNN

app = Flask(__name__)
checkpoint = torch.load(os.environ["MODEL"], weights_only=True)
model = CNN(**checkpoint["arguments"] | {"quantised": False})  # plain floats
model.load_state_dict(checkpoint["state_dict"])
model.eval()


@app.post("/predict")
def predict() -> dict[str, Any]:
    """Classify one uploaded picture."""
    image = Image.open(request.files["image"].stream).convert("L").resize((28, 28))
    with torch.no_grad():
        logits = model(torch.from_numpy(np.array(image))[None])[0, :-1]
    probabilities = logits.softmax(0)
    class_id = int(probabilities.argmax())
    return {
        "class": checkpoint["classes"][class_id],
        "class_id": class_id,
        "probability": probabilities[class_id].item(),
        "probabilities": dict(
            zip(checkpoint["classes"], probabilities.tolist(), strict=True)
        ),
    }
