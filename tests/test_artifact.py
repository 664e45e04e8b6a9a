"""`model.bin` opens in both worlds, and what is not one is refused in one line."""

import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import onnx
import onnx.numpy_helper
import pytest
import torch
from conftest import ROOT

from model import artifact

MODEL = ROOT / "model.bin"
VERSION = artifact.read(str(MODEL)).facts["version"]


@pytest.fixture(scope="module")
def entries() -> dict[str, bytes]:
    with zipfile.ZipFile(MODEL) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(path: Path, entries: dict[str, bytes]) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return str(path)


def test_torch_opens_the_committed_model() -> None:
    checkpoint = torch.load(MODEL, weights_only=True)
    assert checkpoint["arguments"]["classes"] == len(checkpoint["classes"]) == 10
    assert checkpoint["state_dict"]


def test_facts_state_where_the_model_is_from() -> None:
    facts = artifact.read(str(MODEL)).facts
    assert facts["classes"][9] == "Ankle boot"
    assert facts["input"] == {"size": 28, "channels": 1}
    assert facts["preprocessing"]["name"] == "garment"
    assert facts["metrics"]["onnx_same_class"] >= 0.998
    assert (
        facts["metrics"]["onnx_accuracy"] >= facts["metrics"]["test_accuracy"] - 0.001
    )
    assert set(facts["metrics"]["per_class"]) == set(facts["classes"])
    assert {"seed", "epochs"} <= set(facts["settings"])
    assert len(facts["data"]["fingerprint"]) == 64
    assert facts["libraries"]["torch"]
    assert facts["seconds"] > 0
    assert sum(facts["reference"]["class_shares"].values()) == pytest.approx(
        1, abs=0.01
    )


def test_weights_fit_every_processor() -> None:
    """Two products of 63 x 255 fit 16 bits, in which some add them."""
    graph = onnx.load_from_string(artifact.read(str(MODEL)).onnx).graph
    whole = [
        onnx.numpy_helper.to_array(weight)
        for weight in graph.initializer
        if weight.data_type == onnx.TensorProto.INT8 and len(weight.dims) > 1
    ]
    assert len(whole) == 9
    assert max(abs(weights.astype(int)).max() for weights in whole) == 63


def test_no_path_of_the_training_machine_is_inside(entries: dict[str, bytes]) -> None:
    for data in entries.values():
        assert b"site-packages" not in data
        assert b"/train.py" not in data


def test_version_ignores_seconds_and_dates() -> None:
    model = artifact.read(str(MODEL))
    later = model._replace(facts=model.facts | {"seconds": 1, "created": "later"})
    other = model._replace(facts=model.facts | {"unknown_threshold": 0.0})
    assert artifact.version(later) == artifact.version(model)
    assert artifact.version(other) != artifact.version(model)


def test_write_and_read_give_the_same(tmp_path: Path) -> None:
    model = artifact.read(str(MODEL))
    path = tmp_path / "copy.bin"
    artifact.write(path, {"weights": torch.ones(3)}, model)
    assert artifact.read(str(path)) == model
    assert torch.load(path, weights_only=True)["weights"].sum() == 3
    with zipfile.ZipFile(path) as archive:
        assert {name.split("/")[0] for name in archive.namelist()} == {"archive"}


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        artifact.replace(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_one_when_it_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "model.bin").symlink_to(tmp_path / "store" / "1.bin")
    artifact.replace(tmp_path / "model.bin", b"new")
    assert (tmp_path / "model.bin").is_symlink()
    assert (tmp_path / "store" / "1.bin").read_bytes() == b"new"


