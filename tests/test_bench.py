"""The comparison with others is fair, and what counts as a lost request is right."""

import runpy
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import colour_model
import pytest
from conftest import Server

from bench import client, load, workloads, wrk
from bench.results import LOOP, Json, slow_rounds, summarise
from bench.rivals import HERE, RIVALS
from bench.service import StartError
from bench.workloads import Workload
from model import artifact
from model.classifier import Classifier

Workloads = dict[str, Workload]
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n%s\r\nPONG"
HALF = ANSWER[:20]


@pytest.fixture(scope="module")
def everything() -> Workloads:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workloads, "PHOTOS", 2)
        return workloads.make_workloads()


@pytest.fixture
def ours(gunicorn: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrk, "URL", gunicorn.url)


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setattr(client, "ADDRESS", listener.getsockname())
        yield listener


@pytest.mark.usefixtures("ours")
def test_our_answer_to_every_workload_is_right(everything: Workloads) -> None:
    for workload in everything.values():
        wrk.check(workload)


def test_rivals_take_the_same_model_and_photos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model.bin"
    colour_model.write(model)
    files = [tmp_path / name for name in colour_model.COLOURS]
    for file, colour in zip(files, colour_model.COLOURS.values(), strict=True):
        file.write_bytes(colour_model.picture(colour))
    classifier = Classifier(artifact.load(str(model)))
    monkeypatch.setattr(workloads, "PHOTOS", 3)
    sent = workloads.photo_workloads(classifier, files, "photos")
    monkeypatch.setenv("MODEL", str(model))
    rival = runpy.run_path(str(HERE / "network.py"))
    found = [rival["classify"](body)["class"] for body in sent["jpeg raw"].bodies]
    assert found == classifier.classes


@pytest.mark.usefixtures("ours")
def test_a_wrong_answer_is_noticed(everything: Workloads) -> None:
    workload = everything["png raw"]
    assert workload.classes
    wrong = workload._replace(classes=[[one[0] ^ 1] for one in workload.classes])
    with pytest.raises(StartError, match="pictures of"):
        wrk.check(wrong)


def test_a_thousand_pictures_differ(everything: Workloads) -> None:
    for name, workload in everything.items():
        if name.startswith("png"):
            assert len(set(workload.bodies)) == len(workload.bodies) == 1000


@pytest.mark.skipif(not shutil.which("wrk"), reason="there is no wrk")
@pytest.mark.usefixtures("ours")
def test_a_load_of_failures_is_void(everything: Workloads, tmp_path: Path) -> None:
    good = everything["png raw"]
    bad = good._replace(bodies=[*good.bodies[:9], b"no picture"])
    for workload, is_void in ((good, False), (bad, True)):
        folder = tmp_path / str(is_void)
        load.write_bodies(folder, workload.bodies)
        assert wrk.wrk(workload, folder, 2, 1)["is_void"] == is_void


def one_load(number: int, side: str, rate: float, *, is_void: bool = False) -> Json:
    about = {"pictures": "p", "rival": "r", "workload": "w", "connections": 1}
    return about | {"round": number, "side": side, "rate": rate, "is_void": is_void}


def test_ratios_are_taken_in_a_round_and_void_loads_left_out() -> None:
    loads = [
        one_load(number, side, rate, is_void=rate == 1)
        for number, pair in enumerate([(100, 50), (10, 10), (9, 1)])
        for side, rate in zip(("us", "them"), pair, strict=True)
    ]
    [row] = summarise(loads)
    assert row["rounds"] == 2
    assert row["rate"] == {
        "us": (55, 10, 100),
        "them": (30, 10, 50),
        "ratio": (1.5, 1, 2),
    }


def test_a_round_in_which_a_rival_is_half_as_fast_is_not_counted() -> None:
    loads = [one_load(number, "them", rate) for number, rate in enumerate([9, 4, 8])]
    assert slow_rounds(loads, "r") == [1]
    load.discard(loads, "r", 1)
    assert slow_rounds([*loads, one_load(1, "them", 8)], "r") == []


def test_every_rival_has_workloads(everything: Workloads) -> None:
    for name in [*RIVALS, LOOP]:
        assert load.choose(name, everything)


def test_a_reset_in_the_listen_backlog_is_no_lost_request(
    listener: socket.socket,
) -> None:
    threading.Timer(0.1, listener.close).start()
    [answer] = send(1)
    assert answer.status == client.NO_ANSWER
    assert not answer.is_accepted


@pytest.mark.parametrize("sent", [[b""], [HALF], [ANSWER % b"", b""]])
def test_an_accepted_request_without_an_answer_is_lost(
    listener: socket.socket, sent: list[bytes]
) -> None:
    threading.Thread(target=serve, args=(listener, sent), daemon=True).start()
    *_, answer = send(len(sent))
    assert answer.status == client.NO_ANSWER
    assert answer.is_accepted


@pytest.mark.parametrize("field", [b"Connection: close\r\n", b""])
def test_a_connection_closed_between_requests_loses_none(
    listener: socket.socket, field: bytes
) -> None:
    def run() -> None:
        for _ in range(2):
            serve(listener, [ANSWER % field])

    threading.Thread(target=run, daemon=True).start()
    assert [answer.status for answer in send(2, pause=0.1)] == [200, 200]


def test_an_interim_answer_is_not_the_answer(listener: socket.socket) -> None:
    sent = [b"HTTP/1.1 100 Continue\r\n\r\n" + ANSWER % b""]
    threading.Thread(target=serve, args=(listener, sent), daemon=True).start()
    assert [answer.status for answer in send(1)] == [200]


def serve(listener: socket.socket, answers: list[bytes]) -> None:
    """Accept a connection, answer so many requests on it, and close it."""
    connection, _ = listener.accept()
    with connection:
        for answer in answers:
            connection.recv(client.RECEIVE_BYTES)
            connection.sendall(answer)


def send(count: int, pause: float = 0.0) -> list[client.Answer]:
    """Send requests one after the other; return what became of them."""
    requests = client.Load([client.PING])
    for number in range(1, count + 1):
        requests.begin(time.perf_counter())
        while len(requests.answers) < number:
            requests.poll(0.05)
        time.sleep(pause)
    requests.drain()
    return requests.answers
