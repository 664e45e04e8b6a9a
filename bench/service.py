"""The service under measurement: started, asked, weighed."""

import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import requests
from PIL import Image

from images import Pixels

ROOT = Path(__file__).resolve().parent.parent
PORT = 9697
URL = f"http://127.0.0.1:{PORT}"
WORKERS = 2
SETTLE_SECONDS = 1  # after the first answer, for every worker to be up
OURS = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{PORT}", "predict:app"]


def pictures() -> list[bytes]:
    """Return 1,000 different PNGs: the samples, each shifted ten ways."""
    with np.load(ROOT / "tests" / "pictures.npz") as file:
        samples = file["pixels"]
    shifts = [(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)] + [(0, 2)]
    shifted = [np.roll(p, shift, (0, 1)) for shift in shifts for p in samples]
    return [encode(pixels) for pixels in shifted]


def encode(pixels: Pixels) -> bytes:
    """Return `pixels` as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@contextmanager
def running(command: list[str], folder: Path, **environment: str) -> Iterator[int]:
    """Run a server until the block ends; give its process id once it answers."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"WEB_CONCURRENCY": str(WORKERS)} | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not answers() and process.poll() is None:
            time.sleep(0.01)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def answers() -> bool:
    """Tell whether something answers on our port."""
    try:
        return requests.get(f"{URL}/ping", timeout=1).ok
    except requests.RequestException:
        return False


def workers_of(pid: int) -> list[int]:
    """Return the process ids of gunicorn's workers."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in children.split()]


def pss(pid: int) -> float:
    """Return the proportional set size of a process in MB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0
