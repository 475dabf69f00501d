"""How long refusals wait and which are logged."""

from __future__ import annotations

from openfl_aio.transport.identity import Caller
from openfl_aio.transport.refusals import (
    ALL_LINES,
    BURST,
    FORGET_SECONDS,
    LINES,
    LONGEST_SECONDS,
    MAX_PEERS,
    MAX_WAITING,
    RATE,
    Refusals,
    peer_of,
)


def waits(refusals: Refusals, peer: str, now: float, *, impatient: bool = True) -> float:
    delay = refusals.delay(peer, now, impatient=impatient)
    if delay:
        refusals.end_wait(peer)
    return delay


def test_an_impatient_peer_waits_longer_each_time_and_others_do_not() -> None:
    refusals = Refusals()
    delays = [waits(refusals, "one", 10.0) for _ in range(20)]
    assert delays == sorted(delays)
    assert 0 < delays[0] < 1
    assert delays[-1] == LONGEST_SECONDS
    assert waits(refusals, "two", 10.0) == delays[0]


def test_who_was_not_refused_for_long_begins_anew() -> None:
    refusals = Refusals()
    first = waits(refusals, "one", 0.0)
    assert waits(refusals, "one", FORGET_SECONDS - 1) > first
    assert waits(refusals, "one", 2 * FORGET_SECONDS - 1) == first


def test_a_reason_is_new_once_for_each_peer_until_there_is_another() -> None:
    refusals = Refusals()
    assert [refusals.is_new("one", "too large", float(now)) for now in range(3)] == [True, False, False]
    assert refusals.is_new("two", "too large", 3.0)
    assert refusals.is_new("one", "too late", 3.0)
    assert refusals.is_new("one", "too large", 3.0)
    assert not refusals.is_new("one", "too large", 2 + FORGET_SECONDS)
    assert refusals.is_new("one", "too large", 2 + 2 * FORGET_SECONDS)


def test_others_wait_once_they_are_refused_often() -> None:
    refusals = Refusals()
    assert [waits(refusals, "one", 0.0, impatient=False) for _ in range(BURST)] == [0.0] * BURST
    assert waits(refusals, "one", 0.0, impatient=False) > 0
    later = [waits(refusals, "one", 1.0, impatient=False) for _ in range(int(RATE) + 1)]
    assert later[:-1] == [0.0] * int(RATE)
    assert later[-1] > 0


def test_what_waits_of_one_peer_is_bounded() -> None:
    refusals = Refusals()
    delays = [refusals.delay("one", 0.0, impatient=True) for _ in range(MAX_WAITING + 1)]
    assert all(delays[:-1])
    assert delays[-1] == 0.0
    refusals.end_wait("one")
    assert refusals.delay("one", 0.0, impatient=True) > 0


def test_as_many_peers_as_come_take_no_more_memory() -> None:
    refusals = Refusals()
    for number in range(MAX_PEERS + 100):
        refusals.delay(str(number), 0.0, impatient=True)
    assert len(refusals) == MAX_PEERS
    refusals.end_wait("0")  # it was forgotten


def test_a_flood_is_a_few_lines_and_a_sum() -> None:
    refusals = Refusals()
    assert [refusals.lines.allow("one", 0.0) for _ in range(1244)] == [0] * LINES + [None] * 1234
    assert refusals.lines.left_out(0.5) == []
    assert refusals.lines.left_out(1.0) == [("one", 1234)]
    assert refusals.lines.left_out(1.0) == []


def test_the_next_line_says_how_many_were_left_out() -> None:
    refusals = Refusals()
    for _ in range(LINES + 7):
        refusals.lines.allow("one", 0.0)
    assert refusals.lines.allow("one", 1.5) == 7


def test_many_peers_have_a_bound_together() -> None:
    refusals = Refusals()
    allowed = [refusals.lines.allow(str(number), 0.0) for number in range(ALL_LINES + 100)]
    assert allowed.count(None) == 100
    assert refusals.lines.allow("x", 1.5) == 0


def test_under_which_name_a_peer_is_counted() -> None:
    assert peer_of(Caller("one", authenticated=True), "10.0.0.1:5") == "'one'"
    assert peer_of(Caller("claimed", authenticated=False), "10.0.0.1:5") == "10.0.0.1"
    assert peer_of(None, "10.0.0.1:6") == "10.0.0.1"
    assert peer_of(None, "[2001:db8::1]:6") == peer_of(None, "[2001:db8::2]:7") == "2001:db8::/64"
    assert peer_of(None, "[2001:db8:0:1::1]:6") != peer_of(None, "[2001:db8::1]:6")
    assert peer_of(None, "[::ffff:10.0.0.1]:6") == "10.0.0.1"
    assert peer_of(None, "unknown") == "unknown"
