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
from conftest import ROOT, Encode
from flask.testing import FlaskClient
from prometheus_client import REGISTRY
from werkzeug.exceptions import ClientDisconnected

import predict
from images import to_pixels
from line import Line, OverloadedError
from pictures import one_picture
from shortcut import answer_at_once

PHOTO = (ROOT / "static" / "pictures" / "photo-t-shirt.jpg").read_bytes()


def as_json(data: bytes) -> str:
    return base64.b64encode(data).decode()


def form(*parts: bytes) -> tuple[str, bytes]:
    """Content-Type and body of a form with these files."""
    files = [("image", ("picture.png", part, "image/png")) for part in parts]
    request = requests.Request("POST", "http://x", files=files).prepare()
    assert isinstance(request.body, bytes)
    return request.headers["Content-Type"], request.body


@pytest.mark.parametrize("small", [True, False])
def test_one_picture_is_found(boot: bytes, small: bool) -> None:
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
            assert one_picture(*sent, small=small) == picture


@pytest.mark.parametrize("small", [True, False])
def test_all_else_is_left_to_flask(boot: bytes, small: bool) -> None:
    """Else a form of two would be answered as one."""
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
        form(boot, boot)[::-1],
        form(boot, PHOTO)[::-1],
    ):
        assert one_picture(*other, small=small) is None, other


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
            assert one_picture(*sent, small=True) is None
            assert one_picture(*sent, small=False) == picture


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
    "what", ["boot", "noise", "broken", "photo", "form", "base64", "V2"]
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
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, 784]}
    data = {"data": to_pixels(boot).ravel().tolist()}
    kind, body = {
        "boot": ("image/png", boot),
        "noise": ("image/png", encode(noise, "PNG")),
        "broken": ("image/png", boot[:100]),
        "photo": ("image/jpeg", PHOTO),
        "form": form(PHOTO),
        "base64": ("text/plain", json.dumps({"image": as_json(PHOTO)}).encode()),
        "V2": ("text/plain", json.dumps({"inputs": [tensor | data]}).encode()),
    }[what]
    path = "/v2/models/fashion/infer" if what == "V2" else "/predict"
    sent = {
        "Content-Type": kind,
        "X-Request-ID": "me",
        "Authorization": f"Bearer {key}",
    }
    fields = "".join(f"{name}: {value}\r\n" for name, value in sent.items()).encode()

    def told() -> tuple[dict[str, Any], Counter[str]]:
        line = json.loads(capsys.readouterr().out)
        del line["time"], line["milliseconds"]
        return line, counts()

    before = counts()
    response = client.post(path, data=body, headers=sent)
    by_flask, after = told()
    with closing(socket.socket()) as waiting:
        at_once = answer_at_once(path, fields, body, waiting)
    assert at_once is not None
    at_once.tell()
    by_itself, then = told()
    head, _, text = at_once.text.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert headers.pop("Server") == "gunicorn"
    assert headers.pop("Connection") == "keep-alive"
    assert abs(parse_date(headers.pop("Date")) - datetime.now(UTC)).seconds < 5
    assert status == f"HTTP/1.1 {response.status}"
    assert headers == dict(response.headers)
    assert text == response.data
    assert by_itself == by_flask
    assert then - after == after - before
    assert after - before


def test_at_once_there_is_no_way_round_a_key(
    monkeypatch: pytest.MonkeyPatch, boot: bytes
) -> None:
    monkeypatch.setitem(predict.app.config, "API_KEY", [b"right"])
    for fields in (
        b"",
        b"X-API-Key: wrong\r\n",
        b"X-API-Key: wrong\r\nX-API-Key: right\r\n",
        b"Authorization: Basic right\r\n",
    ):
        assert answer_at_once("/predict", fields, boot) is None
    assert answer_at_once("/predict", b"X-API-Key: right\r\n", boot)
    monkeypatch.setitem(predict.app.config, "MAX_CONTENT_LENGTH", 100)
    assert answer_at_once("/predict", b"X-API-Key: right\r\n", boot) is None


def test_at_once_little_is_served(boot: bytes) -> None:
    """The V2 route looks for pixels, and takes no picture."""
    image = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [1],
        "data": [as_json(boot)],
    }
    for body in (boot, json.dumps({"inputs": [image], "id": "pixels"}).encode()):
        for path in ("/predict?explain=true", "/predict/", "/v2/models/fashion/infer"):
            assert answer_at_once(path, b"", body) is None
    encoded = b"Content-Encoding: gzip\r\n"
    assert answer_at_once("/predict", encoded, boot) is None


def test_nothing_is_worked_out_for_a_client_who_has_left(boot: bytes) -> None:
    """It is counted as by Flask."""
    ours, theirs = socket.socketpair()
    with closing(ours), ThreadPoolExecutor() as pool, ExitStack() as busy:
        busy.enter_context(predict.network)
        before = counts()
        waiting = pool.submit(answer_at_once, "/predict", b"", boot, ours)
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
        assert answer_at_once("/predict", b"", boot) is None
        assert time.monotonic() - started < 1
    assert answer_at_once("/predict", b"", boot)


@pytest.mark.parametrize("path", ["/predict", "/v2/models/fashion/infer"])
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
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, 784]}
    data = {"data": to_pixels(boot).ravel().tolist()}
    infer = json.dumps({"inputs": [tensor | data]}).encode()
    body = boot if path == "/predict" else infer
    before = counts()
    response = client.post(path, data=body, headers={"X-Request-ID": "me"})
    after = counts()
    with closing(socket.socket()) as waiting:
        by_itself = answer_at_once(path, b"X-Request-ID: me\r\n", body, waiting)
    assert by_itself
    by_itself.tell()
    head, _, text = by_itself.text.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    assert status == f"HTTP/1.1 {response.status}" == "HTTP/1.1 503 SERVICE UNAVAILABLE"
    assert dict(line.split(": ", 1) for line in lines) == dict(response.headers)
    assert text == response.data
    assert counts() - after == after - before
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert {**first, "time": 0, "milliseconds": 0} == {
        **second,
        "time": 0,
        "milliseconds": 0,
    }
