"""The Seldon protocol, by hand and by Seldon's own tester."""

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, Samples, Server
from flask.testing import FlaskClient
from numpy.typing import NDArray
from werkzeug.test import TestResponse

from model.classifier import Classifier

SELDON = "/api/v1.0/predictions"


def seldon_data(pixels: NDArray[Any], kind: str) -> dict[str, Any]:
    if kind == "ndarray":
        return {"ndarray": pixels.tolist()}
    shape = list(pixels.shape)
    return {"tensor": {"shape": shape, "values": pixels.ravel().tolist()}}


def send(client: FlaskClient, message: Any, way: str = "json") -> TestResponse:
    text = json.dumps(message)
    if way == "json":
        return client.post(SELDON, data=text)
    return client.post("/predict", data={"json": text})


@pytest.mark.parametrize("kind", ["ndarray", "tensor"])
def test_the_answer_is_the_classifiers(
    client: FlaskClient, classifier: Classifier, samples: Samples, kind: str
) -> None:
    message = {"data": seldon_data(samples.pixels, kind)}
    answer = send(client, message, "json").get_json()
    assert answer == send(client, message, "form").get_json()
    predictions = classifier.classify(samples.pixels)
    rows = np.array([list(each.probabilities.values()) for each in predictions])
    names = {"names": classifier.classes}
    assert answer["data"] == names | seldon_data(rows, kind)
    tags = answer["meta"]["tags"]
    assert tags["label"] == [each.label for each in predictions]
    assert tags["unknown"] == [each.is_unknown for each in predictions]
    assert tags["model"] == {"name": "fashion", "version": classifier.version}


@pytest.mark.parametrize("row", [(28, 28), (784,), (1, 28, 28)], ids=str)
@pytest.mark.parametrize("kind", ["ndarray", "tensor"])
def test_pixels_of_every_shape_are_read(
    client: FlaskClient, row: tuple[int, ...], kind: str
) -> None:
    message = {"data": seldon_data(np.zeros((2, *row)), kind), "meta": {"puid": "x7"}}
    answer = send(client, message).get_json()
    assert answer["meta"]["puid"] == "x7"
    assert answer["meta"]["tags"]["unknown"] == [True, True]


@pytest.mark.parametrize("way", ["json", "form"])
@pytest.mark.parametrize(
    ("message", "status", "text"),
    [
        ({}, 400, "data"),
        ([], 400, "object"),
        ({"data": {}}, 400, "either"),
        ({"data": {"ndarray": []}}, 400, "[N, 28, 28]"),
        ({"data": {"ndarray": [[0] * 783]}}, 400, "[N, 28, 28]"),
        ({"data": {"ndarray": [[256] * 784]}}, 400, "0 to 255"),
        ({"data": {"ndarray": [[0] * 784] * 257}}, 413, "256 pictures"),
        ({"data": {"tensor": {"shape": [2, 784], "values": [0]}}}, 400, "declared"),
        ({"data": {"tensor": {"shape": [-1, 784], "values": []}}}, 400, "shape"),
        ({"data": {"tensor": {"shape": [1, 9], "values": 5}}}, 400, "tensor.values:"),
    ],
)
def test_bad_messages_get_a_status_object(
    client: FlaskClient, message: Any, status: int, text: str, way: str
) -> None:
    response = send(client, message, way)
    answer = response.get_json()["status"]
    assert (response.status_code, answer["code"]) == (status, status)
    assert answer["reason"] == "MICROSERVICE_BAD_DATA"
    assert answer["status"] == "FAILURE"
    assert text in answer["info"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/predict", b"json=", 400),
        ("/predict", b"json=%", 400),
        ("/predict", b"json=%ff", 400),
        ("/predict", b"json=" + b"%2C" * 10**6, 413),
        (SELDON, b"", 400),
        ("/api/nowhere", b"", 404),
    ],
)
def test_bad_bodies_get_a_status_object(
    client: FlaskClient, path: str, body: bytes, status: int
) -> None:
    response = client.post(path, data=body)
    assert response.get_json()["status"]["code"] == response.status_code == status


def test_a_form_is_recognised_by_its_first_bytes(client: FlaskClient) -> None:
    message = json.dumps({"data": {"ndarray": [[0] * 784]}})
    for kind in ("application/x-www-form-urlencoded", "text/plain", None):
        body = f"json={message}&other=1"
        response = client.post("/predict", data=body, content_type=kind)
        assert response.get_json()["meta"]["tags"]["unknown"] == [True]


@pytest.mark.parametrize("count", [1, 100])
@pytest.mark.parametrize("kind", ["ndarray", "tensor"])
def test_the_seldon_tester_prints_a_real_answer(
    gunicorn: Server, count: int, kind: str
) -> None:
    tester = os.environ.get("SELDON_TESTER")
    if not tester:
        pytest.skip("SELDON_TESTER is not set: seldon-core needs its own environment")
    host, port = gunicorn.address
    command = [tester, "contract.json", host, str(port), "-p", "-b", str(count)]
    command += ["-t"] if kind == "tensor" else []
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    sent, answer = done.stdout.split("RECEIVED RESPONSE:\n")
    assert "SENDING NEW REQUEST" in sent
    assert "status {" not in answer
    assert 'names: "Ankle boot"' in answer
    assert answer.count("bool_value:") == count  # one verdict a picture
    probabilities = 10 * count
    if kind == "tensor":
        assert f"shape: {count}\n    shape: 10\n" in answer
        assert answer.count("    values: ") == probabilities
    else:
        numbers = answer.count("number_value:")
        assert numbers == probabilities + 2 * count  # and a class_id and a score


def test_the_contract_is_the_models(classifier: Classifier) -> None:
    contract = json.loads((ROOT / "contract.json").read_text())
    assert tuple(contract["features"][0]["shape"]) == classifier.input_shape
    assert [target["name"] for target in contract["targets"]] == classifier.classes
    command = [sys.executable, "-m", "model", "contract", "model.bin"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == (ROOT / "contract.json").read_text()
