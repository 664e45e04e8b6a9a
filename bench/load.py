"""Measure the service beside others: `python -m bench.load`.

    python -m bench.load                      beside FastAPI, two ways; 5 minutes
    python -m bench.load --all                beside every rival; 25 minutes
    python -m bench.load --only LitServe "Ray Serve"
    python -m bench.load --model mine.bin --images mine/test    large photos alone

In each round ours and each rival are measured one right after the other, in an order
that alternates: the server is started, a sample of its answers is checked, it is warmed
up, loaded by wrk with 1, 8 and 32 connections that stay open, and stopped. Both get the
same bytes; server and wrk share the machine's cores. A load of which over 1 % fails is
void. A round in which a rival is half as fast as in its others is measured again. The
first run takes longer: pip makes each rival an environment.

Prints a table and the bounds, writes `load.json` and `load.png`; the exit status is 1
if a bound is missed. Needs Debian's `wrk`, and `haproxy` for Ray Serve; Linux only.
"""

import argparse
import ctypes
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import requests
from tqdm import tqdm

from bench.results import (
    LOOP,
    Json,
    check_bounds,
    draw,
    slow_rounds,
    summarise,
    table,
)
from bench.rivals import DEFAULT, ENVIRONMENTS, HERE, RIVALS, SHARED, Rival, install
from bench.service import ROOT, StartError, gunicorn
from bench.workloads import BUSY, LARGE, Workload, make_workloads, photo_workloads
from bench.wrk import LOAD_SECONDS, load, loop, serving
from model import artifact
from model.artifact import MODEL
from model.classifier import Classifier
from training.labelled import list_labelled

ROUNDS = 3
LOOP_WORKLOAD = "png raw"
SET_CHILD_SUBREAPER = 36  # prctl(2)
OUR_PACKAGES = ("flask", "gunicorn", "torch", *SHARED)


def measure_round(
    name: str, number: int, workloads: dict[str, Workload], folder: Path
) -> Iterator[Json]:
    """Load ours and a rival one after the other; a fault ends only its own part."""
    chosen = choose(name, workloads)
    for side in ("us", "them") if number % 2 == 0 else ("them", "us"):
        about = {"round": number, "rival": name, "side": side}
        try:
            for figures in load_side(name, side, chosen, folder):
                yield about | figures
        except (StartError, requests.RequestException) as error:
            yield about | {"fault": str(error)}


def choose(name: str, workloads: dict[str, Workload]) -> dict[str, Workload]:
    """Return what a rival and ours are sent."""
    if name == LOOP:
        workload = workloads[LOOP_WORKLOAD]
        return {LOOP_WORKLOAD: workload._replace(connections=(BUSY,))}
    names = RIVALS[name].workloads
    return {
        workload: workloads[workload] for workload in names if workload in workloads
    }


def load_side(
    name: str, side: str, workloads: dict[str, Workload], folder: Path
) -> Iterator[Json]:
    """Load ours, or a rival."""
    if side == "us":
        with serving(gunicorn(), ROOT, next(iter(workloads.values()))):
            yield from load(workloads, folder)
    elif name == LOOP:
        pictures = workloads[LOOP_WORKLOAD].pictures
        about = {"pictures": pictures, "workload": LOOP_WORKLOAD, "connections": BUSY}
        yield about | loop(folder / LOOP_WORKLOAD)
    else:
        yield from load_rival(RIVALS[name], workloads, folder)


def load_rival(
    rival: Rival, workloads: dict[str, Workload], folder: Path
) -> Iterator[Json]:
    """Load a rival, which has a temporary home folder."""
    program, *arguments = rival.command.split()
    path = ENVIRONMENTS / rival.environment / "bin" / program
    command = [str(path) if rival.environment else sys.executable, *arguments]
    workloads = {
        name: workload._replace(path=rival.paths.get(name, workload.path))
        for name, workload in workloads.items()
    }
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as home:
        variables = {
            "MODEL": os.environ["FLASK_MODEL_URI"],
            "PYTHONPATH": str(HERE),
            "HOME": home,
            "TMPDIR": home,
            "RAY_TMPDIR": home,
        } | rival.variables
        first = next(iter(workloads.values()))
        with serving(command, Path(home), first, **variables):
            yield from load(workloads, folder)


