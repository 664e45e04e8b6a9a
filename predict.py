"""The web service: a picture in, its class out, or a clear error.

    gunicorn --bind 0.0.0.0:9696 predict:app
    waitress-serve --listen=127.0.0.1:9696 predict:app
    python predict.py               waitress on localhost: Windows, a quick look
    python predict.py shirt.jpg     no server, just the answer

Then `curl --data-binary @static/pictures/ankle-boot.png localhost:9696/predict`.

Flask has all routes here. Under gunicorn `service/asgi.py` answers those that take
pictures without it; both call `service/core.py`, so the answers are the same.
"""

import argparse
import json
import os
import sys
from base64 import b64encode
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from flask import Blueprint, Flask, Response, g, render_template, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from model import artifact
from model.classifier import Classifier, exceeds
from model.images import ImageError
from service import observe, settings, v2
from service.answers import JSON, to_document
from service.batching import wait_for
from service.core import SCRIPT_NAME, Call, Reply, Service, strip_prefix
from service.openapi import OPEN_ENDPOINTS, VERSION, openapi
from service.problems import (
    CODES,
    MAX_PICTURES,
    NOT_FOUND,
    PROBLEMS,
    REQUEST_SECONDS,
    TOO_MANY,
    RequestError,
    to_problem,
)
from service.schemas import Message, ModelReady, ServerLive, ServerMetadata, ServerReady

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

WAITRESS = {  # what gunicorn.conf.py sets, as far as waitress has it
    "threads": 40,  # more than may wait in the queue before it is full
    "connection_limit": 300,
    "channel_timeout": REQUEST_SECONDS,  # of silence
    "cleanup_interval": 1,
    "channel_request_lookahead": 1,  # else it does not notice who has left
}
LISTEN = "127.0.0.1:9696"  # of `python predict.py`
PAGE_HEADERS = {  # it has scripts and styles, all of them its own
    "Content-Security-Policy": "default-src 'none'; script-src 'self';"
    " style-src 'self'; img-src 'self' blob: data:; connect-src 'self' data:;"
    " form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
}
NO_CLASS = "none of the classes"
CARD_FACTS = ("name", "version", "created", "unknown_threshold")
PAGE_CLASSES, PAGE_SAMPLES = 20, 12  # that the page shows at most
KEPT_HEADERS = {"Allow", "Content-Range"}  # of what Flask raises


def start() -> tuple[Flask, Service]:
    """Read the settings, load and try the model, or exit with one clear line."""
    app = Flask(__name__)
    app.debug = False  # whatever FLASK_DEBUG says
    try:
        wanted = settings.read()
        classifier = Classifier(artifact.load(wanted.model_uri, wanted.model_sha256))
    except (settings.SettingError, artifact.ArtifactError) as error:
        sys.exit(f"predict: {error}")
    app.url_map.strict_slashes = app.url_map.merge_slashes = False
    app.config["MAX_CONTENT_LENGTH"] = wanted.max_content_length
    return app, Service(classifier, wanted)


app, service = start()
v2_routes = Blueprint("v2", __name__, url_prefix="/v2")
seldon_routes = Blueprint("seldon", __name__)


@app.get("/")
def page() -> Response:
    """Show the page: drop a picture, see its class, the model's input and why."""
    html = render_template(
        "page.html",
        classes=service.classifier.classes[:PAGE_CLASSES],
        more_classes=len(service.classifier.classes[PAGE_CLASSES:]),
        refuses_unknown=service.classifier.refuses_unknown,
        samples=page_samples(),
        max_pictures=MAX_PICTURES,
        max_explained=service.max_explained,
        max_bytes=service.settings.max_content_length,
        needs_key=service.settings.api_key is not None,
        typical_score=typical_score(),
        activation_scale=service.classifier.activation_scale,
        model=service.model,
        card=model_card(),
    )
    return Response(html, headers=PAGE_HEADERS, mimetype="text/html")


def page_samples() -> list[tuple[str, str]]:
    """Return name and address of pictures to try.

    A photo and one of no class first, if there are any; then one of each class.
    """
    samples, threshold = (
        service.classifier.samples,
        service.classifier.unknown_threshold,
    )
    refused = [one for one in samples if exceeds(one.unknown_score, threshold)]
    known = [one for one in samples if one not in refused]
    photos = [one for one in known if one.file.endswith(".jpg")]
    firsts = {one.label: one for one in reversed(known)}
    first = [*photos[:1], *refused[:1]]
    rest = sorted(known, key=lambda one: one is not firsts[one.label])
    return [
        (
            NO_CLASS if one in refused else one.label,
            f"data:image;base64,{b64encode(one.picture).decode()}",
        )
        for one in [*first, *(one for one in rest if one not in first)][:PAGE_SAMPLES]
    ]


