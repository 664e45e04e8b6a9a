"""Send thousands of broken requests to a real gunicorn: no 5xx, no worker lost.

    PYTHONPATH=. python tests/fuzz.py       10,000 requests, a few minutes
    PYTHONPATH=. python tests/fuzz.py --count 500 --seed 7

Seed and number determine a request, so that a failure can be repeated. The service is
started here, on loopback, and stopped at the end.
"""

import argparse
import base64
import io
import json
import random
import resource
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from conftest import GUNICORN, ROOT, serve
from PIL import Image
from test_heif import TILE as HEIC
from tqdm import tqdm

Random = random.Random
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIC")
SAMPLE = ROOT / "static" / "pictures" / "photo-t-shirt.jpg"
ROUTES = ("/predict", "/v2/models/fashion/infer", "/api/v1.0/predictions")
WARM_UP = 0.2  # of the requests, after which memory must be flat
MAX_GROWTH = 1.25  # of a worker's memory since then
PAGE_SIZE = resource.getpagesize()  # bytes
TIMEOUT = 30  # seconds for one request


class Request(NamedTuple):
    """What is sent."""

    route: str
    body: bytes
    headers: dict[str, str]


def make_request(seed: int, number: int) -> Request:
    """Return one broken request."""
    rng = Random(f"{seed} {number}")
    make = rng.choice((picture, form, document, tensor, message, noise))
    return make(rng)


def picture(rng: Random) -> Request:
    """Return a picture with changed, cut or inserted bytes."""
    return Request("/predict", damage(rng, encode(rng)), {"Content-Type": "image/png"})


def encode(rng: Random) -> bytes:
    """Encode a small picture in any format and mode."""
    with Image.open(SAMPLE) as image:
        side = rng.choice((1, 2, 28, 60, 200))
        small = image.resize((side, rng.choice((1, 28, side))))
    mode = rng.choice(("RGB", "L", "P", "1", "CMYK", "RGBA"))
    buffer = io.BytesIO()
    picture_format = rng.choice(FORMATS)
    if picture_format == "HEIC":
        return HEIC
    try:
        small.convert(mode).save(buffer, picture_format)
    except (OSError, ValueError):  # not every format has every mode
        small.save(buffer, "PNG")
    return buffer.getvalue()


def damage(rng: Random, data: bytes) -> bytes:
    """Change, cut or insert some bytes."""
    damaged = bytearray(data)
    for _ in range(rng.choice((0, 1, 3, 10, 100))):
        if damaged:
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    if rng.random() < 0.3:
        del damaged[rng.randrange(len(damaged) + 1) :]
    if rng.random() < 0.1:
        at = rng.randrange(len(damaged) + 1)
        damaged[at:at] = damaged[: rng.randrange(1000)]
    return bytes(damaged)


def form(rng: Random) -> Request:
    """Return a multipart form, damaged or with odd parts."""
    boundary = rng.choice(("x", "x" * 70, "-", "a b"))
    parts: list[bytes] = []
    for _ in range(rng.choice((0, 1, 2, 5, 300))):
        name = rng.choice(("image", "", "a" * 500, "\u00fc", '"', "image"))
        disposition = f'Content-Disposition: form-data; name="{name}"'
        disposition += rng.choice(("", '; filename="a.png"', "; filename*=x''%ff"))
        body = damage(rng, encode(rng)) if len(parts) < 5 else b"x"
        parts.append(f"--{boundary}\r\n{disposition}\r\n\r\n".encode() + body + b"\r\n")
    data = b"".join(parts) + rng.choice((f"--{boundary}--\r\n".encode(), b""))
    if rng.random() < 0.5:
        data = damage(rng, data)
    kind = f"multipart/form-data; boundary={rng.choice((boundary, 'y', ''))}"
    return Request("/predict", data, {"Content-Type": kind})


def document(rng: Random) -> Request:
    """Return JSON for /predict of wrong types, shapes and sizes."""
    key = rng.choice(("image", "images", "pixels", "picture", ""))
    return as_json(rng, "/predict", {key: value(rng)})


def tensor(rng: Random) -> Request:
    """Return a V2 request with wrong or missing fields."""
    one = {
        "name": rng.choice(("pixels", "image", "x")),
        "datatype": rng.choice(("UINT8", "FP32", "BYTES", "INT64", "")),
        "shape": rng.choice(([1, 28, 28], [1], [-1, 784], [2**70], value(rng))),
        "data": value(rng),
    }
    for field in list(one):
        if rng.random() < 0.1:
            del one[field]
    body = {"id": value(rng), "inputs": rng.choice(([one], [one, one], value(rng)))}
    request = as_json(rng, ROUTES[1], body)
    length = rng.choice(("", "0", "-1", "10", "9" * 30, "x"))
    if rng.random() < 0.3:
        request.headers["Inference-Header-Content-Length"] = length
    return request


