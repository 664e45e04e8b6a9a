"""Connections of gunicorn's worker: slow, many, malformed and half-closed ones."""

import io
import json
import math
import os
import select
import signal
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
import requests
from conftest import (
    GUNICORN,
    PING,
    ROOT,
    Answer,
    Connection,
    Encode,
    Samples,
    Server,
    connect,
    form,
    head,
    post,
    read_all,
    read_one,
    serve,
    wait_until_accepted,
)
from PIL import Image

from bench.service import children_of
from service.asgi import MAX_TOGETHER

BOOT = (ROOT / "static" / "pictures" / "ankle-boot.png").read_bytes()
# too large for the shared pass: it waits in the queue
PHOTO = (ROOT / "static" / "pictures" / "photo-t-shirt.jpg").read_bytes()
EXPECT = "Expect: 100-continue\r\n"
LAST = "Connection: close\r\n"


def passes(server: Server) -> float:
    """Return how often the network has been run."""
    text = requests.get(f"{server.url}/metrics", timeout=5).text
    name = 'classifier_inference_seconds_count{model="fashion"} '
    [line] = [line for line in text.splitlines() if line.startswith(name)]
    return float(line.removeprefix(name))


def workers_of(server: Server) -> list[int]:
    return children_of(server.process.pid) or [server.process.pid]


def count_files(pid: int) -> int:
    """Return how many files and sockets a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def wait_until(is_true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run one worker, which is easily kept busy."""
    log = tmp_path_factory.mktemp("single") / "log"
    with serve(GUNICORN, log, WEB_CONCURRENCY="1") as server:
        yield server


def large_pictures(count: int) -> bytes:
    """Return a request that takes the network about 0.17 s a picture."""
    buffer = io.BytesIO()
    Image.new("RGB", (4000, 4000), "red").save(buffer, "PNG")
    body, content_type = form(*[buffer.getvalue()] * count)
    return post("/predict", body, f"Content-Type: {content_type}\r\n")


def occupy(server: Server, stack: ExitStack, load: bytes) -> list[Connection]:
    """Keep the network busy; return the connection that does so and one that waits."""
    busy = stack.enter_context(connect(server))
    busy.sendall(load)
    while True:
        first = stack.enter_context(connect(server))
        first.sendall(post("/predict", PHOTO))
        if not select.select([first], [], [], 0.3)[0]:  # else it came before the load
            return [busy, first]


class Ending(NamedTuple):
    """What a slow client received, and after how many seconds its connection ended."""

    received: bytes
    seconds: float


WAIT = 12.0  # seconds, more than a request has
CHUNKED = "Transfer-Encoding: chunked\r\n"
CHUNKS = f"POST /predict HTTP/1.1\r\nHost: x\r\n{CHUNKED}\r\n".encode()
STEADY = head("/predict", 2_000_000, LAST)  # complete after 40 s
# what each client sends at once, and then every half second
SLOW = {
    "silent": (b"", b""),
    "head": (b"POST /predict HTTP/1.1\r\nHost:", b""),
    "slow head": (b"POST /predict HTTP/1.1\r\nHost: ", b"x"),
    "later head": (PING, b"GET"),
    "head behind another": (PING + b"GET /ping", b""),
    "body": (head("/predict", 1000), b""),
    "slow body": (head("/predict", 1000), b"x"),
    "chunks": (CHUNKS, b"1\r\nx\r\n"),
}


def follow(server: Server, sent: bytes, more: bytes, wait: float = WAIT) -> Ending:
    """Send until the connection ends or the time is over."""
    started, received = time.monotonic(), b""
    with connect(server) as connection:
        connection.sendall(sent)
        connection.settimeout(0.5)
        while time.monotonic() - started < wait:
            try:
                piece = connection.recv(65536)
            except TimeoutError:
                connection.sendall(more)
                continue
            if not piece:
                return Ending(received, time.monotonic() - started)
            received += piece
    return Ending(received, math.inf)


def response_times(server: Server, seconds: float) -> list[float]:
    """Send one request after another; return how long each answer took."""
    times = []
    end = time.monotonic() + seconds
    with requests.Session() as session:
        while time.monotonic() < end:
            started = time.monotonic()
            session.post(f"{server.url}/predict", data=BOOT, timeout=9)
            times.append(time.monotonic() - started)
    return times


