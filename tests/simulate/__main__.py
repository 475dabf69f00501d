"""Simulate federations on virtual time, with faults that follow from a seed, and judge what came of each.

Four of five are an aggregator and its collaborators, the fifth a director with its envoys and frontends.

``python -m tests.simulate [--schedules 1000] [--seed N] [--only-seed N] [--processes N] [--bounded]``

Schedule number n of a session has the seed N + n, and is the same whenever and wherever it is played:
``--only-seed`` plays one and prints all that its clients saw. The exit code is 1 if any promise was broken.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import secrets
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Final

from tests.crash.history import Call
from tests.simulate.directed import Directed
from tests.simulate.house import direct
from tests.simulate.outcome import Outcome, drawn, outcome_of, outcome_of_directing, seed_of, simulate
from tests.simulate.schedule import Schedule
from tests.simulate.world import play

SCHEDULES: Final = 1000
BOUNDED_SCHEDULES: Final = 200
BOUNDED_SECONDS: Final = 50.0
PLAYED_BY_ONE: Final = 100  # schedules; then another process goes on: those who died in them leave files open


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--schedules", type=int, default=None, help=f"how many ({SCHEDULES})")
    parser.add_argument("--seed", type=int, default=None, help="of the first; it is printed")
    parser.add_argument("--only-seed", type=int, default=None, help="play this one, and print its history")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="at once (one a processor)")
    parser.add_argument(
        "--bounded", action="store_true", help=f"{BOUNDED_SCHEDULES} schedules, or fewer that fit into a minute"
    )
    return parser.parse_args()


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    options = arguments()
    if options.only_seed is not None:
        return replay(options.only_seed)
    seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    count = options.schedules or (BOUNDED_SCHEDULES if options.bounded else SCHEDULES)
    say(f"seed {seed}")
    began = time.monotonic()
    until = began + BOUNDED_SECONDS if options.bounded else float("inf")
    outcomes = []
    # not forked: a child would begin with whatever this process has drawn and counted so far
    context = multiprocessing.get_context("spawn")
    batch = PLAYED_BY_ONE * options.processes
    for first in range(seed, seed + count, batch):
        if time.monotonic() > until:
            break
        # a pool a batch: one that replaces its processes may wait for ever for a new one (CPython issue 115634)
        with ProcessPoolExecutor(options.processes, mp_context=context) as pool:
            numbers = range(first, min(first + batch, seed + count))
            for future in as_completed([pool.submit(simulate, number) for number in numbers]):
                outcome = future.result()
                outcomes.append(outcome)
                for text in outcome.broken:
                    say(f"BROKEN {outcome.schedule}: {text}")
                if time.monotonic() > until:
                    pool.shutdown(cancel_futures=True)
                    break
    return summary(outcomes, time.monotonic() - began)


def replay(seed: int) -> int:
    """Play one schedule, print its history and what was broken, and return the exit code."""
    schedule = drawn(seed)
    say(str(schedule))
    if isinstance(schedule, Directed):
        directing = direct(schedule)
        for event in directing.events:
            say(event)
        outcome = outcome_of_directing(directing)
    else:
        played = play(schedule)
        for call in played.history.calls:
            say(line_of(call))
        outcome = outcome_of(played)
    for text in outcome.broken:
        say(f"BROKEN {text}")
    return summary([outcome])


def line_of(call: Call) -> str:
    """Return a line for a call of the history."""
    ended = "never" if call.ended is None else str(call.ended)
    return f"{call.began:6}-{ended:<6} {call.site:8} {call.what}: {call.seen}"


def summary(outcomes: list[Outcome], seconds: float | None = None) -> int:
    """Print what all came to, and return the exit code."""
    broken = [outcome for outcome in outcomes if outcome.broken]
    alone = [outcome for outcome in outcomes if not outcome.is_directed]
    directed = [outcome for outcome in outcomes if outcome.is_directed]
    kinds = Counter(outcome.schedule.stragglers.kind for outcome in alone if isinstance(outcome.schedule, Schedule))
    say(
        f"{len(alone)} aggregators ({', '.join(f'{kind} {count}' for kind, count in sorted(kinds.items()))}): "
        f"{sum(outcome.died for outcome in alone)} deaths and {sum(outcome.stopped for outcome in alone)} stops, "
        f"no room {sum(outcome.refused for outcome in alone)} times; "
        f"{sum(outcome.answered for outcome in alone)} uploads answered, "
        f"{sum(outcome.counted for outcome in alone)} of them accepted; at most "
        f"{max((outcome.attempts for outcome in alone), default=0)} attempts of a call"
    )
    say(
        f"{len(directed)} directors: {sum(outcome.died for outcome in directed)} deaths and "
        f"{sum(outcome.stopped for outcome in directed)} stops of theirs, "
        f"{sum(outcome.envoys_died for outcome in directed)} deaths of envoys, "
        f"{sum(outcome.breaks for outcome in directed)} connections broken; "
        f"{sum(outcome.answered for outcome in directed)} uploads answered"
    )
    say(
        f"{sum(outcome.seconds for outcome in outcomes) / 3600:.0f} hours of virtual time"
        + (f" in {seconds:.0f} s" if seconds is not None else "")
    )
    say(f"{len(outcomes) - len(broken)} of {len(outcomes)} schedules kept every promise")
    for outcome in broken:
        say(f"  again: python -m tests.simulate --only-seed {seed_of(outcome.schedule)}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
