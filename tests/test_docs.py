"""README and docs agree with the code: names, links, commands and printed answers."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
from conftest import ROOT, Server

import predict
from service.problems import PROBLEMS
from service.settings import Settings

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text()
TEXT = "\n".join(page.read_text() for page in PAGES)
SCRIPTS = tomllib.loads((ROOT / "Pipfile").read_text())["scripts"]
PACKAGES = ["model", "service", "training", "synthetic"]
MODULES = sorted(
    path
    for folder in [".", *PACKAGES]
    for path in (ROOT / folder).glob("*.py")
    if path.name != "__init__.py"
)
TOOLS = {"cat", "cp", "docker", "eb", "git", "gunicorn", "kill", "kubectl", "pip"}
TOOLS |= {"pipenv", "pipx", "pre-commit", "pytest", "python", "schemathesis"}
TOOLS |= {"seldon-core-tester", "waitress-serve", ".ci/image", "curl"}
OURS = r"bench|deploy|docs|model|report|service|static|synthetic|tests|training"
NOT_FILES = {"service/fashion", ".ebextensions/tls.config"}
HOST = "localhost:9696"


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    language: str
    text: str


class Command(NamedTuple):
    """A line for the shell, and the JSON that the page prints after it, if any."""

    page: str
    line: str
    answer: str


def blocks() -> Iterator[Block]:
    for page in PAGES:
        found = re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(), re.M | re.S)
        yield from (Block(page.name, language, text) for language, text in found)


def commands() -> Iterator[Command]:
    found = [*blocks(), Block("", "", "")]
    for block, after in pairwise(found):
        if block.language == "sh":
            *others, last = block.text.splitlines()
            is_printed = after.language == "json" and after.page == block.page
            yield from (Command(block.page, line, "") for line in others)
            yield Command(block.page, last, after.text if is_printed else "")


COMMANDS = [command for command in commands() if command.line]
REQUESTS = [c for c in COMMANDS if c.line.startswith("curl") and HOST in c.line]


def name_of(command: Command) -> str:
    return f"{command.page}: {command.line.split('  ')[0][:60]}"


def test_the_readme_is_short_and_begins_with_the_commands() -> None:
    top = "\n".join(README.splitlines()[:30])
    serve = "pip install pipenv && pipenv sync && pipenv run serve"
    test = "pip install pipenv && pipenv sync --dev && pipenv run test"
    assert 0 < top.find(serve) < top.find("/predict") < top.find(test)
    assert "pipx install pipenv" in README
    assert len(README.splitlines()) <= 160


def test_every_page_begins_with_its_purpose_and_a_command() -> None:
    for page in PAGES:
        title, purpose, command = page.read_text().split("\n\n", 3)[:3]
        assert title.startswith("# "), page
        assert purpose[-1] == "."
        assert command.startswith("```sh\n")


def test_the_readme_links_every_page() -> None:
    for page in PAGES[1:]:
        assert f"](docs/{page.name})" in README


def test_every_setting_is_documented_and_every_documented_one_exists() -> None:
    named = set(re.findall(r"`FLASK_([A-Z_0-9]+)`", TEXT))
    assert named == {name.upper() for name in Settings.model_fields}
    assert named >= set(re.findall(r"\bFLASK_([A-Z_0-9]+)\b", TEXT))


def test_every_code_is_documented_with_its_status() -> None:
    for code, problem in PROBLEMS.items():
        assert f"| {problem.status} | `{code}` |" in TEXT


def test_every_route_is_documented() -> None:
    for rule in predict.app.url_map.iter_rules():
        assert rule.endpoint in {"static", "openapi.asset"} or f"{rule.rule}`" in TEXT


def test_every_metric_is_documented(gunicorn: Server) -> None:
    exposition = requests.get(f"{gunicorn.url}/metrics", timeout=5).text
    for name in re.findall(r"^# TYPE (\w+)", exposition, re.MULTILINE):
        assert f"`{name}`" in TEXT


def test_every_script_of_the_pipfile_is_documented() -> None:
    for name in SCRIPTS:
        assert f"pipenv run {name}" in TEXT


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_every_module_is_documented_and_opens_with_a_docstring(path: Path) -> None:
    assert f"| `{path.relative_to(ROOT)}` |" in TEXT
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_every_file_in_the_docs_exists() -> None:
    named = rf"(?<![\w./-])((?:{OURS}|\.\w+)/[\w./-]*\w)"
    for name in set(re.findall(named, TEXT)) - NOT_FILES:
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`(test_\w+|fuzz\.py)`", TEXT):
        assert (ROOT / "tests" / name).with_suffix(".py").exists(), name


def test_no_link_is_broken() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text()):
            path, _, anchor = target.partition("#")
            found = page.parent / path if path else page
            assert found.exists(), target
            assert not anchor or anchor in anchors(found), target


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles}


@pytest.mark.parametrize("command", COMMANDS, ids=name_of)
def test_every_command_is_one_that_exists(command: Command) -> None:
    lexer = shlex.shlex(command.line, posix=True, punctuation_chars="&|")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, "&&"]:
        if word not in {"&&", "|"}:
            words.append(word)
            continue
        check_program(words)
        words = []


def check_program(words: list[str]) -> None:
    """Check one simple command: its program, and the options of our own scripts."""
    while re.match(r"[A-Z_0-9]+=", words[0]):
        words = words[1:]
    if words[:2] == ["pipenv", "run"]:
        script = SCRIPTS.get(words[2], words[2])  # a list has no options
        words = [*(shlex.split(script) if isinstance(script, str) else []), *words[3:]]
    assert not words or words[0] in TOOLS
    if words[:1] == ["python"]:
        check_options(words[1:])


def check_options(words: list[str]) -> None:
    """Check that a script or module of ours is there and knows the options."""
    if words[0].startswith("tests/"):
        assert (ROOT / words[0]).exists()
    elif words[0] != "-c":
        program = words[: 3 if words[0] == "-m" else 1]
        if program[-1].startswith("-"):  # a module without a subcommand
            program.pop()
        for option in (word for word in words[len(program) :] if word[:1] == "-"):
            assert option == "-" or option in help_of(*program)
        help_of(*program)


@cache
def help_of(*program: str) -> str:
    """Return what a program prints about its options."""
    command = [sys.executable, *program, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("command", REQUESTS, ids=name_of)
def test_every_request_is_answered_as_printed(
    gunicorn: Server, command: Command
) -> None:
    line = command.line.replace(HOST, gunicorn.url.removeprefix("http://"))
    line = line.replace("curl ", "curl -s -w '\\n%{http_code}' ", 1)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=ROOT,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    answer, _, status = done.stdout.rpartition("\n")
    if not command.answer:
        assert status == "200", answer
        return
    printed = flatten(json.loads(command.answer))
    assert int(status) == printed.get("/status", 200)
    assert flatten(json.loads(answer)) == pytest.approx(printed, abs=1e-4)


def flatten(value: Any, path: str = "") -> dict[str, Any]:
    """Return the leaves of nested JSON objects by their paths."""
    if not isinstance(value, dict):
        return {path: value}
    nested = [flatten(member, f"{path}/{key}") for key, member in value.items()]
    return {key: leaf for part in nested for key, leaf in part.items()}


@pytest.mark.parametrize("block", [b for b in blocks() if b.language == "python"])
def test_every_python_example_runs(
    gunicorn: Server, block: Block, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    code = block.text.replace(f"http://{HOST}", gunicorn.url)
    exec(compile(code, block.page, "exec"), {})  # noqa: S102 - our own pages
