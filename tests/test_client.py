"""`python predict_test.py`, as people run it."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from conftest import GUNICORN, ROOT, Server, serve

PICTURES = ROOT / "static" / "pictures"


def predict_test(
    *arguments: object, stdin: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, ROOT / "predict_test.py", *map(str, arguments)],
        check=False,
        capture_output=True,
        input=stdin,
        timeout=30,
    )


def test_it_sends_a_sample_by_default(gunicorn: Server) -> None:
    done = predict_test("--url", gunicorn.url)
    assert done.returncode == 0
    assert b"ankle-boot.png  Ankle boot" in done.stdout


def test_it_sends_files_and_folders(gunicorn: Server) -> None:
    done = predict_test(PICTURES / "bag.png", PICTURES, "--url", gunicorn.url + "/")
    assert done.returncode == 1
    assert b"cat.gif" in done.stderr
    assert len(done.stdout.splitlines()) == 1 + len(list(PICTURES.glob("*.*g")))


def test_a_batch_prints_what_single_requests_print(gunicorn: Server) -> None:
    """More pictures than one request takes, one of them broken."""
    arguments = [*[PICTURES] * 3, __file__, *[PICTURES] * 2, "--url", gunicorn.url]
    one_by_one, batches = predict_test(*arguments), predict_test(*arguments, "--batch")
    assert batches.stdout == one_by_one.stdout
    assert batches.stderr == one_by_one.stderr
    assert b"415 unsupported_image" in batches.stderr
    assert len(batches.stdout.splitlines()) > 32


def test_json_prints_whole_answers(gunicorn: Server) -> None:
    done = predict_test(PICTURES / "bag.png", __file__, "--json", "--url", gunicorn.url)
    first, second = map(json.loads, done.stdout.splitlines())
    assert first["picture"] == str(PICTURES / "bag.png")
    assert sum(first["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert second["code"] == "unsupported_image"
    assert done.returncode == 1


def test_it_sends_a_key(tmp_path: Path) -> None:
    with serve(GUNICORN, tmp_path / "log", FLASK_API_KEY="one,two") as server:
        without = predict_test("--url", server.url)
        assert without.returncode == 1
        wrong = predict_test("--url", server.url, "--key", "three")
        assert b"needs a key: --key KEY" in without.stderr
        assert b"does not accept this key" in wrong.stderr
        assert len((without.stderr + wrong.stderr).splitlines()) == 2
        for key in ("one", "two"):
            assert predict_test("--url", server.url, "--key", key).returncode == 0
    assert not re.search(r"\b(one|two)\b", (tmp_path / "log").read_text())


def test_a_url_needs_no_scheme_and_may_name_the_route(gunicorn: Server) -> None:
    for url in (gunicorn.url.removeprefix("http://"), f"{gunicorn.url}/predict"):
        assert predict_test("--url", url).returncode == 0


def test_it_sends_standard_input(gunicorn: Server, boot: bytes) -> None:
    done = predict_test("-", "--url", gunicorn.url, stdin=boot)
    assert done.stdout.startswith(b"-  Ankle boot")


def test_an_error_is_one_line_and_stops_no_other_picture(
    gunicorn: Server, tmp_path: Path
) -> None:
    text = tmp_path / "text.png"
    text.write_text("hello")
    done = predict_test(text, PICTURES / "bag.png", "--url", gunicorn.url)
    assert done.returncode == 1
    assert b"415 unsupported_image" in done.stderr
    assert len(done.stderr.splitlines()) == len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--url", "http://127.0.0.1:9"], b"is it running?"),
        (["--url", "ftp://nonsense"], b"cannot connect"),
        (["/nowhere.png", "--url", "http://127.0.0.1:9"], b"No such file"),
        ([ROOT / "templates"], b"no pictures"),
    ],
)
def test_a_failure_is_one_line(arguments: list[object], reason: bytes) -> None:
    done = predict_test(*arguments)
    assert done.returncode == 1
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_missing_file_stops_no_other(gunicorn: Server, tmp_path: Path) -> None:
    (tmp_path / "lost.png").symlink_to("nowhere.png")
    (tmp_path / "folder.png").mkdir()
    paths = tmp_path, PICTURES / "bag.png", PICTURES / "coat.png"
    for options in ([], ["--batch"]):
        done = predict_test(*paths, "--url", gunicorn.url, *options)
        assert done.returncode == 1
        assert b"No such file" in done.stderr
        assert (len(done.stdout.splitlines()), len(done.stderr.splitlines())) == (2, 1)


def test_hidden_files_of_a_folder_are_not_sent(
    gunicorn: Server, tmp_path: Path
) -> None:
    """As macOS leaves them beside each picture, and in archives."""
    for name in ("bag.png", "._bag.png", ".trash/bag.png", "__MACOSX/bag.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((PICTURES / "bag.png").read_bytes())
    done = predict_test(tmp_path, "--url", gunicorn.url)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1)


def test_a_batch_too_large_for_a_request_is_sent_one_by_one(tmp_path: Path) -> None:
    photos = [PICTURES / "photo-t-shirt.jpg"] * 8
    limit = {"FLASK_MAX_CONTENT_LENGTH": "100000"}
    with serve(GUNICORN, tmp_path / "log", **limit) as server:
        done = predict_test(*photos, "--batch", "--url", server.url)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(b"T-shirt/top") == 8


def test_the_output_may_be_closed_early(gunicorn: Server) -> None:
    """As `head` does."""
    command = [sys.executable, "predict_test.py", "static", "--url", gunicorn.url]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe) as client:
        assert client.stdout is not None
        client.stdout.close()
        assert client.wait(timeout=30) == 1
        assert client.stderr is not None
        assert b"Error" not in client.stderr.read()


@pytest.mark.parametrize("key", ["\u20acuro", "secret\n"])
def test_an_impossible_key_is_not_shown(key: str) -> None:
    done = predict_test("--key", key)
    assert done.returncode == 2
    assert key.strip().encode() not in done.stderr
    assert b"ASCII" in done.stderr


@contextmanager
def answering(
    status: int, headers: dict[str, str], body: bytes
) -> Iterator[tuple[str, list[str]]]:
    """Run another kind of service; yield its address and the paths requested."""
    paths: list[str] = []

    class Foreign(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            paths.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Foreign) as foreign:
        Thread(target=foreign.serve_forever, args=[0.05], daemon=True).start()
        try:
            yield f"http://127.0.0.1:{foreign.server_port}", paths
        finally:
            foreign.shutdown()


@pytest.mark.parametrize("status", [301, 308])
def test_a_redirect_is_reported_and_gets_no_key(status: int) -> None:
    moved = {"Location": "http://127.0.0.1:9/predict"}
    with answering(status, moved, b"") as (url, paths):
        done = predict_test("--url", url, "--key", "secret")
    assert paths == ["/predict"]
    assert done.returncode == 1
    assert b"has moved: --url http://127.0.0.1:9\n" in done.stderr


@pytest.mark.parametrize(
    "body",
    [
        b'{"status": "ok"}',
        b"[]",
        b'"x"',
        b"<html>",
        b'{"class": "x"}',
        b'{"predictions": []}',
        b'{"predictions": [1]}',
        b'{"predictions": [{"class": "A", "probability": 0.5}]}',
        b'{"code": "x", "class": "y"}',
        b'{"class": null, "probability": "x"}',
    ],
)
def test_another_kind_of_service_is_reported_in_one_line(body: bytes) -> None:
    with answering(200, {}, body) as (url, _):
        done = predict_test("--url", url)
    assert done.returncode == 1
    assert b"not as this service" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("options", [[], ["--batch"]])
def test_a_picture_too_large_for_a_proxy_stops_no_other(options: list[str]) -> None:
    pictures = PICTURES / "bag.png", PICTURES / "coat.png"
    with answering(413, {}, b"<html>") as (url, paths):
        done = predict_test(*pictures, "--url", url, *options)
    assert done.returncode == 1
    assert done.stderr.count(b"413 too_large: send a smaller one\n") == 2
    assert paths == ["/predict"] * (2 + len(options))


def test_import_prints_nothing_and_imports_no_package_of_ours() -> None:
    code = "import predict_test, sys; sys.exit('model' in sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
