"""Anybody's labelled pictures become a model that answers, and knows the unknown."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conftest import ROOT
from PIL import Image, ImageDraw
from torch import Tensor

from model import artifact
from model.classifier import Classifier
from training.augment import random_views
from training.backbone import build_backbone, unknown_distance
from training.calibration import fit_temperature
from training.transfer import out_of_fold

NAMES = "discs", "crosses", 'it\'s "stripes" ä'
TRAIN = "--seed", "3", "--size", "64"


def draw(kind: str, random: np.random.Generator) -> Image.Image:
    """Draw a bright shape of one kind on a dark ground of any colour."""
    ground, colour = random.integers(0, 90, 3), random.integers(150, 256, 3)
    image = Image.new("RGB", (90, 70), tuple(ground.tolist()))
    pen, fill = ImageDraw.Draw(image), tuple(colour.tolist())
    x, y = random.integers(20, 40, 2).tolist()
    if kind == NAMES[0]:
        pen.ellipse((x - 15, y - 15, x + 25, y + 25), fill)
    elif kind == NAMES[1]:
        pen.line((x - 15, y - 15, x + 25, y + 25), fill, 6)
        pen.line((x - 15, y + 25, x + 25, y - 15), fill, 6)
    else:
        for left in range(int(x) % 9, 90, 12):
            pen.line((left, 0, left, 70), fill, 4)
    return image


def make_folder(folder: Path, count: int, seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    for name in NAMES:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            draw(name, random).save(folder / name / f"{number}.png")
    return folder


def train(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "train.py", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, text=True, capture_output=True, check=False
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 36 pictures, of which none is left to set aside."""
    folder = tmp_path_factory.mktemp("shapes")
    images = make_folder(folder / "shapes", 12)
    run = train("--images", images, "--output", folder / "model.bin", *TRAIN)
    assert run.returncode == 0, run.stderr
    return folder / "model.bin"


def test_a_folder_of_pictures_becomes_a_model(trained: Path) -> None:
    classifier = Classifier(artifact.load(str(trained)))
    facts = artifact.load(str(trained)).facts
    assert (facts["name"], classifier.classes) == ("shapes", sorted(NAMES))
    assert classifier.input_shape == (64, 64, 3)
    assert facts["data"]["threshold_of"] == "out of fold"
    random = np.random.default_rng(99)
    pictures = [(name, draw(name, random)) for name in NAMES for _ in range(10)]
    pixels = [classifier.preprocessing.preprocess(image) for _, image in pictures]
    found = classifier.classify(np.stack(pixels))
    right = [p.label == name for p, (name, _) in zip(found, pictures, strict=True)]
    assert np.mean(right) >= 0.9
    noise = random.integers(0, 256, (20, 64, 64, 3), np.uint8)
    unknown = [p.unknown_score or 0 for p in classifier.classify(noise)]
    assert min(unknown) > max(p.unknown_score or 0 for p in found)


def test_a_model_brings_samples_of_each_class(trained: Path) -> None:
    samples = artifact.load(str(trained)).samples
    assert len(samples) == 12
    assert {sample.label for sample in samples} == set(NAMES)


def test_the_same_seed_gives_the_same_model_and_pictures_stay_at_home(
    trained: Path, tmp_path: Path
) -> None:
    images, output = trained.parent / "shapes", tmp_path / "again.bin"
    Path(f"{output}.checkpoint").write_text("of a run that was stopped")
    run = train("--images", images, "--samples", "0", "--output", output, *TRAIN)
    assert run.returncode == 0, run.stderr
    assert "again.bin.checkpoint of a stopped run: --resume continues" in run.stdout
    one, other = (artifact.load(str(path)) for path in (trained, output))
    assert one.facts["version"] == other.facts["version"]
    assert other.samples == ()


