"""MLServer: pixels as JSON in and out, by the Open Inference Protocol V2.

    MODEL=../../model.bin MLSERVER_MODEL_NAME=fashion \
        MLSERVER_MODEL_IMPLEMENTATION=ml_server.Fashion mlserver start .

Sources: https://docs.seldon.ai/mlserver/user-guide/custom and
https://docs.seldon.ai/mlserver/user-guide/parallel-inference. By itself it hands work
to a pool of processes; with MLSERVER_PARALLEL_WORKERS=0 one process does it all. With
MLSERVER_MODEL_MAX_BATCH_SIZE and _TIME requests share a pass (.../adaptive-batching).
"""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Fashion(MLModel):
    """One copy a process."""

    async def load(self) -> bool:
        """Load the network."""
        from network import infer  # noqa: PLC0415 - in the workers only

        self.infer = infer
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Classify uint8 [N, 28, 28]."""
        pixels = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        probabilities = self.infer(pixels)
        found = {
            "probabilities": probabilities,
            "class_id": probabilities.argmax(1),
        }
        return InferenceResponse(
            model_name=self.name,
            outputs=[NumpyCodec.encode_output(*output) for output in found.items()],
        )
