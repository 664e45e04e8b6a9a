"""`python -m model pack`: classifiers of other frameworks become a `model.bin`."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import GUNICORN, ROOT, serve
from numpy.typing import NDArray
from shapes import SHAPES, draw_set, draw_shape
from torch import nn

from model import artifact
from model.__main__ import contract
from model.artifact import ArtifactError
from model.classifier import Classifier
from model.pack import pack, parse_options, report

GRAPHS = ROOT / "tests" / "graphs"
SKLEARN = f"--onnx {GRAPHS}/sklearn.onnx --size 16 --grey --scale 0..255"
KERAS = f"--onnx {GRAPHS}/keras.onnx --size 24 --colour --scale=-1..1"
TORCH = "--size 8 --colour --scale imagenet"
COMMITTED = pytest.mark.parametrize(
    "options", [SKLEARN, KERAS], ids=["sklearn", "keras"]
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a class, of drawn photos that are larger than any input."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = random.Random(3)
    for index in range(120):
        name = SHAPES[index % len(SHAPES)]
        (folder / name).mkdir(exist_ok=True)
        draw_shape(name, 60, rng).save(folder / name / f"{index}.jpg")
    (folder / SHAPES[0] / "notes.txt").write_text("no picture")
    return folder


def packed(options: str, output: Path, samples: Path, *more: object) -> Classifier:
    arguments = [*options.split(), "--samples", samples, "--output", output]
    arguments += ["--classes", *SHAPES, *more]
    pack(parse_options([*map(str, arguments)]))
    return Classifier(artifact.read(str(output)))


def direct(options: str, pixels: NDArray[np.uint8]) -> NDArray[Any]:
    """Run a committed graph as its own framework would: probabilities."""
    session = onnxruntime.InferenceSession(options.split()[1])
    if options == SKLEARN:
        flat = pixels.reshape(len(pixels), -1).astype(np.float32)
        rows = session.run(None, {"X": flat})[1]
        return np.array([[row[name] for name in SHAPES] for row in rows])
    values = pixels.astype(np.float32) / np.float32(127.5) - 1
    return np.asarray(session.run(None, {"image": values})[0])


def probabilities(classifier: Classifier, pixels: NDArray[np.uint8]) -> NDArray[Any]:
    rows = classifier.classify(pixels)
    return np.array([list(row.probabilities.values()) for row in rows])


@COMMITTED
def test_a_packed_graph_answers_what_it_did(
    tmp_path: Path, pictures: Path, options: str
) -> None:
    classifier = packed(options, tmp_path / "model.bin", pictures)
    mode = "L" if classifier.channels == 1 else "RGB"
    pixels, labels = draw_set(200, classifier.size, mode, seed=9)
    answers = probabilities(classifier, pixels)
    assert abs(answers - direct(options, pixels)).max() < 1e-5
    assert np.mean(answers.argmax(1) == labels) > 0.95
    first = classifier.classify(pixels[:1], explain=True)[0]
    assert (first.unknown_score, first.activation) == (None, None)
    assert not classifier.refuses_unknown
    assert {sample.label for sample in classifier.samples} == set(SHAPES)


@COMMITTED
def test_labelled_pictures_calibrate_and_set_a_threshold(
    tmp_path: Path, pictures: Path, options: str
) -> None:
    path = tmp_path / "model.bin"
    classifier = packed(options, path, pictures, "--labelled", pictures)
    facts = artifact.read(str(path)).facts
    files = sorted(pictures.rglob("*.jpg"))
    pixels = np.stack([classifier.to_pixels(file.read_bytes()) for file in files])
    found = classifier.classify(pixels)
    refused = np.mean([each.is_unknown for each in found])
    labels = [file.parent.name for file in files]
    right = np.mean([one.label for one in found] == np.array(labels))
    assert refused == pytest.approx(0.02, abs=0.009)
    metrics = {"accuracy": right, "refused": refused, "pictures": 120, "no_pictures": 1}
    metrics = {f"labelled_{name}": value for name, value in metrics.items()}
    assert facts["metrics"] == pytest.approx(metrics, abs=1e-4)
    logits = np.log(np.maximum(direct(options, pixels), 1e-30))
    logits /= facts["calibration"]["temperature"]
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert abs(probabilities(classifier, pixels) - expected).max() < 1e-3
    first, warning, _ = report(facts)
    assert "of 120 labelled" in first
    assert "files that are no pictures: 1" in first
    assert "the unknown score is weak" in warning


def test_torch_opens_a_packed_model_made_without_torch(
    tmp_path: Path, pictures: Path
) -> None:
    path = tmp_path / "model.bin"
    command = f"pack {SKLEARN} --samples {pictures} --output {path} --classes".split()
    code = (
        "import sys; sys.modules['torch'] = None; import model.__main__ as main;"
        f"sys.argv[1:] = {[*command, *SHAPES]}; main.main()"
    )
    run = [sys.executable, "-c", code]
    text = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"{path} is now sklearn" in text.stdout
    assert "warning: no picture is refused" in text.stdout
    assert torch.load(path, weights_only=True)["classes"] == SHAPES


def export(path: Path, *layers: nn.Module) -> str:
    """Export a PyTorch network for colour pictures; return options of `pack`."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), *layers).eval()
    any_number = {0: torch.export.Dim("n")}
    example = torch.zeros(2, 3, 8, 8)
    torch.onnx.export(
        network, (example,), path, dynamic_shapes=(any_number,), verbose=False
    )
    return f"--onnx {path} {TORCH}"


