from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from openfl_aio.storage import folder_flushes
from openfl_aio.storage.folder_flushes import FolderFlushes

A, B = Path("a"), Path("b")


class Disk:
    """Flushes when the test says so."""

    def __init__(self) -> None:
        self.calls: list[Path] = []
        self.begun = threading.Semaphore(0)
        self.may = threading.Semaphore(0)
        self.error: Callable[[Path], BaseException | None] = lambda folder: None

    def fsync(self, folder: Path) -> None:
        self.calls.append(folder)
        self.begun.release()
        assert self.may.acquire(timeout=10)
        error = self.error(folder)
        if error is not None:
            raise error


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(folder_flushes, "fsync_folder", disk.fsync)
    return disk


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(12) as pool:
        yield pool


def joined(flushes: FolderFlushes, pool: ThreadPoolExecutor, count: int, *folders: Path) -> list[Future[None]]:
    """Return ``count`` flushes more that wait for the one under way."""
    before = flushes.waiting
    started = [pool.submit(flushes.flush, *folders) for _ in range(count)]
    while flushes.waiting < before + count:
        time.sleep(0.001)
    return started


def test_who_is_alone_is_flushed_at_once(disk: Disk) -> None:
    flushes = FolderFlushes()
    disk.may.release(3)
    flushes.flush(A)
    flushes.flush(A, B)
    assert disk.calls[0] == A
    assert sorted(disk.calls[1:]) == [A, B]
    assert repr(flushes) == "<FolderFlushes idle>"


def test_who_comes_during_a_flush_shares_the_next(disk: Disk, pool: ThreadPoolExecutor) -> None:
    flushes = FolderFlushes()
    first = pool.submit(flushes.flush, A)
    assert disk.begun.acquire(timeout=10)
    assert repr(flushes) == "<FolderFlushes busy>"
    others = joined(flushes, pool, 9, A)
    disk.may.release()
    first.result(10)
    assert disk.begun.acquire(timeout=10)
    assert not any(other.done() for other in others), "their names came too late for the first flush"
    disk.may.release()
    for other in others:
        other.result(10)
    assert disk.calls == [A, A]


def test_a_failed_flush_fails_who_waits_for_that_folder(disk: Disk, pool: ThreadPoolExecutor) -> None:
    flushes = FolderFlushes()
    first = pool.submit(flushes.flush, A)
    assert disk.begun.acquire(timeout=10)
    of_a, of_b = joined(flushes, pool, 3, A), joined(flushes, pool, 2, B)
    of_both = joined(flushes, pool, 1, B, A)
    disk.error = lambda folder: OSError(errno.ENOSPC, "full") if len(disk.calls) > 1 and folder == A else None
    disk.may.release(3)
    first.result(10)
    for failed in (*of_a, *of_both):
        with pytest.raises(OSError, match="No space left") as caught:
            failed.result(10)
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "a")
    for good in of_b:
        good.result(10)
    disk.error = lambda folder: None
    disk.may.release()
    flushes.flush(A)


def test_a_flush_that_broke_was_none(disk: Disk, pool: ThreadPoolExecutor) -> None:
    flushes = FolderFlushes()
    first = pool.submit(flushes.flush, A)
    assert disk.begun.acquire(timeout=10)
    (leader,) = joined(flushes, pool, 1, A)
    followers = joined(flushes, pool, 2, A)
    disk.error = lambda folder: MemoryError() if len(disk.calls) > 1 else None
    disk.may.release(2)
    first.result(10)
    with pytest.raises(MemoryError):
        leader.result(10)
    for follower in followers:
        with pytest.raises(OSError, match="Input/output"):
            follower.result(10)
