"""Every setting of the service: read once from the environment, checked at start.

gunicorn's master checks them before it forks, the app reads them after: one block
serves both. A wrong or empty value stops the start with one line.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask import Config

HERE = Path(__file__).resolve().parent


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


# name without FLASK_: default, check
SETTINGS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "MODEL_URI": (str(HERE / "model.bin"), text),  # path of the model
    "MAX_CONTENT_LENGTH": (str(32 * 1024**2), positive),  # bytes of a request's body
}


def read() -> dict[str, Any]:
    """Return every setting by name, converted. Raises `SettingError`."""
    config = Config(HERE, {name: default for name, (default, _) in SETTINGS.items()})
    config.from_prefixed_env(loads=str)  # the default would parse values as JSON
    for name, (_, check) in SETTINGS.items():
        try:
            config[name] = check(config[name])
        except ValueError as error:
            raise SettingError(f"FLASK_{name}={config[name]!r} {error}") from error
    return dict(config)
