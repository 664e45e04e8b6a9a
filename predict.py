"""The web service: a picture in, its class out, or a clear error.

    gunicorn --bind 0.0.0.0:9696 predict:app
    waitress-serve --listen=127.0.0.1:9696 predict:app
    python predict.py               waitress on localhost: Windows, a quick look
    python predict.py shirt.jpg     no service, just the answer

Then `curl --data-binary @static/pictures/ankle-boot.png localhost:9696/predict`.
"""

import argparse
import hmac
import json
import os
import re
import secrets
import socket
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from flask import Flask, Response, g, has_request_context, render_template, request
from werkzeug.exceptions import (
    BadRequest,
    ClientDisconnected,
    HTTPException,
    InternalServerError,
    MethodNotAllowed,
    NotFound,
    ServiceUnavailable,
    Unauthorized,
)

from model import artifact
from model.classifier import Classifier, Prediction
from model.images import ImageError, Pixels, TooLargeError
from service import observe, settings
from service import v2 as protocols
from service.answers import (
    Json,
    Outcome,
    answer,
    document_of,
    sign,
    summarise,
    written,
)
from service.batching import Line, OverloadedError
from service.bodies import (
    Picture,
    decode,
    read_body,
    read_files,
    read_pictures,
)
from service.openapi import PROBLEM, openapi
from service.problems import (
    MAX_PICTURES,
    NOT_FOUND,
    OUR_FAULT,
    PROBLEMS,
    REQUEST_SECONDS,
    TOO_MANY,
    to_problem,
)

REQUEST_ID_LENGTH = 64  # of a client's X-Request-ID, the rest is cut
NOT_IN_AN_ID = re.compile(r"[^A-Za-z0-9_.-]")
DECODE_SECONDS = 5  # for all pictures of a request; the rest are refused
TOO_LONG = (
    f"the pictures before took {DECODE_SECONDS} s to decode: send fewer at a time"
)
WAITRESS = {  # what gunicorn.conf.py and worker.py say, as far as waitress knows it
    "threads": 40,  # more than have to wait in line before it may be full
    "connection_limit": 300,
    "channel_timeout": REQUEST_SECONDS,  # of silence
    "cleanup_interval": 1,
    "channel_request_lookahead": 1,  # else it does not notice who has left
}
LISTEN = "127.0.0.1:9696"  # of `python predict.py`

# of every answer that has none of its own: nothing here is to be run, framed or kept
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
PAGE_HEADERS = {  # it has scripts and styles, all of them its own
    "Content-Security-Policy": "default-src 'none'; script-src 'self';"
    " style-src 'self'; img-src 'self' blob:; connect-src 'self';"
    " form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
}

# for which nobody needs a key
OPEN_ENDPOINTS = {"page", "ping", "static", "v2.live", "v2.ready", "v2.model_ready"}
OPEN_ENDPOINTS |= {"openapi.docs", "openapi.asset", "openapi.document"}
# that are asked for all the time
ROUTINE_ROUTES = {"/ping", "/metrics", "/v2/health/live", "/v2/health/ready"}
# of the query parameter `explain`, in any case
SWITCH = {"true": True, "1": True, "false": False, "0": False}


class Asked(NamedTuple):
    """What a request was, for those who keep accounts."""

    request_id: str
    method: str
    route: str
    seconds: float  # from when it had come whole to its answer


def start() -> tuple[Flask, Classifier]:
    """Read the settings, load and warm the model, or exit with one clear line."""
    app = Flask(__name__)
    app.debug = False  # whatever FLASK_DEBUG says
    try:
        values = settings.read().model_dump()
        app.config.update({name.upper(): value for name, value in values.items()})
        wanted = app.config["MODEL_URI"], app.config["MODEL_SHA256"]
        classifier = Classifier(artifact.load(*wanted))
    except (settings.SettingError, artifact.ArtifactError) as error:
        sys.exit(f"predict: {error}")
    observe.MODEL.labels(classifier.name, classifier.version).set(1)
    return app, classifier


app, classifier = start()
folder = app.config["PREDICTION_LOG"]
record = observe.Record(folder) if folder else None
network = Line()


@app.get("/")
def page() -> Response:
    """Show the page: drop a picture, see what the network saw and what it says."""
    folder = Path(app.static_folder or "") / "pictures"
    html = render_template(
        "page.html",
        classes=classifier.classes,
        samples=sorted(path for path in folder.iterdir() if path.suffix != ".md"),
        max_pictures=MAX_PICTURES,
        max_bytes=app.config["MAX_CONTENT_LENGTH"],
        model=model(),
    )
    return Response(html, headers=PAGE_HEADERS, mimetype="text/html")


@app.get("/ping")
def ping() -> Response:
    """Tell that the service is up."""
    return Response("PONG", mimetype="text/plain")


@app.get("/metrics")
def metrics() -> Response:
    """Give Prometheus the figures of all workers."""
    figures, kind = observe.exposition()
    return Response(figures, content_type=kind)


