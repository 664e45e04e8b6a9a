"""Requests that are lost when workers are killed, replaced or stopped under load."""

import os
import signal
import socket
import tempfile
import time
from collections import Counter
from pathlib import Path

from bench.bounds import at_most
from bench.client import (
    ADDRESS,
    NO_ANSWER,
    PING,
    Answer,
    background_load,
    count,
    post,
)
from bench.service import (
    SETTLE_SECONDS,
    children_of,
    gunicorn,
    has_exited,
    pictures,
    running,
)
from model import artifact
from model.artifact import MODEL

CONNECTIONS = 8
PER_CONNECTION = 50  # requests, then the client opens a new one
TRIAL_SECONDS = 30
KILL_SECONDS, RELOAD_SECONDS = 2, 5  # between two of them
IN_FLIGHT_SECONDS = 0.05  # between a kill and the client's knowledge of it
MAX_REQUESTS = 500  # of a worker, which is then replaced
STOP_AFTER, STOP_SECONDS = 3, 30  # seconds
IDLE_CONNECTIONS, MAX_IDLE_STOP_SECONDS = 20, 2.0


def small_requests() -> list[bytes]:
    """Return 1,000 requests of a small picture each."""
    return [post(picture) for picture in pictures()]


def report_lost(answers: list[Answer], *, is_listening: bool = True) -> bool:
    """Print what became of the requests; return whether no accepted one was lost.

    While gunicorn keeps listening its backlog is not reset, so that a reset connection
    was an accepted one.
    """
    unanswered = [answer for answer in answers if answer.status == NO_ANSWER]
    lost = sum(answer.is_accepted or is_listening for answer in unanswered)
    print(f"answers: {count(answers)}")
    print(f"reset or refused before they were accepted: {len(unanswered) - lost}")
    return at_most("accepted requests lost", lost, 0)


def kill() -> bool:
    """Kill a worker every two seconds: only what was in flight may be lost."""
    kills = list[float]()
    load = background_load(small_requests(), TRIAL_SECONDS, CONNECTIONS, PER_CONNECTION)
    with running() as pid, load as answers:
        for _ in range(TRIAL_SECONDS // KILL_SECONDS - 1):
            time.sleep(KILL_SECONDS)
            kills.append(time.perf_counter())
            os.kill(children_of(pid)[0], signal.SIGKILL)
    lost = [answer for answer in answers if answer.status == NO_ANSWER]
    others = [answer for answer in lost if not is_in_flight(answer, kills)]
    print(f"{len(kills)} workers killed; answers: {count(answers)}")
    print(f"lost while in flight at a kill: {len(lost) - len(others)}")
    return at_most("lost otherwise", len(others), 0)


def is_in_flight(answer: Answer, kills: list[float]) -> bool:
    """Return whether a request was in flight when a worker was killed."""
    end = answer.due + answer.seconds
    return any(answer.due - IN_FLIGHT_SECONDS < at < end for at in kills)


def reload() -> bool:
    """Put another model in place every five seconds, with SIGHUP."""
    model = artifact.read(str(MODEL))
    load = background_load(small_requests(), TRIAL_SECONDS, CONNECTIONS, PER_CONNECTION)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.bin"
        artifact.write(path, {}, model)
        with running(FLASK_MODEL_URI=str(path)) as pid, load as answers:
            for number in range(TRIAL_SECONDS // RELOAD_SECONDS - 1):
                time.sleep(RELOAD_SECONDS)
                facts = model.facts | {"number": number}
                artifact.write(path, {}, model._replace(facts=facts))
                os.kill(pid, signal.SIGHUP)
    versions = Counter(answer.version for answer in answers)
    print(f"{len(versions)} versions of the model: {list(versions.values())} answers")
    return report_lost(answers)


def stop() -> bool:
    """Stop the service under load: each accepted request is answered."""
    load = background_load(
        small_requests(), 2 * STOP_AFTER, CONNECTIONS, PER_CONNECTION
    )
    with running() as pid, load as answers:
        time.sleep(STOP_AFTER)
        print(f"stopped in {terminate(pid):.1f} s")
    return report_lost(answers, is_listening=False)


def terminate(pid: int) -> float:
    """Send SIGTERM; return the seconds until the process has exited."""
    started = time.perf_counter()
    os.kill(pid, signal.SIGTERM)
    while not has_exited(pid) and time.perf_counter() < started + STOP_SECONDS:
        time.sleep(0.01)
    return time.perf_counter() - started


def max_requests() -> bool:
    """Replace each worker after 500 requests, under load."""
    command = gunicorn("--max-requests", str(MAX_REQUESTS))
    load = background_load(small_requests(), TRIAL_SECONDS, CONNECTIONS, PER_CONNECTION)
    seen = set[int]()
    with running(command) as pid, load as answers:
        end = time.monotonic() + TRIAL_SECONDS
        while time.monotonic() < end:
            seen.update(children_of(pid))
            time.sleep(0.05)
    print(f"{len(seen)} workers")
    return report_lost(answers)


def idle_stop() -> bool:
    """Stop the service while 20 clients keep connections that are idle."""
    with running() as pid:
        time.sleep(SETTLE_SECONDS)
        connections = [
            socket.create_connection(ADDRESS) for _ in range(IDLE_CONNECTIONS)
        ]
        for connection in connections:
            connection.sendall(PING)
            connection.recv(65536)
        seconds = terminate(pid)
        for connection in connections:
            connection.close()
    name = f"SIGTERM to exit, {IDLE_CONNECTIONS} idle connections"
    return at_most(name, seconds, MAX_IDLE_STOP_SECONDS, "s", 1)
