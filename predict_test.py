"""Send pictures to a running service and print what it says.

    python predict_test.py                              a picture that comes along
    python predict_test.py shirt.jpg photos/            files and folders
    cat shirt.jpg | python predict_test.py -            standard input
    python predict_test.py shirt.jpg --url http://example.com

Exits with 1, and one line that says why, if a picture got no class.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import requests

URL = "http://localhost:9696"
TIMEOUT = 30  # seconds for one picture
SAMPLE = Path(__file__).resolve().parent / "static" / "pictures" / "ankle-boot.png"
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
STANDARD_INPUT = Path("-")


class PredictError(Exception):
    """A picture that got no class; the message says why, in one line."""


class ServiceError(PredictError):
    """No service that could answer: there is no use in sending the next picture."""


def expand(paths: list[Path]) -> Iterator[Path]:
    """Replace each folder by the pictures in it, by name."""
    for path in paths:
        if path.is_dir():
            inside = (p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
            yield from sorted(inside)
        else:
            yield path


def read(path: Path) -> bytes:
    """Return the bytes of a file, or of standard input for "-"."""
    if path == STANDARD_INPUT:
        return sys.stdin.buffer.read()
    try:
        return path.read_bytes()
    except OSError as error:
        raise PredictError(f"{path}: {error.strerror}") from error


def predict(session: requests.Session, url: str, picture: bytes) -> dict[str, object]:
    """Ask the service for one picture's class. Raises `PredictError`."""
    try:
        response = session.post(f"{url}/predict", data=picture, timeout=TIMEOUT)
    except requests.ConnectionError as error:
        raise ServiceError(f"no service answers at {url}: is it running?") from error
    except requests.RequestException as error:
        raise ServiceError(f"cannot ask {url}: {error}") from error
    try:
        answer = response.json()
    except requests.JSONDecodeError:
        answer = None
    if isinstance(answer, dict) and response.ok and "class" in answer:
        return answer
    if isinstance(answer, dict) and "code" in answer:
        code, detail = answer["code"], answer.get("detail")
        raise PredictError(f"{response.status_code} {code}: {detail}")
    status = f"{response.status_code} {response.reason}"
    raise ServiceError(f"{url} answers {status}, not as our service")


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
    return parser.parse_args()


def main() -> int:
    """Print a line a picture; return how the process should exit."""
    options = parse_options()
    pictures = list(expand(options.pictures))
    if not pictures:
        print("predict_test: no pictures there", file=sys.stderr)
        return 1
    width = max(len(str(path)) for path in pictures)
    failed = False
    with requests.Session() as session:
        for path in pictures:
            try:
                answer = predict(session, options.url.rstrip("/"), read(path))
            except ServiceError as error:
                print(f"predict_test: {error}", file=sys.stderr)
                return 1
            except PredictError as error:
                failed = True
                print(f"{path!s:{width}}  {error}", file=sys.stderr)
                continue
            print(
                f"{path!s:{width}}  {answer['class']:12} {answer['probability']:7.2%}"
            )
    return int(failed)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