@app.post("/predict")
def predict() -> Response:
    """Classify one picture, or several in one pass, however they are sent.

    Multipart is told by its header, everything else by its first bytes: clients
    send pictures and JSON under any content type.
    """
    if request.mimetype == "multipart/form-data":
        pictures = read_files()
        is_batch = len(pictures) > 1
    else:
        body = read_body()
        if body.startswith(protocols.SELDON_FORM):
            return protocols.predict_seldon(body)
        pictures, is_batch = read_pictures(body)
    answers = [answer(one) for one in classify(pictures, explain=read_explain())]
    document = document_of(answers, model(), is_batch)
    return respond(document) if "model" in document else problem(document)


def read_explain() -> bool:
    """Tell whether the answer is to show what the network saw, and where."""
    if not request.query_string:  # nearly always, and parsing nothing takes time too
        return False
    text = request.args.get("explain", "false")
    if text.lower() not in SWITCH:
        raise BadRequest(f"explain must be true or false, not {text!r}")
    return SWITCH[text.lower()]


def classify(
    pictures: list[Picture],
    *,
    explain: bool = False,
    client: socket.socket | None = None,
) -> list[Outcome]:
    """Decode and classify all in one pass; a bad picture costs only itself.

    `client` is who asks, if that is no request of Flask's. Raises `TooLargeError` if
    the pictures are too many, `OverloadedError` if the network is asked for more than
    it can do, and `ClientDisconnected` if nobody waits for the answer any more.
    """
    if len(pictures) > MAX_PICTURES:
        raise TooLargeError(TOO_MANY)
    with network as had_to_wait:
        if had_to_wait and has_left(client):
            raise ClientDisconnected
        outcomes = decode_and_classify(pictures, explain=explain)
    if has_request_context():
        g.classified = pictures, outcomes
    return outcomes


def decode_and_classify(
    pictures: list[Picture], *, explain: bool = False
) -> list[Outcome]:
    """Do so for whoever has the turn at the network."""
    decoded = decode_in_time(pictures)
    good = [pixels for pixels in decoded if not isinstance(pixels, ImageError)]
    predictions = iter(infer(stack(good), explain=explain) if good else ())
    return [
        pixels if isinstance(pixels, ImageError) else next(predictions)
        for pixels in decoded
    ]


def decode_in_time(pictures: list[Picture]) -> list[Pixels | ImageError]:
    """Bring pictures to pixels, as many as can be in the time that one request has."""
    end = time.monotonic() + DECODE_SECONDS
    return [
        decode(picture) if time.monotonic() < end else TooLargeError(TOO_LONG)
        for picture in pictures
    ]


def has_left(client: socket.socket | None) -> bool:
    """Tell whether the client has gone: then there is nobody to work for."""
    if has_request_context():
        if "waitress.client_disconnected" in request.environ:
            return bool(request.environ["waitress.client_disconnected"]())
        client = request.environ.get("gunicorn.socket")
    if client is None:
        return False
    try:
        return not client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def stack(pictures: list[Pixels]) -> Pixels:
    """Put pictures [28, 28] together: [N, 28, 28]."""
    return np.stack(pictures) if len(pictures) > 1 else pictures[0][None]


def infer(pixels: Pixels, *, explain: bool) -> list[Prediction]:
    """Run the network on uint8 [N, 28, 28], by the clock."""
    with observe.INFERENCE.time():
        return classifier.classify(pixels, explain=explain)


def model() -> Json:
    """Name the model that answers."""
    return {"name": classifier.name, "version": classifier.version}


def problem(members: Json) -> Response:
    """Answer with a problem document, or as the protocol of the request wants."""
    return protocols.refuse(members["status"], members["detail"]) or respond(
        members, members["status"], PROBLEM
    )


def respond(body: Json, status: int = 200, kind: str = "application/json") -> Response:
    """Answer with compact JSON; Flask's own way takes several times as long."""
    return Response(written(body), status, mimetype=kind)


@app.errorhandler(ImageError)
def refuse_image(error: ImageError) -> Response:
    """Answer a fault that concerns the whole request."""
    return problem(to_problem(error.code, str(error)))


@app.errorhandler(OverloadedError)
def turn_away(error: OverloadedError) -> Response:
    """Answer that the service has more to do than it can."""
    return refuse(ServiceUnavailable(f"{error}; try again in a moment", retry_after=1))


@app.errorhandler(HTTPException)
def refuse(error: HTTPException) -> Response:
    """Give what Flask raises the same shape as every other error."""
    codes = {problem.status: code for code, problem in reversed(PROBLEMS.items())}
    code = codes.get(error.code or 500, "bad_request")
    detail = error.description or ""
    if isinstance(error, MethodNotAllowed):
        methods = {*(error.valid_methods or ())} - {"HEAD", "OPTIONS"}
        detail = f"use {', '.join(sorted(methods))}"
    if detail == NotFound.description:  # Werkzeug's, for those who type addresses
        detail = NOT_FOUND
    if code == "too_large":
        megabytes = app.config["MAX_CONTENT_LENGTH"] / 1024**2
        detail = f"at most {megabytes:g} MB and {MAX_PICTURES} pictures in one request"
    document = to_problem(code, detail)
    if error.code not in codes:  # 416, say
        document |= {"status": error.code or 500, "title": error.name}
    response = problem(document)
    kept = ("Allow", "Content-Range", "Retry-After")
    response.headers.extend({k: v for k, v in error.get_headers() if k in kept})
    if code == "unauthorized":
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


