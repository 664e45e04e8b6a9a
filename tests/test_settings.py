"""Settings come from the environment, checked."""

from pathlib import Path

import pytest

import predict
from service import settings


def test_defaults() -> None:
    assert settings.read()["MAX_CONTENT_LENGTH"] == 32 * 1024**2
    assert settings.read()["MODEL_URI"].endswith("model.bin")


def test_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASK_MAX_CONTENT_LENGTH", "1000")
    monkeypatch.setenv("FLASK_MODEL_URI", "123")
    assert settings.read()["MAX_CONTENT_LENGTH"] == 1000
    assert settings.read()["MODEL_URI"] == "123"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MODEL_URI", ""),
        ("MODEL_URI", "  "),
        ("MAX_CONTENT_LENGTH", ""),
        ("MAX_CONTENT_LENGTH", "0"),
        ("MAX_CONTENT_LENGTH", "-1"),
        ("MAX_CONTENT_LENGTH", "32MB"),
        ("MAX_CONTENT_LENGTH", "null"),
        ("MODEL_SHA256", ""),
        ("MODEL_SHA256", "a" * 63),
        ("MODEL_SHA256", "g" * 64),
        ("LOG_LEVEL", "loud"),
        ("PREDICTION_LOG", ""),
        ("PREDICTION_LOG", "/dev/null/record"),
    ],
)
def test_a_wrong_value_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"FLASK_{name}", value)
    with pytest.raises(settings.SettingError, match=f"FLASK_{name}='{value}'"):
        settings.read()


@pytest.mark.parametrize(
    "name", ["API_KEYS", "API_KEY__NEW", "APP_KEY", "TESTING", "SECRET_KEY"]
)
def test_what_is_no_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"FLASK_{name}", "1")
    with pytest.raises(settings.SettingError, match=f"FLASK_{name} is none"):
        settings.read()


def test_flask_debug_has_no_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASK_DEBUG", "1")
    monkeypatch.setenv("FLASK_APP", "predict")
    assert not predict.start()[0].debug


def test_a_sha256_is_read_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.read()["MODEL_SHA256"] is None
    monkeypatch.setenv("FLASK_MODEL_SHA256", "AB" * 32)
    assert settings.read()["MODEL_SHA256"] == "ab" * 32


@pytest.mark.parametrize("value", ["", "one,,two", "one,", "\x7f", "schlüssel"])
def test_a_wrong_key_is_not_shown(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("FLASK_API_KEY", value)
    with pytest.raises(settings.SettingError, match=r"^FLASK_API_KEY holds an empty"):
        settings.read()


def test_keys_are_split_and_stay_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASK_API_KEY", "123, null")
    assert settings.read()["API_KEY"] == [b"123", b"null"]


def test_the_folder_of_the_record_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FLASK_PREDICTION_LOG", str(tmp_path / "a" / "b"))
    assert settings.read()["PREDICTION_LOG"].is_dir()
