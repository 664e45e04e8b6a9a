"""The keeper's view: metrics, log lines and the record of predictions."""

import json
import re
import signal
import threading
import time
from collections.abc import Iterator
from logging import ERROR, INFO
from pathlib import Path

import pytest
import requests
from conftest import GUNICORN, START_SECONDS, Server, serve, soon
from flask.testing import FlaskClient

import predict
from bench.service import children_of
from service import observe

KEPT = {"time", "request_id", "version", "sha256", "bytes", "class", "code"}
KEPT |= {"probability", "unknown_score"}  # of a picture, and nothing to see it by
HASH = re.compile("[0-9a-f]{64}")


def figure(text: str, name: str) -> float:
    """Read one figure of a page of metrics."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """Run a service of its own, so that nothing else is counted."""
    folder = tmp_path_factory.mktemp("watched")
    environment = {
        "WEB_CONCURRENCY": "2",
        "FLASK_PREDICTION_LOG": str(folder / "record"),
        "FLASK_LOG_LEVEL": "warning",
    }
    with serve(GUNICORN, folder / "log", **environment) as server:
        yield server, folder


def test_figures_add_up_over_workers(
    watched: tuple[Server, Path], pictures: dict[str, bytes]
) -> None:
    """Every request on a connection of its own, so that both workers get some."""
    server, folder = watched
    for _ in range(20):
        requests.post(f"{server.url}/predict", data=pictures["bag"], timeout=10)
    requests.post(f"{server.url}/predict", data=b"no picture", timeout=10)
    requests.get(f"{server.url}/nowhere", timeout=10)

    def recorded() -> list[str]:
        files = (folder / "record").glob("*.jsonl")
        return [line for file in files for line in file.read_text().splitlines()]

    soon(recorded, 21)
    answer = requests.get(f"{server.url}/metrics", timeout=10)
    assert answer.headers["Content-Type"].startswith("text/plain")
    text = answer.text
    right = 'classifier_requests_total{route="/predict",status="200"}'
    assert figure(text, right) == 20
    assert figure(text, 'classifier_requests_total{route="none",status="404"}') == 1
    assert figure(text, 'classifier_pictures_total{class="Bag"}') == 20
    assert figure(text, 'classifier_refusals_total{code="unsupported_image"}') == 1
    assert figure(text, 'classifier_request_seconds_count{route="/predict"}') == 21
    assert figure(text, "classifier_inference_seconds_count") == 20
    version = requests.post(
        f"{server.url}/predict", data=pictures["bag"], timeout=10
    ).json()["model"]["version"]
    info = f'classifier_model_info{{name="fashion",version="{version}"}}'
    assert figure(text, info) == 1

    lines = [json.loads(line) for line in soon(recorded, 22)]
    assert [line["class"] for line in lines if "class" in line] == ["Bag"] * 21
    assert [line["code"] for line in lines if "code" in line] == ["unsupported_image"]
    logged = [
        json.loads(line)
        for line in (folder / "log").read_text().splitlines()
        if line.startswith("{")
    ]
    assert [line["status"] for line in logged] == [415, 404]  # the rest is no warning
    of_pictures = [*lines, *logged[0]["predictions"]]
    assert {name for line in of_pictures for name in line} <= KEPT
    assert all(HASH.fullmatch(line["sha256"]) for line in of_pictures)


def test_counts_outlive_a_worker(watched: tuple[Server, Path]) -> None:
    server, _ = watched
    requests.get(f"{server.url}/nowhere", timeout=10)
    name = 'classifier_requests_total{route="none",status="404"}'
    before = figure(requests.get(f"{server.url}/metrics", timeout=10).text, name)
    assert before >= 1
    old = set(children_of(server.process.pid))
    server.process.send_signal(signal.SIGHUP)  # new workers take over
    end = time.monotonic() + START_SECONDS
    while not old.isdisjoint(children_of(server.process.pid)):
        assert time.monotonic() < end, "the old workers stay"
        time.sleep(0.05)
    after = requests.get(f"{server.url}/metrics", timeout=10).text
    assert figure(after, name) == before


def test_a_worker_that_starts_does_not_break_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file of figures is empty for a moment."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    file = tmp_path / "counter_1.db"
    file.touch()
    filler = threading.Timer(0.05, file.write_bytes, [bytes(64)])
    filler.start()
    assert observe.exposition()[0] == b""
    filler.join()


def test_levels() -> None:
    assert observe.level_of(500, is_routine=True) == ERROR
    assert observe.level_of(200, is_routine=False) == INFO
    assert (
        observe.level_of(200, is_routine=True)
        < INFO
        < observe.level_of(404, is_routine=True)
    )


def test_a_record_goes_on_in_a_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observe, "RECORD_BYTES", 1000)
    monkeypatch.setattr(observe, "RECORD_FILES", 3)
    record = observe.Record(tmp_path)
    for number in range(100):
        record.write({"number": number})
    files = sorted(tmp_path.iterdir(), key=lambda file: file.stat().st_mtime_ns)
    record.close()
    assert len(files) == 3
    assert all(file.stat().st_size <= 1000 for file in files)
    newest = [json.loads(line) for line in files[-1].read_text().splitlines()]
    assert newest[-1]["number"] == 99


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
