"""Budgets hold over any stretch of time, and a log line that is dropped is counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openfl_aio.transport.budgets import LogLimiter, PeerLogLimiter, TokenBucket


def test_a_bucket_lets_its_burst_go_at_once_and_then_its_rate() -> None:
    bucket = TokenBucket(200, 33.0, now=1_000.0)
    assert sum(bucket.take(1_000.0) for _ in range(300)) == 200
    assert sum(bucket.take(1_001.0) for _ in range(300)) == 33
    assert sum(bucket.take(1_000.0 + 60.0) for _ in range(300)) == 200


def test_a_long_silence_saves_no_more_than_the_burst() -> None:
    bucket = TokenBucket(10, 5.0, now=0.0)
    assert sum(bucket.take(1e6) for _ in range(50)) == 10


def test_a_refusal_takes_nothing() -> None:
    bucket = TokenBucket(10, 1.0, now=0.0)
    assert not bucket.take(0.0, 11)
    assert bucket.take(0.0, 10)
    assert not bucket.take(0.5, 1)
    assert bucket.take(0.5, 0.5)


def test_tokens_are_given_back_up_to_the_burst() -> None:
    bucket = TokenBucket(10, 1.0, now=0.0)
    bucket.take(0.0, 4)
    bucket.give(3)
    assert bucket.take(0.0, 9)
    assert not bucket.take(0.0)
    bucket.give(100)
    assert bucket.take(0.0, 10)
    assert not bucket.take(0.0)


def test_its_repr_tells_how_full_it_is() -> None:
    bucket = TokenBucket(200, 33.0, now=0.0)
    bucket.take(0.0, 5)
    assert repr(bucket) == "<TokenBucket 195.0 of 200, 33 a second>"


@given(
    burst=st.integers(1, 50),
    rate=st.floats(0.1, 100.0),
    steps=st.lists(st.tuples(st.floats(0.0, 3.0), st.integers(1, 20)), max_size=60),
)
def test_no_pattern_takes_more_than_burst_and_rate_allow(
    burst: int, rate: float, steps: list[tuple[float, int]]
) -> None:
    now, taken = 0.0, []
    bucket = TokenBucket(burst, rate, now)
    for pause, tokens in steps:
        now += pause
        if bucket.take(now, tokens):
            taken.append((now, tokens))
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            seconds = taken[last][0] - taken[first][0]
            assert sum(tokens for _, tokens in taken[first : last + 1]) <= burst + rate * seconds + 1e-6


def test_ten_lines_a_second_are_logged_and_the_others_counted() -> None:
    limiter = LogLimiter()
    assert [limiter.allow(5.0) for _ in range(10)] == [0] * 10
    assert [limiter.allow(5.0 + i / 100) for i in range(90)] == [None] * 90
    assert limiter.suppressed == 90
    assert limiter.allow(6.0) == 90
    assert limiter.allow(6.0) == 0


@pytest.mark.parametrize("seconds", [0.5, 10.0])
def test_a_period_begins_with_its_first_line(seconds: float) -> None:
    limiter = LogLimiter(lines=1, seconds=seconds)
    assert limiter.allow(3.0) == 0
    assert limiter.allow(3.0 + seconds * 0.99) is None
    assert limiter.allow(3.0 + seconds * 1.5) == 1
    assert limiter.allow(3.0 + seconds * 2.4) is None
    assert repr(limiter) == f"<LogLimiter 1 lines in {seconds:g} s, 1 suppressed>"


def test_each_peer_has_lines_of_its_own_and_all_of_them_a_limit() -> None:
    limiter = PeerLogLimiter(lines=2, all_lines=5, peers=3)
    assert [limiter.allow("one", 0.0) for _ in range(4)] == [0, 0, None, None]
    assert [limiter.allow("two", 0.0) for _ in range(2)] == [0, None]  # the fifth was the last of all
    assert limiter.left_out(0.5) == []
    assert limiter.left_out(1.0) == [("one", 2), ("two", 1)]
    assert limiter.left_out(1.0) == []


def test_peers_that_were_heard_of_longest_ago_are_forgotten() -> None:
    limiter = PeerLogLimiter(lines=1, peers=2)
    for peer in ("one", "one", "two", "one", "three"):
        limiter.allow(peer, 0.0)
    assert limiter.left_out(1.0) == [("one", 2)]
    assert repr(limiter) == "<PeerLogLimiter of 2 peers, 1 lines a second each>"
