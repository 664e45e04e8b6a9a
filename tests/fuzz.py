"""Thousands of broken requests to a real gunicorn: none is a 5xx, no worker is lost.

    PYTHONPATH=. python tests/fuzz.py       10,000 requests, a few minutes
    PYTHONPATH=. python tests/fuzz.py --count 500 --seed 7

Every request is decided by the seed and its number, so a failure can be sent again. The
service is started here, on loopback, and stopped at the end.
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
from tqdm import tqdm

Random = random.Random
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
SAMPLE = ROOT / "static" / "pictures" / "photo-t-shirt.jpg"
ROUTES = ("/predict", "/v2/models/fashion/infer", "/api/v1.0/predictions")
WARM_UP = 0.2  # of the requests, after which memory must be flat
MOST_GROWTH = 1.25  # of a worker's memory since then
PAGE_SIZE = resource.getpagesize()  # bytes
TIMEOUT = 30  # seconds for one request


class Request(NamedTuple):
    """What is sent."""

    route: str
    body: bytes
    headers: dict[str, str]


def make_request(seed: int, number: int) -> Request:
    """Make one broken request."""
    dice = Random(f"{seed} {number}")
    make = dice.choice((picture, form, document, tensor, message, noise))
    return make(dice)


def picture(dice: Random) -> Request:
    """A picture with flipped, cut, doubled or moved bytes."""
    return Request(
        "/predict", damage(dice, encoded(dice)), {"Content-Type": "image/png"}
    )


def encoded(dice: Random) -> bytes:
    """Encode a small picture in any format and mode."""
    with Image.open(SAMPLE) as image:
        side = dice.choice((1, 2, 28, 60, 200))
        small = image.resize((side, dice.choice((1, 28, side))))
    mode = dice.choice(("RGB", "L", "P", "1", "CMYK", "RGBA"))
    buffer = io.BytesIO()
    try:
        small.convert(mode).save(buffer, dice.choice(FORMATS))
    except (OSError, ValueError):  # not every format has every mode
        small.save(buffer, "PNG")
    return buffer.getvalue()


def damage(dice: Random, data: bytes) -> bytes:
    """Flip, cut, double or move some bytes."""
    spoiled = bytearray(data)
    for _ in range(dice.choice((0, 1, 3, 10, 100))):
        if spoiled:
            spoiled[dice.randrange(len(spoiled))] = dice.randrange(256)
    if dice.random() < 0.3:
        del spoiled[dice.randrange(len(spoiled) + 1) :]
    if dice.random() < 0.1:
        at = dice.randrange(len(spoiled) + 1)
        spoiled[at:at] = spoiled[: dice.randrange(1000)]
    return bytes(spoiled)


def form(dice: Random) -> Request:
    """A multipart form, damaged or of strange parts."""
    boundary = dice.choice(("x", "x" * 70, "-", "a b"))
    parts: list[bytes] = []
    for _ in range(dice.choice((0, 1, 2, 5, 300))):
        name = dice.choice(("image", "", "a" * 500, "\u00fc", '"', "image"))
        disposition = f'Content-Disposition: form-data; name="{name}"'
        disposition += dice.choice(("", '; filename="a.png"', "; filename*=x''%ff"))
        body = damage(dice, encoded(dice)) if len(parts) < 5 else b"x"
        parts.append(f"--{boundary}\r\n{disposition}\r\n\r\n".encode() + body + b"\r\n")
    data = b"".join(parts) + dice.choice((f"--{boundary}--\r\n".encode(), b""))
    if dice.random() < 0.5:
        data = damage(dice, data)
    kind = f"multipart/form-data; boundary={dice.choice((boundary, 'y', ''))}"
    return Request("/predict", data, {"Content-Type": kind})


def document(dice: Random) -> Request:
    """JSON for /predict of wrong types, shapes and sizes."""
    key = dice.choice(("image", "images", "pixels", "picture", ""))
    return as_json(dice, "/predict", {key: value(dice)})


def tensor(dice: Random) -> Request:
    """A V2 request with one thing or another wrong."""
    one = {
        "name": dice.choice(("pixels", "image", "x")),
        "datatype": dice.choice(("UINT8", "FP32", "BYTES", "INT64", "")),
        "shape": dice.choice(([1, 28, 28], [1], [-1, 784], [2**70], value(dice))),
        "data": value(dice),
    }
    for field in list(one):
        if dice.random() < 0.1:
            del one[field]
    body = {"id": value(dice), "inputs": dice.choice(([one], [one, one], value(dice)))}
    request = as_json(dice, ROUTES[1], body)
    length = dice.choice(("", "0", "-1", "10", "9" * 30, "x"))
    if dice.random() < 0.3:
        request.headers["Inference-Header-Content-Length"] = length
    return request


def message(dice: Random) -> Request:
    """A Seldon message, as JSON or as a form."""
    data = {dice.choice(("ndarray", "tensor", "x")): value(dice)}
    request = as_json(
        dice, dice.choice(ROUTES), {"data": dice.choice((data, value(dice)))}
    )
    if dice.random() < 0.5:
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        return Request("/predict", b"json=" + request.body, kind)
    return request


def value(dice: Random, depth: int = 0) -> object:
    """Make any value that JSON can hold, and some that it should not."""
    numbers = (0, 1, -1, 255, 256, 0.5, 1e308, 2**80, float("nan"), float("inf"))
    picks: list[Callable[[], object]] = [
        lambda: dice.choice(numbers),
        lambda: dice.choice(("", "x", "\x00", "\ud800", "a" * 10_000, None, True)),
        lambda: base64.b64encode(damage(dice, encoded(dice))).decode(),
        lambda: [[dice.choice(numbers[:5])] * 28] * dice.choice((0, 1, 27, 28)),
        lambda: [[[0] * 28] * 28] * dice.choice((1, 2, 3)),
    ]
    if depth < 4:
        picks.append(lambda: [value(dice, depth + 1) for _ in range(dice.randrange(4))])
        picks.append(lambda: {"image": value(dice, depth + 1)})
    return dice.choice(picks)()


def as_json(dice: Random, route: str, body: object) -> Request:
    """Write JSON, now and then damaged, nested without end, or of another encoding."""
    data = json.dumps(body, ensure_ascii=dice.random() < 0.5).encode(
        dice.choice(("utf-8", "utf-8", "utf-16", "utf-8-sig")), "surrogatepass"
    )
    if dice.random() < 0.2:
        data = damage(dice, data)
    if dice.random() < 0.05:
        data = b'{"pixels": ' + b"[" * dice.choice((100, 100_000))
    if dice.random() < 0.05:
        data = data[:-1] + b', "image": "x", "image": 3}'
    kind = dice.choice(
        ("application/json", "text/plain", "application/json; charset=x")
    )
    return Request(route, data, {"Content-Type": kind})


def noise(dice: Random) -> Request:
    """Bytes that mean nothing, by strange headers."""
    headers = {
        "Content-Type": dice.choice(("", "a/b", "x" * 2000, "multipart/form-data")),
        "X-Request-ID": dice.choice(("", "a" * 1000, "\t", "..%0d%0a")),
    }
    return Request(dice.choice(ROUTES), dice.randbytes(dice.randrange(2000)), headers)


def send(connection: HTTPConnection, request: Request) -> int:
    """Send a request; return the status of its answer.

    A server may close a kept connection after an answer, as gunicorn does if a body was
    refused unread; then the request is sent again, once, on a new one.
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
        for number in tqdm(range(count), unit="request", leave=False):
            if number == round(WARM_UP * count):
                workers = memory(pid)
            request = make_request(seed, number)
            status = send(connection, request)
            statuses[status] += 1
            assert status < 500, f"request {number} of seed {seed}, {request}: {status}"
    after = memory(pid)
    assert set(after) == set(workers), "a worker was lost"
    for worker, size in after.items():
        assert size < MOST_GROWTH * workers[worker], (
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
    """Start a service, send it everything, print what came of it."""
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
