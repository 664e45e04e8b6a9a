"""The web service: a picture in, its class out, or a clear error.

    gunicorn --bind 0.0.0.0:9696 predict:app
    waitress-serve --listen=127.0.0.1:9696 predict:app
    python predict.py               waitress on localhost: Windows, a quick look
    python predict.py shirt.jpg     no service, just the answer

Then `curl --data-binary @static/pictures/ankle-boot.png localhost:9696/predict`.
"""

import argparse
import base64
import binascii
import hashlib
import hmac
import io
import json
import re
import secrets
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from flask import Flask, Response, g, render_template, request
from werkzeug.exceptions import (
    BadRequest,
    HTTPException,
    MethodNotAllowed,
    Unauthorized,
)
from werkzeug.formparser import FormDataParser

import artifact
import observe
import settings
from classifier import Classifier, Prediction
from images import SIDE, WHITE, ImageError, Pixels, TooLargeError, reader_of, to_pixels

MAX_PICTURES = 256  # in one request
REQUEST_ID_LENGTH = 64  # of a client's X-Request-ID, the rest is cut
NOT_IN_AN_ID = re.compile(r"[^A-Za-z0-9_.-]")
LISTEN = "127.0.0.1:9696"  # of `python predict.py`

# of the page alone: JSON and pictures run no scripts
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self';"
    " style-src 'self'; img-src 'self' blob:; connect-src 'self';"
    " form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

# code: status, title. The codes are stable; details are for people.
PROBLEMS = {
    "bad_request": (400, "Bad request"),
    "unauthorized": (401, "Unauthorized"),
    "not_found": (404, "Not found"),
    "method_not_allowed": (405, "Method not allowed"),
    "too_large": (413, "Too large"),
    "unsupported_image": (415, "Unsupported image"),
    "broken_image": (422, "Broken image"),
    "unknown_class": (422, "Unknown class"),
    "internal_error": (500, "Internal error"),
}

OPEN_ENDPOINTS = {"page", "ping", "static"}  # for which nobody needs a key
ROUTINE_ROUTES = {"/ping", "/metrics"}  # that are asked for all the time
# of the query parameter `explain`, in any case
SWITCH = {"true": True, "1": True, "false": False, "0": False}

Picture = bytes | Pixels | ImageError  # encoded, ready for the network, or unreadable
Json = dict[str, Any]


def start() -> tuple[Flask, Classifier]:
    """Read the settings, load and warm the model, or exit with one clear line."""
    app = Flask(__name__)
    try:
        app.config.update(settings.read())
        classifier = Classifier(artifact.load(app.config["MODEL_URI"]))
    except (settings.SettingError, artifact.ArtifactError) as error:
        sys.exit(f"predict: {error}")
    observe.MODEL.labels(classifier.name, classifier.version).set(1)
    return app, classifier


app, classifier = start()
folder = app.config["PREDICTION_LOG"]
record = observe.Record(folder) if folder else None
network = threading.Lock()  # threads hold connections, one at a time works


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
    """Classify one picture, or several in one pass, however they are sent."""
    pictures, is_batch = read_pictures()
    explain = read_explain()
    with network:
        answers = classify(pictures, explain=explain)
    g.predictions = pictures, answers
    body = body_of(answers, is_batch)
    return respond(body) if "model" in body else problem(body)


def read_pictures() -> tuple[list[Picture], bool]:
    """Take the pictures out of the request; tell whether they are a batch.

    Multipart is told by its header, everything else by its first bytes: clients
    send pictures and JSON under any content type.
    """
    if request.mimetype == "multipart/form-data":
        pictures = read_files()
        is_batch = len(pictures) > 1
    else:
        body = read_body()
        pictures, is_batch = [body], False
        if not body:
            raise BadRequest(
                "the body is empty: send a picture, a form with a file or JSON"
            )
        if reader_of(body) is None and (
            request.is_json or body.lstrip().startswith((b"{", b"["))
        ):
            pictures, is_batch = read_json(body)
    if len(pictures) > MAX_PICTURES:
        raise TooLargeError(f"at most {MAX_PICTURES} pictures in one request")
    return pictures, is_batch


def read_explain() -> bool:
    """Tell whether the answer is to show what the network saw, and where."""
    if not request.query_string:  # nearly always, and parsing nothing takes time too
        return False
    text = request.args.get("explain", "false")
    if text.lower() not in SWITCH:
        raise BadRequest(f"explain must be true or false, not {text!r}")
    return SWITCH[text.lower()]


def read_body() -> bytes:
    """Read the body in one piece if its length is known: growing a buffer is slow."""
    if request.content_length is not None:
        return request.stream.read(request.content_length)
    body = request.get_data(cache=False)
    request.stream.read(1)  # raises 413 if the limit has cut the body short
    return body


