"""LitServe: base64 in JSON in, a dictionary out.

    MODEL=../../model.bin python lit_serve.py PORT [--batches]

Sources: https://lightning.ai/docs/litserve/speed-up-serving-by-200x (an image as
base64; as a form it served fewer, with 8 connections), https://lightning.ai/docs/litserve/api-reference/litserver
(`workers_per_device` as many as cores, `fast_queue` for over 100 requests a second),
https://lightning.ai/docs/litserve/features/batching.
"""

import base64
import io
import sys
from typing import Any

import litserve
from PIL import Image


class FashionAPI(litserve.LitAPI):
    """One copy a worker."""

    def setup(self, device: str) -> None:
        """Load the network in the worker."""
        from network import classify  # noqa: PLC0415 - not in the servers of HTTP

        self.classify = classify

    def decode_request(self, request: dict[str, Any]) -> bytes:
        """Take the picture out of the request."""
        return base64.b64decode(request["image"])

    def predict(self, data: bytes) -> dict[str, Any]:
        """Classify one picture."""
        return self.classify(data)

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """Answer with it as it is."""
        return output


class BatchingAPI(litserve.LitAPI):
    """The same for requests that come together."""

    def setup(self, device: str) -> None:
        """Load the network in the worker."""
        from network import classify_images  # noqa: PLC0415 - not in the servers

        self.classify_images = classify_images

    def decode_request(self, request: dict[str, Any]) -> Image.Image:
        """Take the picture out of the request."""
        return Image.open(io.BytesIO(base64.b64decode(request["image"])))

    def batch(self, inputs: list[Image.Image]) -> list[Image.Image]:
        """Leave pictures as they are."""
        return list(inputs)

    def predict(self, images: list[Image.Image]) -> list[dict[str, Any]]:
        """Classify pictures in one pass."""
        return self.classify_images(images)

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Leave answers as they are."""
        return output


if __name__ == "__main__":
    if "--batches" in sys.argv:
        api = BatchingAPI(api_path="/predict", max_batch_size=16, batch_timeout=0)
    else:
        api = FashionAPI(api_path="/predict")
    server = litserve.LitServer(
        api,
        accelerator="cpu",
        workers_per_device=2,
        fast_queue=True,
    )
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )
