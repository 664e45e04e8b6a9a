"""Metrics, log lines and the record of predictions."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from logging import ERROR, INFO
from pathlib import Path

import pytest
import requests
from conftest import GUNICORN, ROOT, START_SECONDS, Server, serve, wait_for_lines

from bench.service import children_of
from service import observe

LOGGED = {"time", "request_id", "version", "sha256", "bytes", "class", "code"}
LOGGED |= {"probability", "unknown_score"}  # of a picture, which these do not show
HASH = re.compile("[0-9a-f]{64}")


def metric(text: str, name: str) -> float:
    """Return the value of one metric; 0 if there is none."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


@pytest.fixture(scope="module")
def recording(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Server, Path]]:
    """Run a service and record its predictions, with no other requests to count."""
    folder = tmp_path_factory.mktemp("recording")
    environment = {
        "WEB_CONCURRENCY": "2",
        "FLASK_PREDICTION_LOG": str(folder / "record"),
        "FLASK_LOG_LEVEL": "warning",
        "TMPDIR": str(folder / "temporary"),
    }
    (folder / "temporary").mkdir()
    with serve(GUNICORN, folder / "log", **environment) as server:
        yield server, folder


def test_metrics_are_sums_over_workers(
    recording: tuple[Server, Path], pictures: dict[str, bytes]
) -> None:
    """Every request on a connection of its own, so that both workers get some."""
    server, folder = recording
    for _ in range(20):
        requests.post(f"{server.url}/predict", data=pictures["bag"], timeout=10)
    requests.post(f"{server.url}/predict", data=b"no picture", timeout=10)
    requests.get(f"{server.url}/nowhere", timeout=10)

    def recorded() -> list[str]:
        files = (folder / "record").glob("*.jsonl")
        return [line for file in files for line in file.read_text().splitlines()]

    lines = [json.loads(line) for line in wait_for_lines(recorded, 21)]
    answer = requests.get(f"{server.url}/metrics", timeout=10)
    assert answer.headers["Content-Type"].startswith("text/plain")
    version = lines[0]["version"]
    for name, value in {
        'classifier_requests_total{route="/predict",status="200"}': 20,
        'classifier_requests_total{route="none",status="404"}': 1,
        'classifier_pictures_total{class="Bag",model="fashion"}': 20,
        'classifier_refusals_total{code="unsupported_image",model="fashion"}': 1,
        'classifier_request_seconds_count{route="/predict"}': 21,
        'classifier_inference_seconds_count{model="fashion"}': 20,
        f'classifier_model_info{{name="fashion",version="{version}"}}': 1,
    }.items():
        assert metric(answer.text, name) == value
    assert [line["class"] for line in lines if "class" in line] == ["Bag"] * 20
    assert [line["code"] for line in lines if "code" in line] == ["unsupported_image"]
    log = (folder / "log").read_text().splitlines()
    logged = [json.loads(line) for line in log if line.startswith("{")]
    assert [line["status"] for line in logged] == [415, 404]  # the rest is no warning
    of_pictures = [*lines, *logged[0]["predictions"]]
    assert {name for line in of_pictures for name in line} <= LOGGED
    assert all(HASH.fullmatch(line["sha256"]) for line in of_pictures)


def test_counts_stay_when_a_worker_ends(recording: tuple[Server, Path]) -> None:
    server, _ = recording
    requests.get(f"{server.url}/nowhere", timeout=10)
    name = 'classifier_requests_total{route="none",status="404"}'
    before = metric(requests.get(f"{server.url}/metrics", timeout=10).text, name)
    assert before >= 1
    old = set(children_of(server.process.pid))
    server.process.send_signal(signal.SIGHUP)  # new workers take over
    end = time.monotonic() + START_SECONDS
    while not old.isdisjoint(children_of(server.process.pid)):
        assert time.monotonic() < end, "the old workers stay"
        time.sleep(0.05)
    after = requests.get(f"{server.url}/metrics", timeout=10).text
    assert metric(after, name) == before


def test_counting_needs_no_files(recording: tuple[Server, Path]) -> None:
    """So no full disk and no cleaner of temporary files can stop it."""
    _, folder = recording
    assert list((folder / "temporary").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "label"),
    [("ankle-boot.png", "Ankle boot"), ("photo-t-shirt.jpg", "T-shirt/top")],
)
def test_a_request_is_one_log_line(gunicorn: Server, name: str, label: str) -> None:
    """A photo waits for the inference thread, a small picture does not."""
    headers = {"X-Request-ID": f"find-{name}"}
    picture = (ROOT / "static" / "pictures" / name).read_bytes()
    requests.post(f"{gunicorn.url}/predict", data=picture, headers=headers, timeout=5)

    def found() -> list[str]:
        return [x for x in gunicorn.log.read_text().splitlines() if f"find-{name}" in x]

    wait_for_lines(found, 1)
    time.sleep(0.2)  # for one too many
    [text] = found()
    line = json.loads(text)
    assert line["level"] == "info"
    assert (line["method"], line["route"], line["status"]) == ("POST", "/predict", 200)
    assert line["milliseconds"] > 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", line["time"])
    assert {"request_id", "version"} <= set(line)
    (prediction,) = line["predictions"]
    assert prediction["class"] == label
    assert prediction["bytes"] == len(picture)
    assert HASH.fullmatch(prediction["sha256"])
    assert {"probability", "unknown_score"} <= set(prediction)


def test_log_levels_follow_the_status() -> None:
    assert observe.level_of(500, is_routine=True) == ERROR
    assert observe.level_of(200, is_routine=False) == INFO
    assert observe.level_of(200, is_routine=True) < INFO
    assert observe.level_of(404, is_routine=True) > INFO


def test_a_full_file_of_the_record_is_followed_by_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observe, "RECORD_BYTES", 1000)
    monkeypatch.setattr(observe, "RECORD_FILES", 3)
    record = observe.Record(tmp_path)
    for number in range(100):
        record.write({"number": number})
    record.close()
    files = list(tmp_path.iterdir())
    assert len(files) == 3
    assert all(file.stat().st_size <= 1000 for file in files)
    assert numbers(tmp_path)[-1] == 99


def numbers(folder: Path) -> list[int]:
    """Return the numbers that the lines of all files have, in order."""
    texts = [file.read_text() for file in folder.rglob("*.jsonl*")]
    return sorted(json.loads(x)["number"] for text in texts for x in text.splitlines())


def test_the_record_goes_on_when_files_are_moved_or_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "record"
    record = observe.Record(folder)
    for number in range(5):
        record.write({"number": number})
        if number == 0:
            record.path(1).rename(tmp_path / "moved.jsonl")
        elif number == 1:
            record.path(1).unlink()
        elif number == 2:
            shutil.move(folder, tmp_path / "all")
        elif number == 3:
            record.close()  # as on SIGUSR1
    record.close()
    assert numbers(tmp_path) == [0, 2, 3, 4]


FORKED = """
import os, sys
from pathlib import Path
from service import observe
for number in range(2000):
    if number % 400 == 0:
        record = observe.Record(Path(sys.argv[1]))
    record.write({"number": number})
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="process numbers of its own need root")
def test_two_containers_may_share_a_folder_of_the_record(tmp_path: Path) -> None:
    """Their processes have the same number on the same host."""
    inner = [sys.executable, "-c", FORKED, str(tmp_path)]
    command = ["unshare", "-p", "-f", *inner]
    both = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert numbers(tmp_path) == sorted([*range(2000)] * 2)
