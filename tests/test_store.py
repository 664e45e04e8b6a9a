"""A file comes whole from real servers, however they behave, or in one clear line."""

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
from test_servers import does_not_run, fail_to_start, name_after_reload

from model import artifact, store
from model.__main__ import fetch

DATA = (ROOT / "model.bin").read_bytes()
HALF = len(DATA) // 2


class Handler(BaseHTTPRequestHandler):
    """Gives one file (RFC 9110), or does what `faults` has for this request."""

    server: "HTTPStore"

    def do_GET(self) -> None:
        self.server.asked.append(dict(self.headers))
        faults = self.server.faults
        (faults.pop(0) if faults else Handler.give)(self)

    def give(self, size: int | None = None, **headers: str) -> None:
        """Answer as asked; `size` cuts the body."""
        data, tag = self.server.data, self.server.tag
        if tag and self.headers["If-None-Match"] == tag:
            self.head(304)
            return
        start, status = 0, 200
        if "Range" in self.headers and self.headers["If-Range"] == tag:
            start, status = int(self.headers["Range"][len("bytes=") : -1]), 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        length = {"Content-Length": str(len(data) - start)}
        self.head(status, **length | ({"ETag": tag} if tag else {}) | headers)
        self.wfile.write(data[start:][:size])

    def head(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


Fault = Callable[[Handler], None]


class HTTPStore(ThreadingHTTPServer):
    """A server on loopback that behaves as told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/model.bin"
        self.data = DATA
        self.tag = '"1"'
        self.faults: list[Fault] = []
        self.asked: list[dict[str, str]] = []  # the headers of each request

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that go away."""


def cut(size: int, **headers: str) -> Fault:
    return lambda handler: handler.give(size, **headers)


def answer(status: int, **headers: str) -> Fault:
    return lambda handler: handler.head(status, **headers)


def silence(seconds: float) -> Fault:
    return lambda _: time.sleep(seconds)


def drip(handler: Handler) -> None:
    """Send a byte now and then, for 20 seconds at most."""
    handler.head(200)
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
    monkeypatch.setattr(store, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(store, "SILENT_SECONDS", 0.3)


def bring(uri: str, known: str | None = None) -> bytes:
    with store.opened(uri, known) as part:
        part.file.seek(0)
        return part.file.read()


def fault_of(uri: str) -> str:
    with pytest.raises(store.StoreError) as error:
        bring(uri)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_a_path_and_a_file_uri_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a model.bin"
    path.write_bytes(b"model")
    assert bring(str(path)) == bring(path.as_uri()) == b"model"


def test_http_brings_the_file(web: HTTPStore) -> None:
    assert bring(web.url) == DATA
    assert len(web.asked) == 1


def test_what_broke_off_is_taken_up(web: HTTPStore) -> None:
    web.faults = [cut(HALF), cut(100)]
    assert bring(web.url) == DATA
    ranges = [asked.get("Range") for asked in web.asked]
    assert ranges == [None, f"bytes={HALF}-", f"bytes={HALF + 100}-"]


def test_a_file_that_changes_between_two_tries_comes_whole(web: HTTPStore) -> None:
    def change(handler: Handler) -> None:
        web.data, web.tag = DATA[::-1], '"2"'
        handler.give()

    web.faults = [cut(HALF), change]
    assert bring(web.url) == DATA[::-1]


@pytest.mark.parametrize("tag", ["", 'W/"1"'])
def test_without_an_exact_tag_it_starts_over(web: HTTPStore, tag: str) -> None:
    web.tag = tag
    web.faults = [cut(HALF)]
    assert bring(web.url) == DATA
    assert "Range" not in web.asked[1]


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (206, {"Content-Range": f"bytes {HALF}-", "ETag": '"2"'}),
        (206, {"Content-Range": f"bytes {HALF + 1}-", "ETag": '"1"'}),
        (206, {"ETag": '"1"'}),
        (416, {}),
    ],
)
def test_a_range_of_something_else_is_not_used(
    web: HTTPStore, status: int, headers: dict[str, str]
) -> None:
    web.faults = [cut(HALF), answer(status, **headers)]
    assert bring(web.url) == DATA
    assert "Range" not in web.asked[2]


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_what_may_pass_is_tried_again(
    web: HTTPStore, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(store, "PAUSE_SECONDS", 1.0)
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    web.faults = [answer(status)] * 4
    assert bring(web.url) == DATA
    for pause, longest in zip(pauses, [1, 2, 4, 8], strict=True):
        assert longest / 2 <= pause <= longest


def test_five_tries_are_enough(web: HTTPStore) -> None:
    web.faults = [answer(503)] * 9
    assert fault_of(web.url) == (
        f"{web.url} cannot be fetched, try 5 of 5: the store answers 503"
    )
    assert len(web.asked) == 5


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [
        ("0", 0, 0),
        ("7", 7, 7),
        ("86400", 30, 30),
        ("9" * 5000, 30, 30),
        (20, 10, 20),
        (-20, 0, 0),
        ("soon", 0, 0.01),
        ("\u00b2", 0, 0.01),
    ],
)
def test_retry_after_is_honoured_up_to_a_limit(
    web: HTTPStore,
    monkeypatch: pytest.MonkeyPatch,
    asked: str | int,
    least: float,
    most: float,
) -> None:
    if isinstance(asked, int):
        asked = formatdate(time.time() + asked, usegmt=True)
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    web.faults = [answer(429, **{"Retry-After": asked})]
    assert bring(web.url) == DATA
    (pause,) = pauses
    assert least <= pause <= most


