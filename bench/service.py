"""The service under measurement: started, asked, weighed."""

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
START_SECONDS = 60  # a server that has not answered by then never will
GRAIN = 6  # levels, standard deviation
OURS = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{PORT}", "predict:app"]


class StartError(Exception):
    """A server that does not answer."""


def pictures(count: int = 1000) -> list[bytes]:
    """Return so many different PNGs, up to 1,200: the samples, shifted twelve ways."""
    with np.load(ROOT / "tests" / "pictures.npz") as file:
        samples = file["pixels"]
    shifts = [(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)]
    shifts += [(0, 2), (1, 2), (-1, 2)]
    shifted = [np.roll(p, shift, (0, 1)) for shift in shifts for p in samples]
    return [encode(pixels) for pixels in shifted[:count]]


def grainy_jpeg(
    image: Image.Image, random: np.random.Generator, **options: Any
) -> bytes:
    """Return `image` as a JPEG with grain, so that no two are alike."""
    grain = random.normal(0, GRAIN, (image.height, image.width, 3))
    grainy = (np.asarray(image) + grain).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grainy).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def encode(pixels: Pixels) -> bytes:
    """Return `pixels` as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def answers() -> bool:
    """Tell whether something answers on our port."""
    try:
        return requests.get(f"{URL}/ping", timeout=1).ok
    except requests.RequestException:
        return False


@contextmanager
def running(
    command: list[str],
    folder: Path,
    is_ready: Callable[[], bool] = answers,
    **environment: str,
) -> Iterator[int]:
    """Run a server until the block ends; give its process id once it answers.

    Raises `StartError` if it never does.
    """
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
            process.wait(30)
        process.kill()
        process.wait()


def workers_of(pid: int) -> list[int]:
    """Return the process ids of gunicorn's workers."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in children.split()]


def pss(pid: int) -> float:
    """Return the proportional set size of a process in MB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0
