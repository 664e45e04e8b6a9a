"""The format of `model.bin`: write it, read it from where it is kept, verify it.

    >>> artifact.load("model.bin").facts["metrics"]["onnx_accuracy"]

One file for both worlds. `torch.load(path, weights_only=True)` gives the training
checkpoint; the service reads more entries of the same zip archive and never unpickles
anything, so that a hostile file cannot run code:

    archive/model.onnx   the graph, weights inside
    archive/model.json   the facts: name, version, classes, threshold, metrics, ...
    archive/samples/     small pictures, and in samples.json the model's answers
"""

import hashlib
import io
import json
import os
import pickle
import tempfile
import zipfile
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    Field,
    FiniteFloat,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import from_json

from model import store

MODEL = Path(__file__).resolve().parent.parent / "model.bin"
ONNX_ENTRY = "archive/model.onnx"
JSON_ENTRY = "archive/model.json"
SAMPLES_FOLDER = "archive/samples/"
SAMPLES_ENTRY = f"{SAMPLES_FOLDER}samples.json"
MAX_ONNX_BYTES = 256 * 1024**2  # unpacked, as those below
MAX_JSON_BYTES = 1024**2
MAX_SAMPLE_BYTES = 100_000
MAX_SAMPLES = 100
MAX_NAME = 64  # characters, of a model or a class
MAX_FAULT = 1_000  # characters of an error message
VERSION_DIGITS = 12  # of the SHA-256
UNVERSIONED = ("version", "seconds", "created")  # differ if a training is repeated


class ArtifactError(Exception):
    """A `model.bin` that is missing, damaged or not ours, in one printable line."""

    def __init__(self, fault: str) -> None:
        super().__init__(printable(" ".join(fault.split()))[:MAX_FAULT])


def printable(text: str) -> str:
    """Escape control characters, which could drive the terminal that shows them."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def fault_of(error: Exception) -> str:
    """Return the message of an error in one line; of pydantic's, the first fault."""
    if not isinstance(error, ValidationError):
        return str(error)
    fault = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"


def _check_printable(name: str) -> str:
    if not name.isprintable() or name != name.strip():
        raise ValueError("it must be printable, without space at its ends")
    return name


def _check_path(name: str) -> str:
    if "/" in name:  # it is part of addresses
        raise ValueError("it must be without a slash")
    return name


