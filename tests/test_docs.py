"""The README and the code say the same."""

import ast
import json
import re
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT
from flask.testing import FlaskClient

import predict
from service import settings
from service.problems import PROBLEMS

README = (ROOT / "README.md").read_text()
SCRIPTS = sorted(ROOT.glob("*.py"))


def test_the_first_commands_stand_in_the_first_lines() -> None:
    top = "\n".join(README.splitlines()[:15])
    assert "pip install pipenv && pipenv sync && pipenv run serve" in top
    assert "pip install pipenv && pipenv sync --dev && pipenv run test" in top
    assert "pipx install pipenv" in top


@pytest.mark.parametrize("name", settings.Settings.model_fields)
def test_every_setting_is_documented(name: str) -> None:
    assert f"`FLASK_{name.upper()}`" in README


@pytest.mark.parametrize("code", PROBLEMS)
def test_every_code_is_documented(code: str) -> None:
    assert f"`{code}`" in README


def test_every_route_is_documented() -> None:
    for rule in predict.app.url_map.iter_rules():
        assert rule.endpoint in {"static", "openapi.asset"} or rule.rule in README


def test_every_script_of_the_pipfile_is_documented() -> None:
    for name in tomllib.loads((ROOT / "Pipfile").read_text())["scripts"]:
        assert f"pipenv run {name}" in README


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_every_script_is_documented_and_opens_with_a_docstring(path: Path) -> None:
    assert f"`{path.name}`" in README
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_the_printed_answer_is_the_answer(client: FlaskClient, boot: bytes) -> None:
    printed = README.split("| python -m json.tool\n", 1)[1].split("\n\n")[0]
    expected, answer = (
        json.loads(printed),
        client.post("/predict", data=boot).get_json(),
    )
    for key in ("probabilities", "probability", "unknown_score"):  # processors differ
        assert answer.pop(key) == pytest.approx(expected.pop(key), abs=1e-4)
    assert answer == expected


def test_no_link_of_the_readme_is_broken() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
