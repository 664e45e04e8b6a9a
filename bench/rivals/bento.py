"""BentoML: the raw picture in, a dictionary out.

    MODEL=../../model.bin bentoml serve bento:Fashion

Sources: https://docs.bentoml.com/en/latest/build-with-bentoml/iotypes.html (an image as
root input; as a form it was much the same), .../parallelize-requests.html (workers) and
.../observability/logging.html (the access log, which can be turned off).
"""

from typing import Annotated, Any

import bentoml
from bentoml.validators import ContentType
from PIL.Image import Image


@bentoml.service(workers=2, logging={"access": {"enabled": False}})
class Fashion:
    """One copy a worker."""

    def __init__(self) -> None:
        from network import classify_images  # noqa: PLC0415 - in the workers only

        self.classify_images = classify_images

    @bentoml.api(route="/predict")
    async def predict(
        self, image: Annotated[Image, ContentType("image/*")], /
    ) -> dict[str, Any]:
        """Classify one picture."""
        return self.classify_images([image])[0]
