"""Requests of up to 32 MB that are made to cost as much as possible.

Each is made when it is sent, for all of them are gigabytes.
"""

import gzip
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from bench import hostile_pictures
from bench.client import OK, UNKNOWN_CLASS, post

JSON = "Content-Type: application/json"
FORM = "Content-Type: application/x-www-form-urlencoded"
PICTURE = "Content-Type: image/png"
MULTIPART = "Content-Type: multipart/form-data; boundary=b"
PART = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n'
LIMIT = 32 * 1024**2 - 1024  # bytes, just below the service's
SEVERAL = 256  # pictures, as many as a request may hold

Make = Callable[[], bytes]


class Hostile(NamedTuple):
    """A request, and whether it is one that may be answered."""

    name: str
    make: Make
    may_be_answered: bool = False  # costly, but a picture all the same

    def is_refusal(self, status: int) -> bool:
        """Return whether the status is one that this request should get."""
        if self.may_be_answered and status in (OK, UNKNOWN_CLASS):
            return True
        return status in range(400, 500)


def make_requests(model: str) -> Iterator[Hostile]:
    """Return all requests; `model` is the name that the V2 route has."""
    yield from json_requests(model)
    yield from form_requests()
    yield from multipart_requests()
    yield from picture_requests()
    yield from body_requests()
    yield from head_requests()


