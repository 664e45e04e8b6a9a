"""The image, built and run: its files, start, answers and stop.

    .ci/image build
    FASHION_IMAGE=1 pytest --log-cli-level INFO tests/test_container.py

The first needs root and Debian. Without it only .dockerignore is tested.
"""

import hashlib
import json
import logging
import os
import re
import shlex
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

import pytest
import requests
from conftest import ROOT, Encode, Samples, Server, free_port, running
from PIL import Image

import predict
from model import artifact

IMAGE = str(ROOT / ".ci" / "image")
BESIDES = {"model.bin", "static", "templates"}
FOR_THE_BUILD = {"Pipfile", "Pipfile.lock"}

MAX_MEGABYTES = 300  # above the base
STARTS = 3  # of which the fastest counts: other processes only delay them
MAX_START_SECONDS = 3  # to the first answer
GRACE_SECONDS = 10  # that Docker waits between SIGTERM and SIGKILL
MIN_ACCURACY = 0.88  # on the hundred labelled pictures
MAX_MEDIAN_SECONDS = 0.01  # of a request with one of them


def test_the_image_has_what_serving_imports_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    included = {line[1:] for line in lines if line.startswith("!")}
    assert included == served() | FOR_THE_BUILD


def served() -> set[str]:
    """Return what serving reads at the root: scripts and packages, and the rest."""
    finder, entries = ModuleFinder([str(ROOT)]), {"gunicorn.conf.py", "predict.py"}
    for entry in entries:
        finder.run_script(str(ROOT / entry))
    names = {module.partition(".")[0] for module in finder.modules}
    scripts = {f"{name}.py" for name in names if (ROOT / f"{name}.py").exists()}
    packages = {name for name in names if (ROOT / name / "__init__.py").exists()}
    return scripts | packages | entries | BESIDES


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    """Return the configuration of the image; skip if there is none to test."""
    if "FASHION_IMAGE" not in os.environ:
        pytest.skip("FASHION_IMAGE is not set: no image is tested")
    done = subprocess.run([IMAGE, "inspect"], capture_output=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)["Docker"]["config"]
    return found