class Slow(NamedTuple):
    """What many slow clients and an ordinary one experienced."""

    endings: dict[str, Ending]
    statuses: set[int]  # of a crowd of incomplete bodies
    quiet: list[float]  # seconds of answers before
    times: list[float]  # and meanwhile


@pytest.fixture(scope="module")
def slow(single: Server, waitress: Server) -> Slow:
    quiet = response_times(single, 1)
    with ExitStack() as stack, ThreadPoolExecutor(len(SLOW) + 1) as pool:
        clients = {
            name: pool.submit(follow, single, *sent) for name, sent in SLOW.items()
        }
        clients["waitress"] = pool.submit(follow, waitress, *SLOW["body"])
        crowd = [stack.enter_context(connect(single)) for _ in range(400)]
        for connection in crowd:
            connection.sendall(head("/predict", 1000))
        times = response_times(single, WAIT)
        statuses = {read_one(connection).status for connection in crowd}
        endings = {name: client.result() for name, client in clients.items()}
    return Slow(endings, statuses, quiet, times)


@pytest.mark.parametrize("name", ["body", "slow body", "chunks"])
def test_an_incomplete_body_is_408_after_ten_seconds(slow: Slow, name: str) -> None:
    received, seconds = slow.endings[name]
    assert received.startswith(b"HTTP/1.1 408")
    assert b'"code":"timeout"' in received
    assert b"\r\nConnection: close\r\n" in received
    assert 9.5 < seconds < WAIT


@pytest.mark.parametrize(
    "name", ["head", "slow head", "later head", "head behind another"]
)
def test_an_incomplete_head_is_closed_after_ten_seconds(slow: Slow, name: str) -> None:
    received, seconds = slow.endings[name]
    assert received.count(b"HTTP/1.1") == (
        name in {"later head", "head behind another"}
    )
    assert 9.5 < seconds < WAIT


def test_a_silent_connection_stays(slow: Slow) -> None:
    assert slow.endings["silent"] == (b"", math.inf)


def test_2_mb_at_50_kb_a_second_are_received(single: Server) -> None:
    received, seconds = follow(single, STEADY, bytes(25_000), wait=60)
    assert received.startswith(b"HTTP/1.1 415")
    assert seconds > 35


def test_a_page_whose_upload_stops_is_not_made_to_repeat_it(single: Server) -> None:
    sent = head("/predict", 1000).replace(b"\r\n\r\n", b"\r\nOrigin: http://x\r\n\r\n")
    received, seconds = follow(single, sent, b"")
    assert received.startswith(b"HTTP/1.1 400")
    assert 9.5 < seconds < WAIT


def test_waitress_closes_an_incomplete_body(slow: Slow) -> None:
    assert 9.5 < slow.endings["waitress"].seconds < WAIT


def test_400_slow_senders_do_not_delay_others(slow: Slow) -> None:
    assert slow.statuses == {408}
    assert statistics.median(slow.times) < 5 * statistics.median(slow.quiet) + 0.01
    assert max(slow.times) < 2


def test_a_full_queue_is_503_before_the_body_is_read(single: Server) -> None:
    with ExitStack() as stack:
        busy, *waiting = occupy(single, stack, large_pictures(12))
        waiting += [stack.enter_context(connect(single)) for _ in range(139)]
        for connection in waiting[1:]:
            connection.sendall(post("/predict", PHOTO))
        time.sleep(0.3)
        refused: dict[str, Answer] = {}
        for path in ("/predict", "/v2/models/fashion/infer", "/api/v1.0/predictions"):
            sender = stack.enter_context(connect(single))
            sender.sendall(head(path, 1_000_000))
            refused[path] = read_one(sender)
        check_that_a_sender_reads_its_503(single)
        check_that_the_connection_serves_on(single)
        small = requests.post(f"{single.url}/predict", data=BOOT, timeout=5)
        statuses = [read_one(connection).status for connection in waiting]
        assert read_one(busy).status == 200
    assert small.status_code == 200  # small pictures do not wait for large ones
    assert {answer.status for answer in refused.values()} == {503}
    for answer in refused.values():
        assert answer.headers["retry-after"] == "1"
        assert len(answer.headers["x-request-id"]) == 32
        assert answer.headers["x-model-version"]
    problem, v2, seldon = (json.loads(answer.body) for answer in refused.values())
    assert problem["code"] == "overloaded"
    assert set(v2) == {"error"}
    assert seldon["status"]["code"] == 503
    assert set(statuses) == {200, 503}
    assert 18 <= statuses.count(200) <= 129
    text = requests.get(f"{single.url}/metrics", timeout=5).text
    assert 'classifier_requests_total{route="/predict",status="503"}' in text


