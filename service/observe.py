"""What operators see of the service: log lines, metrics, a record of predictions.

    {"time":"...","level":"info","request_id":"...",...,"status":200,"predictions":[...]}

One JSON line a request on standard output; `/metrics` for Prometheus; with
`FLASK_PREDICTION_LOG=DIR` files of predictions to watch drift by. Pictures appear by
their SHA-256 and size, never by their pixels.
"""

import hashlib
import os
import re
import socket
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from http import HTTPStatus
from io import TextIOWrapper
from logging import DEBUG, ERROR, INFO, WARNING, LogRecord, getLevelName, makeLogRecord
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from pydantic_core import to_json

from model.classifier import Prediction
from model.images import ImageError, Pixels
from service import counting

Json = dict[str, Any]

RECORD_BYTES = 10_000_000  # of a file of predictions, then the next is begun
RECORD_FILES = 10  # kept of each process, the newest ones

REQUESTS = Counter(
    "classifier_requests", "Answers, by route and status.", ["route", "status"]
)
LATENCY = Histogram(
    "classifier_request_seconds",
    "From when the request has come whole to its answer.",
    ["route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)
INFERENCE = Histogram(
    "classifier_inference_seconds",
    "The network's time for a pass: a request's pictures, or several requests'.",
    ["model"],
    buckets=(0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25),
)
PICTURES = Counter(
    "classifier_pictures", "Pictures that got a class, by class.", ["model", "class"]
)
REFUSALS = Counter(
    "classifier_refusals", "Pictures that got none, by code.", ["model", "code"]
)
MODEL = Gauge(
    "classifier_model_info",
    "1 for the model that serves.",
    ["name", "version"],
    multiprocess_mode="livemax",
)


class Record(WatchedFileHandler):
    """Predictions kept in files, one set of files a process, the oldest deleted.

    If a file was moved or deleted, the next line begins a new one of the same name.
    """

    def __init__(self, folder: Path) -> None:
        """Keep files in `folder`, the first of them when there is a line to write."""
        host = re.sub(r"[^\w.-]", "-", socket.gethostname())
        start = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        self.prefix = folder.absolute() / f"predictions-{host}-{start}-{os.getpid()}"
        self.number = 1
        super().__init__(self.path(self.number), encoding="utf-8", delay=True)

    def path(self, number: int) -> Path:
        """Return the path of the first, second, ... file."""
        return Path(f"{self.prefix}-{number}.jsonl")

    def write(self, fields: Json) -> None:
        """Add a line: the time, then `fields`."""
        self.handle(makeLogRecord({"msg": to_line({"time": now(), **fields})}))

    def emit(self, record: LogRecord) -> None:
        """Write a line, in a new file if this one is full."""
        if self.stream is not None:
            size = os.fstat(self.stream.fileno()).st_size
            if size + len(record.msg) + 1 > RECORD_BYTES:
                self.close()
                self.number += 1
                self.baseFilename = str(self.path(self.number))
                self.path(self.number - RECORD_FILES).unlink(missing_ok=True)
        super().emit(record)

    def _open(self) -> TextIOWrapper:
        self.prefix.parent.mkdir(parents=True, exist_ok=True)
        return super()._open()


def to_line(fields: Json) -> str:
    """Return a line of JSON in ASCII, which any standard output takes."""
    return to_json(fields, ensure_ascii=True).decode()


def log_line(level: int, fields: Json) -> None:
    """Write one line to standard output: the time, the level, then `fields`."""
    head = {"time": now(), "level": getLevelName(level).lower()}
    sys.stdout.write(f"{to_line(head | fields)}\n")
    sys.stdout.flush()


def level_of(status: int, *, is_routine: bool) -> int:
    """Return the log level of an answer; what probes request is for debugging."""
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return ERROR
    if status >= HTTPStatus.BAD_REQUEST:
        return WARNING
    return DEBUG if is_routine else INFO


def log_fields(outcome: Prediction | ImageError) -> Json:
    """Return what the log has of a picture: its class, or the code of its error."""
    if isinstance(outcome, ImageError):
        return {"code": outcome.code}
    if outcome.is_unknown:
        return {"code": "unknown_class", "unknown_score": outcome.unknown_score}
    return {
        "class": outcome.label,
        "probability": outcome.probability,
        "unknown_score": outcome.unknown_score,
    }


def digest(picture: bytes | Pixels | ImageError) -> Json:
    """Return the SHA-256 and the size of a picture."""
    data = b"" if isinstance(picture, ImageError) else bytes(picture)
    sha256 = hashlib.sha256(data).hexdigest() if data else None
    return {"sha256": sha256, "bytes": len(data)}


def now() -> str:
    """Return the time in UTC, to the millisecond, as ISO 8601 has it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def exposition() -> tuple[bytes, str]:
    """Return the metrics of all workers in Prometheus's format, and its media type."""
    registry = counting.REGISTRY if counting.regions else REGISTRY
    return generate_latest(registry), CONTENT_TYPE_LATEST


def count_request(route: str, status: int, seconds: float) -> None:
    """Count an answer and its time."""
    replies, times = _counters(route, status)
    replies.inc()
    times.observe(seconds)


@cache
def _counters(route: str, status: int) -> tuple[Counter, Histogram]:
    return REQUESTS.labels(route, status), LATENCY.labels(route)


def count_predictions(model: str, rows: Iterable[Json]) -> None:
    """Count the pictures of a request by class, or by the code of their error."""
    for row in rows:
        if "class" in row:
            PICTURES.labels(model, row["class"]).inc()
        else:
            REFUSALS.labels(model, row["code"]).inc()