def message(rng: Random) -> Request:
    """Return a Seldon message, as JSON or as a form."""
    data = {rng.choice(("ndarray", "tensor", "x")): value(rng)}
    request = as_json(rng, rng.choice(ROUTES), {"data": rng.choice((data, value(rng)))})
    if rng.random() < 0.5:
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        return Request("/predict", b"json=" + request.body, kind)
    return request


def value(rng: Random, depth: int = 0) -> object:
    """Return any value that JSON can hold, and some that it should not."""
    numbers = (0, 1, -1, 255, 256, 0.5, 1e308, 2**80, float("nan"), float("inf"))
    picks: list[Callable[[], object]] = [
        lambda: rng.choice(numbers),
        lambda: rng.choice(("", "x", "\x00", "\ud800", "a" * 10_000, None, True)),
        lambda: base64.b64encode(damage(rng, encode(rng))).decode(),
        lambda: [[rng.choice(numbers[:5])] * 28] * rng.choice((0, 1, 27, 28)),
        lambda: [[[0] * 28] * 28] * rng.choice((1, 2, 3)),
    ]
    if depth < 4:
        picks.append(lambda: [value(rng, depth + 1) for _ in range(rng.randrange(4))])
        picks.append(lambda: {"image": value(rng, depth + 1)})
    return rng.choice(picks)()


def as_json(rng: Random, route: str, body: object) -> Request:
    """Return JSON, sometimes damaged, nested without end, or in another encoding."""
    data = json.dumps(body, ensure_ascii=rng.random() < 0.5).encode(
        rng.choice(("utf-8", "utf-8", "utf-16", "utf-8-sig")), "surrogatepass"
    )
    if rng.random() < 0.2:
        data = damage(rng, data)
    if rng.random() < 0.05:
        data = b'{"pixels": ' + b"[" * rng.choice((100, 100_000))
    if rng.random() < 0.05:
        data = data[:-1] + b', "image": "x", "image": 3}'
    kind = rng.choice(("application/json", "text/plain", "application/json; charset=x"))
    return Request(route, data, {"Content-Type": kind})


def noise(rng: Random) -> Request:
    """Return random bytes with odd headers."""
    headers = {
        "Content-Type": rng.choice(("", "a/b", "x" * 2000, "multipart/form-data")),
        "X-Request-ID": rng.choice(("", "a" * 1000, "\t", "..%0d%0a")),
    }
    return Request(rng.choice(ROUTES), rng.randbytes(rng.randrange(2000)), headers)


def send(connection: HTTPConnection, request: Request) -> int:
    """Send a request; return the status of its answer.

    A server may close a kept connection after an answer, as gunicorn does if it refused
    a body before reading it; then the request is sent again, once, on a new one.
    """
    try:
        connection.request("POST", *request)
        response = connection.getresponse()
    except ConnectionError:
        connection.close()
        connection.request("POST", *request)
        response = connection.getresponse()
    response.read()
    return response.status


def run(url: str, pid: int, count: int, seed: int) -> Counter[int]:
    """Send `count` requests; return how often each status came.

    Raises `AssertionError` at a 5xx, a lost worker, or memory that goes on growing.
    """
    statuses: Counter[int] = Counter()
    workers = memory(pid)
    with closing(HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT)) as connection:
        for number in tqdm(range(count), unit="request", leave=False, disable=None):
            if number == round(WARM_UP * count):
                workers = memory(pid)
            request = make_request(seed, number)
            status = send(connection, request)
            statuses[status] += 1
            assert status < 500, f"request {number} of seed {seed}, {request}: {status}"
    after = memory(pid)
    assert set(after) == set(workers), "a worker was lost"
    for worker, size in after.items():
        assert size < MAX_GROWTH * workers[worker], (
            f"memory grew from {workers[worker]} to {size}"
        )
    return statuses


def memory(pid: int) -> dict[int, int]:
    """Return the resident bytes of each worker, by its number."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    pages = (Path(f"/proc/{child}/statm").read_text().split()[1] for child in children)
    sizes = [int(count) * PAGE_SIZE for count in pages]
    return dict(zip(map(int, children), sizes, strict=True))


def main() -> None:
    """Start a service, send the requests, print the statuses and the memory."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000, help="(10000)")
    parser.add_argument("--seed", type=int, default=1, help="(1)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with serve(
            GUNICORN, log, WEB_CONCURRENCY="2", FLASK_LOG_LEVEL="error"
        ) as server:
            pid = server.process.pid
            statuses = run(server.url, pid, options.count, options.seed)
            sizes = [f"{size / 1e6:.0f} MB" for size in memory(pid).values()]
    print("answers:", ", ".join(f"{n} x {s}" for s, n in sorted(statuses.items())))
    print("no 5xx, the same workers throughout, memory", " and ".join(sizes))


if __name__ == "__main__":
    try:
        main()
    except (AssertionError, KeyboardInterrupt) as error:
        sys.exit(f"fuzz: {error}")
