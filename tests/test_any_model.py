"""A model of anybody's classes is served under its own name."""

import re
from collections.abc import Iterator
from urllib.parse import quote

import colour_model
import numpy as np
import pytest
import requests
from colour_model import CLASSES, COLOURS, GREY, NAME, picture
from conftest import GUNICORN, Server, serve

INFER = f"/v2/models/{quote(NAME)}/infer"
OTHERS = re.compile(
    r"garment|cloth|fashion|shirt|28, 28|28x28|ankle|(?<![\d.])784(?!\d)", re.I
)
RED = picture(COLOURS["red"], 300, "JPEG")


@pytest.fixture(scope="module", params=[True, False], ids=["complete", "packed"])
def ants(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, bool]]:
    """Serve the colour model; a packed one refuses and explains nothing."""
    folder = tmp_path_factory.mktemp("ants")
    colour_model.write(folder / "model.bin", is_complete=request.param)
    uri = str(folder / "model.bin")
    with serve(
        GUNICORN, folder / "log", FLASK_MODEL_URI=uri, WEB_CONCURRENCY="1"
    ) as server:
        yield server, request.param


def test_pictures_get_the_models_own_classes(ants: tuple[Server, bool]) -> None:
    server, is_complete = ants
    sent = [("a", picture(colour)) for colour in COLOURS.values()]
    batch = requests.post(f"{server.url}/predict", files=sent, timeout=20).json()
    assert [one["class"] for one in batch["predictions"]] == CLASSES
    grey = requests.post(f"{server.url}/predict", data=picture(GREY), timeout=20)
    assert grey.status_code == (422 if is_complete else 200)
    if not is_complete:
        assert grey.json()["unknown_score"] is None


def test_an_explanation_is_limited_in_numbers(ants: tuple[Server, bool]) -> None:
    server, is_complete = ants
    url = f"{server.url}/predict?explain=true"
    found = requests.post(url, data=RED, timeout=20).json()["explain"]
    assert np.shape(found["pixels"]) == (64, 64, 3)
    assert np.shape(found["activation"]) == ((8, 8) if is_complete else ())
    answer = requests.post(url, files=[("a", RED)] * 82, timeout=20)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_protocols_have_its_shapes_and_names(ants: tuple[Server, bool]) -> None:
    server, is_complete = ants
    model = requests.get(f"{server.url}/v2/models/{quote(NAME)}", timeout=20).json()
    assert model["inputs"][0]["shape"] == [-1, 64, 64, 3]
    assert model["parameters"] == {"refuses_unknown": is_complete}
    names = {output["name"] for output in model["outputs"]}
    assert ("is_unknown" in names) == ("unknown_score" in names) == is_complete
    pixels = np.full((2, 64, 64, 3), COLOURS["blue"]).tolist()
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": [2, 64, 64, 3]}
    body = {"inputs": [tensor | {"data": pixels}]}
    outputs = requests.post(server.url + INFER, json=body, timeout=20).json()["outputs"]
    assert {output["name"] for output in outputs} == names
    message = {"data": {"ndarray": pixels}}
    url = f"{server.url}/api/v1.0/predictions"
    answer = requests.post(url, json=message, timeout=20).json()
    assert answer["data"]["names"] == CLASSES
    assert answer["meta"]["tags"]["label"] == [CLASSES[2]] * 2


def test_nothing_names_another_model(ants: tuple[Server, bool]) -> None:
    server, is_complete = ants
    for path in ("/", "/openapi.json", "/docs", "/metrics"):
        text = requests.get(server.url + path, timeout=20).text
        assert not OTHERS.findall(re.sub(r"base64,[^\"]*", "", text)), path
    page = requests.get(server.url, timeout=20).text
    assert "<title>ants &amp; bees: image classification</title>" in page
    assert "&lt;b&gt;bee&lt;/b&gt;" in page
    assert ("refuses nothing" in page) is not is_complete
