"""The ASGI application: hot routes answered in the event loop, all others by Flask.

    front = Front(predict.app)

Over `service.core`, as Flask's views are. Small requests that arrive together share a
pass of the network; whatever takes longer waits for the inference thread.
"""

import asyncio
import concurrent.futures
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple

from a2wsgi import WSGIMiddleware
from flask import Flask

from service.answers import Outcome
from service.batching import LATE, MAX_WAIT_SECONDS, overloaded
from service.core import QUICK_BYTES, Call, Job, Reply, Service, strip_prefix
from service.problems import (
    CLIENT_GONE,
    CLOSE,
    REQUEST_SECONDS,
    TINY_CHUNKS,
    TOO_LATE,
    TOO_MUCH,
    RequestError,
)

FLASK_THREADS = 8
MIN_RATE = 4000  # bytes a second of a body: who sends less has stopped
SCARCE_RATE = 64 * 1024  # the same where bodies under way fill half of `MAX_RECEIVED`
MAX_BODY_SECONDS = 15 * 60  # 32 MB at 50 kB/s take 11 minutes
MAX_RECEIVED = 128 * 1024**2  # bytes of all bodies under way; small ones may exceed it
SMALL_BODY = 256 * 1024
MAX_TINY_CHUNKS, TINY = 4096, 64  # chunks of a body, and bytes of one on average
MAX_TOGETHER = 16  # small requests that share a pass
MAX_SMALL = 512  # small requests that wait for one, some 0.2 s at most
SMALL_SECONDS = 0.2  # of the network, for all of them
LINGER_SECONDS, LINGER_BYTES = 2, 1024**2  # with a client that sends after its answer

Message = dict[str, Any]
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Waiting(NamedTuple):
    """A small request that waits for the next shared pass."""

    job: Job
    outcomes: asyncio.Future[list[Outcome]]


