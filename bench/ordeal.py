"""Measure what the service survives: `python -m bench.ordeal TRIAL`.

    kill       kill -9 of a worker every 2 s for 30 s, 8 connections
    reload     SIGHUP with another model every 5 s for 30 s, 8 connections
    stop       SIGTERM, 8 connections
    slow       500 connections that send a byte a second for 30 s
    overload   4 x the capacity for 20 s, at a constant rate; photos, then small PNGs
    endure     100,000 mixed requests, and the memory they leave behind

Traffic goes to the loopback address only, and each trial ends by itself. Linux only.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import resource
import selectors
import signal
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from bench.service import (
    OURS,
    PORT,
    ROOT,
    encode,
    grainy_jpeg,
    pictures,
    pss,
    running,
    workers_of,
)
from model import artifact

ADDRESS = ("127.0.0.1", PORT)
CONNECTIONS = 8
TRIAL_SECONDS = 30
KILL_EVERY, RELOAD_EVERY = 2, 5  # seconds
SLOW_CONNECTIONS = 500
PACE = 50  # requests a second, of those who ask beside them
OVERLOAD, OVERLOAD_SECONDS = 4, 20  # times the capacity
MOST_OPEN = 800  # connections; a worker takes 900
QUIET_SECONDS = 5
LATE_SECONDS = 0.02  # that a request may be asked after its time
PHOTO = (900, 1200)
PHOTOS = 24  # different ones
ENDURE, WARM_UP = 100_000, 5_000  # requests
LOST = 0  # stands for the status of a request without an answer
KEPT = {True: "on a connection that had answers", False: "on a new connection"}
OK, UNKNOWN, TOO_BUSY = 200, 422, 503


class Answer(NamedTuple):
    """What became of a request."""

    status: int
    asked: float  # when it was, or should have been
    seconds: float  # from then to its answer
    version: str = ""  # of the model
    fault: str = ""  # if there is no answer


def predict(body: bytes) -> bytes:
    """Write a request for `/predict`."""
    head = (
        f"POST /predict HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


PING = b"GET /ping HTTP/1.1\r\nHost: bench\r\n\r\n"


class Exchange:
    """One connection, and the request that is under way on it."""

    is_kept = False  # after an answer
    is_sending = False  # and waits to go on

    def __init__(self) -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.connect_ex(ADDRESS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def begin(self, request: bytes, asked: float) -> None:
        """Start a request."""
        self.unsent, self.received, self.asked = memoryview(request), b"", asked

    def send(self) -> bool:
        """Send what the connection takes; tell whether that is all."""
        try:
            self.unsent = self.unsent[self.socket.send(self.unsent) :]
        except BlockingIOError:
            return False
        return not self.unsent

    def receive(self) -> Answer | None:
        """Take what has come; return the answer once it is whole."""
        piece = self.socket.recv(65536)
        if not piece:
            raise ConnectionResetError("closed without an answer")
        self.received += piece
        head, parted, body = self.received.partition(b"\r\n\r\n")
        if not parted or len(body) < int(field(head, b"Content-Length: ")):
            return None
        self.is_kept = field(head, b"Connection: ") != b"close"
        seconds = time.perf_counter() - self.asked
        version = field(head, b"X-Model-Version: ").decode()
        return Answer(int(head[9:12]), self.asked, seconds, version)


def field(head: bytes, name: bytes) -> bytes:
    """Return the value of a header, nothing if there is none."""
    return head.partition(name)[2].partition(b"\r\n")[0]


class Load:
    """Requests that are under way, and what became of others."""

    def __init__(self, sent: list[bytes]) -> None:
        self.turns = itertools.cycle(sent)
        self.answers: list[Answer] = []
        self.under_way = 0
        self._waiting = selectors.DefaultSelector()
        self._idle: list[Exchange] = []

    def ask(self, asked: float) -> None:
        """Begin the next request, on a connection that is free or on a new one."""
        if self._idle:
            exchange = self._idle.pop()
        else:
            exchange = Exchange()
            self._waiting.register(exchange.socket, selectors.EVENT_READ, exchange)
        exchange.begin(next(self.turns), asked)
        self.under_way += 1
        self._try(exchange, self._send)

    def go_on(self, seconds: float) -> None:
        """Send and receive what can be, or wait so long for it."""
        for key, events in self._waiting.select(seconds):
            is_sending = events & selectors.EVENT_WRITE
            self._try(key.data, self._send if is_sending else self._receive)

    def _try(self, exchange: Exchange, step: Callable[[Exchange], None]) -> None:
        try:
            step(exchange)
        except OSError as error:
            if exchange not in self._idle:  # else it is closed between requests
                took = time.perf_counter() - exchange.asked
                fault = f"{type(error).__name__} {KEPT[exchange.is_kept]}"
                self._note(Answer(LOST, exchange.asked, took, fault=fault))
            else:
                self._idle.remove(exchange)
            self._waiting.unregister(exchange.socket)
            exchange.socket.close()

    def _send(self, exchange: Exchange) -> None:
        is_sent = exchange.send()
        if is_sent == exchange.is_sending:  # a change of what to wait for
            exchange.is_sending = not is_sent
            events = selectors.EVENT_READ | (not is_sent and selectors.EVENT_WRITE)
            self._waiting.modify(exchange.socket, events, exchange)

    def _receive(self, exchange: Exchange) -> None:
        answer = exchange.receive()
        if answer is None:
            return
        self._note(answer)
        if exchange.is_kept:
            self._idle.append(exchange)
        else:
            self._waiting.unregister(exchange.socket)
            exchange.socket.close()

    def _note(self, answer: Answer) -> None:
        self.under_way -= 1
        self.answers.append(answer)


def drive(sent: list[bytes], seconds: float, connections: int) -> list[Answer]:
    """Ask in turn what is in `sent`, so many at a time, each again when answered."""
    load = Load(sent)
    end = time.perf_counter() + seconds
    while (now := time.perf_counter()) < end or load.under_way:
        for _ in range(connections - load.under_way if now < end else 0):
            load.ask(now)
        load.go_on(0.05)
    return load.answers


def drive_at(sent: list[bytes], seconds: float, rate: float) -> list[Answer]:
    """Ask so often a second, whatever the answers; time each from when it was due.

    What cannot be asked when it is due, or soon after, is not asked at all: the
    connections and this process have their bounds.
    """
    load = Load(sent)
    due = started = time.perf_counter()
    end = started + seconds
    while (now := time.perf_counter()) < end or load.under_way:
        while due <= now < end and load.under_way < MOST_OPEN:
            load.ask(due)
            due += 1 / rate
        due = max(due, now - LATE_SECONDS)
        load.go_on(min(0.05, max(0.0, due - now)) if now < end else 0.05)
    return load.answers


@contextmanager
def crowd(sent: list[bytes], seconds: float, answers: list[Answer]) -> Iterator[None]:
    """Have some clients ask back to back for a time, beside what the block does."""

    def work() -> None:
        answers.extend(drive(sent, seconds, CONNECTIONS))

    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join()


def count(answers: list[Answer]) -> str:
    """Tell how many answers had which status, and what faults there were."""
    found = Counter(answer.fault or answer.status for answer in answers)
    return ", ".join(f"{number} x {what}" for what, number in found.most_common())


def p99(answers: list[Answer]) -> float:
    """Return the time in milliseconds that 99 % of the answers took at most."""
    return statistics.quantiles([a.seconds * 1000 for a in answers], n=100)[-1]


def small() -> list[bytes]:
    """Write requests with 1,000 small pictures."""
    return [predict(picture) for picture in pictures()]


def photos() -> list[bytes]:
    """Write requests with photos: a real one enlarged, in various grain."""
    random = np.random.default_rng(0)
    image = Image.open(ROOT / "static" / "pictures" / "photo-t-shirt.jpg")
    large = image.resize(PHOTO, Image.Resampling.BICUBIC)
    return [predict(grainy_jpeg(large, random, quality=85)) for _ in range(PHOTOS)]


def kill() -> None:
    """Kill a worker every other second; only what it was at may be lost."""
    answers, kills = list[Answer](), list[float]()
    with running(OURS, ROOT) as pid, crowd(small(), TRIAL_SECONDS, answers):
        for _ in range(TRIAL_SECONDS // KILL_EVERY - 1):
            time.sleep(KILL_EVERY)
            kills.append(time.perf_counter())
            os.kill(workers_of(pid)[0], signal.SIGKILL)
    lost = [answer for answer in answers if answer.status == LOST]
    moment = 0.05  # seconds, between the kill and the news of it
    in_flight = [
        one
        for one in lost
        if any(one.asked - moment < at < one.asked + one.seconds for at in kills)
    ]
    print(f"{len(kills)} workers killed: {count(answers)}")
    print(f"lost {len(lost)}, of which in flight at a kill {len(in_flight)}")


def reload() -> None:
    """Put another model in place every five seconds, with SIGHUP."""
    model = artifact.read(str(ROOT / "model.bin"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.bin"
        artifact.write(path, {}, model)
        answers, sent = list[Answer](), small()
        with (
            running(OURS, ROOT, FLASK_MODEL_URI=str(path)) as pid,
            crowd(sent, TRIAL_SECONDS, answers),
        ):
            for turn in range(TRIAL_SECONDS // RELOAD_EVERY - 1):
                time.sleep(RELOAD_EVERY)
                facts = model.facts | {"turn": turn}
                artifact.write(path, {}, model._replace(facts=facts))
                os.kill(pid, signal.SIGHUP)
    versions = Counter(answer.version for answer in answers)
    print(f"{count(answers)}; {len(versions)} models: {list(versions.values())}")


def stop() -> None:
    """Stop the service while it is asked; what it has accepted is answered."""
    answers = list[Answer]()
    with running(OURS, ROOT) as pid, crowd(small(), 6, answers):
        time.sleep(3)
        stopped = time.perf_counter()
        os.kill(pid, signal.SIGTERM)
        while Path(f"/proc/{pid}/cmdline").read_bytes():  # until it is a zombie
            time.sleep(0.01)
        took = time.perf_counter() - stopped
    before = [a for a in answers if a.asked < stopped]
    print(f"stopped in {took:.1f} s; asked before: {count(before)}")
    print(f"all: {count(answers)}; what is reset on a new connection was not accepted")


def slow() -> None:
    """Ask while many others send a byte a second, and compare with before."""
    boot = predict(
        encode(np.asarray(Image.open(ROOT / "static" / "pictures" / "ankle-boot.png")))
    )
    with running(OURS, ROOT):
        quiet = {
            name: drive_at([request], QUIET_SECONDS, PACE)
            for name, request in (("/ping", PING), ("/predict", boot))
        }
        dripping = multiprocessing.Process(target=drip, args=[TRIAL_SECONDS])
        dripping.start()
        time.sleep(2)
        for name, request in (("/ping", PING), ("/predict", boot)):
            answers = drive_at([request], TRIAL_SECONDS / 2 - 2, PACE)
            before, after = p99(quiet[name]), p99(answers)
            print(
                f"{name}: {count(answers)}; p99 {before:.1f} ms quiet, {after:.1f} ms"
                f" beside {SLOW_CONNECTIONS} slow senders, {after / before:.1f} x"
            )
        dripping.join()


def drip(seconds: float) -> None:
    """Send bodies a byte a second on many connections; open those anew that end."""
    head = b"POST /predict HTTP/1.1\r\nHost: bench\r\nContent-Length: 100000\r\n\r\n"
    connections = list[socket.socket]()
    statuses = Counter[bytes]()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        turn = time.monotonic() + 1
        while len(connections) < SLOW_CONNECTIONS:
            connections.append(socket.create_connection(ADDRESS))
            connections[-1].sendall(head)
        for connection in list(connections):
            try:
                connection.setblocking(True)
                connection.sendall(b"\xff")
                connection.setblocking(False)
                statuses[connection.recv(65536)[9:12]] += 1
            except BlockingIOError:
                continue
            except OSError:
                statuses[b"reset"] += 1
            connections.remove(connection)
            connection.close()
        time.sleep(max(0.0, turn - time.monotonic()))
    print(f"slow senders were told: {dict(statuses)}")


def overload() -> None:
    """Ask for four times what can be served, without waiting for answers."""
    for name, sent in (("900 x 1200 JPEG", photos()), ("28x28 PNG", small())):
        size = statistics.mean(map(len, sent)) / 1000
        with running(OURS, ROOT) as pid:
            time.sleep(1)
            drive(sent, 1, 1)
            quiet = drive(sent, QUIET_SECONDS, 1)
            capacity = served(drive(sent, QUIET_SECONDS, CONNECTIONS))
            workers = workers_of(pid)
            rate = OVERLOAD * capacity / QUIET_SECONDS
            answers = drive_at(sent, OVERLOAD_SECONDS, rate)
            survived = workers == workers_of(pid)
            # once more, for the machine may be another one by now
            again = served(drive(sent, QUIET_SECONDS, CONNECTIONS))
        good = [answer for answer in answers if answer.status in (OK, UNKNOWN)]
        refused = [answer for answer in answers if answer.status == TOO_BUSY]
        rates = [done / QUIET_SECONDS for done in (capacity, again)]
        kept = len(good) / OVERLOAD_SECONDS
        print(
            f"{name}, {size:.0f} kB: {rates[0]:.0f}/s with {CONNECTIONS} connections,"
        )
        asked = len(answers) / OVERLOAD_SECONDS
        print(f"  {rates[1]:.0f}/s after; at {rate:.0f}/s for {OVERLOAD_SECONDS} s,")
        print(f"  of which the generator came to {asked:.0f}/s:")
        print(f"  {count(answers)}; every worker lives: {survived}")
        print(f"  served {kept:.0f}/s, {kept / statistics.mean(rates):.0%} of capacity")
        print(f"  p99 of those {p99(good):.1f} ms, quiet {p99(quiet):.1f} ms:", end="")
        print(f" {p99(good) / p99(quiet):.1f} x")
        slowest = max((answer.seconds * 1000 for answer in refused), default=0)
        print(f"  503 within {p99(refused):.1f} ms (99 %), {slowest:.1f} ms (all)")


def served(answers: list[Answer]) -> int:
    """Count the answers that say what was in the picture, or that it is unknown."""
    return sum(answer.status in (OK, UNKNOWN) for answer in answers)


def endure() -> None:
    """Send many requests of all kinds; memory is to stay what it was."""
    small_ones, large_ones = small(), photos()
    broken = [predict(b""), predict(b"text"), predict(b"\x89PNG\r\n\x1a\nbroken"), PING]
    batch = json.dumps({"pixels": np.zeros((8, 28, 28), int).tolist()}).encode()
    mixed = small_ones + large_ones + 20 * [*broken, predict(batch)]
    np.random.default_rng(0).shuffle(mixed)
    with running(OURS, ROOT) as pid:
        total, sizes = 0, dict[int, float]()
        while total < ENDURE:
            total += len(drive(mixed, 1, CONNECTIONS))
            sizes[total] = sum(map(pss, (pid, *workers_of(pid))))
        early = next(size for done, size in sizes.items() if done >= WARM_UP)
    print(
        f"{early:.0f} MB after {WARM_UP} requests, {sizes[total]:.0f} MB after {total}:"
        f" {sizes[total] / early:.3f} x; at most {max(sizes.values()):.0f} MB"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    all_trials = (kill, reload, stop, slow, overload, endure)
    trials: dict[str, Callable[[], None]] = {t.__name__: t for t in all_trials}
    parser.add_argument("trial", choices=trials)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a file a connection
    try:
        trials[parser.parse_args().trial]()
    except KeyboardInterrupt:
        sys.exit(130)
