"""The comparison with others is a fair one, as far as that can be seen without them."""

import shutil
from pathlib import Path

import pytest
from conftest import Server

from bench import kinds, load, turn
from bench.entrants import RIVALS
from bench.results import summarise
from bench.service import StartError


@pytest.fixture(scope="module")
def all_kinds() -> dict[str, kinds.Kind]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kinds, "PHOTOS", 2)
        return kinds.make_kinds()


@pytest.fixture
def ours(gunicorn: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn, "URL", gunicorn.url)


@pytest.mark.usefixtures("ours")
def test_we_answer_every_kind_of_request_rightly(
    all_kinds: dict[str, kinds.Kind],
) -> None:
    for kind in all_kinds.values():
        turn.check(kind)


@pytest.mark.usefixtures("ours")
def test_a_wrong_answer_is_seen(all_kinds: dict[str, kinds.Kind]) -> None:
    kind = all_kinds["png raw"]
    assert kind.classes
    wrong = kind._replace(classes=[[one[0] ^ 1] for one in kind.classes])
    with pytest.raises(StartError, match="sees"):
        turn.check(wrong)


def test_a_thousand_pictures_differ(all_kinds: dict[str, kinds.Kind]) -> None:
    for name, kind in all_kinds.items():
        if name.startswith("png"):
            assert len(set(kind.bodies)) == len(kind.bodies) == 1000


@pytest.mark.skipif(not shutil.which("wrk"), reason="there is no wrk")
@pytest.mark.usefixtures("ours")
def test_a_load_of_failures_is_void(
    all_kinds: dict[str, kinds.Kind], tmp_path: Path
) -> None:
    good = all_kinds["png raw"]
    bad = good._replace(bodies=[*good.bodies[:9], b"no picture"])
    for kind, is_void in ((good, False), (bad, True)):
        folder = tmp_path / str(is_void)
        load.write(folder, kind.bodies)
        assert turn.wrk(kind, folder, 2, 1)["is_void"] == is_void


def test_ratios_are_taken_in_a_round_and_void_loads_left_out() -> None:
    def one(turn: int, side: str, rate: float, *, is_void: bool = False) -> load.Json:
        about = {"workload": "w", "rival": "r", "kind": "k", "connections": 1}
        return about | {"round": turn, "side": side, "rate": rate, "is_void": is_void}

    rounds = [(100, 50), (10, 10), (9, 1)]
    loads = [
        one(turn, side, rate, is_void=rate == 1)
        for turn, pair in enumerate(rounds)
        for side, rate in zip(("us", "them"), pair, strict=True)
    ]
    [row] = summarise(loads)
    assert row["rounds"] == 2
    assert row["rate"] == {
        "us": (55, 10, 100),
        "them": (30, 10, 50),
        "ratio": (1.5, 1, 2),
    }


def test_every_rival_is_sent_what_there_is(all_kinds: dict[str, kinds.Kind]) -> None:
    for name in [*RIVALS, load.LOOP]:
        assert load.choose(name, all_kinds)
