"""What many connections that are slow, or hold an unfinished request, do to others."""

import multiprocessing
import selectors
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import numpy as np
from PIL import Image

from bench.bounds import at_most
from bench.client import ADDRESS, PING, Answer, count, open_loop, percentile, post
from bench.service import ROOT, SETTLE_SECONDS, encode_png, running

SLOW_CONNECTIONS, UNFINISHED_CONNECTIONS = 500, 640
MAX_SLOWDOWN = 3.0  # of the p99 of others
MAX_PING_P99 = 100  # milliseconds
RATE = 100  # requests a second, of the others
MEASURE_SECONDS = 8  # less than the 10 s after which a sender that stopped gets a 408
OPEN_SECONDS = 3  # for the connections to be opened in
OPEN_RATE = 400  # connections a second
PIECE_SECONDS = 1  # between two pieces
HEAD = "POST /predict HTTP/1.1\r\nHost: bench\r\n"


class Crowd(NamedTuple):
    """What each of many connections sends, and a piece to follow each second."""

    name: str
    start: bytes
    piece: bytes = b""


SLOW = (
    Crowd("bytes of a body", f"{HEAD}Content-Length: 100000\r\n\r\n".encode(), b"\xff"),
    Crowd("bytes of a head", f"{HEAD}X-Slow: ".encode(), b"a"),
    Crowd(
        "chunks",
        f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode(),
        b"1\r\n\xff\r\n",
    ),
)
UNFINISHED = (
    Crowd("chunked", f"{HEAD}Transfer-Encoding: chunked\r\n\r\n10\r\nabc".encode()),
    Crowd(
        "Expect: 100-continue",
        f"{HEAD}Expect: 100-continue\r\nContent-Length: 100000\r\n\r\n".encode(),
    ),
    Crowd(
        "large Content-Length",
        f"{HEAD}Content-Length: 30000000\r\n\r\n".encode() + 16384 * b"\xff",
    ),
    Crowd(
        "head over 8 kB",
        HEAD.encode() + b"".join(b"X-%d: %s\r\n" % (n, 1000 * b"a") for n in range(9)),
    ),
    Crowd("pipelined start", PING + f"{HEAD}Content-Length: 1000\r\n\r\nab".encode()),
)


def slow() -> bool:
    """Compare the p99 of others beside 500 slow senders with a quiet service's."""
    boot = Image.open(ROOT / "static" / "pictures" / "ankle-boot.png")
    requests = {"/ping": PING, "/predict": post(encode_png(np.asarray(boot)))}
    holds = [compare(crowd, requests) for crowd in SLOW]
    return all(holds)


def compare(crowd: Crowd, requests: dict[str, bytes]) -> bool:
    """Measure one kind of slow sender with a service of its own."""
    with running():
        time.sleep(SETTLE_SECONDS)
        quiet = {name: others(request) for name, request in requests.items()}
        with held(crowd, SLOW_CONNECTIONS, len(requests)):
            beside = {name: others(request) for name, request in requests.items()}
    holds = []
    for name, answers in beside.items():
        before, after = percentile(quiet[name], 99), percentile(answers, 99)
        print(f"  {name}: p99 {before:.1f} ms quiet, {after:.1f} ms; {count(answers)}")
        figure = f"{SLOW_CONNECTIONS} x {crowd.name}, p99 of {name}"
        holds.append(at_most(figure, after / before, MAX_SLOWDOWN, "x quiet", 1))
    return all(holds)


def unfinished() -> bool:
    """Time `/ping` while 640 connections hold an unfinished request."""
    holds = []
    for crowd in UNFINISHED:
        with running():
            time.sleep(SETTLE_SECONDS)
            with held(crowd, UNFINISHED_CONNECTIONS, 1):
                answers = others(PING)
        print(f"  /ping: {count(answers)}")
        figure = f"{UNFINISHED_CONNECTIONS} x {crowd.name}, p99 of /ping"
        holds.append(at_most(figure, percentile(answers, 99), MAX_PING_P99, "ms", 1))
    return all(holds)


def others(request: bytes) -> list[Answer]:
    """Send a request at a constant rate, as the other clients do."""
    return open_loop([request], MEASURE_SECONDS, RATE)


@contextmanager
def held(crowd: Crowd, connections: int, measures: int) -> Iterator[None]:
    """Hold connections, from another process, for as long as the block measures."""
    seconds = OPEN_SECONDS + measures * (MEASURE_SECONDS + 1)
    process = multiprocessing.Process(
        target=hold, args=(crowd, connections, seconds), daemon=True
    )
    process.start()
    time.sleep(OPEN_SECONDS)
    yield
    process.join()


def hold(crowd: Crowd, connections: int, seconds: float) -> None:
    """Hold connections open, replace those that end, print the answers they got."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    answers = Counter[str]()
    end = time.monotonic() + seconds
    piece_due, open_due = time.monotonic() + PIECE_SECONDS, 0.0
    with selectors.DefaultSelector() as selector:
        while (now := time.monotonic()) < end:
            if len(selector.get_map()) < connections and now > open_due:
                open_due = max(open_due, now - 0.05) + 1 / OPEN_RATE
                open_one(crowd, selector, answers)
            for key, _ in selector.select(1 / OPEN_RATE):
                receive_one(key, selector, answers)
            if crowd.piece and now > piece_due:
                piece_due = now + PIECE_SECONDS
                send_pieces(crowd.piece, selector)
        print(
            f"  {crowd.name}: {len(selector.get_map())} held, answers {dict(answers)}"
        )


def open_one(
    crowd: Crowd, selector: selectors.BaseSelector, answers: Counter[str]
) -> None:
    """Open a connection and send the start of a request."""
    try:
        connection = socket.create_connection(ADDRESS, timeout=1)
        connection.sendall(crowd.start)
    except OSError as error:
        answers[type(error).__name__] += 1
        return
    connection.setblocking(False)
    selector.register(connection, selectors.EVENT_READ, connection)


def receive_one(
    key: selectors.SelectorKey, selector: selectors.BaseSelector, answers: Counter[str]
) -> None:
    """Record an answer; forget a connection that has ended."""
    connection: socket.socket = key.data
    try:
        data = connection.recv(65536)
    except OSError as error:
        data = b""
        answers[type(error).__name__] += 1
    if data:
        answers[data[9:12].decode("latin-1")] += 1
    else:
        selector.unregister(connection)
        connection.close()


def send_pieces(piece: bytes, selector: selectors.BaseSelector) -> None:
    """Send the next piece on every connection; one that fails is read as ended."""
    for key in list(selector.get_map().values()):
        with suppress(OSError):
            key.data.send(piece)
