"""What a single hostile or refused request costs: CPU, memory, and others' time.

There is one worker, so that whatever blocks it shows in the `/ping` of all others. Each
request is sent alone for its CPU time, then for a second beside `/ping`, back to back.
Memory is the peak of gunicorn and its workers above what they used before the first
request. The first row is `/ping` without any such request.
"""

import multiprocessing
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from typing import NamedTuple

from bench.bounds import at_most
from bench.client import (
    NO_ANSWER,
    PING,
    Answer,
    closed_loop,
    exchange,
    open_loop,
    percentile,
    post,
)
from bench.hostile_requests import Hostile, make_requests
from bench.service import (
    SETTLE_SECONDS,
    cpu_seconds,
    peak_rss,
    pictures,
    processes_of,
    reset_peak_rss,
    rss,
    running,
)
from model import artifact
from model.artifact import MODEL

MAX_CPU_SECONDS, MAX_MEGABYTES, MAX_PING_P99 = 1.0, 250, 100
ALONE_SECONDS, BESIDE_SECONDS, MAX_REPEATS = 0.2, 1.0, 100
ANSWER_SECONDS = 40  # at most, for one request
TRIAL_SECONDS = 540  # then the rest is left out
AFTER_SECONDS = 0.1  # for work that goes on after the answer
PING_RATE, PING_SECONDS = 200, 0.25  # a second; of one measurement
WARM_UP_SECONDS = 2


class Quiet(NamedTuple):
    """gunicorn while only `/ping` is sent."""

    processes: list[int]  # its own id, then its workers'
    megabytes: float
    ping_p99: float  # milliseconds


class Cost(NamedTuple):
    """What one request cost."""

    status: int
    cpu_seconds: float
    megabytes: float
    ping_p99: float  # milliseconds

    def holds(self, request: Hostile) -> bool:
        """Return whether the cost is in its bounds."""
        return (
            request.is_refusal(self.status)
            and self.cpu_seconds <= MAX_CPU_SECONDS
            and self.megabytes <= MAX_MEGABYTES
            and self.ping_p99 <= MAX_PING_P99
        )


def hostile(words: str = "") -> bool:
    """Send each request whose name holds `words`; print a table of the costs."""
    name = artifact.load(str(MODEL)).facts["name"]
    print("| request | MB | status | CPU s | MB more | /ping p99 ms | |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    missed, end = 0, time.monotonic() + TRIAL_SECONDS
    with running(WEB_CONCURRENCY="1") as pid:
        time.sleep(SETTLE_SECONDS)
        closed_loop([post(picture) for picture in pictures(100)], WARM_UP_SECONDS, 8)
        quiet = measure_quiet(pid)
        print(f"| none | | | | | {quiet.ping_p99:.0f} | |")
        for request in make_requests(name):
            if words not in request.name:
                continue
            if time.monotonic() > end:
                print(f"left out, for want of time: {request.name} and the rest")
                missed += 1
                break
            missed += not print_cost(request, quiet)
        lost = len(set(quiet.processes) - set(processes_of(pid)))
    holds = [
        at_most("workers lost", lost, 0),
        at_most("requests out of bounds", missed, 0),
    ]
    return all(holds)


def measure_quiet(pid: int) -> Quiet:
    """Measure gunicorn with process id `pid` while only `/ping` is sent."""
    with pinging() as pings:
        time.sleep(BESIDE_SECONDS)
    processes = processes_of(pid)
    return Quiet(processes, sum(map(rss, processes)), percentile(pings, 99))


def print_cost(request: Hostile, quiet: Quiet) -> bool:
    """Measure a request and print its row; return whether the bounds hold."""
    data = request.make()
    cost = measure(data, quiet)
    holds = cost.holds(request)
    cells = [request.name, f"{len(data) / 1e6:.1f}", str(cost.status or "none")]
    cells += [f"{cost.cpu_seconds:.2f}", f"{cost.megabytes:.0f}"]
    cells += [f"{cost.ping_p99:.0f}", "holds" if holds else "MISSED"]
    print(f"| {' | '.join(cells)} |", flush=True)
    return holds


def measure(request: bytes, quiet: Quiet) -> Cost:
    """Return the cost of a request."""
    pid = quiet.processes[0]
    for process in processes_of(pid):
        reset_peak_rss(process)
    cpu = cpu_of(pid)
    statuses = repeat(request, ALONE_SECONDS)
    cpu = (cpu_of(pid) - cpu) / len(statuses)
    with pinging() as pings:
        statuses += repeat(request, BESIDE_SECONDS)
    peak = sum(map(peak_rss, processes_of(pid)))
    worst = NO_ANSWER if NO_ANSWER in statuses else max(statuses)
    return Cost(worst, cpu, peak - quiet.megabytes, percentile(pings, 99))


def repeat(request: bytes, seconds: float) -> list[int]:
    """Send a request again and again for a time, at least once; return the statuses."""
    statuses = [exchange(request, ANSWER_SECONDS)]
    end = time.monotonic() + seconds
    while time.monotonic() < end and len(statuses) < MAX_REPEATS:
        statuses.append(exchange(request, ANSWER_SECONDS))
    time.sleep(AFTER_SECONDS)
    return statuses


@contextmanager
def pinging() -> Iterator[list[Answer]]:
    """Send `/ping` from another process; the list is complete after the block."""
    stop = multiprocessing.Event()
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=ping, args=(stop, sender), daemon=True)
    process.start()
    receiver.recv()
    answers = list[Answer]()
    yield answers
    stop.set()
    answers += receiver.recv()
    process.join()


def ping(stop: Event, sender: Connection) -> None:
    """Send `/ping` at a constant rate until told to stop; send back the answers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    answers = list[Answer]()
    sender.send("ready")
    while not stop.is_set():
        answers += open_loop([PING], PING_SECONDS, PING_RATE)
    sender.send(answers)


def cpu_of(pid: int) -> float:
    """Return the CPU seconds that gunicorn and its workers have used."""
    return sum(map(cpu_seconds, processes_of(pid)))
