"""One server: started, checked, warmed up, loaded by wrk, stopped.

    >>> with serving(gunicorn(), ROOT, workloads["png raw"]):
    ...     print(*load({"png raw": workloads["png raw"]}, folder))

A server that does not start or answers wrongly raises `StartError`.
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

from bench.rivals import HERE
from bench.service import PORT, ROOT, URL, WORKERS, StartError, children_of, running
from bench.workloads import BUSY, Workload

LOAD_SECONDS, WARM_UP_SECONDS = 3, 1
SAMPLE = 50  # answers, checked before the load
VOID_SHARE = 0.01  # of requests that failed
ANSWER_SECONDS = 10  # for one
LEAD_SECONDS = 3  # for loops to start up in
SCRIPT = ROOT / "bench" / "rotate.lua"

Json = dict[str, Any]


@contextmanager
def serving(
    command: list[str], folder: Path, workload: Workload, **variables: str
) -> Iterator[None]:
    """Run a server until the block ends, and end every process that it leaves."""

    def is_ready() -> bool:
        try:
            return send(workload, 0).ok
        except requests.RequestException:
            return False

    refuse_taken_port()
    try:
        with running(command, folder, is_ready, **variables):
            yield
    finally:
        end_children()


def refuse_taken_port() -> None:
    """Exit if another server listens on the port."""
    with socket.socket() as tried:
        if tried.connect_ex(("127.0.0.1", PORT)) == 0:
            sys.exit(f"load: port {PORT} is taken; BENCH_PORT is for another")


def end_children() -> None:
    """Kill all children: this process adopts those whose parents have exited."""
    while left := children_of(os.getpid()):
        for pid in left:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def load(workloads: dict[str, Workload], folder: Path) -> Iterator[Json]:
    """Check and warm up the running server, then load it with each workload."""
    for workload in workloads.values():
        check(workload)
    name, workload = next(iter(workloads.items()))
    wrk(workload, folder / name, BUSY, WARM_UP_SECONDS)
    for name, workload in workloads.items():
        for connections in workload.connections:
            about = {"pictures": workload.pictures, "workload": name}
            figures = wrk(workload, folder / name, connections, LOAD_SECONDS)
            yield about | {"connections": connections} | figures


def send(workload: Workload, index: int) -> requests.Response:
    """Send one body on a new connection, so that every worker gets some."""
    return requests.post(
        URL + workload.path,
        data=workload.bodies[index],
        headers={"Content-Type": workload.content_type},
        timeout=ANSWER_SECONDS,
    )


def check(workload: Workload) -> None:
    """Compare a sample of the answers with the classes of the pictures."""
    for index in range(0, len(workload.bodies), max(1, len(workload.bodies) // SAMPLE)):
        response = send(workload, index)
        if not response.ok:
            raise StartError(f"answers {response.status_code}: {response.text[:200]}")
        found = classes_of(response.json())
        expected = workload.classes[index] if workload.classes else found
        if found != expected:
            raise StartError(f"answers {found} to pictures of {expected}")


def classes_of(answer: Json) -> list[int]:
    """Return the classes in an answer, ours or a rival's, to one picture or many."""
    if "outputs" in answer:
        outputs = {output["name"]: output["data"] for output in answer["outputs"]}
        return list(outputs["class_id"])
    return [one["class_id"] for one in answer.get("predictions", [answer])]


def wrk(workload: Workload, folder: Path, connections: int, seconds: int) -> Json:
    """Load the running server; return requests a second and percentiles in ms."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s"]
    command += [
        "--timeout",
        f"{ANSWER_SECONDS}s",
        "-s",
        str(ROOT / "bench" / "rotate.lua"),
    ]
    variables = {"BODIES": str(folder / "list"), "CONTENT_TYPE": workload.content_type}
    output = subprocess.run(
        [*command, URL + workload.path],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    figures: Json = json.loads(output.splitlines()[-1])
    is_void = figures["failed"] > VOID_SHARE * figures["requests"]
    return figures | {"is_void": is_void or not figures["requests"]}


def loop(folder: Path) -> Json:
    """Classify in bare loops without HTTP, one for each worker, at the same time."""
    begin = time.monotonic() + LEAD_SECONDS
    command = [sys.executable, str(HERE / "bare_loop.py"), str(folder)]
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
