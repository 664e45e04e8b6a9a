"""Send pictures to a running service and print its answers.

    python predict_test.py                              a sample picture
    python predict_test.py shirt.jpg photos/            files and folders
    cat shirt.jpg | python predict_test.py -            standard input
    python predict_test.py shirt.jpg --url http://example.com --key KEY
    python predict_test.py photos/ --batch              32 pictures per request
    python predict_test.py photos/ --json               whole answers, one per line

The exit status is 1 if a picture got no class; a line on standard error gives the
reason. The key may also be in the environment variable API_KEY.
"""

import argparse
import json
import os
import re
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
SUFFIXES |= {".jfif", ".heic", ".heif", ".avif"}
HIDDEN = re.compile(r"\.|__MACOSX$")
STANDARD_INPUT = Path("-")
EXIT_INTERRUPTED = 130  # as shells do after Ctrl-C


Answer = dict[str, Any]  # with "class", or "code" if the picture got none


class ServiceError(Exception):
    """There is no service that can answer; the message is the reason, in one line."""


def expand(paths: list[Path]) -> Iterator[Path]:
    """Replace each folder by the pictures in it that are not hidden, sorted by name."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for file in sorted(path.rglob("*")):
            is_hidden = any(map(HIDDEN.match, file.relative_to(path).parts))
            if file.suffix.lower() in SUFFIXES and not (is_hidden or file.is_dir()):
                yield file


def read(path: Path) -> bytes | None:
    """Return the bytes of a file, or of standard input for "-".

    Print the reason and return None if it cannot be read.
    """
    try:
        return sys.stdin.buffer.read() if path == STANDARD_INPUT else path.read_bytes()
    except OSError as error:
        print_error(error)
        return None


def predict(session: requests.Session, url: str, pictures: list[bytes]) -> list[Answer]:
    """Return the service's answer for each picture. Raises `ServiceError`."""
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
    """Send one request; return its answer or problem. Raises `ServiceError`."""
    response = send(session, url, **body)
    try:
        answer = response.json()
    except requests.JSONDecodeError:
        answer = None
    if is_answer(answer, len(body["files"]) if "files" in body else None):
        if answer.get("code") == "unauthorized":
            has_key = "X-API-Key" in session.headers
            reason = "does not accept this key" if has_key else "needs a key: --key KEY"
            raise ServiceError(f"{url} {reason}")
        return answer
    if response.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:  # by a proxy
        return {"status": 413, "code": "too_large", "detail": "send a smaller one"}
    status = f"{response.status_code} {response.reason}"
    raise ServiceError(f"{url} answers {status}, not as this service does")


def send(session: requests.Session, url: str, **body: Any) -> requests.Response:
    """Send one request; return any response but a redirect. Raises `ServiceError`."""
    try:
        response = session.post(
            f"{url}/predict", timeout=TIMEOUT, allow_redirects=False, **body
        )
    except (requests.exceptions.ProxyError, requests.exceptions.SSLError) as error:
        raise ServiceError(f"cannot connect to {url}: {error}") from error
    except requests.ConnectionError as error:
        raise ServiceError(f"no service answers at {url}: is it running?") from error
    except requests.Timeout as error:
        raise ServiceError(f"{url} has not answered in {TIMEOUT} s") from error
    except requests.RequestException as error:
        raise ServiceError(f"cannot connect to {url}: {error}") from error
    if response.is_redirect:  # not followed: another host must not get the key
        target = response.headers["Location"].removesuffix("/predict")
        raise ServiceError(f"{url} has moved: --url {target}")
    return response


def is_answer(answer: Any, count: int | None) -> TypeGuard[Answer]:
    """Return whether this is an answer of the service, to `count` pictures in a batch.

    Without `count` it must be the answer to one picture.
    """
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
        isinstance(entry, dict) and is_answer(entry.get("error", entry), None)
        for entry in entries
    )


def print_answer(path: Path, answer: Answer, width: int, as_json: bool) -> None:
    """Print the answer for one picture, an error on standard error."""
    if as_json:
        print(json.dumps({"picture": str(path), **answer}))
    elif "class" in answer:
        print(f"{path!s:{width}}  {answer['class']:12} {answer['probability']:7.2%}")
    else:
        reason = f"{answer.get('status')} {answer['code']}: {answer.get('detail')}"
        print(f"{path!s:{width}}  {reason}", file=sys.stderr)


def print_error(error: object) -> None:
    """Print one line on standard error."""
    print(f"predict_test: {error}", file=sys.stderr)


def parse_options() -> argparse.Namespace:
    """Return the options of the command line. Exits if one is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "pictures",
        nargs="*",
        type=Path,
        default=[SAMPLE],
        metavar="PICTURE",
        help="a file, a folder or - for standard input (default: a sample picture)",
    )
    parser.add_argument(
        "--url", default=URL, help=f"address of the service (default: {URL})"
    )
    parser.add_argument("--key", help="API key (default: environment variable API_KEY)")
    parser.add_argument(
        "--batch",
        dest="size",
        action="store_const",
        const=BATCH_SIZE,
        default=1,
        help=f"send {BATCH_SIZE} pictures per request, not one",
    )
    parser.add_argument("--json", action="store_true", help="print whole answers")
    options = parser.parse_args()
    url = options.url if "://" in options.url else f"http://{options.url}"
    options.url = url.rstrip("/").removesuffix("/predict")
    options.key = options.key or os.environ.get("API_KEY", "")
    if not (options.key.isascii() and options.key.isprintable()):
        parser.error("a key consists of printable ASCII characters")
    return options


def run(options: argparse.Namespace, paths: list[Path]) -> bool:
    """Print the answer for each picture; return whether all got a class.

    Raises `ServiceError`.
    """
    width = max(len(str(path)) for path in paths)
    all_classified = True
    with requests.Session() as session:
        session.headers.update({"X-API-Key": options.key} if options.key else {})
        for start in range(0, len(paths), options.size):
            batch = [(path, read(path)) for path in paths[start : start + options.size]]
            pictures = [(path, data) for path, data in batch if data is not None]
            answers = predict(session, options.url, [data for _, data in pictures])
            for (path, _), answer in zip(pictures, answers, strict=True):
                print_answer(path, answer, width, options.json)
            classified = sum("class" in answer for answer in answers)
            all_classified &= classified == len(batch)
    sys.stdout.flush()
    return all_classified


def main() -> int:
    """Run the command line; return the exit status."""
    cast("TextIOWrapper", sys.stdout).reconfigure(errors="backslashreplace")
    options = parse_options()
    paths = list(expand(options.pictures))
    if not paths:
        print_error(f"no pictures in {', '.join(map(str, options.pictures))}")
        return 1
    try:
        return int(not run(options, paths))
    except ServiceError as error:
        print_error(error)
        return 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
