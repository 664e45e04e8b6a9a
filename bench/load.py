"""Measure the service beside others: `python -m bench.load`.

    python -m bench.load                      beside FastAPI, twice; 4 minutes
    python -m bench.load --all                beside every rival; 15 minutes
    python -m bench.load --only LitServe "Ray Serve"

Every rival has a duel with us in each round. A server is started afresh, a sample of
its answers is checked, it is warmed, loaded by wrk with 1, 8 and 32 connections that
stay open, and stopped; then the other one, with the same bytes. Who comes first changes
from round to round. Server and wrk share the machine's cores. A load of which over 1 %
fails is void. The first run takes longer: pip makes each rival an environment.

Prints a table, writes `load.json` and `load.png`. Needs Debian's `wrk`; Linux only.
"""

import argparse
import ctypes
import json
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
from typing import Any

import requests
from tqdm import tqdm

from bench.entrants import ENVIRONMENTS, HERE, RIVALS, SHARED, USUAL, Rival, install
from bench.kinds import BUSY, Kind, make_kinds
from bench.results import draw, summarise, table
from bench.service import OURS, ROOT, StartError
from bench.turn import LOAD_SECONDS, load, loop, serving
from service.settings import usable_cores

ROUNDS, ROUNDS_OF_ALL = 4, 3
LOOP, LOOP_KIND = "a loop, no HTTP", "png raw"  # the ceiling
SET_CHILD_SUBREAPER = 36  # prctl(2)
OUR_PACKAGES = ("flask", "gunicorn", "torch", *SHARED)

Json = dict[str, Any]


def duel(name: str, turn: int, kinds: dict[str, Kind], folder: Path) -> Iterator[Json]:
    """Load us and a rival right after another; a fault of one ends only its part."""
    chosen = choose(name, kinds)
    for side in ("us", "them") if turn % 2 == 0 else ("them", "us"):
        about = {"round": turn, "rival": name, "side": side}
        try:
            for found in load_side(name, side, chosen, folder):
                yield about | found
        except (StartError, requests.RequestException) as error:
            yield about | {"fault": str(error)}


def choose(name: str, kinds: dict[str, Kind]) -> dict[str, Kind]:
    """Choose what is sent in a duel."""
    if name == LOOP:
        return {LOOP_KIND: kinds[LOOP_KIND]._replace(levels=(BUSY,))}
    return {kind: kinds[kind] for kind in RIVALS[name].kinds}


def load_side(
    name: str, side: str, kinds: dict[str, Kind], folder: Path
) -> Iterator[Json]:
    """Load one side of a duel."""
    if side == "us":
        with serving(OURS, ROOT, next(iter(kinds.values()))):
            yield from load(kinds, folder)
    elif name == LOOP:
        about = {"workload": kinds[LOOP_KIND].workload, "kind": LOOP_KIND}
        yield about | {"connections": BUSY} | loop(folder / LOOP_KIND)
    else:
        yield from load_rival(RIVALS[name], kinds, folder)


def load_rival(rival: Rival, kinds: dict[str, Kind], folder: Path) -> Iterator[Json]:
    """Load a rival, which has a home that is thrown away."""
    program, *arguments = rival.command.split()
    path = ENVIRONMENTS / rival.environment / "bin" / program
    command = [str(path) if rival.environment else sys.executable, *arguments]
    kinds = {
        name: kind._replace(path=rival.paths.get(name, kind.path))
        for name, kind in kinds.items()
    }
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as home:
        variables = {
            "MODEL": str(ROOT / "model.bin"),
            "PYTHONPATH": str(HERE / "rivals"),
            "HOME": home,
            "TMPDIR": home,
            "RAY_TMPDIR": home,
        } | rival.variables
        with serving(command, Path(home), next(iter(kinds.values())), **variables):
            yield from load(kinds, folder)


def contest(names: list[str], rounds: int) -> list[Json]:
    """Have all duels, round after round; show on a terminal what is going on."""
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        folder, kinds = Path(temporary), make_kinds()
        for name, kind in kinds.items():
            write(folder / name, kind.bodies)
        count = sum(
            len(kind.levels) for name in names for kind in choose(name, kinds).values()
        )
        with tqdm(total=2 * rounds * count, unit="load") as bar:
            for turn in range(rounds):
                for name in names:
                    bar.set_description(f"round {turn + 1}, {name}")
                    for one in duel(name, turn, kinds, folder):
                        found.append(one)
                        bar.update()
                        if one.get("is_void") or "fault" in one:
                            bar.write(f"not counted: {one}")
    return found


def write(folder: Path, bodies: list[bytes]) -> None:
    """Put bodies where wrk finds them."""
    folder.mkdir()
    paths = [folder / str(index) for index in range(len(bodies))]
    for path, body in zip(paths, bodies, strict=True):
        path.write_bytes(body)
    (folder / "list").write_text("\n".join(map(str, paths)))


def prepare(names: list[str]) -> dict[str, dict[str, str]]:
    """Make the environments of rivals; tell the versions, leave out who has none."""
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
                print(f"{name} has {package} {theirs}, we {ours[package]}")
    return versions


def machine() -> Json:
    """Tell where it was measured."""
    processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "processor": processor[1] if processor else platform.machine(),
        "cores": usable_cores(),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--all", action="store_true", help="every rival")
    chosen.add_argument("--only", nargs="+", choices=RIVALS, metavar="NAME")
    parser.add_argument("--rounds", type=int, help="4, with --all 3")
    parser.add_argument("--output", type=Path, default=ROOT / "report", metavar="DIR")
    options = parser.parse_args()
    options.names = options.only or list(RIVALS if options.all else USUAL)
    options.rounds = options.rounds or (ROUNDS_OF_ALL if options.all else ROUNDS)
    return options


def main() -> None:
    """Measure, print the table, write the files."""
    options = parse_options()
    if not shutil.which("wrk"):
        sys.exit("load: it needs wrk: apt-get install wrk")
    ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    versions = prepare(options.names)
    names = [name for name in options.names if RIVALS[name].environment in versions]
    loads = contest([*names, LOOP], options.rounds)
    rows = summarise([one for one in loads if "fault" not in one])
    print(table(rows))
    options.output.mkdir(parents=True, exist_ok=True)
    about = {"machine": machine(), "seconds": LOAD_SECONDS, "versions": versions}
    text = json.dumps(about | {"rows": rows, "loads": loads}, indent=1)
    (options.output / "load.json").write_text(f"{text}\n")
    draw(options.output / "load.png", rows)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("load: stopped")
