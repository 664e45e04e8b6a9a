"""One client's connection: what has come of a request, and how long it may take.

The main thread of a worker collects requests with `take_in`, which never waits; threads
read what it has collected, and wait for the rest of what is too large to collect.
"""

import errno
import math
import re
import select
import socket
import threading
import time
from typing import NamedTuple, cast

from gunicorn.http.body import Body, LengthReader
from gunicorn.http.errors import NoMoreData, ParseException
from gunicorn.http.message import Request
from gunicorn.util import close as close_socket
from gunicorn.workers.gthread import TConn
from werkzeug.exceptions import (
    BadRequest,
    HTTPException,
    RequestTimeout,
    ServiceUnavailable,
)

from service.problems import REQUEST_SECONDS, TOO_LATE

MAX_RECEIVED = 128 * 1024**2  # bytes of all requests under way; small ones may exceed
ENDLESS = 2**62  # bytes
TOO_MUCH = "too much is being sent to the service; try again in a moment"
PIECE = 256 * 1024  # bytes
COME = memoryview(bytearray(PIECE))  # what the main thread has just received
PIECES = 4  # that it takes at a time

# the head of a request that is easily told from all others, and what makes it less easy
# (a field is found by the end of the line before it: three times as fast as by ^)
PLAIN = re.compile(
    rb"(GET|POST) (/[!-~]*) HTTP/1\.1\r(\n(?:[!#$%&'*+.^_`|~\w-]+:[ -~]*\r\n)+)\r\n"
)
UNPLAIN = re.compile(
    rb"\n(?:transfer-encoding|expect|upgrade|x-forwarded-ssl|x-forwarded-protocol"
    rb"|connection(?!: *(?:keep-alive|upgrade|close) *\r)):",  # nginx says upgrade
    re.IGNORECASE,
)
LAST = re.compile(rb"\nconnection: *close *\r", re.IGNORECASE)
HOST = re.compile(rb"\nhost:", re.IGNORECASE)
LENGTH = re.compile(rb"\ncontent-length:(.*)\r", re.IGNORECASE)
DIGITS = re.compile(rb" *(\d{1,8})")
HEAD_BYTES = 8 * 1024  # a plain head is no longer, nor one of its lines; and it has
MOST_FIELDS = 100  # as gunicorn


class UnplainError(ValueError):
    """A request that takes gunicorn's parser to understand."""


class Head(NamedTuple):
    """What the head of a plain request says."""

    method: str
    path: str
    fields: bytes  # its lines, after the end of the first
    start: int  # of the body, in bytes
    end: int
    is_last: bool  # of its connection, as the client wants it