def test_a_pytorch_graph_with_weights_beside_it_is_packed(
    tmp_path: Path, pictures: Path
) -> None:
    path = tmp_path / "net.onnx"
    options = export(path)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="w")
    classifier = packed(options, tmp_path / "model.bin", pictures)
    pixels = np.stack([classifier.to_pixels(s.picture) for s in classifier.samples])
    inputs = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    inputs = inputs.transpose(0, 3, 1, 2).astype(np.float32)
    assert (tmp_path / "w").stat().st_size > 3000
    session = onnxruntime.InferenceSession(path)
    logits = session.run(None, {session.get_inputs()[0].name: inputs})[0]
    expected = torch.tensor(logits).softmax(1).numpy()
    assert abs(probabilities(classifier, pixels) - expected).max() < 1e-5


def test_one_sigmoid_is_two_classes(tmp_path: Path, pictures: Path) -> None:
    path = tmp_path / "net.onnx"
    options = export(path, nn.Linear(4, 1), nn.Sigmoid())
    two = ["--classes", "cat", "dog"]
    classifier = packed(options, tmp_path / "model.bin", pictures, *two)
    pixels = np.stack([classifier.to_pixels(s.picture) for s in classifier.samples])
    inputs = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    session = onnxruntime.InferenceSession(path)
    feed = {session.get_inputs()[0].name: inputs.transpose(0, 3, 1, 2)}
    dog = session.run(None, {k: v.astype(np.float32) for k, v in feed.items()})[0]
    expected = np.concatenate([1 - dog, dog], 1)
    assert abs(probabilities(classifier, pixels) - expected).max() < 1e-5


def test_a_graph_that_does_not_fit_is_refused_in_one_line(
    tmp_path: Path, pictures: Path
) -> None:
    path, output = tmp_path / "net.onnx", tmp_path / "model.bin"
    options = export(path, nn.Sigmoid())
    with pytest.raises(ArtifactError, match="do not sum to 1"):
        packed(options, output, pictures)
    with pytest.raises(ArtifactError, match=r"answers \(2, 4\) .*, not \(2, 3\)"):
        packed(options, output, pictures, "--classes", "a", "b", "c")
    with pytest.raises(ArtifactError, match=r"takes \[3, 8, 8\] .* of 9x9x3"):
        packed(options, output, pictures, "--size", 9)
    with pytest.raises(ArtifactError, match="a number a channel"):
        packed(options, output, pictures, "--std", 1, 2)
    for std in 0, "inf":
        with pytest.raises(ArtifactError, match="must be finite, and --std not 0"):
            packed(options, output, pictures, "--std", std)
    with pytest.raises(ArtifactError, match="not an ONNX file"):
        packed(options, output, pictures, "--onnx", ROOT / "model.bin")
    assert not output.exists()


