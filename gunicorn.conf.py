"""How gunicorn runs the service; picked up by itself from this folder.

    gunicorn --bind 0.0.0.0:9696 predict:app

The master reads and verifies the model before it forks. The application itself is
never preloaded: its workers build their networks after the fork.
"""

import ctypes
import multiprocessing
import os
import select
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path

from gunicorn.workers.gthread import TConn, ThreadWorker

import artifact
import settings
from classifier import Classifier

STAY_MILLISECONDS = 2  # with a connection after its answer, for the next request
YIELD_SECONDS = 0.0005  # before a busy worker reaches for a new connection
METRICS = "PROMETHEUS_MULTIPROC_DIR"  # where workers count together
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # of glibc's malloc.h


class Worker(ThreadWorker):  # type: ignore[misc]
    """Threads that stay with a busy connection; new ones go to the idler worker.

    gunicorn hands a connection back to its main thread after each answer, which costs
    two thread switches a request, a tenth of a small one; and whichever worker wakes
    first takes every connection that waits.
    """

    def handle(self, conn: TConn) -> object:
        """Answer a request, and the next ones while nobody else waits for a thread."""
        again = super().handle(conn)
        while again is True and self.alive and not self.is_busy() and has_more(conn):
            again = super().handle(conn)
        return again

    def is_busy(self) -> bool:
        """Tell whether there are more connections than threads."""
        return bool(self.nr_conns > self.cfg.threads)

    def accept(self, listener: socket.socket) -> None:
        """Take a new connection, unless an idler worker was quicker."""
        if self.nr_conns:
            time.sleep(YIELD_SECONDS)
        super().accept(listener)


def has_more(conn: TConn) -> bool:
    """Tell whether a request follows within a moment."""
    if conn.parser.unreader.buf.getvalue():
        return True
    poll = select.poll()
    poll.register(conn.sock, select.POLLIN)
    return bool(poll.poll(STAY_MILLISECONDS))


worker_class = Worker
if "WEB_CONCURRENCY" not in os.environ:
    affinity = getattr(os, "sched_getaffinity", None)  # Linux: the cores we may use
    workers = len(affinity(0)) if affinity else os.cpu_count()
threads = 300  # a worker's connections, slow ones too; one network at a time computes
keepalive = 65  # seconds, longer than a load balancer's 60
control_socket_disable = True
if Path("/dev/shm").is_dir():  # noqa: S108 - in memory: a busy disk fakes a dead worker
    worker_tmp_dir = "/dev/shm"  # noqa: S108


def on_starting(server: object) -> None:
    """Do not start without a model that works."""
    give_back_memory()
    try:
        verify()
    except (settings.SettingError, artifact.ArtifactError) as error:
        sys.exit(f"gunicorn: {error}")
    os.environ[METRICS] = tempfile.mkdtemp(prefix="fashion-metrics-")


def child_exit(server: object, worker: Worker) -> None:
    """Forget what a dead worker reported of its own, and keep what it counted."""
    # at the top it would be imported before the folder is known, and count apart
    from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415

    mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


def on_exit(server: object) -> None:
    """Leave nothing behind."""
    shutil.rmtree(os.environ[METRICS], ignore_errors=True)


def on_reload(server: object) -> None:
    """Take a new model on SIGHUP; keep the last verified one if it is bad."""
    try:
        verify()
    except (settings.SettingError, artifact.ArtifactError) as error:
        server.log.error("the old model stays: %s", error)  # type: ignore[attr-defined]


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


def give_back_memory() -> None:
    """Have glibc return large buffers: else the arena of every thread keeps some."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 8 * 1024**2)
        mallopt(M_ARENA_MAX, 1)
