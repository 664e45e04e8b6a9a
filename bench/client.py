"""HTTP over raw sockets: many requests at a time, and what became of each.

    >>> answers = closed_loop([PING], seconds=5, connections=8)
    >>> answers = open_loop([PING], seconds=5, rate=200)

A request that ended without an answer counts as accepted if any byte of an answer had
come, if its connection had been answered before without `Connection: close`, or if the
server ended the connection in order (a connection of the listen backlog is reset).
"""

import itertools
import re
import selectors
import socket
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from bench.service import PORT

ADDRESS = ("127.0.0.1", PORT)
MAX_OPEN = 800  # connections of an open loop; a worker admits 900
MAX_LATE_SECONDS = 0.02  # for a request of an open loop to begin after it was due
BACK_OFF_SECONDS = 0.01  # after a request without an answer
POLL_SECONDS, DRAIN_SECONDS = 0.05, 30
RECEIVE_BYTES = 65536
PING = b"GET /ping HTTP/1.1\r\nHost: bench\r\n\r\n"
NO_ANSWER = 0  # stands for the status
OK, UNKNOWN_CLASS, OVERLOADED = 200, 422, 503

INTERIM = re.compile(rb"HTTP/1\.1 1\d\d[^\r]*\r\n(?:[^\r]+\r\n)*\r\n")
CONTENT_LENGTH = re.compile(rb"(?i)\r\ncontent-length:[ \t]*(\d+)")
CLOSE = re.compile(rb"(?i)\r\nconnection:[ \t]*close")
MODEL_VERSION = re.compile(rb"(?i)\r\nx-model-version:[ \t]*(\S+)")


class Answer(NamedTuple):
    """What became of a request."""

    status: int
    due: float  # when the request was sent, or should have been
    seconds: float  # from then to the answer
    version: str = ""  # of the model
    fault: str = ""  # if there is no answer
    is_accepted: bool = True


class EndError(ConnectionError):
    """The server has ended the connection in order, without an answer."""


def post(body: bytes, path: str = "/predict", *fields: str) -> bytes:
    """Return a request with a body."""
    lines = [f"POST {path} HTTP/1.1", "Host: bench", *fields]
    lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


