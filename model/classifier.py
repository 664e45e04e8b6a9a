"""Pictures to predictions, with ONNX Runtime.

>>> classifier = Classifier(artifact.load("model.bin"))
>>> classifier.classify(classifier.to_pixels(data)[None])[0].label
'Ankle boot'
"""

import io
import math
import os
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

# a compute thread a worker; read as NumPy is imported
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.artifact import Artifact, ArtifactError, Facts, Sample, fault_of
from model.images import Pixels
from model.preprocessing import from_facts

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it would write a device id
import onnxruntime

DECIMALS = 6  # of probabilities and scores, rounded here and nowhere else
OUTPUTS = ["probabilities", "unknown_score"]
PROBABILITIES, SCORE = OUTPUTS
ACTIVATION = "class_activation"  # computed only to explain: the others cost less
# a graph may have no unknown score and no activation
PASS_BYTES = 256 * 1024  # of input in one pass, which bounds the memory it takes
PASS_PICTURES = 64  # in one pass; more are not faster
TIMED_PASSES = 5  # of which the fastest counts
TOLERANCE = 0.05  # of a sample's probability: processors round differently
TRIAL_SIZE = 60, 80  # pixels, of a generated picture: no finished input


class Prediction(NamedTuple):
    """What the network answers for one picture."""

    label: str
    class_id: int
    probabilities: dict[str, float]  # calibrated, by class name
    # both None if the model has no unknown score: no picture is unknown
    unknown_score: float | None  # higher is less like any class
    unknown_threshold: float | None  # above it, a picture is of none of the classes
    # if asked to explain
    pixels: list[Any] | None = None  # the input array
    activation: list[list[float]] | None = None  # [h, w]; None if the model has none

    @property
    def is_unknown(self) -> bool:
        """Return whether the picture is of none of the classes."""
        return exceeds(self.unknown_score, self.unknown_threshold)

    @property
    def probability(self) -> float:
        """The probability of the predicted class."""
        return self.probabilities[self.label]