class Total:
    """The bytes of all requests that are under way."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._bytes = 0

    def add(self, count: int) -> bool:
        """Add to them; tell whether they are no more than may be."""
        with self._mutex:
            self._bytes += count
            return self._bytes <= MAX_RECEIVED


received = Total()


class TimedSocket(socket.socket):
    """A socket that has so long to send a request, however it drips in.

    gunicorn has no such limit: a thread would wait for a slow sender for ever. It never
    blocks and waits only when it must: each call of the system gives the interpreter to
    another thread, and in a crowd that costs more than the call.
    """

    deadline: float | None = None  # of the request under way, from its first byte
    request: Request | None = None  # once its head is complete
    received = 0  # bytes of it
    is_too_much = False  # for the memory that all requests share
    unwanted = 0  # bytes yet to come of a request that was turned away

    def __init__(self, fileno: int) -> None:
        super().__init__(fileno=fileno)
        super().setblocking(False)
        self.ahead = bytearray()  # collected and not yet read
        self.behind = bytearray()  # answered and not yet sent

    def setblocking(self, flag: bool) -> None:
        """Stay as it is: gunicorn turns this on and off around each request."""

    def settimeout(self, value: float | None) -> None:
        """Likewise."""

    def take_in(self, most: int) -> bool:
        """Collect what has come; tell whether the client is still there."""
        try:
            size = self.recv_into(COME[:most])
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.ahead += COME[:size]
        self._count(size)
        return bool(size)

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Return what was collected, else receive what has come, or wait for it.

        Raises once the request has taken too long, or all requests too much memory.
        """
        if flags:
            return super().recv(size, flags)
        if self.ahead:
            data = bytes(self.ahead[:size])
            del self.ahead[:size]
            return data
        while True:
            try:
                data = super().recv(size)
                break
            except BlockingIOError:
                self._wait_for_more()
        self._count(len(data))
        if self.is_too_much:
            raise self._give_up(ServiceUnavailable(TOO_MUCH, retry_after=1))
        return data

    def skip(self, count: int) -> None:
        """Receive so many bytes, and keep none of them."""
        count -= self._drop(count)
        waste = memoryview(bytearray(min(count, PIECE)))
        while count > 0:
            try:
                come = self.recv_into(waste[:count])
            except BlockingIOError:
                self._wait_for_more()
                continue
            if not come:
                raise cast("Exception", NoMoreData())
            count -= come

    def have_done(self, size: int) -> None:
        """Forget a request of this size; what is yet to come of it is unwanted."""
        self.unwanted = size - self._drop(size)
        self.begin()

    def skip_some(self) -> bool:
        """Take what has come of an unwanted request; tell if nothing is amiss."""
        try:
            for _ in range(PIECES):
                come = self.recv_into(COME, min(self.unwanted, PIECE))
                self.unwanted -= come
                if not come or not self.unwanted:
                    return bool(come)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True

    def sendall(self, data: bytes, flags: int = 0) -> None:  # type: ignore[override]
        """Send all, head and body together, once `flush` is called or it is much."""
        self.behind += data
        if len(self.behind) > PIECE:
            self.flush()

    def flush(self) -> None:
        """Send the answer; who does not read it is counted as one that has left."""
        data, self.behind = self.behind, bytearray()
        rest = memoryview(data)
        deadline = time.monotonic() + REQUEST_SECONDS
        while rest:
            try:
                rest = rest[super().send(rest) :]
            except BlockingIOError:
                if not self._wait(select.POLLOUT, deadline):
                    fault = "the client does not read"
                    raise BrokenPipeError(errno.EPIPE, fault) from None

    def begin(self) -> None:
        """Forget the request before; what was collected belongs to the next."""
        rest = len(self.ahead)
        received.add(rest - self.received)
        self.request, self.received, self.is_too_much = None, rest, False
        self.deadline = time.monotonic() + REQUEST_SECONDS if rest else None

    def _count(self, size: int) -> None:
        if self.deadline is None:
            self.deadline = time.monotonic() + REQUEST_SECONDS
        self.received += size
        self.is_too_much = not received.add(size) and self.received > PIECE

    def _drop(self, count: int) -> int:
        """Throw away so much of what was collected, if it is that much."""
        count = min(count, len(self.ahead))
        del self.ahead[:count]
        return count

    def _wait_for_more(self) -> None:
        if self.deadline is None:  # the request began behind the one before
            self.deadline = time.monotonic() + REQUEST_SECONDS
        if not self._wait(select.POLLIN, self.deadline):
            raise self._give_up(RequestTimeout(TOO_LATE))

    def _wait(self, event: int, deadline: float) -> bool:
        """Wait until something can be done; tell whether it can in time."""
        seconds = deadline - time.monotonic()
        if seconds <= 0:
            return False
        poll = select.poll()
        poll.register(self, event)
        return bool(poll.poll(math.ceil(seconds * 1000)))

    def _give_up(self, fault: HTTPException) -> Exception:
        """Choose what to raise: without a whole head there is nobody to answer."""
        if self.request is None:
            return cast("Exception", NoMoreData())
        self.request.must_close = True
        return fault


class Connection(TConn):  # type: ignore[misc]
    """A connection that its own thread takes leave of.

    gunicorn lingers in the main thread, up to two seconds a connection.
    """

    sock: TimedSocket
    head: Head | None = None  # of a request that has come whole
    is_let_in = False  # to the line for the network

    def close(self, graceful: bool = False) -> None:
        """Close at once."""
        # what came meanwhile is not under way any more
        self.sock.have_done(ENDLESS)
        close_socket(self.sock)

    def has_more(self) -> bool:
        """Tell whether some of a next request has come with the one before."""
        return bool(self.sock.ahead or self.parser.unreader.buf.getvalue())


def read_head(data: bytes | bytearray) -> Head | None:
    """Read the head of a request, if it is complete.

    Raises `UnplainError` for one that gunicorn had better read.
    """
    found = PLAIN.match(data)
    if not found:
        if len(data) > HEAD_BYTES or b"\r\n\r\n" in data:
            raise UnplainError
        return None
    method, path, fields = found.groups()
    lengths = LENGTH.findall(fields)
    digits = [DIGITS.fullmatch(length) for length in lengths]
    if (
        found.end() > HEAD_BYTES
        or fields.count(b"\n") > MOST_FIELDS + 1
        or len(HOST.findall(fields)) != 1
        or UNPLAIN.search(fields)
        or len(lengths) != (method == b"POST")
        or not all(digits)
    ):
        raise UnplainError
    size = int(lengths[0]) if lengths else 0
    return Head(
        method=method.decode(),
        path=path.decode(),
        fields=bytes(fields),
        start=found.end(),
        end=found.end() + size,
        is_last=bool(LAST.search(fields)),
    )


class Chunks:
    """The chunks of a body: what is none is a client's mistake, and its last word."""

    def __init__(self, request: Request) -> None:
        self._request, self._reader = request, request.body.reader

    def read(self, size: int) -> bytes:
        """Read on. Raises `BadRequest`."""
        try:
            return cast("bytes", self._reader.read(size))
        except ParseException as error:
            self._request.must_close = True
            raise BadRequest(f"the body cannot be read: {error}") from error


def skip_rest(body: Body, sock: TimedSocket) -> None:
    """Read what is left of a body, and keep nothing of it."""
    reader = body.reader
    if isinstance(reader, LengthReader) and reader.length:
        come = reader.unreader.take_buffered()
        reader.unreader.unread(come[reader.length :])
        sock.skip(max(0, reader.length - len(come)))  # the next may have come too
        reader.length = 0
    while body.read(PIECE):  # in chunks
        pass
