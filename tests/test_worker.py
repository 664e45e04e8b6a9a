"""gunicorn's threads under slow, rude and too many clients; real sockets throughout."""

import io
import json
import math
import os
import select
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import requests
from conftest import GUNICORN, ROOT, WAITRESS, Encode, Samples, Server, serve
from PIL import Image

import predict
from bench.service import children_of
from service.asgi import MAX_TOGETHER

Connection = socket.socket
PING = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"
HEAD = "POST {} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n"


@contextmanager
def connect(server: Server) -> Iterator[Connection]:
    host, port = server.url.removeprefix("http://").split(":")
    with closing(socket.create_connection((host, int(port)), timeout=30)) as connection:
        yield connection


def wait_until_accepted(server: Server) -> None:
    """Return when the kernel holds no connection that no worker has accepted yet."""
    port = int(server.url.rpartition(":")[2])
    end = time.monotonic() + 10
    while time.monotonic() < end:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
        listening = [row for row in rows if row[3] == "0A"]
        ours = [row for row in listening if row[1].endswith(f":{port:04X}")]
        assert ours
        if all(row[4].endswith(":00000000") for row in ours):
            return
        time.sleep(0.01)
    raise TimeoutError("not all connections were accepted")


def post(path: str, body: bytes) -> bytes:
    return HEAD.format(path, len(body)).encode() + body


def read_all(connection: Connection) -> bytes:
    """Read until the other side closes."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def read_one(connection: Connection) -> tuple[int, dict[str, str], bytes]:
    """Read one answer, and nothing after it: its status, headers and body."""
    received = b""
    while not received.endswith(b"\r\n\r\n"):
        piece = connection.recv(1)
        assert piece, received
        received += piece
    first, *lines = received.decode().rstrip().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    size, body = int(headers["content-length"]), b""
    while len(body) < size:
        body += connection.recv(size - len(body))
    return int(first.split()[1]), headers, body


def passes(server: Server) -> float:
    """How often the network has been run."""
    text = requests.get(f"{server.url}/metrics", timeout=5).text
    name = "classifier_inference_seconds_count "
    [line] = [line for line in text.splitlines() if line.startswith(name)]
    return float(line.removeprefix(name))


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service with one worker, easily kept busy."""
    log = tmp_path_factory.mktemp("single") / "log"
    with serve(GUNICORN, log, WEB_CONCURRENCY="1") as server:
        yield server


@pytest.fixture(scope="module")
def photo() -> bytes:
    """A picture that is too large for the shared pass: it waits in the queue."""
    return (ROOT / "static" / "pictures" / "photo-t-shirt.jpg").read_bytes()


@pytest.fixture(scope="module")
def load() -> bytes:
    """A request that keeps the network busy for seconds: large flat pictures."""
    buffer = io.BytesIO()
    Image.new("RGB", (4000, 4000), "red").save(buffer, "PNG")
    files = [("image", buffer.getvalue())] * 6
    request = requests.Request("POST", "http://x/predict", files=files).prepare()
    body = request.body
    assert isinstance(body, bytes)
    head = HEAD.format("/predict", len(body)).removesuffix("\r\n")
    kind = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n"
    return (head + kind).encode() + body


def test_a_body_that_drips_in_is_408_after_ten_seconds(single: Server) -> None:
    with ExitStack() as stack:
        connection, silent, later = (
            stack.enter_context(connect(single)) for _ in range(3)
        )
        started = time.monotonic()
        connection.sendall(HEAD.format("/predict", 1000).encode())
        silent.sendall(b"POST /predict HTTP/1.1\r\nHost:")
        connection.settimeout(0.5)
        status, is_early = None, True
        while status is None:
            connection.sendall(b"\xff")
            if time.monotonic() - started > 6 and is_early:
                later.sendall(HEAD.format("/predict", 1000).encode())
                is_early = False
            try:
                status, headers, body = read_one(connection)
            except TimeoutError:
                continue
        took = time.monotonic() - started
        assert (status, json.loads(body)["code"]) == (408, "timeout")
        assert headers["connection"] == "close"
        assert 9.5 < took < 13
        assert read_all(silent) == b""  # a head that never ends is not worth an answer
        with suppress(OSError):
            while time.monotonic() - started < 20:
                connection.sendall(b"\xff")
                time.sleep(0.2)
        assert time.monotonic() - started < 14  # others may still be in time
        assert read_one(later)[0] == 408


