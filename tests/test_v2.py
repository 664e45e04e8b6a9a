"""The Open Inference Protocol V2, by hand and by NVIDIA's client."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from conftest import Samples, Server, to_base64
from flask.testing import FlaskClient
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException
from werkzeug.test import TestResponse

import predict
from model.classifier import Classifier, Prediction

INFER = "/v2/models/fashion/infer"
HEADER = "Inference-Header-Content-Length"


def pixels_input(pixels: NDArray[Any], datatype: str = "UINT8") -> dict[str, Any]:
    shape = list(pixels.shape)
    data = pixels.tolist()
    return {"name": "pixels", "shape": shape, "datatype": datatype, "data": data}


def image_input(*images: bytes) -> dict[str, Any]:
    data = [to_base64(image) for image in images]
    return {"name": "image", "shape": [len(data)], "datatype": "BYTES", "data": data}


def infer(client: FlaskClient, tensor: dict[str, Any], **more: Any) -> TestResponse:
    return client.post(INFER, json={"inputs": [tensor], **more})


def outputs(response: TestResponse) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    return {each["name"]: each["data"] for each in response.get_json()["outputs"]}


def check(answer: dict[str, Any], predictions: list[Prediction]) -> None:
    """Check that the outputs of V2 are what the classifier predicts."""
    flat = [p for each in predictions for p in each.probabilities.values()]
    assert answer["probabilities"] == pytest.approx(flat, abs=1e-6)
    assert answer["class_id"] == [each.class_id for each in predictions]
    assert answer["label"] == [each.label for each in predictions]
    assert answer["is_unknown"] == [each.is_unknown for each in predictions]
    scores = [each.unknown_score for each in predictions]
    assert answer["unknown_score"] == pytest.approx(scores, abs=1e-6)


def test_live_and_ready_are_as_kserves_clients_expect(client: FlaskClient) -> None:
    ready = {"live": True, "ready": True}
    assert client.get("/v2/health/live").get_json() == {"live": True}
    assert client.get("/v2/health/ready").get_json() == ready
    assert client.get("/v2/models/fashion/ready").get_json()["ready"] is True
    assert set(client.get("/v2/").get_json()) == {"name", "version", "extensions"}


def test_the_model_has_metadata(client: FlaskClient) -> None:
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


def test_fractions_are_rounded(client: FlaskClient, samples: Samples) -> None:
    whole = samples.pixels[:2]
    near = np.clip(whole + np.resize([0.4, -0.4], whole.shape), 0, 255)
    first, second = (infer(client, pixels_input(p, "FP32")) for p in (whole, near))
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


def test_the_id_is_returned_and_nulls_are_ignored(client: FlaskClient) -> None:
    tensor = pixels_input(np.zeros((1, 784)), "FP32") | {"parameters": None}
    assert infer(client, tensor, id="ä 42").get_json()["id"] == "ä 42"
    response = infer(client, tensor, id=None, parameters=None, outputs=None)
    answer = response.get_json()
    assert set(answer) == {"model_name", "model_version", "outputs"}
    assert answer["model_name"] == "fashion"
    assert answer["model_version"] == predict.service.classifier.version


def test_the_path_may_name_the_version(client: FlaskClient) -> None:
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
    ([changed(name="x")], 400, "'pixels', 'image'"),
    ([{"name": "pixels"}], 400, "Field required"),
    ([7], 400, "inputs.0"),
    ([changed(data=None)], 400, "data"),
    ([changed(data="x")], 400, "pixels.data: Input"),
    ([changed(datatype="FP8")], 400, "'FP32' or 'FP64'"),
    ([IMAGE | {"datatype": "UINT8"}], 400, "'BYTES'"),
    ([changed(shape=[784])], 400, "[N, 28, 28]"),
    ([changed(shape=[1, 28, 27])], 400, "[N, 28, 28]"),
    ([changed(shape=[-1, 784])], 400, "greater than or equal to 0"),
    ([changed(shape=[True, 784])], 400, "integer"),
    ([changed(shape=[2**70, 784])], 400, "less than or equal"),
    ([changed(shape=[2**63, 784])], 400, "declared"),
    ([changed(shape=[2, 784])], 400, "declared"),
    ([changed(shape=[0, 784], data=[])], 400, "no picture"),
    ([changed(data=[[0] * 784, 0])], 400, "declared"),
    ([changed(data=[0] * 783 + [True])], 400, "0 to 255"),
    ([filled(float("nan"))], 400, "0 to 255"),
    ([filled(255.1)], 400, "0 to 255"),
    ([filled(10**400)], 400, "0 to 255"),
    ([pixels_input(np.zeros((257, 784), int))], 413, "256 pictures"),
    ([changed(parameters={"binary_data_size": 784})], 400, "either"),
    ([changed(parameters={"binary_data_size": 9}, data=None)], 400, "0 bytes follow"),
    ([changed(parameters={"binary_data_size": -1})], 400, "binary_data_size"),
    ([IMAGE | {"shape": [2]}], 400, "declared"),
    ([IMAGE | {"data": ["%"]}], 400, "image[0]"),
    ([image_input(b"\x89PNG\r\n\x1a\n", b"x")], 422, "image[0]"),
    ([image_input(b"")], 415, "image[0]"),
    ([image_input(*[b"x"] * 257)], 413, "256 pictures"),
]


@pytest.mark.parametrize(("inputs", "status", "text"), BAD_INPUTS)
def test_bad_inputs_are_explained(
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
        (b'{"id": "\\ud800"}', 400, "JSON"),
        (b'{"id": 7, "inputs": []}', 400, "id"),
        (b'{"inputs": [], "outputs": [{"name": "x"}]}', 400, "'probabilities'"),
        (b'{"inputs": [{"name": "' + b"x" * 999 + b'"}]}', 400, "xxx"),
    ],
)
def test_bad_bodies_are_explained(
    client: FlaskClient, body: bytes, status: int, text: str
) -> None:
    response = client.post(INFER, data=body)
    assert response.status_code == status
    assert text in response.get_json()["error"]
    assert len(response.get_json()["error"]) <= 500


def test_an_output_is_requested_once(client: FlaskClient) -> None:
    response = infer(client, changed(), outputs=[{"name": "label"}] * 2)
    assert (response.status_code, "twice" in response.text) == (400, True)


def post_binary(
    client: FlaskClient, tensor: dict[str, Any], binary: bytes, **more: Any
) -> TestResponse:
    tensor = tensor | {"parameters": {"binary_data_size": len(binary)}}
    tensor.pop("data", None)
    head = json.dumps({"inputs": [tensor], **more}).encode()
    return client.post(INFER, data=head + binary, headers={HEADER: str(len(head))})


def element(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


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
        (IMAGE, b"\xff\xff\xff\xffx", 400, "within"),
        (IMAGE, element(b"x") * 2, 400, "declared"),
        (IMAGE, element(b""), 415, "image[0]: the picture is empty"),
        (IMAGE, b"\0" * 10**7, 413, "256 pictures"),
    ],
)
def test_bad_binary_data_is_explained(
    client: FlaskClient, tensor: dict[str, Any], binary: bytes, status: int, text: str
) -> None:
    response = post_binary(client, tensor, binary)
    assert response.status_code == status
    assert text in response.get_json()["error"]


@pytest.mark.parametrize("length", ["-1", "x", "", "9" * 5000, "99999", "0", "10"])
def test_a_wrong_header_length_is_refused(client: FlaskClient, length: str) -> None:
    body = json.dumps({"inputs": [changed()]})
    response = client.post(INFER, data=body, headers={HEADER: length})
    assert (response.status_code, set(response.get_json())) == (400, {"error"})


def test_binary_sizes_must_add_up(client: FlaskClient) -> None:
    head = json.dumps({"inputs": [changed()]}).encode()
    response = client.post(INFER, data=head + b"x", headers={HEADER: str(len(head))})
    assert "1 bytes follow" in response.get_json()["error"]


@pytest.fixture
def nvidia(gunicorn: Server) -> Iterator[triton.InferenceServerClient]:
    """NVIDIA's client of a real server."""
    with triton.InferenceServerClient(gunicorn.url.removeprefix("http://")) as client:
        yield client


