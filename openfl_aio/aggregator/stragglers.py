"""When a round closes although somebody is missing. Time is an argument, in seconds of any monotonic clock.

`Cutoff` and `Percentage` are OpenFL 1.6's ``CutoffTimeBasedStragglerHandling`` and ``PercentageBasedStragglerHandling``
(``openfl.component.straggler_handling_functions``): the same settings close the same rounds, which
``tests/interop_openfl/test_stragglers.py`` compares. They differ where OpenFL's leave a round open for no reason: that
nobody is missing is always enough, a cutoff has passed at its very second, a share that divides is not rounded up by
binary arithmetic, and who was given no task is not waited for.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Protocol

from openfl_aio.config import StragglerConfig

__all__ = ["Cutoff", "Percentage", "StragglerPolicy", "WaitForAll", "make_straggler_policy"]


class StragglerPolicy(Protocol):
    """Decides from who is done, who was asked, when the first task was handed out and what time it is."""

    def closes(self, done: Set[str], asked: Set[str], started_at: float | None, now: float) -> bool:
        """Return whether the round may close now."""
        ...

    def deadline(self, started_at: float | None) -> float | None:
        """Return the time at which `closes` must be asked again without any report, or None."""
        ...


@dataclass(frozen=True, slots=True)
class WaitForAll:
    """A round closes when everybody who was asked is done."""

    def closes(self, done: Set[str], asked: Set[str], started_at: float | None, now: float) -> bool:
        """Return whether nobody is missing."""
        return done >= asked

    def deadline(self, started_at: float | None) -> float | None:
        """Return None: only reports close the round."""
        return None


@dataclass(frozen=True, slots=True)
class Cutoff:
    """Everybody until ``seconds`` after the first task handed out, then whoever is there if they are enough."""

    seconds: float
    minimum_reporting: int = 1

    def closes(self, done: Set[str], asked: Set[str], started_at: float | None, now: float) -> bool:
        """Return whether nobody is missing, or the cutoff has passed with enough reports."""
        if done >= asked:
            return True
        deadline = self.deadline(started_at)
        return deadline is not None and now >= deadline and len(done) >= self.minimum_reporting

    def deadline(self, started_at: float | None) -> float | None:
        """Return the cutoff, once the first task was handed out."""
        return None if started_at is None else started_at + self.seconds


@dataclass(frozen=True, slots=True)
class Percentage:
    """A round closes once ``share`` (0 to 1) of the collaborators are done, and ``minimum_reporting`` of them."""

    share: float
    minimum_reporting: int = 1

    def closes(self, done: Set[str], asked: Set[str], started_at: float | None, now: float) -> bool:
        """Return whether enough are done; that nobody is missing is always enough."""
        if done >= asked:
            return True
        # the small subtrahend undoes binary rounding, as in 0.7 * 10
        return len(done) >= self.share * len(asked) - 1e-9 and len(done) >= self.minimum_reporting

    def deadline(self, started_at: float | None) -> float | None:
        """Return None: only reports close the round."""
        return None


def make_straggler_policy(config: StragglerConfig) -> StragglerPolicy:
    """Build the policy that ``config`` describes."""
    if config.kind == "cutoff" and config.cutoff_seconds is not None:
        return Cutoff(config.cutoff_seconds, config.minimum_reporting)
    if config.kind == "percentage":
        return Percentage(config.percentage, config.minimum_reporting)
    return WaitForAll()
