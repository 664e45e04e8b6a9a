"""The API's description: `/openapi.json`, and `/docs` to read it and try it out.

Docstrings describe the routes, `schemas.py` their messages, `problems.py` the errors,
and the served model gives the examples. Swagger UI is served from the files of
flask-openapi3-swagger, so that it works offline.
"""

import json
from base64 import b64encode
from functools import cache
from importlib.util import find_spec
from inspect import getdoc
from pathlib import Path
from typing import NamedTuple

from flask import Blueprint, Response, current_app, render_template, send_from_directory
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from werkzeug.routing import Rule

from model.classifier import Classifier, generated_picture
from service import schemas
from service.answers import JSON, PROBLEM, Json
from service.problems import PROBLEMS, to_problem

VERSION = "1.0.0"  # of the API
REFERENCE = "#/components/schemas/{model}"
DOCS_HEADERS = {  # Swagger UI sets styles of its own
    "Content-Security-Policy": "default-src 'none'; script-src 'self';"
    " style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
ABOUT = """A picture in, its class out, or a clear error.

The model `{model.name}`, version `{model.version}`, has the input shape {shape} and
these classes: {classes}. {unknown}

Errors of `/predict` and of the service are problems (RFC 9457) with a stable `code`.
Below `/v2` they are `{{"error": ...}}`, in the Seldon protocol its own status object,
with the same statuses. Every answer has the headers `X-Request-ID`, the request's or
a new one, and `X-Model-Version`.

| status | code | for example |
| --- | --- | --- |
{codes}"""

REFUSES = "A picture of none of them is refused with `unknown_class`."
REFUSES_NOT = (
    "This model refuses nothing: a picture of none of them gets a class all the same."
)


class Operation(NamedTuple):
    """The part of a route's description that is not in its docstring."""

    tag: str
    answer: Json  # content of status 200, by media type
    body: Json | None = None  # content of a request, by media type
    codes: tuple[str, ...] = ()  # of errors beside the common ones
    is_open: bool = False  # nobody needs a key


def content(*messages: type[BaseModel], media: str = JSON) -> Json:
    """Return the content of a body that is one of these messages."""
    links = [{"$ref": REFERENCE.format(model=message.__name__)} for message in messages]
    return {media: {"schema": links[0] if len(links) == 1 else {"anyOf": links}}}


HTML: Json = {"text/html": {"schema": {"type": "string"}}}
TEXT: Json = {"text/plain": {"schema": {"type": "string"}}}
BINARY: Json = {"application/octet-stream": {"schema": {}}}
FILES = {
    "description": "One picture or several; the field may have any name.",
    "type": "array",
    "items": {"type": "string", "format": "binary"},
}
FORM = {"type": "object", "properties": {"image": FILES}}
PICTURES = (  # JSON first: its examples work as they stand
    content(schemas.ImageRequest, schemas.ImagesRequest, schemas.PixelsRequest)
    | {"multipart/form-data": {"schema": FORM}}
    | BINARY
)
SWITCHES = [
    {
        "name": name,
        "in": "query",
        "description": description,
        "schema": {"type": "boolean", "default": False},
    }
    for name, description in {
        "explain": "Add the model's input and its class activation to the answer.",
        "batch": "Answer as to a batch, even if it is one picture.",
    }.items()
]
SECURITY = {
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {"type": "http", "scheme": "bearer"},
}
COMMON = ("unauthorized", "not_found", "method_not_allowed", "internal_error")
TRANSFER = ("bad_request", "timeout", "too_large", "unsupported_image", "overloaded")
IMAGE = (*TRANSFER, "broken_image")
ERRORS: dict[str, type[BaseModel]] = {
    "v2": schemas.InferenceError,
    "seldon": schemas.SeldonError,
}
SELDON = content(schemas.SeldonMessage)
OPERATIONS = {  # by endpoint, in the order of the document
    "predict": Operation(
        "predict",
        content(schemas.Answer, schemas.Batch),
        PICTURES,
        (*IMAGE, "unknown_class"),
    ),
    "v2.infer": Operation(
        "v2",
        content(schemas.InferenceResponse) | BINARY,
        content(schemas.InferenceRequest) | BINARY,
        IMAGE,
    ),
    "v2.model_metadata": Operation("v2", content(schemas.ModelMetadata)),
    "v2.model_ready": Operation("v2", content(schemas.ModelReady), is_open=True),
    "v2.server_metadata": Operation("v2", content(schemas.ServerMetadata)),
    "v2.live": Operation("v2", content(schemas.ServerLive), is_open=True),
    "v2.ready": Operation("v2", content(schemas.ServerReady), is_open=True),
    "seldon.seldon_predictions": Operation("seldon", SELDON, SELDON, TRANSFER),
    "page": Operation("service", HTML, is_open=True),
    "ping": Operation("service", TEXT, is_open=True),
    "metrics": Operation("service", TEXT),
    "openapi.document": Operation(
        "service", {JSON: {"schema": {"type": "object"}}}, is_open=True
    ),
    "openapi.docs": Operation("service", HTML, is_open=True),
}
OPEN_ENDPOINTS = {name for name, operation in OPERATIONS.items() if operation.is_open}
OPEN_ENDPOINTS |= {"static", "openapi.asset"}

openapi = Blueprint("openapi", __name__)


@openapi.get("/openapi.json")
def document() -> Response:
    """Return the API's description as OpenAPI 3.1."""
    return Response(to_text(), mimetype=JSON)


@openapi.get("/docs")
def docs() -> Response:
    """Show the API's description in a browser, to read it and try it out."""
    html = render_template("docs.html")
    return Response(html, headers=DOCS_HEADERS, mimetype="text/html")


@openapi.get("/docs/<path:name>")
def asset(name: str) -> Response:
    """Return a file of Swagger UI."""
    return send_from_directory(swagger_folder(), name, max_age=86_400)


@cache
def swagger_folder() -> Path:
    """Return the folder of Swagger UI without importing the package it is in."""
    spec = find_spec("flask_openapi3_swagger")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("flask_openapi3_swagger is not installed")
    return Path(spec.origin).parent / "templates" / "swagger"


@cache
def to_text() -> str:
    """Return the document as JSON, made once: neither routes nor model change."""
    return json.dumps(describe(current_app.extensions["service"].classifier))


def describe(model: Classifier) -> Json:
    """Return the OpenAPI document of the app's routes and the model it serves."""
    paths: dict[str, Json] = {}
    for endpoint in OPERATIONS:  # the others serve files
        for rule in current_app.url_map.iter_rules(endpoint):
            path = rule.rule.replace("<", "{").replace(">", "}")
            method = "post" if "POST" in (rule.methods or ()) else "get"
            paths.setdefault(path, {})[method] = describe_route(rule, model)
    rows = [f"| {p.status} | `{code}` | {p.example} |" for code, p in PROBLEMS.items()]
    about = ABOUT.format(
        model=model,
        shape=list(model.input_shape),
        classes=", ".join(model.classes),
        unknown=REFUSES if model.refuses_unknown else REFUSES_NOT,
        codes="\n".join(rows),
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{model.name}: image classification",
            "version": VERSION,
            "description": about,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "."}],  # where the document is
        "paths": paths,
        "components": {"schemas": messages(model), "securitySchemes": SECURITY},
        "security": [{}, {"key": []}, {"bearer": []}],
    }


