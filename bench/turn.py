"""One server's turn: started, checked, warmed, loaded by wrk, stopped.

    >>> with serving(OURS, ROOT, kinds["png raw"]):
    ...     print(*load({"png raw": kinds["png raw"]}, folder))

What cannot be measured raises `StartError`.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from bench.entrants import HERE
from bench.kinds import BUSY, Kind
from bench.service import PORT, ROOT, URL, WORKERS, StartError, running
from bench.service import workers_of as children_of

LOAD_SECONDS, WARM_SECONDS = 2, 1
SAMPLE = 50  # answers, checked before the load
VOID_SHARE = 0.01  # of requests that failed
ANSWER_SECONDS = 10  # for one
LEAD_SECONDS = 3  # for loops to get ready in
CLASSES = range(10)

Json = dict[str, Any]


@contextmanager
def serving(
    command: list[str], folder: Path, kind: Kind, **variables: str
) -> Iterator[None]:
    """Run a server that answers such requests, and see that nothing is left of it."""

    def is_ready() -> bool:
        try:
            return ask(kind, 0).ok
        except requests.RequestException:
            return False

    refuse_taken_port()
    try:
        with running(command, folder, is_ready, **variables):
            yield
    finally:
        end_children()


def refuse_taken_port() -> None:
    """Stop before somebody else's server is measured."""
    with socket.socket() as tried:
        if tried.connect_ex(("127.0.0.1", PORT)) == 0:
            sys.exit(f"load: port {PORT} is taken; BENCH_PORT is for another")


def end_children() -> None:
    """End what is left: this process adopts those whose parents have gone."""
    while left := children_of(os.getpid()):
        for pid in left:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def load(kinds: dict[str, Kind], folder: Path) -> Iterator[Json]:
    """Check and warm the server that runs, then load it with each kind of request."""
    for kind in kinds.values():
        check(kind)
    name, kind = next(iter(kinds.items()))
    wrk(kind, folder / name, BUSY, WARM_SECONDS)
    for name, kind in kinds.items():
        for connections in kind.levels:
            about = {"workload": kind.workload, "kind": name}
            figures = wrk(kind, folder / name, connections, LOAD_SECONDS)
            yield about | {"connections": connections} | figures


def ask(kind: Kind, index: int) -> requests.Response:
    """Send one body, on a connection of its own so that every worker gets some."""
    return requests.post(
        URL + kind.path,
        data=kind.bodies[index],
        headers={"Content-Type": kind.content_type},
        timeout=ANSWER_SECONDS,
    )


def check(kind: Kind) -> None:
    """Compare a sample of the answers with what is in the pictures."""
    for index in range(0, len(kind.bodies), max(1, len(kind.bodies) // SAMPLE)):
        response = ask(kind, index)
        if not response.ok:
            raise StartError(f"answers {response.status_code}: {response.text[:200]}")
        found = classes_of(response.json())
        expected = kind.classes[index] if kind.classes else found
        if found != expected or not set(found) <= set(CLASSES):
            raise StartError(f"sees {found} in pictures of {expected}")


def classes_of(answer: Json) -> list[int]:
    """Read an answer, ours or a rival's, about one picture or many."""
    if "outputs" in answer:
        outputs = {output["name"]: output["data"] for output in answer["outputs"]}
        return list(outputs["class_id"])
    return [one["class_id"] for one in answer.get("predictions", [answer])]


def wrk(kind: Kind, folder: Path, connections: int, seconds: int) -> Json:
    """Load the server that runs: requests a second, percentiles in milliseconds."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s"]
    command += ["--timeout", f"{ANSWER_SECONDS}s", "-s", str(HERE / "rotate.lua")]
    variables = {"BODIES": str(folder / "list"), "CONTENT_TYPE": kind.content_type}
    output = subprocess.run(
        [*command, URL + kind.path],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    figures: Json = json.loads(output.splitlines()[-1])
    is_void = figures["failed"] > VOID_SHARE * figures["requests"]
    return figures | {"is_void": is_void or not figures["requests"]}


def loop(folder: Path) -> Json:
    """Do the work of requests in bare loops, as many as workers, at the same time."""
    begin = time.monotonic() + LEAD_SECONDS
    command = [sys.executable, str(HERE / "rivals" / "bare_loop.py"), str(folder)]
    loops = [
        subprocess.Popen(
            [*command, str(begin), str(LOAD_SECONDS)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
        )
        for _ in range(WORKERS)
    ]
    try:
        rate = sum(float(process.communicate()[0]) for process in loops)
    finally:
        end_children()
    return {"rate": rate, "is_void": False}
