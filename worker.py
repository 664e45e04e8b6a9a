"""The gunicorn worker: its main thread collects requests, its threads answer them.

Chosen in `gunicorn.conf.py`. gunicorn's own worker of threads gives a thread to each
request that has begun to come, waits for a slow sender for ever, and takes leave of
clients one by one in the thread that all depend on. Here a request gets a thread when
it is complete, and one that is quickly answered needs none: to change threads takes
longer than all that Flask does.
"""

import selectors
import socket
import sys
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.http.body import ChunkedReader
from gunicorn.http.errors import NoMoreData
from gunicorn.http.message import Request
from gunicorn.util import close_graceful
from gunicorn.workers.gthread import ThreadWorker
from werkzeug.exceptions import ClientDisconnected, HTTPException

from connection import (
    ENDLESS,
    HEAD_BYTES,
    PIECE,
    Chunks,
    Connection,
    Head,
    TimedSocket,
    UnplainError,
    read_head,
    skip_rest,
)
from service.problems import REQUEST_SECONDS

if TYPE_CHECKING:  # imported by `load_wsgi`
    from shortcut import Ask

LINGER_SECONDS = 2  # with a client that has its answer and is still sending
YIELD_SECONDS = 0.0005  # before a busy worker reaches for a new connection
COLLECTED = 1024**2  # bytes; threads wait for what is larger
QUICK = 16 * 1024  # bytes; what is larger is not answered here
TOGETHER = 16  # requests, in one pass of the network
UNAVAILABLE, TIMED_OUT = 503, 408