def fill(piece: bytes, size: int = LIMIT) -> bytes:
    """Return so many bytes of a repeated piece, at most."""
    return piece * (size // len(piece))


def array(element: bytes, size: int = LIMIT) -> bytes:
    """Return a JSON array of equal elements."""
    return b"[" + fill(element + b",", size - len(element) - 2) + element + b"]"


VALUES: dict[str, Make] = {
    "200,000 x [[[[1]]]]": lambda: array(b"[[[[1]]]]", 2_000_000),
    "28 MB of [[[[1]]]]": lambda: array(b"[[[[1]]]]", 28_000_000),
    "200,000 deep": lambda: 200_000 * b"[" + 200_000 * b"]",
    "15 million deep": lambda: 15_000_000 * b"[" + 15_000_000 * b"]",
    "10 million numbers": lambda: array(b"1", 20_000_000),
    "10 million strings": lambda: array(b'""', 30_000_000),
    "10 million objects": lambda: array(b"{}", 30_000_000),
    "3 million distinct keys": lambda: (
        b"{%s}" % b",".join(b'"%x":1' % number for number in range(3_000_000))
    ),
    "a string of 30 MB": lambda: b'"%s"' % fill(b"A", 30_000_000),
    "5 million escapes": lambda: b'"%s"' % fill(b"\\u0041", 30_000_000),
    "a number of 30 MB": lambda: fill(b"1", 30_000_000),
    "30 MB of spaces": lambda: fill(b" ", 30_000_000) + b"1",
}
TENSOR = b'{"inputs": [{"name": "pixels", "datatype": "UINT8", '
TENSOR += b'"shape": [1, 28, 28], "data": '
MORE_JSON: dict[str, Make] = {
    "10 million images": lambda: b'{"images": %s}' % array(b'""', 30_000_000),
    "base64 of 30 MB": lambda: b'{"image": "%s"}' % fill(b"iVBO", 30_000_000),
    "UTF-16": lambda: ('{"pixels": [' + 5_000_000 * "1,").encode("utf-16"),
}


def json_requests(model: str) -> Iterator[Hostile]:
    """Return JSON on each route that takes any."""
    routes = (
        ("/predict", JSON, b'{"pixels": ', b"}"),
        (f"/v2/models/{model}/infer", JSON, TENSOR, b"}]}"),
        ("/api/v1.0/predictions", JSON, b'{"data": {"ndarray": ', b"}}"),
        ("/predict", FORM, b'json={"data": {"ndarray": ', b"}}"),
    )
    for path, kind, start, end in routes:
        where = f"json= {path}" if kind is FORM else path
        for name, make in VALUES.items():
            request = partial(posted, make, path, kind, start, end)
            yield Hostile(f"{where}: {name}", request)
    for name, make in MORE_JSON.items():
        yield Hostile(f"/predict: {name}", partial(posted, make, "/predict", JSON))


def posted(
    make: Make, path: str, field: str, start: bytes = b"", end: bytes = b""
) -> bytes:
    """Return a request with what `make` returns in its body."""
    return post(start + make() + end, path, field)


def form_requests() -> Iterator[Hostile]:
    """Return URL-encoded forms."""
    bodies: dict[str, Make] = {
        "json= all percent signs": lambda: b"json=" + fill(b"%5B"),
        "json= pluses": lambda: b"json=" + fill(b"+"),
        "8 million fields": lambda: fill(b"a=1&"),
        "32 million empty fields": lambda: fill(b"&"),
        "10 million json=": lambda: fill(b"json=&"),
        "a name of 32 MB": lambda: fill(b"a"),
    }
    for name, make in bodies.items():
        yield Hostile(f"form: {name}", partial(posted, make, "/predict", FORM))


def multipart_requests() -> Iterator[Hostile]:
    """Return multipart forms."""
    end = b"\r\n--b--\r\n"
    bodies: dict[str, Make] = {
        "a part with 10 million header lines": lambda: (
            PART + fill(b":\r\n", 29_000_000) + b"\r\nx" + end
        ),
        "a part with 7 million headers": lambda: (
            PART + fill(b"a:\r\n", 29_000_000) + b"\r\nx" + end
        ),
        "a header of 30 MB": lambda: (
            PART + b"X: " + fill(b"a", 30_000_000) + b"\r\n\r\nx" + end
        ),
        "a header of 15 million semicolons": lambda: (
            PART + b"Content-Type: a" + fill(b";a=", 30_000_000) + b"\r\n\r\nx" + end
        ),
        "100,000 parts": lambda: 100_000 * (PART + b"\r\nx\r\n") + b"--b--\r\n",
        "as many parts as fit": lambda: fill(PART + b"\r\n\r\n") + b"--b--\r\n",
        "8 million boundaries": lambda: fill(b"--b\r\n"),
        "line ends": lambda: PART + b"\r\n" + fill(b"\r\n", 30_000_000) + end,
        "near boundaries": lambda: PART + b"\r\n" + fill(b"\r\n--a", 30_000_000) + end,
        "no end": lambda: PART + b"\r\n" + fill(b"\xff", 30_000_000),
        "no boundary": lambda: fill(b"a"),
        "a field json= of 30 MB": lambda: (
            b'--b\r\nContent-Disposition: form-data; name="json"\r\n\r\n'
            + array(b"[[[[1]]]]", 28_000_000)
            + end
        ),
    }
    for name, make in bodies.items():
        yield Hostile(
            f"multipart: {name}", partial(posted, make, "/predict", MULTIPART)
        )


def picture_requests() -> Iterator[Hostile]:
    """Return pictures, alone and as many as a request may hold."""
    for name, (make, is_picture) in hostile_pictures.PICTURES.items():
        yield Hostile(name, partial(posted, make, "/predict", PICTURE), is_picture)
    for name in ("PNG, 25 million pixels", "progressive JPEG, 25 million pixels"):
        make, _ = hostile_pictures.PICTURES[name]
        yield Hostile(
            f"{SEVERAL} x {name}",
            partial(several, make),
            may_be_answered=True,
        )


def several(make: Make) -> bytes:
    """Return a request of as many copies of a picture as it may hold."""
    picture = make()
    count = min(SEVERAL, LIMIT // (len(picture) + 100))
    parts = count * (PART + b"\r\n" + picture + b"\r\n") + b"--b--\r\n"
    return post(parts, "/predict", MULTIPART)


def raw(*lines: str, body: bytes = b"") -> bytes:
    """Return a request with these lines of a head."""
    return "\r\n".join([*lines, "", ""]).encode() + body


START = ("POST /predict HTTP/1.1", "Host: bench")
CHUNKED = (*START, "Transfer-Encoding: chunked")


BODIES: dict[str, Make] = {
    "Content-Length of 40 MB": lambda: raw(*START, "Content-Length: 40000000"),
    "40 MB": lambda: post(fill(b"\xff", 40_000_000)),
    "30 of 31 MB, then nothing": lambda: raw(
        *START, "Content-Length: 31000000", body=fill(b"\xff", 30_000_000)
    ),
    "30 MB after Content-Length: 0": lambda: raw(
        *START, "Content-Length: 0", body=fill(b"a", 30_000_000)
    ),
    "Content-Length: -1": lambda: raw(*START, "Content-Length: -1", body=fill(b"a")),
    "two Content-Lengths": lambda: raw(
        *START, "Content-Length: 1", "Content-Length: 2", body=b"ab"
    ),
    "length and chunks": lambda: raw(*CHUNKED, "Content-Length: 1", body=b"0\r\n\r\n"),
    "gzip, 32 MB of 33 GB": lambda: post(
        fill(gzip.compress(bytes(10_000_000))), "/predict", "Content-Encoding: gzip"
    ),
    "5 million chunks": lambda: raw(
        *CHUNKED, body=fill(b"1\r\na\r\n", 30_000_000) + b"0\r\n\r\n"
    ),
    "a chunk extension of 30 MB": lambda: raw(
        *CHUNKED, body=b"1;" + fill(b"a", 30_000_000) + b"\r\na\r\n0\r\n\r\n"
    ),
    "a chunk size of 30 MB": lambda: raw(
        *CHUNKED, body=fill(b"0", 30_000_000) + b"1\r\na\r\n0\r\n\r\n"
    ),
    "trailers of 30 MB": lambda: raw(
        *CHUNKED, body=b"1\r\na\r\n0\r\n" + fill(b"a: b\r\n", 30_000_000) + b"\r\n"
    ),
    "40 MB in chunks": lambda: raw(
        *CHUNKED,
        body=40 * (b"f4240\r\n" + 1_000_000 * b"\xff" + b"\r\n") + b"0\r\n\r\n",
    ),
}


def body_requests() -> Iterator[Hostile]:
    """Return bodies that are announced wrongly, encoded, or chunked."""
    for name, make in BODIES.items():
        yield Hostile(f"body: {name}", make)


def head_requests() -> Iterator[Hostile]:
    """Return heads that are too large, or no HTTP."""
    bodies: dict[str, Make] = {
        "no HTTP": lambda: fill(b"\xff"),
        "line ends": lambda: fill(b"\r\n"),
        "a request line of 32 MB": lambda: b"GET /" + fill(b"a"),
        "a field of 32 MB": lambda: raw(*START)[:-2] + b"X: " + fill(b"a"),
        "8 million fields": lambda: raw(*START)[:-2] + fill(b"a:\r\n"),
        "99 fields of 8 kB": lambda: raw(
            *START, *(f"X-{n}: {8000 * 'a'}" for n in range(96)), "Content-Length: 0"
        ),
        "10,000 cookies": lambda: raw(
            *START, f"Cookie: {1000 * 'a=b; '}", "Content-Length: 0"
        ),
        "a false Expect": lambda: raw(
            *START, "Expect: more", "Content-Length: 1", body=b"a"
        ),
        "no Host": lambda: raw(START[0], "Content-Length: 1", body=b"a"),
    }
    for name, make in bodies.items():
        yield Hostile(f"head: {name}", make)
