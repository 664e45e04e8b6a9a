"""Every setting of the service: read once from the environment, checked at start.

gunicorn's master checks them before it forks, the app reads them after: one block
serves both. A wrong or empty value stops the start with one line.
"""

import os
import re
from collections.abc import Callable
from logging import DEBUG, ERROR, INFO, WARNING
from pathlib import Path
from typing import Any, NamedTuple

from flask import Config

OF_FLASK = re.compile("APP|DEBUG|ENV|ENV_FILE|RUN_.*|SKIP_DOTENV")  # its command's
PREFIX = "FLASK_"
LEVELS = {"debug": DEBUG, "info": INFO, "warning": WARNING, "error": ERROR}
HERE = Path(__file__).resolve().parent.parent


class SettingError(ValueError):
    """A setting with a value that cannot be right."""


def text(value: str) -> str:
    """Accept anything but nothing."""
    if not value.strip():
        raise ValueError("is empty")
    return value


def positive(value: str) -> int:
    """Accept a whole number above zero."""
    if not value.isdecimal() or int(value) == 0:
        raise ValueError("is not a whole number above 0")
    return int(value)


def level(value: str) -> int:
    """Accept the name of a log level."""
    if value.lower() not in LEVELS:
        raise ValueError(f"is none of {', '.join(LEVELS)}")
    return LEVELS[value.lower()]


def sha256(value: str) -> str:
    """Accept 64 hex digits, in any case."""
    if not re.fullmatch("[0-9a-fA-F]{64}", value):
        raise ValueError("is not a SHA-256 of 64 hex digits")
    return value.lower()


def folder(value: str) -> Path:
    """Accept a folder that can be written to, and make it if need be."""
    path = Path(text(value))
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot be made: {error.strerror}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise ValueError("cannot be written to")
    return path


def keys(value: str) -> list[bytes]:
    """Accept keys, parted by commas, each of characters that a header may bear."""
    found = [key.strip() for key in value.split(",")]
    if not all(key.isascii() and key.isprintable() and key for key in found):
        raise ValueError("holds an empty key or one that no header can bear")
    return [key.encode() for key in found]


class Setting(NamedTuple):
    """One setting: None stands for a setting that may be left unset."""

    default: str | None
    check: Callable[[str], Any]
    is_secret: bool = False


SETTINGS = {  # by name, without FLASK_
    "MODEL_URI": Setting(str(HERE / "model.bin"), text),  # path or URI of the model
    "MODEL_SHA256": Setting(None, sha256),  # of its file
    "MAX_CONTENT_LENGTH": Setting(str(32 * 1024**2), positive),  # bytes of a body
    "API_KEY": Setting(None, keys, is_secret=True),  # that requests must bear
    "LOG_LEVEL": Setting("info", level),  # of lines on standard output
    "PREDICTION_LOG": Setting(None, folder),  # that keeps a record of predictions
}


def read() -> dict[str, Any]:
    """Return every setting by name, converted. Raises `SettingError`."""
    # a slip of the pen must not leave a door open
    names = {n.removeprefix(PREFIX) for n in os.environ if n.startswith(PREFIX)}
    for name in sorted(names - SETTINGS.keys()):
        if not OF_FLASK.fullmatch(name):
            raise SettingError(f"{PREFIX}{name} is none of the settings")
    config = Config(HERE, {name: s.default for name, s in SETTINGS.items()})
    config.from_prefixed_env(loads=str)  # the default would parse values as JSON
    for name, setting in SETTINGS.items():
        value = config[name]
        if value is None:
            continue
        try:
            config[name] = setting.check(value)
        except ValueError as error:
            shown = "" if setting.is_secret else f"={value!r}"
            raise SettingError(f"{PREFIX}{name}{shown} {error}") from error
    return {name: config[name] for name in SETTINGS}
