"""Who gets the network when: one thread, and a bounded queue before it.

    wait_for(InferenceQueue().submit(work, is_gone))

Decoding and the network run for one request at a time, since more would only share the
same core. A bounded number wait in order; whoever would wait too long is refused at
once, for an early 503 is worth more than a late answer.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple, TypeVar

from service.problems import CLIENT_GONE, QUEUE_FULL, RequestError

MAX_WAIT_SECONDS = 5.0
LATE = f"waited {MAX_WAIT_SECONDS:g} s for the network"
RETRY_AFTER = {"Retry-After": "1"}
PACE_WEIGHT = 0.1  # of the last request in the moving average
STRAINED_SECONDS = 1.0  # for which the queue stays short once it was full

T = TypeVar("T")


class Bounds(NamedTuple):
    """How many may wait: as many as are served in `seconds`, within two limits.

    No more than are served in `MAX_WAIT_SECONDS` in any case.
    """

    seconds: float
    least: int
    most: int


BURST = Bounds(0.1, 18, 128)  # ordinarily
STRAINED = Bounds(0.02, 3, 128)  # when the queue was full a moment ago


def overloaded(detail: str = QUEUE_FULL) -> RequestError:
    """Return the error of a request that there is no capacity for."""
    return RequestError("overloaded", detail, RETRY_AFTER)


class InferenceQueue:
    """A thread that takes one job after another, with a bounded queue before it.

    A queue that was full is kept short for a while: under lasting overload those that
    are admitted wait little, and a burst is still served whole.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._mutex = threading.Lock()
        self._jobs = 0  # running or waiting
        self._strained_until = 0.0
        self._pace = 0.0  # seconds, moving average of a job's time

    def is_full(self) -> bool:
        """Return whether nobody more may wait."""
        waiting = self._jobs - 1
        is_strained = time.monotonic() < self._strained_until
        seconds, least, most = STRAINED if is_strained else BURST
        pace = self._pace or seconds
        if waiting < min(most, max(least, seconds / pace), MAX_WAIT_SECONDS / pace):
            return False
        self._strained_until = time.monotonic() + STRAINED_SECONDS
        return True

    def submit(self, work: Callable[[], T], is_gone: Callable[[], bool]) -> Future[T]:
        """Have `work` done in its turn.

        Raises `RequestError` if the queue is full; the future raises it if the client
        has gone while its request waited. Whoever waits for the future must cancel it
        after `MAX_WAIT_SECONDS`, as `wait_for` does.
        """
        with self._mutex:
            if self.is_full():
                raise overloaded()
            self._jobs += 1
            is_next = self._jobs == 1
        future = self._thread.submit(self._run, work, is_gone, is_next)
        future.add_done_callback(self._leave)
        return future

    def _run(
        self, work: Callable[[], T], is_gone: Callable[[], bool], is_next: bool
    ) -> T:
        """Do the work, unless its client has gone."""
        if not is_next and is_gone():
            raise RequestError("bad_request", CLIENT_GONE)
        started = time.monotonic()
        result = work()
        seconds = time.monotonic() - started
        self._pace += PACE_WEIGHT * (seconds - self._pace)
        return result

    def _leave(self, _: Future[T]) -> None:
        """Free the place of a job that is done or cancelled."""
        with self._mutex:
            self._jobs -= 1


def wait_for(future: Future[T]) -> T:
    """Return the result of a job. Raises `RequestError` if it is not begun in time."""
    wait([future], MAX_WAIT_SECONDS)
    if future.cancel():  # not if it runs or is done
        raise overloaded(LATE)
    return future.result()