@app.errorhandler(Exception)
def apologise(error: Exception) -> Response:
    """Log a fault of ours where it can be found, and say so."""
    app.logger.exception("request %s", g.request_id)
    return refuse(InternalServerError(OUR_FAULT))


@app.before_request
def take_request_id() -> None:
    """Take the client's request id, or make one; start the clock."""
    g.request_id = request_id_of(request.headers.get("X-Request-ID", ""))
    g.started = time.perf_counter()


def request_id_of(sent: str) -> str:
    """Return what a client calls its request, cleaned, or a new name."""
    return NOT_IN_AN_ID.sub("", sent)[:REQUEST_ID_LENGTH] or secrets.token_hex(16)


@app.before_request
def demand_key() -> None:
    """Let nobody in without one of the keys, if there are any."""
    if request.endpoint in OPEN_ENDPOINTS:
        return
    token = request.headers.get("X-API-Key") or bearer(
        request.headers.get("Authorization", "")
    )
    if not is_let_in(token):
        raise Unauthorized("send a key: X-API-Key: KEY or Authorization: Bearer KEY")


def bearer(authorization: str) -> str:
    """Return the token of an Authorization header; nothing if it holds none."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def is_let_in(token: str) -> bool:
    """Tell whether a token is one of the keys, or none is needed."""
    keys = app.config["API_KEY"]
    if keys is None:
        return True
    return bool(sum(hmac.compare_digest(token.encode(), key) for key in keys))


@app.after_request
def tell(response: Response) -> Response:
    """Finish the headers; count and log the answer."""
    response.headers["X-Request-ID"] = g.request_id
    finish(response)
    route = request.url_rule.rule if request.url_rule else "none"
    seconds = time.perf_counter() - g.started
    asked = Asked(g.request_id, request.method, route, seconds)
    account(asked, response.status_code, *g.get("classified", ([], [])))
    return response


def account(
    asked: Asked, status: int, pictures: list[Picture], outcomes: list[Outcome]
) -> None:
    """Count and log an answer, and record what was predicted, if it can be done."""
    try:
        keep_accounts(asked, status, pictures, outcomes)
    except Exception:
        app.logger.exception("an answer is not accounted for")


def keep_accounts(
    asked: Asked, status: int, pictures: list[Picture], outcomes: list[Outcome]
) -> None:
    """Count, log and record. May raise anything that files and figures do."""
    request_id, method, route, seconds = asked
    lines = [summarise(outcome) for outcome in outcomes]
    observe.count_request(route, status, seconds)
    observe.count_predictions(lines)
    level = observe.level_of(status, route in ROUTINE_ROUTES)
    is_logged = level >= app.config["LOG_LEVEL"]
    if is_logged or record:
        lines = [sign(*both) for both in zip(pictures, lines, strict=True)]
    about = {"request_id": request_id, "version": classifier.version}
    if is_logged:
        line = {
            "method": method,
            "route": route,
            "status": status,
            "milliseconds": round(seconds * 1000, 3),
        }
        observe.write_line(level, about | line | {"predictions": lines})
    if record:
        for line in lines:
            record.write(about | line)


def finish(response: Response) -> None:
    """Add the headers that every answer bears."""
    response.headers["X-Model-Version"] = classifier.version
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)


def answer_files(paths: list[Path]) -> int:
    """Print what the service would answer; return how the process should exit."""
    try:
        outcomes = classify([path.read_bytes() for path in paths])
    except (OSError, TooLargeError) as error:
        sys.exit(f"predict: {error}")
    answers = [answer(outcome) for outcome in outcomes]
    document = document_of(answers, model(), is_batch=len(paths) > 1)
    print(json.dumps(document, indent=4), flush=True)  # noqa: T201
    return int(any("error" in answer for answer in answers))


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "pictures",
        nargs="*",
        type=Path,
        metavar="PICTURE",
        help="a file to answer at once (none: serve)",
    )
    return parser.parse_args()


app.extensions |= {"classifier": classifier, "classify": classify}
app.register_blueprint(openapi)
app.register_blueprint(protocols.v2)
app.register_blueprint(protocols.seldon)

if __name__ == "__main__":
    options = parse_options()
    if options.pictures:
        try:
            sys.exit(answer_files(options.pictures))
        except BrokenPipeError:  # whoever read, `head` say, has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
    import waitress

    try:
        most = app.config["MAX_CONTENT_LENGTH"]
        server = waitress.create_server(
            app, listen=LISTEN, max_request_body_size=most, **WAITRESS
        )
    except OSError as error:
        sys.exit(f"predict: cannot listen on {LISTEN}: {error}")
    print(f"serving on http://{LISTEN}, Ctrl-C stops")  # noqa: T201
    server.run()
