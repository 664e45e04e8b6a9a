"""The contract of /ping and /predict, through Flask's own client."""

import base64
import errno
import io
import json
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from conftest import Encode, Samples, to_pixels
from flask.testing import FlaskClient
from PIL import Image

import predict
from model.classifier import Classifier
from service import observe

FASHION = ["ankle-boot", "bag", "dress", "sandal", "sneaker", "trouser"]


def as_json(data: bytes) -> str:
    return base64.b64encode(data).decode()


def known(answer: dict[str, Any]) -> dict[str, Any]:
    """What must not depend on the way a picture was sent."""
    return {
        k: answer[k] for k in ("class", "class_id", "probabilities", "unknown_score")
    }


def test_ping(client: FlaskClient) -> None:
    response = client.get("/ping")
    assert response.text == "PONG"
    assert response.mimetype == "text/plain"


def test_the_page_may_load_nothing_foreign_nor_inline(client: FlaskClient) -> None:
    response = client.get("/")
    assert response.mimetype == "text/html"
    policy = response.headers["Content-Security-Policy"].split("; ")
    assert {"default-src 'none'", "script-src 'self'", "style-src 'self'"} <= set(
        policy
    )
    assert "unsafe" not in str(policy)
    assert "http" not in response.text
    assert not re.search(
        r" style=| on[a-z]+=|<style|<script(?! type=\S+ src)", response.text
    )
    assert response.headers["Referrer-Policy"] == "no-referrer"


def test_the_page_knows_classes_samples_and_limits(client: FlaskClient) -> None:
    text = client.get("/").text.replace("\xa0", " ")
    assert ", ".join(predict.service.classifier.classes) in re.sub(r",\s+", ", ", text)
    assert text.count('src="data:image;base64,') == 10
    assert 'src="/static/pictures/cat.gif"' in text
    assert 'data-max-pictures="256"' in text
    assert predict.service.classifier.version in text


@pytest.mark.parametrize("path", ["/", "/ping", "/static/page.js", "/nowhere"])
def test_no_answer_is_taken_for_another_type(client: FlaskClient, path: str) -> None:
    with client.get(path) as response:  # it holds a static file open
        assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_predict_names_the_class(client: FlaskClient, boot: bytes) -> None:
    response = client.post("/predict", data=boot)
    assert response.status_code == 200
    answer = response.get_json()
    assert answer["class"] == "Ankle boot"
    assert answer["class_id"] == 9
    assert answer["probability"] == max(answer["probabilities"].values())
    assert list(answer["probabilities"])[:2] == ["T-shirt/top", "Trouser"]
    assert answer["model"] == {
        "name": "fashion",
        "version": predict.service.classifier.version,
    }
    assert isinstance(answer["unknown_score"], float)


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "image/png",
        "application/x-www-form-urlencoded",
        "application/json",
        "bogus",
    ],
)
def test_predict_tells_a_picture_by_its_bytes(
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
        client.post("/predict", data={"any": (io.BytesIO(boot), "x.png")}),
        client.post("/predict", json={"image": as_json(boot)}),
        client.post("/predict", json={"pixels": pixels}),
        client.post("/predict", data=json.dumps({"image": as_json(boot)})),
    ]
    assert [way.status_code for way in ways] == [200] * len(ways)
    first, *others = [known(way.get_json()) for way in ways]
    assert all(other == first for other in others)


def test_the_answer_is_the_classifiers(
    client: FlaskClient, classifier: Classifier, samples: Samples
) -> None:
    answers = client.post(
        "/predict", json={"pixels": samples.pixels.tolist()}
    ).get_json()
    expected = classifier.classify(samples.pixels)
    assert len(answers["predictions"]) == 100
    for answer, prediction in zip(answers["predictions"], expected, strict=True):
        if prediction.is_unknown:
            assert answer["error"]["nearest"] == prediction.probabilities
        else:
            assert answer["probabilities"] == prediction.probabilities
            assert answer["class"] == prediction.label


