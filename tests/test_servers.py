"""A real gunicorn and a real waitress, as people start and stop them."""

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fuzz
import pytest
import requests
from conftest import GUNICORN, ROOT, WAITRESS, Samples, Server, serve, soon
from test_artifact import pack
from test_images import png_header

from model import artifact
from model.classifier import Classifier


def test_ping(server: Server) -> None:
    assert requests.get(f"{server.url}/ping", timeout=5).text == "PONG"


def test_http_python_and_the_file_agree(
    server: Server, classifier: Classifier, samples: Samples
) -> None:
    body = {"pixels": samples.pixels.tolist()}
    answers = requests.post(f"{server.url}/predict", json=body, timeout=10).json()
    for answer, prediction in zip(
        answers["predictions"], classifier.classify(samples.pixels), strict=True
    ):
        given = answer.get("probabilities") or answer["error"]["nearest"]
        assert given == prediction.probabilities
        assert ("error" in answer) == prediction.is_unknown


def curl(url: str, option: str) -> dict[str, Any]:
    """Send a picture as the README does, with that option."""
    command = ["curl", "-s", option, "@static/pictures/ankle-boot.png", url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_curl_as_in_the_readme(server: Server) -> None:
    answer = curl(f"{server.url}/predict", "--data-binary")
    assert answer["class"] == "Ankle boot"


def test_a_slip_with_curl_is_explained(server: Server) -> None:
    answer = curl(f"{server.url}/predict", "-d")
    assert answer["code"] == "broken_image"
    assert "--data-binary" in answer["detail"]


BAD = [
    (b"", 400, "bad_request"),
    (b"text", 415, "unsupported_image"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 415, "unsupported_image"),
    (b"8BPS\0\1" + b"\0" * 100, 415, "unsupported_image"),
    (png_header(13_300, 13_300), 413, "too_large"),
    (b"\0" * 60_000_000, 413, "too_large"),
    (json.dumps({"images": ["AAAA"] * 10_000}).encode(), 413, "too_large"),
    (b'{"pixels": [[NaN]]}', 400, "bad_request"),
]


@pytest.mark.parametrize(("body", "status", "code"), BAD)
def test_bad_input_leaves_the_server_well(
    server: Server, boot: bytes, body: bytes, status: int, code: str
) -> None:
    response = requests.post(f"{server.url}/predict", data=body, timeout=10)
    assert (response.status_code, response.json()["code"]) == (status, code)
    good = requests.post(f"{server.url}/predict", data=boot, timeout=10)
    assert good.json()["class"] == "Ankle boot"


def test_broken_requests_leave_the_workers_well(tmp_path: Path) -> None:
    """The short form of `tests/fuzz.py`."""
    with serve(GUNICORN, tmp_path / "log", WEB_CONCURRENCY="2") as server:
        statuses = fuzz.run(server.url, server.process.pid, count=300, seed=2)
    assert {200, 400, 415} <= set(statuses) <= {200, 400, 413, 415, 422}


def test_a_chunked_body_over_the_limit_is_refused(server: Server, boot: bytes) -> None:
    chunks = (b"\0" * 1_000_000 for _ in range(34))
    body = itertools.chain([boot], chunks)
    response = requests.post(f"{server.url}/predict", data=body, timeout=10)
    assert (response.status_code, response.json()["code"]) == (413, "too_large")


def test_a_kept_connection_serves_many_requests(server: Server, boot: bytes) -> None:
    with requests.Session() as session:
        for pause in [0.0] * 20 + [0.1] * 3:
            time.sleep(pause)
            response = session.post(f"{server.url}/predict", data=boot, timeout=5)
            assert response.json()["class"] == "Ankle boot"


def test_pipelined_requests_are_answered_in_turn(gunicorn: Server) -> None:
    host, port = gunicorn.url.removeprefix("http://").split(":")
    request = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(request * 4 + last)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.count(b"PONG") == 5


def test_slow_senders_do_not_stop_others(gunicorn: Server, boot: bytes) -> None:
    host, port = gunicorn.url.removeprefix("http://").split(":")
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    slow = [socket.create_connection((host, int(port))) for _ in range(200)]
    try:
        for connection in slow:
            connection.sendall(head)
        response = requests.post(f"{gunicorn.url}/predict", data=boot, timeout=5)
        assert response.json()["class"] == "Ankle boot"
    finally:
        for connection in slow:
            connection.close()


def test_more_busy_connections_than_threads_share_them(
    tmp_path: Path, boot: bytes
) -> None:
    one_thread = [*GUNICORN[:-1], "--threads", "1", GUNICORN[-1]]
    with (
        serve(one_thread, tmp_path / "log", WEB_CONCURRENCY="1") as server,
        ThreadPoolExecutor(4) as clients,
    ):
        asked = [clients.submit(ask_often, server.url, boot) for _ in range(4)]
        slowest = max(max(each.result()) for each in asked)
    assert slowest < 1


def ask_often(url: str, boot: bytes) -> list[float]:
    """Ask back to back on one connection; return the seconds of each answer."""
    seconds = []
    with requests.Session() as session:
        for _ in range(300):
            started = time.perf_counter()
            session.post(f"{url}/predict", data=boot, timeout=30).raise_for_status()
            seconds.append(time.perf_counter() - started)
    return seconds


@pytest.mark.parametrize(
    ("name", "label"),
    [("ankle-boot.png", "Ankle boot"), ("photo-t-shirt.jpg", "T-shirt/top")],
)
def test_one_log_line_a_request(gunicorn: Server, name: str, label: str) -> None:
    """By the main thread, and by another, which it takes for the photo."""
    headers = {"X-Request-ID": f"find-{name}"}
    picture = (ROOT / "static" / "pictures" / name).read_bytes()
    requests.post(f"{gunicorn.url}/predict", data=picture, headers=headers, timeout=5)

    def found() -> list[str]:
        return [x for x in gunicorn.log.read_text().splitlines() if f"find-{name}" in x]

    soon(found, 1)
    time.sleep(0.2)  # for one too many
    lines = found()
    assert len(lines) == 1
    line = json.loads(lines[0])
    assert line["level"] == "info"
    assert (line["method"], line["route"], line["status"]) == ("POST", "/predict", 200)
    assert line["milliseconds"] > 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", line["time"])
    assert {"request_id", "version"} <= set(line)
    (prediction,) = line["predictions"]
    assert prediction["class"] == label
    assert prediction["bytes"] == len(picture)
    assert len(prediction["sha256"]) == 64
    assert {"probability", "unknown_score"} <= set(prediction)


def broken_models() -> dict[str, bytes | None]:
    whole = (ROOT / "model.bin").read_bytes()
    return {"missing": None, "truncated": whole[:-5000], "foreign": b"\x80\4K\1."}


def does_not_run(path: Path) -> None:
    """A file that is sound by its own version, with a graph that is none."""
    model = artifact.read(str(ROOT / "model.bin"))._replace(onnx=b"no graph")
    facts = model.facts | {"version": artifact.version(model)}
    entries = {artifact.ONNX_ENTRY: model.onnx}
    pack(path, entries | {artifact.JSON_ENTRY: json.dumps(facts).encode()})


@pytest.mark.parametrize("command", [GUNICORN, WAITRESS], ids=["gunicorn", "waitress"])
@pytest.mark.parametrize("fault", ["missing", "truncated", "foreign", "graph"])
def test_a_bad_model_stops_the_start_with_one_line(
    tmp_path: Path, command: list[str], fault: str
) -> None:
    path = tmp_path / "model.bin"
    if fault == "graph":
        does_not_run(path)
    elif (data := broken_models()[fault]) is not None:
        path.write_bytes(data)
    done = fail_to_start(command, FLASK_MODEL_URI=str(path))
    assert str(path) in done.stderr or fault == "graph"


@pytest.mark.parametrize("command", [GUNICORN, WAITRESS], ids=["gunicorn", "waitress"])
@pytest.mark.parametrize("name", ["FLASK_MODEL_URI", "FLASK_MAX_CONTENT_LENGTH"])
def test_an_empty_setting_stops_the_start_with_one_line(
    command: list[str], name: str
) -> None:
    assert name in fail_to_start(command, **{name: ""}).stderr


def test_no_workers_stop_the_start_with_one_line() -> None:
    assert "0 workers" in fail_to_start(GUNICORN, WEB_CONCURRENCY="0").stderr


def fail_to_start(
    command: list[str], **environment: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", *(part.replace("PORT", "0") for part in command)],
        cwd=ROOT,
        check=False,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=20,
    )
    own = [line for line in done.stderr.splitlines() if "[INFO]" not in line]
    assert done.returncode == 1
    assert len(own) == 1, done.stderr
    return done


def test_a_start_on_a_taken_port_leaves_nothing(
    gunicorn: Server, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gunicorn", "--bind", gunicorn.url[7:], "predict:app"],
        cwd=ROOT,
        check=False,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        timeout=30,
    )
    assert done.returncode == 1
    assert list(tmp_path.iterdir()) == []


def test_sighup_takes_a_new_model_and_refuses_a_bad_one(
    tmp_path: Path, boot: bytes
) -> None:
    path = tmp_path / "model.bin"
    old = (ROOT / "model.bin").read_bytes()
    path.write_bytes(old)
    model = artifact.read(str(path))
    newer = model._replace(facts=model.facts | {"name": "newer"})
    options = {"FLASK_MODEL_URI": str(path), "WEB_CONCURRENCY": "1"}
    with serve(GUNICORN, tmp_path / "log", **options) as server:
        artifact.write(path, {}, newer)
        assert name_after_reload(server, boot) == "newer"
        path.write_bytes(old[:1000])
        assert name_after_reload(server, boot) == "newer"
        does_not_run(path)
        assert name_after_reload(server, boot) == "newer"
        assert server.log.read_text().count("the old model stays") == 2


def name_after_reload(server: Server, boot: bytes) -> str:
    """Send SIGHUP, wait for the new worker to take over, and ask it."""
    starts = server.log.read_text().count("Booting worker")
    exits = server.log.read_text().count("Worker exiting")
    server.process.send_signal(signal.SIGHUP)
    for _ in range(200):
        log = server.log.read_text()
        if log.count("Booting worker") > starts and log.count("Worker exiting") > exits:
            break
        time.sleep(0.05)
    answer = requests.post(f"{server.url}/predict", data=boot, timeout=5).json()
    return str(answer["model"]["name"])


def test_python_predict_py_serves_and_stops(boot: bytes) -> None:
    if port_is_taken(9696):
        pytest.skip("port 9696 is in use")
    process = subprocess.Popen(
        [sys.executable, "predict.py"], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    try:
        for _ in range(100):
            if port_is_taken(9696):
                break
            time.sleep(0.1)
        answer = requests.post("http://localhost:9696/predict", data=boot, timeout=5)
        assert answer.json()["class"] == "Ankle boot"
        with socket.create_connection(("127.0.0.1", 9696)) as silent:
            silent.sendall(b"POST /predict HTTP/1.1\r\nContent-Length: 9\r\n\r\n")
            silent.settimeout(20)
            assert silent.recv(1) == b""  # cut off
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


def test_serving_needs_no_module_of_unix() -> None:
    missing = ["fcntl", "resource", "pwd", "grp", "termios", "syslog", "gunicorn"]
    code = f"import sys; sys.modules |= dict.fromkeys({missing}); import predict"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def port_is_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