class Front:
    """The ASGI application: hot routes are answered here, all others by Flask."""

    def __init__(self, app: Flask) -> None:
        self.service: Service = app.extensions["service"]
        wsgi_app: Any = app
        self.flask: Any = WSGIMiddleware(wsgi_app, workers=FLASK_THREADS)
        self.small: list[Waiting] = []
        self.received = 0  # bytes of bodies under way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":  # a WebSocket, which is refused
            await self.flask(scope, receive, send)
            return
        path = strip_prefix(scope["path"])
        if scope["method"] != "POST" or path not in self.service.routes:
            # threads of Flask wait for no client: there is no route that takes a body,
            # and a request that is cancelled may go on
            await asyncio.shield(self.flask(scope, receive_nothing, send))
            await discard_body(receive)
            return
        call = self.to_call(scope, path)
        try:
            reply = await self.answer(call, scope, receive)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is logged
            reply = self.service.refuse(call, error)
        finally:
            self.received -= call.received
        await send_reply(reply, self.service.finish(call, reply.headers), send)
        self.service.account(call, reply.status)
        if not call.body and "Connection" not in reply.headers:
            await discard_body(receive)

    def to_call(self, scope: Scope, path: str) -> Call:
        """Return the request; fields of the same name are joined, as WSGI has them."""
        headers: dict[str, str] = {}
        for raw_name, raw_value in scope["headers"]:
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]},{value}" if name in headers else value
        query = scope["query_string"].decode("latin-1")
        route, _ = self.service.routes[path]
        return Call("POST", path, route, query, headers)

    async def answer(self, call: Call, scope: Scope, receive: Receive) -> Reply:
        """Answer a request of pictures. Raises as the service does."""
        extensions = scope.get("extensions", {})
        self.service.authorize(call)
        if not is_small(call) and self.service.queue.is_full():
            raise overloaded()  # before the body is read: an early refusal is cheap
        await self.read_body(call, receive)
        call.started = time.perf_counter()
        if len(call.body) <= QUICK_BYTES and not call.encoding:
            job = self.service.read(call)
            if self.service.is_quick(job):
                if extensions.get("is_alone"):  # nobody to share a pass with
                    return self.service.run(call, job)
                return self.service.render(call, job, await self.share_pass(job))
            work = partial(self.service.run, call, job)
        else:
            work = partial(self.service.process, call)
        is_gone = extensions.get("is_gone", lambda: False)
        return await reply_of(self.service.queue.submit(work, is_gone))

    async def read_body(self, call: Call, receive: Receive) -> None:
        """Read the body of a request, within the limits of size and time.

        Raises `RequestError`.
        """
        length = call.headers.get("content-length", "0")
        if int(length) > self.service.settings.max_content_length:
            raise self.service.too_large()
        chunks: list[bytes] = []
        try:
            await self.receive_chunks(chunks, receive)
        except TimeoutError as error:
            # browsers silently send a request again whose answer is 408
            code = "bad_request" if "origin" in call.headers else "timeout"
            raise RequestError(code, TOO_LATE, CLOSE) from error
        call.received = sum(map(len, chunks))
        call.body = chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def receive_chunks(self, chunks: list[bytes], receive: Receive) -> None:
        """Append the chunks of a body to a list.

        Raises `TimeoutError` if they come too slowly, `RequestError` if they are too
        many or the client has gone.
        """
        size, is_whole = 0, False
        clock = asyncio.get_running_loop().time
        end = clock() + MAX_BODY_SECONDS
        window_size, window_end = 0, clock() + REQUEST_SECONDS
        try:
            async with asyncio.timeout_at(window_end) as timer:
                while not is_whole:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise RequestError("bad_request", CLIENT_GONE)
                    chunk = message.get("body", b"")
                    chunks.append(chunk)
                    size += len(chunk)
                    self.received += len(chunk)
                    self.check_size(size, len(chunks))
                    is_whole = not message.get("more_body", False)
                    if is_whole:
                        break
                    if timer.expired():  # `wait_for` of Python 3.11 loses it
                        raise TimeoutError
                    if clock() >= window_end:
                        window_end += REQUEST_SECONDS
                        window_size = size - len(chunk)
                    if size - window_size >= self.least_size():
                        timer.reschedule(min(window_end + REQUEST_SECONDS, end))
        finally:
            if not is_whole:
                self.received -= size

    def least_size(self) -> int:
        """Return how many bytes of a body must come in `REQUEST_SECONDS`."""
        is_scarce = self.received > MAX_RECEIVED / 2
        return REQUEST_SECONDS * (SCARCE_RATE if is_scarce else MIN_RATE)

    def check_size(self, size: int, chunks: int) -> None:
        """Raise `RequestError` if too many bytes have come, or too small chunks."""
        if size > self.service.settings.max_content_length:
            raise self.service.too_large()
        if chunks > MAX_TINY_CHUNKS and size < TINY * chunks:
            raise RequestError("bad_request", TINY_CHUNKS)
        if self.received > MAX_RECEIVED and size > SMALL_BODY:
            raise overloaded(TOO_MUCH)

    def share_pass(self, job: Job) -> asyncio.Future[list[Outcome]]:
        """Have a small job done together with those that arrive in the same turn.

        Raises `RequestError` if there are too many.
        """
        loop = asyncio.get_running_loop()
        if len(self.small) * self.service.classifier.seconds >= SMALL_SECONDS or (
            len(self.small) >= MAX_SMALL
        ):
            raise overloaded()
        if not self.small:
            loop.call_soon(self.run_pass)
        waiting = Waiting(job, loop.create_future())
        self.small.append(waiting)
        return waiting.outcomes

    def run_pass(self) -> None:
        """Classify the pictures of small jobs in one pass."""
        most = min(MAX_TOGETHER, self.service.max_quick)
        batch, self.small = self.small[:most], self.small[most:]
        if self.small:
            asyncio.get_running_loop().call_soon(self.run_pass)
        batch = [one for one in batch if not one.outcomes.cancelled()]
        try:
            groups = self.service.classify([one.job.pictures for one in batch])
        except Exception as error:  # noqa: BLE001 - each request logs it
            for one in batch:
                one.outcomes.set_exception(error)
            return
        for one, outcomes in zip(batch, groups, strict=True):
            one.outcomes.set_result(outcomes)


async def reply_of(future: concurrent.futures.Future[Reply]) -> Reply:
    """Return the reply of a job. Raises `RequestError` if it is not begun in time."""
    reply = asyncio.wrap_future(future)
    try:
        await asyncio.wait([reply], timeout=MAX_WAIT_SECONDS)
    finally:
        is_late = future.cancel()  # not if it runs or is done
    if is_late:
        raise overloaded(LATE)
    return await reply


async def send_reply(reply: Reply, headers: dict[str, str], send: Send) -> None:
    """Send an answer with these headers."""
    fields = [
        (name.encode(), value.encode("latin-1")) for name, value in headers.items()
    ]
    fields.append((b"Content-Length", b"%d" % len(reply.body)))
    start = {"type": "http.response.start", "status": reply.status, "headers": fields}
    await send(start)
    await send({"type": "http.response.body", "body": reply.body})


async def receive_nothing() -> Message:
    """Receive an empty body."""
    return {"type": "http.request", "body": b"", "more_body": False}


async def discard_body(receive: Receive) -> None:
    """Read the rest of a request that is answered, a bounded time and size.

    The client may read its answer only once it has sent all.
    """
    size = 0
    try:
        async with asyncio.timeout(LINGER_SECONDS) as timer:
            for _ in range(MAX_TINY_CHUNKS):
                message = await receive()
                size += len(message.get("body", b""))
                is_over = size > LINGER_BYTES or timer.expired()
                if is_over or not message.get("more_body", False):
                    return
    except TimeoutError:
        return


def is_small(call: Call) -> bool:
    """Return whether a body is announced that may be answered without the queue."""
    length = call.headers.get("content-length")
    return length is not None and int(length) <= QUICK_BYTES
