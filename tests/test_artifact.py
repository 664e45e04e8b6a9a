"""`model.bin` opens in both worlds, and what is not one is refused in one line."""

import io
import json
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import ROOT

import artifact

MODEL = ROOT / "model.bin"


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


def test_facts_tell_where_the_model_is_from() -> None:
    facts = artifact.read(str(MODEL)).facts
    assert facts["classes"][9] == "Ankle boot"
    assert facts["input_shape"] == [28, 28]
    assert facts["metrics"]["onnx_difference"] <= 1e-4
    assert set(facts["metrics"]["per_class"]) == set(facts["classes"])
    assert {"seed", "epochs"} <= set(facts["settings"])
    assert len(facts["data"]["fingerprint"]) == 64
    assert facts["libraries"]["torch"]
    assert facts["seconds"] > 0


def test_no_path_of_the_training_machine_is_inside(entries: dict[str, bytes]) -> None:
    for data in entries.values():
        assert b"site-packages" not in data
        assert b"train.py" not in data


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


def plain_checkpoint() -> bytes:
    buffer = io.BytesIO()
    torch.save({"weights": torch.ones(3)}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "No such file"),
        (b"", "cannot be read"),
        (b"not a zip archive", "cannot be read"),
        (MODEL.read_bytes()[:-100], "cannot be read"),
        (MODEL.read_bytes()[: MODEL.stat().st_size // 2], "cannot be read"),
        (plain_checkpoint(), "not a model of this service"),
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


def test_whatever_is_wrong_is_said_in_one_line() -> None:
    assert str(artifact.ArtifactError("one\n  two")) == "one two"


@pytest.mark.parametrize(
    "facts",
    [b"", b"{}", b"[]", b"null", b"\xff", b'{"version": "x"}'],
)
def test_a_model_with_wrong_facts_is_refused(
    tmp_path: Path, entries: dict[str, bytes], facts: bytes
) -> None:
    path = pack(tmp_path / "model.bin", entries | {artifact.JSON_ENTRY: facts})
    with pytest.raises(artifact.ArtifactError, match="not a sound model"):
        artifact.read(path)


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
