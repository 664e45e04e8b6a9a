"""The way past Flask: what it takes, what it leaves, and that it says the same."""

import base64
import json
import socket
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime as parse_date
from typing import Any

import numpy as np
import pytest
import requests
from conftest import ROOT, Encode, Samples
from flask.testing import FlaskClient
from PIL import Image
from prometheus_client import REGISTRY
from werkzeug.exceptions import ClientDisconnected
from werkzeug.test import TestResponse

import predict
from connection import read_head
from model.images import Pixels, to_pixels
from service.batching import Line, OverloadedError
from service.bodies import plain_pictures
from shortcut import Answer, Ask, answer_alone, answer_together

PHOTO = (ROOT / "static" / "pictures" / "photo-t-shirt.jpg").read_bytes()
INFER = "/v2/models/fashion/infer"


def as_json(data: bytes) -> str:
    return base64.b64encode(data).decode()


def form(*parts: bytes) -> tuple[str, bytes]:
    """Content-Type and body of a form with these files."""
    files = [("image", ("picture.png", part, "image/png")) for part in parts]
    request = requests.Request("POST", "http://x", files=files).prepare()
    assert isinstance(request.body, bytes)
    return request.headers["Content-Type"], request.body


@pytest.mark.parametrize("small", [True, False])
def test_a_picture_is_found_however_it_is_sent(boot: bytes, small: bool) -> None:
    for picture in [boot] if small else [boot, PHOTO, boot[:100]]:
        kind, body = form(picture)
        encoded = json.dumps({"image": as_json(picture)}).encode()
        for sent in (
            (picture, ""),
            (picture, "application/json"),
            (body, kind),
            (body.removesuffix(b"\r\n"), kind),
            (encoded, ""),
        ):
            assert plain_pictures(*sent, small=small) == [picture]


@pytest.mark.parametrize("small", [True, False])
def test_all_else_is_left_to_flask(boot: bytes, small: bool) -> None:
    """Else what a form says beside its files would be lost."""
    kind, body = form(boot)
    encoded = base64.b64encode(boot)
    for other in (
        (b"", ""),
        (b"text", ""),
        (b"x" + boot, ""),
        (b"json=" + boot, ""),
        (boot, kind),
        (boot, "multipart/form-data"),
        (boot, "Multipart/Form-Data;boundary=x"),
        (b'{"image": "%s", "more": 1}' % encoded, ""),
        (b'{"image": "%s\\n"}' % encoded, ""),
        (b'{"image": "%s\n"}' % encoded, ""),
        (b'{"image": "A"}', ""),
        (b'{"image": "%s"}' % base64.b64encode(b"text"), ""),
        (body, ""),
        (body, kind + "x"),
        (body, f"{kind}; charset=utf-8"),
        (body.replace(b"filename", b"file"), kind),
        (body + b"more", kind),
        (body.replace(b'"image"', b'"ima\\"'), kind),
        (body.replace(b"picture.png", b"picture\\"), kind),
        (body.replace(b"IEND", b"\n" + body.partition(b"\r")[0]), kind),
        (b'{\x0c"image": "%s"}' % encoded, ""),
        (b'{"image":\x0b"%s"}' % encoded, ""),
        form(boot, b"text")[::-1],
        form(*[boot] * 257)[::-1],
    ):
        assert plain_pictures(*other, small=small) == [], other


def test_a_form_may_hold_several(boot: bytes) -> None:
    pictures = [boot, PHOTO, boot[:100]]
    kind, body = form(*pictures)
    assert plain_pictures(body, kind, small=False) == pictures
    assert plain_pictures(body, kind, small=True) == []
    assert plain_pictures(body.removesuffix(b"--\r\n"), kind, small=False) == []


def chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(kind + data).to_bytes(4, "big")
    return len(data).to_bytes(4, "big") + kind + data + check


def test_what_takes_long_is_not_for_the_main_thread(
    boot: bytes, encode: Encode
) -> None:
    """It would keep all others waiting. A picture may hide how large it is."""
    large = encode(np.zeros((2000, 2000), np.uint8), "PNG")
    start, rest = large[:8], large[8:]
    hidden = start + chunk(b"tEXt", bytes(8)) + rest
    twice = boot[:33] + rest
    packed = boot[:33] + chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(10**6)))
    for picture in (large, PHOTO, hidden, twice, packed + boot[33:]):
        encoded = b'{"image": "%s"}' % base64.b64encode(picture)
        for sent in ((picture, ""), form(picture)[::-1], (encoded, "")):
            assert plain_pictures(*sent, small=True) == []
            assert plain_pictures(*sent, small=False) == [picture]