def occupy(
    server: Server, stack: ExitStack, load: bytes, photo: bytes
) -> list[Connection]:
    """Keep the network busy; return the connection that does so and one that waits."""
    busy = stack.enter_context(connect(server))
    busy.sendall(load)
    first = stack.enter_context(connect(server))
    first.sendall(post("/predict", photo))
    while is_readable(first, 0.3):  # the large request had not arrived yet
        first = stack.enter_context(connect(server))
        first.sendall(post("/predict", photo))
    return [busy, first]


def is_readable(connection: Connection, seconds: float) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def fill(
    server: Server, stack: ExitStack, load: bytes, photo: bytes
) -> list[Connection]:
    """Keep the network busy, then fill the queue before it."""
    begun = occupy(server, stack, load, photo)
    others = [stack.enter_context(connect(server)) for _ in range(159)]
    for connection in others:
        connection.sendall(post("/predict", photo))
    return [*begun, *others]


def test_a_full_queue_is_503_before_the_body_is_read(
    single: Server, load: bytes, boot: bytes, photo: bytes
) -> None:
    with ExitStack() as stack:
        busy, *waiting = fill(single, stack, load, photo)
        time.sleep(0.3)
        refused = []
        for path in ("/predict", "/v2/models/fashion/infer", "/api/v1.0/predictions"):
            with connect(single) as connection:
                for _ in range(3):
                    started = time.monotonic()
                    connection.sendall(post(path, boot * 1000))
                    refused.append((path, *read_one(connection)))
                    assert time.monotonic() - started < 0.5
                connection.sendall(PING)
                assert read_one(connection)[0] == 200  # the connection is still good
        small = requests.post(f"{single.url}/predict", data=boot, timeout=5)
        answers = [read_one(connection) for connection in waiting]
        assert read_one(busy)[0] == 200
    assert small.status_code == 200  # small pictures do not wait for large ones
    for path, status, headers, body in refused:
        assert status == 503, path
        assert headers["retry-after"] == "1"
        assert len(headers["x-request-id"]) == 32
        assert headers["x-model-version"]
        document = json.loads(body)
        if path == "/predict":
            assert document["code"] == "overloaded"
            assert headers["content-type"] == "application/problem+json"
        elif path.startswith("/v2"):
            assert set(document) == {"error"}
        else:
            assert document["status"]["code"] == 503
    statuses = [status for status, _, _ in answers]
    assert set(statuses) == {200, 503}
    assert 18 <= statuses.count(200) <= 129
    text = requests.get(f"{single.url}/metrics", timeout=5).text
    assert 'classifier_requests_total{route="/predict",status="503"}' in text


@pytest.mark.parametrize("half", [False, True], ids=["closed", "half-closed"])
def test_a_client_that_leaves_the_queue_costs_nothing(
    single: Server, load: bytes, photo: bytes, half: bool
) -> None:
    """Its picture is neither decoded nor classified."""
    with ExitStack() as stack:
        begun = occupy(single, stack, load, photo)
        before = passes(single)
        for _ in range(10):
            leaving = stack.enter_context(connect(single))
            leaving.sendall(post("/predict", photo))
            time.sleep(0.01)
            leaving.shutdown(socket.SHUT_WR) if half else leaving.close()
        for connection in begun:
            read_one(connection)
        time.sleep(0.3)
        assert passes(single) == before + len(begun)


def test_a_client_that_leaves_costs_waitress_nothing_either(
    tmp_path: Path, load: bytes, photo: bytes
) -> None:
    options = [f"--{k.replace('_', '-')}={v}" for k, v in predict.WAITRESS.items()]
    command = [WAITRESS[0], *options, *WAITRESS[1:]]
    with serve(command, tmp_path / "log") as server, ExitStack() as stack:
        begun = occupy(server, stack, load, photo)
        before = passes(server)
        for _ in range(10):
            with connect(server) as leaving:
                leaving.sendall(post("/predict", photo))
        for connection in begun:
            read_one(connection)
        assert passes(server) == before + 2


def test_a_half_closed_client_gets_its_answer(single: Server, boot: bytes) -> None:
    with connect(single) as sender:
        sender.sendall(post("/predict", boot))
        sender.shutdown(socket.SHUT_WR)
        assert b'"class":"Ankle boot"' in read_all(sender)