@pytest.fixture(scope="module")
def container(
    config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Run a container with a model at a URI, and its SHA-256."""
    folder = tmp_path_factory.mktemp("store")
    shipped = artifact.read(str(ROOT / "model.bin"))
    renamed = shipped._replace(facts=shipped.facts | {"name": "stored"})
    artifact.write(folder / "model.bin", {}, renamed)
    digest = hashlib.sha256((folder / "model.bin").read_bytes()).hexdigest()
    with store(folder) as url:
        settings = {"FLASK_MODEL_URI": f"{url}/model.bin", "FLASK_MODEL_SHA256": digest}
        with run(folder / "log", **settings) as server:
            yield server


@contextmanager
def store(folder: Path) -> Iterator[str]:
    """Serve the files of a folder on the loopback address."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@contextmanager
def run(log: Path, **environment: str) -> Iterator[Server]:
    """Run a container on a free port until the block ends."""
    port = free_port()
    command = [str(IMAGE), "run", *options(PORT=str(port), **environment)]
    with running(command, port, log, {}) as server:
        yield server


def port_of(server: Server) -> str:
    return server.url.split(":")[-1]


def options(**environment: str) -> list[str]:
    return [x for pair in environment.items() for x in ("-e", "=".join(pair))]


def sh(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command in another container, on the same network."""
    command_line = [IMAGE, "sh", *options(**environment), command]
    return subprocess.run(command_line, capture_output=True, text=True, check=False)


def test_the_first_answer_comes_within_seconds(
    config: dict[str, Any], tmp_path: Path, boot: bytes
) -> None:
    seconds = []
    for _ in range(STARTS):
        started = time.perf_counter()
        with run(tmp_path / "log") as server:
            requests.post(f"{server.url}/predict", data=boot, timeout=5)
            seconds.append(time.perf_counter() - started)
    logging.info("first answer after %.2f s", min(seconds))
    assert min(seconds) < MAX_START_SECONDS


def test_the_model_at_the_uri_is_served(container: Server) -> None:
    about = requests.get(f"{container.url}/v2/models/stored", timeout=5)
    assert about.json()["name"] == "stored"


PIXELS = [[0] * 28] * 28
TENSOR = {"name": "pixels", "shape": [1, 28, 28], "datatype": "UINT8", "data": [PIXELS]}
CALLS: list[tuple[str, dict[str, Any] | None]] = [
    ("/", None),
    ("/static/page.js", None),
    ("/ping", None),
    ("/metrics", None),
    ("/docs", None),
    ("/docs/js/swagger-ui-bundle.js", None),
    ("/openapi.json", None),
    ("/v2", None),
    ("/v2/health/live", None),
    ("/v2/health/ready", None),
    ("/v2/models/stored", None),
    ("/v2/models/stored/ready", None),
    ("/v2/models/stored/infer", {"inputs": [TENSOR]}),
    ("/predict?explain=true", {"pixels": [PIXELS]}),
    ("/api/v1.0/predictions", {"data": {"ndarray": [PIXELS]}}),
]


def test_every_route_answers(container: Server) -> None:
    endpoints = set()
    routes = predict.app.url_map.bind("127.0.0.1")
    for path, body in CALLS:
        method = "POST" if body else "GET"
        url = container.url + path
        requests.request(method, url, json=body, timeout=5).raise_for_status()
        endpoints.add(routes.match(path.partition("?")[0], method)[0])
    assert endpoints == {rule.endpoint for rule in predict.app.url_map.iter_rules()}


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_format_is_read(container: Server, encode: Encode, name: str) -> None:
    photo = Image.open(ROOT / "static" / "pictures" / "photo-t-shirt.jpg")
    picture = encode(photo.convert("RGB"), name)
    answer = requests.post(f"{container.url}/predict", data=picture, timeout=5)
    assert answer.json()["class"] == "T-shirt/top"


def test_accuracy_and_latency_on_labelled_pictures(
    container: Server, samples: Samples, encode: Encode
) -> None:
    right, seconds = 0, []
    with requests.Session() as session:
        for pixels, label in zip(samples.pixels, samples.labels, strict=True):
            url, picture = f"{container.url}/predict", encode(pixels)
            started = time.perf_counter()
            answer = session.post(url, data=picture, timeout=5).json()
            seconds.append(time.perf_counter() - started)
            right += answer.get("class_id") == label
    accuracy, median = right / len(samples.labels), statistics.median(seconds)
    logging.info("accuracy %.2f, median %.1f ms", accuracy, median * 1000)
    assert accuracy >= MIN_ACCURACY
    assert median < MAX_MEDIAN_SECONDS


def test_every_sample_picture_gets_its_class(
    container: Server, pictures: dict[str, bytes]
) -> None:
    for name, picture in pictures.items():
        url = f"{container.url}/predict"
        label = requests.post(url, data=picture, timeout=5).json()["class"]
        assert re.sub(r"\W", "-", label).lower() == name


def test_the_health_check_reports_a_stopped_service(
    config: dict[str, Any], container: Server
) -> None:
    kind, *command = config["Healthcheck"]["Test"]
    assert kind == "CMD"
    assert sh(shlex.join(command), PORT=port_of(container)).returncode == 0
    assert sh(shlex.join(command), PORT=str(free_port())).returncode == 1


def test_a_stalled_client_does_not_delay_the_stop(
    config: dict[str, Any], tmp_path: Path
) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    with run(tmp_path / "log") as server:
        address = "127.0.0.1", int(port_of(server))
        with socket.create_connection(address) as stalled:
            stalled.sendall(head)
            time.sleep(0.2)
            server.process.terminate()
            assert server.process.wait(GRACE_SECONDS) == 0


def test_the_service_is_not_root_and_can_write_to_tmp_only(
    config: dict[str, Any],
) -> None:
    # Kubernetes needs a number to know that it is not root
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", config["User"])
    assert sh("id -u; id -g").stdout.split() == config["User"].split(":")
    assert sh("find / -xdev -writable -not -type l").stdout == "/tmp\n"  # noqa: S108


def test_the_image_has_no_files_that_serving_does_not_need(
    config: dict[str, Any],
) -> None:
    assert set(sh("ls").stdout.split()) == served() | {"__pycache__"}
    assert sh("ls /opt").stdout == "venv\n"
    packages = sh("ls -d /opt/venv/lib/python3*/site-packages/*").stdout
    assert "onnxruntime" in packages
    assert not re.search(r"/(torch|pip|pipenv|pytest)\b", packages)
    assert sh("find /opt/venv -name tests").stdout == ""
    assert sh("command -v gcc make pipenv pytest").stdout == ""


def test_the_image_is_small(config: dict[str, Any]) -> None:
    done = subprocess.run([IMAGE, "size"], capture_output=True, text=True, check=True)
    base, image = (float(size) for size in re.findall(r"([\d.]+) MB", done.stdout))
    logging.info("%.0f MB above the base", image - base)
    assert image - base <= MAX_MEGABYTES
