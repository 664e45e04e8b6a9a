"""The file behind a URI: brought whole, as the store has it, or one clear line.

    >>> with store.opened("https://example.com/model.bin") as part:
    ...     part.file.read()

http(s) with requests, ftp with ftplib, all else (s3, gs, ...) with fsspec.

A download goes into a temporary file without a name, in which a try that breaks off is
taken up by the next. Nobody else can open or plant such a file, two processes cannot
meet in it, and it is gone with its process: there is no cache to be emptied. So that an
unchanged file is not brought again, its reader keeps the tag that the store gave it.
"""

import ftplib
import logging
import os
import random
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from http import HTTPStatus
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

if TYPE_CHECKING:
    import requests

TRIES = 5
PAUSE_SECONDS = 1.0  # before the second try; twice as long before each one more
MAX_PAUSE_SECONDS = 30.0  # that a store can ask for by Retry-After
DEADLINE_SECONDS = 100.0  # for all tries; Kubernetes waits for 120 (deploy/)
CONNECT_SECONDS, SILENT_SECONDS = 5, 10  # that a store may take
MAX_BYTES = 512 * 1024**2  # of a file
CHUNK_BYTES = 64 * 1024  # read at a time
RANGE_BYTES = 8 * 1024**2  # that fsspec asks for at a time
MAX_CHARACTERS = 200  # of what a store says of a fault
RETRIED = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}  # and all 5xx
INSTALL = 'pipenv sync --categories "packages stores"'

Tell = Callable[[int, int | None], None]  # of the bytes so far, and in all if known


class StoreError(Exception):
    """A file that cannot be had: one line, without credentials."""


class UnchangedError(Exception):
    """The store still has the version that is known."""


class TryAgainError(Exception):
    """A fault that may pass, after `seconds` if the store says so."""

    def __init__(self, fault: str, seconds: float | None = None) -> None:
        super().__init__(fault)
        self.seconds = seconds


@dataclass
class Part:
    """What has arrived of a file so far; `file` is positioned at its end."""

    file: BinaryIO
    tag: str | None = None  # the store's name of the version, such as an ETag

    def have(self, tag: str | None) -> int:
        """Return how many bytes of the version `tag` are here."""
        return self.file.tell() if tag and tag == self.tag else 0

    def begin(self, start: int, tag: str | None) -> None:
        """Go on at the byte `start` with the version `tag`."""
        self.file.seek(start)
        self.file.truncate()
        self.tag = tag

    def add(self, chunk: bytes) -> None:
        """Append a chunk. Raises `StoreError` if it does not fit."""
        if self.file.tell() + len(chunk) > MAX_BYTES:
            raise StoreError(f"is over {MAX_BYTES} bytes")
        try:
            self.file.write(chunk)
        except OSError as error:
            raise StoreError(f"finds no room here: {error.strerror}") from error


class Answer(NamedTuple):
    """What a store sends: the version `tag`, from the byte `start` on."""

    tag: str | None
    start: int
    size: int | None  # of the whole file
    chunks: Iterator[bytes]


def path_of(uri: str) -> Path | None:
    """Return the path of a file on this machine, None for one that is elsewhere."""
    if "://" not in uri:
        return Path(uri)
    scheme, _, path = uri.partition("://")
    is_here = scheme.lower() == "file" and path.startswith("/")
    return Path(url2pathname(path)) if is_here else None


def redact(uri: str) -> str:
    """Show a URI without its password and its query, which may hold a signature.

    Of one with an @ elsewhere, which may stand behind a password, only the scheme.
    """
    if "://" not in uri:
        return uri
    hidden = f"{uri.partition('://')[0]}://..."
    try:
        parts = urlsplit(uri)
        _ = parts.port  # raises if it is none, perhaps the half of a password
    except ValueError:
        return hidden
    if uri.count("@") > parts.netloc.count("@"):  # behind a password with a slash
        return hidden
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}{'?...' if parts.query else ''}"


@contextmanager
def opened(uri: str, known: str | None = None) -> Iterator[Part]:
    """Open the file at a path or a URI. Raises as `fetch` does, and `OSError`."""
    if path := path_of(uri):
        with path.open("rb") as file:
            yield Part(file)
        return
    with tempfile.TemporaryFile() as file:
        part = Part(file)
        fetch(uri, part, known)
        yield part


