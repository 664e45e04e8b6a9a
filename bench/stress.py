"""Measure what the service survives: `python -m bench.stress TRIAL`.

    kill            kill -9 of a worker every 2 s for 30 s; 35 s
    reload          SIGHUP with another model every 5 s for 30 s; 35 s
    stop            SIGTERM under load; 10 s
    max-requests    workers that are replaced after 500 requests; 35 s
    idle-stop       SIGTERM beside 20 idle connections; 5 s
    slow            500 senders of a byte a second, three kinds; 2 minutes
    unfinished      640 connections with an unfinished request, five kinds; 1.5 minutes
    hostile [WORDS] requests made to be costly, all or those named so; 9 minutes at most
    overload        4 x the capacity for 20 s; photos, then small PNGs; 1.5 minutes
    endure          100,000 mixed requests, and the memory they leave behind; 3 minutes

Prints each figure with its bound; the exit status is 1 if one is missed. Traffic goes
to the loopback address only. Linux only.
"""

import argparse
import resource
import sys
from collections.abc import Callable

from bench.crowds import slow, unfinished
from bench.faults import idle_stop, kill, max_requests, reload, stop
from bench.hostile import hostile
from bench.overload import endure, overload

TRIALS: dict[str, Callable[[], bool]] = {
    trial.__name__.replace("_", "-"): trial
    for trial in (kill, reload, stop, max_requests, idle_stop)
} | {trial.__name__: trial for trial in (slow, unfinished, overload, endure)}


def main() -> bool:
    """Run the trial of the command line; return whether its bounds hold."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.stress",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("trial", choices=[*TRIALS, hostile.__name__])
    parser.add_argument("words", nargs="?", default="", help="of hostile requests")
    options = parser.parse_args()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))  # a file a connection
    if options.trial == hostile.__name__:
        return hostile(options.words)
    return TRIALS[options.trial]()


if __name__ == "__main__":
    try:
        sys.exit(0 if main() else 1)
    except KeyboardInterrupt:
        sys.exit(130)
