"""Run a task for many rows in processes on all cores.

>>> list(parallel_map(pow, [(2, 3), (3, 2)], "powers"))
[8, 9]
"""

import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from joblib import Parallel, cpu_count, delayed
from tqdm import tqdm

MAX_PROCESSES = 16  # each imports torch, which takes memory

Result = TypeVar("Result")


def parallel_map(
    task: Callable[..., Result], rows: Sequence[tuple[Any, ...]], description: str
) -> Iterator[Result]:
    """Yield `task(*row)` for each row, in their order, with a progress bar.

    A single row is computed in this process. Processes have one compute thread each.
    """
    count = min(cpu_count(), MAX_PROCESSES, len(rows))
    with Parallel(count, return_as="generator") as pool:
        # Ctrl-C is handled here alone: processes that start now inherit SIG_IGN, or
        # each would print a traceback of its own
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        results = pool(delayed(task)(*row) for row in rows)
        signal.signal(signal.SIGINT, handler)
        yield from tqdm(
            results, description, len(rows), unit="", disable=len(rows) == 1
        )
