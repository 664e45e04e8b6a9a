"""Send pictures to a running service and print what it says.

    python predict_test.py                              a picture that comes along
    python predict_test.py shirt.jpg photos/            files and folders
    cat shirt.jpg | python predict_test.py -            standard input
    python predict_test.py shirt.jpg --url http://example.com --key KEY
    python predict_test.py photos/ --batch              32 pictures a request
    python predict_test.py photos/ --json               whole answers, one a line

Exits with 1, and one line that says why, if a picture got no class. The key may also
stand in the environment, as `API_KEY`.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from http import HTTPStatus
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TypeGuard, cast

import requests

URL = "http://localhost:9696"
TIMEOUT = 30  # seconds for one request
BATCH_SIZE = 32  # pictures of a request with --batch
SAMPLE = Path(__file__).resolve().parent / "static" / "pictures" / "ankle-boot.png"
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
SUFFIXES |= {".jfif", ".heic", ".heif", ".avif"}  # of some the service says what to do
STANDARD_INPUT = Path("-")


Answer = dict[str, Any]  # with "class", or of a picture that got none with "code"


class ServiceError(Exception):
    """No service that could answer; the message says why, in one line."""


def expand(paths: list[Path]) -> Iterator[Path]:
    """Replace each folder by the pictures in it, by name."""
    for path in paths:
        if path.is_dir():
            inside = (p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
            yield from sorted(p for p in inside if not p.is_dir())
        else:
            yield path


def read(path: Path) -> bytes | None:
    """Return the bytes of a file, or of standard input for "-"; None if it cannot be.

    What is wrong with it is printed.
    """
    try:
        return sys.stdin.buffer.read() if path == STANDARD_INPUT else path.read_bytes()
    except OSError as error:
        print(f"predict_test: {error}", file=sys.stderr)
        return None


def predict(session: requests.Session, url: str, pictures: list[bytes]) -> list[Answer]:
    """Ask the service for the class of each picture: answers, or errors in their place.

    Raises `ServiceError` if there is no service that could.
    """
    if not pictures:
        return []
    if len(pictures) == 1:
        return [post(session, url, data=pictures[0])]
    files = [("image", (str(index), data)) for index, data in enumerate(pictures)]
    answer = post(session, url, files=files)
    if answer.get("code") == "too_large":  # together
        return [post(session, url, data=picture) for picture in pictures]
    if "predictions" not in answer:
        return [answer] * len(pictures)
    return [entry.get("error", entry) for entry in answer["predictions"]]


def post(session: requests.Session, url: str, **body: Any) -> Answer:
    """Send one request; return its answer, or the problem it got for one picture."""
    try:
        response = session.post(
            f"{url}/predict", timeout=TIMEOUT, allow_redirects=False, **body
        )
    except (requests.exceptions.ProxyError, requests.exceptions.SSLError) as error:
        raise ServiceError(f"cannot ask {url}: {error}") from error
    except requests.ConnectionError as error:
        raise ServiceError(f"no service answers at {url}: is it running?") from error
    except requests.Timeout as error:
        raise ServiceError(f"{url} has not answered in {TIMEOUT} s") from error
    except requests.RequestException as error:
        raise ServiceError(f"cannot ask {url}: {error}") from error
    if response.is_redirect:  # not followed: who is there is not to get the key
        elsewhere = response.headers["Location"].removesuffix("/predict")
        raise ServiceError(f"{url} has moved: --url {elsewhere}")
    try:
        answer = response.json()
    except requests.JSONDecodeError:
        answer = None
    if is_ours(answer, len(body["files"]) if "files" in body else None):
        if answer.get("code") == "unauthorized":
            fault = "does not take this key" if "X-API-Key" in session.headers else ""
            raise ServiceError(f"{url} {fault or 'wants a key: --key KEY'}")
        return answer
    if response.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:  # by a proxy
        return {"status": 413, "code": "too_large", "detail": "send a smaller one"}
    status = f"{response.status_code} {response.reason}"
    raise ServiceError(f"{url} answers {status}, not as our service")


def is_ours(answer: Any, count: int | None) -> TypeGuard[Answer]:
    """Tell whether our service would answer so, a batch of so many if it was one."""
    if not isinstance(answer, dict):
        return False
    if "class" in answer:
        probability = answer.get("probability")
        return isinstance(answer["class"], str) and isinstance(probability, int | float)
    if "code" in answer or count is None:
        return "code" in answer
    entries = answer.get("predictions")
    if not isinstance(entries, list) or len(entries) != count:
        return False
    return all(
        isinstance(entry, dict) and is_ours(entry.get("error", entry), None)
        for entry in entries
    )


def show(path: Path, answer: Answer, width: int, as_json: bool) -> bool:
    """Print one picture's answer; tell whether it got a class."""
    if as_json:
        print(json.dumps({"picture": str(path), **answer}))
    elif "class" in answer:
        print(f"{path!s:{width}}  {answer['class']:12} {answer['probability']:7.2%}")
    else:
        why = f"{answer.get('status')} {answer['code']}: {answer.get('detail')}"
        print(f"{path!s:{width}}  {why}", file=sys.stderr)
    return "class" in answer


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "pictures",
        nargs="*",
        type=Path,
        default=[SAMPLE],
        metavar="PICTURE",
        help="a file, a folder or - for standard input (a picture that comes along)",
    )
    parser.add_argument("--url", default=URL, help=f"where the service is ({URL})")
    parser.add_argument("--key", help="if the service wants one (API_KEY of the shell)")
    parser.add_argument(
        "--batch",
        dest="size",
        action="store_const",
        const=BATCH_SIZE,
        default=1,
        help=f"send {BATCH_SIZE} pictures in a request, not one",
    )
    parser.add_argument("--json", action="store_true", help="print whole answers")
    options = parser.parse_args()
    where = options.url if "://" in options.url else f"http://{options.url}"
    options.url = where.rstrip("/").removesuffix("/predict")
    options.key = options.key or os.environ.get("API_KEY", "")
    if not (options.key.isascii() and options.key.isprintable()):
        parser.error("a key is of ASCII letters, digits and signs")
    return options


def main() -> int:
    """Print a line a picture; return how the process should exit."""
    cast("TextIOWrapper", sys.stdout).reconfigure(errors="backslashreplace")
    options = parse_options()
    paths = list(expand(options.pictures))
    if not paths:
        where = ", ".join(map(str, options.pictures))
        print(f"predict_test: no pictures in {where}", file=sys.stderr)
        return 1
    width = max(len(str(path)) for path in paths)
    named = True
    with requests.Session() as session:
        session.headers.update({"X-API-Key": options.key} if options.key else {})
        for start in range(0, len(paths), options.size):
            batch = [(path, read(path)) for path in paths[start : start + options.size]]
            pictures = [(path, data) for path, data in batch if data is not None]
            named &= len(pictures) == len(batch)
            try:
                answers = predict(session, options.url, [data for _, data in pictures])
            except ServiceError as error:
                print(f"predict_test: {error}", file=sys.stderr)
                return 1
            for (path, _), answer in zip(pictures, answers, strict=True):
                named &= show(path, answer, width, options.json)
    sys.stdout.flush()
    return int(not named)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # whoever read, `head` say, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
