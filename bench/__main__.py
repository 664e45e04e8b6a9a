"""Measure the service on this machine: `python -m bench FIGURE`.

    inference   ONNX Runtime, one thread, one picture, beside a fixed reference network
    photo       one core, a photo's bytes to its answer, from 12 megapixels down
    start       `gunicorn` to its first answer
    memory      proportional set size of all processes after 1,000 requests
    batch       256 pictures in a request, beside the network alone; one worker
    accuracy    of the Fashion-MNIST test set, sent as PNGs over HTTP; needs --data
    answers     to the same, beside those of another checkout; needs --data, --beside

Each takes seconds, the last two a minute. Figures are medians of several runs; the two
sides of a comparison alternate in one run. The exit status is 1 if a bound is missed.
Linux only. Requests a second are measured by `python -m bench.load`, what the service
survives by `python -m bench.stress`.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import requests
from PIL import Image
from torch import nn

from bench.bounds import at_least, at_most
from bench.service import (
    ROOT,
    SETTLE_SECONDS,
    URL,
    encode_png,
    noisy_jpeg,
    pictures,
    processes_of,
    pss,
    running,
)
from model import artifact
from model.classifier import OUTPUTS, Classifier, session_options
from model.images import Pixels
from model.network import CNN, Calibrated, export_onnx
from training.data import get_data
from training.recipes import RECIPES

ROUNDS = 7
PHOTOS = ((3000, 4000, False), (3000, 4000, True), (900, 1200, False))
BATCH = 256  # pictures, as many as a request may hold
MIN_BATCH_SHARE = 65  # percent of the network's own speed
MAX_START_SECONDS, MAX_MEGABYTES = 1.0, 150
MAX_DIFFERENCE = 0.000001  # of a probability or score


def median(name: str, values: list[float], unit: str, digits: int = 3) -> float:
    """Print a figure with its spread; return its median."""
    middle = statistics.median(values)
    low, high = min(values), max(values)
    spread = f"({low:.{digits}f} to {high:.{digits}f})"
    print(f"{name:28} {middle:10.{digits}f} {unit}  {spread}")
    return middle


class Reference(CNN):
    """Plain convolutions to compare with, 0.43 million parameters; it never changes."""

    def __init__(self) -> None:
        super().__init__(28)
        widths = [(1, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2)]
        widths += [(128, 128, 1), (128, 128, 1)]
        layers: list[nn.Module] = []
        for channels_in, channels, stride in widths:
            layers.append(nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False))
            layers += [nn.BatchNorm2d(channels), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Conv2d(channels, 11, 1)


def inference() -> bool:
    """Time one picture through our graph and the reference, alternately."""
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
    return True


def milliseconds(run: Callable[..., object], batches: list[Pixels]) -> float:
    """Return the mean time of one call of `run`."""
    started = time.perf_counter()
    for pixels in batches:
        run(OUTPUTS, {"pixels": pixels})
    return (time.perf_counter() - started) / len(batches) * 1000


def photo() -> bool:
    """Time large JPEGs of a real photo, enlarged and noisy, bytes to answer."""
    classifier = Classifier(artifact.load(str(ROOT / "model.bin")))
    small = Image.open(ROOT / "static" / "pictures" / "photo-t-shirt.jpg")
    random = np.random.default_rng(0)
    for width, height, progressive in PHOTOS:
        large = small.resize((width, height), Image.Resampling.BICUBIC)
        sent = noisy_jpeg(large, random, quality=90, progressive=progressive)
        times = []
        for _ in range(3 * ROUNDS):
            started = time.perf_counter()
            classifier.classify(classifier.to_pixels(sent)[None])
            times.append((time.perf_counter() - started) * 1000)
        name = f"{width} x {height} {'progressive' if progressive else 'baseline'}"
        median(f"{name}, {len(sent) / 1e6:.1f} MB", times, "ms", 1)
    return True


def start() -> bool:
    """Time `gunicorn` from the command to the first prediction."""
    picture = pictures()[0]
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        with running():
            requests.post(f"{URL}/predict", data=picture, timeout=5).raise_for_status()
            seconds.append(time.perf_counter() - started)
    middle = median("start", seconds, "s", 2)
    return at_most("start to first answer", middle, MAX_START_SECONDS, "s", 2)


def memory() -> bool:
    """Add up the proportional set size of the service after 1,000 requests."""
    with running() as pid, requests.Session() as session:
        time.sleep(SETTLE_SECONDS)
        for picture in pictures():
            session.post(f"{URL}/predict", data=picture, timeout=5)
        sizes = [pss(process) for process in processes_of(pid)]
    print(f"MB of gunicorn and its workers: {[round(size) for size in sizes]}")
    return at_most("memory after 1,000 requests", sum(sizes), MAX_MEGABYTES, "MB")


def batch() -> bool:
    """Time full batches through one worker and through the network, alternately."""
    model = artifact.load(str(ROOT / "model.bin"))
    classifier = Classifier(model)
    network = onnxruntime.InferenceSession(model.onnx, session_options())
    times: dict[str, list[float]] = {"network": [], "service": []}
    with running(WEB_CONCURRENCY="1"), requests.Session() as session:
        time.sleep(SETTLE_SECONDS)
        sent = known(session, pictures())[:BATCH]
        pixels = np.stack([classifier.to_pixels(picture) for picture in sent])
        files = [("image", (f"{i}.png", picture)) for i, picture in enumerate(sent)]
        request = requests.Request("POST", f"{URL}/predict", files=files).prepare()
        for _ in range(5 * ROUNDS):
            times["network"].append(milliseconds(network.run, [pixels]))
            started = time.perf_counter()
            session.send(request, timeout=30).raise_for_status()
            times["service"].append((time.perf_counter() - started) * 1000)
    alone, served = (median(n, t, "ms", 1) for n, t in times.items())
    figure = f"{len(sent)} pictures a request, of the network's speed"
    return at_least(figure, 100 * alone / served, MIN_BATCH_SHARE, "%")


def known(session: requests.Session, candidates: list[bytes]) -> list[bytes]:
    """Return the pictures that the running service answers with a class."""
    url = f"{URL}/predict"
    return [p for p in candidates if session.post(url, data=p, timeout=5).ok]


def answers_of(folder: Path, pixels: Iterable[Pixels]) -> list[dict[str, Any]]:
    """Return the answers of the service in a checkout, each picture sent as a PNG."""
    with running(folder=folder), requests.Session() as session:
        return [
            session.post(f"{URL}/predict", data=encode_png(one), timeout=5).json()
            for one in pixels
        ]


def scores(answer: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of an answer: of each class, and how unknown it is."""
    classes: dict[str, float] = answer.get("probabilities") or answer["nearest"]
    return classes | {"unknown_score": answer["unknown_score"]}


