"""The manifests, rendered by Kustomize: valid, safe, and true of the service."""

import json
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from secrets import choice
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from conftest import GUNICORN, ROOT, serve
from gunicorn.config import Config
from kubernetes_validate.utils import (  # type: ignore[import-untyped]
    all_versions,
    major_minor,
)

import predict
from service import settings
from service.openapi import OPEN_ENDPOINTS

Json = dict[str, Any]

DEPLOY = ROOT / "deploy"
OLDEST = 30  # of Kubernetes 1.x, since when a preStop hook can sleep
VERSIONS = sorted({v for v in map(major_minor, all_versions()) if int(v[2:]) >= OLDEST})
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "projected"}
VOLUMES |= {"persistentVolumeClaim", "secret"}
NEVER = {"host", "hostIPC", "hostNetwork", "hostPID", "hostPath", "hostPort"}
NEVER |= {"hostProcess", "privileged", "procMount", "sysctls"}
NEVER |= {"appArmorProfile", "seLinuxOptions"}


def render(folder: Path) -> dict[str, Json]:
    """Render a folder with Kustomize; return its objects by kind."""
    if not (kubectl := shutil.which("kubectl")):
        pytest.skip("needs kubectl")
    version = [kubectl, "version", "--client", "--output", "yaml"]
    done = subprocess.run(version, capture_output=True, check=True)
    if b"kustomizeVersion" not in done.stdout:
        pytest.skip("needs kubectl 1.25 or newer: the Kustomize in older ones differs")
    done = subprocess.run(
        [kubectl, "kustomize", folder], capture_output=True, check=False
    )
    assert (done.returncode, done.stderr.decode()) == (0, "")  # and no warning
    objects = list(yaml.safe_load_all(done.stdout))
    by_kind = {each["kind"]: each for each in objects}
    assert len(by_kind) == len(objects)
    return by_kind


@pytest.fixture(scope="session")
def stable() -> dict[str, Json]:
    return render(DEPLOY)


@pytest.fixture(scope="session")
def canary() -> dict[str, Json]:
    return render(DEPLOY / "canary")


@pytest.fixture(params=["stable", "canary"])
def pod(request: pytest.FixtureRequest) -> Json:
    """Return the pod template of each Deployment in turn."""
    deployment = request.getfixturevalue(request.param)["Deployment"]
    return dict(deployment["spec"]["template"])


@pytest.fixture
def container(pod: Json) -> Json:
    (container,) = pod["spec"]["containers"]
    return dict(container)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("track", ["stable", "canary"])
def test_the_manifests_match_the_published_schemas(
    request: pytest.FixtureRequest, track: str, version: str
) -> None:
    for each in request.getfixturevalue(track).values():
        kubernetes_validate.validate(each, version, strict=True)


def test_the_published_schemas_find_a_mistake(stable: dict[str, Json]) -> None:
    service = stable["Service"]
    mistake = service | {"spec": service["spec"] | {"selectors": {}}}
    with pytest.raises(kubernetes_validate.ValidationError, match="selectors"):
        kubernetes_validate.validate(mistake, VERSIONS[-1], strict=True)


