"""The configuration for AWS Elastic Beanstalk, tested without AWS."""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
import yaml
from conftest import ROOT, Server
from eb_stub import Parameters, account, git, snapshot

from service import settings

EXTENSIONS = sorted((ROOT / ".ebextensions").iterdir())
NGINX = ROOT / ".platform" / "nginx"
PAGE = (ROOT / "docs" / "beanstalk.md").read_text()
COMMANDS = re.findall(r"^eb (.+)", PAGE, re.MULTILINE)
LEFT_OUT = [".ci", ".elasticbeanstalk", ".git/", "bench", "deploy", "docs", "report"]
LEFT_OUT += ["tests"]
UPSTREAM_IDLE_SECONDS = 60  # nginx's default, for connections to the container

Option = tuple[str, str]  # namespace and name


class StrictLoader(yaml.SafeLoader):
    """YAML without duplicate keys; by default the last one wins."""

    def construct_mapping(
        self, node: yaml.MappingNode, deep: bool = False
    ) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"duplicate keys: {keys}"
        return super().construct_mapping(node, deep)


def load(text: str) -> Any:
    return yaml.load(text, StrictLoader)  # noqa: S506 - a safe loader


def read_options(text: str) -> list[tuple[Option, Any]]:
    """Read the options of a file, which may be written in two ways."""
    (section,) = load(text).items()
    assert section[0] == "option_settings"
    if isinstance(section[1], list):
        return [((x["namespace"], x["option_name"]), x["value"]) for x in section[1]]
    return [
        ((namespace, name), value)
        for namespace, values in section[1].items()
        for name, value in values.items()
    ]


SET = [pair for path in EXTENSIONS for pair in read_options(path.read_text())]
OPTIONS = dict(SET)
VARIABLES = "aws:elasticbeanstalk:application:environment"
PROCESS = "aws:elasticbeanstalk:environment:process:default"


def tls() -> str:
    """Return the file for HTTPS that the page shows."""
    return PAGE.split("```yaml\n")[1].split("```")[0]


@pytest.mark.parametrize(("option", "value"), SET + read_options(tls()))
def test_every_option_exists_and_its_value_is_valid(option: Option, value: Any) -> None:
    known = load((ROOT / "tests" / "eb_options.yml").read_text())
    allowed = known[option[0]][option[1]]
    if isinstance(allowed, list):
        assert value in allowed
    elif allowed != "any":
        low, high = allowed.split("-")
        assert int(low) <= value <= int(high)


def test_no_option_is_set_twice() -> None:
    assert len(SET) == len(OPTIONS)


def test_the_options_that_matter_are_set() -> None:
    assert OPTIONS[PROCESS, "HealthCheckPath"] == "/ping"
    assert OPTIONS["aws:autoscaling:trigger", "MeasureName"] == "CPUUtilization"
    policy = OPTIONS["aws:elasticbeanstalk:command", "DeploymentPolicy"]
    assert policy == "TrafficSplitting"
    health = "aws:elasticbeanstalk:healthreporting:system"
    rules = OPTIONS[health, "ConfigDocument"]["Rules"]["Environment"]
    assert rules["Application"]["ApplicationRequests4xx"] == {"Enabled": False}
    assert rules["ELB"]["ELBRequests4xx"] == {"Enabled": False}


class Step(NamedTuple):
    """One `eb` command of the page."""

    calls: list[tuple[str, Parameters]]  # to AWS
    changes: str  # that `git status` reports after it


class Journey(NamedTuple):
    """All commands, one after the other."""

    steps: dict[str, Step]
    bundle: zipfile.ZipFile  # the last one uploaded
    config: str  # of `eb`, at the end


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Journey:
    if not os.environ.get("EB"):
        pytest.skip("EB is not set: awsebcli needs an environment of its own")
    clone = snapshot(tmp_path_factory.mktemp("eb"))
    steps = {}
    with account() as aws:
        for command in COMMANDS:
            before = len(aws.calls)
            aws.eb(clone, *shlex.split(command, comments=True))
            changes = git("-C", str(clone), "status", "--porcelain")
            steps[command.split()[0]] = Step(aws.calls[before:], changes)
        config = (clone / ".elasticbeanstalk" / "config.yml").read_text()
        return Journey(steps, aws.bundle(), config)


def sent(step: Step, action: str) -> Parameters:
    """Return the parameters that a step sent with an action."""
    assert action in dict(step.calls), step.calls
    return dict(step.calls)[action]


