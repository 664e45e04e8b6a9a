"""The common requests answered without Flask: one picture, or pixels in V2.

    answer_at_once("/predict", b"", body)     the whole HTTP answer, or None

What Flask and gunicorn do for any request takes several times as long as the network.
`worker.py` asks here first, when a plain request has come whole; whatever is out of the
ordinary is left to the routes. Keys, limits, counts, log lines and headers are those of
`predict.py`, and a test holds both ways against each other.
"""

import re
import secrets
import socket
import time
from functools import cache
from http import HTTPStatus

from werkzeug.exceptions import ClientDisconnected, HTTPException, RequestTimeout
from werkzeug.http import http_date

import observe
import protocols
import settings
from answers import Reply, answer, document_of, to_json
from images import ImageError
from line import FULL, OverloadedError
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


def answer_at_once(
    path: str, fields: bytes, body: bytes, client: socket.socket | None = None
) -> bytes | None:
    """Write the whole HTTP answer to a POST of one picture; None for any other.

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
    try:
        kind = sent.get(b"content-type", "")
        reply = reply_to(path, kind, body, client) if is_let_in(token) else None
    except ClientDisconnected:
        raise
    except OverloadedError:
        return turn_away_unread(path, HTTPStatus.SERVICE_UNAVAILABLE)
    except (HTTPException, ImageError):
        return None  # a route will say so
    if reply is None:
        return None
    request_id = request_id_of(sent.get(b"x-request-id", ""))
    asked = Asked(request_id, "POST", reply.route, started)
    account(asked, reply.status, reply.pictures, reply.outcomes)
    own = f"Content-Length: {len(reply.text)}\r\nX-Request-ID: {request_id}\r\n"
    date = f"Date: {http_date()}\r\n\r\n"
    return head_of(reply.status) + f"{own}{date}".encode() + reply.text


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
    outcomes = classify([picture], client=client)
    document = document_of([answer(outcomes[0])], model(), is_batch=False)
    status = document.get("status", HTTPStatus.OK)
    text = to_json(document).encode()
    return Reply("/predict", status, text, [picture], outcomes)


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
    named = f"X-Request-ID: {secrets.token_hex(16)}\r\n\r\n"
    protocol = next((p for p in ("/v2/", "/api/") if path.startswith(p)), "/")
    head, body = refusal(protocol, status)
    return head + named.encode() + body


@cache
def refusal(path: str, status: int) -> tuple[bytes, bytes]:
    """Write head and body of what anybody is told whose request was not read."""
    with app.test_request_context(path):
        if status == HTTPStatus.REQUEST_TIMEOUT:
            response = refuse(RequestTimeout(settings.TOO_LATE))
            response.headers["Connection"] = "close"
        else:
            response = turn_away(OverloadedError(FULL))
        finish(response)
        head = f"HTTP/1.1 {response.status}\r\n{response.headers}".removesuffix("\r\n")
        return head.encode(), response.get_data()