def read_files() -> list[Picture]:
    """Read the files of a multipart form, in the order sent, whatever their names."""
    parser = FormDataParser(
        stream_factory=lambda *_args, **_kwargs: io.BytesIO(),  # the body is bounded
        max_form_memory_size=app.config["MAX_CONTENT_LENGTH"],
        max_form_parts=2 * MAX_PICTURES,  # fields that are no files count as well
        cls=list,  # type: ignore[arg-type]  # a dictionary would lose the order
        silent=False,
    )
    options = request.mimetype_params
    try:
        files: Any = parser.parse(request.stream, request.mimetype, None, options)[2]
    except ValueError as error:
        raise BadRequest(f"the form does not parse: {error}") from error
    if not files:
        raise BadRequest("no file in the form: curl -F image=@shirt.png")
    return [file.read() for _, file in files]


def read_json(body: bytes) -> tuple[list[Picture], bool]:
    """Read `image`, `images` or `pixels` out of a JSON body."""
    if body.count(b",") > MAX_PICTURES * SIDE * SIDE:  # told before a costly parse
        raise TooLargeError(f"at most {MAX_PICTURES} pictures in one request")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the JSON does not parse: {error}") from error
    match document:
        case {"image": str(text)}:
            return [from_base64(text)], False
        case {"images": [_, *_] as texts}:
            return [from_base64(text) for text in texts], True
        case {"pixels": list(values)}:
            pixels = from_numbers(values)
            is_batch = pixels.shape != (SIDE, SIDE)
            return list(pixels.reshape(-1, SIDE, SIDE)), is_batch
        case _:
            raise BadRequest(
                'send {"image": "<base64>"}, {"images": [...]} or {"pixels": [[...]]}',
            )


def from_base64(text: object) -> Picture:
    """Decode one picture of a JSON body, or say why it cannot be."""
    try:
        return base64.b64decode(text, validate=True)  # type: ignore[arg-type]
    except (binascii.Error, ValueError, TypeError) as error:
        return ImageError(f"the picture is not base64: {error}")


def from_numbers(values: list[Any]) -> Pixels:
    """Check and round `pixels`: uint8 of shape [28, 28] or [N, 28, 28]."""
    try:
        levels = np.array(values, dtype=object)  # other types copy strings at length
    except ValueError as error:
        raise BadRequest("pixels must be 28x28 or Nx28x28, in even rows") from error
    if levels.ndim > 3 or levels.shape[-2:] != (SIDE, SIDE):  # noqa: PLR2004
        raise BadRequest(f"pixels must be 28x28 or Nx28x28, not {levels.shape}")
    if not all(type(v) in (int, float) and 0 <= v <= WHITE for v in levels.flat):
        raise BadRequest("pixels must be numbers from 0 to 255")
    return levels.astype(np.float64).round().astype(np.uint8)


def classify(pictures: list[Picture], *, explain: bool = False) -> list[Json]:
    """Answer each picture, all in one pass; a bad one costs only itself."""
    decoded = [decode(picture) for picture in pictures]
    good = [pixels for pixels in decoded if not isinstance(pixels, ImageError)]
    predictions = iter(infer(np.stack(good), explain=explain) if good else ())
    return [
        {"error": describe(pixels.code, str(pixels))}
        if isinstance(pixels, ImageError)
        else answer(next(predictions), pixels)
        for pixels in decoded
    ]


def infer(pixels: Pixels, *, explain: bool) -> list[Prediction]:
    """Run the network on uint8 [N, 28, 28], by the clock."""
    with observe.INFERENCE.time():
        return classifier.classify(pixels, explain=explain)


def decode(picture: Picture) -> Pixels | ImageError:
    """Bring a picture to pixels, or return the error that says why not."""
    if not isinstance(picture, bytes):
        return picture
    try:
        return to_pixels(picture)
    except ImageError as error:
        return error


def answer(prediction: Prediction, pixels: Pixels) -> Json:
    """Put a prediction in the words of the contract."""
    if prediction.is_unknown:
        detail = f"none of the classes; the nearest is {prediction.label}"
        return {
            "error": describe("unknown_class", detail)
            | {
                "unknown_score": prediction.unknown_score,
                "unknown_threshold": classifier.unknown_threshold,
                "nearest": prediction.probabilities,
                **explanation(prediction, pixels),
            }
        }
    return {
        "class": prediction.label,
        "class_id": prediction.class_id,
        "probability": prediction.probability,
        "probabilities": prediction.probabilities,
        "unknown_score": prediction.unknown_score,
        **explanation(prediction, pixels),
    }


def explanation(prediction: Prediction, pixels: Pixels) -> Json:
    """Show what the network saw and where it looked; nothing if not asked to.

    The pixels are numbers, as `pixels` in a request: they can be sent back as they are.
    """
    if prediction.activation is None:
        return {}
    return {
        "explain": {
            "pixels": pixels.tolist(),
            "activation": prediction.activation,
            "unknown_threshold": classifier.unknown_threshold,
        }
    }


def body_of(answers: list[Json], is_batch: bool) -> Json:
    """Put answers and the model that gave them together, or one picture's problem."""
    if is_batch:
        return {"predictions": answers, "model": model()}
    return answers[0].get("error") or answers[0] | {"model": model()}