def describe_route(rule: Rule, model: Classifier) -> Json:
    """Return the operation of a route: its docstring, parameters, body and answers."""
    operation = OPERATIONS[rule.endpoint]
    docstring = getdoc(current_app.view_functions[rule.endpoint]) or ""
    summary, _, description = docstring.partition("\n\n")
    names = sorted(rule.arguments, key=rule.rule.index)
    parameters = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {
                "type": "string",
                "enum": [getattr(model, name)],
                "default": getattr(model, name),
            },
        }
        for name in names
    ]
    described: Json = {
        "operationId": "_".join([rule.endpoint.replace(".", "_"), *names[1:]]),
        "tags": [operation.tag],
        "summary": summary.replace("`", ""),
        "description": description,
        "parameters": SWITCHES if operation.tag == "predict" else parameters,
        "responses": {"200": {"description": "OK", "content": operation.answer}}
        | errors(operation),
    }
    if operation.body:
        body = with_examples(operation.body, model)
        described["requestBody"] = {"required": True, "content": body}
    if operation.is_open:
        described["security"] = []
    return described


def with_examples(body: Json, model: Classifier) -> Json:
    """Return the content of a request with an example of each message in JSON."""
    schema, known = body[JSON]["schema"], examples(model)
    links = [link["$ref"] for link in schema.get("anyOf", [schema])]
    names = [link.rpartition("/")[2] for link in links]
    found = {
        name: {
            "summary": getdoc(getattr(schemas, name)),
            "value": known[name],
        }
        for name in names
    }
    return {**body, JSON: {"schema": schema, "examples": found}}


