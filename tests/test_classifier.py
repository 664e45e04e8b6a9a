"""The classifier says what PyTorch says, in any company."""

import os
import subprocess
import sys
from pathlib import Path

import colour_model
import numpy as np
import pytest
import torch
from conftest import ROOT, Samples
from numpy.typing import NDArray

from model import artifact
from model.classifier import PASS_BYTES, Classifier, Prediction
from model.network import CNN, Calibrated, Calibration
from training.data import get_data
from training.recipes import RECIPES


def probabilities(predictions: list[Prediction]) -> NDArray[np.float64]:
    return np.array([list(p.probabilities.values()) for p in predictions])


def test_most_samples_are_right(classifier: Classifier, samples: Samples) -> None:
    predictions = classifier.classify(samples.pixels)
    right = np.array([p.class_id for p in predictions]) == samples.labels
    assert right.mean() >= 0.9


def test_probabilities_are_a_distribution(
    classifier: Classifier, samples: Samples
) -> None:
    rows = probabilities(classifier.classify(samples.pixels))
    assert rows.shape == (100, 10)
    assert np.allclose(rows.sum(axis=1), 1, atol=1e-5)


def test_batch_size_does_not_matter(classifier: Classifier, samples: Samples) -> None:
    together = classifier.classify(samples.pixels)
    alone = [classifier.classify(pixels[None])[0] for pixels in samples.pixels]
    difference = probabilities(together) - probabilities(alone)
    assert abs(difference).max() < 1.5e-6  # one step of the last decimal
    assert [p.class_id for p in together] == [p.class_id for p in alone]
    assert [p.is_unknown for p in together] == [p.is_unknown for p in alone]


def test_pytorch_agrees(classifier: Classifier, samples: Samples) -> None:
    """Both round, and of a few pictures to different sides somewhere."""
    checkpoint = torch.load(ROOT / "model.bin", weights_only=True)
    network = CNN(**checkpoint["arguments"])
    network.load_state_dict(checkpoint["state_dict"])
    model = Calibrated(network, Calibration(**checkpoint["calibration"])).eval()
    with torch.no_grad():
        expected, scores, activation = model(torch.from_numpy(samples.pixels))
    served = classifier.classify(samples.pixels, explain=True)
    apart = abs(probabilities(served) - expected.numpy()).max(1)
    assert np.median(apart) < 1e-3
    assert apart.max() < 0.1
    assert [p.class_id for p in served] == expected.argmax(1).tolist()
    ours = np.array([p.unknown_score for p in served])
    assert abs(ours - scores.numpy()).mean() < 0.1
    assert torch.allclose(activation.mean((2, 3)).softmax(1), expected, atol=1e-6)
    seen = activation[range(len(served)), expected.argmax(1)].numpy()
    maps = np.array([p.activation for p in served])
    ours, theirs = (m - m.mean((1, 2), keepdims=True) for m in (maps, seen))
    assert abs(ours - theirs).mean() < 0.05 * theirs.std()


def test_an_explanation_changes_nothing_else(
    classifier: Classifier, samples: Samples
) -> None:
    explained = classifier.classify(samples.pixels, explain=True)
    assert [
        prediction._replace(pixels=None, activation=None) for prediction in explained
    ] == (classifier.classify(samples.pixels))


@pytest.mark.parametrize("level", [0, 1, 128, 255])
def test_a_flat_picture_is_unknown(classifier: Classifier, level: int) -> None:
    flat = np.full((1, 28, 28), level, np.uint8)
    nearly = flat.copy()
    nearly[0, 10:14, 10:14] ^= 1
    assert classifier.classify(flat)[0].is_unknown
    assert classifier.classify(nearly)[0].is_unknown


def test_a_graph_that_does_not_run_is_refused() -> None:
    model = artifact.load(str(ROOT / "model.bin"))
    with pytest.raises(artifact.ArtifactError, match="does not run"):
        Classifier(model._replace(onnx=b"no graph"))


