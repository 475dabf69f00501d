"""Every failpoint gets its turn, also those that are seldom reached."""

from __future__ import annotations

from collections import Counter

from tests.crash.server import Life
from tests.crash.targets import FRUITLESS, Targets


def drawing() -> Targets:
    """Return targets that have given up looking for what is new."""
    targets = Targets("seed", seldom=0.0)
    for _ in range(FRUITLESS):
        assert targets.note(frozenset(), Life(code=0)) is None
    return targets


def drawn(targets: Targets, *, first: bool = True) -> tuple[str, int]:
    target = targets.next(first=first)
    assert isinstance(target, tuple)
    return target


def test_nothing_is_known_before_the_first_life() -> None:
    assert Targets("seed").next() is None


def test_every_failpoint_is_a_target_before_one_is_again() -> None:
    targets = drawing()
    targets.learn(Life(reached=Counter({"a": 1, "b": 9, "c": 2})))
    for _ in range(3):
        target = drawn(targets)
        assert 1 <= target[1] <= targets.known[target[0]]
        assert targets.note(target, Life(last=target[0], code=-9))
    assert set(targets.killed) == {"a", "b", "c"}
    assert targets.left == []


def test_what_was_missed_waits_for_others_and_is_then_tried_at_its_first_time() -> None:
    targets = drawing()
    targets.learn(Life(reached=Counter({"a": 9})))
    assert not targets.note(("a", 7), Life(last="z", code=-9))
    targets.learn(Life(reached=Counter({"b": 1})))
    assert targets.next() == ("b", 1)
    for _ in range(2):
        assert targets.note(("b", 1), Life(last="b", code=-9))
    assert targets.next() == ("a", 1)
    assert not targets.note(("a", 1), Life(last="a", code=0))  # it ended there by itself
    assert targets.left == ["a"]


def test_what_is_reached_only_after_another_death_is_led_up_to() -> None:
    targets = drawing()
    targets.learn(Life(reached=Counter({"torn": 1})))
    targets.learn(Life(reached=Counter({"mended": 1})), after=("torn", 1))
    for name in ("torn", "torn"):
        assert targets.note((name, 1), Life(last=name, code=-9))
    assert not targets.note(("mended", 1), Life(last="end", code=0))
    assert [targets.next(), targets.next()] == [("torn", 1), ("mended", 1)]


def test_what_only_a_first_life_reaches_is_no_target_for_another() -> None:
    targets = drawing()
    targets.learn(Life(reached=Counter({"made": 1, "worked": 8})))
    targets.learn(Life(reached=Counter({"worked": 2})), first=False)
    assert {drawn(targets, first=False) for _ in range(20)} <= {("worked", 1), ("worked", 2)}
    assert {drawn(targets)[0] for _ in range(40)} == {"made", "worked"}


def test_first_every_life_ends_at_something_new() -> None:
    targets = Targets("seed", seldom=0.0)
    assert targets.next() is None
    targets.learn(Life(reached=Counter({"a": 1, "b": 3})))
    assert targets.next() == frozenset()
    life = Life(reached=Counter({"a": 1}), last="a", code=-9)
    assert targets.note(frozenset(), life) == ("a", 1)
    new = Life(reached=Counter({"a": 1, "never seen": 2}), last="never seen", code=-9)
    assert targets.next() == frozenset({"a"})
    assert targets.note(frozenset({"a"}), new) == ("never seen", 2)
    assert targets.next() == frozenset({"a", "never seen"})
    for _ in range(FRUITLESS):
        assert targets.note(frozenset({"a", "never seen"}), Life(last="a", code=-9)) is None
    assert drawn(targets)[0] == "b"
