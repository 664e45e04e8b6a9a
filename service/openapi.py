"""The API's description: `/openapi.json`, and `/docs` to read it and try it out.

The document is made of the routes' docstrings and of the messages in `schemas.py`, the
same that check the requests. Swagger UI comes along as files, so that it works offline.
"""

import json
from functools import cache
from importlib.util import find_spec
from inspect import getdoc
from pathlib import Path
from typing import Any, NamedTuple

from flask import (
    Blueprint,
    Flask,
    Response,
    current_app,
    render_template,
    send_from_directory,
)
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service import schemas
from service.problems import PROBLEMS, to_problem

VERSION = "1.0.0"  # of the contract
MESSAGES = "#/components/schemas/{model}"
JSON, PROBLEM = "application/json", "application/problem+json"
METHODS = ("get", "post")

DOCS_HEADERS = {  # Swagger UI sets styles of its own
    "Content-Security-Policy": "default-src 'none'; script-src 'self';"
    " style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}

Json = dict[str, Any]


class Operation(NamedTuple):
    """What the code of a route does not say of it."""

    tag: str
    answers: Json  # content of a good answer, by media type
    body: Json | None = None  # content of a request, by media type
    codes: tuple[str, ...] = ()  # of problems beside those of any route
    error: type[BaseModel] = schemas.Problem
    parameters: tuple[Json, ...] = ()


def refer(*models: type[BaseModel]) -> Json:
    """Point to a message, or to any of several."""
    links = [{"$ref": MESSAGES.format(model=model.__name__)} for model in models]
    return links[0] if len(links) == 1 else {"anyOf": links}


def content(*models: type[BaseModel]) -> Json:
    """Describe JSON that holds one of these messages."""
    return {JSON: {"schema": refer(*models)}}


def asked_of_v2(answer: type[BaseModel]) -> Operation:
    """Describe a route of the Open Inference Protocol that is only asked."""
    return Operation("v2", content(answer), error=schemas.InferenceError)


ABOUT = """A picture of a garment in, its class out, or a clear error.

Errors of `/predict` and of the service are problems (RFC 9457) with a stable `code`.
Below `/v2` they are `{"error": ...}`, in the Seldon protocol its own status object,
with the same statuses. Every answer bears `X-Request-ID`, the request's or a new one,
and `X-Model-Version`.

| status | code | for example |
| --- | --- | --- |
"""
TEXT = {"text/plain": {"schema": {"type": "string"}}}
PAGE = {"text/html": {"schema": {"type": "string"}}}
BINARY: Json = {"application/octet-stream": {"schema": {}}}
FORM: Json = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "properties": {
                "image": {
                    "description": "One picture or several; any field name will do.",
                    "type": "array",
                    "items": {"type": "string", "format": "binary"},
                }
            },
        }
    }
}
MESSAGE = content(schemas.ImageRequest, schemas.ImagesRequest, schemas.PixelsRequest)
PICTURES = FORM | MESSAGE | BINARY  # a form first: it has a button to choose a file
EXPLAIN = {
    "name": "explain",
    "in": "query",
    "description": "Show what the network saw and where it looked.",
    "schema": {"type": "boolean", "default": False},
}
TRANSFER = ("bad_request", "timeout", "too_large", "unsupported_image", "overloaded")
IMAGE = (*TRANSFER, "broken_image")

OPERATIONS = {  # by endpoint
    "page": Operation("service", PAGE),
    "ping": Operation("service", TEXT),
    "metrics": Operation("service", TEXT),
    "openapi.document": Operation("service", {JSON: {"schema": {"type": "object"}}}),
    "openapi.docs": Operation("service", PAGE),
    "predict": Operation(
        "predict",
        content(schemas.Answer, schemas.Batch),
        PICTURES,
        (*IMAGE, "unknown_class"),
        parameters=(EXPLAIN,),
    ),
    "v2.live": asked_of_v2(schemas.ServerLive),
    "v2.ready": asked_of_v2(schemas.ServerReady),
    "v2.server_metadata": asked_of_v2(schemas.ServerMetadata),
    "v2.model_metadata": asked_of_v2(schemas.ModelMetadata),
    "v2.model_ready": asked_of_v2(schemas.ModelReady),
    "v2.infer": Operation(
        "v2",
        content(schemas.InferenceResponse) | BINARY,
        content(schemas.InferenceRequest) | BINARY,
        IMAGE,
        schemas.InferenceError,
    ),
    "seldon.seldon_predictions": Operation(
        "seldon",
        content(schemas.SeldonMessage),
        content(schemas.SeldonMessage),
        TRANSFER,
        schemas.SeldonError,
    ),
}
COMMON = ("unauthorized", "not_found", "method_not_allowed", "internal_error")

