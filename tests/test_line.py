"""The line for the network keeps order, bounds, and nobody too long."""

import threading
import time
from collections.abc import Callable

import pytest

from service import batching as line_room
from service.batching import Bounds, Line, OverloadedError


def begin(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.02)  # for it to be in the line before the next
    return thread


def test_turns_come_in_the_order_of_asking() -> None:
    line, order = Line(), list[int]()

    def work(number: int) -> None:
        with line as had_to_wait:
            assert had_to_wait
            order.append(number)

    with line as had_to_wait:
        assert not had_to_wait
        threads = [begin(lambda n=number: work(n)) for number in range(5)]  # type: ignore[misc]
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4]


def test_one_at_a_time() -> None:
    line, inside, most = Line(), 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(200):
            with line:
                inside += 1
                most = max(most, inside)
                time.sleep(0.0001)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_an_error_passes_the_turn_on() -> None:
    line = Line()
    with pytest.raises(ZeroDivisionError), line:
        1 / 0  # noqa: B018
    with line as had_to_wait:
        assert not had_to_wait


def test_a_line_that_was_full_is_short_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(line_room, "BURST", Bounds(1, 4, 4))
    monkeypatch.setattr(line_room, "STRAIN", Bounds(1, 2, 2))
    monkeypatch.setattr(line_room, "STRAIN_SECONDS", 0.5)
    line, leave = Line(), threading.Semaphore(0)

    def work() -> None:
        with line:
            leave.acquire()

    threads = [begin(work) for _ in range(5)]
    assert line.is_full()
    with pytest.raises(OverloadedError, match="full"), line:
        pass
    leave.release()
    time.sleep(0.05)
    assert line.is_full(), "three wait, one more than may now"
    leave.release(2)
    time.sleep(0.05)
    assert not line.is_full()
    threads.append(begin(work))
    assert line.is_full()
    time.sleep(0.6)
    assert not line.is_full(), "a burst is let in again"
    leave.release(3)
    for thread in threads:
        thread.join()


def test_those_let_in_are_expected_for_a_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not for longer: their senders may be slow, or their requests bad."""
    monkeypatch.setattr(line_room, "BURST", Bounds(1, 4, 4))
    monkeypatch.setattr(line_room, "STRAIN_SECONDS", 0.0)
    line = Line()
    assert [line.lets_in() for _ in range(9)] == 9 * [True]  # nobody is at work
    time.sleep(2 * line_room.COMING_SECONDS)
    with line:
        assert [line.lets_in() for _ in range(9)] == 4 * [True] + 5 * [False]
        time.sleep(2 * line_room.COMING_SECONDS)
        assert line.lets_in()
    assert line.lets_in()


def test_slow_turns_shorten_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_room, "BURST", Bounds(0.1, 1, 100))
    line, leave = Line(), threading.Event()
    for _ in range(100):
        with line:
            time.sleep(0.005)

    def wait() -> None:
        with line:
            leave.wait()

    threads = [begin(wait)]
    while not line.is_full():
        threads.append(begin(wait))
        assert len(threads) < 50
    leave.set()
    for thread in threads:
        thread.join()
    assert 5 <= len(threads) - 1 <= 20  # 0.1 s at 5 ms and what this machine adds


def test_nobody_waits_longer_than_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_room, "PATIENCE_SECONDS", 0.05)
    line, leave = Line(), threading.Event()

    def wait() -> None:
        with line:
            leave.wait()

    first = begin(wait)
    started = time.monotonic()
    with pytest.raises(OverloadedError, match=r"waited 0\.05 s"), line:
        pass
    assert 0.05 <= time.monotonic() - started < 1
    leave.set()
    first.join()
    with line as had_to_wait:
        assert not had_to_wait  # the place was given up


def test_a_turn_may_be_taken_at_once_or_not_at_all() -> None:
    line = Line()
    assert line.takes()
    assert not line.takes()
    line.pass_on()
    with line:
        assert not line.takes()
    assert line.takes()
    assert not line.is_free()
    line.pass_on()
    assert line.is_free()


def test_a_turn_of_many_leaves_room_for_as_many() -> None:
    """Each of ten takes a tenth of the turn: so many more are served in time."""
    room = {}
    for count in (1, 10):
        line = Line()
        for _ in range(30):
            assert line.takes()
            time.sleep(0.01)
            line.pass_on(count)
        with line:
            room[count] = sum(line.lets_in() for _ in range(200))
    assert room[1] < 25
    assert room[10] > 50


def test_after_a_long_turn_many_short_ones_make_room_soon() -> None:
    line = Line()
    assert line.takes()
    time.sleep(0.3)
    line.pass_on()
    for _ in range(3):
        assert line.takes()
        line.pass_on(16)
    with line:
        assert sum(line.lets_in() for _ in range(200)) > 50