def check_that_a_sender_reads_its_503(server: Server) -> None:
    """It reads no answer until it has sent all."""
    with connect(server) as sender:
        sender.sendall(head("/predict", 1_000_000, LAST))
        for _ in range(20):
            sender.sendall(bytes(50_000))
            time.sleep(0.005)
        received = read_all(sender)
    assert received.startswith(b"HTTP/1.1 503")
    assert b"\r\nConnection: close\r\n" in received


def check_that_the_connection_serves_on(server: Server) -> None:
    """After a 503 whose body was sent, and one that waited for 100 Continue."""
    with connect(server) as sender:
        for _ in range(3):
            sender.sendall(post("/predict", BOOT * 1000))
            assert read_one(sender).status == 503
        sender.sendall(PING)
        assert read_one(sender).status == 200
        sender.sendall(head("/predict", 1_000_000, EXPECT))
        assert read_one(sender).status == 503


@pytest.mark.parametrize("kind", ["single", "single, half-closed", "waitress"])
def test_a_client_that_leaves_the_queue_costs_nothing(
    kind: str, request: pytest.FixtureRequest
) -> None:
    """Its picture is neither decoded nor classified, its connection is closed."""
    server: Server = request.getfixturevalue(kind.partition(",")[0])
    [pid] = workers_of(server)
    before, files = passes(server), count_files(pid)
    with ExitStack() as stack:
        begun = occupy(server, stack, large_pictures(5))
        for _ in range(10):
            leaving = stack.enter_context(connect(server))
            leaving.sendall(post("/predict", PHOTO))
            time.sleep(0.01)
            leaving.shutdown(socket.SHUT_WR) if "half" in kind else leaving.close()
        assert [read_one(connection).status for connection in begun] == [200, 200]
        # two that are served, and perhaps a photo or two that came before the load
        wait_until(lambda: count_files(pid) <= files + 4)
        assert passes(server) <= before + 4
    wait_until(lambda: count_files(pid) <= files)


def test_a_half_closed_client_gets_its_answer(single: Server) -> None:
    with connect(single) as sender:
        sender.sendall(post("/predict", BOOT))
        sender.shutdown(socket.SHUT_WR)
        assert b'"class":"Ankle boot"' in read_all(sender)


def test_a_client_that_does_not_read_does_not_stop_others(gunicorn: Server) -> None:
    body, content_type = form(*[BOOT] * 256)
    fields = f"Content-Type: {content_type}\r\n"
    with ExitStack() as stack:
        for _ in range(20):
            sender = stack.enter_context(connect(gunicorn))
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sender.sendall(post("/predict?explain=true", body, fields))
        answer = requests.post(f"{gunicorn.url}/predict", data=BOOT, timeout=10)
        assert answer.status_code == 200


def test_bodies_over_128_mb_together_are_503(single: Server) -> None:
    """Of five bodies that are all but complete the last is refused, or another."""
    sizes = [31 * 1024**2] * 4 + [9 * 1024**2]
    statuses = []
    with ExitStack() as stack:
        senders = [stack.enter_context(connect(single)) for _ in sizes]
        for sender, size in zip(senders, sizes, strict=True):
            sender.sendall(head("/predict", size))
            try:
                sender.sendall(bytes(size - 1))
            except ConnectionError:
                statuses.append(503)
        small = requests.post(f"{single.url}/predict", data=BOOT, timeout=5)
        assert small.status_code == 200  # these are served meanwhile
        for sender in senders:
            sender.settimeout(0.3)
            try:
                statuses.append(read_one(sender).status)
            except (TimeoutError, ConnectionError):
                continue
    assert statuses.count(503) >= 1
    after = requests.post(f"{single.url}/predict", data=BOOT * 1000, timeout=5)
    assert after.status_code == 200


