"""One schedule from its seed to its verdict; in a module that other processes can import."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from openfl_aio.domain import Verdict
from tests.simulate.checker import expected, judge
from tests.simulate.directed import DIRECTOR, Directed, draw_directed
from tests.simulate.house import Directing, direct
from tests.simulate.schedule import Schedule, draw
from tests.simulate.verdict import judge_directed
from tests.simulate.world import Played, play

__all__ = ["Outcome", "drawn", "outcome_of", "outcome_of_directing", "seed_of", "simulate"]

DIRECTED_EVERY: Final = 5  # of so many seeds in a row the last is a director with its envoys


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one schedule. ``died`` counts servers, ``seconds`` are virtual ones, ``trace`` names what happened."""

    schedule: Schedule | Directed
    broken: tuple[str, ...]
    died: int
    answered: int
    seconds: float
    counted: int = 0
    attempts: int = 0
    envoys_died: int = 0
    stopped: int = 0
    refused: int = 0
    breaks: int = 0
    trace: str = ""

    @property
    def is_directed(self) -> bool:
        """Whether there was a director."""
        return isinstance(self.schedule, Directed)


def drawn(seed: int) -> Schedule | Directed:
    """Return the schedule of ``seed``."""
    return draw_directed(seed // DIRECTED_EVERY) if seed % DIRECTED_EVERY == DIRECTED_EVERY - 1 else draw(seed)


def seed_of(schedule: Schedule | Directed) -> int:
    """Return the seed of which `drawn` makes ``schedule``."""
    directed = isinstance(schedule, Directed)
    return schedule.seed * DIRECTED_EVERY + DIRECTED_EVERY - 1 if directed else schedule.seed


def simulate(seed: int) -> Outcome:
    """Play the schedule of ``seed`` and judge it."""
    logging.getLogger("openfl_aio").setLevel(logging.CRITICAL)
    schedule = drawn(seed)
    return outcome_of_directing(direct(schedule)) if isinstance(schedule, Directed) else outcome_of(play(schedule))


def outcome_of(played: Played) -> Outcome:
    """Judge what was played."""
    broken = [played.error] if played.error else judge(played, expected(played))
    return Outcome(
        schedule=played.schedule,
        broken=tuple(broken),
        died=played.died,
        answered=len(played.acks),
        counted=sum(ack.verdict is Verdict.ACCEPTED for ack in played.acks),
        attempts=played.attempts,
        seconds=played.seconds,
        stopped=played.stopped,
        refused=played.refused,
    )


def outcome_of_directing(played: Directing) -> Outcome:
    """Judge what was played with a director."""
    return Outcome(
        schedule=played.schedule,
        broken=tuple(judge_directed(played)),
        died=played.died.get(DIRECTOR, 0),
        answered=played.answered,
        seconds=played.seconds,
        envoys_died=sum(count for name, count in played.died.items() if name != DIRECTOR),
        stopped=played.stopped,
        breaks=played.breaks,
        trace=played.trace,
    )
