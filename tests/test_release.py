"""A network is released with figures that are true and a graph that agrees."""

import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, Samples, torchvision_root
from torch import Tensor

from model import artifact
from model.classifier import Classifier, exceeds
from model.network import CNN, Calibrated, export_onnx, unknown_score
from training import data as data_module
from training import release
from training.data import Data, Photos, get_data, one_hot_targets
from training.export import EXACT, check, compute_probabilities
from training.recipes import RECIPES
from training.release import evaluate, threshold_of, validation_accuracy


@pytest.fixture
def folder(tmp_path: Path, samples: Samples, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(data_module, "VALIDATION_SIZE", 20)
    return torchvision_root(tmp_path, samples)


@pytest.fixture
def data(folder: Path) -> Data:
    return get_data(RECIPES["fashion-mnist"], folder)


def test_accuracy_is_measured_on_what_is_set_aside(data: Data) -> None:
    class Constant(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = torch.nn.Parameter(torch.eye(11)[3])

        def forward(self, pixels: Tensor) -> Tensor:
            return self.logits.expand(len(pixels), 11)

    expected = (data.validation.labels == 3).float().mean().item()
    seen = data.validation.pixels[:4]
    targets = torch.zeros(4, 11, dtype=torch.bool)
    targets[[0, 1, 1, 2, 3], [3, 3, 5, 5, 10]] = True  # the last is unknown
    photos = Photos(seen, seen, seen, torch.arange(4), targets, targets.float())
    known = data._replace(validation_photos=photos)
    assert validation_accuracy(Constant(), known) == {
        "validation": pytest.approx(expected),
        "validation_photos": pytest.approx(2 / 3),
    }


@pytest.mark.parametrize(
    ("darkest", "step", "expected"),
    [(40, 1, [0, 12]), (140, 1, [1, 0]), (40, 3, [1, 14])],
    ids=["photos", "garments", "few photos"],
)
def test_the_threshold_refuses_a_share_of_garments_or_photos(
    data: Data, darkest: int, step: int, expected: list[int]
) -> None:
    """Whichever takes a higher one; unknown photos, or a few, do not count."""

    class Brightness(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = torch.nn.Parameter(torch.arange(11.0))

        def forward(self, pixels: Tensor) -> Tensor:
            logits = self.logits.repeat(len(pixels), 1)
            logits[:, -1] = pixels.float().mean((1, 2))
            return logits

    def plain(levels: Tensor) -> Tensor:
        return levels.byte()[:, None, None].expand(-1, 28, 28)

    shirts, outliers = torch.arange(0, 100, step), torch.full((100,), 255)
    seen = plain(torch.cat([shirts, outliers]))
    labels = torch.tensor([0] * len(shirts) + [10] * 100)
    targets = one_hot_targets(labels, 10)
    photos = Photos(seen, seen, seen, labels, targets, targets.float())
    garments = plain(torch.arange(20) + darkest)
    aside = data.validation._replace(pixels=garments)
    known = data._replace(validation_photos=photos, validation=aside)
    network = Brightness()
    threshold = threshold_of(network, known)  # type: ignore[arg-type]
    refused = [
        int((unknown_score(evaluate(network, pixels)) > threshold).sum())
        for pixels in (garments, seen[: len(shirts)])
    ]
    assert refused == expected


@pytest.mark.filterwarnings("default")  # the exporter's own
def test_a_graph_of_other_weights_is_not_released(data: Data) -> None:
    torch.manual_seed(1)
    model, other = (Calibrated(CNN(28)).eval() for _ in "ab")
    facts = release.describe(data) | {"unknown_threshold": 0.0}
    pixels, labels = data.test.pixels.numpy(), data.test.labels.numpy()
    expected = compute_probabilities(model, pixels)
    for graph, agrees in (model, True), (other, False):
        classifier = Classifier(artifact.Artifact(export_onnx(graph), facts))
        predictions = classifier.classify(pixels)
        if agrees:
            assert check(expected, predictions, labels, EXACT)["onnx_same_class"] == 1
            continue
        with pytest.raises(ValueError, match="PyTorch"):
            check(expected, predictions, labels, EXACT)


@pytest.mark.filterwarnings("default")  # the exporter's own
def test_a_model_released_again_answers_as_before(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    samples: Samples,
    classifier: Classifier,
) -> None:
    old, output = ROOT / "model.bin", tmp_path / "model.bin"
    arguments = [str(old), "--data", str(folder), "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["release", *arguments])
    release.main()
    facts, known = (artifact.read(str(path)).facts for path in (output, old))
    same = ["name", "classes", "input", "preprocessing", "unknown_threshold"]
    same += ["calibration", "settings", "data", "seconds", "history"]
    assert {name: facts[name] for name in same} == {name: known[name] for name in same}
    again = Classifier(artifact.read(str(output)))
    assert again.classify(samples.pixels) == classifier.classify(samples.pixels)


def test_samples_are_pictures_answered_right(classifier: Classifier) -> None:
    samples = artifact.read(str(ROOT / "model.bin")).samples
    assert {sample.label for sample in samples} == set(classifier.classes)
    threshold = classifier.unknown_threshold
    refused = [exceeds(sample.unknown_score, threshold) for sample in samples]
    assert refused == [False] * 11 + [True]  # a class each, a photo, one of no class
    for sample in samples:
        assert classifier.to_pixels(sample.picture).shape == classifier.input_shape
