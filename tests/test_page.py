"""The web pages, / and /docs, in a real Chromium, from a real gunicorn.

Chromium and its driver are Debian's: apt-get install chromium chromium-driver.
"""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import colour_model
import numpy as np
import pytest
from conftest import GUNICORN, ROOT, Encode, Server, serve, to_pixels
from numpy.typing import NDArray
from selenium.common.exceptions import NoSuchElementException
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

import predict

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
PICTURES = ROOT / "static" / "pictures"
BOOT, CAT = PICTURES / "ankle-boot.png", PICTURES / "cat.gif"
CONTRAST = 4.5  # WCAG AA, of text
WAIT_SECONDS = 15

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="chromium is missing: apt-get install chromium chromium-driver",
)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage"):
        options.add_argument(f"--{argument}")  # CI is root, which has no sandbox
    options.set_capability(
        "goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"}
    )
    driver = Chrome(options, ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(chromium: Chrome, gunicorn: Server) -> Iterator[Chrome]:
    """The page, which must log nothing to the console and use no other host."""
    emulate(chromium, width=1040, theme="light")
    chromium.get(gunicorn.url)
    yield chromium
    assert log(chromium, "browser") == []
    hosts = {urlsplit(address).netloc for address in requested(chromium)}
    assert hosts <= {"", urlsplit(gunicorn.url).netloc}  # a blob: has none


def emulate(page: Chrome, width: int, theme: str) -> None:
    size = {
        "width": width,
        "height": 740,
        "deviceScaleFactor": 1,
        "mobile": width < 500,
    }
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": theme}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def log(page: Chrome, kind: str) -> list[dict[str, Any]]:
    """Return what the browser has logged since the last call."""
    lines: list[dict[str, Any]] = page.get_log(kind)  # type: ignore[no-untyped-call]
    return lines


def requested(page: Chrome) -> list[str]:
    """Return the addresses requested since the last call."""
    entries = [json.loads(line["message"]) for line in log(page, "performance")]
    messages = [entry["message"] for entry in entries]
    return [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]


def choose(page: Chrome, *paths: Path) -> list[WebElement]:
    page.find_element(By.ID, "files").send_keys("\n".join(map(str, paths)))
    return answers(page, len(paths))


def answers(page: Chrome, number: int = 1) -> list[WebElement]:
    """Return the articles, once there are as many as pictures."""

    def find(page: Chrome) -> list[WebElement] | None:
        articles = page.find_elements(By.CSS_SELECTOR, "[aria-busy=false] article")
        return articles if len(articles) == number else None

    found = WebDriverWait(page, WAIT_SECONDS).until(find)
    assert found
    return found


def wait_for_status(page: Chrome, text: str) -> None:
    """Wait until the live region contains a text."""
    script = "return document.getElementById('status').textContent"
    WebDriverWait(page, WAIT_SECONDS).until(
        lambda _: text in page.execute_script(script)
    )


def text_of(article: WebElement, part: str) -> str:
    return article.find_element(By.CSS_SELECTOR, part).text


def canvas(page: Chrome, article: WebElement, part: str) -> NDArray[np.uint8]:
    """Return the RGBA [h, w, 4] of a canvas."""
    script = """
      const { width, height } = arguments[0];
      const image = arguments[0].getContext("2d").getImageData(0, 0, width, height);
      return [height, width, [...image.data]];
    """
    element = article.find_element(By.CSS_SELECTOR, part)
    height, width, dots = page.execute_script(script, element)
    return np.array(dots, np.uint8).reshape(height, width, 4)


@pytest.mark.parametrize("name", ["ankle-boot.png", "photo-t-shirt.jpg"])
def test_a_picture_gets_its_class_and_the_reason(page: Chrome, name: str) -> None:
    [article] = choose(page, PICTURES / name)
    label = "Ankle boot" if name == "ankle-boot.png" else "T-shirt/top"
    assert text_of(article, ".class") == label
    assert text_of(article, ".file") == name
    assert "does not exceed the threshold" in text_of(article, ".reason")
    rows = [row.text for row in article.find_elements(By.TAG_NAME, "tr")]
    assert len(rows) == 10
    assert rows[0] == f"{label} {text_of(article, '.probability')}"
    wait_for_status(page, label)


@pytest.mark.parametrize("name", ["ankle-boot.png", "photo-t-shirt.jpg", "cat.gif"])
def test_the_model_input_and_the_activation_are_drawn(page: Chrome, name: str) -> None:
    [article] = choose(page, PICTURES / name)
    pixels = to_pixels((PICTURES / name).read_bytes())
    shown = canvas(page, article, ".pixels")
    assert (shown[..., :3] == pixels[..., None]).all()
    heat = canvas(page, article, ".activation")
    red, blue = heat[..., 0].astype(int), heat[..., 2].astype(int)
    assert (red - blue).max() > 100  # high somewhere
    assert (red == blue).any()  # and low elsewhere


def test_a_batch_is_one_request_answered_in_order(page: Chrome, tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("hello")
    requested(page)
    articles = choose(page, BOOT, CAT, text, PICTURES / "bag.png")
    classes = [text_of(article, ".class") for article in articles]
    assert classes == ["Ankle boot", "Unknown", "Unsupported image", "Bag"]
    wait_for_status(page, "4 pictures: 2 known, 1 unknown, 1 refused.")
    assert sum("/predict" in address for address in requested(page)) == 1


def test_an_outlier_is_unknown(page: Chrome, tmp_path: Path, encode: Encode) -> None:
    board = (np.indices((28, 28)).sum(0) // 4 % 2 * 255).astype(np.uint8)
    (tmp_path / "board.png").write_bytes(encode(board))
    for path in (tmp_path / "board.png", CAT):
        [article] = choose(page, path)
        assert text_of(article, ".class") == "Unknown"
        assert "exceeds the threshold" in text_of(article, ".reason")
        assert "The nearest class is" in text_of(article, ".reason")
        assert len(article.find_elements(By.TAG_NAME, "tr")) == 10
        wait_for_status(page, "Unknown. None of the classes")


def test_a_file_that_is_no_picture_is_refused_safely(
    page: Chrome, tmp_path: Path
) -> None:
    path = tmp_path / "<img src=x onerror=alert(1)>.png"
    path.write_text("hello")
    [article] = choose(page, path)
    assert text_of(article, ".class") == "Unsupported image"
    assert "Not a picture in PNG, JPEG" in text_of(article, ".reason")
    assert text_of(article, ".file") == path.name
    assert text_of(article, ".picture") == "no preview"
    assert not article.find_elements(By.CSS_SELECTOR, "canvas, table, img")


def test_everything_works_by_keyboard(page: Chrome) -> None:
    keys = ActionChains(page)
    keys.send_keys(Keys.TAB).perform()
    assert page.switch_to.active_element.get_attribute("id") == "files"
    label = page.find_element(By.CSS_SELECTOR, "label[for=files]")
    assert label.value_of_css_property("outline-style") == "solid"
    ActionChains(page).send_keys(Keys.TAB, Keys.TAB, Keys.ENTER).perform()
    sample = page.switch_to.active_element
    assert sample.value_of_css_property("outline-style") == "solid"
    assert text_of(answers(page)[0], ".class") == "Trouser"
    assert page.switch_to.active_element == sample


def test_every_sample_of_the_model_gets_its_class(page: Chrome) -> None:
    buttons = page.find_elements(By.CSS_SELECTOR, "#samples button")
    for sample, button in zip(
        predict.service.classifier.samples, buttons, strict=False
    ):
        button.click()
        wait_for_status(page, f"{sample.label}, ")
        assert text_of(answers(page)[0], ".file") == sample.label


def test_every_control_has_a_name(page: Chrome) -> None:
    choose(page, BOOT)
    nodes = page.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = {
        "button",
        "textbox",
        "image",
        "img",
        "table",
        "article",
        "heading",
        "region",
    }
    found = [node for node in nodes if node.get("role", {}).get("value") in roles]
    nameless = [
        n for n in found if not n["name"]["value"] and n["role"]["value"] != "article"
    ]
    assert len(found) > 15
    assert nameless == []


PICTURE_ON = """
  const type = arguments[0];
  const response = await fetch(arguments[1]);
  const data = new DataTransfer();
  for (let i = 0; i < arguments[2]; i++) {
    data.items.add(new File([await response.clone().blob()], `${type}.png`));
  }
  const options = { bubbles: true, cancelable: true };
  document.body.dispatchEvent(
    type === "paste"
      ? new ClipboardEvent(type, { ...options, clipboardData: data })
      : new DragEvent(type, { ...options, dataTransfer: data }),
  );
"""


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_a_picture_is_pasted_or_dropped(page: Chrome, kind: str) -> None:
    page.execute_script(PICTURE_ON, kind, "/static/pictures/bag.png", 1)
    [article] = answers(page)
    assert text_of(article, ".class") == "Bag"
    assert text_of(article, ".file") == f"{kind}.png"


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_nothing_to_paste_or_drop_is_reported(page: Chrome, kind: str) -> None:
    page.execute_script(PICTURE_ON, kind, "/static/pictures/bag.png", 0)
    wait_for_status(page, f"No picture to {kind}.")


def test_more_pictures_than_allowed_are_not_sent(page: Chrome) -> None:
    page.execute_script(PICTURE_ON, "drop", "/static/pictures/bag.png", 257)
    wait_for_status(page, "At most 256 pictures at once; these are 257.")


def test_too_many_bytes_are_not_sent(page: Chrome, tmp_path: Path) -> None:
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(30 * 1024**2)  # and in base64, 40
    page.find_element(By.ID, "files").send_keys(str(tmp_path / "large.png"))
    wait_for_status(page, "At most 24 MB at once; these pictures are 30 MB.")


def test_a_service_without_an_answer_is_reported(page: Chrome) -> None:
    choose(page, BOOT)
    gone = {"latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    page.execute_cdp_cmd("Network.emulateNetworkConditions", gone | {"offline": True})
    page.find_element(By.ID, "files").send_keys(str(BOOT))
    wait_for_status(page, "No answer from the service")
    page.execute_cdp_cmd("Network.emulateNetworkConditions", gone | {"offline": False})
    [line] = log(page, "browser")  # by the browser itself
    assert line["source"] == "network"
    assert page.find_elements(By.TAG_NAME, "article") == []


REQUIRE_KEY = """
  const ask = window.fetch;
  window.fetch = async (address, options) => {
    if (options?.headers?.["X-API-Key"] === "secret") return ask(address, options);
    const problem = { title: "Unauthorized", detail: "a key is needed" };
    const body = JSON.stringify({ ...problem, status: 401, code: "unauthorized" });
    return new Response(body, { status: 401 });
  };
"""


def test_a_key_is_asked_for_and_kept(page: Chrome) -> None:
    page.execute_script(REQUIRE_KEY)
    page.find_element(By.ID, "files").send_keys(str(BOOT))
    wait_for_status(page, "Unauthorized: a key is needed.")
    field = page.switch_to.active_element
    assert field.accessible_name == "API key"
    for key in ("wrong", "secret"):
        field.clear()
        field.send_keys(key, Keys.ENTER)
    assert text_of(answers(page)[0], ".class") == "Ankle boot"
    assert not field.is_displayed()
    assert page.switch_to.active_element.get_attribute("id") == "files"
    assert page.execute_script("return sessionStorage.getItem('api-key')") == "secret"
    page.execute_script("sessionStorage.clear()")


SLOW_SAMPLE = """
  const ask = window.fetch;
  window.fetch = async (address, options) => {
    if (options.method !== "POST") await new Promise((go) => setTimeout(go, 500));
    return ask(address, options);
  };
"""


def test_a_slow_sample_replaces_nothing_chosen_later(page: Chrome) -> None:
    page.execute_script(SLOW_SAMPLE)
    page.find_element(By.CSS_SELECTOR, "#samples button").click()
    [article] = choose(page, PICTURES / "bag.png")
    time.sleep(1)
    assert text_of(article, ".class") == "Bag"
    assert len(answers(page)) == 1


@pytest.mark.parametrize("count", [1, 2])
def test_a_file_that_cannot_be_read_is_named(page: Chrome, count: int) -> None:
    page.execute_script("""
      const fail = () => Promise.reject(new DOMException("", "NotReadableError"));
      Blob.prototype.slice = () => ({ arrayBuffer: fail });
      FileReader.prototype.readAsDataURL = function () { this.onerror(); };
    """)
    page.find_element(By.ID, "files").send_keys("\n".join([str(BOOT)] * count))
    wait_for_status(page, "ankle-boot.png cannot be read.")


def test_an_error_of_the_page_is_reported(page: Chrome) -> None:
    page.execute_script("window.FormData = null")
    page.find_element(By.ID, "files").send_keys(f"{BOOT}\n{CAT}")
    wait_for_status(page, "This page failed.")
    [line] = log(page, "browser")
    assert "FormData" in line["message"]


def test_text_can_be_dropped_into_the_key(page: Chrome) -> None:
    dropped = page.execute_script("""
      const form = document.getElementById("key");
      form.hidden = false;
      const event = new DragEvent("drop", { bubbles: true, cancelable: true });
      return form.elements[0].dispatchEvent(event);
    """)
    assert dropped  # by the browser: no handler prevented it


WAIT_FOREVER = """
  window.fetch = (address, { signal }) => new Promise((_, fail) => {
    signal.addEventListener("abort", () => fail(signal.reason));
  });
"""


def test_a_request_can_be_cancelled(page: Chrome) -> None:
    page.execute_script("window.ask = window.fetch;" + WAIT_FOREVER)
    page.find_element(By.ID, "files").send_keys(str(BOOT))
    wait_for_status(page, "Classifying 1 picture")
    page.find_element(By.ID, "files").send_keys(f"{BOOT}\n{CAT}")
    wait_for_status(page, "Classifying 2 pictures")
    cancel = page.find_element(By.ID, "cancel")
    WebDriverWait(page, WAIT_SECONDS).until(lambda _: cancel.is_displayed())
    cancel.click()
    wait_for_status(page, "Cancelled.")
    assert not cancel.is_displayed()
    page.execute_script("window.fetch = window.ask")
    assert len(choose(page, BOOT)) == 1


# The contrast (WCAG 2.2, 1.4.3) of every text with the nearest background.
CONTRASTS = """
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (part) =>
    part <= 10.3 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4;
  const luminance = ([red, green, blue]) =>
    0.2126 * light(red) + 0.7152 * light(green) + 0.0722 * light(blue);
  const ground = (element) => {
    const colour = numbers(getComputedStyle(element).backgroundColor);
    return colour[3] === 0 ? ground(element.parentElement) : colour;
  };
  const texts = [...document.body.querySelectorAll("*")].filter((element) =>
    element.checkVisibility() &&
    [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()));
  return texts.map((element) => {
    const ink = luminance(numbers(getComputedStyle(element).color));
    const paper = luminance(ground(element));
    const [low, high] = [ink, paper].sort((a, b) => a - b);
    return [(high + 0.05) / (low + 0.05), element.outerHTML.slice(0, 80)];
  });
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1040])
def test_text_has_contrast_and_fits_on_any_screen(
    page: Chrome, tmp_path: Path, theme: str, width: int
) -> None:
    emulate(page, width, theme)
    (tmp_path / "text.png").write_text("hello")
    choose(page, PICTURES / "photo-t-shirt.jpg", CAT, tmp_path / "text.png")
    page.execute_script("document.getElementById('key').hidden = false")
    contrasts = page.execute_script(CONTRASTS)
    assert len(contrasts) > 40
    assert [each for each in contrasts if each[0] < CONTRAST] == []
    assert page.execute_script("return document.documentElement.scrollWidth") <= width


def test_the_docs_send_a_file_and_show_the_answer(
    chromium: Chrome, gunicorn: Server
) -> None:
    wait = WebDriverWait(
        chromium, WAIT_SECONDS, ignored_exceptions=[NoSuchElementException]
    )
    chromium.get(f"{gunicorn.url}/docs")
    find = chromium.find_element
    route = "#operations-predict-predict"
    wait.until(lambda _: find(By.CSS_SELECTOR, f"{route} .opblock-summary")).click()
    wait.until(lambda _: find(By.CSS_SELECTOR, f"{route} .try-out__btn")).click()
    button = ".json-schema-form-item-add"
    wait.until(lambda _: find(By.CSS_SELECTOR, f"{route} {button}")).click()
    field = f"{route} input[type=file]"
    wait.until(lambda _: find(By.CSS_SELECTOR, field)).send_keys(str(BOOT))
    find(By.CSS_SELECTOR, f"{route} .execute").click()
    body = f"{route} .live-responses-table .highlight-code"
    text = wait.until(lambda _: find(By.CSS_SELECTOR, body)).text
    assert '"class": "Ankle boot"' in text
    levels = {line["level"] for line in log(chromium, "browser")}
    assert levels <= {"WARNING"}  # by Swagger UI itself, about files in lists
    hosts = {urlsplit(address).netloc for address in requested(chromium)}
    assert hosts <= {"", urlsplit(gunicorn.url).netloc}


def test_a_colour_model_is_shown_in_colour(chromium: Chrome, tmp_path: Path) -> None:
    colour_model.write(tmp_path / "model.bin")
    uri = str(tmp_path / "model.bin")
    with serve(
        GUNICORN, tmp_path / "log", FLASK_MODEL_URI=uri, WEB_CONCURRENCY="1"
    ) as server:
        chromium.get(server.url)
        assert colour_model.NAME in chromium.title
        images = chromium.find_elements(By.CSS_SELECTOR, "#samples img")
        alts = [f"Sample: {name}" for name in colour_model.CLASSES]
        assert [image.get_attribute("alt") for image in images] == alts
        images[1].click()
        [article] = answers(chromium)
        assert text_of(article, ".class") == colour_model.CLASSES[1]
        drawn = canvas(chromium, article, ".pixels")
        assert drawn.shape == (64, 64, 4)
        assert drawn[0, 0, :3].tolist() == [*colour_model.COLOURS["green"]]
