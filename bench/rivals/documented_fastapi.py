"""FastAPI as its tutorial has it: an uploaded file in, a response model out.

    MODEL=../../model.bin uvicorn documented_fastapi:app --workers 2 --no-access-log

Sources: https://fastapi.tiangolo.com/tutorial/request-files/,
https://fastapi.tiangolo.com/tutorial/response-model/ and, for `async def` around what
computes and does not wait, https://fastapi.tiangolo.com/async/ (`def` was slower).
"""

from typing import Any

from fastapi import FastAPI, UploadFile
from network import classify, classify_images
from PIL import Image
from pydantic import BaseModel, Field

app = FastAPI()


class Prediction(BaseModel):
    """What is in one picture."""

    label: str = Field(alias="class")
    class_id: int
    probability: float
    probabilities: dict[str, float]


class Predictions(BaseModel):
    """What is in several."""

    predictions: list[Prediction]


@app.post("/predict")
async def predict(image: UploadFile) -> Prediction:
    """Classify one picture."""
    return Prediction.model_validate(classify(await image.read()))


@app.post("/batch")
async def batch(image: list[UploadFile]) -> Predictions:
    """Classify several in one pass."""
    found: list[dict[str, Any]] = classify_images(
        [Image.open(one.file) for one in image]
    )
    return Predictions.model_validate({"predictions": found})