def accuracy(folder: Path) -> bool:
    """Send every test picture; a refused one counts by its most probable class."""
    pixels, labels = get_data(RECIPES["fashion-mnist"], folder).test
    right = refused = 0
    for answer, label in zip(
        answers_of(ROOT, pixels.numpy()), labels.tolist(), strict=True
    ):
        refused += "class" not in answer
        classes = list((answer.get("probabilities") or answer["nearest"]).values())
        right += classes.index(max(classes)) == label
    print(f"accuracy {right / len(labels):.2%}, refused {refused / len(labels):.2%}")
    return True


def answers(folder: Path, checkout: Path) -> bool:
    """Compare the answers to every test picture with those of another checkout."""
    pixels = get_data(RECIPES["fashion-mnist"], folder).test[0].numpy()
    pairs = list(
        zip(answers_of(ROOT, pixels), answers_of(checkout, pixels), strict=True)
    )
    others = sum(one.get("class") != other.get("class") for one, other in pairs)
    most = max(
        abs(score - scores(other)[name])
        for one, other in pairs
        for name, score in scores(one).items()
    )
    holds = [
        at_most(f"other classes in {len(pairs)} answers", others, 0),
        at_most("largest difference", round(most, 9), MAX_DIFFERENCE, digits=7),
    ]
    return all(holds)


def main() -> bool:
    """Measure the figure of the command line; return whether its bound holds."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    figures = {one.__name__: one for one in (inference, photo, start, memory, batch)}
    parser.add_argument("figure", choices=[*figures, "accuracy", "answers"])
    parser.add_argument("--data", type=Path, metavar="DIR", help="a torchvision root")
    parser.add_argument("--beside", type=Path, metavar="DIR", help="a checkout")
    options = parser.parse_args()
    if options.figure in figures:
        return figures[options.figure]()
    if options.data is None:
        parser.error(f"{options.figure} needs --data")
    if options.figure == "accuracy":
        return accuracy(options.data)
    if options.beside is None:
        parser.error("answers needs --beside")
    return answers(options.data, options.beside)


if __name__ == "__main__":
    try:
        sys.exit(0 if main() else 1)
    except KeyboardInterrupt:
        sys.exit(130)