LIES: list[tuple[dict[str, object], str]] = [
    ({"input": {"size": 32, "channels": 1}}, r"pixels of \[28, 28\]"),
    ({"input": {"size": 28, "channels": 3}}, "channels"),
    ({"input": {"size": "28", "channels": 1}}, "size"),
    (
        {
            "input": {"size": 28, "channels": 3},
            "preprocessing": {"name": "square", "draft_side": 56},
        },
        r"pixels of \[28, 28\]",
    ),
    ({"preprocessing": {"name": "none"}}, "no preprocessing 'none'"),
    ({"preprocessing": {}}, "no preprocessing"),
    ({"preprocessing": {"name": ["garment"]}}, "preprocessing"),
    ({"preprocessing": {"name": "garment", "size": 28}}, "size"),
    ({"classes": ["a", "b"]}, r"probabilities of \[10\]"),
    ({"classes": [[], []]}, "classes.0"),
    ({"unknown_threshold": "-1.96"}, "unknown_threshold"),
    ({"unknown_threshold": None}, "unknown_threshold"),
    ({"unknown_threshold": float("nan")}, "unknown_threshold"),
]


@pytest.mark.parametrize(("change", "reason"), LIES)
def test_facts_that_do_not_fit_the_graph_are_refused(
    change: dict[str, object], reason: str
) -> None:
    model = artifact.load(str(ROOT / "model.bin"))
    with pytest.raises(artifact.ArtifactError, match=f"does not run: .*{reason}"):
        Classifier(model._replace(facts=model.facts | change))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"label": "Bag"}, "T-shirt/top.*, not .*Bag"),
        ({"probability": 0.9}, r"not .*0\.9"),
        ({"unknown_score": 99.0}, "not .*99"),
        ({"picture": b"no picture"}, "not a picture"),
    ],
    ids=["class", "probability", "unknown", "no picture"],
)
def test_samples_must_be_answered_as_at_the_release(
    change: dict[str, object], reason: str
) -> None:
    model = artifact.load(str(ROOT / "model.bin"))
    first, *others = model.samples
    samples = first.model_copy(update=change), *others
    with pytest.raises(artifact.ArtifactError, match=f"does not run: .*{reason}"):
        Classifier(model._replace(samples=samples))


def test_a_model_without_samples_is_tried_with_a_generated_picture() -> None:
    model = artifact.load(str(ROOT / "model.bin"))._replace(samples=())
    assert Classifier(model).classes == model.facts["classes"]


def test_a_pass_is_bounded_in_bytes() -> None:
    """A batch of any size gets the same answers as its pictures alone."""
    model = Classifier(colour_model.build_model())
    assert model.pass_size == PASS_BYTES // (64 * 64 * 3) < 200
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (200, 64, 64, 3), np.uint8)
    pixels[:, :, :, 1] //= 2
    found = model.classify(pixels)
    assert found == [model.classify(one[None])[0] for one in pixels]


def test_a_model_may_refuse_and_explain_nothing() -> None:
    model = Classifier(colour_model.build_model(is_complete=False))
    pixels = np.zeros((1, *model.input_shape), np.uint8)
    [found] = model.classify(pixels, explain=True)
    assert (found.unknown_score, found.unknown_threshold) == (None, None)
    assert found.activation is None
    assert not found.is_unknown
    assert found.pixels == pixels[0].tolist()


def test_serving_never_imports_torch() -> None:
    code = "import sys, predict; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.skipif("FASHION_DATA" not in os.environ, reason="FASHION_DATA is not set")
def test_accuracy_on_the_test_set_is_what_the_model_says(
    classifier: Classifier,
) -> None:
    folder = Path(os.environ["FASHION_DATA"])
    test = get_data(RECIPES["fashion-mnist"], folder).test
    predictions = classifier.classify(test.pixels.numpy())
    right = np.array([p.class_id for p in predictions]) == test.labels.numpy()
    facts = artifact.load(str(ROOT / "model.bin")).facts
    assert right.mean() == pytest.approx(facts["metrics"]["test_accuracy"], abs=1e-9)
