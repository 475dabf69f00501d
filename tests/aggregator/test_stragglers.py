from __future__ import annotations

import pytest

from openfl_aio.aggregator.stragglers import Cutoff, Percentage, WaitForAll, make_straggler_policy
from openfl_aio.config import StragglerConfig

ALL = {"a", "b", "c", "d"}


def test_wait_for_all() -> None:
    policy = make_straggler_policy(StragglerConfig())
    assert policy == WaitForAll()
    assert not policy.closes({"a"}, ALL, 0.0, 1e9)
    assert policy.closes(ALL, ALL, None, 0.0)
    assert policy.deadline(0.0) is None


@pytest.mark.parametrize(
    ("done", "started_at", "now", "closes"),
    [
        ({"a", "b"}, 1.0, 10.9, False),
        ({"a", "b"}, 1.0, 11.0, True),
        ({"a"}, 1.0, 11.0, False),
        ({"a", "b"}, None, 99.0, False),
        (ALL, None, 0.0, True),
    ],
)
def test_cutoff(done: set[str], started_at: float | None, now: float, closes: bool) -> None:
    policy = make_straggler_policy(StragglerConfig(kind="cutoff", cutoff_seconds=10, minimum_reporting=2))
    assert policy == Cutoff(10, 2)
    assert policy.closes(done, ALL, started_at, now) is closes
    assert policy.deadline(started_at) == (None if started_at is None else 11.0)


@pytest.mark.parametrize(
    ("share", "minimum", "done", "closes"),
    [(0.5, 1, 1, False), (0.5, 1, 2, True), (0.25, 2, 1, False), (1.0, 9, 4, True)],
)
def test_percentage(share: float, minimum: int, done: int, closes: bool) -> None:
    policy = make_straggler_policy(StragglerConfig(kind="percentage", percentage=share, minimum_reporting=minimum))
    assert policy == Percentage(share, minimum)
    assert policy.closes(set(sorted(ALL)[:done]), ALL, 0.0, 0.0) is closes
    assert policy.deadline(0.0) is None
