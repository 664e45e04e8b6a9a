"""gunicorn's own ASGI worker, and what it lacks.

    worker_class = "service.worker.Worker"

Connections have limits of time and number, a client that has closed its half of one is
answered, and a stop waits for no idle client. Each hook names the part of gunicorn that
it leans on; the Pipfile pins the minor version.
"""

import asyncio
import sys
import time
from asyncio import TimerHandle
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, cast

from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.workers import gasgi
from pydantic_core import to_json

from service.problems import (
    CODES,
    PROBLEMS,
    REQUEST_SECONDS,
    TOO_MANY_CONNECTIONS,
    to_problem,
)

REFUSED_SECONDS = 1  # for a client to read why, before the connection is closed
YIELD_SECONDS = 0.0002  # for an idler worker to accept the next connection
MAX_CHUNKS = 1000  # of a body, that the application has not read
IDLE_SECONDS = 0.3  # for a client of a stopping worker to begin its last request


class Protocol(ASGIProtocol):  # type: ignore[misc]
    """A connection, with a time for each head, that may be half-closed."""

    worker: "Worker"
    head_timer: TimerHandle | None = None
    is_half_closed = False

    def __init__(self, worker: "Worker") -> None:
        super().__init__(worker)
        if worker.connections:
            time.sleep(YIELD_SECONDS)  # or one worker might take all that wait
        worker.connections.add(self)

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin, or refuse one connection too many."""
        super().connection_made(transport)
        self._arm_keepalive_timer()  # for a first request that never comes
        if self.worker.nr_conns > self.cfg.worker_connections:
            status = PROBLEMS["overloaded"].status
            self._send_error_response(status, TOO_MANY_CONNECTIONS)
            self._closed = True  # nothing that it sends is served
            self.worker.loop.call_later(REFUSED_SECONDS, transport.close)

    def _send_error_response(
        self, status: int, message: str, extra_headers: Iterable[tuple[str, str]] = ()
    ) -> None:
        """Refuse what does not reach the application with a problem document too."""
        title = HTTPStatus(status).phrase
        problem = to_problem(CODES.get(status, "bad_request"), message)
        body = to_json(problem | {"status": status, "title": title}) + b"\n"
        fields = {"Content-Type": "application/problem+json"} | dict(extra_headers)
        fields |= {"Content-Length": str(len(body)), "Connection": "close"}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        head = f"HTTP/1.1 {status} {title}\r\n{lines}\r\n"
        self._safe_write(head.encode("latin-1") + body)

    def _feed_callback_parser(self, data: bytes) -> bool:
        """Parse; bound the time of a head, and the chunks that wait to be read."""
        is_open = bool(super()._feed_callback_parser(data))
        if self._body_receiver and len(self._body_receiver._chunks) > MAX_CHUNKS:
            self._pause_reading()
        if self._current_request is not None:
            self._cancel_head_timer()
        elif self.head_timer is None:
            loop = self.worker.loop
            self.head_timer = loop.call_later(REQUEST_SECONDS, self._keepalive_timeout)
        return is_open

    def _cancel_head_timer(self) -> None:
        if self.head_timer is not None:
            self.head_timer.cancel()
            self.head_timer = None

    def _arm_keepalive_timer(self) -> None:
        """Wait for a next request, unless the client has said that there is none."""
        if self.is_half_closed:
            self._keepalive_timeout()
        else:
            super()._arm_keepalive_timer()

    def eof_received(self) -> bool:
        """Keep a half-closed connection for as long as its answer takes."""
        self.is_half_closed = True
        receiver = self._body_receiver
        return receiver is not None and bool(receiver._complete)

    def _close_transport(self) -> None:
        """Close, even if the client has reset the connection meanwhile."""
        is_open = not self._closed
        super()._close_transport()  # `write_eof` fails then, and nothing is closed
        if is_open and self.transport:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        self.worker.connections.discard(self)
        self._cancel_head_timer()

    def _will_close(self, *arguments: Any) -> bool:
        """Return whether this answer is the last, which it announces."""
        if self.worker.nr + 1 >= self.worker.request_limit:
            self.worker.stop()
        return bool(self.worker.is_stopping or super()._will_close(*arguments))

    def is_gone(self) -> bool:
        """Return whether the client has left: its half of the connection is closed."""
        return bool(self._closed or self.is_half_closed)

    def is_idle(self) -> bool:
        """Return whether no request has begun."""
        return bool(self._awaiting_request and self.head_timer is None)

    def _build_http_scope(self, *arguments: Any) -> dict[str, Any]:
        """Let the application know of its client and of others."""
        scope: dict[str, Any] = super()._build_http_scope(*arguments)
        is_alone = len(self.worker.connections) == 1
        scope["extensions"] = {"is_gone": self.is_gone, "is_alone": is_alone}
        return scope


class Worker(gasgi.ASGIWorker):  # type: ignore[misc]
    """The worker: Flask wrapped by the ASGI front."""

    max_requests: int
    slot: int  # of its metrics
    serving: "asyncio.Task[Any]"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.connections: set[Protocol] = set()
        self.is_stopping = False
        self.request_limit: int = self.max_requests
        self.max_requests = sys.maxsize  # gunicorn would close without a word

    @classmethod
    def check_config(cls, cfg: Config, log: Logger) -> None:
        """Refuse what the service does not do."""
        super().check_config(cfg, log)
        if cfg.is_ssl:
            sys.exit("gunicorn: HTTPS is the work of a proxy before this worker")
        if cfg.preload_app:
            sys.exit("gunicorn: each worker builds its own network: no --preload")

    def load_wsgi(self) -> None:
        """Load the Flask application, and the front before it."""
        flask = self.app.wsgi()
        # not before the fork, for this builds the network and counts for this process
        from service.asgi import Front  # noqa: PLC0415

        self.asgi = Front(flask)
        gasgi.ASGIProtocol = Protocol  # which `_serve` makes of each connection

    async def _serve(self) -> None:
        """Serve, in a task that `_end` can wake."""
        self.serving = cast("asyncio.Task[Any]", asyncio.current_task())
        await super()._serve()

    def handle_usr1_signal(self) -> None:
        """Reopen files on SIGUSR1, that of the record of predictions included."""
        super().handle_usr1_signal()
        record = self.asgi.service.record
        if record is not None:
            record.close()  # its next line opens it

    def handle_exit_signal(self) -> None:
        """Stop gracefully on SIGTERM."""
        self.stop()

    def stop(self) -> None:
        """Accept no more connections, and announce each answer as the last.

        gunicorn's own way, `alive`, would close connections that know of nothing.
        """
        if not self.is_stopping:
            self.is_stopping = True
            for server in self.servers:
                server.close()
            self.loop.call_later(IDLE_SECONDS, self._end)

    def _end(self) -> None:
        """Leave gunicorn's loop for its `_shutdown`, which waits for connections."""
        self.alive = False
        self.loop.create_task(self._close_idle())
        self.serving.cancel()

    async def _close_idle(self) -> None:
        """Close the connections without a request, which gunicorn would wait for."""
        while True:
            for connection in [one for one in self.connections if one.is_idle()]:
                connection._keepalive_timeout()
            await asyncio.sleep(IDLE_SECONDS)