def options_sent(parameters: Parameters) -> dict[Option, str]:
    prefix = "OptionSettings.member."
    numbers = {key.split(".")[2] for key in parameters if key.startswith(prefix)}
    return {
        (
            parameters[f"{prefix}{number}.Namespace"],
            parameters[f"{prefix}{number}.OptionName"],
        ): parameters[f"{prefix}{number}.Value"]
        for number in numbers
    }


def test_eb_create_creates_the_environment_of_the_page(journey: Journey) -> None:
    created = sent(journey.steps["create"], "CreateEnvironment")
    assert created["ApplicationName"] == "fashion"
    assert "Docker running on 64bit Amazon Linux 2023" in created["PlatformArn"]
    assert options_sent(created)[VARIABLES, "FLASK_API_KEY"] == "KEY"


def test_eb_create_overrides_nothing_that_is_set(journey: Journey) -> None:
    created = options_sent(sent(journey.steps["create"], "CreateEnvironment"))
    assert len(created) > 5
    assert not created.keys() & OPTIONS.keys()


def test_eb_deploy_sends_another_version(journey: Journey) -> None:
    first = sent(journey.steps["create"], "CreateEnvironment")["VersionLabel"]
    second = sent(journey.steps["deploy"], "UpdateEnvironment")["VersionLabel"]
    assert first != second
    bundle = sent(journey.steps["deploy"], "PutObject")["Key"]
    assert bundle == f"fashion/{second}.zip"


def test_eb_setenv_sets_two_keys(journey: Journey) -> None:
    changed = sent(journey.steps["setenv"], "UpdateEnvironment")
    assert changed["EnvironmentName"] == "fashion-prod"
    assert options_sent(changed) == {(VARIABLES, "FLASK_API_KEY"): "NEW,OLD"}


def test_eb_terminate_deletes_the_environment(journey: Journey) -> None:
    ended = sent(journey.steps["terminate"], "TerminateEnvironment")
    assert ended["EnvironmentName"] == "fashion-prod"


def test_eb_does_not_change_the_checkout(journey: Journey) -> None:
    for command in ("create", "status", "deploy", "setenv"):
        assert journey.steps[command].changes == ""


def test_eb_init_changes_only_the_region(journey: Journey) -> None:
    assert COMMANDS[-1].startswith("init")
    before = load((ROOT / ".elasticbeanstalk" / "config.yml").read_text())["global"]
    after = load(journey.config)["global"]
    assert after.items() >= (before | {"default_region": "us-east-1"}).items()
    assert journey.steps["init"].changes == " M .elasticbeanstalk/config.yml\n"


def test_the_bundle_has_the_service_and_no_tests(journey: Journey) -> None:
    names = journey.bundle.namelist()
    assert {"model.bin", ".platform/nginx/conf.d/limits.conf"} <= set(names)
    assert {path.relative_to(ROOT).as_posix() for path in EXTENSIONS} <= set(names)
    assert not [name for name in names if name.startswith(tuple(LEFT_OUT))]
    # either would be used instead of the Dockerfile
    assert not {"docker-compose.yml", "Dockerrun.aws.json"} & set(names)
    size = sum(one.compress_size for one in journey.bundle.infolist())
    assert size < 5_000_000  # of 500 MB


def test_the_bundle_has_all_files_of_the_image(journey: Journey) -> None:
    held = {name.removesuffix("/") for name in journey.bundle.namelist()}
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    included = {line[1:] for line in lines if line.startswith("!")}
    assert {"Dockerfile", ".dockerignore"} | included <= held


def test_the_image_is_built_from_the_bundle(journey: Journey, tmp_path: Path) -> None:
    if os.environ.get("FASHION_IMAGE") != "1":
        pytest.skip("FASHION_IMAGE is not 1: an image takes minutes, root and Debian")
    journey.bundle.extractall(tmp_path)
    (tmp_path / ".ci").mkdir()  # the script builds the folder above its own
    script = shutil.copy(ROOT / ".ci" / "image", tmp_path / ".ci")
    subprocess.run([script, "build"], cwd=tmp_path, check=True, timeout=1200)


# As on the platform "Docker running on 64bit Amazon Linux 2023", except for
# paths, ports and the log that enhanced health reads.
PLATFORM = """
user root;
daemon off;
pid nginx.pid;
error_log error.log;
events {
    worker_connections 1024;
}
http {
    include conf.d/*.conf;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    access_log access.log;
    default_type application/octet-stream;
    map $http_upgrade $connection_upgrade {
        default "upgrade";
    }
    upstream docker {
        server BACKEND;
        keepalive 256;
    }
    server {
        listen 127.0.0.1:PORT default_server;
        gzip on;
        gzip_comp_level 4;
        gzip_types text/plain text/css application/json text/javascript;
        location / {
            proxy_pass http://docker;
            proxy_http_version 1.1;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Host $host;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        }
        include conf.d/elasticbeanstalk/*.conf;
    }
}
"""


