"""The common requests answered without Flask: pictures, or pixels in V2.

    answer_together([Ask("/predict", b"", body)])     [an `Answer`, or None]

What Flask and gunicorn do for any request takes several times as long as the network.
`worker.py` asks here first, when plain requests have come whole; whatever is out of the
ordinary is left to the routes. Keys, limits, counts, log lines and headers are those of
`predict.py`, and a test holds both ways against each other.
"""

import re
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache, lru_cache, partial
from http import HTTPStatus
from itertools import islice
from typing import NamedTuple

from werkzeug.exceptions import ClientDisconnected, HTTPException, RequestTimeout
from werkzeug.http import http_date

from model.images import ImageError
from predict import (
    Asked,
    account,
    app,
    bearer,
    classifier,
    classify,
    decode_and_classify,
    finish,
    is_let_in,
    model,
    network,
    refuse,
    request_id_of,
    respond,
    turn_away,
)
from service import observe
from service import v2 as protocols
from service.answers import Outcome, answer, document_of, written
from service.batching import FULL, OverloadedError
from service.bodies import Picture, plain_pictures
from service.openapi import PROBLEM
from service.problems import TOO_LATE

FIELDS = re.compile(  # of a request's head, those that matter here
    rb"\n(content-type|content-encoding|inference-header-content-length|authorization"
    rb"|x-api-key|x-request-id):([^\r\n]*)",
    re.IGNORECASE,
)
UNUSUAL = {b"content-encoding", b"inference-header-content-length"}
INFER_PATH = protocols.INFER.replace("<name>", classifier.name)
ROUTES = {INFER_PATH: protocols.INFER}  # whose path is not their name


class Ask(NamedTuple):
    """A POST that has come whole."""

    path: str
    fields: bytes  # the lines of its head, as `Head` holds them
    body: bytes


class Question(NamedTuple):
    """What a request wants to know, and how it is to be told."""

    request_id: str
    route: str
    started: float  # by `time.perf_counter`
    pictures: list[Picture]
    say: Callable[[list[Outcome]], tuple[int, bytes]]  # status and body


class Answer(NamedTuple):
    """A whole HTTP answer, and what is left to do once it is sent: count and log."""

    text: bytes
    tell: Callable[[], None]


def answer_together(asks: list[Ask]) -> list[Answer | None]:
    """Answer small pictures at once, in one pass; None for what takes long or waits.

    What the processor has at hand for one picture serves the next ones as well: sixteen
    together take half of the time that they take one by one.
    """
    questions = [read(ask, small=True) for ask in asks]
    taken = [question for question in questions if question]
    pictures = [picture for question in taken for picture in question.pictures]
    if not pictures or not network.takes():
        return [None] * len(asks)
    try:
        outcomes = iter(decode_and_classify(pictures))
    finally:
        network.pass_on(len(taken))
    return [
        question and write(question, list(islice(outcomes, len(question.pictures))))
        for question in questions
    ]


def answer_alone(ask: Ask, client: socket.socket) -> Answer | None:
    """Answer, however long it takes; None for what a route must see to.

    Raises `ClientDisconnected` if the client leaves while it waits for its turn.
    """
    question = read(ask, small=False)
    if question is None:
        return None
    try:
        outcomes = classify(question.pictures, client=client)
    except ClientDisconnected:
        teller(question, HTTPStatus.BAD_REQUEST)()
        raise
    except OverloadedError as error:
        status = HTTPStatus.SERVICE_UNAVAILABLE
        text = turned_away(ask.path, status, str(error), question.request_id)
        return Answer(text, teller(question, status))
    return write(question, outcomes)