class Classifier:
    """A model ready to answer: one compute thread, tried on pictures as it starts."""

    def __init__(self, artifact: Artifact) -> None:
        """Build the network and try it. Raises `ArtifactError` if it fails."""
        try:
            self.facts = artifact.facts  # all of them, for people
            facts = Facts.model_validate(artifact.facts)
            self.name = facts.name
            self.version = facts.version
            self.classes = facts.classes
            self.samples = artifact.samples
            self.unknown_threshold = facts.unknown_threshold
            self.preprocessing = from_facts(artifact.facts)
            self._session = onnxruntime.InferenceSession(
                artifact.onnx, session_options(), providers=["CPUExecutionProvider"]
            )
            outputs = {output.name for output in self._session.get_outputs()}
            names = *OUTPUTS, ACTIVATION
            self._outputs = [name for name in names if name in outputs]
            self._check_shapes()
            self.activation_scale = 0.0  # highest class activation of a sample
            self._try_out(self.samples)
            self.seconds = self._measure()
        except Exception as error:  # ONNX Runtime's exceptions share no base
            fault = fault_of(error)
            raise ArtifactError(f"the model does not run: {fault}") from error

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

    @property
    def refuses_unknown(self) -> bool:
        """Whether pictures of none of the classes are refused."""
        return self.unknown_threshold is not None

    @property
    def pass_size(self) -> int:
        """Pictures of one pass of the network."""
        size = PASS_BYTES // math.prod(self.input_shape)
        return max(1, min(size, PASS_PICTURES))

    def classify(
        self, pixels: NDArray[np.uint8], *, explain: bool = False
    ) -> list[Prediction]:
        """Classify uint8 [N, *input_shape], `pass_size` pictures at a time.

        With `explain` each prediction also holds the class activation (Zhou et al.,
        arXiv 1512.04150): how much each part of the picture adds to its class.
        """
        size = self.pass_size
        passes = (pixels[start : start + size] for start in range(0, len(pixels), size))
        return [one for each in passes for one in self._run(each, explain=explain)]

    def _run(self, pixels: NDArray[np.uint8], *, explain: bool) -> list[Prediction]:
        """Classify in one pass."""
        outputs = [name for name in self._outputs if explain or name != ACTIVATION]
        values = self._session.run(outputs, {"pixels": pixels})
        found = dict(zip(outputs, values, strict=True))
        none = [None] * len(pixels)
        scores = found[SCORE].tolist() if SCORE in found else none
        rows = zip(found[PROBABILITIES].tolist(), scores, strict=True)
        predictions = [self._predict(row, score) for row, score in rows]
        if not explain:
            return predictions
        return [
            prediction._replace(
                pixels=picture.tolist(),
                activation=None if maps is None else rounded(maps[prediction.class_id]),
            )
            for prediction, picture, maps in zip(
                predictions, pixels, found.get(ACTIVATION, none), strict=True
            )
        ]

    def _predict(self, row: list[float], score: float | None) -> Prediction:
        """Round and name the outputs of the network for one picture."""
        class_id = row.index(max(row))
        rounded = [round(probability, DECIMALS) for probability in row]
        return Prediction(
            label=self.classes[class_id],
            class_id=class_id,
            probabilities=dict(zip(self.classes, rounded, strict=True)),
            unknown_score=None if score is None else round(score, DECIMALS),
            unknown_threshold=self.unknown_threshold,
        )

    def _check_shapes(self) -> None:
        """Raise `ValueError` if the graph does not have the shapes of the facts."""
        values = [*self._session.get_inputs(), *self._session.get_outputs()]
        shapes = {value.name: value.shape[1:] for value in values}
        expected = {"pixels": [*self.input_shape], PROBABILITIES: [len(self.classes)]}
        if self.unknown_threshold is not None:
            expected[SCORE] = []
        elif SCORE in shapes:
            raise ValueError("unknown_threshold is missing, its graph has a score")
        for name, shape in expected.items():
            if shapes.get(name) != shape:
                found = shapes.get(name, "nothing")
                raise ValueError(f"its graph has {name} of {found}, its facts {shape}")

    def _try_out(self, samples: Sequence[Sample]) -> None:
        """Answer generated pictures, and all samples as at the model's release.

        Raises `ValueError` for another class or verdict, or for a probability that is
        off by more than `TOLERANCE`; `ImageError` if a sample is no picture.
        """
        noise = self.to_pixels(generated_picture())
        self.classify(np.stack([noise, noise]), explain=True)  # a batch
        for sample in samples:
            found = self._answer(sample.picture)
            highest = max(map(max, found.activation or [[0.0]]))
            self.activation_scale = max(self.activation_scale, highest)
            if (
                found.label != sample.label
                or abs(found.probability - sample.probability) > TOLERANCE
                or found.is_unknown
                != exceeds(sample.unknown_score, self.unknown_threshold)
            ):
                answer = found.label, found.probability, found.unknown_score
                expected = sample.label, sample.probability, sample.unknown_score
                raise ValueError(f"sample {sample.file} is {answer}, not {expected}")

    def _measure(self) -> float:
        """Return the seconds that the network takes for one picture."""
        pixels = np.zeros((1, *self.input_shape), np.uint8)
        seconds = []
        for _ in range(TIMED_PASSES):
            started = time.perf_counter()
            self.classify(pixels)
            seconds.append(time.perf_counter() - started)
        return min(seconds)

    def _answer(self, picture: bytes) -> Prediction:
        return self.classify(self.to_pixels(picture)[None], explain=True)[0]


def exceeds(score: float | None, threshold: float | None) -> bool:
    """Return whether there are both, and the unknown score is above the threshold."""
    return score is not None and threshold is not None and score > threshold


def sample_of(classifier: Classifier, picture: bytes, file: str) -> Sample:
    """Record the answer for an encoded picture."""
    found = classifier.classify(classifier.to_pixels(picture)[None])[0]
    return Sample(
        file=file,
        label=found.label,
        probability=found.probability,
        unknown_score=found.unknown_score,
        picture=picture,
    )


def generated_picture() -> bytes:
    """Return a PNG of coloured noise, the same each time."""
    noise = np.random.default_rng(0).integers(0, 256, (*TRIAL_SIZE, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def rounded(values: NDArray[np.float32]) -> list[list[float]]:
    """Round in double precision: in single, 0.1 would print as 0.10000000149."""
    rows: list[list[float]] = values.astype(np.float64).round(DECIMALS).tolist()
    return rows


def session_options() -> onnxruntime.SessionOptions:
    """One thread a worker: more workers, not more threads, use more cores.

    Without the arena, which would keep memory that the largest pass took.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3  # errors; warnings are for whoever exports
    return options
