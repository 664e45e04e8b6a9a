"""The line for the network: one has the turn, a bounded number wait in order.

    with line as had_to_wait:
        ...  # decode, classify

Threads take requests in, slow senders too; decoding and the network are for one request
at a time, or for small ones that came together, since more would only share the same
core. Who would wait too long is turned away at once, for an early no is worth more than
a late answer.
"""

import threading
import time
from collections import deque
from types import TracebackType
from typing import NamedTuple

PATIENCE_SECONDS = 5.0  # the longest anybody waits
FULL = "the line for the network is full"
PACE_SHARE = 0.1  # that the last request has in the mean


class OverloadedError(Exception):
    """The line is full, or the wait was too long."""


class Bounds(NamedTuple):
    """How many may wait: as many as are served in `seconds`, within two limits."""

    seconds: float
    least: int
    most: int


BURST = Bounds(0.1, 18, 128)  # ordinarily
STRAIN = Bounds(0.02, 3, 128)  # when the line was full a moment ago
STRAIN_SECONDS = 1.0
COMING_SECONDS = 0.05  # in which a request that is let in gets to the line, or is slow


class Line:
    """A lock that is passed on in the order of asking, with a bounded line before it.

    A line that was full is kept short for a while: under lasting overload those who
    are let in wait little, and a burst is still served whole.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._coming: deque[float] = deque()  # since when, of those let in
        self._is_taken = False
        self._strained_until = 0.0
        self._pace = 0.0  # seconds, the mean time a request has the turn
        self._began = 0.0

    def lets_in(self) -> bool:
        """Tell whether one more may come, and expect it if so."""
        with self._mutex:
            if self._is_full():
                return False
            self._coming.append(time.monotonic())
            return True

    def is_full(self, before: int = 0) -> bool:
        """Tell whether nobody more may wait, beside those who went `before`."""
        with self._mutex:
            return self._is_full(before)

    def is_free(self) -> bool:
        """Tell whether nobody has the turn."""
        return not self._is_taken

    def _is_full(self, before: int = 0) -> bool:
        now = time.monotonic()
        while self._coming and self._coming[0] < now - COMING_SECONDS:
            self._coming.popleft()
        if not self._is_taken and not before:
            return False
        ahead = len(self._waiting) + len(self._coming) + before
        seconds, least, most = STRAIN if now < self._strained_until else BURST
        if ahead < min(most, max(least, seconds / (self._pace or seconds))):
            return False
        self._strained_until = now + STRAIN_SECONDS
        return True

    def __enter__(self) -> bool:
        """Wait for a turn; tell whether there was a wait.

        Raises `OverloadedError` if there is no turn to be had.
        """
        with self._mutex:
            if self._coming:
                self._coming.popleft()
            if self._is_taken:
                if self._is_full():
                    raise OverloadedError(FULL)
                turn = threading.Lock()
                turn.acquire()
                self._waiting.append(turn)
            else:
                self._is_taken, turn = True, None
        if turn and not turn.acquire(timeout=PATIENCE_SECONDS):
            self._give_up(turn)
        self._began = time.perf_counter()
        return turn is not None

    def takes(self) -> bool:
        """Take the turn if nobody has it; tell whether that was so."""
        with self._mutex:
            if self._is_taken:
                return False
            self._is_taken = True
        self._began = time.perf_counter()
        return True

    def _give_up(self, turn: threading.Lock) -> None:
        """Leave the line, unless the turn has come this very moment."""
        with self._mutex:
            if turn not in self._waiting:
                return
            self._waiting.remove(turn)
        raise OverloadedError(f"waited {PATIENCE_SECONDS:g} s for the network")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Pass the turn on."""
        self.pass_on()

    def pass_on(self, count: int = 1) -> None:
        """Let whoever has waited longest have the turn that served so many."""
        length = (time.perf_counter() - self._began) / count
        self._pace += (1 - (1 - PACE_SHARE) ** count) * (length - self._pace)
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._is_taken = False
