"""The API's description: valid, complete and true."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests
from conftest import ROOT, Server
from flask.testing import FlaskClient
from openapi_spec_validator import validate

import predict
from service import schemas
from service.problems import PROBLEMS

FILES = {"static", "openapi.asset"}
OPEN = {"/", "/ping", "/docs", "/openapi.json", "/v2/health/live"}


@pytest.fixture
def document(client: FlaskClient) -> dict[str, Any]:
    answer: dict[str, Any] = client.get("/openapi.json").get_json()
    return answer


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    validate(document)


def test_every_route_and_method_is_described(document: dict[str, Any]) -> None:
    for rule in predict.app.url_map.iter_rules():
        path = rule.rule.replace("<", "{").replace(">", "}")
        if rule.endpoint not in FILES:
            methods = (rule.methods or set()) - {"HEAD", "OPTIONS"}
            assert set(document["paths"][path]) == {name.lower() for name in methods}


def test_every_code_has_an_example_and_a_row(document: dict[str, Any]) -> None:
    answers = document["paths"]["/predict"]["post"]["responses"]
    examples = {
        code: example["value"]
        for answer in answers.values()
        for media in answer["content"].values()
        for code, example in media.get("examples", {}).items()
    }
    assert set(examples) == set(PROBLEMS)
    for code, example in examples.items():
        assert f"| `{code}` |" in document["info"]["description"]
        schemas.Problem.model_validate(example)
        assert example["status"] == PROBLEMS[code].status


def test_the_document_describes_the_served_model(document: dict[str, Any]) -> None:
    model = predict.service.classifier
    assert model.name in document["info"]["title"]
    for fact in (model.version, str(list(model.input_shape)), *model.classes):
        assert fact in document["info"]["description"]


def test_every_message_and_field_is_described(document: dict[str, Any]) -> None:
    for name, described in document["components"]["schemas"].items():
        assert described["description"]
        for field in getattr(schemas, name).model_fields.values():
            assert field.description, name


def test_every_example_is_valid(document: dict[str, Any]) -> None:
    for name, described in document["components"]["schemas"].items():
        for example in described.get("examples", []):
            getattr(schemas, name).model_validate(example)


def test_every_example_of_a_request_works_as_it_stands(
    client: FlaskClient, document: dict[str, Any]
) -> None:
    count = 0
    for path, methods in document["paths"].items():
        for method in methods.values():
            names = {
                p["name"]: p["schema"].get("default") for p in method["parameters"]
            }
            body = method.get("requestBody", {"content": {}})["content"]
            for example in (
                body.get("application/json", {}).get("examples", {}).values()
            ):
                address = path.format(**names)
                answer = client.post(address, json=example["value"])
                assert answer.status_code == 200, answer.get_data(as_text=True)
                count += 1
    assert count == 6


def test_predict_is_first_and_open_routes_have_no_padlock(
    document: dict[str, Any],
) -> None:
    assert next(iter(document["paths"])) == "/predict"
    for path, methods in document["paths"].items():
        for method in methods.values():
            is_open = path in OPEN or path.endswith("/ready")
            assert ("security" in method) == is_open
            assert "`" not in method["summary"]


def test_answers_are_as_described(client: FlaskClient, boot: bytes) -> None:
    cat = (ROOT / "static" / "pictures" / "cat.gif").read_bytes()
    for query in ("", "?explain=true"):
        answer = client.post(f"/predict{query}", data=boot).get_json()
        assert_is(schemas.Answer, answer)
        unknown = client.post(f"/predict{query}", data=cat).get_json()
        assert_is(schemas.UnknownClass, unknown)
        body = {"images": ["", "%"]}
        batch = client.post(f"/predict{query}", json=body).get_json()
        assert_is(schemas.Batch, batch)
    assert_is(schemas.Problem, client.post("/predict").get_json())


def assert_is(kind: type[schemas.Message], message: dict[str, Any]) -> None:
    """Check a message against its schema, which must name all of its members."""
    kind.model_validate(message)
    known = {field.alias or name for name, field in kind.model_fields.items()}
    assert message.keys() <= known


def test_no_asset_leads_out_of_its_folder(client: FlaskClient) -> None:
    assert client.get("/docs/../../__init__.py").status_code == 404
    assert client.get("/docs/%2e%2e/__init__.py").status_code == 404


def test_the_docs_need_no_other_host(client: FlaskClient) -> None:
    page = client.get("/docs")
    assert "http" not in page.get_data(as_text=True)
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]


def test_it_is_served_by_a_real_server(server: Server) -> None:
    answer = requests.get(f"{server.url}/openapi.json", timeout=10)
    assert answer.headers["Content-Type"] == "application/json"
    for name in ("js/swagger-ui-bundle.js", "css/swagger-ui.css"):
        asset = requests.get(f"{server.url}/docs/{name}", timeout=10)
        assert asset.status_code == 200
        assert "max-age=86400" in asset.headers["Cache-Control"]


def test_no_answer_is_outside_the_document(gunicorn: Server) -> None:
    """A short run of the command that `tests/schemathesis.toml` gives."""
    program = Path(sys.executable).parent / "schemathesis"
    command: list[str | Path] = [program, "--config-file"]
    command += [ROOT / "tests" / "schemathesis.toml", "run", "--checks", "all"]
    options = ["--max-examples", "3", "--seed", "1", "--phases", "coverage,fuzzing"]
    done = subprocess.run(
        [*command, *options, f"{gunicorn.url}/openapi.json"],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert "Tested: 16" in done.stdout
