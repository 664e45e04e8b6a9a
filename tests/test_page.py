"""The web pages, / and /docs, in a real Chromium, from a real gunicorn.

Chromium and its driver are Debian's: apt-get install chromium chromium-driver.
"""

import csv
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
from PIL import Image
from selenium.common.exceptions import NoSuchElementException
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

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
    """Return the articles or rows, once there are as many as pictures."""
    selector = "[aria-busy=false] > article, [aria-busy=false] li"

    def find(page: Chrome) -> list[WebElement] | None:
        found = page.find_elements(By.CSS_SELECTOR, selector)
        return found if len(found) == number else None

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


def gauge(article: WebElement) -> int:
    """Return how unlike the classes a picture is, from 0 to 100; 50 is the limit."""
    meter = article.find_element(By.CSS_SELECTOR, "[role=meter]")
    return int(meter.get_attribute("aria-valuenow") or -1)


def open_numbers(article: WebElement) -> list[str]:
    """Open the numbers of an answer; return the rows of its table."""
    article.find_element(By.CSS_SELECTOR, ".numbers summary").click()
    return [row.text for row in article.find_elements(By.TAG_NAME, "tr")]


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
    assert text_of(article, ".reason") == "No other class is close."
    rows = open_numbers(article)
    assert len(rows) == 10
    assert rows[0] == f"{label} {text_of(article, '.probability')}"
    assert "refused above \u22122." in text_of(article, ".score")
    assert 0 <= gauge(article) < 50
    wait_for_status(page, label)


@pytest.mark.parametrize("name", ["ankle-boot.png", "photo-t-shirt.jpg", "cat.gif"])
def test_the_model_input_and_the_activation_are_drawn(page: Chrome, name: str) -> None:
    [article] = choose(page, PICTURES / name)
    pixels = to_pixels((PICTURES / name).read_bytes())
    shown = canvas(page, article, ".pixels")
    assert (shown[..., :3] == pixels[..., None]).all()
    heat = canvas(page, article, ".activation")
    red, blue = heat[..., 0].astype(int), heat[..., 2].astype(int)
    assert ((red - blue).max() > 60) == (name != "cat.gif")  # grey if refused
    assert (red - blue).min() < 20  # low elsewhere
    label = "Sandal" if name == "cat.gif" else text_of(article, ".class")
    assert text_of(article, ".subject") == f"What spoke for {label}"


def make_batch(folder: Path) -> list[Path]:
    """Write a file that is no picture; return it with pictures around it."""
    (folder / "text.png").write_text("hello")
    return [BOOT, CAT, folder / "text.png", *[PICTURES / "bag.png"] * 27]


def test_a_batch_is_a_short_list_in_order(page: Chrome, tmp_path: Path) -> None:
    rows = choose(page, *make_batch(tmp_path))
    classes = [text_of(row, ".class") for row in rows]
    assert classes == ["Ankle boot", "Refused", "Not readable", *["Bag"] * 27]
    wait_for_status(page, "30 pictures: 28 known, 1 refused, 1 not readable.")
    assert page.execute_script("return document.documentElement.scrollHeight") < 3000
    rows[1].find_element(By.TAG_NAME, "summary").click()
    assert canvas(page, rows[1], ".pixels").shape == (28, 28, 4)
    assert text_of(rows[1], ".gauge").startswith("How unlike the classes")


def test_a_batch_is_filtered(page: Chrome, tmp_path: Path) -> None:
    rows = choose(page, *make_batch(tmp_path))
    buttons = page.find_elements(By.CSS_SELECTOR, ".filters button")
    names = [button.text for button in buttons]
    assert names == [
        "All 30",
        "Known 28",
        "Close calls 0",
        "Refused 1",
        "Not readable 1",
    ]
    buttons[3].click()
    assert [text_of(row, ".class") for row in rows if row.is_displayed()] == ["Refused"]