def fetch(
    uri: str, part: Part, known: str | None = None, tell: Tell | None = None
) -> None:
    """Bring the file at `uri` into `part`; what is there of it already is taken up.

    Faults that may pass are tried again, with longer and longer pauses.
    Raises `StoreError`, or `UnchangedError` if its tag is still `known`.
    """
    shown = redact(uri)
    deadline = time.monotonic() + DEADLINE_SECONDS
    for number in count(1):
        try:
            bring(uri, part, known, partial(watch, deadline, tell))
        except StoreError as error:
            raise StoreError(f"{shown} {error}") from error
        except TryAgainError as error:
            seconds = pause_before(number + 1, error.seconds)
            if number == TRIES or time.monotonic() + seconds > deadline:
                raise StoreError(
                    f"{shown} cannot be fetched, try {number} of {TRIES}: {error}"
                ) from error
            time.sleep(seconds)
        else:
            return


def pause_before(number: int, asked: float | None) -> float:
    """Return the seconds to wait before a try, not the same for all who wait."""
    if asked is not None:
        return min(asked, MAX_PAUSE_SECONDS)
    return PAUSE_SECONDS * 2.0 ** (number - 2) * random.uniform(0.5, 1)  # noqa: S311


def watch(deadline: float, tell: Tell | None, done: int, total: int | None) -> None:
    """Stop a store that sends without an end; tell how far it is."""
    if time.monotonic() > deadline:
        raise StoreError(f"takes over {DEADLINE_SECONDS:g} seconds")
    if tell:
        tell(done, total)


def bring(uri: str, part: Part, known: str | None, tell: Tell) -> None:
    """Try once what `fetch` does. Raises what it does, or `TryAgainError`."""
    scheme = uri.partition("://")[0].lower()
    with OPEN.get(scheme, open_by_fsspec)(uri, part, known) as answer:
        if answer.size is not None and answer.size > MAX_BYTES:
            raise StoreError(f"is over {MAX_BYTES} bytes")
        part.begin(answer.start, answer.tag)
        for chunk in answer.chunks:
            part.add(chunk)
            tell(part.file.tell(), answer.size)
    come = part.file.tell()
    if answer.size not in {None, come}:
        raise TryAgainError(f"{come} bytes came, not {answer.size}")


@contextmanager
def open_by_http(uri: str, part: Part, known: str | None) -> Iterator[Answer]:
    """Ask for the file, or for what is missing of it (RFC 9110, 13 and 14)."""
    import requests  # noqa: PLC0415 - a model of this machine needs none of it
    from urllib3.exceptions import HTTPError  # noqa: PLC0415

    with requests.Session() as session:
        if uri.lower().startswith("https:"):
            del session.adapters["http://"]  # no redirect leads out of TLS
        try:
            with session.get(
                uri,
                headers=conditions(part, known),
                stream=True,
                timeout=(CONNECT_SECONDS, SILENT_SECONDS),
            ) as response:
                if known and response.status_code == HTTPStatus.NOT_MODIFIED:
                    raise UnchangedError
                yield read_answer(response, part)
        except requests.exceptions.InvalidSchema as error:
            raise StoreError("is redirected to an address that is not safe") from error
        except (requests.exceptions.InvalidURL, requests.TooManyRedirects) as error:
            raise StoreError(f"cannot be fetched: {type(error).__name__}") from error
        except (requests.RequestException, HTTPError) as error:
            raise name_fault(error) from error


def conditions(part: Part, known: str | None) -> dict[str, str]:
    """Ask for the rest of a part, or for nothing if the version is known."""
    headers = {"Accept-Encoding": "identity"}
    have = part.have(part.tag)
    if part.tag and have and part.tag.startswith('"'):  # only these are exact
        return headers | {"Range": f"bytes={have}-", "If-Range": part.tag}
    if known:
        is_date = not known.startswith(('"', "W/"))
        headers["If-Modified-Since" if is_date else "If-None-Match"] = known
    return headers


def read_answer(response: "requests.Response", part: Part) -> Answer:
    """Read the head of an answer. Raises `StoreError` or `TryAgainError`."""
    status, headers = response.status_code, response.headers
    tag = headers.get("ETag") or headers.get("Last-Modified")
    start = 0
    if status in RETRIED or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        seconds = seconds_until(headers.get("Retry-After", ""))
        raise TryAgainError(f"the store answers {status}", seconds)
    if status in {
        HTTPStatus.PARTIAL_CONTENT,
        HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
    }:
        start = part.have(tag)
        sent = headers.get("Content-Range", "")
        if not start or not sent.startswith(f"bytes {start}-"):
            part.begin(0, None)
            raise TryAgainError("the store sends another range than asked for", 0)
    elif status != HTTPStatus.OK:
        raise StoreError(f"cannot be fetched: the store answers {status}")
    length = headers.get("Content-Length", "")
    size = start + int(length) if length.isdecimal() else None
    chunks = iter(partial(response.raw.read1, CHUNK_BYTES, decode_content=False), b"")
    return Answer(tag, start, size, chunks)