def model() -> Json:
    """Name the model that answers."""
    return {"name": classifier.name, "version": classifier.version}


def describe(code: str, detail: str) -> Json:
    """Make the members of a problem (RFC 9457), with our stable code."""
    status, title = PROBLEMS[code]
    return {"title": title, "status": status, "detail": detail, "code": code}


def problem(members: Json) -> Response:
    """Answer with a problem document."""
    return respond(members, members["status"], "application/problem+json")


def respond(body: Json, status: int = 200, kind: str = "application/json") -> Response:
    """Answer with compact JSON; Flask's own way takes twice as long."""
    text = json.dumps(body, separators=(",", ":"))
    return Response(f"{text}\n", status, mimetype=kind)


@app.errorhandler(ImageError)
def refuse_image(error: ImageError) -> Response:
    """Answer a fault that concerns the whole request."""
    return problem(describe(error.code, str(error)))


@app.errorhandler(HTTPException)
def refuse(error: HTTPException) -> Response:
    """Give what Flask raises the same shape as every other error."""
    codes = {status: code for code, (status, _) in reversed(PROBLEMS.items())}
    code = codes.get(error.code or 500, "bad_request")
    detail = error.description or ""
    if isinstance(error, MethodNotAllowed):
        detail = f"use {', '.join(sorted(error.valid_methods or ()))}"
    if code == "too_large":
        megabytes = app.config["MAX_CONTENT_LENGTH"] / 1024**2
        detail = f"at most {megabytes:g} MB and {MAX_PICTURES} pictures in one request"
    response = problem(describe(code, detail))
    response.headers.extend({k: v for k, v in error.get_headers() if k == "Allow"})
    if code == "unauthorized":
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


@app.before_request
def take_request_id() -> None:
    """Use the client's X-Request-ID, cleaned, or make one; start the clock."""
    sent = request.headers.get("X-Request-ID", "")
    cleaned = NOT_IN_AN_ID.sub("", sent)[:REQUEST_ID_LENGTH]
    g.request_id = cleaned or secrets.token_hex(16)
    g.started = time.perf_counter()


@app.before_request
def demand_key() -> None:
    """Let nobody in without one of the keys, if there are any."""
    keys = app.config["API_KEY"]
    if keys is None or request.endpoint in OPEN_ENDPOINTS:
        return
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else ""
    sent = (request.headers.get("X-API-Key") or bearer).encode()
    if not sum(hmac.compare_digest(sent, key) for key in keys):  # compares them all
        raise Unauthorized("send a key: X-API-Key: KEY or Authorization: Bearer KEY")


@app.after_request
def tell(response: Response) -> Response:
    """Finish the headers; count and log the answer."""
    response.headers["X-Request-ID"] = g.request_id
    response.headers["X-Content-Type-Options"] = "nosniff"  # browsers are not to guess
    seconds = time.perf_counter() - g.started
    route = request.url_rule.rule if request.url_rule else "none"
    pictures, answers = g.get("predictions", ([], []))
    observe.count_request(route, response.status_code, seconds)
    observe.count_predictions(answer.get("error", answer) for answer in answers)
    level = observe.level_of(response.status_code, route in ROUTINE_ROUTES)
    is_logged = level >= app.config["LOG_LEVEL"]
    if not is_logged and not (record and pictures):
        return response
    lines = [summarise(p, a) for p, a in zip(pictures, answers, strict=True)]
    request_line = {
        "request_id": g.request_id,
        "method": request.method,
        "route": route,
        "status": response.status_code,
        "milliseconds": round(seconds * 1000, 3),
        "version": classifier.version,
    }
    if is_logged:
        observe.write_line(level, request_line | {"predictions": lines})
    if record:
        for line in lines:
            record.write(
                {"request_id": g.request_id, **line, "version": classifier.version}
            )
    return response


def summarise(picture: Picture, answer: Json) -> Json:
    """Tell what was asked and answered of one picture, without the picture."""
    data = b"" if isinstance(picture, ImageError) else bytes(picture)
    outcome = answer.get("error", answer)
    return {
        "sha256": hashlib.sha256(data).hexdigest() if data else None,
        "bytes": len(data),
        **{k: outcome[k] for k in ("class", "probability", "code") if k in outcome},
        "unknown_score": outcome.get("unknown_score"),
    }


def answer_files(paths: list[Path]) -> int:
    """Print what the service would answer; return how the process should exit."""
    try:
        answers = classify([path.read_bytes() for path in paths])
    except OSError as error:
        sys.exit(f"predict: {error}")
    print(json.dumps(body_of(answers, is_batch=len(paths) > 1), indent=4))  # noqa: T201
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


if __name__ == "__main__":
    options = parse_options()
    if options.pictures:
        sys.exit(answer_files(options.pictures))
    import waitress

    try:
        server = waitress.create_server(app, listen=LISTEN, threads=8)
    except OSError as error:
        sys.exit(f"predict: cannot listen on {LISTEN}: {error}")
    print(f"serving on http://{LISTEN}, Ctrl-C stops")  # noqa: T201
    server.run()