def test_pods_meet_the_restricted_standard(pod: Json, container: Json) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards, v1.34.

    A little stricter: fields that the standard allows with conditions are not used.
    """
    spec = pod["spec"]
    assert not NEVER & set(keys(spec))
    for volume in spec["volumes"]:
        assert set(volume) - {"name"} <= VOLUMES
    context = spec["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] > 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {  # and nothing that overrides the above
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert not {"initContainers", "ephemeralContainers"} & set(spec)


def keys(node: Any) -> Iterator[str]:
    """Yield every key of an object, at any depth."""
    if isinstance(node, dict):
        yield from node
        node = list(node.values())
    if isinstance(node, list):
        for each in node:
            yield from keys(each)


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_probes_request_a_route_that_needs_no_key(container: Json, probe: str) -> None:
    request = container[probe]["httpGet"]
    urls = predict.app.url_map.bind("")
    assert urls.match(request["path"])[0] in OPEN_ENDPOINTS
    assert request["path"].startswith("/v2/health/")
    assert request["port"] in {port["name"] for port in container["ports"]}


def test_the_port_is_the_port_of_the_service(
    stable: dict[str, Json], pod: Json, container: Json
) -> None:
    (port,) = container["ports"]
    assert f"0.0.0.0:{port['containerPort']}" in (ROOT / "Pipfile").read_text()
    annotations = pod["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(port["containerPort"])
    assert predict.app.url_map.bind("").match(annotations["prometheus.io/path"])
    assert stable["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]


def test_every_variable_is_a_setting_with_a_valid_value(
    monkeypatch: pytest.MonkeyPatch, container: Json
) -> None:
    for variable in container["env"]:
        prefix, _, name = variable["name"].partition("_")
        if prefix != "FLASK":
            assert variable["name"] == "GUNICORN_CMD_ARGS"
            continue
        is_secret = not settings.Settings.model_fields[name.lower()].repr
        assert is_secret == ("valueFrom" in variable)
        if not is_secret:
            monkeypatch.setenv(variable["name"], variable["value"])
    settings.read()


def test_a_pod_has_time_to_finish_requests(pod: Json, container: Json) -> None:
    delay = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    arguments = shlex.split(variables(container)["GUNICORN_CMD_ARGS"])
    finishing = Config().parser().parse_args(arguments).graceful_timeout
    assert delay + finishing < pod["spec"]["terminationGracePeriodSeconds"]


def variables(container: Json) -> dict[str, str]:
    """Return the variables whose values are in the manifest."""
    return {v["name"]: v["value"] for v in container["env"] if "value" in v}


def test_an_update_removes_no_pod_before_another_is_ready(
    stable: dict[str, Json],
) -> None:
    spec = stable["Deployment"]["spec"]
    update = spec["strategy"]["rollingUpdate"]
    assert (update["maxUnavailable"], update["maxSurge"]) == (0, 1)
    (container,) = spec["template"]["spec"]["containers"]
    delay = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert spec["minReadySeconds"] >= delay > 0


def test_only_the_autoscaler_sets_the_number_of_stable_pods(
    stable: dict[str, Json],
) -> None:
    assert "replicas" not in stable["Deployment"]["spec"]
    spec = stable["HorizontalPodAutoscaler"]["spec"]
    target, deployment = spec["scaleTargetRef"], stable["Deployment"]
    assert target["name"] == deployment["metadata"]["name"]
    assert (target["kind"], target["apiVersion"]) == ("Deployment", "apps/v1")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    for metric in spec["metrics"]:  # a percentage needs a request
        assert metric["resource"]["name"] in container["resources"]["requests"]


def test_selectors_match_the_right_pods(
    stable: dict[str, Json], canary: dict[str, Json]
) -> None:
    """The Service selects both versions, each Deployment its own pods only."""
    both = [labels(stable), labels(canary)]
    budget = stable["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]
    selectors = {
        "service": stable["Service"]["spec"]["selector"],
        "stable": stable["Deployment"]["spec"]["selector"]["matchLabels"],
        "canary": canary["Deployment"]["spec"]["selector"]["matchLabels"],
        "budget": budget,
    }
    assert {
        name: [selector.items() <= each.items() for each in both]
        for name, selector in selectors.items()
    } == {
        "service": [True, True],
        "stable": [True, False],
        "canary": [False, True],
        "budget": [True, False],
    }


def labels(track: dict[str, Json]) -> dict[str, str]:
    found: dict[str, str] = track["Deployment"]["spec"]["template"]["metadata"][
        "labels"
    ]
    return found


def test_the_canary_is_one_more_deployment_with_another_model(
    stable: dict[str, Json], canary: dict[str, Json]
) -> None:
    """And nothing else: deleting it must not delete the Service."""
    assert set(canary) == {"Deployment"}
    assert canary["Deployment"]["metadata"]["name"] == "fashion-canary"
    assert canary["Deployment"]["spec"]["replicas"] == 1
    pods = [t["Deployment"]["spec"]["template"]["spec"] for t in (stable, canary)]
    (ours,), (other,) = (pod["containers"] for pod in pods)
    more = set(variables(other)) - set(variables(ours))
    assert more == {"FLASK_MODEL_URI", "FLASK_MODEL_SHA256"}
    kept = [v for v in other["env"] if v["name"] not in more]
    assert other | {"env": kept} == ours


def test_a_canary_is_promoted_as_documented(
    tmp_path: Path, canary: dict[str, Json]
) -> None:
    deploy = shutil.copytree(DEPLOY, tmp_path / "deploy")
    shutil.copy(deploy / "canary" / "model.yaml", deploy)
    file = deploy / "kustomization.yaml"
    text = file.read_text()
    for line in ("patches:", "  - path: model.yaml"):
        assert f"# {line}\n" in text
        text = text.replace(f"# {line}\n", f"{line}\n")
    file.write_text(text)
    (promoted,) = render(deploy)["Deployment"]["spec"]["template"]["spec"]["containers"]
    (tried,) = canary["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert promoted == tried


class Connection(HTTPConnection):
    """A connection as a Service makes it: to a random ready pod, where it stays."""

    def __init__(self, ready: list[str]) -> None:
        super().__init__("fashion", timeout=10)
        self.ready = ready

    def connect(self) -> None:
        """Open the connection, the first time and after each `Connection: close`."""
        pod = urlsplit(choice(self.ready[:]))
        self.host, self.port = str(pod.hostname), int(pod.port or 0)
        super().connect()


def test_an_update_loses_no_request(
    tmp_path: Path, stable: dict[str, Json], boot: bytes
) -> None:
    """One pod replaces another, with the manifests' settings, without a cluster."""
    (container,) = stable["Deployment"]["spec"]["template"]["spec"]["containers"]
    options = variables(container) | {"WEB_CONCURRENCY": "1"}
    ready: list[str] = []
    stop = threading.Event()
    with (
        serve(GUNICORN, tmp_path / "new", **options) as new,
        ThreadPoolExecutor() as clients,
    ):
        try:
            with serve(GUNICORN, tmp_path / "old", **options) as old:
                ready.append(old.url)
                clients_done = [
                    clients.submit(
                        send_requests, Connection(ready), boot, stop, keep=keep
                    )
                    for keep in (True, True, False, False)
                ]
                time.sleep(0.5)
                ready.append(new.url)  # it gets its share of connections
                time.sleep(0.5)
                ready.remove(old.url)  # endpoints are updated, preStop ends
        finally:
            stop.set()
        counts = [each.result() for each in clients_done]
    assert old.process.returncode == 0
    assert min(counts) > 20


def send_requests(
    connection: Connection, boot: bytes, stop: threading.Event, *, keep: bool
) -> int:
    """Send requests over one connection or over new ones; return how many succeed."""
    count = 0
    while not stop.is_set():
        connection.request("POST", "/predict", boot)
        answer = connection.getresponse()
        assert json.load(answer)["class"] == "Ankle boot"
        count += 1
        if not keep:
            connection.close()
        time.sleep(0.01)
    connection.close()
    return count
