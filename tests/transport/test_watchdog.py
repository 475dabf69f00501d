"""Stalls of the event loop are measured, kept, and told without filling the log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import pytest

from openfl_aio.transport.watchdog import LoopStatistics, StallWatch


class Clock:
    """The loop's virtual time plus what `stall` has added to it."""

    def __init__(self) -> None:
        self.stalled = 0.0
        self.computed = 0.0

    def __call__(self) -> float:
        return asyncio.get_running_loop().time() + self.stalled

    async def stall(self, seconds: float, *, after: float = 1.0) -> None:
        """Let ``after`` seconds pass as they should, then stand still for ``seconds``, then let a timer run."""
        await asyncio.sleep(after)
        self.stalled += seconds
        self.computed += seconds / 2
        await asyncio.sleep(0.06)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(clock: Clock) -> StallWatch:
    return StallWatch(clock=clock, processor_clock=lambda: clock.computed)


async def test_a_loop_that_runs_on_time_has_no_stall(watch: StallWatch, caplog: pytest.LogCaptureFixture) -> None:
    async with watch:
        await asyncio.sleep(200)
        statistics = watch.statistics()
    assert statistics.longest_stall == pytest.approx(0.0, abs=1e-6)
    assert statistics.recent_stall == pytest.approx(0.0, abs=1e-6)
    assert statistics.stalls == 0
    assert caplog.messages == []


async def test_a_stall_is_measured_counted_and_told(
    watch: StallWatch, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with watch:
        await clock.stall(0.230)
    statistics = watch.statistics()
    assert 0.179 < statistics.longest_stall < 0.231
    assert statistics.recent_stall == statistics.longest_stall
    assert statistics.stalls == 1
    milliseconds = round(statistics.longest_stall * 1000)
    assert caplog.messages == [
        f"the event loop stood still for {milliseconds} ms; its thread computed for 115 ms since it last ran on time"
    ]
    assert repr(watch) == f"<StallWatch stopped, 1 stalls, longest {milliseconds} ms>"


async def test_a_short_delay_is_kept_and_no_stall(
    watch: StallWatch, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with watch:
        await clock.stall(0.09)
        statistics = watch.statistics()
    assert 0.039 < statistics.longest_stall < 0.091
    assert statistics.stalls == 0
    assert caplog.messages == []


async def test_recent_stalls_are_forgotten_and_the_longest_is_not(watch: StallWatch, clock: Clock) -> None:
    async with watch:
        await clock.stall(0.5)
        await clock.stall(0.3, after=30)
        await clock.stall(0.2, after=20)
        assert watch.statistics().recent_stall == pytest.approx(0.5, abs=0.051)
        await asyncio.sleep(15)
        assert watch.statistics().recent_stall == pytest.approx(0.3, abs=0.051)
        await asyncio.sleep(25)
        assert watch.statistics().recent_stall == pytest.approx(0.2, abs=0.051)
        await asyncio.sleep(60)
        statistics = watch.statistics()
    assert statistics.recent_stall == pytest.approx(0.0, abs=1e-6)
    assert statistics.longest_stall == pytest.approx(0.5, abs=0.051)
    assert statistics.stalls == 3


async def test_one_line_in_ten_seconds_tells_how_many_there_were(
    watch: StallWatch, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with watch:
        for _ in range(8):
            await clock.stall(0.2, after=0.5)
        await clock.stall(0.2, after=10)
    assert watch.statistics().stalls == 9
    assert len(caplog.messages) == 2
    assert caplog.messages[1].endswith("; 7 more such stalls since the last line")


@pytest.mark.parametrize("finish", [StallWatch.statistics, StallWatch.stop])
async def test_a_stall_that_has_only_just_ended_counts(
    watch: StallWatch, clock: Clock, finish: Callable[[StallWatch], object]
) -> None:
    watch.start()
    clock.stalled += 0.4
    finish(watch)
    statistics = watch.statistics()
    watch.stop()
    assert statistics.longest_stall == pytest.approx(0.35)
    assert statistics.stalls == 1


async def test_a_stopped_watch_has_no_timer_and_a_started_one_begins_anew(watch: StallWatch, clock: Clock) -> None:
    loop = asyncio.get_running_loop()
    watch.stop()
    watch.start()
    watch.start()
    await clock.stall(1.0)
    watch.stop()
    watch.stop()
    started = loop.time()
    clock.stalled += 5.0
    await asyncio.sleep(100)
    assert loop.time() - started == pytest.approx(100)
    assert watch.statistics().longest_stall == pytest.approx(1.0, abs=0.051)
    watch.start()
    assert watch.statistics() == LoopStatistics(longest_stall=0.0, recent_stall=0.0, stalls=0)
    watch.stop()


@pytest.mark.real_time
async def test_a_real_loop_is_measured(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "openfl_aio")
    async with StallWatch() as watch:
        await asyncio.sleep(0.2)
        time.sleep(0.4)  # noqa: ASYNC251 - what is watched for
        await asyncio.sleep(0.1)
        statistics = watch.statistics()
    assert statistics.stalls >= 1
    assert statistics.longest_stall >= 0.34
    assert any(message.startswith("the event loop stood still for ") for message in caplog.messages)
