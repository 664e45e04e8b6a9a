"""What every answer has in common, and the answers of the hot routes: no server here.

    >>> service = Service(classifier, settings)
    >>> service.process(Call("POST", "/predict", "/predict", body=picture)).status
    200

A request comes as a `Call` (method, path, query, headers, body), its answer leaves as a
`Reply` (status, headers, body). The Flask views and the ASGI front are thin over this
module: keys, request ids, limits, errors, counts, log lines and the record of
predictions exist here once.
"""

import hmac
import logging
import math
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple
from urllib.parse import parse_qs

import numpy as np

from model.classifier import Classifier, Prediction
from model.images import ImageError, Pixels, TooLargeError
from service import answers, observe, seldon, v2
from service.answers import JSON, PROBLEM, Json, Outcome, to_json
from service.batching import InferenceQueue
from service.bodies import (
    MAX_JSON_NUMBERS,
    Picture,
    is_small_png,
    read_pictures,
    unpack,
)
from service.problems import (
    MAX_PICTURES,
    NO_KEY,
    OUR_FAULT,
    TOO_MANY,
    RequestError,
    to_problem,
)
from service.settings import Settings

log = logging.getLogger(__name__)

MAX_ID = 64  # characters of a client's X-Request-ID, the rest is cut
NOT_IN_ID = re.compile(r"[^A-Za-z0-9_.-]")
QUICK_BYTES = 16 * 1024  # of a body; a larger one waits for the inference thread
QUICK_SECONDS = 0.004  # of the network, for which the event loop may stand still
DECODE_SECONDS = 5  # for all pictures of a request; the rest are refused
TOO_LONG = (
    f"the pictures before took {DECODE_SECONDS} s to decode: send fewer at a time"
)
# of an option in the query
SWITCH = {"true": True, "1": True, "false": False, "0": False}
# of every answer that has none of its own: nothing here may be run, framed or cached
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
# of an answer to a page of another origin, and of one to a preflight request
CORS = {
    "Access-Control-Expose-Headers": "X-Request-ID, X-Model-Version, Retry-After,"
    f" {v2.HEADER_LENGTH}"
}
PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST",
    "Access-Control-Allow-Headers": "Authorization, Content-Encoding, Content-Type,"
    f" X-API-Key, X-Request-ID, {v2.HEADER_LENGTH}",
    "Access-Control-Max-Age": "7200",  # seconds, the most that Chromium takes
}
SCRIPT_NAME = os.environ.get("SCRIPT_NAME", "").rstrip("/")  # path that we are below
# which are requested all the time, by probes
ROUTINE_ROUTES = {"/ping", "/metrics", "/v2/health/live", "/v2/health/ready"}


@dataclass(slots=True)
class Call:
    """A request, and what the log needs to know of it."""

    method: str
    path: str
    route: str  # label in the metrics
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case
    body: bytes = b""
    started: float = field(default_factory=time.perf_counter)
    received: int = 0  # bytes of the body before it is unpacked
    request_id: str = ""
    is_seldon: bool = False  # errors take the form of this protocol
    pictures: list[Picture] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Take the client's request id, cleaned, or make one."""
        sent = NOT_IN_ID.sub("", self.headers.get("x-request-id", ""))
        self.request_id = sent[:MAX_ID] or secrets.token_hex(16)
        self.is_seldon = self.path.startswith("/api/")

    @property
    def encoding(self) -> str:
        """The Content-Encoding, empty if there is none."""
        return self.headers.get("content-encoding", "")

    @property
    def content_type(self) -> str:
        """The Content-Type, empty if there is none."""
        return self.headers.get("content-type", "")


class Reply(NamedTuple):
    """An answer."""

    status: int
    headers: dict[str, str]
    body: bytes


class Job(NamedTuple):
    """What a request wants of the network, and how its answer is made."""

    pictures: list[Picture]
    render: Callable[[list[Outcome]], Reply]
    explain: bool = False