def test_tritons_client_reads_state_and_metadata(
    nvidia: triton.InferenceServerClient,
) -> None:
    assert nvidia.is_server_live()
    assert nvidia.is_server_ready()
    assert nvidia.is_model_ready("fashion")
    assert nvidia.is_model_ready("fashion", predict.service.classifier.version)
    assert not nvidia.is_model_ready("other")
    assert nvidia.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    assert nvidia.get_model_metadata("fashion")["name"] == "fashion"


@pytest.mark.parametrize("is_binary", [False, True])
@pytest.mark.parametrize("datatype", ["UINT8", "FP32"])
def test_tritons_client_gets_the_classifiers_answer(
    nvidia: triton.InferenceServerClient,
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
    result = nvidia.infer("fashion", [tensor], outputs=wanted, request_id="7")
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
def test_tritons_client_may_send_a_picture(
    nvidia: triton.InferenceServerClient, boot: bytes, is_file: bool
) -> None:
    tensor = triton.InferInput("image", [1], "BYTES")
    data = boot if is_file else base64.b64encode(boot)
    tensor.set_data_from_numpy(np.array([data], dtype=np.object_))
    result = nvidia.infer("fashion", [tensor], predict.service.classifier.version)
    assert result.as_numpy("label").tolist() == [b"Ankle boot"]
    assert result.as_numpy("is_unknown").tolist() == [False]


def test_tritons_client_gets_the_error(
    nvidia: triton.InferenceServerClient,
) -> None:
    tensor = triton.InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([b"no picture"], dtype=np.object_))
    with pytest.raises(InferenceServerException, match=r"\[415\] image\[0\]: not a"):
        nvidia.infer("fashion", [tensor])
    small = np.zeros((1, 784), np.uint8)
    tensor = triton.InferInput("pixels", [1, 784], "UINT8")
    tensor.set_data_from_numpy(small)
    with pytest.raises(InferenceServerException, match="no model"):
        nvidia.infer("other", [tensor])


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_tritons_client_may_compress(
    nvidia: triton.InferenceServerClient, algorithm: str
) -> None:
    tensor = triton.InferInput("pixels", [1, 784], "UINT8")
    tensor.set_data_from_numpy(np.zeros((1, 784), np.uint8))
    result = nvidia.infer("fashion", [tensor], request_compression_algorithm=algorithm)
    assert result.as_numpy("is_unknown").shape == (1,)
