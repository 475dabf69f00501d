"""The checker finds each kind of broken promise in what was played whole but for that one thing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from openfl_aio.config import StragglerConfig
from openfl_aio.domain import Verdict
from tests.crash.history import Model, Tasks
from tests.simulate.checker import MOST_ATTEMPTS, expected, judge
from tests.simulate.schedule import Schedule
from tests.simulate.world import Ack, Played, play

PLAIN = Schedule(1, rounds=2)
CUTOFF = Schedule(2, rounds=2, stragglers=StragglerConfig(kind="cutoff", cutoff_seconds=30), dropout=0.3, disk=0.01)


def find(played: Played, key: str) -> int:
    """Return where the first line of a kind is."""
    return next(at for at, line in enumerate(played.lines) if key in line)


def lost(played: Played) -> None:
    del played.lines[find(played, "accept")]


def accepted_twice(played: Played) -> None:
    played.lines.append(played.lines[find(played, "accept")])


def closed_twice(played: Played) -> None:
    played.lines.append(played.lines[find(played, "close")])


def never_closed(played: Played) -> None:
    del played.lines[find(played, "close")]


def not_counted(played: Played) -> None:
    at = find(played, "close")
    results = [result for result in played.lines[at]["results"] if result != ["site_1", "train"]]
    assert len(results) < len(played.lines[at]["results"])
    played.lines[at] = {**played.lines[at], "results": results}


def out_of_nothing(played: Played) -> None:
    at = find(played, "close")
    played.lines[at] = {**played.lines[at], "results": [*played.lines[at]["results"], ["nobody", "train"]]}


def not_written(played: Played) -> None:
    played.acks.append(Ack("site_0", 7, "train", Verdict.ACCEPTED))


def endless(played: Played) -> None:
    played.attempts = MOST_ATTEMPTS + 1


def left(played: Played) -> None:
    played.left_behind = True


def another_model(played: Played) -> None:
    played.history.note("reader", "model", Model("last", "other"))


def back(played: Played) -> None:
    played.history.note("site_0", "tasks", Tasks(0, ("train",)))


def no_quit(played: Played) -> None:
    for call in played.history.answered(Tasks):
        if call.site == "site_1" and isinstance(call.seen, Tasks) and call.seen.quit:
            call.seen = replace(call.seen, quit=False)


def hung(played: Played) -> None:
    played.error = "it did not end"


@pytest.mark.parametrize("schedule", [PLAIN, CUTOFF], ids=["waiting for all", "cutoff"])
def test_what_is_whole_is_found_whole(schedule: Schedule) -> None:
    played = play(schedule)
    assert judge(played, expected(played)) == []


@pytest.mark.parametrize(
    ("breaks", "text"),
    [
        (lost, "is not in the log"),
        (accepted_twice, "was accepted 2 times"),
        (closed_twice, "was closed twice"),
        (never_closed, "was never closed"),
        (not_counted, "and does not count"),
        (out_of_nothing, "was never accepted"),
        (not_written, "is not in the log"),
        (endless, "attempts, expected at most"),
        (left, "not all was forgotten"),
        (another_model, "the last model differs"),
        (back, "the round went back"),
        (no_quit, "was never told to quit"),
        (hung, "it did not end"),
    ],
)
def test_it_finds_what_is_broken(breaks: Callable[[Played], None], text: str) -> None:
    played = play(PLAIN)
    breaks(played)
    assert any(text in found for found in judge(played, expected(played)))


def test_where_a_clock_decides_the_model_is_that_of_whom_the_log_says_that_they_count() -> None:
    played = play(CUTOFF)
    assert any(Verdict.ACCEPTED is not ack.verdict for ack in played.acks), "nobody was late: choose another seed"
    not_counted(played)
    assert any("the last model differs" in text for text in judge(played, expected(played)))
