"""The contract of /predict, the page and the errors, through Flask's own client."""

import io
import json
import re
from typing import Any

import numpy as np
import pytest
from conftest import Encode, Samples, form, to_base64, to_pixels
from flask.testing import FlaskClient
from PIL import Image

import predict
from model.classifier import Classifier

FASHION = ["ankle-boot", "bag", "dress", "sandal", "sneaker", "trouser"]
ZEROS = [[0] * 28] * 28
CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed"}
CODES |= {413: "too_large", 415: "unsupported_image"}


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_all_links_of_a_page_are_relative(client: FlaskClient, path: str) -> None:
    html = client.get(path).get_data(as_text=True)
    links = re.findall(r'(?:href|src|action|data-document)="([^"]*)"', html)
    assert len(links) > 4
    assert [link for link in links if link.startswith(("/", "http"))] == []


def test_the_page_may_load_nothing_foreign_nor_inline(client: FlaskClient) -> None:
    response = client.get("/")
    assert response.mimetype == "text/html"
    policy = set(response.headers["Content-Security-Policy"].split("; "))
    assert {"default-src 'none'", "script-src 'self'", "style-src 'self'"} <= policy
    assert "unsafe" not in str(policy)
    assert "http" not in response.text
    inline = r" style=| on[a-z]+=|<style|<script(?! type=\S+ src)"
    assert not re.search(inline, response.text)
    assert response.headers["Referrer-Policy"] == "no-referrer"


def test_the_page_shows_classes_samples_and_limits(client: FlaskClient) -> None:
    text = client.get("/").text.replace("\xa0", " ")
    assert ", ".join(predict.service.classifier.classes) in re.sub(r",\s+", ", ", text)
    samples = predict.service.classifier.samples
    assert text.count('src="data:image;base64,') == len(samples) >= 10
    assert 'data-max-pictures="256"' in text
    assert predict.service.classifier.version in text


@pytest.mark.parametrize("path", ["/", "/ping", "/static/page.js", "/nowhere"])
def test_no_answer_is_sniffed_as_another_type(client: FlaskClient, path: str) -> None:
    with client.get(path) as response:  # it holds a static file open
        assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_predict_names_the_class(client: FlaskClient, boot: bytes) -> None:
    response = client.post("/predict", data=boot)
    assert response.status_code == 200
    answer = response.get_json()
    assert (answer["class"], answer["class_id"]) == ("Ankle boot", 9)
    assert answer["probability"] == max(answer["probabilities"].values())
    assert list(answer["probabilities"])[:2] == ["T-shirt/top", "Trouser"]
    version = predict.service.classifier.version
    assert answer["model"] == {"name": "fashion", "version": version}
    assert isinstance(answer["unknown_score"], float)


@pytest.mark.parametrize(
    "content_type",
    [None, "image/png", "application/x-www-form-urlencoded", "application/json", "x"],
)
def test_a_picture_is_recognised_by_its_bytes(
    client: FlaskClient, boot: bytes, content_type: str | None
) -> None:
    response = client.post("/predict", data=boot, content_type=content_type)
    assert response.get_json()["class"] == "Ankle boot"


def test_every_way_to_send_a_picture_gets_the_same_answer(
    client: FlaskClient, boot: bytes
) -> None:
    pixels = np.asarray(Image.open(io.BytesIO(boot))).tolist()
    ways = [
        client.post("/predict", data=boot),
        client.post("/predict", data={"any": (io.BytesIO(boot), "x.png"), "note": "x"}),
        client.post("/predict", json={"image": to_base64(boot)}),
        client.post("/predict", json={"pixels": pixels}),
        client.post("/predict", data=json.dumps({"image": to_base64(boot)})),
    ]
    assert [way.status_code for way in ways] == [200] * len(ways)
    first, *others = [way.get_json() for way in ways]
    assert all(other == first for other in others)


