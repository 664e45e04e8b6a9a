"""Metrics of many processes, counted in memory that they share."""

import subprocess
import sys

import pytest
from conftest import ROOT

# what gunicorn's master does, in a process of its own: it changes prometheus_client
FORKS = """
import os
import sys
from service import counting

{change}
counting.share(1)
from service import observe

for number in range({workers}):
    slot = counting.take()
    if os.fork() == 0:
        observe.MODEL.labels("fashion", "1").set(1)
        observe.count_predictions("fashion", [{{"class": str(number % {classes})}}])
        observe.count_request("/ping", 200, 0.01)
        os._exit(0)
    _, status = os.wait()
    assert status == 0
    if {ends}:
        counting.fold(slot)
sys.stdout.write(observe.exposition()[0].decode())
"""


def exposition_after(change: str = "", **parts: object) -> str:
    code = FORKS.format(change=change, **parts)
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout


def test_counts_of_200_workers_in_a_row_are_kept() -> None:
    text = exposition_after(workers=200, classes=10, ends=True)
    assert 'classifier_requests_total{route="/ping",status="200"} 200.0' in text
    assert 'classifier_request_seconds_count{route="/ping"} 200.0' in text
    assert text.count('"fashion"} 20.0') == 10  # of each class
    assert "classifier_model_info{" not in text  # none of them serves


def test_counts_of_workers_side_by_side_are_sums() -> None:
    text = exposition_after(workers=19, classes=10, ends=False)
    assert 'classifier_requests_total{route="/ping",status="200"} 19.0' in text
    assert 'classifier_model_info{name="fashion",version="1"} 1.0' in text


@pytest.mark.parametrize(
    ("change", "workers"),
    [("", 20), ('counting.CAPACITY["counter"] = 64', 1)],
    ids=["too many workers", "too many labels"],
)
def test_without_room_workers_go_on_and_metrics_are_absent(
    change: str, workers: int
) -> None:
    assert exposition_after(change, workers=workers, classes=10, ends=False) == ""
