"""The servers that ours is measured beside: what they are sent and how they run.

    >>> install("litserve")["litserve"]
    '0.2.19'

Each rival is a file of this folder, written as its own documentation advises, with two
workers, a compute thread each and no access log. Each runs in an environment of its own
under `bench/.venvs/`, made by pip the first time, with our versions of the libraries
that do the work where its own requirements allow them.
"""

import json
import re
import subprocess
import venv
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from bench.service import PORT, ROOT, WORKERS

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = HERE.parent / ".venvs"
SHARED = ("numpy", "onnxruntime", "pillow")
PACKAGES = {
    "fastapi": ("fastapi", "uvicorn[standard]", "python-multipart", "orjson"),
    "litserve": ("litserve",),
    "bentoml": ("bentoml", "uvicorn[standard]"),  # a loop and parser as FastAPI's
    "ray": ("ray[serve]",),
    "mlserver": ("mlserver", "uvloop<0.22"),  # its workers died with 0.23
}
PRINT_VERSIONS = """
import json, sys
from importlib.metadata import version
print(json.dumps({name: version(name) for name in sys.argv[1:]}))
"""


class Rival(NamedTuple):
    """A server to measure ours by."""

    workloads: tuple[str, ...]  # sent as its documentation has it
    environment: str  # where it runs; "": in ours
    command: str
    variables: dict[str, str]  # of its environment
    paths: dict[str, str] = {}  # noqa: RUF012 - of workloads that have another


UVICORN = f"uvicorn --port {PORT} --workers {WORKERS} --no-access-log"
MLSERVER = {
    "MLSERVER_MODEL_NAME": "fashion",
    "MLSERVER_MODEL_IMPLEMENTATION": "ml_server.Fashion",
    "MLSERVER_HOST": "127.0.0.1",
    "MLSERVER_HTTP_PORT": str(PORT),
    "MLSERVER_GRPC_PORT": str(PORT + 100),
    "MLSERVER_METRICS_PORT": str(PORT + 200),
    "MLSERVER_DEBUG": "false",
}
BATCHES = {
    "MLSERVER_MODEL_MAX_BATCH_SIZE": "16",
    "MLSERVER_MODEL_MAX_BATCH_TIME": "0.001",
}
RAY = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
RIVALS = {
    "FastAPI, documented": Rival(
        ("png form", "jpeg form", "batch form"),
        "fastapi",
        f"{UVICORN} documented_fastapi:app",
        {},
        paths={"batch form": "/batch"},
    ),
    "FastAPI, bare": Rival(
        ("png raw", "jpeg raw"), "fastapi", f"{UVICORN} bare_fastapi:app", {}
    ),
    "LitServe": Rival(
        ("png base64", "jpeg base64"),
        "litserve",
        f"python {HERE}/lit_serve.py {PORT}",
        {},
    ),
    "LitServe, batches": Rival(
        ("png base64", "jpeg base64"),
        "litserve",
        f"python {HERE}/lit_serve.py {PORT} --batches",
        {},
    ),
    "BentoML": Rival(
        ("png raw", "jpeg raw"),
        "bentoml",
        f"bentoml serve bento:Fashion --host 127.0.0.1 --port {PORT}",
        {"BENTOML_DO_NOT_TRACK": "True"},
    ),
    "Ray Serve": Rival(
        ("png raw", "jpeg raw"),
        "ray",
        f"python {HERE}/ray_serve.py {PORT}",
        RAY,
    ),
    "Ray Serve, batches": Rival(
        ("png raw", "jpeg raw"),
        "ray",
        f"python {HERE}/ray_serve.py {PORT} --batches",
        RAY,
    ),
    "MLServer": Rival(
        ("png V2", "batch V2"),
        "mlserver",
        "mlserver start .",
        MLSERVER | {"MLSERVER_PARALLEL_WORKERS": str(WORKERS)},
    ),
    "MLServer, no pool": Rival(
        ("png V2", "batch V2"),
        "mlserver",
        "mlserver start .",
        MLSERVER | {"MLSERVER_PARALLEL_WORKERS": "0"},
    ),
    "MLServer, no pool, batches": Rival(
        ("png V2", "batch V2"),
        "mlserver",
        "mlserver start .",
        MLSERVER | {"MLSERVER_PARALLEL_WORKERS": "0"} | BATCHES,
    ),
    "Flask, naive": Rival(
        ("png form", "jpeg form"),
        "",
        f"python -m flask --app naive_flask run --port {PORT}",
        {"PYTHONPATH": f"{HERE}:{ROOT}"},
    ),
}
DOCUMENTED, BARE = DEFAULT = ("FastAPI, documented", "FastAPI, bare")


def install(environment: str) -> dict[str, str]:
    """Make an environment unless it exists; return the versions in it.

    Raises `subprocess.CalledProcessError` if pip does.
    """
    wanted = list(PACKAGES[environment])
    same = [f"{package}=={version(package)}" for package in SHARED]
    folder = ENVIRONMENTS / environment
    mark = folder / "installed.json"  # written last, by a complete install
    if mark.exists():
        state: dict[str, Any] = json.loads(mark.read_text())
        if state["wanted"] == wanted + same:
            versions: dict[str, str] = state["versions"]
            return versions
    venv.create(folder, clear=True, with_pip=True)
    python = str(folder / "bin" / "python")
    try:
        pip(python, *wanted, *same)
    except subprocess.CalledProcessError:  # it cannot have our versions
        pip(python, *wanted, *SHARED)
    names = [re.split(r"[\[<]", package)[0] for package in (*wanted, *SHARED)]
    printed = subprocess.run(
        [python, "-c", PRINT_VERSIONS, *names], capture_output=True, check=True
    ).stdout
    versions = json.loads(printed)
    mark.write_text(json.dumps({"wanted": wanted + same, "versions": versions}))
    return versions


def pip(python: str, *packages: str) -> None:
    """Install packages."""
    command = [python, "-m", "pip", "--disable-pip-version-check", "install", "-qq"]
    subprocess.run([*command, *packages], check=True)
