"""The gunicorn worker: many threads that take requests in, each for a bounded time.

Chosen in `gunicorn.conf.py`. gunicorn's own worker of threads waits for a slow sender
for ever, and takes leave of clients one by one in the thread that all depend on.
"""

import errno
import math
import re
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import cast

from gunicorn.http.body import Body, LengthReader
from gunicorn.http.errors import NoMoreData
from gunicorn.http.message import Request
from gunicorn.util import close as close_socket
from gunicorn.util import close_graceful
from gunicorn.workers.gthread import TConn, ThreadWorker
from werkzeug.exceptions import HTTPException, RequestTimeout, ServiceUnavailable

from line import Line
from settings import REQUEST_SECONDS

TOO_LATE = f"the request was not complete in {REQUEST_SECONDS} s"
MAX_RECEIVED = (
    128 * 1024**2
)  # bytes of all requests under way; small ones may exceed it
TOO_MUCH = "too much is being sent to the service; try again in a moment"
LINGER_SECONDS = 2  # with a client that has its answer and is still sending
STAY_MILLISECONDS = 2  # with a connection after its answer, for the next request
YIELD_SECONDS = 0.0005  # before a busy worker reaches for a new connection
PIECE = 256 * 1024  # bytes

# a request that is easily told from all others, and what makes it less easy
PLAIN_POST = re.compile(rb"POST (/[!-~]*) HTTP/1\.1\r\n((?:[!-9;-~]+:[ -~]*\r\n)+)\r\n")
UNPLAIN = re.compile(rb"^(?:transfer-encoding|expect|connection|upgrade):", re.I | re.M)
LENGTH = re.compile(rb"^content-length: *(\d{1,8})\r$", re.I | re.M)
PEEK = 8192  # bytes
WASTE = bytearray(PIECE)  # of the main thread: what nobody wants
PIECES = 4  # that it takes at a time


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
    """A connection that has so long to send a request, however it drips in.

    gunicorn has no such limit: a thread would wait for a slow sender for ever. It never
    blocks and waits only when it must: each call of the system gives the interpreter to
    another thread, and in a crowd that costs more than the call.
    """

    deadline: float | None = None  # of the request under way, from its first byte
    request: Request | None = None  # once its head is complete
    received = 0  # bytes of it
    unwanted = 0  # bytes yet to come of a request that was turned away

    def __init__(self, fileno: int) -> None:
        super().__init__(fileno=fileno)
        super().setblocking(False)

    def setblocking(self, flag: bool) -> None:
        """Stay as it is: gunicorn turns this on and off around each request."""

    def settimeout(self, value: float | None) -> None:
        """Likewise."""

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Receive what has come, or wait for it.

        Raises once the request has taken too long, or all requests too much memory.
        """
        if self.deadline is None:
            self.deadline = time.monotonic() + REQUEST_SECONDS
        while True:
            try:
                data = super().recv(size, flags)
                break
            except BlockingIOError:
                self._wait_for_more()
        if not flags:
            self.received += len(data)
            if not received.add(len(data)) and self.received > PIECE:
                raise self._give_up(ServiceUnavailable(TOO_MUCH, retry_after=1))
        return data

    def skip(self, count: int) -> None:
        """Receive so many bytes, and keep none of them."""
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

    def skip_some(self) -> bool:
        """Take what has come of an unwanted request; tell if nothing is amiss."""
        try:
            for _ in range(PIECES):
                come = self.recv_into(WASTE, min(self.unwanted, PIECE))
                self.unwanted -= come
                if not come or not self.unwanted:
                    return bool(come)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True

    def sendall(self, data: bytes, flags: int = 0) -> None:  # type: ignore[override]
        """Send all, or count a client that does not read as one that has left."""
        rest = memoryview(data)
        deadline = time.monotonic() + REQUEST_SECONDS
        while rest:
            try:
                rest = rest[super().send(rest, flags) :]
            except BlockingIOError:
                if not self._wait(select.POLLOUT, deadline):
                    fault = "the client does not read"
                    raise BrokenPipeError(errno.EPIPE, fault) from None

    def begin(self) -> None:
        """Forget the request before."""
        received.add(-self.received)
        self.deadline, self.request, self.received = None, None, 0

    def _wait_for_more(self) -> None:
        if not self._wait(select.POLLIN, self.deadline or 0.0):
            raise self._give_up(RequestTimeout(TOO_LATE))

    def _wait(self, event: int, deadline: float) -> bool:
        """Wait until something can be done; tell whether it can in time."""
        seconds = deadline - time.monotonic()
        poll = select.poll()
        poll.register(self, event)
        return seconds > 0 and bool(poll.poll(math.ceil(seconds * 1000)))

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

    def close(self, graceful: bool = False) -> None:
        """Close at once."""
        close_socket(self.sock)


class Worker(ThreadWorker):  # type: ignore[misc]
    """Threads that stay with a busy connection; new ones go to the idler worker.

    gunicorn hands a connection back to its main thread after each answer, which costs
    two thread switches a request, a tenth of a small one; and whichever worker wakes
    first takes every connection that waits.
    """

    def load_wsgi(self) -> None:
        """Load the application, and learn when and how it turns requests away."""
        super().load_wsgi()
        self.line: Line = self.wsgi.extensions["line"]
        self.turn_away: Callable[[str], bytes] = self.wsgi.extensions[
            "turn_away_unread"
        ]

    def on_client_socket_readable(self, conn: Connection, client: TimedSocket) -> None:
        """Turn a request away here and now if it must be, else give it to a thread."""
        is_refused = client.unwanted or (
            self.alive and self.line.is_full() and self.turn_away_here(client)
        )
        if not is_refused or not client.skip_some():
            super().on_client_socket_readable(conn, client)
            return
        self.keepalived_conns.remove(conn)
        conn.set_timeout()
        self.keepalived_conns.append(conn)  # in the order of their timeouts

    def turn_away_here(self, client: TimedSocket) -> bool:
        """Answer a plain POST with a 503; tell whether it was one.

        The main thread does it, without gunicorn's parser: a quarter of the work.
        """
        try:
            found = PLAIN_POST.match(socket.socket.recv(client, PEEK, socket.MSG_PEEK))
            if not found or UNPLAIN.search(found[2]):
                return False
            [length] = LENGTH.findall(found[2])
            answer = self.turn_away(found[1].decode())
            if client.send(answer) < len(answer):
                client.shutdown(socket.SHUT_RDWR)  # half an answer is none
        except (OSError, ValueError):
            return False
        client.unwanted = found.end() + int(length)
        return True

    def handle(self, conn: Connection) -> object:
        """Answer a request, and the next ones while nobody else waits for a thread."""
        again = self.handle_one(conn)
        while again is True and not self.is_busy() and has_more(conn):
            again = self.handle_one(conn)
        if again is False:
            take_leave(conn.sock)
        return again

    def handle_one(self, conn: Connection) -> object:
        """Answer a request, which has its own time to arrive."""
        try:
            return super().handle(conn)
        finally:
            conn.sock.begin()

    def handle_request(self, req: Request, conn: Connection) -> bool:
        """Answer, at once if there is too much to do; then read the rest of the body.

        The next request lies behind it. gunicorn reads 64 kB of it, 1 kB at a time.
        """
        conn.sock.request = req
        if req.method == "POST" and not self.line.lets_in():
            conn.sock.sendall(self.turn_away(req.path))
            again = self.alive and not req.should_close()
        else:
            again = super().handle_request(req, conn)
        try:
            if again:
                skip_rest(req.body, conn.sock)
        except (HTTPException, NoMoreData):
            return False
        return bool(again)

    def is_busy(self) -> bool:
        """Tell whether connections had better go back to the main thread."""
        is_crowded = self.nr_conns > self.cfg.threads or self.line.is_full()
        return is_crowded or not self.alive

    def accept(self, listener: socket.socket) -> None:
        """Take a new connection, unless an idler worker was quicker."""
        if self.nr_conns:
            time.sleep(YIELD_SECONDS)
        try:
            accepted, address = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        self.nr_conns += 1
        sock = TimedSocket(fileno=accepted.detach())
        self.enqueue_req(Connection(self.cfg, sock, address, listener.getsockname()))


def take_leave(sock: TimedSocket) -> None:
    """Close a connection, once the client has read its answer or time is up."""
    sock.deadline = time.monotonic() + LINGER_SECONDS
    with suppress(NoMoreData):
        close_graceful(sock)
    sock.begin()  # what came meanwhile is not under way any more


def skip_rest(body: Body, sock: TimedSocket) -> None:
    """Read what is left of a body, and keep nothing of it."""
    reader = body.reader
    if isinstance(reader, LengthReader) and reader.length:
        come = reader.unreader.take_buffered()
        reader.unreader.unread(come[reader.length :])
        sock.skip(reader.length - len(come))
        reader.length = 0
    while body.read(PIECE):  # in chunks
        pass


def has_more(conn: Connection) -> bool:
    """Tell whether a request follows within a moment."""
    if conn.parser.unreader.buf.getvalue():
        return True
    poll = select.poll()
    poll.register(conn.sock, select.POLLIN)
    return bool(poll.poll(STAY_MILLISECONDS))
