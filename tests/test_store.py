"""A file from a real server arrives whole, or the failure is one clear line."""

import hashlib
import logging
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import pytest
import requests
from conftest import GUNICORN, ROOT, WAITRESS, serve
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import DTPHandler, FTPHandler
from pyftpdlib.servers import FTPServer
from test_artifact import VERSION, run
from test_servers import fail_to_start, name_after_reload, write_failing_model

from model import artifact, store

DATA = (ROOT / "model.bin").read_bytes()
HALF = len(DATA) // 2


class Handler(BaseHTTPRequestHandler):
    """Serves one file (RFC 9110), or does what `faults` has for this request."""

    server: "HTTPStore"

    def do_GET(self) -> None:
        self.server.requests.append(dict(self.headers))
        faults = self.server.faults
        (faults.pop(0) if faults else Handler.serve)(self)

    def serve(self, size: int | None = None, **headers: str) -> None:
        """Send the file, or its first `size` bytes only, unless its tag is known."""
        data, tag = self.server.data, self.server.tag
        if tag and self.headers["If-None-Match"] == tag:
            self.head(304)
            return
        tags = {"ETag": tag} if tag else {}
        self.head(200, **{"Content-Length": str(len(data))} | tags | headers)
        self.wfile.write(data[:size])

    def head(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


Fault = Callable[[Handler], None]


class HTTPStore(ThreadingHTTPServer):
    """A server on loopback with one file and a list of faults."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/model.bin"
        self.data = DATA
        self.tag = '"1"'
        self.faults: list[Fault] = []
        self.requests: list[dict[str, str]] = []  # the headers of each request

    def handle_error(self, *_: object) -> None:
        """Ignore clients that disconnect."""


def cut(size: int, **headers: str) -> Fault:
    return lambda handler: handler.serve(size, **headers)


def answer(status: int, **headers: str) -> Fault:
    return lambda handler: handler.head(status, **headers)


def silence(seconds: float) -> Fault:
    return lambda _: time.sleep(seconds)


def drip(handler: Handler) -> None:
    """Send a byte of the body now and then, for 20 seconds at most."""
    handler.head(200)
    for _ in range(400):
        handler.wfile.write(b"x")
        time.sleep(0.05)


def drip_head(handler: Handler) -> None:
    """Send a byte of the head now and then, for 20 seconds at most."""
    for _ in range(400):
        handler.wfile.write(b"x")
        time.sleep(0.05)


@pytest.fixture
def web() -> Iterator[HTTPStore]:
    with HTTPStore() as server, served(server):
        yield server


@contextmanager
def served(server: HTTPStore) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(store, "READ_SECONDS", 0.3)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds between tries, which are not waited for."""
    seconds: list[float] = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


def download(uri: str, known_tag: str | None = None) -> bytes:
    return store.read(uri, known_tag)[0]


def fault_of(uri: str) -> str:
    with pytest.raises(store.StoreError) as error:
        download(uri)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_a_path_and_a_file_uri_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a model.bin"
    assert fault_of(str(path)).startswith(f"{path} cannot be read: ")
    path.write_bytes(b"model")
    assert download(str(path)) == download(path.as_uri()) == b"model"


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (answer(408), "the store answers 408"),
        (answer(429), "the store answers 429"),
        (answer(500), "the store answers 500"),
        (answer(503), "the store answers 503"),
        (cut(HALF), "IncompleteRead"),
        (cut(0, **{"Content-Length": "9"}), "IncompleteRead"),
        (silence(0.5), "TimeoutError"),
    ],
    ids=["408", "429", "500", "503", "cut", "empty", "silence"],
)
def test_a_failure_that_may_pass_is_retried_four_times(
    web: HTTPStore, fault: Fault, text: str
) -> None:
    web.faults = [fault] * 4
    assert download(web.url) == DATA
    web.faults = [fault] * 9
    assert fault_of(web.url) == f"{web.url} cannot be read: {text}"
    assert len(web.requests) == 10


