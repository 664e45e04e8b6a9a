"""How gunicorn runs the service; picked up by itself from this folder.

    gunicorn --bind 0.0.0.0:9696 predict:app

The master reads and tries the model before it forks, and again on SIGHUP. The
application itself is never preloaded: each worker builds its own network.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType

from gunicorn.arbiter import Arbiter

from model import artifact, store
from model.classifier import Classifier
from service import counting, settings
from service.settings import usable_cores
from service.worker import Worker

TRIAL_SECONDS = 15  # to run a model once, after its download
MAX_PORT = 65535
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # of glibc's malloc.h


worker_class = Worker
asgi_lifespan = "off"  # Flask has no use for it
asgi_loop = "uvloop"
if "PORT" in os.environ:
    bind = settings.addresses(os.environ["PORT"])
proxies = os.environ.get("FORWARDED_ALLOW_IPS", "127.0.0.1,::1")  # gunicorn's default
forwarded_allow_ips = settings.with_mapped(proxies)
if "WEB_CONCURRENCY" not in os.environ:
    workers = usable_cores()
worker_connections = 900  # of a worker, below the usual limit of 1,024 open files
keepalive = 65  # seconds, longer than a load balancer's 60
graceful_timeout = 8  # seconds to finish in, less than Docker's 10 before it kills
control_socket_disable = True
if Path("/dev/shm").is_dir():  # noqa: S108 - in memory: a busy disk fakes a dead worker
    worker_tmp_dir = "/dev/shm"  # noqa: S108


def on_starting(server: Arbiter) -> None:
    """Stop the start if there is no model that works, or no worker."""
    if not server.num_workers:
        sys.exit("gunicorn: 0 workers would answer nobody")
    for address in server.cfg.address:
        if isinstance(address, tuple) and address[1] not in range(MAX_PORT + 1):
            sys.exit(f"gunicorn: {address[1]} is not a port, 0 to {MAX_PORT}")
    return_memory()
    signal.signal(signal.SIGHUP, server.signal)  # handled after the start
    try:
        load_model(server)
    except (settings.SettingError, artifact.ArtifactError) as error:
        sys.exit(f"gunicorn: {error}")
    except KeyboardInterrupt:
        sys.exit("gunicorn: stopped while it read the model")
    counting.share(server.num_workers)


def pre_fork(server: object, worker: Worker) -> None:
    """Give a worker memory to count in."""
    worker.slot = counting.take()


def child_exit(server: object, worker: Worker) -> None:
    """Keep what an ended worker counted, and forget its gauges."""
    counting.fold(worker.slot)


def on_reload(server: Arbiter) -> None:
    """Take a new model on SIGHUP; keep the last one that works if it is bad."""
    try:
        load_model(server)
    except (settings.SettingError, artifact.ArtifactError) as error:
        server.log.error("the old model stays: %s", error)


def load_model(server: Arbiter) -> None:
    """Read the model and try it in a child process; keep it for the workers to come.

    A child, because threads and memory of a download are not to be forked with every
    worker, and because this process handles no signal while one of its hooks runs.
    """
    wanted = settings.read()
    uri = wanted.model_uri
    model = read_in_child(server, uri, wanted.model_sha256)
    is_new = model != artifact.kept(uri)
    artifact.keep(uri, model)
    state = "serves from now on" if is_new else "is still the one to serve"
    name, version = model.facts["name"], model.facts["version"]
    server.log.info("model %s %s %s", name, version, state)


def read_in_child(server: Arbiter, uri: str, sha256: str | None) -> artifact.Artifact:
    """Return what `try_model` sends. Raises `ArtifactError`, `KeyboardInterrupt`."""
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    child = fork.Process(target=try_model, args=(server, sender, uri, sha256))
    child.daemon = True
    stops = []

    def stop(number: int, frame: FrameType | None) -> None:
        server.signal(number, frame)
        stops.append(number)
        child.kill()

    child.start()
    sender.close()
    handlers = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        if not receiver.poll(store.DEADLINE_SECONDS + TRIAL_SECONDS):
            raise artifact.ArtifactError(f"{store.redact(uri)} takes too long")
        found: artifact.Artifact | artifact.ArtifactError = receiver.recv()
    except EOFError:
        found = artifact.ArtifactError("reading the model died, out of memory perhaps")
    finally:
        child.kill()
        child.join()
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if stops:
        raise KeyboardInterrupt  # gunicorn stops, gracefully or as the signal says
    if isinstance(found, artifact.ArtifactError):
        raise found
    return found


def try_model(
    server: Arbiter, sender: Connection, uri: str, sha256: str | None
) -> None:
    """Read the model and run it once, as a worker will; send it, or what is wrong."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    for listener in server.LISTENERS:
        listener.close()  # a killed gunicorn is not to leave its port taken
    try:
        model = artifact.reload(uri, sha256)
        if model is not artifact.kept(uri):
            Classifier(model)
        sender.send(model)
    except artifact.ArtifactError as error:
        sender.send(error)


def return_memory() -> None:
    """Have glibc return large buffers: else the arena of every thread keeps some."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 8 * 1024**2)
        mallopt(M_ARENA_MAX, 1)