openapi = Blueprint("openapi", __name__)


@openapi.get("/openapi.json")
def document() -> Response:
    """Describe the API as OpenAPI 3.1 does."""
    return Response(written(), mimetype=JSON)


@openapi.get("/docs")
def docs() -> Response:
    """Show the description, and try it out, in a browser."""
    html = render_template("docs.html")
    return Response(html, headers=DOCS_HEADERS, mimetype="text/html")


@openapi.get("/docs/<path:name>")
def asset(name: str) -> Response:
    """Serve a file of Swagger UI."""
    return send_from_directory(swagger_folder(), name, max_age=86_400)


@cache
def swagger_folder() -> Path:
    """Find Swagger UI's files without importing the package that brings them."""
    spec = find_spec("flask_openapi3_swagger")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("flask_openapi3_swagger is not installed")
    return Path(spec.origin).parent / "templates" / "swagger"


@cache
def written() -> str:
    """Write the document once: routes do not change."""
    return json.dumps(describe(current_app))


def describe(app: Flask) -> Json:
    """Make the OpenAPI document of an app's routes."""
    paths: dict[str, Json] = {}
    for rule in app.url_map.iter_rules():
        operation = OPERATIONS.get(rule.endpoint)
        if operation is None:
            continue  # files
        path = rule.rule.replace("<", "{").replace(">", "}")
        methods = [name for name in METHODS if name.upper() in (rule.methods or ())]
        paths.setdefault(path, {}).update(
            {
                name: describe_operation(app, rule.endpoint, path, rule.arguments)
                for name in methods
            }
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Fashion-MNIST",
            "version": VERSION,
            "description": describe_codes(),
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": describe_messages(),
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
        "security": [{}, {"key": []}, {"bearer": []}],
    }


def describe_operation(
    app: Flask, endpoint: str, path: str, arguments: set[str]
) -> Json:
    """Describe one route: what its docstring says, what it takes and answers."""
    operation = OPERATIONS[endpoint]
    summary, _, rest = (getdoc(app.view_functions[endpoint]) or "").partition("\n\n")
    names = sorted(arguments, key=path.index)
    model = app.extensions["classifier"]
    parameters = [
        {"name": name, "in": "path", "required": True}
        | {"schema": {"type": "string", "enum": [getattr(model, name)]}}
        for name in names
    ]
    codes = [*operation.codes, *COMMON]
    statuses = sorted({PROBLEMS[code].status for code in codes})
    described: Json = {
        "operationId": "_".join([endpoint.replace(".", "_"), *names[1:]]),
        "tags": [operation.tag],
        "summary": summary,
        "description": rest,
        "parameters": [*parameters, *operation.parameters],
        "responses": {"200": {"description": "OK", "content": operation.answers}}
        | {
            str(status): describe_errors(operation, status, codes)
            for status in statuses
        },
    }
    if operation.body:
        described["requestBody"] = {"required": True, "content": operation.body}
    return described


def describe_errors(operation: Operation, status: int, codes: list[str]) -> Json:
    """Describe the answers of one status, with an example of each code."""
    here = [code for code in codes if PROBLEMS[code].status == status]
    description = ", ".join(PROBLEMS[code].title for code in here)
    if operation.error is not schemas.Problem:
        return {"description": description, "content": content(operation.error)}
    problem = refer(schemas.Problem)
    if "unknown_class" in here:
        problem = refer(schemas.UnknownClass, schemas.Problem)
    examples = {code: {"value": example_of(code)} for code in here}
    media = {PROBLEM: {"schema": problem, "examples": examples}}
    return {"description": description, "content": media}


def example_of(code: str) -> Json:
    """Make up a problem with a code."""
    example = to_problem(code, PROBLEMS[code].example)
    if code == "unknown_class":
        fields = schemas.UnknownClass.model_fields
        for name in ("unknown_score", "unknown_threshold", "nearest"):
            example[name] = (fields[name].examples or [None])[0]
    return example


def describe_codes() -> str:
    """Write what is common to all routes, and the table of all codes, in Markdown."""
    return ABOUT + "\n".join(
        f"| {problem.status} | `{code}` | {problem.example} |"
        for code, problem in PROBLEMS.items()
    )


def describe_messages() -> Json:
    """Describe every message that a route takes or gives."""
    kinds = [
        kind
        for kind in vars(schemas).values()
        if isinstance(kind, type) and issubclass(kind, schemas.Message)
    ]
    _, definitions = models_json_schema(
        [(kind, "validation") for kind in kinds], ref_template=MESSAGES
    )
    described: Json = definitions["$defs"]
    return described
