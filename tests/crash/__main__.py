"""Kill our own servers at named failpoints and at random times, and judge whether what they answered holds.

``python -m tests.crash [--cycles 150] [--seconds N] [--seed N] [--only CASE …] [--bounded] [--folder FOLDER] [--list]``

Each case is a federation of real processes on the loopback: first played without a death, which gives what must come out
and the names of the failpoints, then again with a server that is killed and started anew. The cases go round until there
were so many deaths (cycles) and every failpoint that is known was one. The exit code is 1 if any promise was broken.
"""

from __future__ import annotations

import argparse
import logging
import secrets
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import anyio

from tests.crash.catalogue import CASES, Case
from tests.crash.checker import Reference
from tests.crash.measures import disk_of_rounds, restart
from tests.crash.session import Played, play
from tests.crash.table import heading, row
from tests.crash.targets import Targets

DEATHS = 8  # of one federation
MOST_ROUNDS = 12  # through all cases in search of failpoints that are hard to reach
BOUNDED_CYCLES = 24
BOUNDED_SECONDS = 60.0


class Session:
    """Plays cases, and remembers which failpoints there are and what each case must give."""

    def __init__(self, folder: Path, cases: list[Case], *, seed: int, say: Callable[[str], None]) -> None:
        self._folder = folder
        self.cases = cases
        self._seed = seed
        self._say = say
        self._references: dict[str, Reference | None] = {}
        self.targets = {director: Targets(f"{seed}:{director}") for director in (False, True)}
        self.played: list[Played] = []

    @property
    def cycles(self) -> int:
        """How many times a server was killed and started again."""
        return sum(played.kills for played in self.played)

    @property
    def left(self) -> list[str]:
        """The failpoints at which nothing was killed yet."""
        return [name for targets in self.targets.values() for name in targets.left]

    async def run(self, cycles: int, *, deaths: int, until: float) -> None:
        """Play every case without a death, then go round until ``cycles`` deaths or the time is up."""
        for case in self.cases:
            played = await self._play(case, 0)
            self._references[case.name] = None if case.cutoff is not None else played.reference
        for _ in range(MOST_ROUNDS):
            for case in self.cases:
                await self._play(case, deaths)
                if (self.cycles >= cycles and not self.left) or time.monotonic() > until:
                    return

    async def _play(self, case: Case, kills: int) -> Played:
        number = len(self.played)
        played = await play(
            case,
            self._folder / f"{number}",
            kills=kills,
            targets=self.targets[case.director],
            reference=self._references.get(case.name),
            seed=self._seed + number,
        )
        self.played.append(played)
        self._say(row(played))
        for text in played.broken:
            self._say(f"BROKEN {case.name} (in folder {number}): {text}")
        return played


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cycles", type=int, default=None, help="deaths, at least (150; 24 with --bounded)")
    parser.add_argument("--seconds", type=float, default=None, help="begin no federation later (60 with --bounded)")
    parser.add_argument("--deaths", type=int, default=DEATHS, help=f"of one federation ({DEATHS})")
    parser.add_argument("--seed", type=int, default=None, help="of all that is drawn; it is printed")
    parser.add_argument("--only", nargs="+", default=[], metavar="CASE", help="play only these cases, or measure only")
    parser.add_argument(
        "--bounded", action="store_true", help="a choice of cases, no measures, and an end after a minute"
    )
    parser.add_argument("--folder", type=Path, help="keep workspaces and logs in this folder")
    parser.add_argument("--list", action="store_true", help="list the cases and end")
    return parser.parse_args()


def chosen(options: argparse.Namespace) -> list[Case]:
    """Return the cases to play."""
    unknown = set(options.only) - {case.name for case in CASES} - set(MEASURES)
    if unknown:
        raise SystemExit(f"--only: unknown {', '.join(sorted(unknown))}; see --list")
    return [
        case for case in CASES if (case.name in options.only if options.only else case.bounded or not options.bounded)
    ]


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    options = arguments()
    if options.list:
        for name in (*(case.name for case in CASES), *MEASURES):
            say(name)
        return 0
    seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    cycles = options.cycles or (BOUNDED_CYCLES if options.bounded else 150)
    until = time.monotonic() + (options.seconds or (BOUNDED_SECONDS if options.bounded else 1e9))
    logging.getLogger("openfl_aio").setLevel(logging.ERROR)
    say(f"seed {seed}")
    with tempfile.TemporaryDirectory(prefix="crash-") as temporary:
        folder = options.folder or Path(temporary)
        session = Session(folder, chosen(options), seed=seed, say=say)
        failed = 0
        if session.cases:
            say(heading())
            anyio.run(lambda: session.run(cycles, deaths=options.deaths, until=until))
            failed = summary(session, every_point=not options.bounded)
        for name, measure in MEASURES.items():
            if name in options.only or not (options.only or options.bounded):
                anyio.run(measure, folder / name)
    return failed


async def measure_restart(folder: Path) -> None:
    """Measure how soon a server with 128 MiB of model and 16 uploads of it answers again."""
    found = await restart(folder)
    say(
        f"restart with a model of 128 MiB and the uploads of 16 collaborators ({found.folder_mib:.0f} MiB in files): first "
        f"answer after {_seconds(found.seconds)}; {_seconds(found.empty)} with nothing but the initial model"
    )


async def measure_disk(folder: Path) -> None:
    """Measure what 1,000 rounds leave on the disk."""
    found = await disk_of_rounds(folder)
    say("disk use of an aggregator with 2 collaborators, by round, KiB and files:")
    for number, (nbytes, files) in found.by_round.items():
        say(f"  {number:5} {nbytes / 1024:8.0f} {files:5}")


MEASURES = {"restart": measure_restart, "disk": measure_disk}


def _seconds(values: tuple[float, ...]) -> str:
    return f"{', '.join(f'{value:.2f}' for value in values)} s"


def summary(session: Session, *, every_point: bool) -> int:
    """Print what the whole session came to, and return the exit code.

    ``every_point``: say at which failpoints nobody died.
    """
    played = session.played
    known = sum(len(targets.known) for targets in session.targets.values())
    starts = sorted(life.first_answer for each in played for life in each.lives if life.first_answer is not None)
    broken = [each for each in played if each.broken]
    say(
        f"{session.cycles} deaths, {sum(each.at_points for each in played)} of them at {known - len(session.left)} of "
        f"{known} failpoints; {sum(each.answered for each in played)} uploads answered in {len(played)} federations"
    )
    for name in session.left if every_point else ():
        say(f"  nobody died at {name}")
    if starts:
        say(f"first answer after a start: {starts[len(starts) // 2]:.2f} s in the middle, {starts[-1]:.2f} s at most")
    say(f"{len(played) - len(broken)} of {len(played)} federations kept every promise")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
