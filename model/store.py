"""Read the file at a path or a URI, or fail with one clear line.

    >>> data, tag = store.read("https://example.com/model.bin")

http(s) by requests, every other scheme (ftp, s3, gs, ...) by fsspec. A file is read
into memory, so a download that fails leaves nothing behind. The tag names the version
of a file in its store: a caller who has that version need not download it again.

requests and fsspec are imported where they are used, because they would take 0.3 s of
every start, and a model of this machine needs neither.
"""

import concurrent.futures
import io
import logging
import os
import posixpath
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

if TYPE_CHECKING:
    import requests
    import urllib3

DEADLINE_SECONDS = 100.0  # for a download and its retries; Kubernetes waits for 120
CONNECT_SECONDS, READ_SECONDS = 5, 10  # without a connection, without another byte
RETRIES = 4
BACKOFF_SECONDS = 0.5  # pauses of 0, 1, 2 and 4 seconds, and up to this much more
MAX_RETRY_AFTER_SECONDS = 20  # four of them are within the deadline
RETRIED = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}  # and all 5xx
MAX_BYTES = 512 * 1024**2
CHUNK_BYTES = 64 * 1024  # that are read at a time
POLL_SECONDS = 0.1
MAX_CHARACTERS = 200  # of another package's error message
INSTALL = 'pipenv sync --categories "packages stores"'

Progress = Callable[[int, int | None], None]  # bytes so far, bytes in total if known


class StoreError(Exception):
    """A file that cannot be read: one line, without credentials."""


class UnchangedError(Exception):
    """The store still has the version that the caller knows."""


class _TransientError(Exception):
    """A failure that may pass; the `response` may have a Retry-After header."""

    response: "urllib3.BaseHTTPResponse | None" = None


class _Buffer(io.BytesIO):
    """The bytes of a file that have arrived; `size` is the file's, if it is known."""

    size: int | None = None

    def begin(self, size: int | None) -> None:
        """Start over with a file of this size."""
        self.size = size
        self.seek(0)
        self.truncate()
        if size and size > MAX_BYTES:
            raise StoreError(f"it has over {MAX_BYTES} bytes")

    def write(self, chunk: Any) -> int:
        """Append a chunk, up to the limit."""
        if self.tell() + len(chunk) > MAX_BYTES:
            raise StoreError(f"it has over {MAX_BYTES} bytes")
        return super().write(chunk)


def read(
    uri: str, known_tag: str | None = None, progress: Progress | None = None
) -> tuple[bytes, str | None]:
    """Return the bytes of the file at a path or a URI, and its tag if it has one.

    Raises `StoreError`, or `UnchangedError` if the tag is still `known_tag`.
    """
    if path := local_path(uri):
        return _read_path(path), None
    buffer = _Buffer()
    logging.disable()  # packages log what they also raise, credentials included
    try:
        tag = _download_in_thread(uri, known_tag, buffer, progress)
    except UnchangedError:
        raise
    except Exception as error:  # packages raise any kind
        fault = _one_line(error, uri)
        raise StoreError(f"{redact(uri)} cannot be read: {fault}") from error
    finally:
        logging.disable(logging.NOTSET)
    return buffer.getvalue(), tag


def local_path(uri: str) -> Path | None:
    """Return the path of a file on this machine, None for one that is elsewhere."""
    if "://" not in uri:
        return Path(uri)
    scheme, _, path = uri.partition("://")
    is_local = scheme.lower() == "file" and path.startswith("/")
    return Path(url2pathname(path)) if is_local else None


def redact(uri: str) -> str:
    """Return a URI without its password and its query, which may hold a signature.

    If there is an @ elsewhere, perhaps behind a password, return only the scheme.
    """
    if "://" not in uri:
        return uri
    hidden = f"{uri.partition('://')[0]}://..."
    try:
        parts = urlsplit(uri)
        _ = parts.port  # raises if it is not a number, perhaps half of a password
    except ValueError:
        return hidden
    if uri.count("@") > parts.netloc.count("@"):  # behind a password with a slash
        return hidden
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}{'?...' if parts.query else ''}"


def _one_line(error: Exception, uri: str) -> str:
    """Return the text of an error without what is secret in the URI."""
    text = " ".join(str(error).split())
    login = uri.partition("://")[2].rpartition("@")[0]
    for secret in (login, login.partition(":")[2], uri.partition("?")[2]):
        for form in filter(None, (secret, unquote(secret))):
            text = text.replace(form, "...")
    return "".join(filter(str.isprintable, text))[:MAX_CHARACTERS]


