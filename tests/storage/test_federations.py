from __future__ import annotations

import asyncio
import errno
import logging
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from openfl_aio.errors import CorruptFileError, StorageFullError
from openfl_aio.storage.federations import LEAST_BYTES, FederationStore, FileFederation, Line, MemoryFederation

pytestmark = pytest.mark.real_time


def file_federation(tmp_path: Path) -> FileFederation:
    return FileFederation(tmp_path / "federation", anyio.to_thread.run_sync)


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> FederationStore:
    return MemoryFederation() if request.param == "memory" else file_federation(tmp_path)


async def fill(store: FederationStore, first: int, last: int) -> None:
    for number in range(first, last):
        store.add({"number": number, "padding": "x" * 50})
    await store.flush(durable=False)


def evens_in_short(lines: Iterable[Line]) -> list[Line]:
    return [{"number": line["number"]} for line in lines if line["number"] % 2 == 0]


def numbers(lines: Iterable[Line]) -> list[int]:
    return [line["number"] for line in lines]


@pytest.mark.parametrize("durable", [False, True])
async def test_settled_lines_take_the_place_of_the_others(
    store: FederationStore, tmp_path: Path, durable: bool
) -> None:
    await store.load()
    await fill(store, 0, 1000)
    await store.compact(evens_in_short, durable=durable)
    store.add({"number": 7, "padding": ""})
    await store.flush(durable=durable)
    expected = [*range(0, 1000, 2), 7]
    assert numbers((await store.load()).lines) == expected
    if isinstance(store, FileFederation):
        assert (store.folder / "log").stat().st_size < 500 * 30
        assert numbers((await file_federation(tmp_path).load()).lines) == expected
        assert [path.name for path in store.folder.iterdir()] == ["log"]


async def test_a_log_is_settled_when_it_has_grown_by_a_block_and_a_quarter(tmp_path: Path) -> None:
    store = file_federation(tmp_path)
    settled = 0

    def count(lines: Iterable[Line]) -> Iterable[Line]:
        nonlocal settled
        settled += 1
        return lines

    await store.compact(count, durable=False)  # not looked at yet
    await store.load()
    path, before = store.folder / "log", 0
    for number in range(1000):
        await fill(store, number, number + 1)
        former = settled
        await store.compact(count, durable=False)
        grown = path.stat().st_size - before
        assert (settled > former) == (grown > LEAST_BYTES + before // 4)
        if settled > former:
            before = path.stat().st_size
    assert settled < 20
    assert numbers((await store.load()).lines) == list(range(1000))


async def test_lines_that_come_meanwhile_are_behind(tmp_path: Path) -> None:
    store = file_federation(tmp_path)
    await store.load()
    await fill(store, 0, 1000)
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: store.compact(evens_in_short, durable=True))
        for number in range(1000, 1020):
            group.start_soon(fill, store, number, number + 1)
    assert sorted(numbers((await store.load()).lines)[-20:]) == list(range(1000, 1020))
    assert len((await store.load()).lines) == 520


@pytest.mark.parametrize("call", ["replace", "open"])
async def test_a_full_disk_leaves_the_log_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    store = file_federation(tmp_path)
    await store.load()
    await fill(store, 0, 1000)
    function = getattr(os, call)

    def full(path: Any, *arguments: Any, **settings: Any) -> Any:
        if str(path).endswith(".partial"):
            raise OSError(errno.ENOSPC, "full")
        return function(path, *arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(StorageFullError):
            await store.compact(evens_in_short, durable=True)
    await fill(store, 1000, 1001)
    assert numbers((await store.load()).lines) == list(range(1001))
    await store.compact(evens_in_short, durable=True)
    assert len((await store.load()).lines) == 501


async def test_a_log_that_was_altered_is_not_settled(tmp_path: Path) -> None:
    store = file_federation(tmp_path)
    await store.load()
    await fill(store, 0, 1000)
    path = store.folder / "log"
    altered = path.read_bytes().replace(b'"number":500', b'"number":501')
    path.write_bytes(altered)
    with pytest.raises(CorruptFileError, match="broken in line 501 of 1000"):
        await store.compact(evens_in_short, durable=False)
    assert path.read_bytes() == altered
    await fill(store, 1000, 1001)
    assert path.read_bytes().startswith(altered), "nothing behind the broken line is lost"


@pytest.mark.parametrize("cut", [1, 40])
async def test_a_torn_end_is_left_out_and_written_over(
    tmp_path: Path, cut: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store = file_federation(tmp_path)
    await store.load()
    await fill(store, 0, 200)
    path = store.folder / "log"
    path.write_bytes(path.read_bytes()[:-cut])
    again = file_federation(tmp_path)
    assert numbers((await again.load()).lines) == list(range(199))
    assert "was not whole" in caplog.text
    await fill(again, 199, 200)
    await again.compact(lambda lines: lines, durable=False)
    assert numbers((await again.load()).lines) == list(range(200))


async def test_a_last_line_that_is_broken_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = file_federation(tmp_path)
    await store.load()
    await fill(store, 0, 3)
    path = store.folder / "log"
    path.write_bytes(path.read_bytes()[:-2] + b"!\n")
    assert numbers((await store.load()).lines) == [0, 1]
    assert "is broken and left out" in caplog.text
    await fill(store, 2, 3)
    assert numbers((await store.load()).lines) == [0, 1, 2]


async def test_a_caller_that_is_cancelled_in_a_flush_leaves_each_line_once(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    async def slowly(function: Callable[[], Any]) -> Any:
        def wait_and_write() -> Any:
            begun.set()
            go_on.wait(5)
            return function()

        return await anyio.to_thread.run_sync(wait_and_write)

    federation = FileFederation(tmp_path / "federation", slowly)
    federation.add({"number": 1})
    first = asyncio.create_task(federation.flush(durable=False))
    await anyio.to_thread.run_sync(begun.wait)
    first.cancel()
    federation.add({"number": 2})
    second = asyncio.create_task(federation.flush(durable=False))
    await anyio.sleep(0.05)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await first
    await second
    stored = await FileFederation(tmp_path / "federation", anyio.to_thread.run_sync).load()
    assert stored.lines == ({"number": 1}, {"number": 2})
