from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator

import anyio
import anyio.to_thread
import pytest

from openfl_aio.storage.workers import Workers

pytestmark = pytest.mark.real_time


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers(2)
    workers.start()
    yield workers
    workers.close()


async def test_results_and_errors_come_back(workers: Workers) -> None:
    assert await workers.run(lambda: 7) == 7
    name = await workers.run(lambda: threading.current_thread().name)
    assert name.startswith("openfl_aio-storage-")
    with pytest.raises(ZeroDivisionError):
        await workers.run(lambda: 1 // 0)
    assert repr(workers) == "<Workers 2 of 2>"


async def test_as_many_run_at_once_as_there_are(workers: Workers) -> None:
    lock, running, most = threading.Lock(), 0, 0
    together = threading.Barrier(2)

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait(10)
        with lock:
            running -= 1

    async with anyio.create_task_group() as group:
        for _ in range(6):
            group.start_soon(workers.run, work)
    assert most == 2


async def test_a_cancelled_caller_leaves_and_the_function_ends(workers: Workers) -> None:
    go_on, done = threading.Event(), threading.Event()

    def work() -> None:
        go_on.wait(10)
        done.set()

    with anyio.move_on_after(0.01) as scope:
        await workers.run(work)
    assert scope.cancelled_caught
    assert not done.is_set()
    go_on.set()
    assert await anyio.to_thread.run_sync(done.wait, 10)
    assert await workers.run(lambda: "next") == "next"


async def test_without_threads_any_will_do() -> None:
    workers = Workers(1)
    assert await workers.run(lambda: 1) == 1
    workers.close()
    assert repr(workers) == "<Workers 0 of 1>"


async def test_nothing_of_a_job_is_kept(workers: Workers) -> None:
    class Big:
        pass

    big = Big()
    seen = weakref.ref(big)
    await workers.run(lambda big=big: None)  # type: ignore[misc]
    del big
    await workers.run(lambda: None)
    gc.collect()
    assert seen() is None


def test_a_loop_that_is_gone_is_no_error(workers: Workers) -> None:
    go_on = threading.Event()

    async def leave() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(workers.run(lambda: go_on.wait(10)), 0.01)

    asyncio.run(leave())
    go_on.set()

    async def come_back() -> int:
        return await workers.run(lambda: 3)

    assert asyncio.run(come_back()) == 3