def _check_unique(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError("two are the same")
    return names


Name = Annotated[
    str, Field(min_length=1, max_length=MAX_NAME), AfterValidator(_check_printable)
]


class Facts(BaseModel, frozen=True, strict=True):
    """The entries of `model.json` that serving needs; there are more."""

    name: Annotated[Name, AfterValidator(_check_path)]
    version: str
    classes: Annotated[list[Name], Field(min_length=2), AfterValidator(_check_unique)]
    input: dict[str, Any]  # this and the next are for `preprocessing.from_facts`
    preprocessing: dict[str, Any]
    unknown_threshold: FiniteFloat | None  # None: no picture is unknown


class Sample(BaseModel, frozen=True, strict=True):
    """A small picture, and the answer that the model gave at its release."""

    file: str = Field(pattern=r"^[0-9a-z-]{1,40}\.(png|jpg)$")  # in SAMPLES_FOLDER
    label: str = Field(
        validation_alias=AliasChoices("class", "label"), serialization_alias="class"
    )
    probability: FiniteFloat
    unknown_score: FiniteFloat | None
    picture: bytes = Field(default=b"", exclude=True, repr=False)


class Artifact(NamedTuple):
    """What the service needs of a `model.bin`."""

    onnx: bytes
    facts: dict[str, Any]  # as in `Facts`, and more
    samples: tuple[Sample, ...] = ()
    tag: str | None = None  # the version's name where it is kept, such as an ETag


_kept: dict[str, Artifact] = {}


def load(uri: str, sha256: str | None = None) -> Artifact:
    """Return the verified artifact at `uri`, read at most once a process.

    Forked workers inherit the copy that gunicorn's master has verified.
    """
    return kept(uri) or keep(uri, read(uri, sha256))


def kept(uri: str) -> Artifact | None:
    """Return the artifact that `load(uri)` has read already, if any."""
    return _kept.get(uri)


def keep(uri: str, artifact: Artifact) -> Artifact:
    """Have `load(uri)` return `artifact` from now on."""
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
            onnx = _entry(archive, ONNX_ENTRY, MAX_ONNX_BYTES)
            facts = _entry(archive, JSON_ENTRY, MAX_JSON_BYTES)
            samples = _read_samples(archive)
    except KeyError as error:
        raise ArtifactError(
            f"{shown} is not a model of this service: {error}"
        ) from error
    except Exception as error:  # zipfile raises any kind on a damaged archive
        raise ArtifactError(f"{shown} cannot be read: {fault_of(error)}") from error
    try:
        artifact = Artifact(onnx, from_json(facts), samples)
        _verify(artifact)
    except ValueError as error:
        raise ArtifactError(
            f"{shown} is not a sound model: {fault_of(error)}"
        ) from error
    return artifact


def digest(data: bytes) -> str:
    """Return the SHA-256 of a file in hex digits."""
    return hashlib.sha256(data).hexdigest()


def _entry(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    if archive.getinfo(name).file_size > limit:
        raise zipfile.BadZipFile(f"{name} is over {limit} bytes")
    return archive.read(name)


def _read_samples(archive: zipfile.ZipFile) -> tuple[Sample, ...]:
    if SAMPLES_ENTRY not in archive.namelist():
        return ()
    records = Annotated[list[Sample], Field(max_length=MAX_SAMPLES)]
    text = _entry(archive, SAMPLES_ENTRY, MAX_JSON_BYTES)
    return tuple(
        sample.model_copy(
            update={
                "picture": _entry(
                    archive, SAMPLES_FOLDER + sample.file, MAX_SAMPLE_BYTES
                )
            }
        )
        for sample in TypeAdapter(records).validate_json(text)
    )


def _verify(artifact: Artifact) -> None:
    facts = Facts.model_validate(artifact.facts)
    if facts.version != version(artifact):
        raise ValueError("its version does not match its contents")


def version(artifact: Artifact) -> str:
    """Return the first hex digits of the SHA-256 of graph and facts."""
    facts = {k: v for k, v in artifact.facts.items() if k not in UNVERSIONED}
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(artifact.onnx + text.encode()).hexdigest()[:VERSION_DIGITS]


def write(path: Path, checkpoint: dict[str, Any], artifact: Artifact) -> None:
    """Write a `model.bin` atomically, and set the version in the facts of `artifact`.

    `checkpoint` is what `torch.load(path, weights_only=True)` will return.
    """
    artifact.facts["version"] = version(artifact)
    buffer = io.BytesIO()  # a file would name the archive's folder after itself
    save_checkpoint(checkpoint | {"version": artifact.facts["version"]}, buffer)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(ONNX_ENTRY, artifact.onnx)
        archive.writestr(JSON_ENTRY, json.dumps(artifact.facts, indent=1))
        records = [sample.model_dump(by_alias=True) for sample in artifact.samples]
        archive.writestr(SAMPLES_ENTRY, json.dumps(records, indent=1))
        for sample in artifact.samples:
            archive.writestr(SAMPLES_FOLDER + sample.file, sample.picture)
    replace(path, buffer.getvalue())


def save_checkpoint(checkpoint: dict[str, Any], buffer: io.BytesIO) -> None:
    """Write what `torch.load` reads; without torch only if there is no tensor in it."""
    try:
        import torch  # noqa: PLC0415 - serving has no torch
    except ModuleNotFoundError:
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(checkpoint, protocol=2))
            archive.writestr("archive/version", "3\n")  # of torch's format
    else:
        torch.save(checkpoint, buffer)


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

    To be called before work that takes an hour.
    """
    folders = path.parent, path.resolve().parent
    for folder in folders:
        if not folder.is_dir():
            raise ArtifactError(f"cannot write {path}: no folder {folder}")
    if path.is_dir() or not all(os.access(folder, os.W_OK) for folder in folders):
        raise ArtifactError(f"cannot write {path}")
