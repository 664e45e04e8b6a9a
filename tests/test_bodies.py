"""Bodies as clients write them, and what hostile ones cost, on any route."""

import base64
import codecs
import gzip
import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from conftest import ROOT
from flask.testing import FlaskClient
from numpy.typing import NDArray

from service.bodies import from_base64, from_numbers

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


PHOTO = (ROOT / "static" / "pictures" / "photo-t-shirt.jpg").read_bytes()
BASE64 = base64.b64encode(PHOTO)
LINES = base64.encodebytes(PHOTO)
JSON = b'{"image": "%s"}'
DISPOSITION = b"--X\r\nContent-Disposition: form-data; "
FILE = b'name=image; filename="a.jpg"\r\n\r\n'
EMPTY_INPUT = b'name=other; filename=""\r\nContent-Type: image/png\r\n\r\n\r\n'
LATIN = 'name=image; filename="gr\u00f6\u00dfe.jpg"\r\n\r\n'.encode("latin-1")
IMAGE_TYPE = b"name=image\r\nContent-Type: image/jpeg\r\n\r\n"
TEXT_FIELD = b"name=note\r\n\r\nsch\xf6n\r\n"
WRITTEN = {
    "lines of 76": JSON % LINES.replace(b"\n", b"\\n"),
    "lines that end in CRLF": JSON % LINES.replace(b"\n", b"\\r\\n"),
    "raw line ends in JSON": JSON % LINES,
    "a line end behind": JSON % (BASE64 + b"\\n"),
    "web-safe": JSON % base64.urlsafe_b64encode(PHOTO),
    "no padding": JSON % BASE64.rstrip(b"="),
    "a data URL": JSON % (b"data:image/jpeg;base64," + BASE64),
    "a data URL as the body": b"data:image/jpeg;base64," + BASE64,
    "base64 as the body": BASE64,
    "lines as the body": LINES,
    "a byte order mark": codecs.BOM_UTF8 + JSON % BASE64,
    "UTF-16": (JSON % BASE64).decode().encode("utf-16"),
    "a form with a name in Latin-1": DISPOSITION + LATIN + PHOTO + b"\r\n--X--",
    "a form without a file name": DISPOSITION + IMAGE_TYPE + PHOTO + b"\r\n--X--",
    "a form with text in Latin-1": DISPOSITION
    + TEXT_FIELD
    + DISPOSITION
    + FILE
    + PHOTO
    + b"\r\n--X--",
    "a form with an empty input": DISPOSITION
    + FILE
    + PHOTO
    + b"\r\n"
    + DISPOSITION
    + EMPTY_INPUT
    + b"--X--",
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_picture_is_read_however_clients_write_it(
    client: FlaskClient, name: str
) -> None:
    kind = X if name.startswith("a form") else None
    answer = client.post("/predict", data=WRITTEN[name], content_type=kind).get_json()
    assert answer == client.post("/predict", data=PHOTO).get_json()
    assert answer["class"] == "T-shirt/top"


def test_an_empty_input_alone_is_no_file(client: FlaskClient) -> None:
    body = DISPOSITION + EMPTY_INPUT + b"--X--"
    answer = client.post("/predict", data=body, content_type=X)
    assert answer.status_code == 400
    assert "no file" in answer.get_json()["detail"]


@pytest.mark.parametrize("text", ["AA A", "A", "A===", "\u00e4", "data:,A", 9, None])
def test_what_is_no_base64_is_an_error(text: object) -> None:
    assert "not base64" in str(from_base64(text))


LEVELS = np.arange(784).reshape(1, 28, 28) % 256


@pytest.mark.parametrize("axis", ["", "first", "last"])
@pytest.mark.parametrize(
    "datatype", ["UINT8", "UINT16", "INT16", "INT64", "FP16", "FP32", "FP64"]
)
def test_numbers_of_any_type_and_channel_axis_are_the_same(
    client: FlaskClient, datatype: str, axis: str
) -> None:
    shape = {"first": [1, 1, 28, 28], "last": [1, 28, 28, 1]}.get(axis, [1, 28, 28])
    kind = datatype.replace("FP", "float").lower()
    data = LEVELS.astype(kind).tobytes()
    binary = {"binary_data_size": len(data)}
    tensor = {"name": "pixels", "shape": shape, "datatype": datatype}
    head = json.dumps({"inputs": [tensor | {"parameters": binary}]}).encode()
    size = {"Inference-Header-Content-Length": str(len(head))}
    answer = client.post(INFER, data=head + data, headers=size)
    listed = LEVELS.reshape(shape[-3:] if axis == "last" else LEVELS.shape).tolist()
    pixels = client.post("/predict", json={"pixels": listed}).get_json()
    assert answer.status_code == 200
    score = answer.get_json()["outputs"][4]["data"][0]
    assert score == pytest.approx(
        pixels.get("predictions", [pixels])[0].get("unknown_score")
        or pixels["predictions"][0]["error"]["unknown_score"]
    )


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int64, np.float32, object])
def test_a_mask_of_0_and_1_is_black_and_white(kind: type) -> None:
    mask: NDArray[Any] = np.eye(300).astype(kind)
    assert np.array_equal(from_numbers(mask), np.eye(300) * 255)


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


def test_a_hostile_body_costs_no_more_packed(client: FlaskClient) -> None:
    bodies = [gzip.compress(b"{" + b"[" * size) for size in (SIZE, 10 * SIZE)]
    before, started = peak(reset=True), time.process_time()
    for body in bodies:
        answer = client.post(
            "/predict", data=body, headers={"Content-Encoding": "gzip"}
        )
        assert answer.status_code == 413
    assert time.process_time() - started < 2 * MAX_CPU_SECONDS
    assert peak() - before < MAX_MEMORY


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
