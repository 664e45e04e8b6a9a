"""28x28 pixels to a prediction, with ONNX Runtime.

>>> classifier = Classifier(artifact.load("model.bin"))
>>> classifier.classify(pixels[None])[0].label
'Ankle boot'
"""

import math
import os
from typing import NamedTuple

# a compute thread a worker; read as NumPy is imported
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
import numpy as np
from numpy.typing import NDArray

from model.artifact import Artifact, ArtifactError
from model.images import Pixels
from model.preprocessing import from_facts

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it would write a device id
import onnxruntime

DECIMALS = 6  # of probabilities and scores, rounded here and nowhere else
OUTPUTS = ["probabilities", "unknown_score"]
ACTIVATION = "class_activation"  # asked for only to explain: the others cost less


class Prediction(NamedTuple):
    """What the network says of one picture."""

    label: str
    class_id: int
    probabilities: dict[str, float]  # calibrated, by class name
    unknown_score: float  # higher is stranger
    unknown_threshold: float  # above it, a picture is of none of the classes
    # if asked to explain
    pixels: list[list[int]] | None = None  # what the network saw
    activation: list[list[float]] | None = None  # where it saw the class

    @property
    def is_unknown(self) -> bool:
        """Tell whether the picture is of none of the classes."""
        return self.unknown_score > self.unknown_threshold

    @property
    def probability(self) -> float:
        """The probability of the predicted class."""
        return self.probabilities[self.label]


class Classifier:
    """A model ready to answer: one compute thread, warmed by a first pass."""

    def __init__(self, artifact: Artifact) -> None:
        """Build and warm the network. Raises `ArtifactError` if it does not run."""
        try:
            self.name: str = artifact.facts["name"]
            self.version: str = artifact.facts["version"]
            self.classes: list[str] = artifact.facts["classes"]
            self.preprocessing = from_facts(artifact.facts)
            self.unknown_threshold: float = artifact.facts["unknown_threshold"]
            if not math.isfinite(self.unknown_threshold):
                raise ValueError("its unknown threshold is not finite")
            self._session = onnxruntime.InferenceSession(
                artifact.onnx, session_options(), providers=["CPUExecutionProvider"]
            )
            self.classify(np.zeros((1, *self.input_shape), np.uint8), explain=True)
        except Exception as error:  # its own exceptions share no base
            raise ArtifactError(f"the model does not run: {error}") from error

    @property
    def input_shape(self) -> tuple[int, ...]:
        """[size, size] of a model for grey pictures, or [size, size, 3]."""
        return self.preprocessing.input_shape

    @property
    def size(self) -> int:
        """Pixels of both sides of the input."""
        return self.preprocessing.size

    @property
    def channels(self) -> int:
        """1: grey; or 3: red, green and blue."""
        return self.preprocessing.channels

    def to_pixels(self, data: bytes) -> Pixels:
        """Turn an encoded picture into uint8 `input_shape`. Raises `ImageError`."""
        return self.preprocessing.to_pixels(data)

    def classify(
        self, pixels: NDArray[np.uint8], *, explain: bool = False
    ) -> list[Prediction]:
        """Classify uint8 [N, 28, 28], object bright on black, in one pass.

        With `explain` each prediction also holds the class activation (Zhou et al.,
        arXiv 1512.04150): how much each part of the picture speaks for its class.
        """
        outputs = [*OUTPUTS, ACTIVATION] if explain else OUTPUTS
        probabilities, scores, *maps = self._session.run(outputs, {"pixels": pixels})
        rows = zip(probabilities.tolist(), scores.tolist(), strict=True)
        predictions = [self._predict(row, score) for row, score in rows]
        if not explain:
            return predictions
        return [
            prediction._replace(
                pixels=seen.tolist(),
                activation=rounded(activation[prediction.class_id]),
            )
            for prediction, seen, activation in zip(
                predictions, pixels, maps[0], strict=True
            )
        ]

    def _predict(self, row: list[float], score: float) -> Prediction:
        """Round and name what the network said of one picture."""
        class_id = row.index(max(row))
        rounded = [round(probability, DECIMALS) for probability in row]
        return Prediction(
            label=self.classes[class_id],
            class_id=class_id,
            probabilities=dict(zip(self.classes, rounded, strict=True)),
            unknown_score=round(score, DECIMALS),
            unknown_threshold=self.unknown_threshold,
        )


def rounded(values: NDArray[np.float32]) -> list[list[float]]:
    """Round in double precision: in single, 0.1 would print as 0.10000000149."""
    rows: list[list[float]] = values.astype(np.float64).round(DECIMALS).tolist()
    return rows


def session_options() -> onnxruntime.SessionOptions:
    """One thread a worker: more workers, not more threads, use more cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors; warnings are for whoever exports
    return options
