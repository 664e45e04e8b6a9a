"""More requests than the service can answer, and very many over time."""

import json
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from bench.bounds import at_least, at_most
from bench.client import (
    OK,
    OVERLOADED,
    PING,
    UNKNOWN_CLASS,
    Answer,
    closed_loop,
    count,
    open_loop,
    percentile,
    post,
)
from bench.faults import CONNECTIONS, small_requests
from bench.service import (
    ROOT,
    SETTLE_SECONDS,
    children_of,
    noisy_jpeg,
    processes_of,
    pss,
    running,
)

FACTOR, OVERLOAD_SECONDS = 4, 20  # times the capacity
CAPACITY_SECONDS = 5
PHOTO_SIZE, PHOTOS = (900, 1200), 24  # distinct ones
REFUSAL_MEDIAN, REFUSAL_P99 = 100, 200  # milliseconds, at most
ENDURE, WARM_UP = 100_000, 5_000  # requests
MAX_GROWTH = 1.05  # of memory


class Trial(NamedTuple):
    """One kind of request, and the share of the capacity that must go on."""

    name: str
    make_requests: Callable[[], list[bytes]]
    least_share: float
    bounds_refusals: bool


def photo_requests() -> list[bytes]:
    """Return requests of a photo each: a real one enlarged, with varying noise."""
    random = np.random.default_rng(0)
    image = Image.open(ROOT / "static" / "pictures" / "photo-t-shirt.jpg")
    large = image.resize(PHOTO_SIZE, Image.Resampling.BICUBIC)
    return [post(noisy_jpeg(large, random, quality=85)) for _ in range(PHOTOS)]


def overload() -> bool:
    """Send four times what the service can answer, without waiting for answers."""
    trials = (
        Trial("900 x 1200 JPEG", photo_requests, 0.8, bounds_refusals=True),
        Trial("28x28 PNG", small_requests, 0.7, bounds_refusals=False),
    )
    holds = [overload_with(trial) for trial in trials]
    return all(holds)


def overload_with(trial: Trial) -> bool:
    """Measure one kind of request; the capacity is measured before and after."""
    requests = trial.make_requests()
    with running() as pid:
        time.sleep(SETTLE_SECONDS)
        closed_loop(requests, 1, 1)
        before = capacity(requests)
        workers = children_of(pid)
        answers = open_loop(requests, OVERLOAD_SECONDS, FACTOR * before)
        holds = [at_most("workers lost", len(set(workers) - set(children_of(pid))), 0)]
        after = capacity(requests)
    good = [answer for answer in answers if answer.status in (OK, UNKNOWN_CLASS)]
    refused = [answer for answer in answers if answer.status == OVERLOADED]
    rate = len(good) / OVERLOAD_SECONDS
    print(f"{trial.name}: {before:.0f}/s before, {after:.0f}/s after; sent")
    print(
        f"  {len(answers) / OVERLOAD_SECONDS:.0f}/s of {FACTOR * before:.0f}/s wanted"
    )
    print(f"  answers: {count(answers)}")
    print(f"  {rate:.0f}/s answered, p99 {percentile(good, 99):.1f} ms")
    share = rate / statistics.mean((before, after))
    holds.append(
        at_least(
            f"{trial.name}, of capacity", 100 * share, 100 * trial.least_share, "%"
        )
    )
    return all([*holds, report_refusals(trial, refused)])


def capacity(requests: list[bytes]) -> float:
    """Return the answers a second to eight clients."""
    answers = closed_loop(requests, CAPACITY_SECONDS, CONNECTIONS)
    return sum(a.status in (OK, UNKNOWN_CLASS) for a in answers) / CAPACITY_SECONDS


def report_refusals(trial: Trial, refused: list[Answer]) -> bool:
    """Print how soon the refused were refused; return whether that is in bounds."""
    median, p99 = (percentile(refused, percent) for percent in (50, 99))
    if not trial.bounds_refusals:
        print(f"  503 in {median:.1f} ms (median), {p99:.1f} ms (p99)")
        return True
    holds = [
        at_most(f"{trial.name}, 503, median", median, REFUSAL_MEDIAN, "ms", 1),
        at_most(f"{trial.name}, 503, p99", p99, REFUSAL_P99, "ms", 1),
    ]
    return all(holds)


def endure() -> bool:
    """Send 100,000 mixed requests; memory must not grow after the first 5,000."""
    bad = [post(b""), post(b"text"), post(b"\x89PNG\r\n\x1a\nbroken"), PING]
    batch = json.dumps({"pixels": np.zeros((8, 28, 28), int).tolist()}).encode()
    mixed = small_requests() + photo_requests() + 20 * [*bad, post(batch)]
    np.random.default_rng(0).shuffle(mixed)
    with running() as pid:
        total, sizes = 0, dict[int, float]()
        while total < ENDURE:
            total += len(closed_loop(mixed, 1, CONNECTIONS))
            sizes[total] = sum(map(pss, processes_of(pid)))
    early = next(size for done, size in sizes.items() if done >= WARM_UP)
    print(
        f"{early:.0f} MB after {WARM_UP} requests, {sizes[total]:.0f} MB after {total}"
    )
    print(f"at most {max(sizes.values()):.0f} MB")
    growth = sizes[total] / early
    return at_most("memory after 100,000 requests", growth, MAX_GROWTH, "x", 3)
