"""The Open Inference Protocol V2 and Seldon, asked by hand and by their own clients."""

import base64
import copy
import json
import os
import random
import subprocess
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from conftest import ROOT, Samples, Server
from flask.testing import FlaskClient
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException
from werkzeug.test import TestResponse

import predict
from model.classifier import Classifier, Prediction

INFER = "/v2/models/fashion/infer"
SELDON = "/api/v1.0/predictions"
HEADER = "Inference-Header-Content-Length"


def pixels_input(pixels: NDArray[Any], datatype: str = "UINT8") -> dict[str, Any]:
    shape = list(pixels.shape)
    data = pixels.tolist()
    return {"name": "pixels", "shape": shape, "datatype": datatype, "data": data}


def image_input(*images: bytes) -> dict[str, Any]:
    data = [base64.b64encode(image).decode() for image in images]
    return {"name": "image", "shape": [len(data)], "datatype": "BYTES", "data": data}


def infer(client: FlaskClient, tensor: dict[str, Any], **more: Any) -> TestResponse:
    return client.post(INFER, json={"inputs": [tensor], **more})


def outputs(response: TestResponse) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    return {each["name"]: each["data"] for each in response.get_json()["outputs"]}


def check(answer: dict[str, Any], predictions: list[Prediction]) -> None:
    """The outputs of V2 say what the classifier says."""
    flat = [p for each in predictions for p in each.probabilities.values()]
    assert answer["probabilities"] == pytest.approx(flat, abs=1e-6)
    assert answer["class_id"] == [each.class_id for each in predictions]
    assert answer["label"] == [each.label for each in predictions]
    assert answer["is_unknown"] == [each.is_unknown for each in predictions]
    scores = [each.unknown_score for each in predictions]
    assert answer["unknown_score"] == pytest.approx(scores, abs=1e-6)


def test_live_and_ready_satisfy_the_text_and_kserves_clients(
    client: FlaskClient,
) -> None:
    assert client.get("/v2/health/live").get_json() == {"live": True}
    ready = client.get("/v2/health/ready").get_json()
    assert ready == {"live": True, "ready": True}
    model = client.get("/v2/models/fashion/ready").get_json()
    assert model == {"name": "fashion", "ready": True}


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
def test_the_server_describes_itself(client: FlaskClient, path: str) -> None:
    answer = client.get(path).get_json()
    assert set(answer) == {"name", "version", "extensions"}
    assert answer["extensions"] == ["binary_tensor_data"]


def test_the_model_describes_itself(client: FlaskClient) -> None:
    answer = client.get("/v2/models/fashion").get_json()
    assert answer["versions"] == [predict.service.classifier.version]
    assert answer["platform"] == "onnx_onnxv1"
    assert [(x["name"], x["datatype"], x["shape"]) for x in answer["inputs"]] == [
        ("pixels", "UINT8", [-1, 28, 28]),
        ("image", "BYTES", [-1]),
    ]
    assert [(x["name"], x["datatype"], x["shape"]) for x in answer["outputs"]] == [
        ("probabilities", "FP32", [-1, 10]),
        ("class_id", "INT64", [-1]),
        ("label", "BYTES", [-1]),
        ("is_unknown", "BOOL", [-1]),
        ("unknown_score", "FP32", [-1]),
    ]


@pytest.mark.parametrize("row", [(28, 28), (784,), (1, 28, 28)], ids=str)
@pytest.mark.parametrize("datatype", ["UINT8", "FP32"])
def test_pixels_of_every_shape_get_the_classifiers_answer(
    client: FlaskClient,
    classifier: Classifier,
    samples: Samples,
    row: tuple[int, ...],
    datatype: str,
) -> None:
    nested = pixels_input(samples.pixels.reshape(-1, *row), datatype)
    flat = nested | {"data": samples.pixels.ravel().tolist()}
    expected = classifier.classify(samples.pixels)
    check(outputs(infer(client, nested)), expected)
    check(outputs(infer(client, flat)), expected)


