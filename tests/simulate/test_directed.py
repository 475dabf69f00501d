"""Directors are played the same each time, and one that breaks a promise is found out."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace

import anyio
import pytest
from grpclib.exceptions import GRPCError, StreamTerminatedError

from openfl_aio.director.client import DirectorClient
from openfl_aio.director.records import Records
from openfl_aio.domain import ExperimentStatus, Metric
from openfl_aio.storage.storage import Storage
from openfl_aio.tensors.aggregation import KNOWN_AGGREGATIONS
from openfl_aio.wire import convert
from openfl_aio.wire.messages import director as messages
from tests.simulate.directed import DIRECTOR, Directed, draw_directed
from tests.simulate.house import Directing, direct
from tests.simulate.network import Cut, Links
from tests.simulate.outcome import DIRECTED_EVERY, drawn, seed_of
from tests.simulate.schedule import Death
from tests.simulate.verdict import judge_directed

BAD = Links(delay=0.5, breaks=0.7)
PROGRAM = """
from tests.simulate.directed import draw_directed
from tests.simulate.house import direct
print(direct(draw_directed(10)).trace)
"""


@pytest.fixture(autouse=True)
def no_blocking_calls() -> None:
    """What is done in threads elsewhere is done on the loop here."""


def played(schedule: Directed) -> Directing:
    directing = direct(schedule)
    assert judge_directed(directing) == []
    return directing


@pytest.mark.parametrize("seed", [6, 10, 11, 24])
def test_what_is_drawn_keeps_every_promise(seed: int) -> None:
    assert played(draw_directed(seed)).died


def test_a_schedule_is_the_same_each_time_and_in_each_process() -> None:
    schedule = draw_directed(10)
    first = direct(schedule)
    assert sum(first.died.values()) > 1
    assert direct(schedule).events == first.events
    # sets of names have another order there
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == first.trace


def test_seeds_in_a_row_have_every_function_and_every_fault() -> None:
    schedules = [draw_directed(seed) for seed in range(100)]
    assert {schedule.aggregation for schedule in schedules} == set(KNOWN_AGGREGATIONS)
    for has in ("deaths", "stops", "removes", "together", "delta_updates"):
        assert {bool(getattr(schedule, has)) for schedule in schedules} == {True, False}
    assert {cut.host for schedule in schedules for cut in schedule.links.cuts} >= {DIRECTOR, "site_0"}
    assert all(drawn(seed_of(schedule)) == schedule for schedule in schedules)
    assert sum(isinstance(drawn(seed), Directed) for seed in range(100)) == 100 // DIRECTED_EVERY


@pytest.mark.parametrize("step", range(1, 240, 17))
def test_a_director_dies_at_a_step_again_and_again(step: int) -> None:
    directing = played(Directed(3, sites=2, disk=0.01, deaths=((DIRECTOR, Death(step="step", count=step)),) * 3))
    assert directing.died[DIRECTOR] > 1


@pytest.mark.parametrize("step", range(1, 30, 5))
def test_an_envoy_that_dies_takes_up_its_work(step: int) -> None:
    directing = played(Directed(3, sites=2, disk=0.01, deaths=(("site_0", Death(step="step", count=step)),)))
    assert directing.died == {"site_0": 1, DIRECTOR: 1}


def test_a_director_that_is_stopped_tells_nobody_to_quit() -> None:
    directing = played(Directed(3, sites=2, rounds=3, links=BAD, stops=(6.0,) * 8))
    assert directing.stopped > 0


def test_who_is_cut_off_is_waited_for() -> None:
    directing = played(Directed(3, links=Links(delay=0.1, cuts=(Cut("site_1", 3, 60), Cut(DIRECTOR, 70, 100)))))
    assert directing.seconds > 60


def test_two_experiments_at_once_and_in_a_row() -> None:
    for together in (True, False):
        directing = played(Directed(3, sites=2, experiments=2, together=together, links=BAD))
        assert set(directing.histories) == {"experiment_0", "experiment_1"}


DYING = Directed(3, sites=2, disk=0.01, deaths=tuple((DIRECTOR, Death(step="step", count=n)) for n in (260, 130)))


def broken(schedule: Directed) -> str:
    return " ".join(judge_directed(direct(schedule)))


def test_a_director_that_forgets_its_experiments_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert broken(DYING) == ""

    async def nothing(records: Records) -> list[object]:
        return []

    monkeypatch.setattr(Records, "experiments", nothing)
    assert "NotFound" in broken(DYING)


def test_a_director_that_begins_its_rounds_anew_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def forget(storage: Storage, federations: object) -> None:
        await keep_federations(storage, ())

    keep_federations = Storage.keep_federations
    monkeypatch.setattr(Storage, "keep_federations", forget)
    assert broken(replace(DYING, deaths=((DIRECTOR, Death(step="step", count=330)),), rounds=3))


def test_a_director_that_forgets_the_metrics_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(records: Records, experiment: object, metrics: object) -> None:
        pass

    monkeypatch.setattr(Records, "save_metrics", nothing)
    assert "the log of metrics ended after 0 of" in broken(DYING)


def test_a_network_that_loses_the_end_of_a_stream_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frontend that takes a broken connection for the end of the metrics has not all of them."""

    async def once(client: DirectorClient, name: str) -> AsyncIterator[Metric]:
        request = messages.GetMetricStreamRequest(experiment_name=name)
        try:
            async for reply in client._director.get_metric_stream(request):
                yield convert.metric_from_proto(reply)
        except (OSError, StreamTerminatedError, GRPCError):
            while await client.get_experiment_status(name) is not ExperimentStatus.FINISHED:
                await anyio.sleep(1)

    monkeypatch.setattr(DirectorClient, "get_metric_stream", once)
    assert "the log of metrics ended after" in broken(DYING)
