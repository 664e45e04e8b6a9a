"""What the service tells its keeper: log lines, figures and a record of predictions.

    {"time":"...","level":"info","request_id":"...",...,"status":200,"predictions":[...]}

One JSON line a request on standard output; `/metrics` for Prometheus; with
`FLASK_PREDICTION_LOG=DIR` files of predictions to watch drift by. Pictures appear by
their SHA-256 and size, never by their pixels.
"""

import os
import struct
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from logging import DEBUG, ERROR, INFO, WARNING, getLevelName, makeLogRecord
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector
from pydantic_core import to_json

Json = dict[str, Any]

RECORD_BYTES = 10_000_000  # of a file of predictions, then the next is begun
RECORD_FILES = 10  # kept of each process, the newest ones
PAUSES = (0.01, 0.03, 0.1, 0.3)  # seconds, for a worker that starts to get ready
SERVER_FAULT, CLIENT_FAULT = 500, 400  # the least status of each

REQUESTS = Counter(
    "fashion_requests", "Answers, by route and status.", ["route", "status"]
)
LATENCY = Histogram(
    "fashion_request_seconds",
    "From when the request has come whole to its answer.",
    ["route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)
INFERENCE = Histogram(
    "fashion_inference_seconds",
    "The network's time for a pass: a request's pictures, or several requests'.",
    buckets=(0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25),
)
PICTURES = Counter(
    "fashion_pictures", "Pictures that got a class, by class.", ["class"]
)
REFUSALS = Counter("fashion_refusals", "Pictures that got none, by code.", ["code"])
MODEL = Gauge(
    "fashion_model_info",
    "1 for the model that serves.",
    ["name", "version"],
    multiprocess_mode="livemax",
)


class Record(RotatingFileHandler):
    """Predictions kept in files, one set of files a process, the oldest deleted."""

    def __init__(self, folder: Path) -> None:
        """Keep files in `folder`, the first of them when there is a line to write."""
        super().__init__(
            folder / f"predictions-{os.getpid()}.jsonl",
            maxBytes=RECORD_BYTES,
            backupCount=RECORD_FILES - 1,
            encoding="utf-8",
            delay=True,
        )

    def write(self, fields: Json) -> None:
        """Add a line: the time, then `fields`."""
        self.handle(makeLogRecord({"msg": to_line({"time": now(), **fields})}))


def to_line(fields: Json) -> str:
    """Write a line of JSON in ASCII, which any standard output takes."""
    return to_json(fields, ensure_ascii=True).decode()


def write_line(level: int, fields: Json) -> None:
    """Write one line to standard output: the time, the level, then `fields`."""
    head = {"time": now(), "level": getLevelName(level).lower()}
    sys.stdout.write(f"{to_line(head | fields)}\n")
    sys.stdout.flush()


def level_of(status: int, is_routine: bool) -> int:
    """Choose a request's level by its answer; what probes ask is for debugging."""
    if status >= SERVER_FAULT:
        return ERROR
    if status >= CLIENT_FAULT:
        return WARNING
    return DEBUG if is_routine else INFO


def now() -> str:
    """Return the time in UTC, to the millisecond, as ISO 8601 writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def exposition() -> tuple[bytes, str]:
    """Return all figures as Prometheus reads them, of all workers, and their type."""
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    for pause in PAUSES:
        try:
            return generate_latest(registry), CONTENT_TYPE_LATEST
        except struct.error:  # a new worker has made its file and not yet filled it
            time.sleep(pause)
    return generate_latest(registry), CONTENT_TYPE_LATEST


def count_request(route: str, status: int, seconds: float) -> None:
    """Count an answer and its time."""
    answers, times = _counters(route, status)
    answers.inc()
    times.observe(seconds)


@cache
def _counters(route: str, status: int) -> tuple[Counter, Histogram]:
    return REQUESTS.labels(route, status), LATENCY.labels(route)


def count_unread(status: int) -> None:
    """Count an answer that was sent before the request was read."""
    REQUESTS.labels("none", status).inc()


def count_predictions(outcomes: Iterable[Json]) -> None:
    """Count the pictures of a request by class, or by the code of their error."""
    for outcome in outcomes:
        if "class" in outcome:
            PICTURES.labels(outcome["class"]).inc()
        else:
            REFUSALS.labels(outcome["code"]).inc()