@contextmanager
def proxy(folder: Path, backend: str, *, short_timeouts: bool = False) -> Iterator[str]:
    """Run the platform's nginx with our files; short timeouts are 1 s."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if not program:
        pytest.skip("there is no nginx")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shutil.copytree(NGINX, folder, dirs_exist_ok=True)
    if short_timeouts:
        limits = folder / "conf.d" / "limits.conf"
        limits.write_text(re.sub(r"\d+s;", "1s;", limits.read_text()))
    text = PLATFORM.replace("BACKEND", backend).replace("PORT", str(port))
    (folder / "nginx.conf").write_text(text)
    command = [program, "-p", f"{folder}/", "-c", f"{folder}/nginx.conf"]
    with subprocess.Popen(command) as process:
        try:
            wait_for_port(port)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def wait_for_port(port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail("nginx does not listen")


@pytest.fixture(scope="module")
def front(
    gunicorn: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """Return the URLs of the service behind nginx and without it."""
    backend = gunicorn.url.removeprefix("http://")
    with proxy(tmp_path_factory.mktemp("nginx"), backend) as url:
        yield url, gunicorn.url


def test_the_service_answers_through_nginx(front: tuple[str, str], boot: bytes) -> None:
    assert requests.get(f"{front[0]}/ping", timeout=5).text == "PONG"
    answer = requests.post(f"{front[0]}/predict", data=boot, timeout=5).json()
    assert answer["class"] == "Ankle boot"


@pytest.mark.parametrize("is_chunked", [False, True])
def test_nginx_refuses_the_same_bodies_as_the_service(
    front: tuple[str, str], is_chunked: bool
) -> None:
    """Both accept a body up to the same byte, and refuse more with the same answer."""
    limit = settings.read().max_content_length
    for size, status in [(limit, 415), (limit + 1, 413)]:
        body: Any = iter([bytes(size)]) if is_chunked else bytes(size)
        answer = requests.post(f"{front[0]}/predict", data=body, timeout=10)
        assert answer.status_code == status
    direct = requests.post(f"{front[1]}/predict", data=bytes(size), timeout=10)
    assert "X-Request-ID" not in answer.headers  # the service did not get it
    assert answer.text == direct.text
    assert answer.headers["Content-Type"] == direct.headers["Content-Type"]


@pytest.mark.parametrize("part", [b"", b"Host: x\r\nContent-Length: 9\r\n\r\nshort"])
def test_nginx_closes_connections_of_silent_clients(
    tmp_path: Path, part: bytes
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        proxy(
            tmp_path, f"127.0.0.1:{silent.getsockname()[1]}", short_timeouts=True
        ) as url,
    ):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=5) as client:
            client.sendall(b"POST /predict HTTP/1.1\r\n" + part)
            assert client.recv(1000) == b""


def test_nginx_answers_504_for_a_silent_service(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        backend = f"127.0.0.1:{silent.getsockname()[1]}"
        with proxy(tmp_path, backend, short_timeouts=True) as url:
            assert requests.get(f"{url}/ping", timeout=5).status_code == 504


def seconds(directive: str) -> int:
    """Return the seconds that nginx waits."""
    text = (NGINX / "conf.d" / "limits.conf").read_text()
    (found,) = re.findall(rf"^{directive} (\d+)s;$", text, re.MULTILINE)
    return int(found)


def test_timeouts_grow_from_the_service_to_the_load_balancer() -> None:
    command = [sys.executable, "-m", "gunicorn", "--print-config", "predict:app"]
    printed = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    gunicorn = dict(re.findall(r"^(\w+) += (\d+)$", printed, re.MULTILINE))
    slowest = int(gunicorn["timeout"])  # a worker that blocks for longer is replaced
    balancer = OPTIONS["aws:elbv2:loadbalancer", "IdleTimeout"]
    assert slowest < seconds("proxy_read_timeout") < balancer
    assert balancer < seconds("client_header_timeout")
    assert balancer < seconds("client_body_timeout")
    assert int(gunicorn["keepalive"]) > UPSTREAM_IDLE_SECONDS
    assert slowest <= OPTIONS[PROCESS, "DeregistrationDelay"]
    interval = OPTIONS[PROCESS, "HealthCheckInterval"]
    assert OPTIONS[PROCESS, "HealthCheckTimeout"] < interval
