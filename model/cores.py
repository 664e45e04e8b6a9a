"""How many cores there are to use: gunicorn's workers, and processes that see photos.

    >>> usable_cores()
    2

Its affinity and its cgroup may leave a process fewer than the machine has.
"""

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Count the cores that this process may use, by its affinity and its cgroup."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, int(min(cores, quota(CGROUP))))


def quota(cgroup: Path) -> float:
    """Return the cores that a cgroup allows, for instance 1.5; infinity if it has none.

    Version 2 keeps both numbers in one file, version 1 in two (kernel documentation,
    admin-guide/cgroup-v2.rst and scheduler/sched-bwc.rst).
    """
    both = cgroup / "cpu.max"
    apart = [cgroup / "cpu" / f"cpu.cfs_{name}_us" for name in ("quota", "period")]
    for files in ([both], apart):
        try:
            limit, period = " ".join(file.read_text() for file in files).split()
        except (OSError, ValueError):
            continue
        if limit.isdecimal():  # not "max", not -1
            return int(limit) / int(period)
    return math.inf
