"""Ray Serve: the raw body in, a dictionary out.

    RAY_SERVE_ENABLE_HA_PROXY=1 RAY_SERVE_THROUGHPUT_OPTIMIZED=1 \
        MODEL=../../model.bin python ray_serve.py PORT [--batches]

Sources: https://docs.ray.io/en/latest/serve/http-guide.html and, for the variables,
https://docs.ray.io/en/master/kuberay/user-guides/serve-high-throughput.html: without
them it served 126 requests a second, with them 1,400 (8 connections, single tries).
For batches https://docs.ray.io/en/latest/serve/advanced-guides/dyn-req-batch.html.
"""

import io
import sys
from typing import Any

import ray
from PIL import Image
from ray import serve
from ray.serve.schema import LoggingConfig
from starlette.requests import Request

QUIET = LoggingConfig(enable_access_log=False)


@serve.deployment(num_replicas=2, max_ongoing_requests=100, logging_config=QUIET)
class Fashion:
    """One copy a replica, each with a core."""

    def __init__(self) -> None:
        from network import classify  # noqa: PLC0415 - in the replicas only

        self.classify = classify

    async def __call__(self, request: Request) -> dict[str, Any]:
        """Classify the body."""
        return self.classify(await request.body())


@serve.deployment(num_replicas=2, max_ongoing_requests=100, logging_config=QUIET)
class Batching:
    """The same for requests that come together."""

    def __init__(self) -> None:
        from network import classify_images  # noqa: PLC0415 - in the replicas only

        self.classify_images = classify_images

    async def __call__(self, request: Request) -> dict[str, Any]:
        """Classify the body."""
        found: dict[str, Any] = await self.classify(await request.body())
        return found

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.0)
    async def classify(self, bodies: list[bytes]) -> list[dict[str, Any]]:
        """Classify pictures in one pass."""
        return self.classify_images([Image.open(io.BytesIO(body)) for body in bodies])


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False)
    serve.start(
        http_options={"host": "127.0.0.1", "port": int(sys.argv[1])},
        logging_config=QUIET,
    )
    chosen = Batching if "--batches" in sys.argv else Fashion
    application = chosen.bind()  # type: ignore[union-attr]
    serve.run(application, route_prefix="/predict", blocking=True)
