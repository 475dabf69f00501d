from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.attacks.catalogue import CALM, Attack
from tests.attacks.verdicts import Promises, Seen, judge

KIND = {"calls": 250, "good": 100.0, "p50": 3.0, "p99": 20.0, "failures": {}}
RECORD = {"connections": 3, "endings": {"goaway:11": 2, "alive": 1}, "outcomes": {}, "longest_life": 0.2, "sent": 9}
ATTACK = Attack("rapid_reset", "", lambda stage: None, ends=CALM)


def seen(**changes: Any) -> Seen:
    return replace(Seen("rapid_reset", "plaintext", 5.0, {"kept": KIND, "fresh": KIND}, attacker=RECORD), **changes)


def broken(attack: Attack = ATTACK, **changes: Any) -> list[str]:
    return [text.partition(":")[0] for text in judge(attack, seen(**changes), Promises())]


def test_a_server_that_holds_breaks_nothing() -> None:
    assert broken() == []


@pytest.mark.parametrize(
    ("changes", "promise"),
    [
        ({"honest": {"kept": KIND | {"good": 98.9}, "fresh": KIND}}, "R1"),
        ({"honest": {"kept": KIND | {"p99": 251.0}, "fresh": KIND}}, "R1"),
        ({"honest": {"kept": KIND, "fresh": KIND | {"p99": 501.0}}}, "R1"),
        ({"honest": {"kept": KIND, "fresh": KIND | {"calls": 0, "good": None}}}, "R1"),
        ({"alive": False}, "R1"),
        ({"memory_peak": 65.0}, "R2"),
        ({"memory_after": 17.0}, "R2"),
        ({"stall": 0.101}, "R3"),
        ({"attacker": RECORD | {"endings": {"alive": 1}}}, "R4"),
        ({"attacker": RECORD | {"endings": {"closed": 3, "goaway:11": 1}}}, "R4"),
        ({"attacker": RECORD | {"longest_life": 1.1}}, "R4"),
        ({"log_bytes": 300_000}, "R18"),
        ({"traceback": True}, "R18"),
    ],
)
def test_each_promise_can_be_broken(changes: dict[str, Any], promise: str) -> None:
    assert broken(**changes) == [promise]


def test_calls_must_end_as_they_may_and_some_must_end() -> None:
    attack = replace(ATTACK, ends=(), outcomes=("status:3",))
    assert broken(attack, attacker=RECORD | {"outcomes": {"status:3": 5, "rst:0": 5}}) == []
    assert broken(attack, attacker=RECORD | {"outcomes": {"status:3": 5, "status:2": 1}}) == ["R8"]
    assert broken(attack, attacker=RECORD | {"outcomes": {"rst:0": 5}}) == ["R8"]


def test_where_both_are_right_either_will_do() -> None:
    attack = replace(ATTACK, outcomes=("status:3",))
    assert broken(attack) == []
    alive = RECORD | {"endings": {"alive": 1}, "longest_life": 5.0, "outcomes": {"status:3": 9}}
    assert broken(attack, attacker=alive) == []


def test_calls_that_cannot_be_served_at_all_are_not_counted() -> None:
    none = KIND | {"calls": 0, "good": None}
    assert broken(replace(ATTACK, honest=("kept",)), honest={"kept": KIND, "fresh": none}) == []


def test_what_the_machine_adds_is_not_held_against_the_server() -> None:
    slow = {"kept": KIND | {"p99": 300.0}, "fresh": KIND, "late": KIND | {"p99": 30.0}}
    assert broken(honest=slow, starved=0.021) == []
    assert broken(honest=slow, starved=0.019) == ["R1"]


@pytest.mark.parametrize(
    ("broken", "only_times"),
    [
        (["R1: p99 kept 300 ms", "R3: stall 120 ms"], True),
        (["R1: 98 % of kept calls"], False),
        (["R2: +99 MiB"], False),
    ],
)
def test_times_are_told_from_the_rest(broken: list[str], only_times: bool) -> None:
    assert seen(broken=broken).only_times is only_times


def test_slack_is_for_times_and_not_for_memory() -> None:
    slow = seen(stall=0.3, memory_peak=65.0)
    assert judge(ATTACK, slow, Promises(slack=4)) == ["R2: +65 MiB"]