@pytest.mark.parametrize("datatype", ["UINT8", "FP32"])
def test_fractions_are_rounded_in_every_type(
    client: FlaskClient, samples: Samples, datatype: str
) -> None:
    whole = samples.pixels[:2]
    near = np.clip(whole + np.resize([0.4, -0.4], whole.shape), 0, 255)
    first, second = (
        infer(client, pixels_input(pixels, datatype)) for pixels in (whole, near)
    )
    assert outputs(first) == outputs(second)


@pytest.mark.parametrize("column", [False, True])
def test_an_image_gets_the_answer_of_predict(
    client: FlaskClient, pictures: dict[str, bytes], column: bool
) -> None:
    tensor = image_input(*pictures.values())
    if column:
        tensor |= {"shape": [len(pictures), 1], "data": [[x] for x in tensor["data"]]}
    answer = outputs(infer(client, tensor))
    for row, data in enumerate(pictures.values()):
        expected = client.post("/predict", data=data).get_json()
        given = answer["probabilities"][10 * row : 10 * row + 10]
        assert given == list(expected["probabilities"].values())
        assert answer["label"][row] == expected["class"]


def test_an_unknown_picture_is_an_output(client: FlaskClient) -> None:
    answer = outputs(infer(client, pixels_input(np.zeros((1, 28, 28)))))
    assert answer["is_unknown"] == [True]
    assert answer["unknown_score"][0] > predict.service.classifier.unknown_threshold


def test_outputs_are_selected_in_the_order_asked(client: FlaskClient) -> None:
    wanted = [{"name": "label"}, {"name": "class_id"}]
    response = infer(client, pixels_input(np.zeros((2, 784))), outputs=wanted)
    given = response.get_json()["outputs"]
    assert [each["name"] for each in given] == ["label", "class_id"]
    assert [each["shape"] for each in given] == [[2], [2]]


def test_the_id_is_echoed_and_nulls_are_as_nothing(client: FlaskClient) -> None:
    tensor = pixels_input(np.zeros((1, 784)), "FP32") | {"parameters": None}
    assert infer(client, tensor, id="ä 42").get_json()["id"] == "ä 42"
    response = infer(client, tensor, id=None, parameters=None, outputs=None)
    answer = response.get_json()
    assert set(answer) == {"model_name", "model_version", "outputs"}
    assert answer["model_name"] == "fashion"
    assert answer["model_version"] == predict.service.classifier.version


def test_the_version_may_stand_in_the_path(client: FlaskClient) -> None:
    path = f"/v2/models/fashion/versions/{predict.service.classifier.version}"
    assert client.get(path).get_json()["name"] == "fashion"
    assert client.get(f"{path}/ready").get_json()["ready"] is True
    body = {"inputs": [pixels_input(np.zeros((1, 784)))]}
    assert client.post(f"{path}/infer", json=body).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/nowhere", 404),
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/other/ready", 404),
        ("GET", "/v2/models/fashion/versions/7/ready", 404),
        ("POST", "/v2/models/fashion/versions/7/infer", 404),
        ("GET", INFER, 405),
        ("DELETE", "/v2", 405),
    ],
)
def test_wrong_routes_below_v2_are_errors_of_v2(
    client: FlaskClient, method: str, path: str, status: int
) -> None:
    response = client.open(path, method=method)
    assert (response.status_code, set(response.get_json())) == (status, {"error"})
    assert response.content_type == "application/json"  # KServe's client compares
    assert ("Allow" in response.headers) == (status == 405)


def changed(**fields: Any) -> dict[str, Any]:
    return pixels_input(np.zeros((1, 784), int)) | fields


def filled(value: Any) -> dict[str, Any]:
    return changed(data=[value] * 784)


