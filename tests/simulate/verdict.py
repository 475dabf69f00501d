"""What must hold of a director's schedule, whatever went wrong in it: each experiment is judged as one that was killed.

The reference is the same experiment where nothing goes wrong. Besides, all experiments have finished, everybody who
followed one knows that, every envoy waits for more, and nothing is left on the disk of federations that are over.
"""

from __future__ import annotations

from functools import cache

from tests.crash.checker import Reference, judge, reference_of
from tests.simulate.directed import Directed
from tests.simulate.house import Directing, direct

__all__ = ["judge_directed"]


@cache
def _reference(schedule: Directed) -> Reference:
    played = direct(schedule)
    if played.error or played.broken:
        raise AssertionError(f"without faults: {played.error} {played.broken}")
    (history,) = played.histories.values()
    return reference_of(history)


def judge_directed(played: Directing) -> list[str]:
    """Return every promise that was broken, in words."""
    if played.error:
        return [played.error]
    reference = _reference(played.schedule.without_faults())
    broken = list(played.broken)
    for name, history in played.histories.items():
        broken += [f"{name}: {text}" for text in judge(history, reference, died=frozenset(played.died))]
    return broken