@pytest.mark.parametrize("send", ["files", "mixed names", "images", "pixels"])
def test_a_batch_is_answered_in_order(
    client: FlaskClient, send: str, pictures: dict[str, bytes]
) -> None:
    names = FASHION
    data = [pictures[name] for name in names]
    body: dict[str, Any]
    if send == "images":
        body = {"json": {"images": [as_json(d) for d in data]}}
    elif send == "pixels":
        arrays = [np.asarray(Image.open(io.BytesIO(d))).tolist() for d in data]
        body = {"json": {"pixels": arrays}}
    else:
        fields = ["a", "b", "a", "c", "b", "a"] if send == "mixed names" else ["f"] * 6
        body = {"data": multipart(zip(fields, data, strict=True))}
        body["content_type"] = "multipart/form-data; boundary=X"
    response = client.post("/predict", **body)
    assert response.status_code == 200
    classes = [answer["class"] for answer in response.get_json()["predictions"]]
    assert [c.lower().replace(" ", "-") for c in classes] == names


def multipart(parts: Iterable[tuple[str, bytes]]) -> bytes:
    body = b""
    for field, data in parts:
        head = f'--X\r\nContent-Disposition: form-data; name="{field}"; filename="f"'
        body += head.encode() + b"\r\n\r\n" + data + b"\r\n"
    return body + b"--X--\r\n"


def test_one_bad_picture_costs_only_itself(client: FlaskClient, boot: bytes) -> None:
    images = [as_json(boot), as_json(b"text"), "%%%", 7, as_json(boot[:200])]
    response = client.post("/predict", json={"images": [*images, as_json(boot)]})
    answers = response.get_json()["predictions"]
    assert response.status_code == 200
    assert answers[0] == answers[5]
    assert [answer["error"]["code"] for answer in answers[1:5]] == [
        "unsupported_image",
        "bad_request",
        "bad_request",
        "broken_image",
    ]


def test_a_batch_of_one_is_still_a_batch(client: FlaskClient, boot: bytes) -> None:
    for body in ({"images": [as_json(boot)]}, {"pixels": [[[0] * 28] * 28]}):
        assert len(client.post("/predict", json=body).get_json()["predictions"]) == 1


def test_an_unknown_picture_is_an_error(client: FlaskClient) -> None:
    response = client.post("/predict", json={"pixels": [[0] * 28] * 28})
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


def test_a_data_url_is_told_apart(client: FlaskClient) -> None:
    """As a browser's FileReader gives it."""
    answer = client.post("/predict", json={"image": "data:image/png;base64,AAAA"})
    assert answer.get_json()["detail"].endswith("leave out what is before the comma")


def test_numbers_from_0_to_1_are_told(client: FlaskClient, samples: Samples) -> None:
    """As a notebook has them: they would be next to blank."""
    shares = (samples.pixels[0] / 255).tolist()
    answer = client.post("/predict", json={"pixels": shares})
    assert answer.status_code == 400
    assert "times 255" in answer.get_json()["detail"]


ROWS = [[0] * 28] * 28