def test_pauses_between_tries_grow(
    web: HTTPStore, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    monkeypatch.setattr(store, "BACKOFF_SECONDS", 0.5)
    web.faults = [answer(503)] * 4
    assert download(web.url) == DATA
    for pause, least in zip(pauses, [1, 2, 4], strict=True):
        assert least <= pause <= least + 0.5


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [("7", 7, 7), ("86400", 20, 20), (15, 10, 15), (-20, 0, 0)],
)
def test_retry_after_is_respected_up_to_a_limit(
    web: HTTPStore, pauses: list[float], header: str | int, least: float, most: float
) -> None:
    if isinstance(header, int):
        header = formatdate(time.time() + header, usegmt=True)
    web.faults = [answer(429, **{"Retry-After": header})]
    assert download(web.url) == DATA
    assert least <= sum(pauses) <= most


@pytest.mark.parametrize("header", ["soon", "9" * 5000, "\u00b2"])
def test_a_wrong_retry_after_is_one_line(web: HTTPStore, header: str) -> None:
    web.faults = [answer(429, **{"Retry-After": header})]
    assert fault_of(web.url)


@pytest.mark.parametrize("status", [204, 206, 304, 400, 401, 403, 404, 410])
def test_an_error_that_stays_is_not_retried(web: HTTPStore, status: int) -> None:
    web.faults = [answer(status)] * 9
    assert fault_of(web.url).endswith(f"the store answers {status}")
    assert len(web.requests) == 1


def test_a_store_that_is_down_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{taken.getsockname()[1]}/model.bin"
        for scheme in ("http", "ftp"):
            assert "Connection refused" in fault_of(f"{scheme}://{place}")