def read(ask: Ask, *, small: bool) -> Question | None:
    """Read a request of pictures in a plain form; None for any other.

    With `small` only one that is quickly decoded is taken.
    """
    started = time.perf_counter()
    path, fields, body = ask
    found = FIELDS.findall(fields)
    sent = {name.lower(): value.strip().decode() for name, value in found}
    is_plain = len(sent) == len(found) and not sent.keys() & UNUSUAL
    token = sent.get(b"x-api-key") or bearer(sent.get(b"authorization", ""))
    is_large = len(body) > app.config["MAX_CONTENT_LENGTH"]
    if not is_plain or is_large or not is_let_in(token):
        return None
    with suppress(HTTPException, ImageError):  # a route will say what is wrong
        content = read_content(path, sent.get(b"content-type", ""), body, small=small)
        if content:
            request_id = request_id_of(sent.get(b"x-request-id", ""))
            return Question(request_id, ROUTES.get(path, path), started, *content)
    return None


def read_content(
    path: str, kind: str, body: bytes, *, small: bool
) -> tuple[list[Picture], Callable[[list[Outcome]], tuple[int, bytes]]] | None:
    """Find the pictures in a body of this Content-Type, and how to answer."""
    if path == "/predict":
        pictures = plain_pictures(body, kind, small=small)
        return ([*pictures], say_predictions) if pictures else None
    if path == INFER_PATH and (found := protocols.read_plain(body)):
        return found.pictures, partial(say_tensors, found)
    return None


def say_predictions(outcomes: list[Outcome]) -> tuple[int, bytes]:
    """Answer as `predict.predict` does."""
    answers = [answer(outcome) for outcome in outcomes]
    document = document_of(answers, model(), is_batch=len(answers) > 1)
    return document.get("status", HTTPStatus.OK), written(document)


def say_tensors(
    asked: protocols.PlainRequest, outcomes: list[Outcome]
) -> tuple[int, bytes]:
    """Answer as `protocols.infer` does."""
    return HTTPStatus.OK, protocols.say_plainly(asked, outcomes, classifier)


def write(question: Question, outcomes: list[Outcome]) -> Answer:
    """Write the answer to a question."""
    status, body = question.say(outcomes)
    own = f"Content-Length: {len(body)}\r\nX-Request-ID: {question.request_id}\r\n"
    head = head_of(status) + f"{own}Date: {date_at(int(time.time()))}\r\n\r\n".encode()
    return Answer(head + body, teller(question, status, outcomes))


def teller(
    question: Question, status: int, outcomes: list[Outcome] | None = None
) -> Callable[[], None]:
    """Prepare to count and log an answer that is ready now."""
    seconds = time.perf_counter() - question.started
    asked = Asked(question.request_id, "POST", question.route, seconds)
    pictures = [] if outcomes is None else question.pictures
    return partial(account, asked, status, pictures, outcomes or [])


@lru_cache(1)
def date_at(second: int) -> str:
    """Write a time as HTTP does."""
    return http_date(second)


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


def turn_away_unread(path: str, status: int, *, is_last: bool = False) -> bytes:
    """Write a whole HTTP answer for a POST that was not read, and count it.

    For a server that finds the line full (503), or a client too slow (408). To turn
    away before the body has come is several times cheaper, and leaves the processor to
    those who wait.
    """
    observe.count_unread(status)
    is_late = status == HTTPStatus.REQUEST_TIMEOUT
    detail = TOO_LATE if is_late else FULL
    return turned_away(path, status, detail, secrets.token_hex(16), is_last=is_last)


def turned_away(
    path: str, status: int, detail: str, request_id: str, *, is_last: bool = False
) -> bytes:
    """Write a whole 503 or 408 in the words of the protocol that a path belongs to."""
    protocol = next((p for p in ("/v2/", "/api/") if path.startswith(p)), "/")
    head, body = refusal(protocol, status, detail)
    own = f"X-Request-ID: {request_id}\r\n" + "Connection: close\r\n" * is_last
    return head + f"{own}\r\n".encode() + body


@cache
def refusal(path: str, status: int, detail: str) -> tuple[bytes, bytes]:
    """Write head and body of a 503 or 408, but for what differs each time."""
    with app.test_request_context(path):
        if status == HTTPStatus.REQUEST_TIMEOUT:
            response = refuse(RequestTimeout(detail))
        else:
            response = turn_away(OverloadedError(detail))
        finish(response)
        head = f"HTTP/1.1 {response.status}\r\n{response.headers}".removesuffix("\r\n")
        return head.encode(), response.get_data()