@pytest.mark.parametrize(
    ("body", "status", "code", "detail"),
    [
        (b"", 400, "bad_request", "empty"),
        (b"hello", 415, "unsupported_image", "PNG, JPEG"),
        (b"{", 400, "bad_request", "does not parse"),
        (b"[1, 2]", 400, "bad_request", "image"),
        (b"{}", 400, "bad_request", "image"),
        (b"[" * 100_000, 400, "bad_request", "does not parse"),
        (b'{"image": 7}', 400, "bad_request", "image"),
        (b'{"image": "%%"}', 400, "bad_request", "base64"),
        (b'{"image": ""}', 415, "unsupported_image", "empty"),
        (b'{"images": []}', 400, "bad_request", "image"),
        (b'{"images": "x"}', 400, "bad_request", "image"),
        ({"pixels": [[0] * 28] * 27}, 400, "bad_request", "28x28"),
        ({"pixels": [[0] * 28] * 27 + [[0]]}, 400, "bad_request", "28x28"),
        ({"pixels": []}, 400, "bad_request", "28x28"),
        ({"pixels": [[ROWS]]}, 400, "bad_request", "28x28"),
        ({"pixels": [[[0] * 784]]}, 400, "bad_request", "28x28"),
        ({"pixels": [[float("nan")] * 28] * 28}, 400, "bad_request", "0 to 255"),
        ({"pixels": [[float("inf")] * 28] * 28}, 400, "bad_request", "0 to 255"),
        ({"pixels": [[256] * 28] * 28}, 400, "bad_request", "0 to 255"),
        ({"pixels": [[-1] * 28] * 28}, 400, "bad_request", "0 to 255"),
        ({"pixels": [[10**30] * 28] * 28}, 400, "bad_request", "0 to 255"),
        ({"pixels": [["1"] * 28] * 28}, 400, "bad_request", "0 to 255"),
        ({"pixels": [[True] * 28] * 28}, 400, "bad_request", "0 to 255"),
        ({"pixels": [[None] * 28] * 28}, 400, "bad_request", "0 to 255"),
        ({"pixels": [[True] + [5] * 27] * 28}, 400, "bad_request", "0 to 255"),
        ({"pixels": ["x" * 10**6] + [""] * 10**5}, 400, "bad_request", "28x28"),
        ({"pixels": [ROWS] * 257}, 413, "too_large", "256 pictures"),
        ({"pixels": [ROWS] * 10_000}, 413, "too_large", "256 pictures"),
        ({"images": ["AAAA"] * 10_000}, 413, "too_large", "256 pictures"),
    ],
)
def test_bad_bodies_are_named(
    client: FlaskClient, body: object, status: int, code: str, detail: str
) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body)
    response = client.post("/predict", data=data)
    assert response.mimetype == "application/problem+json"
    assert (response.status_code, response.get_json()["code"]) == (status, code)
    assert response.get_json()["status"] == status
    assert response.get_json()["title"]
    assert detail in response.get_json()["detail"]


@pytest.mark.parametrize(
    ("data", "content_type", "status", "detail"),
    [
        (b"--X--\r\n", "multipart/form-data; boundary=X", 400, "no file"),
        (b"", "multipart/form-data; boundary=X", 400, "form"),
        (b"garbage", "multipart/form-data; boundary=X", 400, "form"),
        (b"x", "multipart/form-data", 400, "boundary"),
        (b"x", "multipart/form-data; boundary=\xc3\xa9", 400, "form"),
        (multipart([("a", b"")]), "multipart/form-data; boundary=X", 415, "empty"),
        (
            multipart([("a", b"x")] * 10_000),
            "multipart/form-data; boundary=X",
            413,
            "256 pictures",
        ),
    ],
)
def test_bad_forms_are_named(
    client: FlaskClient, data: bytes, content_type: str | None, status: int, detail: str
) -> None:
    response = client.post("/predict", data=data, content_type=content_type)
    assert response.status_code == status
    assert detail in response.get_json()["detail"]


def test_a_field_beside_the_files_is_no_picture(
    client: FlaskClient, boot: bytes
) -> None:
    data = {"note": "hello", "picture": (io.BytesIO(boot), "boot.png")}
    assert client.post("/predict", data=data).get_json()["class"] == "Ankle boot"


def test_a_body_over_the_limit_is_refused(client: FlaskClient) -> None:
    response = client.post("/predict", data=b"\0" * (32 * 1024**2 + 1))
    assert (response.status_code, response.get_json()["code"]) == (413, "too_large")
    assert "32 MB" in response.get_json()["detail"]


def test_one_pixel_is_no_garment(client: FlaskClient, encode: Encode) -> None:
    response = client.post("/predict", data=encode(Image.new("RGB", (1, 1), "red")))
    assert (response.status_code, response.get_json()["code"]) == (422, "unknown_class")


@pytest.mark.parametrize(
    ("asked", "status", "code", "detail"),
    [
        ("GET /predict", 405, "method_not_allowed", "use POST"),
        ("DELETE /ping", 405, "method_not_allowed", "use GET"),
        ("GET /nowhere", 404, "not_found", "there is no such page"),
    ],
)
def test_wrong_routes_are_problems(
    client: FlaskClient, asked: str, status: int, code: str, detail: str
) -> None:
    method, path = asked.split()
    response = client.open(path, method=method)
    assert response.mimetype == "application/problem+json"
    assert (response.status_code, response.get_json()["code"]) == (status, code)
    assert ("Allow" in response.headers) == (status == 405)
    assert response.get_json()["detail"] == detail