def saved(value: object) -> bytes:
    """Return what `torch.save` makes of anything."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "No such file"),
        (b"", "cannot be read"),
        (b"not a zip archive", "cannot be read"),
        (MODEL.read_bytes()[:-100], "cannot be read"),
        (MODEL.read_bytes()[: MODEL.stat().st_size // 2], "cannot be read"),
        (saved({"weights": torch.ones(3)}), "not a model of this service"),
    ],
    ids=["missing", "empty", "text", "cut", "half", "plain checkpoint"],
)
def test_a_file_that_is_no_model_is_refused(
    tmp_path: Path, data: bytes | None, reason: str
) -> None:
    path = tmp_path / "model.bin"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(artifact.ArtifactError, match=reason):
        artifact.read(str(path))


class Hostile:
    """What runs code where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_hostile_model_runs_no_code(
    tmp_path: Path, entries: dict[str, bytes]
) -> None:
    touched = tmp_path / "touched"
    hostile = pickle.dumps(Hostile(touched))
    names = [name for name in entries if name.endswith(".pkl")]
    path = pack(tmp_path / "model.bin", entries | dict.fromkeys(names, hostile))
    assert artifact.read(path).facts["version"] == VERSION
    assert run("verify", path).returncode == 0
    assert run("show", path).returncode == 0
    assert not touched.exists()
    pickle.loads(hostile)  # noqa: S301 - it would
    assert touched.exists()


def test_an_error_is_one_printable_line() -> None:
    assert str(artifact.ArtifactError("one\n  two\x1b[31m")) == "one two\\x1b[31m"
    assert len(str(artifact.ArtifactError("long " * 10**6))) == artifact.MAX_FAULT


@pytest.mark.parametrize(
    "facts",
    [b"", b"{}", b"[]", b"null", b"\xff", b'{"version": "x"}', b"[" * 200_000],
    ids=["empty", "no facts", "list", "null", "binary", "version", "nested"],
)
def test_a_model_with_wrong_facts_is_refused(
    tmp_path: Path, entries: dict[str, bytes], facts: bytes
) -> None:
    path = pack(tmp_path / "model.bin", entries | {artifact.JSON_ENTRY: facts})
    with pytest.raises(artifact.ArtifactError, match="not a sound model"):
        artifact.read(path)


@pytest.mark.parametrize(
    ("entry", "value", "reason"),
    [
        ("name", "", "name: "),
        ("name", "red\x1b[31m", "printable"),
        ("name", "a" * 65, "at most 64"),
        ("name", 1, "string"),
        ("classes", ["a"], "at least 2"),
        ("classes", ["a", "a"], "two are the same"),
        ("classes", ["a", None], "classes.1: "),
        ("classes", ["a", "b\n"], "printable"),
        ("input", [28, 28], "input: "),
        ("unknown_threshold", "0", "number"),
        ("unknown_threshold", float("nan"), "finite"),
    ],
)
def test_facts_that_no_service_could_show_are_refused(
    tmp_path: Path, entry: str, value: object, reason: str
) -> None:
    model = artifact.read(str(MODEL))
    path = tmp_path / "model.bin"
    artifact.write(path, {}, model._replace(facts=model.facts | {entry: value}))
    with pytest.raises(artifact.ArtifactError, match=reason) as caught:
        artifact.read(str(path))
    assert str(caught.value).isprintable()


def test_samples_are_few_and_small(tmp_path: Path) -> None:
    model = artifact.read(str(MODEL))
    first = model.samples[0]
    large = (first.model_copy(update={"picture": bytes(10**6)}),)
    many = [first.model_copy(update={"file": f"{n}.png"}) for n in range(101)]
    path = tmp_path / "model.bin"
    for samples, reason in ((large, "0.png is over"), (tuple(many), "at most 100")):
        artifact.write(path, {}, model._replace(samples=samples))
        with pytest.raises(artifact.ArtifactError, match=reason):
            artifact.read(str(path))


def test_samples_are_read_from_their_folder_alone(
    tmp_path: Path, entries: dict[str, bytes]
) -> None:
    records = json.loads(entries[artifact.SAMPLES_ENTRY])
    records[0]["file"] = "../data.pkl"
    changed = {artifact.SAMPLES_ENTRY: json.dumps(records).encode()}
    with pytest.raises(artifact.ArtifactError, match=r"0\.file"):
        artifact.read(pack(tmp_path / "model.bin", entries | changed))


