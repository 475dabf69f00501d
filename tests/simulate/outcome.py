"""One schedule from its seed to its verdict; in a module that other processes can import."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from openfl_aio.domain import Verdict
from tests.simulate.checker import expected, judge
from tests.simulate.schedule import Schedule, draw
from tests.simulate.world import Played, play

__all__ = ["Outcome", "outcome_of", "simulate"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one schedule. ``seconds`` are virtual ones."""

    schedule: Schedule
    broken: tuple[str, ...]
    died: int
    answered: int
    counted: int
    attempts: int
    seconds: float


def simulate(seed: int) -> Outcome:
    """Play the schedule of ``seed`` and judge it."""
    logging.getLogger("openfl_aio").setLevel(logging.CRITICAL)
    return outcome_of(play(draw(seed)))


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
    )