def seconds_until(text: str) -> float | None:
    """Read a Retry-After (RFC 9110, 10.2.3): seconds or a date; None if neither."""
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def name_fault(error: Exception) -> StoreError | TryAgainError:
    """Name what broke a connection, without the URI that requests puts into it."""
    causes: list[BaseException] = [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)
    if any(isinstance(cause, TimeoutError) for cause in causes):
        return TryAgainError("the store is silent")
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return StoreError(f"cannot be trusted: {cause.verify_message}")
        if isinstance(cause, OSError) and cause.strerror:
            return TryAgainError(cause.strerror)
    return TryAgainError("the connection broke off")


@contextmanager
def open_by_ftp(uri: str, part: Part, known: str | None) -> Iterator[Answer]:
    """Ask for the file, or for what is missing of it (RFC 959, RFC 3659)."""
    place = urlsplit(uri)
    path = unquote(place.path).removeprefix("/")  # %2F leads out of the login folder
    user, password = unquote(place.username or ""), unquote(place.password or "")
    start = 0
    try:
        with closing(ftplib.FTP(timeout=SILENT_SECONDS)) as ftp:  # noqa: S321 - asked for
            ftp.connect(place.hostname or "", place.port or ftplib.FTP_PORT)
            ftp.login(user, password)
            ftp.voidcmd("TYPE I")
            size, tag = ask_version(ftp, path)
            if known and tag == known:
                raise UnchangedError
            start = part.have(tag)
            data, _ = ftp.ntransfercmd(f"RETR {path}", start or None)
            with data:
                yield Answer(
                    tag, start, size, iter(partial(data.recv, CHUNK_BYTES), b"")
                )
            ftp.voidresp()
    except ftplib.error_perm as error:
        if start:  # perhaps it cannot go on in the middle
            part.begin(0, None)
            raise TryAgainError(brief(error, uri), 0) from error
        raise StoreError(f"cannot be fetched: {brief(error, uri)}") from error
    except ValueError as error:
        raise StoreError("is not a URI") from error
    except (OSError, EOFError) as error:
        raise name_fault(error) from error
    except ftplib.Error as error:
        raise TryAgainError(brief(error, uri)) from error


def ask_version(ftp: ftplib.FTP, path: str) -> tuple[int | None, str | None]:
    """Return size and tag of a file, None if the server does not tell them."""
    try:
        size = ftp.size(path)
        return size, f"{size} {ftp.voidcmd(f'MDTM {path}')}"
    except ftplib.error_perm:
        return None, None


@contextmanager
def open_by_fsspec(uri: str, part: Part, known: str | None) -> Iterator[Answer]:
    """Ask a store of another kind by its package, which has retries of its own."""
    logging.disable()  # what fails is raised, and is to be one line
    try:
        import fsspec  # noqa: PLC0415 - in a category of its own, and slow

        # else gcsfs asks what kind of bucket it is, for which it needs more rights
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        system, path = fsspec.url_to_fs(uri)
        about, tag = system.info(path), system.ukey(path)
        if about["type"] != "file":
            raise StoreError("is a folder")
        if tag == known:
            raise UnchangedError
        with system.open(path, "rb", block_size=RANGE_BYTES) as file:
            file.seek(start := part.have(tag))
            chunks = iter(partial(file.read, RANGE_BYTES), b"")
            yield Answer(tag, start, about["size"], chunks)
    except (StoreError, UnchangedError):
        raise
    except ImportError as error:
        raise StoreError(f"needs a package ({brief(error, uri)}): {INSTALL}") from error
    except FileNotFoundError as error:
        raise StoreError("is not there") from error
    except Exception as error:  # packages raise any kind
        raise StoreError(f"cannot be fetched: {brief(error, uri)}") from error
    finally:
        logging.disable(logging.NOTSET)


def brief(error: Exception, uri: str) -> str:
    """Say an error in one short line, without what the URI holds of secrets."""
    text = " ".join(str(error).split())
    login = uri.partition("://")[2].rpartition("@")[0]
    for secret in (login, login.partition(":")[2], uri.partition("?")[2]):
        text = text.replace(secret, "...") if secret else text
    return "".join(filter(str.isprintable, text))[:MAX_CHARACTERS]


Open = Callable[[str, Part, str | None], AbstractContextManager[Answer]]
OPEN: dict[str, Open] = {
    "http": open_by_http,
    "https": open_by_http,
    "ftp": open_by_ftp,
}