IMAGE = image_input(b"x")
BAD_INPUTS = [
    ([], 400, "one input"),
    ([changed(), changed()], 400, "one input"),
    ([changed(), IMAGE], 400, "one input"),
    ([changed(name="x")], 400, "'pixels', 'image'"),
    ([{"name": "pixels"}], 400, "Field required"),
    ([7], 400, "inputs.0"),
    ([changed(data=None)], 400, "data"),
    ([changed(data="x")], 400, "pixels.data: Input"),
    ([changed(datatype="FP64")], 400, "'UINT8' or 'FP32'"),
    ([changed(datatype="BYTES")], 400, "'UINT8' or 'FP32'"),
    ([IMAGE | {"datatype": "UINT8"}], 400, "'BYTES'"),
    ([changed(shape=[])], 400, "[N, 28, 28]"),
    ([changed(shape=[784])], 400, "[N, 28, 28]"),
    ([changed(shape=[28, 28])], 400, "[N, 28, 28]"),
    ([changed(shape=[1, 28, 27])], 400, "[N, 28, 28]"),
    ([changed(shape=[-1, 784])], 400, "greater than or equal to 0"),
    ([changed(shape=[1.0, 784])], 400, "integer"),
    ([changed(shape=[True, 784])], 400, "integer"),
    ([changed(shape=[2**70, 784])], 400, "less than or equal"),
    ([changed(shape=[2**63, 784])], 400, "declared"),
    ([changed(shape=[2, 784])], 400, "declared"),
    ([changed(shape=[0, 784], data=[])], 400, "no picture"),
    ([changed(data=[0] * 783)], 400, "declared"),
    ([changed(data=[[0] * 784, 0])], 400, "declared"),
    ([changed(shape=[1, 28, 28], data=[[[0] * 28] * 27 + [[0]]])], 400, "declared"),
    ([filled(True)], 400, "0 to 255"),
    ([changed(data=[0] * 783 + [True])], 400, "0 to 255"),
    ([filled(256)], 400, "0 to 255"),
    ([filled(-1)], 400, "0 to 255"),
    ([changed(data=[0] * 783 + [2**70])], 400, "0 to 255"),
    ([filled("1")], 400, "0 to 255"),
    ([filled(None)], 400, "0 to 255"),
    ([filled(float("nan"))], 400, "0 to 255"),
    ([filled(float("inf"))], 400, "0 to 255"),
    ([filled(-0.1)], 400, "0 to 255"),
    ([filled(255.1)], 400, "0 to 255"),
    ([filled(10**400)], 400, "0 to 255"),
    ([pixels_input(np.zeros((257, 784), int))], 413, "256 pictures"),
    ([pixels_input(np.zeros((2570, 784), int))], 413, "256 pictures"),
    ([changed(parameters={"binary_data_size": 784})], 400, "either"),
    ([changed(parameters={"binary_data_size": 9}, data=None)], 400, "0 bytes follow"),
    ([changed(parameters={"binary_data_size": -1})], 400, "binary_data_size"),
    ([IMAGE | {"shape": [2]}], 400, "declared"),
    ([IMAGE | {"data": ["%"]}], 400, "image[0]"),
    ([IMAGE | {"data": [7]}], 400, "image[0]"),
    ([image_input(b"\x89PNG\r\n\x1a\n", b"x")], 422, "image[0]"),
    ([image_input(b"")], 415, "image[0]"),
    ([image_input(*[b"x"] * 257)], 413, "256 pictures"),
]


@pytest.mark.parametrize(("inputs", "status", "text"), BAD_INPUTS)
def test_bad_inputs_are_named(
    client: FlaskClient, inputs: list[Any], status: int, text: str
) -> None:
    response = client.post(INFER, json={"inputs": inputs})
    assert response.status_code == status
    assert text in response.get_json()["error"]


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"", 400, "JSON"),
        (b"null", 400, "object"),
        (b"[" * 100_000, 400, "JSON"),
        (b'{"inputs":' + b"[" * 100_000, 400, "JSON"),
        (b'{"id": "\xff"}', 400, "JSON"),
        (b'{"id": "\\ud800"}', 400, "JSON"),
        (b'{"id": 7, "inputs": []}', 400, "id"),
        (b'{"inputs": [' + b"9" * 5000 + b"]}", 400, ""),
        (b'{"inputs": [' + b"1," * 10**6 + b"1]}", 413, "256 pictures"),
        (b'{"inputs": [], "outputs": [{"name": "x"}]}', 400, "'probabilities'"),
        (b'{"inputs": [{"name": "' + b"x" * 10**6 + b'"}]}', 400, "xxx"),
        (b"\0" * (32 * 1024**2 + 1), 413, "32 MB"),
    ],
)
def test_bad_bodies_are_named(
    client: FlaskClient, body: bytes, status: int, text: str
) -> None:
    response = client.post(INFER, data=body)
    assert response.status_code == status
    assert text in response.get_json()["error"]
    assert len(response.get_json()["error"]) <= 500


