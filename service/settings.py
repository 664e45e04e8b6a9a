"""Every setting of the service: read once from the environment, checked at start.

    >>> read().max_content_length
    33554432

gunicorn's master reads them before it forks, the app reads them after. A wrong, empty
or misspelt variable stops the start with one line that never shows a key.
"""

import logging
import math
import os
import re
import socket
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, PositiveInt, ValidationError
from pydantic.types import StringConstraints
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX = "FLASK_"
FLASK_OWN = re.compile("APP|DEBUG|ENV|ENV_FILE|RUN_.*|SKIP_DOTENV")  # of its command
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
ORIGIN = re.compile(r"\*|https?://[a-z0-9.:\[\]-]+")  # as browsers send it: no path
ROOT = Path(__file__).resolve().parent.parent
CGROUP = Path("/sys/fs/cgroup")


class SettingError(ValueError):
    """A setting with a value that cannot be right, or an unknown one."""


def to_level(name: str) -> int:
    """Return the log level with a name, in any case."""
    if name.lower() not in LEVELS:
        raise ValueError(f"must be one of {', '.join(LEVELS)}")
    return LEVELS[name.lower()]


def to_folder(name: str) -> Path:
    """Return a folder that can be written to; create it if there is none."""
    if not name.strip():
        raise ValueError("must name a folder")
    path = Path(name)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot be created: {error.strerror}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise ValueError("cannot be written to")
    return path


def to_keys(text: str) -> list[bytes]:
    """Return keys separated by commas; each must fit into a header."""
    keys = [key.strip() for key in text.split(",")]
    if not all(key and key.isascii() and key.isprintable() for key in keys):
        raise ValueError("contains an empty key or one that does not fit into a header")
    return [key.encode() for key in keys]


def to_origins(text: str) -> list[str]:
    """Return origins of web pages separated by commas; `*` is any."""
    origins = [origin.strip() for origin in text.split(",")]
    if not all(map(ORIGIN.fullmatch, origins)):
        raise ValueError("must be * or origins as https://shop.example, by commas")
    return origins


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-fA-F]{64}$", to_lower=True)]
Level = Annotated[int, BeforeValidator(to_level)]
Folder = Annotated[Path, BeforeValidator(to_folder)]
Keys = Annotated[list[bytes], NoDecode, BeforeValidator(to_keys)]
Origins = Annotated[list[str], NoDecode, BeforeValidator(to_origins)]


class Settings(BaseSettings):
    """The settings, each from the variable of its name with the prefix FLASK_."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, use_attribute_docstrings=True, validate_default=False
    )

    model_uri: Text = str(ROOT / "model.bin")
    """Path or URI of the model."""

    model_sha256: Sha256 | None = None
    """SHA-256 of the model's file, 64 hex digits."""

    max_content_length: PositiveInt = 32 * 1024**2
    """Largest body of a request, in bytes."""

    api_key: Keys | None = Field(default=None, repr=False)  # secret: part of no text
    """Keys, separated by commas, one of which a request must carry."""

    cors_origins: Origins | None = None
    """Origins of other sites' pages that may send requests; * for any."""

    log_level: Level = logging.INFO
    """Least severe lines to log: debug, info, warning or error."""

    prediction_log: Folder | None = None
    """Folder to record predictions in."""


def read() -> Settings:
    """Return the settings of the environment. Raises `SettingError`."""
    check_names()
    try:
        return Settings()
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        name = str(fault["loc"][0])
        is_secret = not Settings.model_fields[name].repr
        value = "" if is_secret else f"={fault['input']!r}"
        reason = fault["msg"].removeprefix("Value error, ")
        raise SettingError(f"{PREFIX}{name.upper()}{value}: {reason}") from None


def check_names() -> None:
    """Refuse unknown names: a misspelt FLASK_API_KEY would turn authentication off."""
    for variable in sorted(os.environ):
        name = variable.upper().removeprefix(PREFIX)
        is_ours = name != variable.upper() and not FLASK_OWN.fullmatch(name)
        if is_ours and name.lower() not in Settings.model_fields:
            raise SettingError(f"{variable} is not a setting")


def usable_cores() -> int:
    """Return the cores this process may use, by its affinity and its cgroup's quota."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, int(min(cores, quota(CGROUP))))


def addresses(port: str) -> list[str]:
    """Return where to listen to be reached by IPv6 and IPv4, or IPv4 if alone."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::", 0))
            is_ipv6_only = probe.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    except OSError:
        return [f"0.0.0.0:{port}"]
    return [f"[::]:{port}", f"0.0.0.0:{port}"] if is_ipv6_only else [f"[::]:{port}"]


def with_mapped(networks: str) -> str:
    """Return networks, those of IPv4 also as an IPv6 socket names their addresses."""
    names = [name.strip() for name in networks.split(",")]
    for name in names.copy():
        address, _, bits = name.partition("/")
        if "." in address and ":" not in address and (bits or "32").isdecimal():
            names.append(f"::ffff:{address}/{96 + int(bits or 32)}")
    return ",".join(names)


def quota(cgroup: Path) -> float:
    """Return the cores that a cgroup allows, for instance 1.5; infinity if it has none.

    Version 2 keeps both numbers in one file, version 1 in two (kernel documentation,
    admin-guide/cgroup-v2.rst and scheduler/sched-bwc.rst).
    """
    v2 = [cgroup / "cpu.max"]
    v1 = [cgroup / "cpu" / f"cpu.cfs_{name}_us" for name in ("quota", "period")]
    for files in (v2, v1):
        try:
            limit, period = " ".join(file.read_text() for file in files).split()
        except (OSError, ValueError):
            continue
        if limit.isdecimal():  # not "max", not -1
            return int(limit) / int(period)
    return math.inf
