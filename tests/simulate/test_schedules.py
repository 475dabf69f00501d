"""Schedules are played the same each time, and a server that breaks a promise is found out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from openfl_aio.aggregator.ledger import Ledger
from openfl_aio.aggregator.service import Aggregator
from openfl_aio.config import StragglerConfig
from openfl_aio.storage.federations import MemoryFederation
from openfl_aio.tensors.aggregation import KNOWN_AGGREGATIONS
from tests.simulate.disk import Disk
from tests.simulate.outcome import outcome_of
from tests.simulate.schedule import STEPS, Death, Network, Schedule, draw
from tests.simulate.world import play

BAD = Network(lose_request=0.2, lose_reply=0.2, repeat=0.1, cut=0.1, delay=0.1)


@pytest.mark.parametrize("seed", range(1, 9))
def test_what_is_drawn_keeps_every_promise(seed: int) -> None:
    assert outcome_of(play(draw(seed))).broken == ()


def test_a_schedule_is_the_same_each_time() -> None:
    for seed in (2, 6):
        first, second = (play(draw(seed)) for _ in range(2))
        assert first.died > 0
        assert first.history.calls == second.history.calls
        assert (first.acks, first.lines, first.seconds) == (second.acks, second.lines, second.seconds)


def test_seeds_in_a_row_have_every_function_and_many_sites_now_and_then() -> None:
    drawn = [draw(seed) for seed in range(100)]
    assert {schedule.aggregation for schedule in drawn} == set(KNOWN_AGGREGATIONS)
    many = [schedule for schedule in drawn if schedule.sites == 71]
    assert len(many) == 4
    assert all(schedule.dropout == 0.08 and not schedule.waits_for_all for schedule in many)
    assert {death.step for schedule in drawn for death in schedule.deaths} == {"", *STEPS}
    assert {death.stops for schedule in drawn for death in schedule.deaths} == {True, False}
    assert any(schedule.full for schedule in drawn)
    assert {schedule.durability for schedule in drawn} == {"process", "power"}


@pytest.mark.parametrize("step", STEPS)
def test_a_server_dies_at_every_step(step: str) -> None:
    played = play(Schedule(3, deaths=(Death(step=step, count=1),), network=BAD, disk=0.01))
    assert (played.died, played.lives) == (1, 2)
    assert outcome_of(played).broken == ()


STOPPED = Schedule(3, deaths=(Death(seconds=2, stops=True), Death(seconds=4, stops=True)), network=BAD, disk=0.01)


def test_a_server_that_is_stopped_and_comes_back_tells_nobody_to_quit(monkeypatch: pytest.MonkeyPatch) -> None:
    played = play(STOPPED)
    assert (played.stopped, played.lives) == (2, 3)
    assert outcome_of(played).broken == ()

    async def forget(aggregator: Aggregator) -> None:
        await aggregator._ledger.forget()

    monkeypatch.setattr(Aggregator, "_leave", forget)
    assert broken(STOPPED)


@pytest.mark.parametrize("begin", [0.0, 1.0, 3.0])
def test_a_full_disk_holds_everybody_up_and_no_more(begin: float) -> None:
    played = play(Schedule(3, full=((begin, begin + 40),), network=BAD, disk=0.01))
    assert played.refused > 0
    assert played.seconds > 40
    assert outcome_of(played).broken == ()


def broken(schedule: Schedule) -> str:
    return " ".join(outcome_of(play(schedule)).broken)


DYING = Schedule(5, network=BAD, disk=0.01, deaths=(Death(step="committed", count=9), Death(step="thread", count=2)))


def test_a_disk_that_loses_what_was_acknowledged_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert broken(DYING) == ""
    monkeypatch.setattr(Disk, "note_kept", lambda disk, durable, lose: disk._not_durable.append(lose))
    assert "was lost" in broken(replace(DYING, durability="power"))


def test_a_log_without_its_checkpoints_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def save(store: MemoryFederation, checkpoint: object, *, durable: bool) -> None:
        pass

    monkeypatch.setattr(MemoryFederation, "save", save)
    assert broken(replace(DYING, deaths=(Death(step="commit", count=15),)))


def test_a_restart_that_counts_anew_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a round is closed without that being written, a restart closes it with others."""

    async def note_closed(ledger: Ledger, closed: object) -> None:
        pass

    monkeypatch.setattr(Ledger, "note_closed", note_closed)
    schedule = replace(DYING, stragglers=StragglerConfig(kind="percentage", percentage=0.6), dropout=0.3)
    assert "was never closed" in broken(schedule)