def test_a_client_that_does_not_read_does_not_stop_others(
    gunicorn: Server, boot: bytes
) -> None:
    files = [("image", boot)] * 256
    url = f"{gunicorn.url}/predict?explain=true"
    request = requests.Request("POST", url, files=files).prepare()
    assert isinstance(request.body, bytes)
    head = HEAD.format("/predict?explain=true", len(request.body))
    kind = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n"
    with ExitStack() as stack:
        for _ in range(20):
            rude = stack.enter_context(connect(gunicorn))
            rude.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            rude.sendall((head.removesuffix("\r\n") + kind).encode() + request.body)
        answer = requests.post(f"{gunicorn.url}/predict", data=boot, timeout=10)
        assert answer.status_code == 200


def test_more_than_memory_holds_is_turned_away(single: Server, boot: bytes) -> None:
    """Four bodies of 31 MB and one of 9, all but complete, are more than 128 MB."""
    sizes = [31 * 1024**2] * 4 + [9 * 1024**2]
    with ExitStack() as stack:
        senders = [stack.enter_context(connect(single)) for _ in sizes]
        statuses = []
        for sender, size in zip(senders, sizes, strict=True):
            sender.sendall(HEAD.format("/predict", size).encode())
            try:
                sender.sendall(bytes(size - 1))
            except ConnectionError:
                statuses.append(503)
        with connect(single) as connection:
            connection.sendall(post("/predict", boot))
            assert read_one(connection)[0] == 200  # small ones are served all the while
        for sender in senders:
            sender.settimeout(0.5)
            try:
                statuses.append(read_one(sender)[0])
            except (TimeoutError, ConnectionError):
                continue
    assert statuses.count(503) >= 1
    answer = requests.post(f"{single.url}/predict", data=boot, timeout=5)
    assert answer.status_code == 200


def test_a_killed_worker_is_replaced(tmp_path: Path, boot: bytes) -> None:
    with serve(GUNICORN, tmp_path / "log", WEB_CONCURRENCY="1") as server:
        old = children_of(server.process.pid)
        os.kill(old[0], signal.SIGKILL)
        answer = requests.post(f"{server.url}/predict", data=boot, timeout=10)
        assert answer.status_code == 200
        assert children_of(server.process.pid) != old


def test_sigterm_loses_nothing_that_was_accepted(tmp_path: Path, boot: bytes) -> None:
    half = len(boot) // 2
    with serve(GUNICORN, tmp_path / "log", WEB_CONCURRENCY="2") as server:
        with ExitStack() as stack:
            senders = [stack.enter_context(connect(server)) for _ in range(20)]
            for sender in senders:
                sender.sendall(post("/predict", boot)[:-half])
            wait_until_accepted(server)
            time.sleep(0.1)
            started = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            for sender in senders:
                sender.sendall(boot[-half:])
            answers = [read_one(sender) for sender in senders]
        assert {status for status, _, _ in answers} == {200}
        assert server.process.wait(10) == 0
        assert time.monotonic() - started < 10  # what Docker allows


@pytest.mark.parametrize("field", ["", "Connection: close\r\n"])
def test_slow_senders_leave_others_their_pace(
    single: Server, boot: bytes, field: str
) -> None:
    """More of them than there are threads."""

    def median() -> float:
        times = []
        with requests.Session() as session:
            for _ in range(40):
                started = time.perf_counter()
                session.post(f"{single.url}/predict", data=boot, timeout=5)
                times.append(time.perf_counter() - started)
        return statistics.median(times)

    quiet = median()
    with ExitStack() as stack:
        slow = [stack.enter_context(connect(single)) for _ in range(310)]
        for sender in slow:
            head = HEAD.format("/predict", 1000).replace("\r\n", f"\r\n{field}", 1)
            sender.sendall(head.encode())
        assert median() < 5 * quiet + 0.01


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET /" + 5000 * "a" + " HTTP/1.1\r\n", 414),
        ("GET /ping HTTP/1.1\r\nX-Long: " + 9000 * "a" + "\r\n", 431),
        ("GET /ping HTTP/1.1\r\n" + 101 * "X-Many: a\r\n", 431),
        ("GET /ping HTTP/1.1\r\nno header\r\n", 400),
        (
            "POST /predict HTTP/1.1\r\nContent-Length: 1\r\n"
            "Transfer-Encoding: chunked\r\n",
            400,
        ),
    ],
)
def test_heads_have_limits(gunicorn: Server, head: str, status: int) -> None:
    with connect(gunicorn) as connection:
        connection.sendall(f"{head}Host: x\r\n\r\n".encode())
        assert read_all(connection).split()[1] == str(status).encode()


