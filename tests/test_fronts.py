"""Flask's views and the ASGI front give the same answers, counts and log lines."""

import asyncio
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import ROOT, Encode, form, to_base64
from flask.testing import FlaskClient
from prometheus_client import REGISTRY

import predict
from service import asgi, core
from service.asgi import Front, Message, Receive

PHOTO = (ROOT / "static" / "pictures" / "photo-t-shirt.jpg").read_bytes()
INFER = "/v2/models/fashion/infer"
SELDON = "/api/v1.0/predictions"
ZEROS = np.zeros((28, 28), int).tolist()
MULTIPART = "multipart/form-data; boundary=x"
URLENCODED = "application/x-www-form-urlencoded"
LONG_HEAD = b"--x\r\nContent-Disposition: form-data; filename=b\r\n" + b"A: b\r\n" * 500
DEEP = b'{"pixels": [' + b"[[[[1]]]]," * 60_000 + b"1]}"
GZIP, DEFLATE = {"Content-Encoding": "gzip"}, {"Content-Encoding": "deflate"}
ORIGIN = {"Origin": "https://shop.example"}
VERSION = predict.service.classifier.version


class Sent(NamedTuple):
    """A request."""

    path: str
    body: bytes
    content_type: str = ""
    method: str = "POST"
    headers: Mapping[str, str] = MappingProxyType({})


def tensor(pixels: Any, **more: Any) -> bytes:
    array = np.asarray(pixels)
    data = {"name": "pixels", "datatype": "UINT8", "shape": array.shape}
    return json.dumps({"inputs": [data | {"data": array.tolist()}], **more}).encode()


def requests_of(boot: bytes, noise: bytes) -> dict[str, Sent]:
    text = to_base64(boot)
    seldon = json.dumps({"data": {"ndarray": np.zeros((2, 784)).tolist()}}).encode()
    length = {"Inference-Header-Content-Length": "x"}
    v2, binary = tensor([ZEROS]), {"binary_data_output": True}
    return {
        "png": Sent("/predict", boot, "image/png"),
        "unknown": Sent("/predict", noise, "image/png"),
        "broken": Sent("/predict", boot[:100], "image/png"),
        "photo": Sent("/predict", PHOTO),
        "explain": Sent("/predict?explain=true", boot),
        "explain wrongly": Sent("/predict?explain=maybe", boot),
        "form": Sent("/predict", *form(PHOTO)),
        "batch": Sent("/predict", *form(boot, PHOTO, boot[:100])),
        "form without a file": Sent("/predict", b"--x--\r\n", MULTIPART),
        "form of one long head": Sent("/predict", LONG_HEAD, MULTIPART),
        "base64": Sent("/predict", json.dumps({"image": text}).encode()),
        "base64s": Sent("/predict", json.dumps({"images": [text, "A", 1]}).encode()),
        "pixels": Sent("/predict", json.dumps({"pixels": ZEROS}).encode()),
        "pixels of another shape": Sent("/predict", b'{"pixels": [[1]]}'),
        "deep JSON": Sent("/predict", DEEP),
        "JSON that ends": Sent("/predict", b'{"image": ', "application/json"),
        "nothing": Sent("/predict", b""),
        "text": Sent("/predict", b"text"),
        "gzip": Sent("/predict", gzip.compress(boot), headers=GZIP),
        "deflate": Sent("/predict", zlib.compress(boot), headers=DEFLATE),
        "no gzip": Sent("/predict", boot, headers=GZIP),
        "half a gzip": Sent("/predict", gzip.compress(boot)[:-9], headers=GZIP),
        "a gzip too large": Sent(
            "/predict", gzip.compress(bytes(33 * 1024**2)), headers=GZIP
        ),
        "brotli": Sent("/predict", boot, headers={"Content-Encoding": "br"}),
        "V2 as gzip": Sent(INFER, gzip.compress(v2), headers=GZIP),
        "slash": Sent("/predict/", boot),
        "V2 slash": Sent(f"{INFER}/", v2),
        "ping slash": Sent("/ping/", b"", method="GET"),
        "below a path": Sent("/fashion/predict", boot),
        "ping below a path": Sent("/fashion/ping", b"", method="GET"),
        "page of another origin": Sent("/predict", boot, headers=ORIGIN),
        "page not allowed": Sent("/predict", boot, headers={"Origin": "https://x"}),
        "preflight": Sent("/predict", b"", method="OPTIONS", headers=ORIGIN),
        "V2 gzip": Sent(INFER, b"", headers=GZIP),
        "Seldon gzip": Sent(SELDON, b"", headers=GZIP),
        "V2": Sent(INFER, tensor([ZEROS])),
        "V2 by version": Sent(f"/v2/models/fashion/versions/{VERSION}/infer", v2),
        "V2 binary": Sent(INFER, tensor([ZEROS], parameters=binary)),
        "V2 of another shape": Sent(INFER, tensor([[1]])),
        "V2 of another model": Sent("/v2/models/none/infer", v2),
        "V2 head length": Sent(INFER, v2, headers=length),
        "Seldon": Sent(SELDON, seldon),
        "Seldon form": Sent("/predict", b"json=" + seldon, URLENCODED),
        "Seldon error": Sent("/predict", b"json=%7B%7D", URLENCODED),
        "too large": Sent("/predict", bytes(33 * 1024**2)),
        "no such page": Sent("/nothing", b"", method="GET"),
        "another method": Sent("/predict", b"", method="GET"),
        "ping": Sent("/ping", b"", method="GET"),
        "metadata": Sent("/v2/models/fashion", b"", method="GET"),
        "head": Sent("/ping", b"", method="HEAD"),
    }