def test_a_batch_is_downloaded(page: Chrome, tmp_path: Path) -> None:
    choose(page, *make_batch(tmp_path))
    folder = {"behavior": "allow", "downloadPath": str(tmp_path)}
    page.execute_cdp_cmd("Browser.setDownloadBehavior", folder)
    for button in page.find_elements(By.CSS_SELECTOR, ".downloads button"):
        button.click()
    wait = WebDriverWait(page, WAIT_SECONDS)
    wait.until(lambda _: len([*tmp_path.glob("answers.*[nv]")]) == 2)
    with (tmp_path / "answers.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = [*csv.DictReader(file)]
    document = json.loads((tmp_path / "answers.json").read_text())
    assert [row["file"] for row in rows] == [each["file"] for each in document]
    assert rows[0]["class"] == document[0]["class"] == "Ankle boot"
    assert rows[1]["verdict"], document[1]["code"] == ("refused", "unknown_class")
    assert document[2]["code"] == "unsupported_image"


def test_an_outlier_is_unknown(page: Chrome, tmp_path: Path, encode: Encode) -> None:
    board = (np.indices((28, 28)).sum(0) // 4 % 2 * 255).astype(np.uint8)
    (tmp_path / "board.png").write_bytes(encode(board))
    for path in (tmp_path / "board.png", CAT):
        [article] = choose(page, path)
        assert text_of(article, ".class") == "Refused"
        assert text_of(article, ".reason") == "It looks like none of the classes."
        assert gauge(article) > 75
        assert len(open_numbers(article)) == 10
        wait_for_status(page, "Refused. It looks like none of the classes.")


def test_a_file_that_is_no_picture_is_refused_safely(
    page: Chrome, tmp_path: Path
) -> None:
    path = tmp_path / "<img src=x onerror=alert(1)>.png"
    path.write_text("hello")
    [article] = choose(page, path)
    assert text_of(article, ".class") == "Not readable"
    assert "Not a picture in PNG, JPEG" in text_of(article, ".reason")
    assert text_of(article, ".file") == path.name
    assert text_of(article, ".picture") == "no preview"
    assert not article.find_elements(By.CSS_SELECTOR, "canvas, table, img")
    wait_for_status(page, "Not readable. Not a picture in PNG, JPEG")


def test_everything_works_by_keyboard(page: Chrome) -> None:
    keys = ActionChains(page)
    keys.send_keys(Keys.TAB).perform()
    assert page.switch_to.active_element.get_attribute("id") == "files"
    label = page.find_element(By.CSS_SELECTOR, "label[for=files]")
    assert label.value_of_css_property("outline-style") == "solid"
    ActionChains(page).send_keys(Keys.TAB, Keys.TAB, Keys.ENTER).perform()
    sample = page.switch_to.active_element
    assert sample.value_of_css_property("outline-style") == "solid"
    assert text_of(answers(page)[0], ".class") == "Refused"
    assert page.switch_to.active_element == sample


def test_every_sample_of_the_model_gets_its_class(page: Chrome) -> None:
    buttons = page.find_elements(By.CSS_SELECTOR, "#samples button")
    names = [button.get_attribute("title") for button in buttons]
    assert names[:2] == ["T-shirt/top", "none of the classes"]  # a photo and a cat
    assert names[2:] == predict.service.classifier.classes
    for name, button in zip(names, buttons, strict=True):
        button.click()
        wait_for_status(page, "Refused." if "none" in str(name) else f"{name}, ")
        assert text_of(answers(page)[0], ".file") == name


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


RECORD_STATUS = """
  window.texts = [];
  const status = document.getElementById("status");
  new MutationObserver(() => window.texts.push(status.textContent))
    .observe(status, { childList: true });
  navigator.clipboard.writeText = async (text) => { window.copied = text; };
"""


def test_a_quick_answer_shows_no_progress_and_can_be_copied(page: Chrome) -> None:
    page.execute_script(RECORD_STATUS)
    [article] = choose(page, BOOT)
    wait_for_status(page, "Ankle boot")
    texts = page.execute_script("return window.texts")
    assert [text for text in texts if "Classifying" in text] == []
    curl, python, as_json = article.find_elements(By.CSS_SELECTOR, ".copy button")
    for button, text in (
        (curl, "--data-binary '@ankle-boot.png'"),
        (python, 'with open("ankle-boot.png", "rb") as picture:'),
        (as_json, '"class": "Ankle boot"'),
    ):
        button.click()
        assert text in page.execute_script("return window.copied")


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


RECORD_SENT = """
  const ask = window.fetch;
  window.sent = [];
  window.fetch = (address, options) => {
    const blobs = options.body.getAll("image");
    window.sent.push(...blobs.map((blob) => [blob.type, blob.size]));
    return ask(address, options);
  };
"""
FAIL_SECOND = """
  const ask = window.fetch;
  let calls = 0;
  window.fetch = (...call) => (calls++ === 1 ? Promise.reject(Error()) : ask(...call));
"""


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_a_picture_is_pasted_or_dropped(page: Chrome, kind: str) -> None:
    page.execute_script(PICTURE_ON, kind, "/static/pictures/bag.png", 1)
    [article] = answers(page)
    assert text_of(article, ".class") == "Bag"
    assert text_of(article, ".file") == f"{kind}.png"


def test_nothing_to_drop_is_reported_but_text_may_be_pasted(page: Chrome) -> None:
    page.execute_script(PICTURE_ON, "paste", "/static/pictures/bag.png", 0)
    assert page.find_element(By.ID, "status").text == ""
    page.execute_script(PICTURE_ON, "drop", "/static/pictures/bag.png", 0)
    wait_for_status(page, "No picture to drop.")


def test_more_pictures_than_allowed_are_not_sent(page: Chrome) -> None:
    page.execute_script(PICTURE_ON, "drop", "/static/pictures/bag.png", 257)
    wait_for_status(page, "At most 256 pictures at once; these are 257.")


def test_a_file_that_is_too_large_is_not_sent(page: Chrome, tmp_path: Path) -> None:
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(33 * 1024**2)
    large, boot = choose(page, tmp_path / "large.png", BOOT)
    reason = "The file has 33 MB, at most 32 can be sent."
    assert text_of(large, ".reason") == reason
    assert text_of(boot, ".class") == "Ankle boot"


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_large_photo_is_reduced_before_it_is_sent(
    page: Chrome, tmp_path: Path, kind: str
) -> None:
    photo = Image.open(PICTURES / "photo-t-shirt.jpg").resize((2400, 3200))
    noise = Image.effect_noise(photo.size, 60).convert("RGB")
    image = Image.blend(photo.convert("RGB"), noise, 0.2)
    if kind == "PNG":
        image.putalpha(Image.new("L", image.size, 255))
        image.putpixel((0, 0), (0, 0, 0, 0))  # transparent: no JPEG
    else:
        image = image.rotate(90, expand=True)
        image.getexif()[0x0112] = 6  # turns it upright
    path = tmp_path / "photo"
    image.save(path, kind, quality=95, exif=image.getexif())
    page.execute_script(RECORD_SENT)
    assert path.stat().st_size > 3_000_000
    [article] = choose(page, path)
    [[kind_sent, size]] = page.execute_script("return window.sent")
    assert kind_sent == f"image/{kind.lower()}"
    assert size < path.stat().st_size / 5
    assert text_of(article, ".class") == "T-shirt/top"
    shown = article.find_element(By.CSS_SELECTOR, ".picture img")
    sides = [shown.get_property(side) for side in ("naturalWidth", "naturalHeight")]
    assert sides == [768, 1024]


def test_a_failure_keeps_the_answers_and_can_be_tried_again(page: Chrome) -> None:
    page.execute_script(FAIL_SECOND)
    paths = [PICTURES / "bag.png"] * 6
    page.find_element(By.ID, "files").send_keys("\n".join(map(str, paths)))
    wait_for_status(page, "check the connection. 4 of 6 pictures are answered.")
    assert len(answers(page, 4)) == 4
    page.find_element(By.ID, "retry").click()
    wait_for_status(page, "6 pictures: 6 known.")
    assert len(answers(page, 6)) == 6


def test_a_service_without_an_answer_is_reported(page: Chrome) -> None:
    choose(page, BOOT)
    gone = {"latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    page.execute_cdp_cmd("Network.emulateNetworkConditions", gone | {"offline": True})
    page.find_element(By.ID, "files").send_keys(str(CAT))
    wait_for_status(page, "No answer from the service")
    page.execute_cdp_cmd("Network.emulateNetworkConditions", gone | {"offline": False})
    [line] = log(page, "browser")  # by the browser itself
    assert line["source"] == "network"
    assert text_of(answers(page)[0], ".class") == "Ankle boot"
    page.find_element(By.ID, "retry").click()
    wait_for_status(page, "Refused.")


def test_a_key_is_asked_for_and_kept(chromium: Chrome, tmp_path: Path) -> None:
    environment = {"FLASK_API_KEY": "my secret", "WEB_CONCURRENCY": "1"}
    with serve(GUNICORN, tmp_path / "log", **environment) as server:
        chromium.get(server.url)
        field = chromium.switch_to.active_element
        assert field.accessible_name == "API key"
        assert field.get_attribute("type") == "password"
        chromium.find_element(By.ID, "files").send_keys(str(BOOT))
        wait_for_status(chromium, "This service needs a key.")
        field.send_keys("wrong", Keys.ENTER)
        wait_for_status(chromium, "This key is wrong.")
        field.clear()
        field.send_keys("my secret", Keys.ENTER)
        assert text_of(answers(chromium)[0], ".class") == "Ankle boot"
        assert not field.is_displayed()
        chromium.get(server.url)
        assert not chromium.find_element(By.ID, "key").is_displayed()
        assert text_of(choose(chromium, CAT)[0], ".class") == "Refused"
    chromium.execute_script("sessionStorage.clear()")
    log(chromium, "browser")  # of the wrong key, by the browser itself
    requested(chromium)


SLOW_SAMPLE = """
  const ask = window.fetch;
  window.fetch = async (address, options) => {
    if (options?.method !== "POST") await new Promise((go) => setTimeout(go, 500));
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


def test_a_file_that_cannot_be_read_fails_alone(page: Chrome) -> None:
    page.execute_script("""
      const { slice } = Blob.prototype;
      const fail = () => Promise.reject(new DOMException("", "NotReadableError"));
      Blob.prototype.slice = function (...range) {
        const isBag = this.name === "bag.png";
        return isBag ? { arrayBuffer: fail } : slice.apply(this, range);
      };
    """)
    rows = choose(page, BOOT, PICTURES / "bag.png")
    assert [text_of(row, ".class") for row in rows] == ["Ankle boot", "Not readable"]
    assert text_of(rows[1], ".reason") == "The browser cannot read this file."


def test_an_error_of_the_page_is_reported(page: Chrome) -> None:
    page.execute_script("window.FormData = null")
    page.find_element(By.ID, "files").send_keys(str(BOOT))
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


@pytest.mark.parametrize("is_batch", [False, True])
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1040])
def test_text_has_contrast_and_fits_on_any_screen(
    page: Chrome, tmp_path: Path, theme: str, width: int, is_batch: bool
) -> None:
    emulate(page, width, theme)
    (tmp_path / "text.png").write_text("hello")
    pictures = PICTURES / "photo-t-shirt.jpg", CAT, tmp_path / "text.png"
    choose(page, *(pictures if is_batch else pictures[:1]))
    page.execute_script("""
      document.getElementById("key").hidden = false;
      document.querySelectorAll("details").forEach((each) => (each.open = true));
    """)
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
    media = find(By.CSS_SELECTOR, f"{route} .body-param-content-type select")
    Select(media).select_by_value("multipart/form-data")
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