def test_a_jpeg_of_endless_scans_is_refused(server: Server, encode: Encode) -> None:
    """Each of 42 bytes, each as costly as the whole picture."""
    data = encode(np.zeros((2000, 2000, 3), np.uint8), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    bomb = data[:-2] + 300 * scan + data[-2:]
    answer = requests.post(f"{server.url}/predict", data=bomb, timeout=5)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_a_request_is_answered_when_it_is_complete(single: Server, boot: bytes) -> None:
    """Byte by byte, and two at once: neither takes a thread, none gets mixed up."""
    request = post("/predict", boot)
    with connect(single) as sender:
        for byte in request[:60]:
            sender.sendall(bytes([byte]))
        sender.sendall(request[60:])
        assert json.loads(read_one(sender)[2])["class"] == "Ankle boot"
        sender.sendall(request + post("/predict", b"none") + request)
        statuses = [read_one(sender)[0] for _ in range(3)]
    assert statuses == [200, 415, 200]


def test_requests_that_come_together_are_answered_together(
    single: Server, samples: Samples, encode: Encode
) -> None:
    """In few passes of the network, and each client hears of its own picture."""
    sent = [encode(Image.fromarray(pixels)) for pixels in samples.pixels[::3]]
    url = f"{single.url}/predict"
    alone = [requests.post(url, data=one, timeout=5).json() for one in sent]
    before = passes(single)
    [pid] = children_of(single.process.pid)
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(single)) for _ in sent]
        wait_until_accepted(single)
        os.kill(pid, signal.SIGSTOP)
        for client, one in zip(clients, sent, strict=True):
            client.sendall(post("/predict", one))
        os.kill(pid, signal.SIGCONT)
        together = [json.loads(read_one(client)[2]) for client in clients]
    assert together == alone
    assert passes(single) - before <= math.ceil(len(sent) / MAX_TOGETHER) + 1


def test_a_request_may_begin_behind_another(single: Server, boot: bytes) -> None:
    """And come to its end later, wherever it is cut."""
    ping = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"
    for one in (ping, post("/predict", boot), post("/predict", b"none")):
        both = one + post("/predict", boot)
        for cut in (len(one) + 1, len(one) + 30, len(both) - 1):
            with connect(single) as sender:
                sender.sendall(both[:cut])
                time.sleep(0.05)
                sender.sendall(both[cut:])
                assert read_one(sender)[0] in (200, 415)
                assert read_one(sender)[0] == 200


def test_much_may_come_behind_a_body_that_nobody_reads(single: Server) -> None:
    """More than is read ahead of it."""
    unread = b"POST /ping HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n" + b"x" * 10
    ping = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"
    with connect(single) as sender:
        sender.sendall(unread + 1000 * ping)
        assert read_one(sender)[0] == 405
        assert [read_one(sender)[0] for _ in range(1000)] == [200] * 1000


def test_a_head_that_gunicorn_would_refuse_is_left_to_it(
    single: Server, boot: bytes
) -> None:
    """What is answered at once must not be read less strictly."""
    size = f"Content-Length: {len(boot)}"
    for line in (
        f"{size}\r\n{size}",
        f"Content-Length : {len(boot)}",
        f"{size}\r\nBad(Name): 1",
        f"{size}\r\n folded",
        f"{size}\r\nTransfer-Encoding: chunked",
        f"Content-Length: +{len(boot)}",
        f"{size}\r\nContent-Length: {len(boot) + 35:09}",  # hides what comes behind
        f"{size}\r\nContent-Length: 123456789",
        f"{size}\r\nContent-Length: {len(boot)} ",
        f"{size}\r\nContent-Length:",
        f"Content-Length: +1\r\n{size}",
        f"{size}\r\nContent-Length: 5, 6",
        f"{size}\r\nHost: y",
    ):
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\n{line}\r\n\r\n"
        with connect(single) as sender:
            sender.sendall(head.encode() + boot)
            assert read_all(sender).split()[1] == b"400", line


def test_a_last_request_is_answered_and_closed(single: Server, boot: bytes) -> None:
    for path in ("/predict", "/ping"):
        with connect(single) as sender:
            asked = post(path, boot)
            sender.sendall(asked.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)[:-9])
            time.sleep(0.05)
            sender.sendall(asked[-9:])
            said = read_all(sender)
            assert b"\r\nConnection: close\r\n" in said
            assert said.split()[1] == (b"200" if path == "/predict" else b"405")


