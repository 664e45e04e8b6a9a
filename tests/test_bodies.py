"""No body costs much to refuse, and none is a 500, on any route that takes pictures."""

import copy
import json
import random
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from flask.testing import FlaskClient

INFER = "/v2/models/fashion/infer"
SELDON = "/api/v1.0/predictions"
X = "multipart/form-data; boundary=X"
PART = b"--X\r\nContent-Disposition: form-data; name=a; filename=b\r\n"
SIZE = 28_000_000  # bytes, nearly the limit
MAX_CPU_SECONDS = 2  # 1 on a machine that does nothing else
MAX_MEMORY = 250  # MB beside the body

# route: JSON before the hostile part
ROUTES = {
    "/predict": b'{"pixels": [',
    INFER: b'{"inputs": [{"name": "pixels", "data": [',
    SELDON: b'{"data": {"ndarray": [',
    "form": b'json={"data": {"ndarray": [',
    "quoted form": b'json={"data": {"ndarray": [',
}
REPEATED = [b"[[[[1]]]],", b'{"a":{}},', b"[", b'{"a":', b"9", b'"a",', b"1,", b" "]


def peak(*, reset: bool = False) -> float:
    """Return the most memory that this process has had since the last reset, in MB."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def check_cost(client: FlaskClient, path: str, body: bytes, kind: str = "") -> None:
    before, started = peak(reset=True), time.process_time()
    response = client.post(path, data=body, content_type=kind or None)
    seconds, memory = time.process_time() - started, peak() - before
    assert 400 <= response.status_code < 500
    assert seconds < MAX_CPU_SECONDS
    assert memory < MAX_MEMORY


@pytest.mark.parametrize("repeated", REPEATED, ids=bytes.decode)
@pytest.mark.parametrize("route", ROUTES)
def test_hostile_json_costs_little(
    client: FlaskClient, route: str, repeated: bytes
) -> None:
    path = "/predict" if "form" in route else route
    unit = quote(repeated).encode() if route == "quoted form" else repeated
    check_cost(client, path, ROUTES[route] + unit * (SIZE // len(unit)))


def test_as_many_lists_as_are_admitted_cost_little(client: FlaskClient) -> None:
    body = b'{"pixels": [' + b"[[[[1]]]]," * 51_000 + b"1]}"
    check_cost(client, "/predict", body)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(PART + b"A: b\r\n" * (SIZE // 6), id="a part of header lines"),
        pytest.param(PART + b"A" * SIZE, id="a long header line"),
        pytest.param((PART + b"\r\nx\r\n") * 513 + b"--X--", id="513 parts"),
        pytest.param(
            (PART + b"A: b\r\n" * 300 + b"\r\nx\r\n") * 512 + b"--X--",
            id="512 parts with long heads",
        ),
        pytest.param((PART + b"\r\nx\r\n") * (SIZE // 70), id="many parts"),
        pytest.param(b"\r\n" * (SIZE // 2), id="empty lines"),
        pytest.param(b"\r\n--" * (SIZE // 4), id="starts of boundaries"),
        pytest.param(PART + b"\r\n" + b"\r\n--" * (SIZE // 4), id="such in a part"),
    ],
)
def test_hostile_forms_cost_little(client: FlaskClient, body: bytes) -> None:
    check_cost(client, "/predict", body, X)


HOSTILE: list[Any] = [
    None, True, 0, -1, 2**64, 10**400, 1.5, float("nan"), float("inf"), "", "x" * 999,
    "BYTES", "image", "\ud800", [], [[]], [[[[[[0]]]]]], [None], [784], [0, 784], {},
    {"binary_data_size": 784}, {"binary_data": True}, [{}], [{"name": "label"}],
]  # fmt: skip
PIXELS = {"name": "pixels", "shape": [1, 784], "datatype": "UINT8", "data": [0] * 784}
VALID: dict[str, Any] = {
    "/predict": {"pixels": np.zeros((28, 28), int).tolist()},
    INFER: {
        "id": "1",
        "parameters": {"binary_data_output": False},
        "inputs": [PIXELS],
        "outputs": [{"name": "label", "parameters": {"binary_data": False}}],
    },
    SELDON: {
        "meta": {"puid": "x", "tags": {"a": 1}},
        "data": {"names": ["a"], "tensor": {"shape": [1, 784], "values": [0] * 784}},
    },
}


def malformed(message: Any, chance: random.Random) -> bytes:
    """Replace a value of a message, and perhaps some of its bytes."""
    message = copy.deepcopy(message)
    place: Any = {"": message}
    key: Any = ""
    while isinstance(place[key], dict | list) and place[key] and chance.random() < 0.9:
        place = place[key]
        key = chance.choice(
            list(place) if isinstance(place, dict) else range(len(place))
        )
    place[key] = chance.choice(HOSTILE)
    body = bytearray(json.dumps(message).encode())
    for _ in range(chance.choice([0, 0, 0, 1, 3])):
        body[chance.randrange(len(body))] = chance.randrange(256)
    return bytes(body)


@pytest.mark.parametrize("path", VALID)
def test_no_malformed_message_is_a_500(client: FlaskClient, path: str) -> None:
    chance = random.Random(path)  # noqa: S311 - to be repeated
    members = {"/predict": "code", INFER: "error", SELDON: "status"}
    for _ in range(200):
        body = malformed(VALID[path], chance)
        response = client.post(path, data=body)
        assert response.status_code < 500, body
        assert response.status_code == 200 or members[path] in response.get_json()
