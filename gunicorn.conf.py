"""How gunicorn runs the service; picked up by itself from this folder.

    gunicorn --bind 0.0.0.0:9696 predict:app

The master reads and verifies the model before it forks. The application itself is
never preloaded: its workers build their networks after the fork.
"""

import multiprocessing
import os
import sys
from pathlib import Path

import artifact
import settings
from classifier import Classifier

workers = int(os.environ.get("WEB_CONCURRENCY") or len(os.sched_getaffinity(0)))
worker_class = "gthread"
threads = 32  # hold connections; one network at a time computes
keepalive = 65  # seconds, longer than a load balancer's 60
control_socket_disable = True
if Path("/dev/shm").is_dir():  # noqa: S108 - in memory: a busy disk fakes a dead worker
    worker_tmp_dir = "/dev/shm"  # noqa: S108


def verify() -> None:
    """Read the model and try it in a child; keep it for the workers to come."""
    path = settings.read()["MODEL_URI"]
    model = artifact.read(path)
    trial = multiprocessing.get_context("fork").Process(target=try_out, args=[model])
    trial.start()
    trial.join()
    if trial.exitcode:
        raise artifact.ArtifactError(f"{path} holds a model that does not run")
    artifact.keep(path, model)


def try_out(model: artifact.Artifact) -> None:
    """Run the model once, as a worker will; exit with 1 if it does not run."""
    try:
        Classifier(model)
    except artifact.ArtifactError:
        sys.exit(1)


def on_starting(server: object) -> None:
    """Do not start without a model that works."""
    try:
        verify()
    except (settings.SettingError, artifact.ArtifactError) as error:
        sys.exit(f"gunicorn: {error}")


def on_reload(server: object) -> None:
    """Take a new model on SIGHUP; keep the last verified one if it is bad."""
    try:
        verify()
    except (settings.SettingError, artifact.ArtifactError) as error:
        server.log.error("the old model stays: %s", error)  # type: ignore[attr-defined]