def test_our_own_fault_is_a_problem_too(
    client: FlaskClient,
    boot: bytes,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(predict.service, "classify", lambda *_, **__: 1 / 0)
    response = client.post("/predict", data=boot, headers={"X-Request-ID": "find-me"})
    assert response.status_code == 500
    assert response.get_json()["code"] == "internal_error"
    assert "under the request's id" in response.get_json()["detail"]
    assert "find-me" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_a_full_disk_costs_no_answer(
    client: FlaskClient,
    boot: bytes,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(observe, "log_line", full)
    assert client.post("/predict?explain=true", data=boot).status_code == 200
    assert "is not in the log" in caplog.text


def test_a_range_that_is_not_there_is_416(client: FlaskClient) -> None:
    headers = {"Range": "bytes=99999999-"}
    with client.get("/static/page.css", headers=headers) as response:
        assert response.status_code == response.get_json()["status"] == 416
        assert response.headers["Content-Range"].startswith("bytes */")


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("abc-1.2_3", "abc-1.2_3"), ('a"b c{', "abc"), ("x" * 99, "x" * 64)],
)
def test_a_request_id_is_cleaned_and_echoed(
    client: FlaskClient, sent: str, kept: str
) -> None:
    response = client.get("/ping", headers={"X-Request-ID": sent})
    assert response.headers["X-Request-ID"] == kept


def test_a_request_id_is_made(client: FlaskClient) -> None:
    first, second = (client.get("/ping").headers["X-Request-ID"] for _ in range(2))
    assert len(first) == 32
    assert first != second


def test_the_sample_pictures_are_read_right(
    client: FlaskClient, pictures: dict[str, bytes]
) -> None:
    for name, data in pictures.items():
        answer = client.post("/predict", data=data).get_json()
        label = answer["class"].lower().replace(" ", "-").replace("/", "-")
        assert label == name


@pytest.mark.parametrize("text", ["true", "True", "TRUE", "1"])
def test_explain_shows_what_the_network_saw(
    client: FlaskClient, classifier: Classifier, boot: bytes, text: str
) -> None:
    plain = client.post("/predict", data=boot).get_json()
    answer = client.post(f"/predict?explain={text}", data=boot).get_json()
    explain = answer.pop("explain")
    pixels = to_pixels(boot)
    prediction = classifier.classify(pixels[None], explain=True)[0]
    assert explain["pixels"] == pixels.tolist()
    assert explain["activation"] == prediction.activation
    assert explain["unknown_threshold"] == classifier.unknown_threshold
    assert answer == plain


def test_explain_speaks_for_each_picture_of_a_batch(
    client: FlaskClient, boot: bytes, cat: bytes
) -> None:
    alone = client.post("/predict?explain=true", data=cat).get_json()
    images = {"images": [as_json(data) for data in (boot, b"text", cat)]}
    answers = client.post("/predict?explain=true", json=images).get_json()
    known, bad, unknown = answers["predictions"]
    assert known["explain"]["pixels"] == to_pixels(boot).tolist()
    assert unknown["error"]["explain"]["pixels"] == to_pixels(cat).tolist()
    assert alone["explain"]["pixels"] == to_pixels(cat).tolist()
    assert "explain" not in bad["error"]


@pytest.mark.parametrize(
    "query", ["", "?explain=false", "?explain=False", "?explain=0"]
)
def test_unasked_the_network_is_not_asked_to_explain(
    client: FlaskClient, boot: bytes, query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    session = predict.service.classifier._session

    class Spy:
        def run(self, outputs: list[str], feeds: dict[str, Any]) -> list[Any]:
            asked.append(outputs)
            return list(session.run(outputs, feeds))

    monkeypatch.setattr(predict.service.classifier, "_session", Spy())
    answer = client.post(f"/predict{query}", data=boot).get_json()
    assert "explain" not in answer
    assert asked == [["probabilities", "unknown_score"]]


@pytest.mark.parametrize("text", ["", "yes", "2", "true%20"])
def test_another_value_of_explain_is_refused(
    client: FlaskClient, boot: bytes, text: str
) -> None:
    response = client.post(f"/predict?explain={text}", data=boot)
    assert (response.status_code, response.get_json()["code"]) == (400, "bad_request")
    assert "explain must be true or false" in response.get_json()["detail"]