def infer_body(pixels: Pixels) -> bytes:
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": pixels.shape}
    return json.dumps({"inputs": [tensor | {"data": pixels.tolist()}]}).encode()


def at_once(path: str, fields: bytes, body: bytes) -> Answer | None:
    [answer] = answer_together([Ask(path, fields, body)])
    return answer


def assert_says(ours: Answer, theirs: TestResponse) -> None:
    """Status, headers and body."""
    head, _, text = ours.text.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert headers.pop("Server") == "gunicorn"
    assert headers.pop("Connection") == "keep-alive"
    assert abs(parse_date(headers.pop("Date")) - datetime.now(UTC)).seconds < 5
    assert status == f"HTTP/1.1 {theirs.status}"
    assert headers == dict(theirs.headers)
    assert text == theirs.data


def counts() -> Counter[str]:
    """All that has been counted so far."""
    return Counter(
        {
            f"{sample.name} {sample.labels}": int(sample.value)
            for metric in REGISTRY.collect()
            for sample in metric.samples
            if sample.name.startswith("fashion")
            and sample.name.endswith(("_total", "_count"))
        }
    )


@pytest.mark.parametrize("key", [None, "right"])
@pytest.mark.parametrize(
    "what", ["boot", "noise", "broken", "photo", "form", "batch", "base64", "V2"]
)
def test_at_once_is_as_by_flask(  # noqa: PLR0917 - fixtures
    client: FlaskClient,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    boot: bytes,
    encode: Encode,
    what: str,
    key: str | None,
) -> None:
    """Status, headers, body, log line and counts."""
    monkeypatch.setitem(predict.app.config, "API_KEY", key and [key.encode()])
    noise = np.random.default_rng(1).integers(0, 256, (28, 28), np.uint8)
    kind, body = {
        "boot": ("image/png", boot),
        "noise": ("image/png", encode(noise, "PNG")),
        "broken": ("image/png", boot[:100]),
        "photo": ("image/jpeg", PHOTO),
        "form": form(PHOTO),
        "batch": form(boot, PHOTO, boot[:100]),
        "base64": ("text/plain", json.dumps({"image": as_json(PHOTO)}).encode()),
        "V2": ("text/plain", infer_body(to_pixels(boot)[None])),
    }[what]
    path = INFER if what == "V2" else "/predict"
    sent = {
        "Content-Type": kind,
        "X-Request-ID": "me",
        "Authorization": f"Bearer {key}",
    }
    lines = [f"POST {path} HTTP/1.1", *(f"{n}: {v}" for n, v in sent.items())]
    lines += ["Host: x", f"Content-Length: {len(body)}", "\r\n"]
    head = read_head("\r\n".join(lines).encode())
    assert head is not None
    fields = head.fields

    def told() -> tuple[dict[str, Any], Counter[str]]:
        return untimed(capsys.readouterr().out), counts()

    before = counts()
    response = client.post(path, data=body, headers=sent)
    by_flask, after = told()
    with closing(socket.socket()) as waiting:
        at_once = answer_alone(Ask(path, fields, body), waiting)
    assert at_once is not None
    at_once.tell()
    by_itself, then = told()
    assert_says(at_once, response)
    assert by_itself == by_flask
    assert then - after == after - before
    assert after - before


def test_together_each_is_answered_as_by_flask(
    client: FlaskClient,
    capsys: pytest.CaptureFixture[str],
    boot: bytes,
    samples: Samples,
    encode: Encode,
) -> None:
    """In one pass of the network, whatever comes between them."""
    garments = [encode(Image.fromarray(pixels)) for pixels in samples.pixels[:3]]
    noise = encode(np.random.default_rng(1).integers(0, 256, (28, 28), np.uint8))
    bodies = [boot, garments[0], PHOTO, noise, garments[1], boot[:100], b"text"]
    asks = [("/predict", body) for body in (*bodies, garments[2])]
    asks.insert(3, (INFER, infer_body(samples.pixels[:2])))
    left = [PHOTO, b"text"]  # to threads
    fields = b"\nX-Request-ID: me\r\n"

    before = counts()
    answers = answer_together([Ask(path, fields, body) for path, body in asks])
    assert [not answer for answer in answers] == [body in left for _, body in asks]
    for answer in filter(None, answers):
        answer.tell()
    lines = capsys.readouterr().out.splitlines()
    told = counts() - before
    before = counts()
    for (path, body), found in zip(asks, answers, strict=True):
        if found:
            sent = {"X-Request-ID": "me"}
            assert_says(found, client.post(path, data=body, headers=sent))
    by_flask = capsys.readouterr().out.splitlines()
    assert [untimed(line) for line in lines] == [untimed(line) for line in by_flask]
    passes = "fashion_inference_seconds_count {}"
    told_by_flask = counts() - before
    assert told.pop(passes) == 1
    assert told_by_flask.pop(passes) == 6
    assert told == told_by_flask