class Connection:
    """One connection, and the request in flight on it."""

    answered = 0  # requests
    is_closing = False  # so the last answer announced
    is_sending = False  # and waits until more can be sent
    fault: OSError | None = None  # that ended the sending; an answer may still come

    def __init__(self) -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.connect_ex(ADDRESS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def begin(self, request: bytes, due: float) -> None:
        """Start a request."""
        self.unsent, self.received, self.due = memoryview(request), b"", due

    def send(self) -> bool:
        """Send what the socket takes; return whether there is no more to send."""
        try:
            self.unsent = self.unsent[self.socket.send(self.unsent) :]
        except BlockingIOError:
            return False
        except OSError as error:
            self.fault = error
            return True
        return not self.unsent

    def receive(self) -> Answer | None:
        """Receive what has come; return the answer once it is whole.

        Raises `EndError` at the end of the stream, `OSError` at a reset.
        """
        piece = self.socket.recv(RECEIVE_BYTES)
        if not piece:
            raise self.fault or EndError("ended without an answer")
        self.received += piece
        head, end, body = INTERIM.sub(b"", self.received, 1).partition(b"\r\n\r\n")
        length = CONTENT_LENGTH.search(head)
        if not end or len(body) < (int(length[1]) if length else 0):
            return None
        self.answered += 1
        self.is_closing = bool(CLOSE.search(head))
        seconds = time.perf_counter() - self.due
        version = MODEL_VERSION.search(head)
        text = version[1].decode() if version else ""
        return Answer(int(head[9:12]), self.due, seconds, text)

    def is_open(self) -> bool:
        """Return whether the server has left the connection open, as clients check."""
        try:
            return bool(self.socket.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def fail(self, error: OSError) -> Answer:
        """Return what became of a request that gets no answer."""
        ended = isinstance(error, EndError)
        is_accepted = bool(self.received or self.answered or ended)
        where = "after answers" if self.answered else "new"
        fault = f"{type(error).__name__} on a connection ({where})"
        seconds = time.perf_counter() - self.due
        return Answer(NO_ANSWER, self.due, seconds, "", fault, is_accepted)


class Load:
    """Requests in flight, on connections that are kept, and the answers so far."""

    def __init__(
        self, requests: list[bytes], per_connection: int | None = None
    ) -> None:
        self.answers: list[Answer] = []
        self.in_flight = 0
        self._requests = itertools.cycle(requests)
        self._per_connection = per_connection  # then the client closes it
        self._selector = selectors.DefaultSelector()
        self._idle: list[Connection] = []

    def begin(self, due: float) -> None:
        """Begin the next request, on an idle connection or on a new one."""
        connection = self._reuse()
        if connection is None:
            connection = Connection()
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        connection.begin(next(self._requests), due)
        self.in_flight += 1
        self._try(connection, self._send)

    def poll(self, seconds: float) -> None:
        """Send and receive what is ready, waiting at most so long for it."""
        for key, events in self._selector.select(seconds):
            is_writable = events & selectors.EVENT_WRITE
            self._try(key.data, self._send if is_writable else self._receive)

    def drain(self, seconds: float = DRAIN_SECONDS) -> None:
        """Wait for the answers in flight, at most so long; close all connections."""
        end = time.monotonic() + seconds
        while self.in_flight and time.monotonic() < end:
            self.poll(POLL_SECONDS)
        for key in list(self._selector.get_map().values()):
            if key.data not in self._idle:
                self._record(key.data.fail(TimeoutError()))
            self._close(key.data)

    def _reuse(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open():
                return connection
            self._close(connection)
        return None

    def _try(self, connection: Connection, step: Callable[[Connection], None]) -> None:
        try:
            step(connection)
        except OSError as error:
            if connection in self._idle:  # closed between requests
                self._idle.remove(connection)
            else:
                self._record(connection.fail(error))
            self._close(connection)

    def _send(self, connection: Connection) -> None:
        is_sent = connection.send()
        if is_sent == connection.is_sending:  # what to wait for has changed
            connection.is_sending = not is_sent
            events = selectors.EVENT_READ | (not is_sent and selectors.EVENT_WRITE)
            self._selector.modify(connection.socket, events, connection)

    def _receive(self, connection: Connection) -> None:
        answer = connection.receive()
        if answer is None:
            return
        self._record(answer)
        is_spent = connection.answered == self._per_connection
        if connection.is_closing or connection.unsent or is_spent:
            self._close(connection)
        else:
            self._idle.append(connection)

    def _close(self, connection: Connection) -> None:
        self._selector.unregister(connection.socket)
        connection.socket.close()

    def _record(self, answer: Answer) -> None:
        self.in_flight -= 1
        self.answers.append(answer)


def closed_loop(
    requests: list[bytes],
    seconds: float,
    connections: int,
    per_connection: int | None = None,
) -> list[Answer]:
    """Send requests in turn, each client its next one as soon as it has an answer."""
    load = Load(requests, per_connection)
    end = time.perf_counter() + seconds
    while (now := time.perf_counter()) < end:
        for _ in range(connections - load.in_flight):
            load.begin(now)
        load.poll(POLL_SECONDS)
        if load.answers and load.answers[-1].status == NO_ANSWER:
            time.sleep(BACK_OFF_SECONDS)
    load.drain()
    return load.answers


def open_loop(requests: list[bytes], seconds: float, rate: float) -> list[Answer]:
    """Send requests at a constant rate a second; time each from when it was due.

    What cannot be sent when it is due, or soon after, is left out: connections and the
    speed of this process have their bounds.
    """
    load = Load(requests)
    due = time.perf_counter()
    end = due + seconds
    while (now := time.perf_counter()) < end:
        while due <= now and load.in_flight < MAX_OPEN:
            load.begin(due)
            due += 1 / rate
        due = max(due, now - MAX_LATE_SECONDS)
        load.poll(min(POLL_SECONDS, max(0.0, due - now)))
    load.drain()
    return load.answers


@contextmanager
def background_load(
    requests: list[bytes], seconds: float, connections: int, per_connection: int
) -> Iterator[list[Answer]]:
    """Run a closed loop beside the block; the list is complete after it."""
    answers = list[Answer]()

    def run() -> None:
        answers.extend(closed_loop(requests, seconds, connections, per_connection))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield answers
    thread.join()


def exchange(request: bytes, seconds: float) -> int:
    """Send one request on a new connection; return its status, 0 without an answer.

    The answer may come while the body is still being sent.
    """
    load = Load([request])
    load.begin(time.perf_counter())
    load.drain(seconds)
    return load.answers[0].status


def count(answers: list[Answer]) -> str:
    """Return how many answers had which status, and which faults there were."""
    found = Counter(answer.fault or str(answer.status) for answer in answers)
    return ", ".join(f"{number} x {what}" for what, number in found.most_common())


def percentile(answers: list[Answer], percent: int) -> float:
    """Return the milliseconds within which so many percent of the answers came."""
    milliseconds = [answer.seconds * 1000 for answer in answers]
    if len(milliseconds) < 2:  # noqa: PLR2004 - quantiles want two
        return sum(milliseconds)
    return statistics.quantiles(milliseconds, n=100, method="inclusive")[percent - 1]
