"""What the log of decisions tells, word for word and settled."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from openfl_aio.aggregator.closing import AggregatedMetric
from openfl_aio.aggregator.past import (
    Accepted,
    LocalMetric,
    Past,
    accept_line,
    close_line,
    quit_line,
    read_lines,
    round_line,
    settle,
)

NAMES = st.sampled_from(["one", "two", "Zoë"])
TASKS = st.sampled_from(["train", "validate"])
TAGS = st.lists(st.sampled_from(["metric", "validate_agg", "one"]), max_size=2).map(tuple)
VALUES = st.floats(allow_nan=False, width=32)
LOCAL = st.lists(st.builds(LocalMetric, st.sampled_from(["acc", "loss"]), TAGS, VALUES), max_size=2).map(tuple)
OF_ROUND = st.lists(st.builds(AggregatedMetric, TASKS, st.sampled_from(["acc", "loss"]), TAGS, VALUES), max_size=3)


@st.composite
def logs(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the lines of a federation, and how many there were when each of its rounds was over."""
    lines: list[dict[str, Any]] = []
    ends = []
    for number in range(draw(st.integers(0, 5))):
        results = draw(st.lists(st.tuples(NAMES, TASKS), unique=True, max_size=4))
        lines += [accept_line(Accepted(number, by, task, draw(LOCAL))) for by, task in results]
        lines.append(close_line(number, results))
        lines.append(round_line(number, draw(OF_ROUND)))
        ends.append(len(lines))
    lines += [quit_line(name) for name in draw(st.lists(NAMES, unique=True))]
    return lines, ends


def written(lines: list[Any]) -> list[Any]:
    """Return what a file gives back."""
    found: list[Any] = json.loads(json.dumps(lines))
    return found


def told(past: Past) -> tuple[Any, ...]:
    """Return what a restart in any round makes of the log."""
    events = [event for event in past.events if not isinstance(event, Accepted) or event.metrics]
    return events, past.rounds, past.quits


@settings(deadline=None)
@given(logs(), st.data())
def test_settled_lines_tell_what_a_restart_needs(log: tuple[list[Any], list[int]], data: st.DataObject) -> None:
    lines, ends = log
    short: list[Any] = []
    done = settled = 0
    # the log grows, and is settled behind some of its rounds
    for number, end in enumerate(ends):
        short += written(lines[done:end])
        done = end
        if data.draw(st.booleans()):
            settled = number + 1
            short = written(settle(short, before_round=settled))
            assert told(read_lines(short)) == told(read_lines(lines[:end]))
    short += written(lines[done:])
    current = data.draw(st.integers(settled, 6))
    short = written(settle(short, before_round=current))
    found, whole = read_lines(short), read_lines(lines)
    assert told(found) == told(whole)
    assert settle(short, before_round=current) == short
    for number in range(current, 6):
        assert found.closed.get(number) == whole.closed.get(number)
        assert found.accepted.get(number) == whole.accepted.get(number)
    assert bool(found.events) == (bool(whole.rounds) or bool(whole.events))


def test_a_settled_round_is_one_line() -> None:
    lines: list[Any] = []
    for number in range(3):
        for by in ("one", "two"):
            lines.append(accept_line(Accepted(number, by, "train")))
            lines.append(accept_line(Accepted(number, by, "validate", (LocalMetric("acc", ("metric", by), 0.5),))))
        lines.append(close_line(number, [(by, task) for task in ("train", "validate") for by in ("one", "two")]))
        lines.append(round_line(number, [AggregatedMetric("validate", "acc", ("metric",), 0.25)]))
    assert settle(lines, before_round=0) == lines
    short = settle(lines, before_round=2)
    assert short[6:8] == [{"settled": 1, "events": [[0, 0.5], [1, 0.5], [2, 0.25]]}, lines[12]]
    assert short[7:] == lines[12:]
    assert settle(settle(lines, before_round=1), before_round=2) == short


def test_lines_of_a_later_program_and_values_that_are_no_numbers_stay() -> None:
    odd = {"later": 1}
    lines = [odd, accept_line(Accepted(0, "one", "a", (LocalMetric("x", (), math.inf),))), round_line(0, []), odd]
    short = written(settle(lines, before_round=1))
    assert [line for line in short if "later" in line] == [odd, odd]
    assert read_lines(short).events == [Accepted(0, "one", "a", (LocalMetric("x", (), math.inf),)), (0, ())]


def test_what_comes_behind_a_later_round_stays_in_its_place() -> None:
    """A round that was played again after its checkpoint was lost stands behind lines of the next one."""
    metric = (LocalMetric("acc", ("metric",), 0.5),)
    lines = [accept_line(Accepted(number, "one", "a", metric)) for number in (0, 1, 0, 2)]
    short = settle(lines, before_round=1)
    assert short[2:] == lines[1:]
    assert told(read_lines(settle(lines, before_round=3))) == told(read_lines(lines))