@pytest.mark.parametrize("status", [204, 304, 400, 401, 403, 404, 410])
def test_what_will_not_pass_is_not_tried_again(web: HTTPStore, status: int) -> None:
    web.faults = [answer(status)] * 9
    assert fault_of(web.url).endswith(f"the store answers {status}")
    assert len(web.asked) == 1


def test_a_silent_store_is_tried_again(web: HTTPStore) -> None:
    web.faults = [silence(0.5)]
    assert bring(web.url) == DATA
    web.faults = [silence(0.5)] * 9
    assert fault_of(web.url).endswith("try 5 of 5: the store is silent")


def test_a_store_that_is_down_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        fault = fault_of(f"http://127.0.0.1:{taken.getsockname()[1]}/model.bin")
    assert fault.endswith("try 5 of 5: Connection refused")


def test_a_body_shorter_than_told_is_refused(web: HTTPStore) -> None:
    web.faults = [cut(HALF, **{"Content-Length": str(len(DATA) + 1)})] * 9
    assert fault_of(web.url).endswith("the connection broke off")


def test_a_store_that_drips_is_given_up(
    web: HTTPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "DEADLINE_SECONDS", 0.5)
    web.faults = [drip]
    assert fault_of(web.url).endswith("takes over 0.5 seconds")


def test_pauses_end_with_the_deadline(
    web: HTTPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "DEADLINE_SECONDS", 5)
    web.faults = [answer(503, **{"Retry-After": "10"})]
    assert fault_of(web.url).endswith("try 1 of 5: the store answers 503")


