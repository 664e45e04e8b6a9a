"""Show, verify or fetch a `model.bin`.

python -m model show                                name, classes, metrics, ...
python -m model verify https://example.com/model.bin --sha256 HEX
python -m model fetch s3://bucket/model.bin -o model.bin
"""

import argparse
import json
import os
import sys
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
    printable,
    read,
    replace,
)
from model.classifier import Classifier


def fetch(uri: str, path: Path, sha256: str | None = None) -> Artifact:
    """Download the model at `uri` to `path`, if it works.

    Raises `ArtifactError`, `store.StoreError`, `OSError`.
    """
    if store.local_path(uri):
        raise ArtifactError(f"{uri} is on this machine: copy it")
    check_output(path)
    data, _ = store.read(uri, progress=print_progress)
    artifact = parse(data, uri, sha256)
    Classifier(artifact)
    replace(path, data)
    return artifact


def print_progress(done: int, total: int | None) -> None:
    """Print on a terminal how much has arrived, where the next line will be."""
    if sys.stderr.isatty():
        share = f"{done / total:4.0%} of " if total else ""
        line = f"{share}{(total or done) / 1e6:.1f} MB"
        print(line, end="\r", file=sys.stderr, flush=True)


def show(uri: str, sha256: str | None, *, as_json: bool) -> str:
    """Return the facts of a model, and size and SHA-256 of its file."""
    data, _ = store.read(uri)
    facts = parse(data, uri, sha256).facts
    facts |= {"bytes": len(data), "sha256": digest(data)}
    return json.dumps(facts, indent=4) if as_json else "\n".join(format_facts(facts))


def format_facts(facts: dict[str, Any], indent: str = "") -> Iterator[str]:
    """Yield lines for a person to read."""
    for name, value in facts.items():
        label = f"{indent}{printable(name)}"
        if isinstance(value, dict):
            yield label
            yield from format_facts(value, f"{indent}    ")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            yield f"{label:<{len(indent) + 18}} {printable(text)}"


def parse_options() -> argparse.Namespace:
    """Parse the command line; the default URI is that of the service."""
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
    """Return the name and the version of a model."""
    return f"{artifact.facts['name']} {artifact.facts['version']}"


if __name__ == "__main__":
    main()