@pytest.mark.parametrize("way", ["files", "mixed names", "images", "pixels"])
def test_a_batch_is_answered_in_order(
    client: FlaskClient, way: str, pictures: dict[str, bytes]
) -> None:
    files = [pictures[name] for name in FASHION]
    if way == "images":
        request: dict[str, Any] = {"json": {"images": [to_base64(f) for f in files]}}
    elif way == "pixels":
        arrays = [np.asarray(Image.open(io.BytesIO(file))).tolist() for file in files]
        request = {"json": {"pixels": arrays}}
    else:
        names = "a b a c b a" if way == "mixed names" else "f"
        body, content_type = form(*files, names=names)
        request = {"data": body, "content_type": content_type}
    response = client.post("/predict", **request)
    assert response.status_code == 200
    classes = [answer["class"] for answer in response.get_json()["predictions"]]
    assert [c.lower().replace(" ", "-") for c in classes] == FASHION


def test_one_bad_picture_costs_only_itself(client: FlaskClient, boot: bytes) -> None:
    images = [to_base64(boot), to_base64(b"text"), "%%%", 7, to_base64(boot[:200])]
    response = client.post("/predict", json={"images": [*images, to_base64(boot)]})
    answers = response.get_json()["predictions"]
    assert response.status_code == 200
    assert answers[0] == answers[5]
    codes = ["unsupported_image", "bad_request", "bad_request", "broken_image"]
    assert [answer["error"]["code"] for answer in answers[1:5]] == codes


def test_a_batch_of_one_is_still_a_batch(client: FlaskClient, boot: bytes) -> None:
    for body in ({"images": [to_base64(boot)]}, {"pixels": [ZEROS]}):
        assert len(client.post("/predict", json=body).get_json()["predictions"]) == 1


def test_an_unknown_picture_is_an_error(client: FlaskClient, encode: Encode) -> None:
    one_pixel = client.post("/predict", data=encode(Image.new("RGB", (1, 1), "red")))
    for response in (client.post("/predict", json={"pixels": ZEROS}), one_pixel):
        problem = response.get_json()
        assert response.status_code == problem["status"] == 422
        assert problem["code"] == "unknown_class"
        assert problem["unknown_score"] > problem["unknown_threshold"]
        assert len(problem["nearest"]) == 10


def test_fractions_are_rounded(client: FlaskClient, samples: Samples) -> None:
    whole = samples.pixels[0]
    near = np.clip(whole + np.resize([0.4, -0.4], whole.shape), 0, 255)
    bodies = [{"pixels": pixels.tolist()} for pixels in (whole, near)]
    first, second = (client.post("/predict", json=body) for body in bodies)
    assert first.status_code == second.status_code == 200
    assert first.get_json() == second.get_json()


X = "multipart/form-data; boundary=X"


@pytest.mark.parametrize(
    ("body", "content_type", "status", "detail"),
    [
        (b"", "", 400, "empty"),
        (b"hello", "", 415, "PNG, JPEG"),
        (b"{", "", 400, "does not parse"),
        (b"{}", "", 400, "image"),
        (b'{"image": 7}', "", 400, "image"),
        (b'{"image": "%%"}', "", 400, "base64"),
        # as a browser's FileReader gives it
        (b'{"image": "data:image/png;base64,A"}', "", 400, "not base64"),
        (b'{"image": ""}', "", 415, "empty"),
        (b'{"images": []}', "", 400, "image"),
        ({"pixels": ZEROS[:27]}, "", 400, "28x28"),
        ({"pixels": [*ZEROS[:27], [0]]}, "", 400, "28x28"),
        ({"pixels": []}, "", 400, "28x28"),
        ({"pixels": [[[0] * 784]]}, "", 400, "28x28"),
        ({"pixels": [["x" * 10**6] * 2]}, "", 400, "28x28"),
        ({"pixels": [[float("nan")] * 28] * 28}, "", 400, "0 to 255"),
        ({"pixels": [[256] * 28] * 28}, "", 400, "0 to 255"),
        ({"pixels": [[10**30] * 28] * 28}, "", 400, "0 to 255"),
        ({"pixels": [["1"] * 28] * 28}, "", 400, "0 to 255"),
        ({"pixels": [[True] + [5] * 27] * 28}, "", 400, "0 to 255"),
        # as a notebook has them: they would be next to blank
        ({"pixels": [[0.5] * 28] * 28}, "", 400, "times 255"),
        ({"pixels": [ZEROS] * 257}, "", 413, "256 pictures"),
        ({"images": ["AAAA"] * 10_000}, "", 413, "256 pictures"),
        pytest.param(bytes(32 * 1024**2 + 1), "", 413, "32 MB", id="over 32 MB"),
        (b"--X--\r\n", X, 400, "no file"),
        (b"", X, 400, "form"),
        (b"garbage", X, 400, "form"),
        (b"x", "multipart/form-data", 400, "boundary"),
        (b"x", "multipart/form-data; boundary=\xe9", 400, "form"),
        (*form(b""), 415, "empty"),
    ],
)
def test_bad_bodies_are_explained(
    client: FlaskClient, body: object, content_type: str, status: int, detail: str
) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body)
    response = client.post("/predict", data=data, content_type=content_type or None)
    problem = response.get_json()
    assert response.mimetype == "application/problem+json"
    assert (response.status_code, problem["code"]) == (status, CODES[status])
    assert problem["status"] == status
    assert problem["title"]
    assert detail in problem["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status", "detail"),
    [
        ("GET", "/predict", 405, "use POST"),
        ("DELETE", "/ping", 405, "use GET"),
        ("GET", "/nowhere", 404, "there is no such page"),
    ],
)
def test_wrong_routes_are_problems(
    client: FlaskClient, method: str, path: str, status: int, detail: str
) -> None:
    response = client.open(path, method=method)
    problem = response.get_json()
    assert response.mimetype == "application/problem+json"
    assert (response.status_code, problem["code"]) == (status, CODES[status])
    assert ("Allow" in response.headers) == (status == 405)
    assert problem["detail"] == detail