@pytest.mark.parametrize("fault", [drip, drip_head], ids=["body", "head"])
def test_a_store_that_drips_is_abandoned(
    web: HTTPStore, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    monkeypatch.setattr(store, "DEADLINE_SECONDS", 0.5)
    web.faults, started = [fault], time.monotonic()
    assert fault_of(web.url).endswith("it takes over 0.5 seconds")
    assert time.monotonic() < started + 1


def test_a_file_over_the_limit_is_refused(
    web: HTTPStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(store, "MAX_BYTES", len(DATA) - 1)
    announced = answer(200, **{"Content-Length": str(len(DATA))})  # without the body
    for fault in (announced, unannounced):
        web.faults = [fault]
        assert fault_of(web.url).endswith(f"it has over {len(DATA) - 1} bytes")
    assert len(web.requests) == 2
    (tmp_path / "model.bin").write_bytes(DATA)
    assert "bytes" in fault_of(str(tmp_path / "model.bin"))


def unannounced(handler: Handler) -> None:
    handler.head(200)
    handler.wfile.write(DATA)


def test_an_unchanged_file_is_not_downloaded_again(web: HTTPStore) -> None:
    assert store.read(web.url) == (DATA, '"1"')
    with pytest.raises(store.UnchangedError):
        download(web.url, known_tag='"1"')
    web.tag = '"2"'
    assert store.read(web.url, known_tag='"1"') == (DATA, '"2"')
    assert len(web.requests) == 3


def test_a_date_replaces_a_missing_etag(web: HTTPStore) -> None:
    date = "Sat, 21 Nov 2026 12:00:00 GMT"
    web.tag = ""
    web.faults = [cut(len(DATA), **{"Last-Modified": date}), answer(304)]
    assert store.read(web.url) == (DATA, date)
    with pytest.raises(store.UnchangedError):
        download(web.url, known_tag=date)
    assert web.requests[1]["If-Modified-Since"] == date


def test_a_redirect_is_followed(web: HTTPStore) -> None:
    web.faults = [answer(302, Location="/elsewhere.bin")]
    assert download(web.url) == DATA
    web.faults = [answer(302, Location="/again")] * 40
    assert fault_of(web.url).endswith("TooManyRedirects")
    web.faults = [answer(302, Location="ftp://127.0.0.1/model.bin")]
    assert fault_of(web.url).endswith("redirected to an address that is not safe")


@pytest.mark.parametrize(
    "location",
    [
        "/elsewhere?signature=secret",
        "http://127.0.0.1:1/?signature=secret",
        "http://user:secret@127.0.0.1:1/",
        "http://127.0.0.1:secret/",
        "http://[secret/",
        "s3://secret/",
    ],
)
def test_a_redirect_shows_no_signature(web: HTTPStore, location: str) -> None:
    web.faults = [answer(302, Location=location), answer(403)] * 5
    assert "secret" not in fault_of(web.url)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 with its key, signed by itself."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    options = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *options]
    try:
        subprocess.run(
            [*command, "-keyout", path, "-out", path.with_suffix(".crt")],
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    path.write_bytes(path.read_bytes() + path.with_suffix(".crt").read_bytes())
    return path


@pytest.fixture
def safe_web(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HTTPStore]:
    """The same by HTTPS, with a certificate that is trusted."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with HTTPStore() as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.url = server.url.replace("http:", "https:")
        with served(server):
            yield server


def test_https_downloads_the_file(safe_web: HTTPStore) -> None:
    safe_web.faults = [cut(HALF)]
    assert download(safe_web.url) == DATA


def test_a_self_signed_certificate_is_not_trusted(
    safe_web: HTTPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    assert "self-signed certificate" in fault_of(safe_web.url)
    assert not safe_web.requests


def test_no_redirect_leaves_https(safe_web: HTTPStore, web: HTTPStore) -> None:
    safe_web.faults = [answer(302, Location=web.url)]
    assert fault_of(safe_web.url).endswith("redirected to an address that is not safe")
    assert not web.requests


class Transfer(DTPHandler):  # type: ignore[misc]
    """The data connection of an FTP server, which may break off."""

    def push_with_producer(self, producer: Any) -> None:
        server: FTPStore = self.cmd_channel.server
        if server.cuts and hasattr(producer, "file"):  # not a listing
            producer.more = partial(self.some, producer.more, server.cuts.pop(0))
        super().push_with_producer(producer)

    def some(self, more: Callable[[], bytes], size: int) -> bytes:
        if self.tot_bytes_sent < size:
            return more()
        if not self.cmd_channel.server.reports_success:
            self.cmd_channel.close()
        return b""


class FTPStore(FTPServer):  # type: ignore[misc]
    """An FTP server on loopback with one file, for everybody and for a user."""

    def __init__(self, folder: Path) -> None:
        class Control(FTPHandler):  # type: ignore[misc]
            authorizer = DummyAuthorizer()
            dtp_handler = Transfer
            use_sendfile = False
            auth_failed_timeout = 0.1  # seconds before the answer

        Control.authorizer.add_anonymous(str(folder))
        Control.authorizer.add_user("user", "p@ss/word", str(folder))
        super().__init__(("127.0.0.1", 0), Control)
        self.control = Control
        self.path = folder / "a model.bin"
        self.path.write_bytes(DATA)
        self.place = f"127.0.0.1:{self.address[1]}/a%20model.bin"
        self.url = f"ftp://{self.place}"
        self.cuts: list[int] = []  # bytes after which the next downloads break off
        self.reports_success = False  # when a download broke off

    def serve_until(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self.serve_forever(timeout=0.01, blocking=False)
        self.close_all()


@pytest.fixture
def ftp(tmp_path: Path) -> Iterator[FTPStore]:
    server, stop = FTPStore(tmp_path), threading.Event()
    thread = threading.Thread(target=server.serve_until, args=[stop])
    thread.start()
    yield server
    stop.set()
    thread.join()


@pytest.mark.parametrize("reports_success", [False, True])
def test_a_download_by_ftp_is_retried(ftp: FTPStore, reports_success: bool) -> None:
    ftp.reports_success = reports_success
    ftp.cuts = [HALF, 1]
    assert download(ftp.url) == DATA
    ftp.cuts = [HALF] * 9
    assert fault_of(ftp.url).startswith(f"{ftp.url} cannot be read: ")
    assert len(ftp.cuts) == 4


@pytest.mark.parametrize("missing", ["", "SIZE", "MDTM", "MLSD", "REST"])
def test_an_unchanged_file_is_not_downloaded_again_by_ftp(
    ftp: FTPStore, missing: str
) -> None:
    ftp.control.proto_cmds = dict(ftp.control.proto_cmds)
    ftp.control.proto_cmds.pop(missing, None)  # as an old server
    data, tag = store.read(ftp.url)
    assert data == DATA
    with pytest.raises(store.UnchangedError):
        download(f"ftp://user:p%40ss%2Fword@{ftp.place}", tag)
    os.utime(ftp.path, (0, 0))
    assert download(ftp.url, tag) == DATA


def test_ftp_failures_are_one_line(
    ftp: FTPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fault_of(f"{ftp.url}.none").endswith("there is no such file")
    assert fault_of(f"ftp://{ftp.place.split('/')[0]}/").endswith("it is a folder")
    assert "530" in fault_of(f"ftp://user:wrong@{ftp.place}")
    assert "newline" in fault_of(f"ftp://{ftp.place}/x%0D%0ADELE%20y/z")
    monkeypatch.setattr(store, "MAX_BYTES", len(DATA) - 1)
    assert fault_of(ftp.url).endswith("bytes")


@pytest.mark.parametrize(
    "uri",
    [
        "http://user:secret@127.0.0.1:1/model.bin?signature=secret#secret",
        "http://user:secret@/model.bin",
        "http://secret@127.0.0.1:1/model.bin",
        "http://user:se/secret@127.0.0.1/model.bin",
        "http://[::1:secret@x",
        "ftp://user:se%63ret@127.0.0.1:1/model.bin",
        "ftp://user:secret@127.0.0.1:1/model.bin",
        "ftp://user:secret@127.0.0.1:none/model.bin",
        "s3://key:secret@bucket/model.bin?versionId=secret",
        "none://user:secret@bucket/model.bin",
    ],
)
def test_no_error_shows_a_password(uri: str) -> None:
    assert "secret" not in fault_of(uri)


def test_a_redacted_uri_has_no_credentials() -> None:
    assert store.redact("model.bin") == "model.bin"
    assert store.redact("https://u:p@x.org:8/a/b?k=v#f") == "https://x.org:8/a/b?..."
    assert store.redact("https://u:12/3@x.org/a") == "https://..."
    cached = "simplecache::https://u:p@x.org/a?k=v"
    assert store.redact(cached) == "simplecache::https://..."


class Noisy(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """A store whose package logs what it raises, as gcsfs does."""

    def info(self, path: str, **_: object) -> None:
        logging.getLogger("noisy").error("cannot read %s", path)
        raise OSError("no\nluck")


def test_a_package_that_logs_its_error_is_silenced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fsspec.register_implementation("noisy", Noisy, clobber=True)
    assert fault_of("noisy://a/b") == "noisy://a/b cannot be read: no luck"
    assert not caplog.records
    logging.getLogger("noisy").error("audible again")
    assert caplog.messages == ["audible again"]


def test_a_missing_package_comes_with_its_install_command() -> None:
    code = (
        "import sys; sys.modules['s3fs'] = None;"
        " from model.__main__ import main; main()"
    )
    command = [sys.executable, "-c", code, "verify", "s3://bucket/model.bin"]
    done = subprocess.run(
        command, cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert 'pipenv sync --categories "packages stores"' in done.stderr


def newer_model(path: Path, name: str = "newer") -> bytes:
    """Write another model, with its own name."""
    model = artifact.read(str(ROOT / "model.bin"))
    artifact.write(path, {}, model._replace(facts=model.facts | {"name": name}))
    return path.read_bytes()


def test_gunicorn_loads_a_new_version_from_a_store_at_sighup(
    web: HTTPStore, tmp_path: Path, boot: bytes
) -> None:
    newer = newer_model(tmp_path / "newer.bin")
    options = {"FLASK_MODEL_URI": web.url, "WEB_CONCURRENCY": "1"}
    with serve(GUNICORN, tmp_path / "log", **options) as server:
        assert len(web.requests) == 1
        assert name_after_reload(server, boot) == "fashion"
        assert web.requests[-1]["If-None-Match"] == '"1"'
        web.data, web.tag = newer, '"2"'
        assert name_after_reload(server, boot) == "newer"
        web.data, web.tag = newer[:-1000], '"3"'
        assert name_after_reload(server, boot) == "newer"
        web.faults = [answer(503, **{"Retry-After": "0"})] * 5
        assert name_after_reload(server, boot) == "newer"
        web.data, web.tag = DATA, '"4"'
        assert name_after_reload(server, boot) == "fashion"
        log = server.log.read_text()
    assert log.count("the old model stays") == 2
    assert log.count(f"model fashion {VERSION} is still the one to serve") == 1
    assert not web.faults


@pytest.mark.parametrize("command", [GUNICORN, WAITRESS], ids=["gunicorn", "waitress"])
def test_a_server_starts_with_a_model_from_a_store(
    web: HTTPStore, tmp_path: Path, boot: bytes, command: list[str]
) -> None:
    web.faults = [cut(HALF), answer(503, **{"Retry-After": "0"})]
    digest = hashlib.sha256(DATA).hexdigest().upper()
    options = {"FLASK_MODEL_URI": web.url, "FLASK_MODEL_SHA256": digest}
    with serve(command, tmp_path / "log", WEB_CONCURRENCY="1", **options) as server:
        response = requests.post(f"{server.url}/predict", data=boot, timeout=5)
    assert response.json()["class"] == "Ankle boot"
    assert len(web.requests) == 3


@pytest.mark.parametrize("command", [GUNICORN, WAITRESS], ids=["gunicorn", "waitress"])
def test_a_model_that_cannot_be_read_stops_the_start(
    web: HTTPStore, command: list[str]
) -> None:
    digest = hashlib.sha256(DATA).hexdigest()
    for uri in (web.url, str(ROOT / "model.bin")):
        options = {"FLASK_MODEL_URI": uri, "FLASK_MODEL_SHA256": "0" * 64}
        stderr = fail_to_start(command, **options).stderr
        assert f"{uri} has the SHA-256 {digest}, not 000" in stderr
    web.faults = [answer(403)]
    uri = web.url.replace("//", "//user:secret@") + "?signature=secret"
    stderr = fail_to_start(command, FLASK_MODEL_URI=uri).stderr
    assert f"{web.url}?... cannot be read: the store answers 403" in stderr
    assert "secret" not in stderr


def test_sigterm_stops_a_start_that_waits_for_the_store(web: HTTPStore) -> None:
    web.faults = [drip]
    process = subprocess.Popen(
        [sys.executable, "-m", *GUNICORN[:1], "--bind", "127.0.0.1:0", "predict:app"],
        cwd=ROOT,
        env=os.environ | {"FLASK_MODEL_URI": web.url},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: bool(web.requests))
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=5)
    assert process.returncode == 1
    assert stderr.splitlines()[-1] == "gunicorn: stopped while it read the model"
    assert "Traceback" not in stderr


def test_a_slow_store_delays_neither_the_workers_nor_a_stop(
    web: HTTPStore, tmp_path: Path, boot: bytes
) -> None:
    options = {"FLASK_MODEL_URI": web.url, "WEB_CONCURRENCY": "1"}
    impatient = [*GUNICORN[:-1], "--timeout", "2", GUNICORN[-1]]
    with serve(impatient, tmp_path / "log", **options) as server:
        web.faults, started = [drip], time.monotonic()
        server.process.send_signal(signal.SIGHUP)
        while time.monotonic() < started + 3:  # in 2 a worker that is still is dead
            response = requests.post(f"{server.url}/predict", data=boot, timeout=2)
            assert response.json()["class"] == "Ankle boot"
        assert len(web.requests) == 2
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(5) == 0
    log = server.log.read_text()
    assert "WORKER TIMEOUT" not in log
    assert "Traceback" not in log
    assert log.count("Booting worker") == 1


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(200):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("it took too long")


class Bucket(NamedTuple):
    """A bucket on loopback, and the environment in which it is found."""

    uri: str
    put: Callable[[bytes], None]
    environment: dict[str, str]


@pytest.fixture(scope="module")
def s3() -> Iterator[Bucket]:
    """A bucket of an S3 API."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    server = moto.ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    url, login = f"http://{host}:{port}", ("user", "secret")
    client = boto3.client("s3", "us-east-1", None, None, None, url, *login)
    client.create_bucket(Bucket="models")
    names = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    yield Bucket(
        "s3://models/model.bin",
        lambda data: client.put_object(Bucket="models", Key="model.bin", Body=data),
        dict(zip(names, (url, *login), strict=True)),
    )
    server.stop()


@pytest.fixture(scope="module")
def gs() -> Iterator[Bucket]:
    """A bucket of a Google Cloud Storage API."""
    pytest.importorskip("gcsfs", reason="gcsfs is not installed")
    name = "gcp_storage_emulator.server"
    emulator = pytest.importorskip(name, reason="gcp-storage-emulator is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    upload = f"{url}/upload/storage/v1/b/models/o?uploadType=media&name=model.bin"
    with emulator.create_server(
        "127.0.0.1", port, in_memory=True, default_bucket="models"
    ):
        yield Bucket(
            "gs://models/model.bin",
            lambda data: requests.post(upload, data, timeout=5).raise_for_status(),
            {"STORAGE_EMULATOR_HOST": url},
        )


@pytest.fixture(params=["s3", "gs"])
def bucket(request: pytest.FixtureRequest) -> Bucket:
    bucket: Bucket = request.getfixturevalue(request.param)
    bucket.put(DATA)
    return bucket


def test_an_unchanged_file_is_not_downloaded_again_from_a_bucket(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    data, tag = store.read(bucket.uri)
    assert data == DATA
    with pytest.raises(store.UnchangedError):
        download(bucket.uri, tag)
    bucket.put(DATA[::-1])
    assert download(bucket.uri, tag) == DATA[::-1]


def test_fetch_from_a_bucket_prints_one_line(bucket: Bucket, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    done = run("fetch", bucket.uri, "-o", path, **bucket.environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert path.read_bytes() == DATA
    missing = bucket.uri.replace("model.bin", "none")
    done = run("fetch", missing, "-o", path, **bucket.environment)
    assert done.stderr == f"model: {missing} cannot be read: there is no such file\n"


def test_missing_credentials_are_one_line(s3: Bucket) -> None:
    login = {"AWS_ACCESS_KEY_ID": "", "AWS_EC2_METADATA_DISABLED": "true"}
    done = run("verify", s3.uri, **s3.environment | login)
    fault = "Unable to locate credentials"
    assert done.stderr == f"model: {s3.uri} cannot be read: {fault}\n"


def test_fetch_replaces_a_file_by_a_working_model_only(
    web: HTTPStore, tmp_path: Path
) -> None:
    path, newer = tmp_path / "model.bin", newer_model(tmp_path / "newer.bin")
    write_failing_model(tmp_path / "broken.bin")
    broken = (tmp_path / "broken.bin").read_bytes()
    assert run("fetch", web.url, "-o", path).stdout.endswith(f"fashion {VERSION}\n")
    other = ["--sha256", hashlib.sha256(DATA).hexdigest()]
    for web.data, options in [(DATA[:-1000], []), (broken, []), (newer, other)]:
        done = run("fetch", web.url, "-o", path, *options)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert path.read_bytes() == DATA
    assert not list(tmp_path.glob("*.tmp"))
    assert run("fetch", web.url, "-o", path).returncode == 0
    assert path.read_bytes() == newer


def test_ctrl_c_stops_fetch_with_one_line_and_no_file(
    web: HTTPStore, tmp_path: Path
) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"old")
    web.faults = [drip]
    command = [sys.executable, "-m", "model", "fetch", web.url, "-o", str(path)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: bool(web.requests))
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=5)[1] == "model: stopped\n"
    assert process.returncode == 1
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_fetch_prints_its_progress_on_a_terminal(
    web: HTTPStore, tmp_path: Path
) -> None:
    ours, terminal = os.openpty()
    path = str(tmp_path / "model.bin")
    command = [sys.executable, "-m", "model", "fetch", web.url, "-o", path]
    subprocess.run(command, cwd=ROOT, stderr=terminal, check=True)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    os.close(terminal)
    assert shown.endswith(f"100% of {len(DATA) / 1e6:.1f} MB\r")
