"""A real gunicorn and a real waitress: how they start, serve, reload and stop."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import fuzz
import pytest
import requests
from conftest import (
    GUNICORN,
    PING,
    ROOT,
    WAITRESS,
    Samples,
    Server,
    connect,
    free_port,
    post,
    read_one,
    running,
    serve,
    wait_until_accepted,
)
from test_artifact import pack
from test_images import png_header

from bench.service import children_of
from model import artifact
from model.classifier import Classifier
from service import settings


def test_ping(server: Server) -> None:
    answer = requests.get(f"{server.url}/ping", timeout=5)
    assert answer.text == "PONG"
    assert answer.headers["Content-Type"].startswith("text/plain")


def test_answers_are_the_classifiers(
    server: Server, classifier: Classifier, samples: Samples
) -> None:
    body = {"pixels": samples.pixels.tolist()}
    answers = requests.post(f"{server.url}/predict", json=body, timeout=10).json()
    for answer, prediction in zip(
        answers["predictions"], classifier.classify(samples.pixels), strict=True
    ):
        answered = answer.get("probabilities") or answer["error"]["nearest"]
        assert answered == prediction.probabilities
        assert ("error" in answer) == prediction.is_unknown
        assert prediction.is_unknown or answer["class"] == prediction.label


def test_a_wrong_option_of_curl_is_explained(server: Server) -> None:
    command = ["curl", "-s", "-d", "@static/pictures/ankle-boot.png"]
    done = subprocess.run(
        [*command, f"{server.url}/predict"], cwd=ROOT, capture_output=True, check=True
    )
    answer = json.loads(done.stdout)
    assert answer["code"] == "broken_image"
    assert "--data-binary" in answer["detail"]


BAD = [
    (b"", 400, "bad_request"),
    (b"text", 415, "unsupported_image"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 415, "unsupported_image"),
    (png_header(13_300, 13_300), 413, "too_large"),
    pytest.param(bytes(60_000_000), 413, "too_large", id="60 MB"),
]


@pytest.mark.parametrize(("body", "status", "code"), BAD)
def test_the_server_survives_bad_bodies(
    server: Server, boot: bytes, body: bytes, status: int, code: str
) -> None:
    response = requests.post(f"{server.url}/predict", data=body, timeout=10)
    assert (response.status_code, response.json()["code"]) == (status, code)
    good = requests.post(f"{server.url}/predict", data=boot, timeout=10)
    assert good.json()["class"] == "Ankle boot"


def test_the_workers_survive_malformed_requests(gunicorn: Server) -> None:
    """The short form of `tests/fuzz.py`."""
    statuses = fuzz.run(gunicorn.url, gunicorn.process.pid, count=600, seed=2)
    assert {200, 400, 415} <= set(statuses) <= {200, 400, 413, 415, 422}


def test_a_chunked_body_over_the_limit_is_refused(server: Server, boot: bytes) -> None:
    chunks = (b"\0" * 1_000_000 for _ in range(34))
    body = itertools.chain([boot], chunks)
    response = requests.post(f"{server.url}/predict", data=body, timeout=10)
    assert (response.status_code, response.json()["code"]) == (413, "too_large")


def write_failing_model(path: Path) -> None:
    """Write a file that is valid by its own version, with a graph that is none."""
    model = artifact.read(str(ROOT / "model.bin"))._replace(onnx=b"no graph")
    facts = model.facts | {"version": artifact.version(model)}
    entries = {artifact.ONNX_ENTRY: model.onnx}
    pack(path, entries | {artifact.JSON_ENTRY: json.dumps(facts).encode()})


@pytest.mark.parametrize(
    ("command", "fault"),
    [(GUNICORN, "missing"), (GUNICORN, "graph"), (WAITRESS, "truncated")],
    ids=["gunicorn, missing", "gunicorn, graph", "waitress, truncated"],
)
def test_a_bad_model_stops_the_start_with_one_line(
    tmp_path: Path, command: list[str], fault: str
) -> None:
    path = tmp_path / "model.bin"
    if fault == "graph":
        write_failing_model(path)
    elif fault == "truncated":
        path.write_bytes((ROOT / "model.bin").read_bytes()[:-5000])
    done = fail_to_start(command, FLASK_MODEL_URI=str(path))
    assert str(path) in done.stderr or fault == "graph"


@pytest.mark.parametrize("command", [GUNICORN, WAITRESS], ids=["gunicorn", "waitress"])
def test_an_empty_setting_stops_the_start_with_one_line(command: list[str]) -> None:
    name = "FLASK_MAX_CONTENT_LENGTH"
    assert name in fail_to_start(command, **{name: ""}).stderr


def test_no_workers_stop_the_start_with_one_line() -> None:
    assert "0 workers" in fail_to_start(GUNICORN, WEB_CONCURRENCY="0").stderr


def test_a_port_that_is_none_stops_the_start_with_one_line() -> None:
    command = ["gunicorn", "predict:app"]
    assert "99999 is not a port" in fail_to_start(command, PORT="99999").stderr


@pytest.mark.skipif(len(settings.addresses("0")[0]) > 6, reason="no IPv6")
def test_port_is_reached_by_ipv4_and_ipv6(tmp_path: Path) -> None:
    command, port = [sys.executable, "-m", "gunicorn", "predict:app"], free_port()
    with running(command, port, tmp_path / "log", {"PORT": str(port)}):
        for host in ("127.0.0.1", "[::1]"):
            assert requests.get(f"http://{host}:{port}/ping", timeout=5).ok


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--keyfile=README.md", "--certfile=README.md"], "HTTPS is the work"),
        (["--preload"], "each worker builds its own network"),
    ],
)
def test_unsupported_options_stop_the_start_with_one_line(
    options: list[str], fault: str
) -> None:
    assert fault in fail_to_start([*GUNICORN, *options]).stderr


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


def test_sighup_loads_a_new_model_and_refuses_a_bad_one(
    tmp_path: Path, boot: bytes
) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes((ROOT / "model.bin").read_bytes())
    model = artifact.read(str(path))
    newer = model._replace(facts=model.facts | {"name": "newer"})
    options = {"FLASK_MODEL_URI": str(path), "WEB_CONCURRENCY": "1"}
    with serve(GUNICORN, tmp_path / "log", **options) as server:
        artifact.write(path, {}, newer)
        assert name_after_reload(server, boot) == "newer"
        write_failing_model(path)
        assert name_after_reload(server, boot) == "newer"
        assert server.log.read_text().count("the old model stays") == 1


def name_after_reload(server: Server, boot: bytes) -> str:
    """Send SIGHUP; return the name of the model that the new worker serves."""
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


def test_sigterm_answers_accepted_requests_and_ends(
    tmp_path: Path, boot: bytes
) -> None:
    request, half = post("/predict", boot), len(boot) // 2
    with (
        serve(GUNICORN, tmp_path / "log", WEB_CONCURRENCY="2") as server,
        ExitStack() as stack,
    ):
        kept = [stack.enter_context(connect(server)) for _ in range(40)]
        for connection in kept:
            connection.sendall(PING)
            assert "connection" not in read_one(connection).headers
        idle, last, senders = kept[:20], kept[20], kept[21:]
        senders += [stack.enter_context(connect(server)) for _ in range(20)]
        for sender in senders:
            sender.sendall(request[:-half])
        wait_until_accepted(server)
        time.sleep(0.1)
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        last.sendall(PING)
        for sender in senders:
            sender.sendall(request[-half:])
        answers = [read_one(connection) for connection in [last, *senders]]
        assert server.process.wait(10) == 0
        assert time.monotonic() - started < 3  # 2 if the machine is not busy
        assert [connection.recv(1) for connection in idle] == [b""] * 20
    assert {answer.status for answer in answers} == {200}
    assert {answer.headers["connection"] for answer in answers} == {"close"}


def test_max_requests_replaces_the_worker_and_loses_no_request(
    tmp_path: Path, boot: bytes
) -> None:
    command = [*GUNICORN, "--max-requests=20"]
    with (
        serve(command, tmp_path / "log", WEB_CONCURRENCY="1") as server,
        ExitStack() as stack,
    ):
        for _ in range(5):
            idle = stack.enter_context(connect(server))
            idle.sendall(PING)
            assert read_one(idle).status == 200
        old = children_of(server.process.pid)
        started = time.monotonic()
        for _ in range(30):
            answer = requests.post(f"{server.url}/predict", data=boot, timeout=5)
            assert answer.status_code == 200
        while set(old) & set(children_of(server.process.pid)):
            assert time.monotonic() - started < 4
            time.sleep(0.05)


def test_predict_py_serves_and_stops(boot: bytes) -> None:
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
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


def test_predict_py_answers_each_file_that_can_be_read() -> None:
    files = ["static/pictures/ankle-boot.png", "missing.png"]
    command = [sys.executable, "predict.py", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    boot, missing = json.loads(done.stdout)["predictions"]
    assert (done.returncode, boot["class"]) == (1, "Ankle boot")
    assert missing["error"]["detail"] == "missing.png: No such file or directory"


def test_serving_needs_no_module_of_unix() -> None:
    missing = ["fcntl", "resource", "pwd", "grp", "termios", "syslog", "gunicorn"]
    code = f"import sys; sys.modules |= dict.fromkeys({missing}); import predict"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def port_is_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
