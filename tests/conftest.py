"""What the tests share: pictures, real servers on loopback, and requests to them."""

import base64
import io
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import requests
from flask.testing import FlaskClient
from numpy.typing import NDArray
from PIL import Image

import predict
from model import artifact
from model.classifier import Classifier
from model.preprocessing import Garment

Connection = socket.socket
Encode = Callable[..., bytes]

to_pixels = Garment(size=28).to_pixels  # as the committed model's facts

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 20  # for a server to answer its first /ping
PING = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"

# A shell's background job ignores Ctrl-C, and so would each process begun here.
signal.signal(signal.SIGINT, signal.default_int_handler)


class Samples(NamedTuple):
    """A hundred Fashion-MNIST test pictures, ten a class (MIT, Zalando SE)."""

    pixels: NDArray[np.uint8]  # [100, 28, 28]
    labels: NDArray[np.uint8]  # [100]


class Server(NamedTuple):
    """A running service."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path  # what it printed

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)


class Answer(NamedTuple):
    """An answer, read from a socket."""

    status: int
    headers: dict[str, str]  # in lower case
    body: bytes


@pytest.fixture(scope="session")
def samples() -> Samples:
    with np.load(ROOT / "tests" / "pictures.npz") as file:
        return Samples(file["pixels"], file["labels"])


@pytest.fixture(scope="session")
def boot() -> bytes:
    return (ROOT / "static" / "pictures" / "ankle-boot.png").read_bytes()


@pytest.fixture(scope="session")
def cat() -> bytes:
    """A picture that is none of the classes."""
    return (ROOT / "static" / "pictures" / "cat.gif").read_bytes()


@pytest.fixture(scope="session")
def classifier() -> Classifier:
    return Classifier(artifact.load(str(ROOT / "model.bin")))


def torchvision_root(
    folder: Path, samples: Samples, name: str = "FashionMNIST", duplicates: int = 0
) -> Path:
    """Lay out a torchvision root with the sample pictures as training and test set.

    A corner of the training pictures differs, but for the first `duplicates`.
    """
    raw = folder / "data" / name / "raw"
    raw.mkdir(parents=True)
    header = struct.pack(">iiii", 0x803, len(samples.pixels), 28, 28)
    labels = struct.pack(">ii", 0x801, len(samples.labels)) + samples.labels.tobytes()
    train = samples.pixels.copy()
    train[duplicates:, 0, 0] ^= 1
    for part, pixels in (("train", train), ("t10k", samples.pixels)):
        pictures = raw / f"{part}-images-idx3-ubyte"
        pictures.write_bytes(header + pixels.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    return folder / "data"


@pytest.fixture
def client() -> FlaskClient:
    return predict.app.test_client()


@contextmanager
def serve(command: list[str], log: Path, **environment: str) -> Iterator[Server]:
    """Run a server from the project's root until the block ends."""
    port = free_port()
    command = [part.replace("PORT", str(port)) for part in command]
    with running([sys.executable, "-m", *command], port, log, environment) as server:
        yield server


@contextmanager
def running(
    command: list[str], port: int, log: Path, environment: dict[str, str]
) -> Iterator[Server]:
    """Run a command that serves on `port` until the block ends."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(url, process, log)
        yield Server(url, process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            requests.get(f"{url}/ping", timeout=1).raise_for_status()
        except requests.RequestException:
            time.sleep(0.05)
        else:
            return
    pytest.fail(f"no answer from {url}:\n{log.read_text()}")


GUNICORN = ["gunicorn", "--bind", "127.0.0.1:PORT", "predict:app"]
WAITRESS = ["waitress", "--listen=127.0.0.1:PORT", "predict:app"]


@contextmanager
def connect(server: Server) -> Iterator[Connection]:
    with closing(socket.create_connection(server.address, timeout=30)) as connection:
        yield connection


def head(path: str, size: int, fields: str = "") -> bytes:
    """Return the head of a POST request with a body of `size` bytes."""
    lines = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n{fields}"
    return f"{lines}\r\n".encode()


def post(path: str, body: bytes, fields: str = "") -> bytes:
    return head(path, len(body), fields) + body


def form(*files: bytes, names: str = "image") -> tuple[bytes, str]:
    """Return body and Content-Type of a form; its files take turns with the names."""
    fields = names.split() * len(files)
    parts = [(name, ("x.png", file)) for name, file in zip(fields, files, strict=False)]
    request = requests.Request("POST", "http://x", files=parts).prepare()
    assert isinstance(request.body, bytes)
    return request.body, request.headers["Content-Type"]


def to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def read_all(connection: Connection) -> bytes:
    """Read until the other side closes."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def read_one(connection: Connection) -> Answer:
    """Read one answer, and nothing after it."""
    received = b""
    while not received.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        assert byte, received
        received += byte
    first, *lines = received.decode().rstrip().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    size, body = int(headers.get("content-length", 0)), b""
    while len(body) < size:
        body += connection.recv(size - len(body))
    return Answer(int(first.split()[1]), headers, body)


def wait_until_accepted(server: Server) -> None:
    """Return when the kernel holds no connection that no worker has accepted yet."""
    port = f":{server.address[1]:04X}"
    for _ in range(1000):
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
        queues = [row[4] for row in rows if row[1].endswith(port) and row[3] == "0A"]
        if all(queue.endswith(":00000000") for queue in queues):
            return
        time.sleep(0.01)
    pytest.fail("not all connections were accepted")


def wait_for_lines(read: Callable[[], list[str]], count: int) -> list[str]:
    """Read until there are so many lines, 5 s at most: they follow the answer."""
    for _ in range(100):
        if len(read()) >= count:
            break
        time.sleep(0.05)
    return read()


@pytest.fixture(scope="session")
def gunicorn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("gunicorn") / "log"
    with serve(GUNICORN, log, WEB_CONCURRENCY="2") as server:
        yield server


@pytest.fixture(scope="session")
def waitress(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run waitress as `python predict.py` does."""
    options = [f"--{k.replace('_', '-')}={v}" for k, v in predict.WAITRESS.items()]
    command = [WAITRESS[0], *options, *WAITRESS[1:]]
    with serve(command, tmp_path_factory.mktemp("waitress") / "log") as server:
        yield server


@pytest.fixture(scope="session", params=["gunicorn", "waitress"])
def server(request: pytest.FixtureRequest) -> Server:
    """Return each real server in turn."""
    server: Server = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def encode() -> Encode:
    """Encode an array or a Pillow image in a format."""

    def encode(
        image: Image.Image | NDArray[np.generic], name: str = "PNG", **options: Any
    ) -> bytes:
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image)
        buffer = io.BytesIO()
        image.save(buffer, name, **options)
        return buffer.getvalue()

    return encode


@pytest.fixture(scope="session")
def pictures() -> dict[str, bytes]:
    """The sample pictures by name; the name is the class."""
    folder = ROOT / "static" / "pictures"
    return {path.stem: path.read_bytes() for path in sorted(folder.glob("*.png"))}
