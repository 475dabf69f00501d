"""Processes that end cleanly when told to."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

from openfl_aio.transport.signals import run_until_signalled, serve_until_signalled

pytestmark = pytest.mark.real_time


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    @asynccontextmanager
    async def service(self) -> AsyncIterator[str]:
        self.lines.append("entered")
        yield "address"
        await anyio.lowlevel.checkpoint()  # leaving may wait: it is not cancelled
        self.lines.append("left")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_service_is_left_in_the_usual_way(number: signal.Signals) -> None:
    log = Log()

    def started(address: str) -> None:
        log.lines.append(address)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with anyio.fail_after(5):
        await serve_until_signalled(log.service(), started=started)
    assert log.lines == ["entered", "address", "left"]
    assert signal.getsignal(number) in (before, signal.SIG_DFL, signal.default_int_handler)


async def test_a_hangup_reloads_and_ends_nothing() -> None:
    log = Log()
    hung_up = anyio.Event()

    def reload(address: str) -> None:
        log.lines.append(f"reloaded {address}")
        hung_up.set()

    async def work(address: str) -> None:
        nonlocal hung_up
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGHUP)
            await hung_up.wait()
            hung_up = anyio.Event()

    with anyio.fail_after(5):
        await serve_until_signalled(log.service(), until=work, reload=reload)
    assert log.lines == ["entered", "reloaded address", "reloaded address", "left"]
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


async def test_service_ends_with_its_work() -> None:
    log = Log()

    async def work(address: str) -> None:
        log.lines.append("worked")

    with anyio.fail_after(5):
        await serve_until_signalled(log.service(), until=work)
    assert log.lines == ["entered", "worked", "left"]


async def test_the_garbage_collector_leaves_alone_what_was_there_when_the_service_began() -> None:
    counts: list[int] = []

    async def work(address: str) -> None:
        counts.append(gc.get_freeze_count())

    before = gc.get_freeze_count()
    await serve_until_signalled(Log().service(), until=work)
    assert counts[0] > before + 10_000
    assert gc.get_freeze_count() == 0


async def test_failing_work_still_leaves() -> None:
    async def work(address: str) -> None:
        raise ValueError("broken")

    with anyio.fail_after(5), pytest.raises(ValueError, match="broken"):
        await serve_until_signalled(Log().service(), until=work)


async def test_run_is_cancelled_by_a_signal() -> None:
    async def run() -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        await anyio.sleep_forever()
        return "never"

    with anyio.fail_after(5):
        assert await run_until_signalled(run) is None


async def test_run_returns_its_result() -> None:
    async def run() -> str:
        return "done"

    assert await run_until_signalled(run) == "done"


async def test_an_error_alone_in_its_group_is_raised_alone() -> None:
    async def run() -> None:
        raise ExceptionGroup("outer", [ExceptionGroup("inner", [ValueError("the one")])])

    with pytest.raises(ValueError, match="the one"):
        await run_until_signalled(run)


async def test_several_errors_stay_together() -> None:
    async def run() -> None:
        raise ExceptionGroup("outer", [ValueError("one"), ValueError("two")])

    with pytest.raises(ExceptionGroup, match="outer"):
        await run_until_signalled(run)
