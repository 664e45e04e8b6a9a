"""The common requests answered without Flask: one picture, or pixels in V2.

    answer_at_once("/predict", b"", body)     an `Answer`, or None

What Flask and gunicorn do for any request takes several times as long as the network.
`worker.py` asks here first, when a plain request has come whole; whatever is out of the
ordinary is left to the routes. Keys, limits, counts, log lines and headers are those of
`predict.py`, and a test holds both ways against each other.
"""

import re
import secrets
import socket
import time
from collections.abc import Callable
from functools import cache, partial
from http import HTTPStatus
from typing import NamedTuple

from werkzeug.exceptions import ClientDisconnected, HTTPException, RequestTimeout
from werkzeug.http import http_date

import observe
import protocols
import settings
from answers import Reply, answer, document_of, to_json
from images import ImageError
from line import FULL, BusyError, OverloadedError
from pictures import one_picture
from predict import (
    PROBLEM,
    Asked,
    account,
    app,
    bearer,
    classifier,
    classify,
    finish,
    is_let_in,
    model,
    refuse,
    request_id_of,
    respond,
    turn_away,
)

FIELDS = re.compile(  # of a request's head, those that matter here
    rb"^(content-type|content-encoding|inference-header-content-length|authorization"
    rb"|x-api-key|x-request-id):[ ]*(.*?)[ ]*\r$",
    re.IGNORECASE | re.MULTILINE,
)
UNUSUAL = {b"content-encoding", b"inference-header-content-length"}
INFER_PATH = protocols.INFER.replace("<name>", classifier.name)
ROUTES = {INFER_PATH: protocols.INFER}  # whose path is not their name


class Answer(NamedTuple):
    """A whole HTTP answer, and what is left to do once it is sent: count and log."""

    text: bytes
    tell: Callable[[], None]


def answer_at_once(
    path: str, fields: bytes, body: bytes, client: socket.socket | None = None
) -> Answer | None:
    """Answer a POST of one picture; None for any other.

    `fields` are the lines of the request's head. Without `client` only what is quick is
    answered; with it also what takes long or has to wait, unless the client has left:
    then this raises `ClientDisconnected`.
    """
    started = time.perf_counter()
    found = FIELDS.findall(fields)
    sent = {name.lower(): value.decode() for name, value in found}
    is_plain = len(sent) == len(found) and not sent.keys() & UNUSUAL
    token = sent.get(b"x-api-key") or bearer(sent.get(b"authorization", ""))
    if not is_plain or len(body) > app.config["MAX_CONTENT_LENGTH"]:
        return None
    request_id = request_id_of(sent.get(b"x-request-id", ""))

    def teller(status: int, reply: Reply | None = None) -> Callable[[], None]:
        seconds = time.perf_counter() - started
        asked = Asked(request_id, "POST", ROUTES.get(path, path), seconds)
        pictures, outcomes = (reply.pictures, reply.outcomes) if reply else ([], [])
        return partial(account, asked, status, pictures, outcomes)

    try:
        kind = sent.get(b"content-type", "")
        reply = reply_to(path, kind, body, client) if is_let_in(token) else None
    except ClientDisconnected:
        teller(HTTPStatus.BAD_REQUEST)()
        raise
    except OverloadedError as error:
        status = HTTPStatus.SERVICE_UNAVAILABLE
        text = turned_away(path, status, str(error), request_id)
        return Answer(text, teller(status))
    except (HTTPException, ImageError, BusyError):
        return None  # a route will say so
    if reply is None:
        return None
    own = f"Content-Length: {len(reply.text)}\r\nX-Request-ID: {request_id}\r\n"
    date = f"Date: {http_date()}\r\n\r\n"
    text = head_of(reply.status) + f"{own}{date}".encode() + reply.text
    return Answer(text, teller(reply.status, reply))


def reply_to(
    path: str, kind: str, body: bytes, client: socket.socket | None
) -> Reply | None:
    """Find out what to answer to a body of this Content-Type."""
    if path == "/predict":
        return predict_at_once(body, kind, client)
    if path == INFER_PATH:
        with app.app_context():
            return protocols.infer_at_once(body, client)
    return None


def predict_at_once(
    body: bytes, kind: str, client: socket.socket | None
) -> Reply | None:
    """Answer as `predict.predict` does, if the body is one picture."""
    picture = one_picture(body, kind, small=client is None)
    if picture is None:
        return None
    outcomes = classify([picture], client=client, wait=client is not None)
    document = document_of([answer(outcomes[0])], model(), is_batch=False)
    status = document.get("status", HTTPStatus.OK)
    text = to_json(document).encode()
    return Reply(status, text, [picture], outcomes)


@cache
def head_of(status: int) -> bytes:
    """Write the head of an answer, as Flask would, but for what differs each time."""
    with app.test_request_context():
        kind = "application/json" if status == HTTPStatus.OK else PROBLEM
        response = respond({}, status, kind)
        del response.headers["Content-Length"]
        finish(response)
        lines = str(response.headers).removesuffix("\r\n")
        named = f"Server: gunicorn\r\nConnection: keep-alive\r\n{lines}"
        return f"HTTP/1.1 {response.status}\r\n{named}".encode()


def turn_away_unread(path: str, status: int) -> bytes:
    """Write a whole HTTP answer for a POST that was not read, and count it.

    For a server that finds the line full (503), or a client too slow (408). To turn
    away before the body has come is several times cheaper, and leaves the processor to
    those who wait.
    """
    observe.count_unread(status)
    is_late = status == HTTPStatus.REQUEST_TIMEOUT
    detail = settings.TOO_LATE if is_late else FULL
    return turned_away(path, status, detail, secrets.token_hex(16))


def turned_away(path: str, status: int, detail: str, request_id: str) -> bytes:
    """Write a whole 503 or 408 in the words of the protocol that a path belongs to."""
    protocol = next((p for p in ("/v2/", "/api/") if path.startswith(p)), "/")
    head, body = refusal(protocol, status, detail)
    return head + f"X-Request-ID: {request_id}\r\n\r\n".encode() + body


@cache
def refusal(path: str, status: int, detail: str) -> tuple[bytes, bytes]:
    """Write head and body of a 503 or 408, but for what differs each time."""
    with app.test_request_context(path):
        if status == HTTPStatus.REQUEST_TIMEOUT:
            response = refuse(RequestTimeout(detail))
            response.headers["Connection"] = "close"
        else:
            response = turn_away(OverloadedError(detail))
        finish(response)
        head = f"HTTP/1.1 {response.status}\r\n{response.headers}".removesuffix("\r\n")
        return head.encode(), response.get_data()
