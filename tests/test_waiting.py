from __future__ import annotations

import asyncio
from contextlib import nullcontext

import anyio
import anyio.lowlevel
import pytest

from openfl_aio.waiting import Timers, Waiters, to_the_end


async def test_a_result_at_hand_is_returned_without_waiting() -> None:
    waiters: Waiters[str] = Waiters()
    assert await waiters.wait_for("key", lambda: 7, timeout=1) == 7
    assert len(waiters) == 0


async def test_a_notification_wakes_only_its_key() -> None:
    waiters: Waiters[str] = Waiters()
    values: dict[str, int] = {}
    woken: list[str] = []

    async def wait(key: str) -> None:
        await waiters.wait_for(key, lambda: values.get(key), timeout=None)
        woken.append(key)

    async with anyio.create_task_group() as group:
        group.start_soon(wait, "one")
        group.start_soon(wait, "two")
        await anyio.wait_all_tasks_blocked()
        assert len(waiters) == 2
        values.update(one=1, two=2)
        waiters.notify("one")
        await anyio.wait_all_tasks_blocked()
        assert woken == ["one"]
        waiters.notify_all()
    assert woken == ["one", "two"]
    assert len(waiters) == 0


async def test_a_false_alarm_parks_again_and_the_cap_ends_the_wait() -> None:
    waiters: Waiters[str] = Waiters()
    calls: list[float] = []
    start = anyio.current_time()

    def predicate() -> None:
        calls.append(anyio.current_time() - start)

    async with anyio.create_task_group() as group:
        group.start_soon(lambda: waiters.wait_for("key", predicate, timeout=45))
        await anyio.sleep(10)
        waiters.notify("key")
    assert [round(time) for time in calls] == [0, 10]
    assert round(anyio.current_time() - start) == 45
    assert len(waiters) == 0


async def test_caps_of_one_length_share_a_timer_and_leave_none_behind() -> None:
    waiters: Waiters[int] = Waiters()
    start, ended = anyio.current_time(), []

    async def wait(key: int, delay: float) -> None:
        await anyio.sleep(delay)
        await waiters.wait_for(key, lambda: None, timeout=45)
        ended.append((key, round(anyio.current_time() - start)))

    loop = asyncio.get_running_loop()
    async with anyio.create_task_group() as group:
        for key in range(100):
            group.start_soon(wait, key, key // 50)
        await anyio.sleep(2)
        assert len(waiters) == 100
        assert len(timers(loop)) == 1
        for key in range(50):
            waiters.notify(key)
        await anyio.sleep(20)
    assert sorted(ended) == [(key, 45 + key // 50) for key in range(100)]
    assert len(timers(loop)) == 0


async def test_a_wait_that_is_given_up_leaves_no_timer() -> None:
    waiters: Waiters[str] = Waiters()
    with anyio.move_on_after(1):
        await waiters.wait_for("key", lambda: None, timeout=45)
    assert len(waiters) == 0
    assert len(timers(asyncio.get_running_loop())) == 0


def timers(loop: asyncio.AbstractEventLoop) -> list[asyncio.TimerHandle]:
    scheduled: list[asyncio.TimerHandle] = loop._scheduled  # type: ignore[attr-defined]
    return [handle for handle in scheduled if not handle.cancelled() and "_fire" in repr(handle)]


class Machine:
    def __init__(self) -> None:
        self.deadlines: list[float] = []
        self.handled: list[float] = []

    def next_timer(self) -> float | None:
        return min(self.deadlines, default=None)

    def handle_timer(self, now: float) -> None:
        self.handled.append(now)
        self.deadlines = [deadline for deadline in self.deadlines if deadline > now]


async def test_timers_fire_when_due_and_follow_a_deadline_that_moves() -> None:
    machine = Machine()
    fired: list[float] = []
    timers = Timers(machine, lambda: fired.append(anyio.current_time()))
    start = anyio.current_time()
    async with anyio.create_task_group() as group:
        group.start_soon(timers.run)
        await anyio.wait_all_tasks_blocked()
        machine.deadlines = [start + 60]
        timers.moved()
        await anyio.wait_all_tasks_blocked()
        machine.deadlines = [start + 30, start + 60]
        timers.moved()
        await anyio.sleep(100)
        group.cancel_scope.cancel()
    assert [time - start for time in fired] == pytest.approx([30, 60], abs=0.1)


@pytest.mark.parametrize("by_task", [True, False], ids=["Task.cancel", "a scope"])
@pytest.mark.parametrize("fails", [True, False])
async def test_what_must_not_be_left_half_way_ends_before_its_caller_is_cancelled(by_task: bool, fails: bool) -> None:
    done: list[str] = []

    async def work() -> str:
        await anyio.sleep(1)
        done.append("work")
        if fails:
            raise ValueError("nobody is told")
        return "result"

    async def caller() -> None:
        try:
            await to_the_end(work())
        finally:
            done.append("caller")

    if by_task:
        task = asyncio.create_task(caller())
        for _ in range(2):
            await anyio.sleep(0.3)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        with anyio.move_on_after(0.5) as scope:
            with pytest.raises(ValueError, match="nobody") if fails else nullcontext():
                await caller()
            await anyio.lowlevel.checkpoint()
        assert scope.cancelled_caught
    assert done == ["work", "caller"]


async def test_what_came_to_its_end_is_returned_or_raised() -> None:
    async def good() -> int:
        return 7

    async def bad() -> int:
        raise ValueError("told")

    assert await to_the_end(good()) == 7
    with pytest.raises(ValueError, match="told"):
        await to_the_end(bad())