def test_an_output_is_asked_for_once(client: FlaskClient) -> None:
    response = infer(client, changed(), outputs=[{"name": "label"}] * 2)
    assert (response.status_code, "twice" in response.text) == (400, True)


@pytest.mark.parametrize("path", [INFER, SELDON])
def test_compressed_bodies_are_refused(client: FlaskClient, path: str) -> None:
    headers = {"Content-Encoding": "gzip"}
    response = client.post(path, data=b"\x1f\x8b", headers=headers)
    assert (response.status_code, "gzip" in response.text) == (415, True)


def post_binary(
    client: FlaskClient, tensor: dict[str, Any], binary: bytes, **more: Any
) -> TestResponse:
    tensor = tensor | {"parameters": {"binary_data_size": len(binary)}}
    tensor.pop("data", None)
    head = json.dumps({"inputs": [tensor], **more}).encode()
    return client.post(INFER, data=head + binary, headers={HEADER: str(len(head))})


def element(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


def test_binary_pixels_are_as_good_as_json(
    client: FlaskClient, classifier: Classifier, samples: Samples
) -> None:
    for datatype, dtype in (("UINT8", "u1"), ("FP32", "<f4")):
        tensor = pixels_input(samples.pixels, datatype)
        binary = samples.pixels.astype(dtype).tobytes()
        response = post_binary(client, tensor, binary)
        check(outputs(response), classifier.classify(samples.pixels))


def test_a_binary_image_is_base64_or_the_file(client: FlaskClient, boot: bytes) -> None:
    binary = element(boot) + element(base64.b64encode(boot))
    response = post_binary(client, image_input(boot, boot), binary)
    assert outputs(response)["label"] == ["Ankle boot"] * 2


def test_binary_and_json_outputs_mix(client: FlaskClient) -> None:
    wanted = [
        {"name": "label"},
        {"name": "class_id", "parameters": {"binary_data": False}},
        {"name": "is_unknown"},
    ]
    parameters = {"binary_data_output": True}
    response = infer(client, changed(), outputs=wanted, parameters=parameters)
    head = int(response.headers[HEADER])
    label, class_id, is_unknown = json.loads(response.data[:head])["outputs"]
    end = head + label["parameters"]["binary_data_size"]
    name = predict.service.classifier.classes[class_id["data"][0]]
    assert response.content_type == "application/octet-stream"
    assert "data" not in label
    assert response.data[head:end] == element(name.encode())
    assert is_unknown["parameters"] == {"binary_data_size": 1}
    assert response.data[end:] == b"\1"


@pytest.mark.parametrize(
    ("tensor", "binary", "status", "text"),
    [
        (changed(), b"\0" * 783, 400, "declared"),
        (changed(datatype="FP32"), b"\0" * 783, 400, "FP32"),
        (changed(datatype="FP32"), b"\0\0\xc0\x7f" * 784, 400, "0 to 255"),
        (IMAGE, b"\0\0\0", 400, "within"),
        (IMAGE, element(b"x") + b"\0", 400, "within"),
        (IMAGE, b"\xff\xff\xff\xffx", 400, "within"),
        (IMAGE, element(b"x") * 2, 400, "declared"),
        (IMAGE, element(b""), 415, "image[0]: the picture is empty"),
        (IMAGE, element(b"text, no picture"), 415, "image[0]"),
        (IMAGE, b"\0" * 10**7, 413, "256 pictures"),
    ],
)
def test_bad_binary_data_is_named(
    client: FlaskClient, tensor: dict[str, Any], binary: bytes, status: int, text: str
) -> None:
    response = post_binary(client, tensor, binary)
    assert response.status_code == status
    assert text in response.get_json()["error"]


@pytest.mark.parametrize("length", ["-1", "x", "", "9" * 5000, "99999", "0", "10"])
def test_a_wrong_header_length_is_named(client: FlaskClient, length: str) -> None:
    body = json.dumps({"inputs": [changed()]})
    response = client.post(INFER, data=body, headers={HEADER: length})
    assert (response.status_code, set(response.get_json())) == (400, {"error"})


def test_binary_sizes_must_add_up(client: FlaskClient) -> None:
    head = json.dumps({"inputs": [changed()]}).encode()
    response = client.post(INFER, data=head + b"x", headers={HEADER: str(len(head))})
    assert "1 bytes follow" in response.get_json()["error"]


def seldon_data(pixels: NDArray[Any], kind: str) -> dict[str, Any]:
    if kind == "ndarray":
        return {"ndarray": pixels.tolist()}
    shape = list(pixels.shape)
    return {"tensor": {"shape": shape, "values": pixels.ravel().tolist()}}


def ask_seldon(client: FlaskClient, message: Any, way: str = "json") -> TestResponse:
    text = json.dumps(message)
    if way == "json":
        return client.post(SELDON, data=text)
    return client.post("/predict", data={"json": text})


@pytest.mark.parametrize("kind", ["ndarray", "tensor"])
@pytest.mark.parametrize("count", [1, 100])
def test_seldon_gets_the_classifiers_answer(
    client: FlaskClient, classifier: Classifier, samples: Samples, kind: str, count: int
) -> None:
    message = {"data": seldon_data(samples.pixels[:count], kind)}
    answer = ask_seldon(client, message, "json").get_json()
    assert answer == ask_seldon(client, message, "form").get_json()
    predictions = classifier.classify(samples.pixels[:count])
    rows = np.array([list(each.probabilities.values()) for each in predictions])
    names = {"names": classifier.classes}
    assert answer["data"] == names | seldon_data(rows, kind)
    tags = answer["meta"]["tags"]
    assert tags["label"] == [each.label for each in predictions]
    assert tags["unknown"] == [each.is_unknown for each in predictions]
    assert tags["model"] == {"name": "fashion", "version": classifier.version}


@pytest.mark.parametrize("row", [(28, 28), (784,), (1, 28, 28)], ids=str)
@pytest.mark.parametrize("kind", ["ndarray", "tensor"])
def test_seldon_takes_every_shape(
    client: FlaskClient, row: tuple[int, ...], kind: str
) -> None:
    message = {"data": seldon_data(np.zeros((2, *row)), kind), "meta": {"puid": "x7"}}
    answer = ask_seldon(client, message).get_json()
    assert answer["meta"]["puid"] == "x7"
    assert answer["meta"]["tags"]["unknown"] == [True, True]


@pytest.mark.parametrize("way", ["json", "form"])
@pytest.mark.parametrize(
    ("message", "status", "text"),
    [
        ({}, 400, "data"),
        ([], 400, "object"),
        ({"data": {}}, 400, "either"),
        ({"data": {"strData": "x"}}, 400, "either"),
        ({"data": {"ndarray": []}}, 400, "[N, 28, 28]"),
        ({"data": {"ndarray": [[0] * 783]}}, 400, "[N, 28, 28]"),
        ({"data": {"ndarray": [[0] * 784, [0]]}}, 400, "[N, 28, 28]"),
        ({"data": {"ndarray": [["NaN"] * 784]}}, 400, "0 to 255"),
        ({"data": {"ndarray": [[256] * 784]}}, 400, "0 to 255"),
        ({"data": {"ndarray": [[0] * 784] * 257}}, 413, "256 pictures"),
        ({"data": {"ndarray": [[0] * 784] * 2570}}, 413, "256 pictures"),
        ({"data": {"tensor": {"shape": [2, 784], "values": [0]}}}, 400, "declared"),
        ({"data": {"tensor": {"shape": [-1, 784], "values": []}}}, 400, "shape"),
        (
            {"data": {"tensor": {"shape": [1, 784], "values": [256] * 784}}},
            400,
            "0 to 255",
        ),
        (
            {"data": {"tensor": {"shape": [1, 784], "values": 5}}},
            400,
            "tensor.values: Input",
        ),
    ],
)
def test_bad_seldon_messages_get_its_status_object(
    client: FlaskClient, message: Any, status: int, text: str, way: str
) -> None:
    response = ask_seldon(client, message, way)
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
        (SELDON, b"\0" * (32 * 1024**2 + 1), 413),
        ("/api/nowhere", b"", 404),
    ],
)
def test_bad_seldon_bodies_get_its_status_object(
    client: FlaskClient, path: str, body: bytes, status: int
) -> None:
    response = client.post(path, data=body)
    assert response.get_json()["status"]["code"] == response.status_code == status