def test_connections_over_the_limit_are_503(tmp_path: Path) -> None:
    command = [*GUNICORN, "--worker-connections=6"]
    with (
        serve(command, tmp_path / "log", WEB_CONCURRENCY="1") as server,
        ExitStack() as stack,
    ):
        kept = [stack.enter_context(connect(server)) for _ in range(6)]
        for connection in kept:
            connection.sendall(PING)
            assert read_one(connection)[0] == 200
        with connect(server) as one_too_many:
            one_too_many.sendall(PING)
            assert read_all(one_too_many).startswith(b"HTTP/1.1 503")
        kept[0].close()
        time.sleep(0.1)
        with connect(server) as next_one:
            next_one.sendall(PING)
            assert read_one(next_one)[0] == 200


def test_clients_that_leave_use_up_no_connection(
    tmp_path: Path, load: bytes, photo: bytes
) -> None:
    command = [*GUNICORN, "--worker-connections=6"]
    with (
        serve(command, tmp_path / "log", WEB_CONCURRENCY="1") as server,
        ExitStack() as stack,
    ):
        busy = stack.enter_context(connect(server))
        busy.sendall(load)
        time.sleep(0.3)
        for _ in range(4):
            with connect(server) as leaving:
                leaving.sendall(post("/predict", photo))
        read_one(busy)
        time.sleep(0.3)
        others = [stack.enter_context(connect(server)) for _ in range(5)]
        for other in others:
            other.sendall(PING)
            assert read_one(other)[0] == 200


@pytest.mark.parametrize(
    ("option", "field"),
    [("--keep-alive=0", ""), ("--keep-alive=65", "Connection: close\r\n")],
)
def test_a_client_that_goes_on_sending_reads_its_503(
    tmp_path: Path, load: bytes, photo: bytes, option: str, field: str
) -> None:
    command = [*GUNICORN, option]
    with (
        serve(command, tmp_path / "log", WEB_CONCURRENCY="1") as server,
        ExitStack() as stack,
    ):
        fill(server, stack, load, photo)
        time.sleep(0.3)
        with connect(server) as sender:
            head = HEAD.format("/predict", 1_000_000)
            sender.sendall(head.replace("\r\n", f"\r\n{field}", 1).encode())
            for _ in range(20):
                sender.sendall(bytes(50_000))
                time.sleep(0.01)
            said = read_all(sender)
        assert said.startswith(b"HTTP/1.1 503")
        assert b"\r\nConnection: close\r\n" in said


def test_a_chunk_that_is_none_is_no_fault_of_ours(single: Server) -> None:
    head = "POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connect(single) as sender:
        sender.sendall(f"{head}ZZ\r\nabc\r\n".encode())
        said = read_all(sender)
    assert said.startswith(b"HTTP/1.1 400")
    assert said.count(b"HTTP/1.1") == 1  # what comes behind it is no request


def test_without_keeping_connections_it_serves(tmp_path: Path, boot: bytes) -> None:
    with serve([*GUNICORN, "--keep-alive=0"], tmp_path / "log") as server:
        for _ in range(20):
            answer = requests.post(f"{server.url}/predict", data=boot, timeout=5)
            assert answer.status_code == 200


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--keyfile=key", "--certfile=cert"], "HTTPS is the work"),
        (["--preload"], "each worker builds its own network"),
    ],
)
def test_what_is_not_to_be_had_is_refused_in_one_line(
    tmp_path: Path, options: list[str], fault: str
) -> None:
    for name in ("key", "cert"):
        (tmp_path / name).touch()
    options = [option.replace("=", f"={tmp_path}/") for option in options]
    done = subprocess.run(
        [sys.executable, "-m", "gunicorn", *options, "predict:app"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"gunicorn: {fault}")


def test_slow_senders_are_told_together_and_stop_nobody(
    single: Server, boot: bytes
) -> None:
    """More than there are threads, and all of them late in the same moment."""
    with ExitStack() as stack:
        slow = [stack.enter_context(connect(single)) for _ in range(400)]
        for sender in slow:
            sender.sendall(HEAD.format("/predict", 1000).encode())
        end, longest = time.monotonic() + 12, 0.0
        with requests.Session() as session:
            while time.monotonic() < end:
                started = time.monotonic()
                assert session.post(f"{single.url}/predict", data=boot, timeout=9).ok
                longest = max(longest, time.monotonic() - started)
        statuses = {read_one(sender)[0] for sender in slow}
    assert statuses == {408}
    assert longest < 2