def measure(
    names: list[str], rounds: int, workloads: dict[str, Workload]
) -> list[Json]:
    """Measure all rounds beside all rivals, with a progress bar."""
    found = list[Json]()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, workload in workloads.items():
            write_bodies(folder / name, workload.bodies)
        count = sum(
            len(workload.connections)
            for name in names
            for workload in choose(name, workloads).values()
        )
        with tqdm(total=2 * rounds * count, unit="load", disable=None) as bar:

            def add_round(name: str, number: int) -> None:
                bar.set_description(f"round {number + 1}, {name}")
                for one in measure_round(name, number, workloads, folder):
                    found.append(one)
                    bar.update()
                    if one.get("is_void") or "fault" in one:
                        bar.write(f"not counted: {one}")

            for number in range(rounds):
                for name in names:
                    add_round(name, number)
            for name in names:
                for _ in range(rounds - 1):  # at most
                    slow = slow_rounds(found, name)
                    if not slow:
                        break
                    discard(found, name, slow[0])
                    add_round(name, slow[0])
    return found


def discard(loads: list[Json], name: str, number: int) -> None:
    """Mark the loads of a round beside a rival as not to be counted."""
    for one in loads:
        if (one["rival"], one["round"]) == (name, number):
            one["is_void"] = one["is_discarded"] = True


def write_bodies(folder: Path, bodies: list[bytes]) -> None:
    """Write bodies, and the list of their paths, for wrk."""
    folder.mkdir()
    paths = [folder / str(index) for index in range(len(bodies))]
    for path, body in zip(paths, bodies, strict=True):
        path.write_bytes(body)
    (folder / "list").write_text("\n".join(map(str, paths)))


def prepare(names: list[str]) -> dict[str, dict[str, str]]:
    """Make the rivals' environments; return the versions in those that were made."""
    ours = {package: version(package) for package in OUR_PACKAGES}
    versions = {"": ours}
    for name in names:
        environment = RIVALS[name].environment
        if environment in versions:
            continue
        print(f"{name}: its environment", file=sys.stderr)
        try:
            versions[environment] = install(environment)
        except (subprocess.CalledProcessError, OSError) as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        for package in SHARED:
            if versions[environment][package] != ours[package]:
                theirs = versions[environment][package]
                print(f"{name} has {package} {theirs}, ours {ours[package]}")
    return versions


def machine() -> Json:
    """Return what the machine is."""
    processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "processor": processor[1] if processor else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--all", action="store_true", help="every rival")
    chosen.add_argument("--only", nargs="+", choices=RIVALS, metavar="NAME")
    parser.add_argument("--model", type=Path, default=MODEL, help="(model.bin)")
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="of its classes, sent as large photos",
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="(3)")
    parser.add_argument("--output", type=Path, default=ROOT / "report", metavar="DIR")
    options = parser.parse_args()
    if options.model != MODEL and not options.images:
        parser.error("--model needs --images")
    options.names = options.only or list(RIVALS if options.all else DEFAULT)
    return options


def choose_workloads(options: argparse.Namespace) -> dict[str, Workload]:
    """Return what is sent; exits if no picture can be sent."""
    if not options.images:
        return make_workloads()
    try:
        files = list_labelled([options.images]).files
        np.random.default_rng(0).shuffle(files)  # of all classes
        classifier = Classifier(artifact.load(str(options.model)))
        return photo_workloads(classifier, files, f"{LARGE}, {classifier.name}")
    except (StartError, ValueError, OSError) as error:
        sys.exit(f"load: {error}")


def main() -> bool:
    """Measure, print the table, write the files; return whether the bounds hold."""
    options = parse_options()
    if not shutil.which("wrk"):
        sys.exit("load: it needs wrk: apt-get install wrk")
    os.environ["FLASK_MODEL_URI"] = str(options.model.resolve())
    workloads = choose_workloads(options)
    ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    versions = prepare(options.names)
    names = [name for name in options.names if RIVALS[name].environment in versions]
    if LOOP_WORKLOAD in workloads:
        names.append(LOOP)
    loads = measure(names, options.rounds, workloads)
    rows = summarise([one for one in loads if "fault" not in one])
    print(table(rows))
    discarded = {(x["rival"], x["round"]) for x in loads if "is_discarded" in x}
    print(f"rounds measured again, for the rival was half as fast: {len(discarded)}")
    options.output.mkdir(parents=True, exist_ok=True)
    about = {"machine": machine(), "seconds": LOAD_SECONDS, "versions": versions}
    text = json.dumps(about | {"rows": rows, "loads": loads}, indent=1)
    (options.output / "load.json").write_text(f"{text}\n")
    draw(options.output / "load.png", rows)
    return check_bounds(rows)


if __name__ == "__main__":
    try:
        sys.exit(0 if main() else 1)
    except KeyboardInterrupt:
        sys.exit("load: stopped")
