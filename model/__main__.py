"""Show, verify, fetch or make a `model.bin`.

python -m model show                                name, classes, metrics, ...
python -m model verify https://example.com/model.bin --sha256 HEX
python -m model fetch s3://bucket/model.bin -o model.bin
python -m model contract                            for Seldon's tester
python -m model pack --onnx net.onnx --classes cat dog --size 64 --colour \
    --scale 0..1 --samples pictures/                of a Keras or scikit-learn model
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

TASKS = {
    "show": "print the facts of a model",
    "verify": "try a model as the service does",
    "fetch": "download a model, if it works",
    "contract": "print inputs and outputs for Seldon's tester",
    "pack": "make a model.bin of an ONNX classifier",  # parses its own options
}


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


def contract(classifier: Classifier) -> dict[str, Any]:
    """Return the inputs and outputs of a model, as Seldon's tester reads them."""
    pixels = {"name": "pixels", "dtype": "INT", "range": [0, 255]}
    share = {"dtype": "FLOAT", "range": [0, 1]}
    return {
        "features": [
            pixels | {"ftype": "continuous", "shape": [*classifier.input_shape]}
        ],
        "targets": [
            {"name": name, "ftype": "continuous"} | share for name in classifier.classes
        ],
    }


def parse_options() -> argparse.Namespace:
    """Parse the command line; the default URI is that of the service."""
    parser = argparse.ArgumentParser(
        prog="python -m model",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, task in TASKS.items():
        command = commands.add_parser(name, help=task, description=task)
        if name == "fetch":
            command.add_argument("uri", help="a URI")
            command.add_argument(
                "-o", "--output", type=Path, default="model.bin", help="(%(default)s)"
            )
        else:
            command.add_argument(
                "uri", nargs="?", help="a URI or a path (FLASK_MODEL_URI)"
            )
        command.add_argument("--sha256", help="of the file (FLASK_MODEL_SHA256)")
        if name == "show":
            command.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args()
    if options.uri is None:
        options.uri = os.environ.get("FLASK_MODEL_URI") or str(MODEL)
        options.sha256 = options.sha256 or os.environ.get("FLASK_MODEL_SHA256")
    return options


def pack(arguments: list[str]) -> None:
    """Make a model of an ONNX file, and print what it can do."""
    try:
        from model import pack  # noqa: PLC0415 - serving has no onnx
    except ModuleNotFoundError as error:
        raise ArtifactError(f"pack needs the package {error.name}") from error
    options = pack.parse_options(arguments)
    facts = pack.pack(options)
    print(f"{options.output} is now {facts['name']} {facts['version']}")
    print(*pack.report(facts), sep="\n")


def run(options: argparse.Namespace) -> None:
    """Run a command. Raises `ArtifactError`, `store.StoreError`, `OSError`."""
    uri, sha256 = options.uri, options.sha256
    if options.command == "show":
        print(show(uri, sha256, as_json=options.json))
    elif options.command == "fetch":
        artifact = fetch(uri, options.output, sha256)
        print(f"{options.output} is now {title(artifact)}")
    else:
        classifier = Classifier(artifact := read(uri, sha256))
        if options.command == "contract":
            print(json.dumps(contract(classifier), indent=4, ensure_ascii=False))
        else:
            print(f"{store.redact(uri)} works: {title(artifact)}")


def main() -> None:
    """Run the command line."""
    try:
        if sys.argv[1:2] == ["pack"]:
            pack(sys.argv[2:])
        else:
            run(parse_options())
    except (ArtifactError, store.StoreError, OSError) as error:
        sys.exit(f"model: {error}")
    except KeyboardInterrupt:
        sys.exit("model: stopped")


def title(artifact: Artifact) -> str:
    """Return the name and the version of a model."""
    return f"{artifact.facts['name']} {artifact.facts['version']}"


if __name__ == "__main__":
    main()