class Service:
    """A model, the settings, and the queue before the network."""

    def __init__(self, classifier: Classifier, settings: Settings) -> None:
        self.classifier, self.settings = classifier, settings
        self.model: Json = {"name": classifier.name, "version": classifier.version}
        self.queue = InferenceQueue()
        # pictures of the quickest answers, in one pass, and with an explanation
        self.max_quick = int(QUICK_SECONDS / classifier.seconds)
        numbers = math.prod(classifier.input_shape)
        self.max_explained = min(MAX_PICTURES, max(1, MAX_JSON_NUMBERS // numbers))
        folder = settings.prediction_log
        self.record = observe.Record(folder) if folder else None
        name, version = classifier.name, classifier.version
        # path of each route that takes pictures: its label, how it is read
        self.routes: dict[str, tuple[str, Callable[[Call], Job]]] = {
            "/predict": ("/predict", self.read_predict),
            seldon.PATH: (seldon.PATH, self.read_seldon),
            **{
                rule.replace("<name>", name).replace("<version>", version): (
                    rule,
                    self.read_v2,
                )
                for rule in v2.INFER_RULES
            },
        }
        observe.MODEL.labels(name, version).set(1)
        self.inference_time = observe.INFERENCE.labels(name)

    def process(self, call: Call) -> Reply:
        """Answer a request of pictures. Raises `RequestError` or `ImageError`."""
        return self.run(call, self.read(call))

    def run(self, call: Call, job: Job) -> Reply:
        """Classify the pictures of a job and answer."""
        groups = self.classify([job.pictures], explain=job.explain)
        return self.render(call, job, groups[0])

    def authorize(self, call: Call) -> None:
        """Raise `RequestError` if a key is set and the request does not bear it."""
        keys = self.settings.api_key
        if keys is None:
            return
        scheme, _, token = call.headers.get("authorization", "").partition(" ")
        bearer = token.strip() if scheme.lower() == "bearer" else ""
        sent = (call.headers.get("x-api-key") or bearer).encode()
        if not sum(hmac.compare_digest(sent, key) for key in keys):
            raise RequestError("unauthorized", NO_KEY, {"WWW-Authenticate": "Bearer"})

    def too_large(self) -> RequestError:
        """Return the error of a body over the limit."""
        megabytes = self.settings.max_content_length / 1024**2
        detail = f"at most {megabytes:g} MB and {MAX_PICTURES} pictures in one request"
        return RequestError("too_large", detail)

    def read(self, call: Call) -> Job:
        """Read the pictures of a request. Raises `RequestError` or `ImageError`."""
        limit = self.settings.max_content_length
        body = unpack(call.body, call.encoding, limit)
        if body is None:
            raise self.too_large()
        call.body = body
        job = self.routes[call.path][1](call)
        if len(job.pictures) > MAX_PICTURES:
            raise TooLargeError(TOO_MANY)
        if job.explain and len(job.pictures) > self.max_explained:
            raise TooLargeError(
                f"explain at most {self.max_explained} pictures in one request"
            )
        return job

    def read_predict(self, call: Call) -> Job:
        """Read a request of our own protocol, or a Seldon form."""
        if call.body.startswith(seldon.FORM):
            return self.read_seldon(call)
        explain = read_switch(call.query, "explain")
        shape = self.classifier.input_shape
        pictures, has_many = read_pictures(call.body, call.content_type, shape)
        is_batch = has_many or read_switch(call.query, "batch")

        def render(outcomes: list[Outcome]) -> Reply:
            document = answers.to_document(outcomes, self.model, is_batch)
            if "model" in document:
                return Reply(200, {"Content-Type": JSON}, to_json(document))
            return Reply(
                document["status"], {"Content-Type": PROBLEM}, to_json(document)
            )

        return Job(pictures, render, explain)

    def read_v2(self, call: Call) -> Job:
        """Read a request of the Open Inference Protocol V2."""
        message = v2.read(call.body, call.headers, self.classifier)

        def render(outcomes: list[Outcome]) -> Reply:
            return Reply(200, *v2.render(message, outcomes, self.classifier))

        return Job(message.pictures, render)

    def read_seldon(self, call: Call) -> Job:
        """Read a Seldon message, JSON or a form."""
        call.is_seldon = True
        message, pictures = seldon.read(call.body, self.classifier)

        def render(outcomes: list[Outcome]) -> Reply:
            body = seldon.render(message, outcomes, self.classifier)
            return Reply(200, {"Content-Type": JSON}, body)

        return Job(pictures, render)

    def is_quick(self, job: Job) -> bool:
        """Return whether a job of a small body needs no time, as this model goes."""
        return (
            not job.explain
            and len(job.pictures) <= self.max_quick
            and all(
                isinstance(one, np.ndarray) or is_small_png(one) for one in job.pictures
            )
        )

    def classify(
        self, groups: list[list[Picture]], *, explain: bool = False
    ) -> list[list[Outcome]]:
        """Decode and classify the pictures of several requests, pass by pass.

        A bad picture costs only itself, and no more input arrays are held than go into
        one pass.
        """
        pictures = [one for group in groups for one in group]
        outcomes = iter(self.outcomes(pictures, explain=explain))
        return [[*islice(outcomes, len(group))] for group in groups]

    def outcomes(self, pictures: list[Picture], *, explain: bool) -> Iterator[Outcome]:
        """Decode and classify as many pictures at a time as go into one pass."""
        seconds, size = float(DECODE_SECONDS), self.classifier.pass_size
        for start in range(0, len(pictures), size):
            started = time.monotonic()
            row = self.decode(pictures[start : start + size], started + seconds)
            seconds -= time.monotonic() - started
            good = [one for one in row if not isinstance(one, ImageError)]
            predictions = iter(self.infer(good, explain=explain))
            for one in row:
                yield one if isinstance(one, ImageError) else next(predictions)

    def infer(self, pixels: list[Pixels], *, explain: bool) -> list[Prediction]:
        """Run the network on input arrays in one pass."""
        if not pixels:
            return []
        stacked = np.stack(pixels) if len(pixels) > 1 else pixels[0][None]
        with self.inference_time.time():
            return self.classifier.classify(stacked, explain=explain)

    def decode(self, pictures: list[Picture], end: float) -> list[Pixels | ImageError]:
        """Preprocess pictures, as many as can be until the monotonic clock is `end`."""
        return [
            self.decode_one(one) if time.monotonic() < end else TooLargeError(TOO_LONG)
            for one in pictures
        ]

    def decode_one(self, picture: Picture) -> Pixels | ImageError:
        """Return the input array of a picture, or the error that says why not."""
        if not isinstance(picture, bytes):
            return picture
        try:
            return self.classifier.to_pixels(picture)
        except ImageError as error:
            return error

    def render(self, call: Call, job: Job, outcomes: list[Outcome]) -> Reply:
        """Make the answer of a job. Raises `ImageError` where the protocol has none."""
        call.pictures, call.outcomes = job.pictures, outcomes
        return job.render(outcomes)

    def refuse(self, call: Call, error: Exception) -> Reply:
        """Return the answer to an error, in the form of the request's protocol."""
        if isinstance(error, ImageError):
            error = RequestError(error.code, str(error))
        if not isinstance(error, RequestError):
            log.error("request %s", call.request_id, exc_info=error)
            error = RequestError("internal_error", OUR_FAULT)
        problem = to_problem(error.code, error.detail)
        return self.refuse_as(call, problem, error.headers)

    def refuse_as(self, call: Call, problem: Json, headers: dict[str, str]) -> Reply:
        """Return the members of a problem as the request's protocol has errors."""
        status, detail = problem["status"], problem["detail"]
        if call.path == "/v2" or call.path.startswith("/v2/"):
            return Reply(status, {"Content-Type": JSON, **headers}, v2.error(detail))
        if call.is_seldon:
            body = seldon.error(status, detail)
            return Reply(status, {"Content-Type": JSON, **headers}, body)
        return Reply(status, {"Content-Type": PROBLEM, **headers}, to_json(problem))

    def cors_headers(self, call: Call) -> dict[str, str]:
        """Return what lets a page of an origin that is allowed read the answer.

        After fetch.spec.whatwg.org, 3.3; `OPTIONS` is what a browser asks first.
        """
        allowed, origin = self.settings.cors_origins, call.headers.get("origin", "")
        if allowed is None:
            return {}
        headers = {"Vary": "Origin"}
        if origin and (origin in allowed or "*" in allowed):
            headers |= CORS | {"Access-Control-Allow-Origin": origin}
            headers |= PREFLIGHT if call.method == "OPTIONS" else {}
        return headers

    def finish(self, call: Call, headers: Mapping[str, str]) -> dict[str, str]:
        """Return the headers of an answer with those that every answer bears."""
        return {
            **HEADERS,
            **self.cors_headers(call),
            **headers,
            "X-Request-ID": call.request_id,
            "X-Model-Version": self.classifier.version,
        }

    def account(self, call: Call, status: int) -> None:
        """Count and log an answer, and record what was predicted, if it can be done."""
        try:
            self._account(call, status, time.perf_counter() - call.started)
        except Exception:
            log.exception("request %s is not in the log", call.request_id)

    def _account(self, call: Call, status: int, seconds: float) -> None:
        """Do so. May raise anything that files and metrics do."""
        rows = [observe.log_fields(outcome) for outcome in call.outcomes]
        observe.count_request(call.route, status, seconds)
        observe.count_predictions(self.classifier.name, rows)
        level = observe.level_of(status, is_routine=call.route in ROUTINE_ROUTES)
        is_logged = level >= self.settings.log_level
        if not is_logged and not self.record:
            return
        pairs = zip(call.pictures, rows, strict=True)
        rows = [observe.digest(picture) | row for picture, row in pairs]
        ids = {"request_id": call.request_id, "version": self.classifier.version}
        if is_logged:
            fields = {
                "method": call.method,
                "route": call.route,
                "status": status,
                "milliseconds": round(seconds * 1000, 3),
            }
            observe.log_line(level, ids | fields | {"predictions": rows})
        if self.record:
            for row in rows:
                self.record.write(ids | row)


def strip_prefix(path: str) -> str:
    """Return the path of a request without `SCRIPT_NAME` and a last slash.

    A proxy may take the prefix off or leave it, and health checks come without it.
    """
    if SCRIPT_NAME and path.startswith(f"{SCRIPT_NAME}/"):
        path = path.removeprefix(SCRIPT_NAME)
    return path.rstrip("/") or "/"


def read_switch(query: str, name: str) -> bool:
    """Return whether a query turns an option on. Raises `RequestError`."""
    if not query:  # nearly always, and parsing nothing takes time too
        return False
    value = parse_qs(query, keep_blank_values=True).get(name, ["false"])[0]
    if value.lower() not in SWITCH:
        detail = f"{name} must be true or false, not {value!r}"
        raise RequestError("bad_request", detail)
    return SWITCH[value.lower()]