def test_a_range_that_is_not_there_is_416(client: FlaskClient) -> None:
    headers = {"Range": "bytes=99999999-"}
    with client.get("/static/page.css", headers=headers) as response:
        assert response.status_code == response.get_json()["status"] == 416
        assert response.headers["Content-Range"].startswith("bytes */")


def test_every_sample_picture_gets_its_class(
    client: FlaskClient, pictures: dict[str, bytes]
) -> None:
    for name, data in pictures.items():
        answer = client.post("/predict", data=data).get_json()
        label = answer["class"].lower().replace(" ", "-").replace("/", "-")
        assert label == name


@pytest.mark.parametrize("value", ["true", "TRUE", "1"])
def test_explain_shows_the_input_and_the_activation(
    client: FlaskClient, classifier: Classifier, boot: bytes, value: str
) -> None:
    plain = client.post("/predict", data=boot).get_json()
    answer = client.post(f"/predict?explain={value}", data=boot).get_json()
    explain = answer.pop("explain")
    pixels = to_pixels(boot)
    prediction = classifier.classify(pixels[None], explain=True)[0]
    assert explain["pixels"] == pixels.tolist()
    assert explain["activation"] == prediction.activation
    assert explain["unknown_threshold"] == classifier.unknown_threshold
    assert answer == plain


def test_explain_is_for_each_picture_of_a_batch(
    client: FlaskClient, boot: bytes, cat: bytes
) -> None:
    alone = client.post("/predict?explain=true", data=cat).get_json()
    images = {"images": [to_base64(data) for data in (boot, b"text", cat)]}
    answers = client.post("/predict?explain=true", json=images).get_json()
    known, bad, unknown = answers["predictions"]
    assert known["explain"]["pixels"] == to_pixels(boot).tolist()
    assert unknown["error"]["explain"]["pixels"] == to_pixels(cat).tolist()
    assert alone == unknown["error"]
    assert "explain" not in bad["error"]


def test_one_picture_is_answered_as_a_batch_if_asked(
    client: FlaskClient, boot: bytes, cat: bytes
) -> None:
    for picture, alone in ((boot, "class"), (cat, "error")):
        answer = client.post("/predict?batch=true", data=picture)
        [prediction] = answer.get_json()["predictions"]
        assert answer.status_code == 200
        assert alone in prediction


@pytest.mark.parametrize("query", ["", "?explain=False", "?explain=0"])
def test_an_answer_has_no_explanation_unless_asked(
    client: FlaskClient, boot: bytes, query: str
) -> None:
    assert "explain" not in client.post(f"/predict{query}", data=boot).get_json()


@pytest.mark.parametrize("value", ["", "yes", "2", "true%20"])
def test_another_value_of_explain_is_refused(
    client: FlaskClient, boot: bytes, value: str
) -> None:
    response = client.post(f"/predict?explain={value}", data=boot)
    assert (response.status_code, response.get_json()["code"]) == (400, "bad_request")
    assert "explain must be true or false" in response.get_json()["detail"]