class Worker(ThreadWorker):  # type: ignore[misc]
    """The main thread does what is quick, threads what may take long.

    New connections go to the idler worker: else whichever wakes first takes all that
    wait.
    """

    def load_wsgi(self) -> None:
        """Load the application, and the way past it."""
        super().load_wsgi()
        # not before the fork, for this builds the network
        import predict  # noqa: PLC0415
        import shortcut  # noqa: PLC0415

        self.line = predict.network
        self.shortcut = shortcut
        # both in the order of their deadlines
        self.coming: dict[Connection, None] = {}  # a request, in part
        self.leaving: dict[Connection, None] = {}  # those who were too slow
        self.quick: list[tuple[Connection, Head]] = []  # to be answered together
        self.answered = 0  # in this round of the main thread
        self.is_plain = self.cfg.keepalive and not (
            self.log.access_log_enabled or self.cfg.statsd_host  # gunicorn's own work
        )

    @classmethod
    def check_config(cls, cfg: Config, log: Logger) -> None:
        """Refuse what is not to be had."""
        super().check_config(cfg, log)
        if cfg.is_ssl:
            sys.exit("gunicorn: HTTPS is the work of a proxy before this worker")
        if cfg.preload_app:
            sys.exit("gunicorn: workers build their networks themselves: no --preload")

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
        conn = Connection(self.cfg, sock, address, listener.getsockname())
        conn.data_ready = True  # before a thread gets it
        conn.timeout = time.monotonic() + (self.cfg.keepalive or REQUEST_SECONDS)
        self.keepalived_conns.append(conn)
        readable = partial(self.on_client_socket_readable, conn)
        self.poller.register(sock, selectors.EVENT_READ, readable)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Do a round of what is to be done."""
        self.answered = 0
        super().wait_for_and_dispatch_events(timeout)
        self.answer_together()

    def on_client_socket_readable(self, conn: Connection, client: TimedSocket) -> None:
        """Collect what has come; see to the request once it is complete."""
        if client.unwanted:
            if not client.skip_some():
                self.drop(conn)
            elif conn not in self.leaving:
                self.await_next(conn)
        # of what will be turned away, the head is enough
        elif client.take_in(HEAD_BYTES if self.is_full(client) else PIECE):
            self.see_to(conn, client)
        else:
            self.drop(conn)

    def see_to(self, conn: Connection, client: TimedSocket) -> None:
        """Decide what is to become of a request, as far as it has come."""
        try:
            head = read_head(client.ahead)
        except UnplainError:
            self.hand_over(conn)
            return
        if head is None:
            self.await_rest(conn)
        elif self.alive and head.method == "POST" and self.is_full(client):
            self.refuse(conn, head)
        elif len(client.ahead) >= head.end:
            self.answer_or_hand_over(conn, head)
        elif head.end > COLLECTED:
            self.hand_over(conn)
        else:
            self.await_rest(conn)

    def is_full(self, client: TimedSocket) -> bool:
        """Tell whether there is no turn at the network, or no memory, for one more."""
        before = self.answered + len(self.quick)
        return client.is_too_much or self.line.is_full(before)

    def answer_or_hand_over(self, conn: Connection, head: Head) -> None:
        """Have a request that is complete answered, here if that is quickly done."""
        if head.method != "POST" or head.is_last or not self.may_answer():
            self.hand_over(conn)
        elif head.end <= QUICK and self.line.is_free():
            self.quick.append((conn, head))
            if len(self.quick) == TOGETHER:
                self.answer_together()
        else:
            self.hand_over(conn, head)

    def may_answer(self) -> bool:
        """Tell whether a request may be answered without gunicorn, and kept open."""
        is_last = not self.alive or self.nr + len(self.quick) + 1 >= self.max_requests
        is_crowded = len(self.keepalived_conns) >= self.max_keepalived
        return bool(self.is_plain and not is_last and not is_crowded)

    def answer_together(self) -> None:
        """Answer the quick requests that have come in this round."""
        if not self.quick:
            return
        quick, self.quick = self.quick, []
        try:
            asks = [self.ask_of(conn, head) for conn, head in quick]
            answers = self.shortcut.answer_together(asks)
        except Exception:  # Flask will meet it again, and knows what to say
            self.log.exception("%d requests are handed over", len(quick))
            answers = [None] * len(quick)
        for (conn, head), answer in zip(quick, answers, strict=True):
            if answer is None:
                self.hand_over(conn, head)
            else:
                self.answered += 1
                self.nr += 1
                self.finish(conn, head, answer.text)
        for answer in filter(None, answers):  # while the clients read theirs
            answer.tell()

    def ask_of(self, conn: Connection, head: Head) -> "Ask":
        """Take a request that has come whole."""
        with memoryview(conn.sock.ahead) as ahead:
            body = bytes(ahead[head.start : head.end])
        return self.shortcut.Ask(head.path, head.fields, body)

    def refuse(self, conn: Connection, head: Head) -> None:
        """Answer a 503, without gunicorn's parser: a quarter of the work."""
        if head.is_last or not self.cfg.keepalive:
            self.part(conn, head, UNAVAILABLE)
            return
        self.finish(conn, head, self.shortcut.turn_away_unread(head.path, UNAVAILABLE))

    def finish(self, conn: Connection, head: Head, answer: bytes) -> None:
        """Answer a request and have done with it."""
        if not self.send(conn, answer):
            return
        conn.sock.have_done(head.end)
        if conn.sock.ahead:  # of the next request
            self.hand_over(conn)
        else:
            self.await_next(conn)

    def send(self, conn: Connection, answer: bytes) -> bool:
        """Send a short answer; drop who does not take it, and tell."""
        with suppress(OSError):
            if conn.sock.send(answer) == len(answer):
                return True
        self.drop(conn)
        return False

    def await_rest(self, conn: Connection) -> None:
        """Wait for the rest of a request, as long as it may take."""
        if conn not in self.coming:
            self.keepalived_conns.remove(conn)
            self.coming[conn] = None

    def await_next(self, conn: Connection) -> None:
        """Wait for the next request."""
        self.forget(conn)
        conn.set_timeout()
        self.keepalived_conns.append(conn)

    def hand_over(self, conn: Connection, head: Head | None = None) -> None:
        """Leave a request to a thread, with its head if it may do without gunicorn."""
        self.unwatch(conn)
        conn.head = head
        self.enqueue_req(conn)

    def drop(self, conn: Connection) -> None:
        """Close a connection that is of no more use."""
        self.unwatch(conn)
        self.nr_conns -= 1
        conn.close()

    def unwatch(self, conn: Connection) -> None:
        """Look no more at what comes from a client."""
        self.poller.unregister(conn.sock)
        self.forget(conn)

    def forget(self, conn: Connection) -> None:
        """Take a connection off the lists of those that are waited for."""
        for waiting in (self.coming, self.leaving):
            if conn in waiting:
                del waiting[conn]
                return
        self.keepalived_conns.remove(conn)

    def murder_keepalived(self, force: bool = False) -> None:
        """Close connections that have been idle too long, and those too slow."""
        super().murder_keepalived(force)
        now = time.monotonic()
        for waiting in (self.coming, self.leaving):
            while waiting:
                conn = next(iter(waiting))
                if not force and now < (conn.sock.deadline or now):
                    break
                self.time_out(conn)

    def time_out(self, conn: Connection) -> None:
        """Tell a client that was too slow, if it said what it wanted, and close."""
        client = conn.sock
        try:
            head = None if client.unwanted else read_head(client.ahead)
        except UnplainError:
            head = None
        if head is None:
            self.drop(conn)
        else:
            self.part(conn, head, TIMED_OUT)

    def part(self, conn: Connection, head: Head, status: int) -> None:
        """Tell a client why its request is not read, and read on till it has heard."""
        text = self.shortcut.turn_away_unread(head.path, status, is_last=True)
        if not self.send(conn, text):
            return
        conn.sock.have_done(ENDLESS)
        conn.sock.deadline = time.monotonic() + LINGER_SECONDS
        self.forget(conn)
        self.leaving[conn] = None
        with suppress(OSError):
            conn.sock.shutdown(socket.SHUT_WR)

    def handle(self, conn: Connection) -> object:
        """Answer a request, and the next ones that have come with it."""
        conn.init()
        again = self.handle_one(conn)
        while again is True and conn.has_more():
            again = self.handle_one(conn)
        if again is False:
            take_leave(conn)
        return again

    def handle_one(self, conn: Connection) -> object:
        """Answer a request, which has its own time to arrive."""
        head, conn.head = conn.head, None
        try:
            again = (head and self.answer_whole(conn, head)) or super().handle(conn)
            conn.sock.flush()
        except (OSError, ClientDisconnected):
            return False
        else:
            return again
        finally:
            conn.is_let_in = False
            conn.sock.begin()

    def answer_whole(self, conn: Connection, head: Head) -> bool:
        """Answer a request that is complete; tell if that was done."""
        conn.is_let_in = self.line.lets_in()
        if not conn.is_let_in:
            self.send_from_thread(
                conn, head, self.shortcut.turn_away_unread(head.path, UNAVAILABLE)
            )
            return True
        try:
            ask = self.ask_of(conn, head)
            answer = self.shortcut.answer_alone(ask, conn.sock)
        except ClientDisconnected:
            raise
        except Exception:  # Flask will meet it again, and knows what to say
            self.log.exception("a request is handed over")
            return False
        if answer is None:
            return False
        try:
            self.send_from_thread(conn, head, answer.text)
        finally:
            answer.tell()
        return True

    def send_from_thread(self, conn: Connection, head: Head, answer: bytes) -> None:
        """Send a whole answer, and have done with its request."""
        self.nr += 1
        conn.sock.have_done(head.end)
        conn.sock.sendall(answer)
        conn.sock.flush()

    def handle_request(self, req: Request, conn: Connection) -> bool:
        """Answer, at once if there is too much to do; then read the rest of the body.

        The next request lies behind it. gunicorn reads 64 kB of it, 1 kB at a time.
        """
        conn.sock.request = req
        if isinstance(req.body.reader, ChunkedReader):
            req.body.reader = Chunks(req)
        if req.method == "POST" and not (conn.is_let_in or self.line.lets_in()):
            conn.sock.sendall(self.shortcut.turn_away_unread(req.path, UNAVAILABLE))
            again = self.alive and not req.should_close()
        else:
            again = super().handle_request(req, conn)
        conn.sock.flush()  # before what may take long
        try:
            if again:
                skip_rest(req.body, conn.sock)
        except (HTTPException, NoMoreData):
            return False
        return bool(again)


def take_leave(conn: Connection) -> None:
    """Close a connection, once the client has read its answer or time is up."""
    conn.sock.deadline = time.monotonic() + LINGER_SECONDS
    with suppress(NoMoreData):
        close_graceful(conn.sock)