def test_a_seldon_form_is_told_by_its_first_bytes(client: FlaskClient) -> None:
    message = json.dumps({"data": {"ndarray": [[0] * 784]}})
    for kind in ("application/x-www-form-urlencoded", "text/plain", None):
        body = f"json={message}&other=1"
        response = client.post("/predict", data=body, content_type=kind)
        assert response.get_json()["meta"]["tags"]["unknown"] == [True]


def test_a_log_line_tells_of_each_picture(
    client: FlaskClient, capsys: pytest.CaptureFixture[str]
) -> None:
    infer(client, pixels_input(np.zeros((2, 784))))
    ask_seldon(client, {"data": {"ndarray": [[0] * 784]}})
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    codes = [[one["code"] for one in line["predictions"]] for line in lines]
    assert codes == [["unknown_class"] * 2, ["unknown_class"]]


HOSTILE: list[Any] = [
    None, True, 0, -1, 2**64, 10**400, 1.5, float("nan"), float("inf"), "", "x" * 999,
    "BYTES", "image", "\ud800", [], [[]], [[[[[[0]]]]]], [None], [784], [0, 784], {},
    {"binary_data_size": 784}, {"binary_data": True}, [{}], [{"name": "label"}],
]  # fmt: skip
GOOD = {
    INFER: {
        "id": "1",
        "parameters": {"binary_data_output": False},
        "inputs": [changed()],
        "outputs": [{"name": "label", "parameters": {"binary_data": False}}],
    },
    SELDON: {
        "meta": {"puid": "x", "tags": {"a": 1}},
        "data": {"names": ["a"], "tensor": {"shape": [1, 784], "values": [0] * 784}},
    },
}


