"""The queue before the network: bounded, in order, and not for long."""

from concurrent.futures import Future, wait
from contextlib import suppress
from functools import partial
from itertools import count
from time import sleep

import pytest

from service import batching
from service.batching import BURST, STRAINED, InferenceQueue, wait_for
from service.problems import RequestError


def present() -> bool:
    return False


def fill(queue: InferenceQueue) -> list[Future[None]]:
    """Submit work of 10 ms each until the queue is full."""
    futures: list[Future[None]] = []
    with suppress(RequestError):
        futures.extend(queue.submit(partial(sleep, 0.01), present) for _ in count())
    return futures


def test_a_full_queue_refuses_and_stays_short_for_a_while() -> None:
    queue = InferenceQueue()
    admitted = fill(queue)
    assert BURST.least < len(admitted) < 2 * BURST.least
    with pytest.raises(RequestError) as refused:
        [queue.submit(present, present) for _ in range(9)]
    assert refused.value.status == 503
    assert refused.value.headers == {"Retry-After": "1"}
    wait(admitted)
    assert STRAINED.least < len(fill(queue)) < BURST.least


def test_work_is_done_in_order() -> None:
    queue, done = InferenceQueue(), list[int]()
    wait([queue.submit(partial(done.append, n), present) for n in range(10)])
    assert done == list(range(10))


def test_who_waits_too_long_gets_503_while_others_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batching, "MAX_WAIT_SECONDS", 0.05)
    queue, done = InferenceQueue(), list[str]()
    slow = queue.submit(partial(sleep, 0.5), present)
    with pytest.raises(RequestError, match="waited") as late:
        wait_for(queue.submit(partial(done.append, "late"), present))
    assert late.value.status == 503
    assert slow.running()
    wait([slow, queue.submit(partial(done.append, "next"), present)])
    assert done == ["next"]


def test_a_failure_is_raised_and_frees_its_place() -> None:
    queue = InferenceQueue()
    for _ in range(2 * BURST.most):
        with pytest.raises(ZeroDivisionError):
            queue.submit(lambda: 1 / 0, present).result()