def test_both_workers_get_connections(gunicorn: Server) -> None:
    workers = workers_of(gunicorn)
    before = [count_files(pid) for pid in workers]
    with ExitStack() as stack:
        for _ in range(16):
            stack.enter_context(connect(gunicorn)).sendall(PING)
        wait_until_accepted(gunicorn)
        time.sleep(0.1)
        after = [count_files(pid) for pid in workers]
    assert min(after[0] - before[0], after[1] - before[1]) >= 2


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run one worker with few connections, which are not kept, and a key."""
    log = tmp_path_factory.mktemp("limited") / "log"
    command = [*GUNICORN, "--worker-connections=6", "--keep-alive=0"]
    with serve(command, log, WEB_CONCURRENCY="1", FLASK_API_KEY="key") as server:
        yield server


def test_connections_over_the_limit_are_503(limited: Server) -> None:

    def is_served() -> bool:
        with connect(limited) as connection:
            connection.sendall(PING)
            return read_all(connection).startswith(b"HTTP/1.1 200")

    wait_until(is_served)  # connections of other tests may be about to close
    with ExitStack() as stack:
        silent = [stack.enter_context(connect(limited)) for _ in range(6)]
        wait_until_accepted(limited)
        with connect(limited) as one_too_many:
            one_too_many.sendall(PING)
            assert read_all(one_too_many).startswith(b"HTTP/1.1 503")
        silent[0].close()
        wait_until(is_served)


def test_it_serves_without_keeping_connections(limited: Server) -> None:
    with requests.Session() as session:
        for _ in range(20):
            headers = {"X-API-Key": "key"}
            answer = session.post(
                f"{limited.url}/predict", BOOT, headers=headers, timeout=5
            )
            assert answer.status_code == 200
            assert answer.headers["Connection"] == "close"


SIZE = f"Content-Length: {len(BOOT)}\r\n"


@pytest.mark.parametrize(
    ("start", "status"),
    [
        ("GET /" + 5000 * "a" + " HTTP/1.1\r\n", 414),
        ("GET /ping HTTP/1.1\r\nX-Long: " + 9000 * "a" + "\r\n", 431),
        ("GET /ping HTTP/1.1\r\n" + 101 * "X-Many: a\r\n", 431),
        ("GET /ping HTTP/1.1\r\nX-API-Key SECRET\r\n", 400),
        (f"POST /predict HTTP/1.1\r\n{SIZE}{CHUNKED}", 400),
        (f"POST /predict HTTP/1.1\r\n{SIZE}{SIZE}", 400),
        (f"POST /predict HTTP/1.1\r\n{SIZE}Content-Length: 1\r\n", 400),
        ("POST /predict HTTP/1.1\r\nContent-Length : 9\r\n", 400),
        ("POST /predict HTTP/1.1\r\nContent-Length: +9\r\n", 400),
        (f"POST /predict HTTP/1.1\r\n{SIZE} folded\r\n", 400),
        (f"POST /predict HTTP/1.1\r\n{SIZE}Host: y\r\n", 400),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_malformed_or_large_head_is_refused(
    single: Server, start: str, status: int
) -> None:
    with connect(single) as connection:
        connection.sendall(f"{start}Host: x\r\n\r\n".encode() + BOOT)
        assert read_all(connection).split()[1] == str(status).encode()
    assert "SECRET" not in single.log.read_text()


def test_a_malformed_chunk_is_refused(single: Server) -> None:
    with connect(single) as sender:
        sender.sendall(CHUNKS + b"ZZ\r\nabc\r\n" + PING)
        received = read_all(sender)
    assert received.startswith(b"HTTP/1.1 400")
    assert received.count(b"HTTP/1.1") == 1  # what follows is no request


@pytest.mark.parametrize("field", ["SCRIPT_NAME", "PATH_INFO", "HTTP_HOST"])
def test_fields_with_underscores_do_not_change_the_route(
    single: Server, field: str
) -> None:
    """Some are a proxy's to gunicorn if they come from loopback."""
    for path, status in (("/ping", 200), ("/public/metrics", 404)):
        headers = {field: "/public"}
        answer = requests.get(f"{single.url}{path}", headers=headers, timeout=5)
        assert answer.status_code == status
        answer = requests.post(
            f"{single.url}/predict", BOOT, headers=headers, timeout=5
        )
        assert answer.status_code == 200


