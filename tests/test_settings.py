"""Settings come from the environment, checked."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from service import settings


def test_defaults() -> None:
    assert settings.read().max_content_length == 32 * 1024**2
    assert settings.read().model_uri.endswith("model.bin")
    assert settings.read().model_sha256 is None


def test_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASK_MAX_CONTENT_LENGTH", "1000")
    monkeypatch.setenv("FLASK_MODEL_URI", "123")
    monkeypatch.setenv("FLASK_MODEL_SHA256", "AB" * 32)
    assert settings.read().max_content_length == 1000
    assert settings.read().model_uri == "123"
    assert settings.read().model_sha256 == "ab" * 32


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
        ("CORS_ORIGINS", ""),
        ("CORS_ORIGINS", "https://shop.example/page"),
        ("CORS_ORIGINS", "https://shop.example,shop"),
        ("LOG_LEVEL", "loud"),
        ("PREDICTION_LOG", ""),
        ("PREDICTION_LOG", "/dev/null/record"),
    ],
)
def test_a_wrong_value_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"FLASK_{name}", value)
    with pytest.raises(settings.SettingError, match=f"^FLASK_{name}='{value}': .+$"):
        settings.read()


@pytest.mark.parametrize(
    "name", ["API_KEYS", "API_KEY__NEW", "APP_KEY", "TESTING", "SECRET_KEY"]
)
def test_an_unknown_setting_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"FLASK_{name}", "1")
    with pytest.raises(settings.SettingError, match=f"FLASK_{name} is not a setting"):
        settings.read()


def test_flask_debug_has_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASK_DEBUG", "1")
    monkeypatch.setenv("FLASK_APP", "predict")
    code = "import predict; assert not predict.app.debug"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_no_env_file_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("FLASK_MAX_CONTENT_LENGTH=1000\n")
    monkeypatch.chdir(tmp_path)
    assert settings.read().max_content_length == 32 * 1024**2


@pytest.mark.parametrize("value", ["", "one,,two", "one,", "\x7f", "schlüssel"])
def test_a_wrong_key_is_not_shown(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("FLASK_API_KEY", value)
    with pytest.raises(settings.SettingError, match=r"^FLASK_API_KEY: contains an emp"):
        settings.read()


def test_origins_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASK_CORS_ORIGINS", "https://a.example, http://[::1]:8000,*")
    origins = ["https://a.example", "http://[::1]:8000", "*"]
    assert settings.read().cors_origins == origins


def test_keys_are_split_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASK_API_KEY", "123, null")
    assert settings.read().api_key == [b"123", b"null"]
    assert "null" not in repr(settings.read())


def test_the_folder_of_the_record_is_created(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FLASK_PREDICTION_LOG", str(tmp_path / "a" / "b"))
    folder = settings.read().prediction_log
    assert folder is not None
    assert folder.is_dir()


@pytest.mark.parametrize(
    ("files", "allowed"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        (
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            math.inf,
        ),
        ({}, math.inf),
    ],
)
def test_the_quota_is_that_of_the_cgroup(
    tmp_path: Path, files: dict[str, str], allowed: float
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert settings.quota(tmp_path) == allowed


@pytest.mark.parametrize(
    ("affinity", "limit", "usable"),
    [(8, "300000", 3), (2, "300000", 2), (8, "50000", 1), (8, "max", 8)],
)
def test_the_quota_and_the_affinity_limit_the_workers(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    affinity: int,
    limit: str,
    usable: int,
) -> None:
    (tmp_path / "cpu.max").write_text(f"{limit} 100000")
    monkeypatch.setattr(settings, "CGROUP", tmp_path)
    cores = range(affinity)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores, raising=False)
    assert settings.usable_cores() == usable


def test_proxies_of_ipv4_are_trusted_on_a_socket_of_both_families() -> None:
    networks = settings.with_mapped("127.0.0.1, ::1,10.0.0.0/8,*").split(",")
    assert networks[:4] == ["127.0.0.1", "::1", "10.0.0.0/8", "*"]
    assert networks[4:] == ["::ffff:127.0.0.1/128", "::ffff:10.0.0.0/104"]
