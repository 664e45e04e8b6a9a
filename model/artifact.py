"""The format of `model.bin`: write it, read it from where it is kept, verify it.

    >>> artifact.load("model.bin").facts["metrics"]["onnx_accuracy"]

One file for both worlds. `torch.load(path, weights_only=True)` gives the training
checkpoint; the service reads two more entries of the same zip archive and never
unpickles anything, so that a hostile file cannot run code:

    archive/model.onnx   the graph, weights inside
    archive/model.json   the facts: name, version, classes, threshold, metrics, ...
"""

import hashlib
import io
import json
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

from model import store

MODEL = Path(__file__).resolve().parent.parent / "model.bin"
ONNX_ENTRY = "archive/model.onnx"
JSON_ENTRY = "archive/model.json"
MAX_ENTRY_BYTES = 256 * 1024**2  # of one entry, unpacked
VERSION_DIGITS = 12  # of the SHA-256
UNVERSIONED = ("version", "seconds", "created")  # the same model, trained again
REQUIRED = ("name", "version", "classes", "input_shape", "unknown_threshold")


class ArtifactError(Exception):
    """A `model.bin` that is missing, damaged or not ours, in one line."""

    def __init__(self, fault: str) -> None:
        super().__init__(" ".join(fault.split()))


class Artifact(NamedTuple):
    """What the service needs of a `model.bin`."""

    onnx: bytes
    facts: dict[str, Any]
    tag: str | None = None  # the version's name where it is kept, such as an ETag


_kept: dict[str, Artifact] = {}


def load(uri: str, sha256: str | None = None) -> Artifact:
    """Return the verified artifact at `uri`, read at most once a process.

    Forked workers inherit the copy that gunicorn's master has verified.
    """
    return kept(uri) or keep(uri, read(uri, sha256))


def kept(uri: str) -> Artifact | None:
    """Return what `load(uri)` has no need to read."""
    return _kept.get(uri)


def keep(uri: str, artifact: Artifact) -> Artifact:
    """Make `artifact` what `load(uri)` returns from now on."""
    _kept[uri] = artifact
    return artifact


def reload(uri: str, sha256: str | None = None) -> Artifact:
    """Read `uri` again, or return what is kept if the store still has that version."""
    old = kept(uri)
    if old is None:
        return read(uri, sha256)
    try:
        return read(uri, sha256, old.tag)
    except store.UnchangedError:
        return old


def read(uri: str, sha256: str | None = None, known: str | None = None) -> Artifact:
    """Read and verify the model at a path or a URI, its file by SHA-256 if given.

    Raises `ArtifactError` with one clear line, or `store.UnchangedError` if the tag is
    still `known`.
    """
    try:
        data, tag = store.read(uri, known)
    except store.StoreError as error:
        raise ArtifactError(str(error)) from error
    return parse(data, uri, sha256)._replace(tag=tag)


def parse(data: bytes, uri: str, sha256: str | None = None) -> Artifact:
    """Read and verify the file that came from `uri`. Raises `ArtifactError`."""
    shown = store.redact(uri)
    if sha256 and (found := digest(data)) != sha256.lower():
        raise ArtifactError(f"{shown} has the SHA-256 {found}, not {sha256.lower()}")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            onnx, facts = (_entry(archive, name) for name in (ONNX_ENTRY, JSON_ENTRY))
    except KeyError as error:
        raise ArtifactError(
            f"{shown} is not a model of this service: {error}"
        ) from error
    except Exception as error:  # zipfile raises any kind on a damaged archive
        raise ArtifactError(f"{shown} cannot be read: {error}") from error
    try:
        artifact = Artifact(onnx, json.loads(facts))
        _verify(artifact)
    except (ValueError, TypeError, KeyError) as error:
        raise ArtifactError(f"{shown} is not a sound model: {error}") from error
    return artifact


def digest(data: bytes) -> str:
    """Return the SHA-256 of a file in hex digits."""
    return hashlib.sha256(data).hexdigest()


def _entry(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > MAX_ENTRY_BYTES:
        raise zipfile.BadZipFile(f"{name} is over {MAX_ENTRY_BYTES} bytes")
    return archive.read(name)


def _verify(artifact: Artifact) -> None:
    missing = [name for name in REQUIRED if name not in artifact.facts]
    if missing:
        raise ValueError(f"model.json lacks {', '.join(missing)}")
    if artifact.facts["version"] != version(artifact):
        raise ValueError("its version does not match its contents")


def version(artifact: Artifact) -> str:
    """Name the contents: the first hex digits of the SHA-256 of graph and facts."""
    facts = {k: v for k, v in artifact.facts.items() if k not in UNVERSIONED}
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(artifact.onnx + text.encode()).hexdigest()[:VERSION_DIGITS]


def write(path: Path, checkpoint: dict[str, Any], artifact: Artifact) -> None:
    """Write a `model.bin` atomically, its version put into the facts of `artifact`.

    `checkpoint` is what `torch.load(path, weights_only=True)` will give.
    """
    import torch  # noqa: PLC0415 - only training writes, serving has no torch

    artifact.facts["version"] = version(artifact)
    buffer = io.BytesIO()  # a file would name the archive's folder after itself
    torch.save(checkpoint | {"version": artifact.facts["version"]}, buffer)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(ONNX_ENTRY, artifact.onnx)
        archive.writestr(JSON_ENTRY, json.dumps(artifact.facts, indent=1))
    replace(path, buffer.getvalue())


def replace(path: Path, data: bytes) -> None:
    """Put `data` at `path` in one step: a crash leaves the old file or the new one."""
    path = path.resolve()  # a link stays one
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # temporary files are private
        temporary.replace(path)
    except BaseException:
        temporary.unlink()
        raise


def check_output(path: Path) -> None:
    """Raise `ArtifactError` if `replace` could not write to `path`, or beside it.

    For those who would find out only after an hour.
    """
    folders = path.parent, path.resolve().parent
    for folder in folders:
        if not folder.is_dir():
            raise ArtifactError(f"cannot write {path}: no folder {folder}")
    if path.is_dir() or not all(os.access(folder, os.W_OK) for folder in folders):
        raise ArtifactError(f"cannot write {path}")