def model_card() -> dict[str, str | float]:
    """Return what the model's facts say of it in names and numbers."""
    facts = service.classifier.facts
    data, metrics = facts.get("data", {}), facts.get("metrics", {})
    counts = {name: value for name, value in data.items() if isinstance(value, int)}
    rates = {name: value for name, value in metrics.items() if isinstance(value, float)}
    own = {name: facts[name] for name in CARD_FACTS if name in facts}
    card = {**own, "classes": len(facts["classes"]), **counts, **rates}
    return {name.replace("_", " "): value for name, value in card.items()}


def typical_score() -> float | str:
    """Return the median unknown score of the samples, empty if there is none."""
    scores = [sample.unknown_score for sample in service.classifier.samples]
    known = [score for score in scores if score is not None]
    return median(known) if known else ""


@app.get("/ping")
def ping() -> Response:
    """Answer that the service is up."""
    return Response("PONG", mimetype="text/plain")


@app.get("/metrics")
def metrics() -> Response:
    """Return the metrics of all workers for Prometheus."""
    figures, kind = observe.exposition()
    return Response(figures, content_type=kind)


@app.post("/predict")
def predict() -> Response:
    """Classify one picture, or several in one pass, however they are sent.

    Multipart is recognised by its header, everything else by its first bytes: clients
    send pictures and JSON under any content type.
    """
    return answer()


@v2_routes.get("/health/live")
def live() -> Response:
    """Return whether the service answers."""
    return respond(ServerLive(live=True))


@v2_routes.get("/health/ready")
def ready() -> Response:
    """Return whether this worker can classify: the network has run once."""
    return respond(ServerReady(live=True, ready=True))


@v2_routes.get("", strict_slashes=False)
def server_metadata() -> Response:
    """Describe the service."""
    name, extensions = "image-classifier", ["binary_tensor_data"]
    return respond(ServerMetadata(name=name, version=VERSION, extensions=extensions))


@v2_routes.get("/models/<name>")
@v2_routes.get("/models/<name>/versions/<version>")
def model_metadata(name: str, version: str | None = None) -> Response:
    """Describe the inputs and outputs of the model."""
    check_model(name, version)
    return respond(v2.metadata(service.classifier))


@v2_routes.get("/models/<name>/ready")
@v2_routes.get("/models/<name>/versions/<version>/ready")
def model_ready(name: str, version: str | None = None) -> Response:
    """Return whether the model can classify, as `ready` does."""
    check_model(name, version)
    return respond(ModelReady(name=name, ready=True))


@v2_routes.post("/models/<name>/infer")
@v2_routes.post("/models/<name>/versions/<version>/infer")
def infer(name: str, version: str | None = None) -> Response:
    """Classify the pictures of one input tensor; return the outputs requested."""
    check_model(name, version)
    return answer()


@seldon_routes.post("/api/v1.0/predictions")
def seldon_predictions() -> Response:
    """Classify the pictures of a Seldon message."""
    return answer()


def answer() -> Response:
    """Answer a request of pictures."""
    g.call.body = read_body()
    is_gone = request.environ.get("waitress.client_disconnected", lambda: False)
    job = service.queue.submit(partial(service.process, g.call), is_gone)
    return to_response(wait_for(job))


def read_body() -> bytes:
    """Read the body in one piece if its length is known: growing a buffer is slow."""
    try:
        if request.content_length is not None:
            return request.stream.read(request.content_length)
        body = request.get_data(cache=False)
        request.stream.read(1)  # raises 413 if the limit has cut the body short
    except OSError as error:  # the client has left
        detail = f"the body cannot be read: {error}"
        raise RequestError("bad_request", detail) from error
    return body


def check_model(name: str, version: str | None) -> None:
    """Raise `RequestError` if a path names another model than the one there is."""
    model = service.classifier
    if name != model.name:
        detail = f"there is no model {name!r}, only {model.name!r}"
        raise RequestError("not_found", detail)
    if version not in (None, model.version):
        detail = f"there is no version {version!r}, only {model.version!r}"
        raise RequestError("not_found", detail)