def _read_path(path: Path) -> bytes:
    try:
        with path.open("rb") as file, _Buffer() as buffer:
            while chunk := file.read(CHUNK_BYTES):
                buffer.write(chunk)
            return buffer.getvalue()
    except (OSError, StoreError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error


def _download_in_thread(
    uri: str, known_tag: str | None, buffer: _Buffer, progress: Progress | None
) -> str | None:
    """Download a file within the deadline. Return its tag.

    A thread can be abandoned, whatever it waits for. A timeout of a socket would not
    stop a store that sends a byte now and then.
    """
    future: concurrent.futures.Future[str | None] = concurrent.futures.Future()

    def run() -> None:
        try:
            future.set_result(_retry(uri, known_tag, buffer))
        except BaseException as error:  # noqa: BLE001 - the caller raises it
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not future.done() and time.monotonic() < deadline:
        concurrent.futures.wait([future], POLL_SECONDS)  # Ctrl-C waits for it
        if progress:
            progress(buffer.tell(), buffer.size)
    if not future.done():
        raise StoreError(f"it takes over {DEADLINE_SECONDS:g} seconds")
    return future.result()


def _retry(uri: str, known_tag: str | None, buffer: _Buffer) -> str | None:
    """Download a file, again after a failure that may pass. Return its tag."""
    from urllib3 import Retry  # noqa: PLC0415

    is_http = uri.lower().startswith(("http://", "https://"))
    download = _download_by_http if is_http else _download_by_fsspec
    retry = Retry(
        RETRIES,
        backoff_factor=BACKOFF_SECONDS,
        backoff_jitter=BACKOFF_SECONDS,
        retry_after_max=MAX_RETRY_AFTER_SECONDS,
    )
    while True:
        try:
            return download(uri, known_tag, buffer)
        except _TransientError as error:
            if not retry.total:
                raise
            retry = retry.increment(error=error)
            retry.sleep(error.response)


def _download_by_http(uri: str, known_tag: str | None, buffer: _Buffer) -> str | None:
    import requests  # noqa: PLC0415
    from urllib3.exceptions import HTTPError  # noqa: PLC0415

    headers = {"Accept-Encoding": "identity"}
    if known_tag:
        is_date = not known_tag.startswith(('"', "W/"))
        headers["If-Modified-Since" if is_date else "If-None-Match"] = known_tag
    timeout = CONNECT_SECONDS, READ_SECONDS
    with requests.Session() as session:
        if uri.lower().startswith("https:"):
            del session.adapters["http://"]  # no redirect may leave TLS
        try:
            with session.get(
                uri, headers=headers, stream=True, timeout=timeout
            ) as response:
                _check_status(response, known_tag)
                length = response.headers.get("Content-Length", "")
                buffer.begin(int(length) if length.isdecimal() else None)
                for chunk in response.iter_content(CHUNK_BYTES):
                    buffer.write(chunk)
        except (requests.RequestException, HTTPError, ValueError) as error:
            raise _http_fault(error) from error
    return response.headers.get("ETag") or response.headers.get("Last-Modified")


def _check_status(response: "requests.Response", known_tag: str | None) -> None:
    status = response.status_code
    if known_tag and status == HTTPStatus.NOT_MODIFIED:
        raise UnchangedError
    if status in RETRIED or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        error = _TransientError(f"the store answers {status}")
        error.response = response.raw
        raise error
    if status != HTTPStatus.OK:
        raise StoreError(f"the store answers {status}")


def _http_fault(error: Exception) -> StoreError | _TransientError:
    """Return what to raise instead of an error that may quote a signature."""
    from requests import exceptions as kinds  # noqa: PLC0415

    if isinstance(error, kinds.InvalidSchema):
        return StoreError("it is redirected to an address that is not safe")
    cause: BaseException = error
    while deeper := cause.__cause__ or cause.__context__:
        cause = deeper
    fault = getattr(cause, "strerror", None) or type(cause).__name__
    broken = kinds.ConnectionError, kinds.Timeout, kinds.ChunkedEncodingError
    if isinstance(error, broken) and not isinstance(error, kinds.SSLError):
        return _TransientError(fault)
    return StoreError(fault)


def _download_by_fsspec(uri: str, known_tag: str | None, buffer: _Buffer) -> str | None:
    import ftplib  # noqa: PLC0415
    import socket  # noqa: PLC0415

    lost = ConnectionError, TimeoutError, EOFError, socket.gaierror, ftplib.error_temp
    # gcsfs would request the type of the bucket, which needs another permission
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    try:
        system, path = _open_system(uri)
        info, tag = system.info(path), str(system.ukey(path))
        if info["type"] != "file":
            raise StoreError("it is a folder")
        if tag == known_tag:
            raise UnchangedError
        buffer.begin(info["size"])
        if system.protocol == "ftp":  # would open one transfer for each block
            system.get_file(path, buffer)
        else:
            with system.open(path) as file:
                while chunk := file.read(CHUNK_BYTES):
                    buffer.write(chunk)
    except ImportError as error:
        raise StoreError(f"it needs a package: {INSTALL} ({error})") from error
    except FileNotFoundError as error:
        raise StoreError("there is no such file") from error
    except lost as error:
        raise _TransientError(str(error) or "the connection broke") from error
    if buffer.size not in {None, buffer.tell()}:
        raise _TransientError(f"{buffer.tell()} of {buffer.size} bytes arrived")
    return tag


def _open_system(uri: str) -> tuple[Any, str]:
    """Return fsspec's file system for a URI, and the path in it."""
    import fsspec  # noqa: PLC0415

    parts = urlsplit(uri)
    if parts.scheme != "ftp":
        system, path = fsspec.url_to_fs(uri)
        return system, path
    system = fsspec.filesystem(
        "ftp",
        host=parts.hostname,
        port=parts.port or 21,
        username=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        timeout=READ_SECONDS,
    )
    path = unquote(parts.path).removeprefix("/")  # %2F leads out of the login folder
    return system, posixpath.join(system.ftp.pwd(), path)