def errors(operation: Operation) -> Json:
    """Return the errors of a route by status, with an example of each code."""
    by_status: dict[int, list[str]] = {}
    for code in (*operation.codes, *COMMON):
        by_status.setdefault(PROBLEMS[code].status, []).append(code)
    described = {}
    for status, codes in sorted(by_status.items()):
        title = ", ".join(PROBLEMS[code].title for code in codes)
        error = ERRORS.get(operation.tag)
        body = content(error) if error else problems(codes)
        described[str(status)] = {"description": title, "content": body}
    return described


def problems(codes: list[str]) -> Json:
    """Return the content of an answer that is a problem with one of these codes."""
    kinds = [schemas.UnknownClass] if "unknown_class" in codes else []
    body = content(*kinds, schemas.Problem, media=PROBLEM)
    body[PROBLEM]["examples"] = {
        code: {"value": to_problem(code, PROBLEMS[code].example)} for code in codes
    }
    return body


def messages(model: Classifier) -> Json:
    """Return the schema of every message, some with an example."""
    kinds = [
        kind
        for kind in vars(schemas).values()
        if isinstance(kind, type) and issubclass(kind, schemas.Message)
    ]
    _, described = models_json_schema(
        [(kind, "validation") for kind in kinds], ref_template=REFERENCE
    )
    definitions: dict[str, Json] = described["$defs"]
    for name, example in examples(model).items():
        definitions[name]["examples"] = [example]
    return definitions


def examples(model: Classifier) -> dict[str, Json]:
    """Return examples of messages, by name, with the facts of the model."""
    label, threshold = model.classes[0], model.unknown_threshold
    picture = model.samples[0].picture if model.samples else generated_picture()
    image, numbers = b64encode(picture).decode(), model.to_pixels(picture)
    names = {"name": model.name, "version": model.version}
    prediction = {
        "class": label,
        "class_id": 0,
        "probability": 1.0,
        "probabilities": dict.fromkeys(model.classes, 0.0) | {label: 1.0},
        "unknown_score": None if threshold is None else threshold - 1,
    }
    pixels = {"name": "pixels", "datatype": "UINT8", "shape": [-1, *model.input_shape]}
    one = {"datatype": "BYTES", "shape": [1]}
    return {
        "ImageRequest": {"image": image},
        "ImagesRequest": {"images": [image, image]},
        "PixelsRequest": {"pixels": numbers.tolist()},
        "Model": names,
        "Prediction": prediction,
        "Answer": prediction | {"model": names},
        "InferenceRequest": {"inputs": [one | {"name": "image", "data": [image]}]},
        "OutputTensor": one | {"name": "label", "data": [label]},
        "TensorMetadata": pixels,
        "SeldonMessage": {"data": {"ndarray": [numbers.ravel().tolist()]}},
    }