def respond(message: Message) -> Response:
    """Answer with a message of the V2 protocol."""
    return Response(v2.dump(message) + b"\n", mimetype=JSON)


def to_response(reply: Reply) -> Response:
    """Return a reply as Flask has it."""
    return Response(reply.body, reply.status, reply.headers)


def below_script_name(
    environ: "WSGIEnvironment", start: "StartResponse"
) -> Iterable[bytes]:
    """Pass a request on to Flask, with its path as `strip_prefix` returns it."""
    environ["SCRIPT_NAME"] = SCRIPT_NAME
    environ["PATH_INFO"] = strip_prefix(environ["PATH_INFO"])
    return flask_app(environ, start)


@app.before_request
def begin() -> None:
    """Take the request id and start the clock; demand a key but of open routes."""
    g.call = Call(
        request.method,
        request.path,
        request.url_rule.rule if request.url_rule else "none",
        request.query_string.decode("latin-1"),
        {name.lower(): value for name, value in request.headers},
    )
    # a browser asks with OPTIONS whether it may send a key
    if request.endpoint not in OPEN_ENDPOINTS and request.method != "OPTIONS":
        service.authorize(g.call)


@app.errorhandler(Exception)
def refuse(error: Exception) -> Response:
    """Answer an error in the form of the request's protocol."""
    return to_response(service.refuse(g.call, error))


@app.errorhandler(HTTPException)
def refuse_http(error: HTTPException) -> Response:
    """Give what Flask raises the same form as every other error."""
    if error.code == PROBLEMS["too_large"].status:
        return refuse(service.too_large())
    status = error.code or PROBLEMS["internal_error"].status
    detail = error.description or ""
    if isinstance(error, MethodNotAllowed):
        methods = {*(error.valid_methods or ())} - {"HEAD", "OPTIONS"}
        detail = f"use {', '.join(sorted(methods))}"
    if detail == NotFound.description:  # Werkzeug's, for those who type addresses
        detail = NOT_FOUND
    problem = to_problem(CODES.get(status, "bad_request"), detail)
    if status not in CODES:  # 416, say
        problem |= {"status": status, "title": error.name}
    headers = {k: v for k, v in error.get_headers() if k in KEPT_HEADERS}
    return to_response(service.refuse_as(g.call, problem, headers))


@app.after_request
def finish(response: Response) -> Response:
    """Finish the headers; count and log the answer."""
    response.headers.update(service.finish(g.call, dict(response.headers)))
    service.account(g.call, response.status_code)
    return response


def read_file(path: Path) -> bytes | ImageError:
    """Return the bytes of a file, or why it cannot be read, for its answer."""
    try:
        return path.read_bytes()
    except OSError as error:
        return ImageError(f"{path}: {error.strerror}")


def answer_files(paths: list[Path]) -> int:
    """Print what the service would answer; return the exit code of the process."""
    if len(paths) > MAX_PICTURES:
        sys.exit(f"predict: {TOO_MANY}")
    outcomes = service.classify([[read_file(path) for path in paths]])[0]
    document = to_document(outcomes, service.model, is_batch=len(paths) > 1)
    print(json.dumps(document, indent=4), flush=True)  # noqa: T201
    answers = document.get("predictions", [document])
    return int(not all("class" in answer for answer in answers))


def serve() -> None:
    """Serve with waitress until Ctrl-C."""
    import waitress  # noqa: PLC0415 - gunicorn's workers do without

    most = service.settings.max_content_length
    try:
        server = waitress.create_server(
            app, listen=LISTEN, max_request_body_size=most, **WAITRESS
        )
    except OSError as error:
        sys.exit(f"predict: cannot listen on {LISTEN}: {error}")
    print(f"serving on http://{LISTEN}, Ctrl-C stops")  # noqa: T201
    server.run()


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


flask_app, app.wsgi_app = app.wsgi_app, below_script_name  # type: ignore[method-assign,assignment]
app.extensions["service"] = service
app.register_blueprint(openapi)
app.register_blueprint(v2_routes)
app.register_blueprint(seldon_routes)

if __name__ == "__main__":
    options = parse_options()
    if not options.pictures:
        serve()
        sys.exit()
    try:
        sys.exit(answer_files(options.pictures))
    except BrokenPipeError:  # whoever reads, `head` say, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
