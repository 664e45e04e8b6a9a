"""Settings come from the environment, checked."""

import pytest

import settings


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
    ],
)
def test_a_wrong_value_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"FLASK_{name}", value)
    with pytest.raises(settings.SettingError, match=f"FLASK_{name}='{value}'"):
        settings.read()
