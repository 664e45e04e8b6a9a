"""What is sent: the same bytes to us and to a rival, and the classes that are in them.

    >>> make_kinds()["png V2"].path
    '/v2/models/fashion/infer'

All pictures are such as we answer with a class: a refusal would count as a failure.
"""

import base64
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
from PIL import Image

from bench.service import ROOT, grainy_jpeg, pictures
from model import artifact
from model.classifier import Classifier
from model.images import Pixels, to_pixels

PNGS, PHOTOS = 1000, 100  # different ones; photos are large, and all held in memory
PHOTO_SIZE = (900, 1200)
MARGIN = 80  # pixels, of which each photo shows another part
BATCHES, BATCH = 100, 32
CLEAR = 0.6  # below it eager PyTorch, which rounds a sum otherwise, may differ
LEVELS, BUSY = (1, 8, 32), 8  # connections
FORM, JSON = "multipart/form-data; boundary=picture", "application/json"
V2_PATH = "/v2/models/fashion/infer"


class Picture(NamedTuple):
    """A picture that has a class."""

    data: bytes
    pixels: Pixels  # as our network sees it
    class_id: int


class Kind(NamedTuple):
    """One way to ask: bodies to be sent in turn."""

    workload: str
    content_type: str
    bodies: list[bytes]
    classes: list[list[int]] | None  # that each body shows; None: any will do
    levels: tuple[int, ...] = LEVELS
    path: str = "/predict"


def make_kinds() -> dict[str, Kind]:
    """Make all that is sent to anybody, by name: what it is and how it is sent."""
    classifier = Classifier(artifact.load(str(ROOT / "model.bin")))
    pngs = list(islice(known(classifier, pictures(PNGS * 6 // 5)), PNGS))
    random = np.random.default_rng(0)
    draws = [random.choice(PNGS, BATCH, replace=False) for _ in range(BATCHES)]
    batches = [[pngs[index] for index in draw] for draw in draws]
    photos = list(islice(known(classifier, make_photos(random)), PHOTOS))

    small, many, large = "28x28 PNG", f"{BATCH} of them", "900 x 1200 JPEG"
    one = [[picture.class_id] for picture in pngs]
    each = [[picture.class_id for picture in batch] for batch in batches]
    return {
        "png raw": Kind(small, "image/png", [p.data for p in pngs], one),
        "png form": Kind(small, FORM, [form([p]) for p in pngs], one),
        "png base64": Kind(small, JSON, [base64_json(p) for p in pngs], one),
        "png V2": Kind(small, JSON, [tensor([p]) for p in pngs], one, path=V2_PATH),
        "batch form": Kind(
            many, FORM, [form(batch) for batch in batches], each, (BUSY,)
        ),
        "batch V2": Kind(
            many, JSON, [tensor(batch) for batch in batches], each, (BUSY,), V2_PATH
        ),
        # rivals look for no garment in a photo, so their answers may differ
        "jpeg raw": Kind(large, "image/jpeg", [p.data for p in photos], None, (BUSY,)),
        "jpeg form": Kind(large, FORM, [form([p]) for p in photos], None, (BUSY,)),
        "jpeg base64": Kind(
            large, JSON, [base64_json(p) for p in photos], None, (BUSY,)
        ),
    }


def known(classifier: Classifier, candidates: Iterable[bytes]) -> Iterator[Picture]:
    """Choose the pictures that get a class, and not by a hair."""
    for data in candidates:
        pixels = to_pixels(data)
        [found] = classifier.classify(pixels[None])
        if not found.is_unknown and found.probability > CLEAR:
            yield Picture(data, pixels, found.class_id)


def make_photos(random: np.random.Generator) -> Iterator[bytes]:
    """Make photos without end: parts of the real ones, enlarged, in various grain."""
    width, height = PHOTO_SIZE
    larger = (width + MARGIN, height + MARGIN)
    photos = [
        Image.open(path).convert("RGB").resize(larger, Image.Resampling.BICUBIC)
        for path in sorted((ROOT / "static" / "pictures").glob("photo-*.jpg"))
    ]
    while True:
        for photo in photos:
            left, top = random.integers(MARGIN, size=2).tolist()
            part = photo.crop((left, top, left + width, top + height))
            yield grainy_jpeg(part, random, quality=85)


def form(sent: list[Picture]) -> bytes:
    """Write pictures as curl's -F image=@... does."""
    parts = [
        b"--picture\r\n"
        b'Content-Disposition: form-data; name="image"; filename="picture"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n" + picture.data + b"\r\n"
        for picture in sent
    ]
    return b"".join([*parts, b"--picture--\r\n"])


def base64_json(picture: Picture) -> bytes:
    """Write a picture as base64 in JSON."""
    return json.dumps({"image": base64.b64encode(picture.data).decode()}).encode()


def tensor(sent: list[Picture]) -> bytes:
    """Write pixels as a request of the Open Inference Protocol V2."""
    pixels = np.stack([picture.pixels for picture in sent])
    values = {
        "name": "pixels",
        "datatype": "UINT8",
        "shape": pixels.shape,
        "data": pixels.ravel().tolist(),
    }
    wanted = [{"name": "probabilities"}, {"name": "class_id"}]
    return json.dumps({"inputs": [values], "outputs": wanted}).encode()