def malformed(message: Any, chance: random.Random) -> bytes:
    """Put something else in one or two places of a message, and damage some bytes."""
    message = copy.deepcopy(message)
    for _ in range(chance.choice([1, 1, 2])):
        place = message
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = chance.choice(keys)
            inner = isinstance(place[key], dict | list) and chance.random() < 0.8
            if not inner:
                place[key] = chance.choice(HOSTILE)
                break
            place = place[key]
    body = bytearray(json.dumps(message).encode())
    for _ in range(chance.choice([0, 0, 0, 1, 3])):
        body[chance.randrange(len(body))] = chance.randrange(256)
    if chance.random() < 0.1:
        del body[chance.randrange(len(body)) :]
    return bytes(body)


@pytest.mark.parametrize("path", [INFER, SELDON, "/predict"])
def test_no_malformed_body_is_our_fault(client: FlaskClient, path: str) -> None:
    chance = random.Random(path)  # noqa: S311
    statuses = set()
    for _ in range(400):
        body = malformed(GOOD.get(path, GOOD[SELDON]), chance)
        headers = {}
        if path == INFER and chance.random() < 0.2:
            headers[HEADER] = str(chance.choice([0, -1, 50, len(body), len(body) - 1]))
        prefix = b"json=" if path == "/predict" else b""
        response = client.post(path, data=prefix + body, headers=headers)
        statuses.add(response.status_code)
        assert response.status_code < 500, body
        if response.status_code != 200:
            expected = {"error"} if path == INFER else {"status"}
            assert set(response.get_json()) == expected
    assert {200, 400} <= statuses