def untimed(line: str) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(line)
    return fields | {"time": 0, "milliseconds": 0}


def test_at_once_there_is_no_way_round_a_key(
    monkeypatch: pytest.MonkeyPatch, boot: bytes
) -> None:
    monkeypatch.setitem(predict.app.config, "API_KEY", [b"right"])
    for fields in (
        b"",
        b"\nX-API-Key: wrong\r\n",
        b"\nX-API-Key: wrong\r\nX-API-Key: right\r\n",
        b"\nAuthorization: Basic right\r\n",
    ):
        assert at_once("/predict", fields, boot) is None
    assert at_once("/predict", b"\nX-API-Key: right\r\n", boot)
    monkeypatch.setitem(predict.app.config, "MAX_CONTENT_LENGTH", 100)
    assert at_once("/predict", b"\nX-API-Key: right\r\n", boot) is None


def test_a_long_field_is_read_at_once() -> None:
    fields = b"\nX-Request-ID: a" + 7900 * b" " + b"b\r\n"
    started = time.process_time()
    for _ in range(20):
        assert at_once("/predict", fields, b"") is None
    assert time.process_time() - started < 0.2  # it was seconds


def test_at_once_little_is_served(boot: bytes) -> None:
    """The V2 route looks for pixels, and takes no picture."""
    image = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [1],
        "data": [as_json(boot)],
    }
    messages = [
        {"inputs": [image | {"data": [data]}], "id": "pixels"}
        for data in (as_json(boot), "%")
    ]
    for body in (boot, *(json.dumps(message).encode() for message in messages)):
        for path in ("/predict?explain=true", "/predict/", INFER):
            assert at_once(path, b"", body) is None
    encoded = b"\nContent-Encoding: gzip\r\n"
    assert at_once("/predict", encoded, boot) is None


def test_nothing_is_worked_out_for_a_client_who_has_left(boot: bytes) -> None:
    """It is counted as by Flask."""
    ours, theirs = socket.socketpair()
    with closing(ours), ThreadPoolExecutor() as pool, ExitStack() as busy:
        busy.enter_context(predict.network)
        before = counts()
        waiting = pool.submit(answer_alone, Ask("/predict", b"", boot), ours)
        theirs.close()
        time.sleep(0.1)
        busy.close()
        with pytest.raises(ClientDisconnected):
            waiting.result(5)
    told = counts() - before
    assert sum(told.values()) == 2  # a request, and its time
    [request] = [name for name in told if "requests_total" in name]
    assert "'route': '/predict', 'status': '400'" in request


def test_the_main_thread_waits_for_nobody(boot: bytes) -> None:
    with predict.network:
        started = time.monotonic()
        assert at_once("/predict", b"", boot) is None
        assert time.monotonic() - started < 1
    assert at_once("/predict", b"", boot)


@pytest.mark.parametrize("path", ["/predict", INFER])
def test_who_waits_too_long_is_told_as_by_flask(
    client: FlaskClient,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    boot: bytes,
    path: str,
) -> None:
    def full(_: Line) -> bool:
        raise OverloadedError("waited 5 s for the network")

    monkeypatch.setattr(Line, "__enter__", full)
    body = boot if path == "/predict" else infer_body(to_pixels(boot)[None])
    before = counts()
    response = client.post(path, data=body, headers={"X-Request-ID": "me"})
    after = counts()
    with closing(socket.socket()) as waiting:
        by_itself = answer_alone(Ask(path, b"\nX-Request-ID: me\r\n", body), waiting)
    assert by_itself
    by_itself.tell()
    head, _, text = by_itself.text.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    assert status == f"HTTP/1.1 {response.status}" == "HTTP/1.1 503 SERVICE UNAVAILABLE"
    assert dict(line.split(": ", 1) for line in lines) == dict(response.headers)
    assert text == response.data
    assert counts() - after == after - before
    first, second = map(untimed, capsys.readouterr().out.splitlines())
    assert first == second
