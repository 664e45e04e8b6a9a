"""The service under measurement: start it, stop it, read its memory and CPU time."""

import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import requests
from PIL import Image

from model.images import Pixels

ROOT = Path(__file__).resolve().parent.parent
PORT = int(os.environ.get("BENCH_PORT", "9697"))
URL = f"http://127.0.0.1:{PORT}"
WORKERS = 2
SETTLE_SECONDS = 1  # after the first answer, for every worker to be up
START_SECONDS = 60  # at most, to the first answer
STOP_SECONDS = 30  # at most, then it is killed
NOISE = 6  # levels, standard deviation, of a photo's pixels
TICKS = os.sysconf("SC_CLK_TCK")
RESET_PEAK = "5"  # proc_pid_clear_refs(5)


def gunicorn(*options: str) -> list[str]:
    """Return the command that serves, as users run it."""
    command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{PORT}"]
    return [*command, *options, "predict:app"]


class StartError(Exception):
    """A server that does not start, or answers wrongly."""


def pictures(count: int = 1000) -> list[bytes]:
    """Return distinct PNGs, up to 1,200: the test samples, shifted by a few pixels."""
    with np.load(ROOT / "tests" / "pictures.npz") as file:
        samples = file["pixels"]
    shifts = [(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)]
    shifts += [(0, 2), (1, 2), (-1, 2)]
    shifted = [np.roll(p, shift, (0, 1)) for shift in shifts for p in samples]
    return [encode_png(pixels) for pixels in shifted[:count]]


def noisy_jpeg(
    image: Image.Image, random: np.random.Generator, **options: Any
) -> bytes:
    """Return `image` as a JPEG with noise added, so that no two are alike."""
    noise = random.normal(0, NOISE, (image.height, image.width, 3))
    noisy = (np.asarray(image) + noise).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def encode_png(pixels: Pixels) -> bytes:
    """Return `pixels` as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def answers_ping() -> bool:
    """Return whether a server answers `/ping` on the port."""
    try:
        return requests.get(f"{URL}/ping", timeout=1).ok
    except requests.RequestException:
        return False


@contextmanager
def running(
    command: list[str] | None = None,
    folder: Path = ROOT,
    is_ready: Callable[[], bool] = answers_ping,
    **environment: str,
) -> Iterator[int]:
    """Run a server, ours by default, until the block ends; yield its process id.

    Raises `StartError` if it does not answer in time.
    """
    command = command or gunicorn()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"WEB_CONCURRENCY": str(WORKERS)} | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + START_SECONDS
        while not is_ready():
            if process.poll() is not None or time.monotonic() > end:
                raise StartError(f"does not start: {' '.join(command)}")
            time.sleep(0.01)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        process.kill()
        process.wait()


def children_of(pid: int) -> list[int]:
    """Return the process ids of the children: of gunicorn, its workers."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in children.split()]


def processes_of(pid: int) -> list[int]:
    """Return the process ids of gunicorn and its workers."""
    return [pid, *children_of(pid)]


def pss(pid: int) -> float:
    """Return the proportional set size of a process in MB."""
    return _kilobytes(f"/proc/{pid}/smaps_rollup", "Pss") / 1024


def rss(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    return _kilobytes(f"/proc/{pid}/status", "VmRSS") / 1024


def peak_rss(pid: int) -> float:
    """Return the highest resident memory in MB since `reset_peak_rss`."""
    return _kilobytes(f"/proc/{pid}/status", "VmHWM") / 1024


def reset_peak_rss(pid: int) -> None:
    """Have the peak of resident memory begin anew."""
    Path(f"/proc/{pid}/clear_refs").write_text(RESET_PEAK)


def _kilobytes(path: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path(path).read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and of those children that have exited."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS


def has_exited(pid: int) -> bool:
    """Return whether a child of ours has ended, though nobody has waited for it."""
    return not Path(f"/proc/{pid}/cmdline").read_bytes()
