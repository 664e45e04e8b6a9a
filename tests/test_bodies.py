"""No body costs much to refuse, on any route that takes pictures."""

import time
from pathlib import Path
from urllib.parse import quote

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
