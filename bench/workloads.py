"""What is sent: the same bytes to us and to a rival, and the classes that they show.

    >>> make_workloads()["png V2"].path
    '/v2/models/fashion/infer'

Our service answers each picture with a class: a refusal would count as a failure.
"""

import base64
import json
from collections.abc import Iterable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from bench.service import ROOT, StartError, noisy_jpeg, pictures
from model import artifact
from model.artifact import MODEL
from model.classifier import Classifier
from model.images import Pixels

PNGS, PHOTOS = 1000, 100  # distinct ones; photos are large and all held in memory
TRIED = 5  # x so many photos, until enough get a class
PHOTO_SIZE = (900, 1200)
MARGIN = 80  # pixels, by which the crops of a photo are shifted
BATCHES, BATCH = 100, 32
MIN_PROBABILITY = 0.6  # below it eager PyTorch, which rounds differently, may differ
CONNECTIONS, BUSY = (1, 8, 32), 8
SMALL, LARGE = "28x28 PNG", "900 x 1200 JPEG"
FORM, JSON = "multipart/form-data; boundary=picture", "application/json"


class Picture(NamedTuple):
    """A picture that has a class."""

    data: bytes
    pixels: Pixels  # the input of the network
    class_id: int


class Workload(NamedTuple):
    """Request bodies, to be sent in turn."""

    pictures: str  # what they hold
    content_type: str
    bodies: list[bytes]
    classes: list[list[int]] | None  # that each body shows; None: any will do
    connections: tuple[int, ...] = CONNECTIONS
    path: str = "/predict"


def make_workloads() -> dict[str, Workload]:
    """Make all workloads, by their names: the picture and how it is sent."""
    classifier = Classifier(artifact.load(str(MODEL)))
    v2_path = f"/v2/models/{classifier.name}/infer"
    pngs = list(islice(known(classifier, pictures(PNGS * 6 // 5)), PNGS))
    random = np.random.default_rng(0)
    draws = [random.choice(PNGS, BATCH, replace=False) for _ in range(BATCHES)]
    batches = [[pngs[index] for index in draw] for draw in draws]
    files = sorted((ROOT / "static" / "pictures").glob("photo-*.jpg"))

    small, many = SMALL, f"{BATCH} of them"
    one = [[picture.class_id] for picture in pngs]
    each = [[picture.class_id for picture in batch] for batch in batches]
    return {
        "png raw": Workload(small, "image/png", [p.data for p in pngs], one),
        "png form": Workload(small, FORM, [form([p]) for p in pngs], one),
        "png base64": Workload(small, JSON, [base64_json(p) for p in pngs], one),
        "png V2": Workload(small, JSON, [tensor([p]) for p in pngs], one, path=v2_path),
        "batch form": Workload(
            many, FORM, [form(batch) for batch in batches], each, (BUSY,)
        ),
        "batch V2": Workload(
            many, JSON, [tensor(batch) for batch in batches], each, (BUSY,), v2_path
        ),
        **photo_workloads(classifier, files, LARGE),
    }


def photo_workloads(
    classifier: Classifier, files: list[Path], name: str
) -> dict[str, Workload]:
    """Make workloads of large photos, from those in `files`.

    Rivals prepare a photo in another way, so their answers may differ. Raises
    `StartError` if none gets a class.
    """
    candidates = islice(make_photos(files, np.random.default_rng(0)), TRIED * PHOTOS)
    photos = list(islice(known(classifier, candidates), PHOTOS))
    if not photos:
        raise StartError("no photo gets a class")
    raw, forms = [p.data for p in photos], [form([p]) for p in photos]
    return {
        "jpeg raw": Workload(name, "image/jpeg", raw, None, (BUSY,)),
        "jpeg form": Workload(name, FORM, forms, None, (BUSY,)),
        "jpeg base64": Workload(
            name, JSON, list(map(base64_json, photos)), None, (BUSY,)
        ),
    }


def known(classifier: Classifier, candidates: Iterable[bytes]) -> Iterator[Picture]:
    """Return the pictures that get a class, with a clear probability."""
    for data in candidates:
        pixels = classifier.to_pixels(data)
        [found] = classifier.classify(pixels[None])
        if not found.is_unknown and found.probability > MIN_PROBABILITY:
            yield Picture(data, pixels, found.class_id)


def make_photos(files: list[Path], random: np.random.Generator) -> Iterator[bytes]:
    """Make photos without end: crops of the real ones, enlarged, with noise."""
    width, height = PHOTO_SIZE
    larger = (width + MARGIN, height + MARGIN)
    for path in cycle(files):
        photo = ImageOps.fit(Image.open(path).convert("RGB"), larger)
        left, top = random.integers(MARGIN, size=2).tolist()
        part = photo.crop((left, top, left + width, top + height))
        yield noisy_jpeg(part, random, quality=85)


def form(sent: list[Picture]) -> bytes:
    """Return pictures as a form, as curl's -F image=@... sends them."""
    parts = [
        b"--picture\r\n"
        b'Content-Disposition: form-data; name="image"; filename="picture"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n" + picture.data + b"\r\n"
        for picture in sent
    ]
    return b"".join([*parts, b"--picture--\r\n"])


def base64_json(picture: Picture) -> bytes:
    """Return a picture as base64 in JSON."""
    return json.dumps({"image": base64.b64encode(picture.data).decode()}).encode()


def tensor(sent: list[Picture]) -> bytes:
    """Return pixels as a request of the Open Inference Protocol V2."""
    pixels = np.stack([picture.pixels for picture in sent])
    values = {
        "name": "pixels",
        "datatype": "UINT8",
        "shape": pixels.shape,
        "data": pixels.ravel().tolist(),
    }
    wanted = [{"name": "probabilities"}, {"name": "class_id"}]
    return json.dumps({"inputs": [values], "outputs": wanted}).encode()
