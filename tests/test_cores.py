"""How many cores are counted: no more than may be used."""

import math
import os
from pathlib import Path

import pytest

from model import cores


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
def test_cores_are_what_the_cgroup_allows(
    tmp_path: Path, files: dict[str, str], allowed: float
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cores.quota(tmp_path) == allowed


@pytest.mark.parametrize(
    ("affinity", "limit", "usable"),
    [(8, "300000", 3), (2, "300000", 2), (8, "50000", 1), (8, "max", 8)],
)
def test_cores_are_those_that_may_be_used(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    affinity: int,
    limit: str,
    usable: int,
) -> None:
    (tmp_path / "cpu.max").write_text(f"{limit} 100000")
    monkeypatch.setattr(cores, "CGROUP", tmp_path)
    here = range(affinity)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: here, raising=False)
    assert cores.usable_cores() == usable