def test_answers_that_are_not_finite_are_refused(
    tmp_path: Path, pictures: Path
) -> None:
    layer = nn.Linear(4, 4)
    nn.init.constant_(layer.bias, float("nan"))
    options = export(tmp_path / "net.onnx", layer)
    with pytest.raises(ArtifactError, match="not finite"):
        packed(options, tmp_path / "model.bin", pictures)


def test_a_graph_for_one_picture_is_refused(tmp_path: Path, pictures: Path) -> None:
    graph = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        one (float[1, 8, 8] x) => (float[1, 64] y) <int64[2] flat = {1, 64}>
        { y = Reshape(x, flat) }""")
    onnx.save(graph, tmp_path / "net.onnx")
    options = f"--onnx {tmp_path}/net.onnx --size 8 --grey --scale 0..1"
    with pytest.raises(ArtifactError, match="export it for any number"):
        packed(options, tmp_path / "model.bin", pictures, "--classes", *range(64))


def test_classes_in_another_order_are_refused(tmp_path: Path, pictures: Path) -> None:
    classes = tmp_path / "classes.txt"
    classes.write_text("\n".join(SHAPES[::-1]))
    with pytest.raises(ArtifactError, match="orders the classes cross disc ring"):
        packed(SKLEARN, tmp_path / "model.bin", pictures, "--classes", f"@{classes}")


def test_folders_that_do_not_fit_are_refused_in_one_line(
    tmp_path: Path, pictures: Path
) -> None:
    output, labelled = tmp_path / "model.bin", tmp_path / "labelled"
    labelled.mkdir()
    with pytest.raises(ArtifactError, match="no picture of the class 'cross'"):
        packed(SKLEARN, output, pictures, "--labelled", labelled)
    (labelled / "star").mkdir()
    (labelled / "star" / "1.png").touch()
    with pytest.raises(ArtifactError, match=r"star/1.png is in no class's folder"):
        packed(SKLEARN, output, pictures, "--labelled", labelled)
    with pytest.raises(ArtifactError, match="holds no picture"):
        packed(SKLEARN, output, labelled)
    with pytest.raises(ArtifactError, match="there is no folder"):
        packed(SKLEARN, output, tmp_path / "nowhere")


def test_a_packed_model_is_served(tmp_path: Path, pictures: Path) -> None:
    path = tmp_path / "model.bin"
    classifier = packed(KERAS, path, pictures, "--name", "shapes")
    shape = contract(classifier)["features"][0]["shape"]
    assert shape == [24, 24, 3]
    with serve(GUNICORN, tmp_path / "log", FLASK_MODEL_URI=str(path)) as server:
        picture = pictures / "ring" / "2.jpg"
        curl = ["curl", "-s", "--data-binary", f"@{picture}", f"{server.url}/predict"]
        answer = json.loads(subprocess.check_output(curl))
        assert (answer["class"], answer["unknown_score"]) == ("ring", None)
        assert answer["model"]["name"] == "shapes"
        numbers = json.dumps({"data": {"ndarray": np.zeros((2, *shape)).tolist()}})
        url = f"{server.url}/api/v1.0/predictions"
        answer = json.loads(subprocess.check_output(["curl", "-s", "-d", numbers, url]))
        assert answer["data"]["names"] == SHAPES
        assert answer["meta"]["tags"]["unknown"] == [False, False]
