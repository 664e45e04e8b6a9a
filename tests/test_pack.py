"""`python -m model pack`: classifiers of other frameworks become a `model.bin`."""

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import GUNICORN, ROOT, serve
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from shapes import SHAPES, draw_set, draw_shape

from model import __main__ as command_line
from model import artifact
from model.__main__ import contract, parse_options
from model.artifact import ArtifactError
from model.classifier import Classifier
from model.pack import pack, report

GRAPHS = ROOT / "tests" / "graphs"
SKLEARN = f"--onnx {GRAPHS}/sklearn.onnx --size 16 --grey --scale 0..255"
KERAS = f"--onnx {GRAPHS}/keras.onnx --size 24 --colour --scale=-1..1"
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
    arguments = [*options.split(), "--samples", samples, "--output", output, *more]
    if "--classes" not in arguments:
        arguments += ["--classes", *SHAPES]
    pack(parse_options(["pack", *map(str, arguments)]))
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
    assert (first.is_unknown, first.unknown_score, first.activation) == (
        False,
        None,
        None,
    )
    assert len(classifier.samples) == artifact.MAX_SAMPLES
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
    right = np.mean(
        [one.label == f.parent.name for one, f in zip(found, files, strict=True)]
    )
    assert refused == pytest.approx(0.02, abs=0.009)
    metrics = {"accuracy": right, "refused": refused, "pictures": 120}
    metrics = {f"labelled_{name}": value for name, value in metrics.items()}
    assert facts["metrics"] == pytest.approx(metrics, abs=1e-4)
    logits = np.log(np.maximum(direct(options, pixels), 1e-30))
    logits /= facts["calibration"]["temperature"]
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert abs(probabilities(classifier, pixels) - expected).max() < 1e-3
    assert "120 labelled" in next(report(facts))


def test_torch_opens_a_packed_model_made_without_torch(
    tmp_path: Path, pictures: Path
) -> None:
    path = tmp_path / "model.bin"
    command = f"pack {SKLEARN} --samples {pictures} --output {path} --classes".split()
    code = (
        "import sys; sys.modules['torch'] = None; import model.__main__ as main;"
        f"sys.argv[1:] = {[*command, *SHAPES]}; main.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"{path} is now sklearn" in done.stdout
    assert "refuses no picture" in done.stdout
    assert torch.load(path, weights_only=True)["classes"] == SHAPES
    for command in (["show"], ["verify"]):
        run = [sys.executable, "-m", "model", *command, str(path)]
        assert (
            b"sklearn" in subprocess.run(run, stdout=subprocess.PIPE, check=True).stdout
        )


def linear(
    path: Path,
    shape: Sequence[int | str],
    *,
    columns: int = 4,
    end: str = "",
    kind: int = TensorProto.FLOAT,
    batch: int = 0,
    **layout: Any,
) -> str:
    """Write a graph of one random layer and return its path."""
    size = int(np.prod([side for side in shape[1:] if isinstance(side, int)]))
    weights = np.random.default_rng(1).normal(0, 0.1, (size, columns))
    weights = weights.astype(helper.tensor_dtype_to_np_dtype(kind))
    flat = np.array([batch or -1, size])
    names = ["z", "y"] if end else ["y"]
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], names[:1]),
        *([helper.make_node(end, ["z"], ["y"])] if end else []),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, [shape[0], columns])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(flat, "flat")],
    )
    opset = [helper.make_opsetid("", layout.get("opset", 17))]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return f"--onnx {path} --size 8"


def expected_logits(path: Path, values: NDArray[Any]) -> NDArray[Any]:
    graph = onnx.load(path).graph
    weights = numpy_helper.to_array(graph.initializer[0])
    return np.asarray(values.reshape(len(values), -1) @ weights)


