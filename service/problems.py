"""The error contract: every code with its status, its title and an example.

    >>> raise RequestError("bad_request", "the body is empty")

The codes are stable; details are for people. An answer is a problem document (RFC 9457)
on every route but those of the V2 and Seldon protocols, which word it their own way.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from model.images import UNSUPPORTED

MAX_PICTURES = 256  # in one request
REQUEST_SECONDS = 10  # for the head of a request, and for its body without more time
CLOSE = {"Connection": "close"}

NOT_FOUND = "there is no such page"
OUR_FAULT = "our fault; the log says more under the request's id"
QUEUE_FULL = "the queue is full; try again in a moment"
TOO_LATE = "the request has stopped, or comes too slowly"
TOO_MUCH = "too much is being sent to the service; try again in a moment"
TOO_MANY_CONNECTIONS = "too many connections; try again in a moment"
TINY_CHUNKS = "the chunks of the body are too small"
CLIENT_GONE = "the client has gone"
TOO_MANY = f"at most {MAX_PICTURES} pictures in one request"
EMPTY = "the body is empty: send a picture, a form with a file or JSON"
NO_KEY = "send a key: X-API-Key: KEY or Authorization: Bearer KEY"


class Problem(NamedTuple):
    """What a code stands for."""

    status: int  # HTTP
    title: str
    example: str  # of a detail


PROBLEMS = {
    "bad_request": Problem(400, "Bad request", EMPTY),
    "unauthorized": Problem(401, "Unauthorized", NO_KEY),
    "not_found": Problem(404, "Not found", NOT_FOUND),
    "method_not_allowed": Problem(405, "Method not allowed", "use POST"),
    "timeout": Problem(408, "Timeout", TOO_LATE),
    "too_large": Problem(413, "Too large", TOO_MANY),
    "unsupported_image": Problem(415, "Unsupported image", UNSUPPORTED),
    "broken_image": Problem(
        422, "Broken image", "the picture cannot be decoded: image file is truncated"
    ),
    "unknown_class": Problem(422, "Unknown class", "none of the classes"),
    "internal_error": Problem(500, "Internal error", OUR_FAULT),
    "overloaded": Problem(503, "Overloaded", QUEUE_FULL),
}
# the code of a status, the first of several
CODES = {problem.status: code for code, problem in reversed(PROBLEMS.items())}


class RequestError(Exception):
    """A request that gets an error: its code, a detail for people, more headers."""

    def __init__(
        self, code: str, detail: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.code, self.detail, self.headers = code, detail, dict(headers or {})

    @property
    def status(self) -> int:
        """The HTTP status of its code."""
        return PROBLEMS[self.code].status


def to_problem(code: str, detail: str) -> dict[str, Any]:
    """Return the members of a problem document (RFC 9457), with our stable code."""
    status, title, _ = PROBLEMS[code]
    return {"title": title, "status": status, "detail": detail, "code": code}