@pytest.fixture
def asker(gunicorn: Server) -> Iterator[triton.InferenceServerClient]:
    """NVIDIA's client of a real server."""
    client = triton.InferenceServerClient(gunicorn.url.removeprefix("http://"))
    yield client
    client.close()


def test_triton_sees_a_live_and_ready_server(
    asker: triton.InferenceServerClient,
) -> None:
    assert asker.is_server_live()
    assert asker.is_server_ready()
    assert asker.is_model_ready("fashion")
    assert asker.is_model_ready("fashion", predict.service.classifier.version)
    assert not asker.is_model_ready("other")
    assert asker.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    assert asker.get_model_metadata("fashion")["name"] == "fashion"


@pytest.mark.parametrize("is_binary", [False, True])
@pytest.mark.parametrize("datatype", ["UINT8", "FP32"])
def test_triton_gets_the_classifiers_answer(
    asker: triton.InferenceServerClient,
    classifier: Classifier,
    samples: Samples,
    datatype: str,
    is_binary: bool,
) -> None:
    tensor = triton.InferInput("pixels", [100, 28, 28], datatype)
    dtype = np.uint8 if datatype == "UINT8" else np.float32
    tensor.set_data_from_numpy(samples.pixels.astype(dtype), binary_data=is_binary)
    names = ["probabilities", "class_id", "is_unknown", "unknown_score", "label"]
    wanted = [triton.InferRequestedOutput(name, is_binary) for name in names]
    result = asker.infer("fashion", [tensor], outputs=wanted, request_id="7")
    answer = {name: result.as_numpy(name).ravel().tolist() for name in names}
    if is_binary:
        answer["label"] = [text.decode() for text in answer["label"]]
    check(answer, classifier.classify(samples.pixels))
    assert result.as_numpy("probabilities").shape == (100, 10)
    assert result.as_numpy("probabilities").dtype == np.float32
    assert result.as_numpy("class_id").dtype == np.int64
    assert result.as_numpy("is_unknown").dtype == np.bool_
    assert result.get_response()["id"] == "7"


@pytest.mark.parametrize("is_file", [False, True])
def test_triton_may_send_a_picture_and_name_no_output(
    asker: triton.InferenceServerClient, boot: bytes, is_file: bool
) -> None:
    tensor = triton.InferInput("image", [1], "BYTES")
    data = boot if is_file else base64.b64encode(boot)
    tensor.set_data_from_numpy(np.array([data], dtype=np.object_))
    result = asker.infer("fashion", [tensor], predict.service.classifier.version)
    assert result.as_numpy("label").tolist() == [b"Ankle boot"]
    assert result.as_numpy("is_unknown").tolist() == [False]


def test_triton_is_told_what_is_wrong(asker: triton.InferenceServerClient) -> None:
    tensor = triton.InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([b"no picture"], dtype=np.object_))
    with pytest.raises(InferenceServerException, match=r"\[415\] image\[0\]: not a"):
        asker.infer("fashion", [tensor])
    small = np.zeros((1, 784), np.uint8)
    tensor = triton.InferInput("pixels", [1, 784], "UINT8")
    tensor.set_data_from_numpy(small)
    with pytest.raises(InferenceServerException, match="no model"):
        asker.infer("other", [tensor])
    with pytest.raises(InferenceServerException, match="not gzip"):
        asker.infer("fashion", [tensor], request_compression_algorithm="gzip")


@pytest.mark.parametrize("count", [1, 100])
@pytest.mark.parametrize("kind", ["ndarray", "tensor"])
def test_the_seldon_tester_prints_a_real_answer(
    gunicorn: Server, count: int, kind: str
) -> None:
    tester = os.environ.get("SELDON_TESTER")
    if not tester:
        pytest.skip("SELDON_TESTER is not set: seldon-core needs its own environment")
    host, port = gunicorn.url.removeprefix("http://").split(":")
    command = [tester, "contract.json", host, port, "-p", "-b", str(count)]
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
    assert contract["targets"][0]["repeat"] == len(classifier.classes)
