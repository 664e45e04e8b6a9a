"""Measure the service on this machine: `python -m bench FIGURE`.

    inference   ONNX Runtime, one thread, one picture, beside a fixed reference network
    photo       one core, a photo's bytes to its answer, from 12 megapixels down
    start       `gunicorn` to its first answer
    memory      proportional set size of all processes after 1,000 requests
    batch       256 pictures in a request, beside the network alone; one worker
    metrics     what counting for Prometheus costs of a request's processor time
    accuracy    of the Fashion-MNIST test set, sent as PNGs over HTTP; wants --data

Medians of several runs; both sides of a comparison take turns in one run. Linux only.
How many requests it serves, beside others, is measured by `python -m bench.load`, what
it survives by `python -m bench.ordeal`.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import requests
from PIL import Image
from torch import nn

from bench.service import (
    OURS,
    ROOT,
    SETTLE_SECONDS,
    URL,
    encode,
    grainy_jpeg,
    pictures,
    pss,
    running,
    workers_of,
)
from model import artifact
from model.classifier import OUTPUTS, Classifier, session_options
from model.images import Pixels, to_pixels
from model.network import Calibrated, FashionCNN, export_onnx
from training.data import get_data

ROUNDS = 7
PHOTOS = ((3000, 4000, False), (3000, 4000, True), (900, 1200, False))
BATCH = 256  # pictures, as many as a request may hold


def median(name: str, values: list[float], unit: str, digits: int = 3) -> float:
    """Print a figure with its spread; return its median."""
    middle = statistics.median(values)
    low, high = min(values), max(values)
    spread = f"({low:.{digits}f} to {high:.{digits}f})"
    print(f"{name:28} {middle:10.{digits}f} {unit}  {spread}")
    return middle


class Reference(FashionCNN):
    """Plain convolutions to compare by, 0.43 million parameters; never to change."""

    def __init__(self) -> None:
        super().__init__()
        widths = [(1, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2)]
        widths += [(128, 128, 1), (128, 128, 1)]
        layers: list[nn.Module] = []
        for channels_in, channels, stride in widths:
            layers.append(nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False))
            layers += [nn.BatchNorm2d(channels), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Conv2d(channels, 11, 1)


def inference() -> None:
    """Time one picture through our graph and the reference, in turns."""
    graphs = {
        "model.bin": artifact.load(str(ROOT / "model.bin")).onnx,
        "reference": export_onnx(Calibrated(Reference())),
    }
    sessions = {
        name: onnxruntime.InferenceSession(graph, session_options())
        for name, graph in graphs.items()
    }
    with np.load(ROOT / "tests" / "pictures.npz") as file:
        batches = [pixels[None] for pixels in file["pixels"]]
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(20 * ROUNDS):
        for name, session in sessions.items():
            times[name].append(milliseconds(session.run, batches))
    ours, reference = (median(n, t, "ms a picture") for n, t in times.items())
    print(f"ratio {ours / reference:.2f}")


def milliseconds(run: Callable[..., object], batches: list[Pixels]) -> float:
    """Return the mean time of one call of `run`."""
    started = time.perf_counter()
    for pixels in batches:
        run(OUTPUTS, {"pixels": pixels})
    return (time.perf_counter() - started) / len(batches) * 1000


def photo() -> None:
    """Time large JPEGs of a real photo, enlarged and grainy, bytes to answer."""
    classifier = Classifier(artifact.load(str(ROOT / "model.bin")))
    small = Image.open(ROOT / "static" / "pictures" / "photo-t-shirt.jpg")
    random = np.random.default_rng(0)
    for width, height, progressive in PHOTOS:
        large = small.resize((width, height), Image.Resampling.BICUBIC)
        sent = grainy_jpeg(large, random, quality=90, progressive=progressive)
        times = []
        for _ in range(3 * ROUNDS):
            started = time.perf_counter()
            classifier.classify(to_pixels(sent)[None])
            times.append((time.perf_counter() - started) * 1000)
        name = f"{width} x {height} {'progressive' if progressive else 'baseline'}"
        median(f"{name}, {len(sent) / 1e6:.1f} MB", times, "ms", 1)


def start() -> None:
    """Time `gunicorn` from the command to the first prediction."""
    picture = pictures()[0]
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        with running(OURS, ROOT):
            requests.post(f"{URL}/predict", data=picture, timeout=5).raise_for_status()
            seconds.append(time.perf_counter() - started)
    median("start to first answer", seconds, "s", 2)


def memory() -> None:
    """Add up the proportional set size of the service after 1,000 requests."""
    with running(OURS, ROOT) as pid, requests.Session() as session:
        time.sleep(SETTLE_SECONDS)
        for picture in pictures():
            session.post(f"{URL}/predict", data=picture, timeout=5)
        sizes = [pss(process) for process in (pid, *workers_of(pid))]
    print(f"{sum(sizes):.0f} MB in {len(sizes)} processes: {[round(s) for s in sizes]}")


def batch() -> None:
    """Time full batches through one worker and through the network, in turns."""
    graph = artifact.load(str(ROOT / "model.bin")).onnx
    network = onnxruntime.InferenceSession(graph, session_options())
    sent = known(pictures())[:BATCH]
    pixels = np.stack([to_pixels(picture) for picture in sent])
    files = [("image", (f"{i}.png", picture)) for i, picture in enumerate(sent)]
    request = requests.Request("POST", f"{URL}/predict", files=files).prepare()
    times: dict[str, list[float]] = {"network": [], "service": []}
    with running(OURS, ROOT, WEB_CONCURRENCY="1"), requests.Session() as session:
        time.sleep(SETTLE_SECONDS)
        for _ in range(5 * ROUNDS):
            times["network"].append(milliseconds(network.run, [pixels]))
            started = time.perf_counter()
            session.send(request, timeout=30).raise_for_status()
            times["service"].append((time.perf_counter() - started) * 1000)
    alone, served = (median(n, t, "ms", 1) for n, t in times.items())
    print(f"{alone / served:.0%} of the network's speed, {len(sent)} pictures")


def metrics() -> None:
    """Compare the time of counting a request with all the time a worker takes."""
    with running(OURS, ROOT, WEB_CONCURRENCY="1") as pid, requests.Session() as session:
        time.sleep(SETTLE_SECONDS)
        sent = known_by(session, pictures())
        [worker] = workers_of(pid)
        rounds = []
        for _ in range(ROUNDS):
            before = processor_seconds(worker)
            for picture in sent:
                session.post(f"{URL}/predict", data=picture, timeout=5)
            rounds.append((processor_seconds(worker) - before) / len(sent) * 1e6)
    request = median("a request", rounds, "us", 0)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "timeit", "-r", str(ROUNDS), "-u", "usec"]
        code = "observe.count_request('/predict', 200, 0.001);"
        code += "observe.INFERENCE.observe(0.001); observe.count_predictions(found)"
        output = subprocess.run(
            [*command, "-s", "import observe; found = [{'class': 'Bag'}]", code],
            cwd=ROOT,
            env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": folder},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    counting = float(output.split(": ")[1].split()[0])
    print(f"{output.strip()}\ncounting is {counting / request:.1%} of a request")


def processor_seconds(pid: int) -> float:
    """Return the processor time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def accuracy(folder: Path) -> None:
    """Send every test picture as a PNG; a refused one counts by its nearest class."""
    pixels, labels = get_data(folder).test
    right = refused = 0
    with running(OURS, ROOT), requests.Session() as session:
        for picture, label in zip(pixels.numpy(), labels.tolist(), strict=True):
            answer = session.post(f"{URL}/predict", data=encode(picture), timeout=5)
            found = answer.json()
            refused += not answer.ok
            nearest = list((found.get("probabilities") or found["nearest"]).values())
            right += nearest.index(max(nearest)) == label
    print(f"accuracy {right / len(labels):.2%}, refused {refused / len(labels):.2%}")


def known(candidates: list[bytes]) -> list[bytes]:
    """Keep what we answer with a class: a refusal would count as a failure."""
    with running(OURS, ROOT), requests.Session() as session:
        return known_by(session, candidates)


def known_by(session: requests.Session, candidates: list[bytes]) -> list[bytes]:
    """Keep what the service that runs answers with a class."""
    url = f"{URL}/predict"
    return [p for p in candidates if session.post(url, data=p, timeout=5).ok]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    measures = (inference, photo, start, memory, batch, metrics)
    figures = {measure.__name__: measure for measure in measures}
    parser.add_argument("figure", choices=[*figures, "accuracy"])
    parser.add_argument("--data", type=Path, metavar="DIR", help="a torchvision root")
    options = parser.parse_args()
    if options.figure == "accuracy" and options.data is None:
        parser.error("accuracy wants --data")
    try:
        if options.figure == "accuracy":
            accuracy(options.data)
        else:
            figures[options.figure]()
    except KeyboardInterrupt:
        sys.exit(130)
