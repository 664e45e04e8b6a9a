"""Tasks for many rows run on all cores, and Ctrl-C stops them."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT

from synthetic.parallel import parallel_map


@pytest.mark.parametrize("count", [1, 50])
def test_results_keep_the_order_of_the_rows(count: int) -> None:
    rows = [(base, 2) for base in range(count)]
    assert list(parallel_map(pow, rows, "")) == [base**2 for base in range(count)]


def test_each_process_computes_in_one_thread() -> None:
    assert set(parallel_map(torch.get_num_threads, [()] * 4, "")) == {1}


@pytest.mark.parametrize("seconds", [0.0, 3.0], ids=["start", "work"])
def test_ctrl_c_shows_no_traceback_of_a_worker(seconds: float) -> None:
    code = (
        "import time; from synthetic.parallel import parallel_map;"
        " list(parallel_map(time.sleep, [(1,)] * 99, ''))"
    )
    command, pipe = [sys.executable, "-c", code], subprocess.PIPE
    with subprocess.Popen(
        command, cwd=ROOT, stderr=pipe, start_new_session=True
    ) as process:
        assert process.stderr is not None
        process.stderr.read(1)  # of the progress bar: workers are starting
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGINT)
        errors = process.stderr.read()
    assert process.returncode
    assert errors.count(b"Traceback") == 1  # of the main process