def test_a_websocket_is_refused(single: Server) -> None:
    upgrade = (
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    )
    key = "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
    for path in ("/ping", "/predict"):
        with connect(single) as connection:
            first = f"GET {path} HTTP/1.1\r\nHost: x\r\n{upgrade}{key}\r\n"
            connection.sendall(first.encode())
            assert read_all(connection).startswith(b"HTTP/1.1 403")
    assert requests.get(f"{single.url}/ping", timeout=5).status_code == 200


def test_100_continue_is_sent_unless_the_body_is_refused(
    single: Server, limited: Server
) -> None:
    with connect(single) as sender:
        sender.sendall(head("/predict", len(BOOT), EXPECT))
        assert read_one(sender).status == 100
        sender.sendall(BOOT)
        assert read_one(sender).status == 200
        sender.sendall(head("/predict", 40_000_000, EXPECT))
        assert read_one(sender).status == 413
    with connect(limited) as sender:
        sender.sendall(head("/predict", 1_000_000, EXPECT))
        assert read_one(sender).status == 401


def test_a_request_is_answered_when_it_is_complete(single: Server) -> None:
    """Byte by byte, several at once, and when one begins behind another."""
    request = post("/predict", BOOT)
    with connect(single) as sender:
        for byte in request[:60]:
            sender.sendall(bytes([byte]))
        sender.sendall(request[60:])
        assert json.loads(read_one(sender).body)["class"] == "Ankle boot"
        sender.sendall(request + post("/predict", b"none") + PING)
        assert [read_one(sender).status for _ in range(3)] == [200, 415, 200]
        for begun in (request[:1], request[:30], request[:-1]):
            sender.sendall(PING + begun)
            assert read_one(sender).status == 200
            sender.sendall(request[len(begun) :])
            assert read_one(sender).status == 200


def test_many_requests_may_follow_a_body_that_is_not_read(single: Server) -> None:
    with connect(single) as sender:
        sender.sendall(post("/ping", b"x" * 10) + 1000 * PING)
        assert read_one(sender).status == 405
        assert [read_one(sender).status for _ in range(1000)] == [200] * 1000


@pytest.mark.parametrize(("path", "status"), [("/predict", b"200"), ("/ping", b"405")])
def test_a_last_request_is_answered_and_closed(
    single: Server, path: str, status: bytes
) -> None:
    with connect(single) as sender:
        sender.sendall(post(path, BOOT, LAST))
        received = read_all(sender)
    assert received.split()[1] == status
    assert b"\r\nConnection: close\r\n" in received


def test_requests_that_arrive_together_share_passes(
    single: Server, samples: Samples, encode: Encode
) -> None:
    """And each client gets the answer to its own picture."""
    sent = [encode(Image.fromarray(pixels)) for pixels in samples.pixels[::3]]
    url = f"{single.url}/predict"
    alone = [requests.post(url, data=one, timeout=5).json() for one in sent]
    before = passes(single)
    [pid] = workers_of(single)
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(single)) for _ in sent]
        wait_until_accepted(single)
        os.kill(pid, signal.SIGSTOP)
        for client, one in zip(clients, sent, strict=True):
            client.sendall(post("/predict", one))
        os.kill(pid, signal.SIGCONT)
        together = [json.loads(read_one(client).body) for client in clients]
    assert together == alone
    assert passes(single) - before <= math.ceil(len(sent) / MAX_TOGETHER) + 1


def test_a_killed_worker_is_replaced(single: Server) -> None:
    """The last test of this server."""
    [old] = workers_of(single)
    os.kill(old, signal.SIGKILL)
    answer = requests.post(f"{single.url}/predict", data=BOOT, timeout=10)
    assert answer.status_code == 200
    assert workers_of(single) != [old]
