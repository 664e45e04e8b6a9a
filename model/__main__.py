"""Show, verify or fetch a `model.bin`.

python -m model show                                what a model says of itself
python -m model verify https://example.com/model.bin --sha256 HEX
python -m model fetch s3://bucket/model.bin -o model.bin
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from model import store
from model.artifact import (
    MODEL,
    Artifact,
    ArtifactError,
    check_output,
    digest,
    parse,
    read,
    replace,
)
from model.classifier import Classifier


def fetch(uri: str, path: Path, sha256: str | None = None) -> Artifact:
    """Bring the model at `uri` to `path`, where only one that works gets to.

    What has come before a failure or Ctrl-C waits beside it, for the next call.
    Raises `ArtifactError`, `store.StoreError`, `OSError`.
    """
    if store.path_of(uri):
        raise ArtifactError(f"{uri} is here already: copy it")
    check_output(path)
    rest = path.with_name(f"{path.name}.part")
    with tempfile.TemporaryFile() as file:
        part = store.Part(file)
        take_up(part, rest, uri)
        try:
            store.fetch(uri, part, tell=progress)
        except (store.StoreError, KeyboardInterrupt):
            leave(part, rest, uri)
            raise
        rest.unlink(missing_ok=True)
        artifact = parse(file, uri, sha256)
        Classifier(artifact)
        file.seek(0)
        replace(path, file.read())
    return artifact


def leave(part: store.Part, rest: Path, uri: str) -> None:
    """Save a part of the file at `uri`, under a line that says of which version."""
    if part.tag and part.file.tell():
        part.file.seek(0)
        replace(rest, f"{sign(uri)} {part.tag}\n".encode() + part.file.read())


def take_up(part: store.Part, rest: Path, uri: str) -> None:
    """Put back what `leave` saved, if it is of the same URI."""
    if not rest.is_file():
        return
    with rest.open("rb") as file:
        signature, _, tag = file.readline().decode(errors="replace").partition(" ")
        if signature == sign(uri):
            part.begin(0, tag.rstrip("\n"))
            shutil.copyfileobj(file, part.file)


def sign(uri: str) -> str:
    """Tell a URI from others without its credentials."""
    return hashlib.sha256(uri.encode()).hexdigest()


def progress(done: int, total: int | None) -> None:
    """Show on a terminal how far a download is, where the next line will be."""
    if sys.stderr.isatty():
        share = f"{done / total:4.0%} of " if total else ""
        shown = f"{share}{(total or done) / 1e6:.1f} MB"
        print(shown, end="\r", file=sys.stderr, flush=True)


def show(uri: str, sha256: str | None, *, as_json: bool) -> str:
    """Tell what a model says of itself, and size and SHA-256 of its file."""
    with store.opened(uri) as part:
        facts = parse(part.file, uri, sha256).facts
        facts["bytes"] = part.file.seek(0, os.SEEK_END)
        facts["sha256"] = digest(part.file)
    return json.dumps(facts, indent=4) if as_json else "\n".join(lines_of(facts))


def lines_of(facts: dict[str, Any], indent: str = "") -> Iterator[str]:
    """Lay out facts for a person."""
    for name, value in facts.items():
        if isinstance(value, dict):
            yield f"{indent}{name}"
            yield from lines_of(value, f"{indent}    ")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else value
            yield f"{indent}{name:<18} {text}"


def parse_options() -> argparse.Namespace:
    """Read the command line; without a URI it is about the model of the service."""
    parser = argparse.ArgumentParser(
        prog="python -m model",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=["show", "verify", "fetch"])
    parser.add_argument(
        "uri", nargs="?", help="or, but for fetch, a path (FLASK_MODEL_URI)"
    )
    parser.add_argument("--sha256", help="of the file (FLASK_MODEL_SHA256)")
    parser.add_argument("--json", action="store_true", help="show: for programs")
    parser.add_argument(
        "-o", "--output", type=Path, default="model.bin", help="fetch: %(default)s"
    )
    options = parser.parse_args()
    if options.uri is None:
        options.uri = os.environ.get("FLASK_MODEL_URI") or str(MODEL)
        options.sha256 = options.sha256 or os.environ.get("FLASK_MODEL_SHA256")
    return options


def main() -> None:
    """Run the command line."""
    options = parse_options()
    uri, sha256 = options.uri, options.sha256
    try:
        if options.command == "show":
            print(show(uri, sha256, as_json=options.json))
        elif options.command == "verify":
            Classifier(artifact := read(uri, sha256))
            print(f"{store.redact(uri)} works: {title(artifact)}")
        else:
            artifact = fetch(uri, options.output, sha256)
            print(f"{options.output} is now {title(artifact)}")
    except (ArtifactError, store.StoreError, OSError) as error:
        sys.exit(f"model: {error}")
    except KeyboardInterrupt:
        sys.exit("model: stopped")


def title(artifact: Artifact) -> str:
    """Name a model in a line."""
    return f"{artifact.facts['name']} {artifact.facts['version']}"


if __name__ == "__main__":
    main()