def test_a_network_from_nothing_resumes_as_if_not_stopped(tmp_path: Path) -> None:
    images = make_folder(tmp_path / "shapes", 20)
    options = "--backbone", "none", "--epochs", "2", "--images", images, *TRAIN
    whole, stopped = tmp_path / "whole.bin", tmp_path / "stopped.bin"
    run = train(*options, "--output", whole)
    assert run.returncode == 0, run.stderr
    code = (
        "import sys, training.custom as c, train\n"
        "save = c.save_checkpoint\n"
        "def stop(*a): save(*a); raise KeyboardInterrupt\n"
        "c.save_checkpoint = stop\n"
        "train.main()"
    )
    arguments = [*map(str, options), "--output", str(stopped)]
    command = [sys.executable, "-c", code, *arguments]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert not stopped.exists()
    run = train(*options, "--output", stopped, "--resume")
    assert run.returncode == 0, run.stderr
    states = [torch.load(path, weights_only=True) for path in (whole, stopped)]
    for name, value in states[0]["state_dict"].items():
        assert torch.equal(value, states[1]["state_dict"][name]), name


@pytest.mark.parametrize(
    "name", ["vgg11", "mobilenet_v3_small", "densenet121", "nothing"]
)
def test_a_backbone_that_does_not_fit_is_refused_before_a_download(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=name):
        build_backbone(name)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("resnet18", "resnet18-f37072fd.pth"),
        ("mobilenet_v2", "mobilenet_v2-7ebf99e0.pth"),
        ("regnet_y_400mf", "regnet_y_400mf-e6988f5f.pth"),
        ("efficientnet_b0", "efficientnet_b0_rwightman-7f5810bc.pth"),
    ],
)
def test_weights_of_torchvision_are_used(
    name: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are fetched from where torchvision keeps them, here from its cache."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.manual_seed(5)
    network = torchvision.models.get_model(name, weights=None).eval()
    torch.save(network.state_dict(), tmp_path / "hub" / "checkpoints" / file)
    backbone = build_backbone(name)
    pixels = torch.rand(1, 3, 64, 64)
    features = backbone.features.eval()(pixels).mean((2, 3))
    assert features.shape == (1, backbone.channels)
    last = [m for m in network.modules() if isinstance(m, torch.nn.Linear)][-1]
    assert torch.allclose(last(features), network(pixels), atol=1e-4)


def test_what_is_near_to_outliers_is_unknown() -> None:
    known, outliers = torch.eye(3)[:1], torch.eye(3)[1:2]

    def score(features: Tensor, outliers: Tensor) -> float:
        return float(unknown_distance(features[None], known, outliers))

    between = torch.tensor([0.5, 0.6, 0.0])
    assert score(known[0], outliers) == pytest.approx(0, abs=1e-6)
    assert score(between, outliers) > score(between, outliers[:0]) > 0


def test_a_temperature_of_few_right_answers_is_finite() -> None:
    logits = torch.eye(2).repeat(5, 1) * 4
    calibration = fit_temperature(logits, logits.argmax(1))
    assert 0 < calibration.scale < 10
    assert calibration.slope == calibration.scale


def test_views_show_parts_of_pictures_and_differ() -> None:
    pixels = torch.randint(256, (2, 40, 40, 3), dtype=torch.uint8)
    random = torch.Generator().manual_seed(0)
    one, other = (random_views(pixels, 24, random) for _ in "ab")
    assert one.shape == (2, 24, 24, 3)
    assert one.dtype == torch.uint8
    assert not torch.equal(one, other)


def test_reference_figures_are_histograms(trained: Path) -> None:
    reference = json.loads(json.dumps(artifact.load(str(trained)).facts["reference"]))
    for name in ("probability", "unknown_score", "brightness", "longer_side"):
        shares, edges = (reference[name][part] for part in ("shares", "edges"))
        assert sum(shares) == pytest.approx(1, abs=0.01)
        assert len(edges) == len(shares) + 1


def test_what_was_never_held_out_is_not_judged() -> None:
    """All pictures of the third class are nearly equal, so they stay together."""
    labels = np.repeat([0, 1, 2], 20)
    groups = np.where(labels == 2, 0, np.arange(60))
    features = torch.eye(3)[labels].expand(2, 60, 3)
    _logits, _scores, was_held_out = out_of_fold(features, labels, groups)
    assert (was_held_out == (labels < 2)).all()
