"""What all answers share: keys, request ids, faults of the service, limits of time."""

import errno

import pytest
from flask.testing import FlaskClient

import predict
from service import core, observe


@pytest.fixture
def keyed(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    monkeypatch.setattr(predict.service.settings, "api_key", [b"new-key", b"old-key"])
    return client


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"X-API-Key": "new-key"}, 200),
        ({"X-API-Key": "old-key"}, 200),
        ({"Authorization": "Bearer new-key"}, 200),
        ({"Authorization": "bearer  old-key "}, 200),
        ({"Authorization": "Basic new-key"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"X-API-Key": "new-ke"}, 401),
        ({"X-API-Key": ""}, 401),
        ({"X-API-Key": "schlüssel"}, 401),
    ],
)
def test_a_key_is_demanded(
    keyed: FlaskClient, boot: bytes, headers: dict[str, str], status: int
) -> None:
    answer = keyed.post("/predict", data=boot, headers=headers)
    assert answer.status_code == status
    if status == 401:
        assert answer.json is not None
        assert answer.json["code"] == "unauthorized"
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert not any(key in answer.text for key in ("new-key", "old-key"))


def test_some_routes_stay_open(keyed: FlaskClient) -> None:
    assert keyed.get("/ping").status_code == 200
    with keyed.get("/static/pictures/bag.png") as answer:
        assert answer.status_code == 200
    assert keyed.get("/metrics").status_code == 401
    assert keyed.get("/nowhere").status_code == 401  # nobody learns what there is


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("abc-1.2_3", "abc-1.2_3"), ('a"b c{', "abc"), ("x" * 99, "x" * 64)],
)
def test_a_request_id_is_cleaned_and_returned(
    client: FlaskClient, sent: str, kept: str
) -> None:
    response = client.get("/ping", headers={"X-Request-ID": sent})
    assert response.headers["X-Request-ID"] == kept


def test_a_request_id_is_made(client: FlaskClient) -> None:
    first, second = (client.get("/ping").headers["X-Request-ID"] for _ in range(2))
    assert len(first) == 32
    assert first != second


def test_a_fault_of_the_service_is_a_problem_and_logged(
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


def test_decoding_takes_a_bounded_time(
    client: FlaskClient, boot: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "DECODE_SECONDS", 0)
    answer = client.post("/predict", data=boot)
    assert (answer.status_code, answer.get_json()["code"]) == (413, "too_large")
    assert "send fewer at a time" in answer.get_json()["detail"]