STATUSES = {
    "gzip": 200,
    "deflate": 200,
    "no gzip": 400,
    "half a gzip": 400,
    "a gzip too large": 413,
    "brotli": 415,
    "V2 as gzip": 200,
    "slash": 200,
    "V2 slash": 200,
    "ping slash": 200,
    "below a path": 200,
    "ping below a path": 200,
    "page of another origin": 200,
}


def metrics() -> Counter[str]:
    """Return all counts of the metrics."""
    return Counter(
        {
            f"{sample.name} {sample.labels}": int(sample.value)
            for metric in REGISTRY.collect()
            for sample in metric.samples
            if sample.name.startswith("classifier")
            and sample.name.endswith(("_total", "_count"))
        }
    )


def all_headers(sent: Sent) -> dict[str, str]:
    kind = {"Content-Type": sent.content_type} if sent.content_type else {}
    return dict(sent.headers) | kind


def by_flask(client: FlaskClient, sent: Sent) -> tuple[int, dict[str, str], bytes]:
    path, method, headers = sent.path, sent.method, all_headers(sent)
    answer = client.open(path, method=method, data=sent.body, headers=headers)
    return answer.status_code, dict(answer.headers), answer.data


def by_asgi(
    sent: Sent, receive: Receive | None = None
) -> tuple[int, dict[str, str], bytes]:
    path, _, query = sent.path.partition("?")
    headers = all_headers(sent) | {"Content-Length": str(len(sent.body))}
    scope = {
        "type": "http",
        "method": sent.method,
        "path": path,
        "query_string": query.encode(),
        "http_version": "1.1",
        "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()],
    }
    messages: list[Message] = []

    async def receive_all() -> Message:
        return {"type": "http.request", "body": sent.body, "more_body": False}

    async def send(message: Message) -> None:
        messages.append(message)

    asyncio.run(Front(predict.app)(scope, receive or receive_all, send))
    start, *bodies = messages
    named = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], named, b"".join(one.get("body", b"") for one in bodies)


NAMES = list(requests_of(b"", b""))


@pytest.mark.parametrize("key", [None, "right", "wrong"])
@pytest.mark.parametrize("name", NAMES)
def test_both_fronts_give_the_same_answer(  # noqa: PLR0917 - fixtures
    client: FlaskClient,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    boot: bytes,
    encode: Encode,
    name: str,
    key: str | None,
) -> None:
    monkeypatch.setattr(predict.service.settings, "api_key", key and [b"right"])
    monkeypatch.setattr(predict.service.settings, "cors_origins", [*ORIGIN.values()])
    monkeypatch.setattr(core, "SCRIPT_NAME", "/fashion")
    monkeypatch.setattr(predict, "SCRIPT_NAME", "/fashion")
    noise = np.random.default_rng(1).integers(0, 256, (28, 28), np.uint8)
    sent = requests_of(boot, encode(noise))[name]
    sent = sent._replace(
        headers=dict(sent.headers)
        | {"X-Request-ID": "me", "Authorization": f"Bearer {key}"}
    )
    results = []
    for front in (by_asgi, partial(by_flask, client)):
        before = metrics()
        capsys.readouterr()
        status, headers, body = front(sent)
        counted = metrics() - before
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        named = {header.lower(): value for header, value in headers.items()}
        for line in lines:
            del line["time"], line["milliseconds"]
        results.append((status, named, body, lines, counted))
    assert results[0] == results[1]
    status, headers = results[0][:2]
    assert status != HTTPStatus.INTERNAL_SERVER_ERROR
    assert status == STATUSES.get(name, status) or key == "wrong"
    is_allowed = sent.headers.get("Origin") == ORIGIN["Origin"]
    assert headers.get("access-control-allow-origin") == (
        ORIGIN["Origin"] if is_allowed else None
    )
    if sent.method == "OPTIONS":
        assert status == HTTPStatus.OK
        assert "X-API-Key" in headers["access-control-allow-headers"]


def test_a_body_is_408_even_if_a_part_arrives_with_the_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def receive() -> Message:
        with suppress(asyncio.CancelledError):  # as `wait_for` may do, of Python 3.11
            await asyncio.sleep(1)
        return {"type": "http.request", "body": b"x", "more_body": True}

    monkeypatch.setattr(asgi, "REQUEST_SECONDS", 0.05)
    assert by_asgi(Sent("/predict", bytes(9)), receive)[0] == 408