@pytest.mark.parametrize(
    ("shape", "more", "options", "transpose"),
    [
        (["n", 3, 8, 8], {}, "--colour --scale 0..1", (0, 3, 1, 2)),
        ([1, 3, 8, 8], {"opset": 13}, "--colour --scale 0..1", (0, 3, 1, 2)),
        (["n", 8, 8, 3], {"opset": 8}, "--colour --scale 0..1", (0, 1, 2, 3)),
        (
            ["n", 192],
            {"opset": 21},
            "--colour --scale 0..1 --layout nchw",
            (0, 3, 1, 2),
        ),
        (["n", 8, 8, 1], {}, "--grey --scale 0..1", (0, 1, 2)),
        (
            ["n", 1, 8, 8],
            {"kind": TensorProto.DOUBLE},
            "--grey --scale 0..1",
            (0, 1, 2),
        ),
        (["n", 8, 8], {"end": "Softmax"}, "--grey --scale 0..1", (0, 1, 2)),
    ],
    ids=["nchw", "one at a time", "nhwc", "flat", "grey nhwc", "double", "grey"],
)
def test_pictures_are_fed_in_the_layout_of_the_graph(  # noqa: PLR0917 - rows
    tmp_path: Path,
    pictures: Path,
    shape: list[int | str],
    more: dict[str, Any],
    options: str,
    transpose: tuple[int, ...],
) -> None:
    path = tmp_path / "net.onnx"
    options = f"{linear(path, shape, **more)} {options}"
    classifier = packed(options, tmp_path / "model.bin", pictures)
    pixels = np.stack([classifier.to_pixels(s.picture) for s in classifier.samples])
    logits = expected_logits(path, pixels.transpose(transpose) / 255)
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert probabilities(classifier, pixels) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "mean", "std"),
    [
        ("--scale imagenet", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ("--scale 0..1 --mean 0.1 0.2 0.3 --std 0.5", [0.1, 0.2, 0.3], [0.5]),
        ("--scale 0..255", [0], [1 / 255]),
    ],
)
def test_levels_are_scaled_as_named(
    tmp_path: Path, pictures: Path, options: str, mean: list[float], std: list[float]
) -> None:
    path = tmp_path / "net.onnx"
    options = f"{linear(path, ['n', 8, 8, 3])} --colour {options}"
    classifier = packed(options, tmp_path / "model.bin", pictures)
    pixels = np.stack([classifier.to_pixels(s.picture) for s in classifier.samples])
    logits = expected_logits(path, (pixels / 255 - mean) / std)
    logits -= logits.max(1, keepdims=True)
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert probabilities(classifier, pixels) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("end", ["Sigmoid", ""])
def test_one_number_answers_for_two_classes(
    tmp_path: Path, pictures: Path, end: str
) -> None:
    path = tmp_path / "net.onnx"
    options = linear(path, ["n", 8, 8], columns=1, end=end)
    options += " --grey --scale 0..1 --classes no yes" + (
        " --logits" if not end else ""
    )
    classifier = packed(options, tmp_path / "model.bin", pictures)
    pixels = np.stack([classifier.to_pixels(s.picture) for s in classifier.samples])
    yes = 1 / (1 + np.exp(-expected_logits(path, pixels / 255)[:, 0]))
    expected = np.stack([1 - yes, yes], 1)
    assert probabilities(classifier, pixels) == pytest.approx(expected, abs=1e-5)


GREY = "--grey --scale 0..1"


@pytest.mark.parametrize(
    ("shape", "more", "options", "reason"),
    [
        (["n", 8, 8], {"columns": 3}, GREY, r"answers \[1, 3\], not \[1, 4\]"),
        (["n", 9, 9], {}, GREY, r"takes \[N, 9, 9\], not pictures of 8 x 8 in grey"),
        (["n", 3, 8, 8], {}, GREY, r"takes \[N, 3, 8, 8\]"),
        (["n", 192], {}, "--colour --scale 0..1", "--layout"),
        ([1, 8, 8], {"batch": 1}, GREY, "only one picture at a time"),
        (["n", 8, 8], {"end": "Sigmoid"}, GREY, "do not sum to 1"),
        (["n", 8, 8], {}, f"{GREY} --probabilities", "no probabilities"),
        (["n", 8, 8], {}, "--grey --scale imagenet", "3 channels, the pictures have 1"),
        (["n", 8, 8], {}, "--grey --scale 0..2", "no scale '0..2': 0..255, 0..1"),
        (["n", 8, 8], {}, f"{GREY} --std 0", "--std not 0"),
        (["n", 8, 8], {}, f"{GREY} --samples no/where", "no folder no/where"),
        (["n", 8, 8], {}, f"{GREY} --labelled tests", "in no class's folder"),
        (["n", 8, 8], {}, f"{GREY} --onnx model.bin", "not an ONNX file"),
        (["n", 8, 8], {}, f"{GREY} --classes a a b c", "two are the same"),
        (["n", 8, 8], {}, f"{GREY} --size 0", "size: "),
        (["n", 8, 8], {}, f"{GREY} --output no/where", "cannot write"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(  # noqa: PLR0917 - rows
    tmp_path: Path,
    pictures: Path,
    shape: list[int | str],
    more: dict[str, Any],
    options: str,
    reason: str,
) -> None:
    output = tmp_path / "model.bin"
    arguments = linear(tmp_path / "net.onnx", shape, **more).split()
    arguments += ["--samples", str(pictures), "--output", str(output), "--classes"]
    arguments += [*SHAPES, *options.split()]
    with pytest.raises(ArtifactError, match=reason):
        command_line.pack(parse_options(["pack", *arguments]))
    assert not output.exists()


def test_weights_in_files_beside_the_graph_are_packed(
    tmp_path: Path, pictures: Path
) -> None:
    path = tmp_path / "net.onnx"
    options = f"{linear(path, ['n', 8, 8])} {GREY}"
    onnx.save(
        onnx.load(path),
        path,
        save_as_external_data=True,
        size_threshold=0,
        location="w",
    )
    packed(options, tmp_path / "model.bin", pictures)
    (tmp_path / "w").unlink()
    Classifier(artifact.read(str(tmp_path / "model.bin")))
    with pytest.raises(ArtifactError, match=r"not an ONNX file to use: .*w"):
        packed(options, tmp_path / "model.bin", pictures)


def test_classes_in_another_order_are_refused(tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "classes.txt").write_text("\n".join(SHAPES[::-1]))
    options = f"{SKLEARN} --classes {tmp_path / 'classes.txt'}"
    with pytest.raises(
        ArtifactError, match="orders the classes cross disc ring square"
    ):
        packed(options, tmp_path / "model.bin", pictures)


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