def test_a_changed_graph_or_fact_is_refused(
    tmp_path: Path, entries: dict[str, bytes]
) -> None:
    facts = json.loads(entries[artifact.JSON_ENTRY]) | {"unknown_threshold": 99}
    for change in (
        {artifact.ONNX_ENTRY: entries[artifact.ONNX_ENTRY][:-1] + b"!"},
        {artifact.JSON_ENTRY: json.dumps(facts).encode()},
    ):
        path = pack(tmp_path / "model.bin", entries | change)
        with pytest.raises(artifact.ArtifactError, match="version does not match"):
            artifact.read(path)


def test_load_reads_once(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(MODEL.read_bytes())
    first = artifact.load(str(path))
    path.unlink()
    assert artifact.load(str(path)) is first


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m model ...`."""
    return subprocess.run(
        [sys.executable, "-m", "model", *arguments],
        check=False,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_show_prints_no_control_characters(tmp_path: Path) -> None:
    model = artifact.read(str(MODEL))
    model.facts["settings"] |= {"\x1b[31m": {"\x07": ["\x9b"]}}
    artifact.write(tmp_path / "model.bin", {}, model)
    for option in ([], ["--json"]):
        done = run("show", tmp_path / "model.bin", *option)
        assert done.returncode == 0
        assert done.stdout.replace("\n", "").isprintable()


def test_show_prints_the_facts_of_a_model() -> None:
    lines = run("show").stdout.splitlines()
    assert lines[:2] == [
        "name               fashion",
        f"version            {VERSION}",
    ]
    facts = json.loads(run("show", MODEL, "--json").stdout)
    digest = hashlib.sha256(MODEL.read_bytes()).hexdigest()
    expected = {"bytes": MODEL.stat().st_size, "sha256": digest}
    assert facts == artifact.read(str(MODEL)).facts | expected


def test_verify_tries_a_model_as_the_service_does(tmp_path: Path) -> None:
    digest = hashlib.sha256(MODEL.read_bytes()).hexdigest()
    done = run("verify", MODEL, "--sha256", digest.upper())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{MODEL} works: fashion {VERSION}\n"
    model = artifact.read(str(MODEL))._replace(onnx=b"no graph")
    artifact.write(tmp_path / "model.bin", {}, model)
    assert f"has the SHA-256 {digest}, not 00" in refusal(MODEL, "--sha256", "0" * 64)
    assert "No such file" in refusal(tmp_path / "none")
    assert "the model does not run" in refusal(tmp_path / "model.bin")
    model = artifact.read(str(MODEL))
    sample = model.samples[0].model_copy(update={"probability": 0.5})
    artifact.write(tmp_path / "model.bin", {}, model._replace(samples=(sample,)))
    assert "sample 0.png is ('T-shirt/top', 0.9" in refusal(tmp_path / "model.bin")


def refusal(*arguments: str | Path) -> str:
    done = run("verify", *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    return done.stderr


def test_the_model_of_the_service_is_the_default(tmp_path: Path) -> None:
    wrong = {"FLASK_MODEL_SHA256": "0" * 64}
    assert run("verify", FLASK_MODEL_URI=str(tmp_path / "none")).returncode == 1
    assert run("verify", **wrong).returncode == 1
    assert run("verify", MODEL, **wrong).returncode == 0  # it is about another file


def test_fetch_is_for_what_is_elsewhere(tmp_path: Path) -> None:
    done = run("fetch", MODEL, "-o", tmp_path / "model.bin")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("output", [".", "nowhere/model.bin"])
def test_fetch_downloads_nothing_that_it_cannot_write(
    tmp_path: Path, output: str
) -> None:
    done = run("fetch", "http://127.0.0.1:9/model.bin", "-o", tmp_path / output)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "cannot write" in done.stderr
