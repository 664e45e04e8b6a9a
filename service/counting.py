"""Metrics of all workers, in memory that gunicorn's master maps before it forks.

    share(2)                      the master, once
    worker.slot = take()          the master, before each fork
    fold(worker.slot)             the master, after a worker has ended

prometheus_client's multiprocess mode maps files: a full disk ends processes by SIGBUS;
a cleaner of temporary files removes them; those of ended processes stay. Here
`SharedDict` stands in for such a file; the memory of an ended worker is used again.
"""

import logging
import os
import struct
import time
from collections.abc import Iterator
from mmap import mmap
from typing import Any

from prometheus_client import CollectorRegistry, Metric, multiprocess, values
from prometheus_client.mmap_dict import MmapedDict, _read_all_values
from prometheus_client.registry import Collector

CAPACITY = {  # bytes that may be used of a region; what is not written takes no memory
    "counter": 4 * 1024**2,  # about 20,000 classes
    "histogram": 512 * 1024,
    "gauge_livemax": 64 * 1024,
}
RETIRED = 0  # slot of what ended workers counted
EXTRA_SLOTS = 16  # besides four a worker, old and new ones during a few SIGHUP
PAUSES = (0, 0.003, 0.01, 0.03, 0.1)  # seconds, for the master to fold
ENTRY_BYTES = 32  # of a value, besides its key

log = logging.getLogger(__name__)

regions: dict[str, mmap] = {}  # by the name of the file that each stands in for
state = mmap(-1, 2)  # a number that is odd during `fold`; whether counts are missing
free: list[int] = []  # slots without a worker
slot = RETIRED  # of this process


class SharedDict(MmapedDict):
    """A dict of values in a shared region, or in this process if that has no room."""

    _f: Any
    _m: Any

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        self._f = None  # no file to close
        self._positions: dict[str, int] = {}
        self._m = regions.get(filename)
        self._capacity = len(self._m) if self._m is not None else 0
        if self._m is None:
            self._make_private()
        self._used = struct.unpack_from("i", self._m)[0] or 8  # the library's head
        entries = self._read_all_values()  # type: ignore[no-untyped-call]
        self._positions = {key: at for key, _, _, at in entries}

    def _init_value(self, key: str) -> None:
        """Add a value of 0."""
        size = len(key.encode()) + ENTRY_BYTES
        if self._used + size > self._capacity:
            self._make_private(size)
        super()._init_value(key)  # type: ignore[no-untyped-call]

    def _make_private(self, size: int = 8) -> None:
        """Count in this process from now on, so that `/metrics` would be wrong."""
        old = self._m[:] if self._m is not None else b""
        self._capacity = 2 * self._capacity + size
        self._m = bytearray(old).ljust(self._capacity, b"\0")
        if not state[1]:
            log.warning("no room to count in: /metrics is empty until a restart")
        state[1] = 1

    @staticmethod
    def read_all_values_from_file(
        filename: str,
    ) -> Iterator[tuple[str, float, float, int]]:
        """Yield key, value, timestamp and position of the values of a region."""
        region = regions[filename]
        used = struct.unpack_from("i", region)[0]
        data = region[: max(used, 8)]  # a copy, with the head
        yield from _read_all_values(data, used)  # type: ignore[no-untyped-call]


class Workers(Collector):
    """The metrics of all workers, those that have ended included."""

    def collect(self) -> list[Metric]:
        """Return their sums; nothing if some are not known."""
        for pause in PAUSES:
            time.sleep(pause)
            before = state[0]
            found = multiprocess.MultiProcessCollector.merge(regions)  # type: ignore[no-untyped-call]
            if before == state[0] and before % 2 == 0 and not state[1]:
                return list(found)
        return []


REGISTRY = CollectorRegistry()
REGISTRY.register(Workers())


def share(workers: int) -> None:
    """Map memory for workers to come. To be called before any metric is created."""
    slots = range(RETIRED, 4 * workers + EXTRA_SLOTS)
    free[:] = slots[1:]
    for kind, size in CAPACITY.items():
        regions.update({f"{kind}_{number}.db": mmap(-1, size) for number in slots})
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = ""  # the folder part of those names
    values.MmapedDict = multiprocess.MmapedDict = SharedDict  # type: ignore[attr-defined]
    values.ValueClass = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]


def take() -> int:
    """Return the slot of the worker to be forked; of no region if all are taken."""
    global slot  # noqa: PLW0603 - a fork hands it to the worker
    slot = free.pop() if free else -1
    return slot


def fold(ended: int) -> None:
    """Add what an ended worker counted to the retired slot; free its own."""
    if ended < 0:
        return
    state[0] = (state[0] + 1) % 256
    for kind in ("counter", "histogram"):
        total = SharedDict(f"{kind}_{RETIRED}.db")
        for key, value, _, _ in SharedDict.read_all_values_from_file(
            f"{kind}_{ended}.db"
        ):
            old, _ = total.read_value(key)  # type: ignore[no-untyped-call]
            total.write_value(key, old + value, 0.0)  # type: ignore[no-untyped-call]
    for kind in CAPACITY:
        regions[f"{kind}_{ended}.db"][:8] = bytes(8)
    state[0] = (state[0] + 1) % 256
    free.append(ended)