def test_a_file_over_the_limit_is_refused(
    web: HTTPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAX_BYTES", len(DATA) - 1)
    told = answer(200, **{"Content-Length": str(len(DATA))})  # of a body that stays out
    for fault in (told, endless):
        web.faults = [fault]
        assert fault_of(web.url).endswith(f"is over {len(DATA) - 1} bytes")
    assert len(web.asked) == 2


def endless(handler: Handler) -> None:
    handler.head(200)
    handler.wfile.write(DATA)


def test_an_unchanged_file_is_not_brought_again(web: HTTPStore) -> None:
    with store.opened(web.url) as part:
        assert part.tag == '"1"'
    with pytest.raises(store.UnchangedError):
        bring(web.url, known='"1"')
    web.tag = '"2"'
    assert bring(web.url, known='"1"') == DATA


def test_a_date_stands_in_for_an_etag(web: HTTPStore) -> None:
    date = "Sat, 21 Nov 2026 12:00:00 GMT"
    web.tag = ""
    web.faults = [cut(len(DATA), **{"Last-Modified": date}), answer(304)]
    with store.opened(web.url) as part:
        assert part.tag == date
    with pytest.raises(store.UnchangedError):
        bring(web.url, known=date)
    assert web.asked[1]["If-Modified-Since"] == date


def test_a_redirect_is_followed(web: HTTPStore) -> None:
    web.faults = [answer(302, Location="/elsewhere.bin")]
    assert bring(web.url) == DATA
    web.faults = [answer(302, Location="/again")] * 40
    assert fault_of(web.url).endswith("TooManyRedirects")
    web.faults = [answer(302, Location="ftp://127.0.0.1/model.bin")]
    assert fault_of(web.url).endswith("redirected to an address that is not safe")


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


def test_https_brings_the_file(safe_web: HTTPStore) -> None:
    safe_web.faults = [cut(HALF)]
    assert bring(safe_web.url) == DATA


def test_a_certificate_that_nobody_signed_is_not_trusted(
    safe_web: HTTPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    assert fault_of(safe_web.url).endswith("cannot be trusted: self-signed certificate")
    assert not safe_web.asked


def test_no_redirect_leads_out_of_https(safe_web: HTTPStore, web: HTTPStore) -> None:
    safe_web.faults = [answer(302, Location=web.url)]
    assert fault_of(safe_web.url).endswith("redirected to an address that is not safe")
    assert not web.asked


class Data(DTPHandler):  # type: ignore[misc]
    """The data connection of an FTP server, which may break off."""

    def push_with_producer(self, producer: Any) -> None:
        store: FTPStore = self.cmd_channel.server
        store.starts.append(producer.file.tell())
        if store.cuts:
            producer.more = partial(self.some, producer.more, store.cuts.pop(0))
        super().push_with_producer(producer)

    def some(self, more: Callable[[], bytes], size: int) -> bytes:
        if self.tot_bytes_sent < size:
            return more()
        if not self.cmd_channel.server.is_content:
            self.cmd_channel.close()
        return b""


class FTPStore(FTPServer):  # type: ignore[misc]
    """An FTP server on loopback with one file, for anybody and for a user."""

    def __init__(self, folder: Path) -> None:
        class Control(FTPHandler):  # type: ignore[misc]
            authorizer = DummyAuthorizer()
            dtp_handler = Data
            use_sendfile = False
            auth_failed_timeout = 0.1  # seconds before it says so

        Control.authorizer.add_anonymous(str(folder))
        Control.authorizer.add_user("user", "p@ss/word", str(folder))
        super().__init__(("127.0.0.1", 0), Control)
        self.control = Control
        self.path = folder / "a model.bin"
        self.path.write_bytes(DATA)
        self.place = f"127.0.0.1:{self.address[1]}/a%20model.bin"
        self.url = f"ftp://{self.place}"
        self.cuts: list[int] = []  # bytes after which the next downloads break off
        self.starts: list[int] = []  # of downloads
        self.is_content = False  # and says that all is well when one broke off

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


def test_ftp_brings_the_file(ftp: FTPStore) -> None:
    assert bring(ftp.url) == DATA
    assert bring(f"ftp://user:p%40ss%2Fword@{ftp.place}") == DATA


@pytest.mark.parametrize("is_content", [False, True])
def test_what_broke_off_by_ftp_is_taken_up(ftp: FTPStore, is_content: bool) -> None:
    ftp.is_content = is_content
    ftp.cuts = [HALF, 1]
    assert bring(ftp.url) == DATA
    first, second, third = ftp.starts
    assert first == 0 < HALF <= second < third


def test_a_file_that_changes_by_ftp_comes_whole(ftp: FTPStore) -> None:
    part = store.Part(ftp.path.with_suffix(".part").open("wb+"))
    with part.file:
        part.begin(0, "213 19700101000000 1")
        part.add(b"old")
        store.fetch(ftp.url, part)
        part.file.seek(0)
        assert part.file.read() == DATA


def test_an_unchanged_file_is_not_brought_again_by_ftp(ftp: FTPStore) -> None:
    with store.opened(ftp.url) as part:
        tag = part.tag
    with pytest.raises(store.UnchangedError):
        bring(ftp.url, tag)
    os.utime(ftp.path, (0, 0))
    assert bring(ftp.url, tag) == DATA


@pytest.mark.parametrize("missing", ["SIZE", "MDTM", "REST"])
def test_an_old_ftp_server_will_do(ftp: FTPStore, missing: str) -> None:
    commands = {k: v for k, v in ftp.control.proto_cmds.items() if k != missing}
    ftp.control.proto_cmds = commands
    ftp.cuts = [HALF]
    assert bring(ftp.url) == DATA


def test_ftp_says_why_there_is_no_file(ftp: FTPStore) -> None:
    assert "550" in fault_of(f"{ftp.url}.none")
    assert "530" in fault_of(f"ftp://user:wrong@{ftp.place}")
    assert fault_of(f"ftp://{ftp.place}%0D%0ADELE%20x").endswith("is not a URI")
    ftp.cuts = [0] * 5
    assert "try 5 of 5" in fault_of(ftp.url)


@pytest.mark.parametrize(
    "uri",
    [
        "http://user:secret@127.0.0.1:1/model.bin?signature=secret#secret",
        "http://user:secret@/model.bin",
        "http://secret@127.0.0.1:1/model.bin",
        "http://user:se/secret@127.0.0.1/model.bin",
        "http://[::1:secret@x",
        "ftp://user:secret@127.0.0.1:1/model.bin",
        "ftp://user:secret@127.0.0.1:none/model.bin",
        "s3://key:secret@bucket/model.bin?versionId=secret",
        "none://user:secret@bucket/model.bin",
    ],
)
def test_no_password_is_shown(uri: str) -> None:
    assert "secret" not in fault_of(uri)


def test_a_uri_is_shown_without_what_is_secret() -> None:
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


def test_a_package_that_logs_gets_one_line_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fsspec.register_implementation("noisy", Noisy, clobber=True)
    assert fault_of("noisy://a/b") == "noisy://a/b cannot be fetched: no luck"
    assert not caplog.records
    logging.getLogger("noisy").error("heard again")
    assert caplog.messages == ["heard again"]


def test_a_missing_package_is_named() -> None:
    code = (
        "import sys; sys.modules['fsspec'] = None;"
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
    """Make another model, with a name of its own."""
    model = artifact.read(str(ROOT / "model.bin"))
    artifact.write(path, {}, model._replace(facts=model.facts | {"name": name}))
    return path.read_bytes()


def test_gunicorn_takes_what_the_store_has_at_sighup(
    web: HTTPStore, tmp_path: Path, boot: bytes
) -> None:
    newer = newer_model(tmp_path / "newer.bin")
    options = {"FLASK_MODEL_URI": web.url, "WEB_CONCURRENCY": "1"}
    with serve(GUNICORN, tmp_path / "log", **options) as server:
        assert len(web.asked) == 1
        assert name_after_reload(server, boot) == "fashion"
        assert web.asked[-1]["If-None-Match"] == '"1"'
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
    assert len(web.asked) == 3


@pytest.mark.parametrize("command", [GUNICORN, WAITRESS], ids=["gunicorn", "waitress"])
@pytest.mark.parametrize("where", ["store", "file"])
def test_a_wrong_sha256_stops_the_start(
    web: HTTPStore, command: list[str], where: str
) -> None:
    uri = web.url if where == "store" else str(ROOT / "model.bin")
    options = {"FLASK_MODEL_URI": uri, "FLASK_MODEL_SHA256": "0" * 64}
    stderr = fail_to_start(command, **options).stderr
    assert (
        f"{uri} has the SHA-256 {hashlib.sha256(DATA).hexdigest()}, not 000" in stderr
    )


@pytest.mark.parametrize("command", [GUNICORN, WAITRESS], ids=["gunicorn", "waitress"])
def test_a_store_without_the_file_stops_the_start(
    web: HTTPStore, command: list[str]
) -> None:
    web.faults = [answer(403)]
    uri = web.url.replace("//", "//user:secret@") + "?signature=secret"
    stderr = fail_to_start(command, FLASK_MODEL_URI=uri).stderr
    assert f"{web.url}?... cannot be fetched: the store answers 403" in stderr
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
    wait_until(lambda: bool(web.asked))
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=5)
    assert process.returncode == 1
    assert stderr.splitlines()[-1] == "gunicorn: stopped while it read the model"
    assert "Traceback" not in stderr


def test_a_slow_store_holds_up_neither_the_workers_nor_a_stop(
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
        assert len(web.asked) == 2
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(5) == 0
    log = server.log.read_text()
    assert "WORKER TIMEOUT" not in log
    assert "Traceback" not in log
    assert log.count("Booting worker") == 1


def wait_until(is_so: Callable[[], bool]) -> None:
    for _ in range(200):
        if is_so():
            return
        time.sleep(0.05)
    pytest.fail("it took too long")


class Bucket(NamedTuple):
    """A bucket on loopback, and the environment in which it is found."""

    put: Callable[[bytes], None]  # as model.bin
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
        lambda data: client.put_object(Bucket="models", Key="model.bin", Body=data),
        dict(zip(names, (url, *login), strict=True)),
    )
    server.stop()


def test_gunicorn_takes_what_a_bucket_has_at_sighup(
    s3: Bucket, tmp_path: Path, boot: bytes
) -> None:
    s3.put(DATA)
    uri = {"FLASK_MODEL_URI": "s3://models/model.bin", "WEB_CONCURRENCY": "1"}
    with serve(GUNICORN, tmp_path / "log", **uri, **s3.environment) as server:
        assert name_after_reload(server, boot) == "fashion"
        s3.put(newer_model(tmp_path / "newer.bin"))
        assert name_after_reload(server, boot) == "newer"
        s3.put(DATA[:-1000])
        assert name_after_reload(server, boot) == "newer"
        log = server.log.read_text()
    assert log.count("is still the one to serve") == 1
    assert log.count("the old model stays: s3://models/model.bin cannot be read") == 1


@pytest.mark.parametrize(
    ("uri", "environment", "fault"),
    [
        ("s3://models/none", {}, "is not there"),
        (
            "s3://models/model.bin",
            {"AWS_ACCESS_KEY_ID": "", "AWS_EC2_METADATA_DISABLED": "true"},
            "cannot be fetched: Unable to locate credentials",
        ),
    ],
)
def test_s3_says_why_there_is_no_file(
    s3: Bucket, uri: str, environment: dict[str, str], fault: str
) -> None:
    done = run("verify", uri, **s3.environment | environment)
    assert (done.returncode, done.stderr) == (1, f"model: {uri} {fault}\n")


@pytest.fixture
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
            lambda data: requests.post(upload, data, timeout=5).raise_for_status(),
            {"STORAGE_EMULATOR_HOST": url},
        )


def test_a_google_bucket_gives_the_file(gs: Bucket, tmp_path: Path) -> None:
    gs.put(DATA)
    path = tmp_path / "model.bin"
    done = run("fetch", "gs://models/model.bin", "-o", path, **gs.environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert path.read_bytes() == DATA
    done = run("fetch", "gs://models/none", "-o", path, **gs.environment)
    assert done.stderr == "model: gs://models/none is not there\n"
    assert path.read_bytes() == DATA


def test_fetch_replaces_a_file_by_a_good_one_only(
    web: HTTPStore, tmp_path: Path
) -> None:
    path, newer = tmp_path / "model.bin", newer_model(tmp_path / "newer.bin")
    does_not_run(tmp_path / "broken.bin")
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


def test_fetch_goes_on_where_it_was_stopped(web: HTTPStore, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"old")
    web.faults = [hang_after_half]
    command = [sys.executable, "-m", "model", "fetch", web.url, "-o", str(path)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: bool(web.asked))
    time.sleep(0.3)  # for the half to arrive
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=5)[1] == "model: stopped\n"
    assert process.returncode == 1
    assert path.read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == [path, tmp_path / "model.bin.part"]
    assert run("fetch", web.url, "-o", path).returncode == 0
    assert web.asked[1]["Range"] == f"bytes={HALF}-"
    assert path.read_bytes() == DATA
    assert list(tmp_path.iterdir()) == [path]


def hang_after_half(handler: Handler) -> None:
    handler.give(HALF)
    time.sleep(3)


@pytest.mark.parametrize("left", [b"", b'1 "1"\nx', b"\xff\n", b"no line"])
def test_a_strange_part_is_left_aside(
    web: HTTPStore, tmp_path: Path, left: bytes
) -> None:
    (tmp_path / "model.bin.part").write_bytes(left)
    fetch(web.url, tmp_path / "model.bin")
    assert "Range" not in web.asked[0]
    assert (tmp_path / "model.bin").read_bytes() == DATA


def test_fetches_at_once_do_not_mix(web: HTTPStore, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    newer = newer_model(tmp_path / "newer.bin")

    def change(handler: Handler) -> None:
        web.data, web.tag = newer, '"2"'
        handler.give()

    web.faults = [cut(HALF), cut(HALF), cut(HALF), change]
    command = [sys.executable, "-m", "model", "fetch", web.url, "-o", str(path)]
    for process in [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]:
        assert process.wait(20) == 0
    assert path.read_bytes() in {DATA, newer}
    assert len(list(tmp_path.iterdir())) == 2


def test_fetch_shows_on_a_terminal_how_far_it_is(
    web: HTTPStore, tmp_path: Path
) -> None:
    ours, terminal = os.openpty()
    path = str(tmp_path / "model.bin")
    command = [sys.executable, "-m", "model", "fetch", web.url, "-o", path]
    subprocess.run(command, cwd=ROOT, stderr=terminal, check=True)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    os.close(terminal)
    assert shown.endswith(f"\r100% of {len(DATA) / 1e6:.1f} MB\r")
