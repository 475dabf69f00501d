"""What a durable upload promises: acknowledged means on the disk, file and name, whoever else fails at the same time."""

from __future__ import annotations

import asyncio
import errno
import random
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from openfl_aio.errors import StorageError, StorageFullError
from openfl_aio.storage.file_journal import FLUSHERS, HELD_BYTES, FileJournal
from openfl_aio.storage.journal import ALL_ROUNDS, UploadRecord
from tests.storage.noted import Disk

pytestmark = pytest.mark.real_time

SIZES = (0, 1000, HELD_BYTES + 1, 1_500_000)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    disk.install(monkeypatch)
    return disk


@pytest.fixture
async def journal(disk: Disk, tmp_path: Path) -> AsyncIterator[FileJournal]:
    journal = FileJournal(tmp_path / "new" / "journal")
    await journal.open()
    yield journal
    disk.held = lambda name: None
    disk.fault = lambda call, name: None
    await journal.close()


def record_of(number: int, *, federation: str = "f", round_number: int = 1, nbytes: int = 1000) -> UploadRecord:
    return UploadRecord(federation, round_number, "train", f"c{number}", 1, (), nbytes)


async def bring(journal: FileJournal, record: UploadRecord) -> None:
    spool = journal.spool(durable=True)
    for start in range(0, record.total_bytes, 1_000_000):
        await spool.write(bytes(min(1_000_000, record.total_bytes - start)))
    (await spool.commit(record)).close()


async def kept(journal: FileJournal, round_number: int = 1, federation: str = "f") -> set[str]:
    entries = await journal.entries(federation, round_number)
    for entry in entries:
        entry.close()
    return {entry.record.collaborator for entry in entries}


def leftovers(journal: FileJournal) -> list[Path]:
    return list(journal.folder.glob(".*"))


@pytest.mark.parametrize("senders", [1, 3, 40])
async def test_what_is_acknowledged_is_on_the_disk(
    journal: FileJournal, disk: Disk, tmp_path: Path, senders: int
) -> None:
    draw = random.Random(senders)
    acknowledged = 0

    async def send(number: int) -> None:
        nonlocal acknowledged
        for round_number in range(4):
            federation = draw.choice("fgh")
            record = record_of(number, federation=federation, round_number=round_number, nbytes=draw.choice(SIZES))
            await bring(journal, record)
            assert disk.is_safe(journal.path_of(record), tmp_path)
            acknowledged += 1

    async with anyio.create_task_group() as group:
        for number in range(senders):
            group.start_soon(send, number)
    assert acknowledged == 4 * senders


async def test_a_name_is_flushed_before_its_upload_is_acknowledged(journal: FileJournal, disk: Disk) -> None:
    """Names that come while a folder is being flushed wait for its next flush, all for the same."""
    await bring(journal, record_of(0))
    folder = str(journal.path_of(record_of(0)).parent)
    held, go_on = threading.Event(), threading.Event()

    def hold(name: str) -> None:
        if name == folder:
            held.set()
            assert go_on.wait(20)

    disk.held = hold
    disk.fsyncs.clear()
    done: list[int] = []

    async def send(number: int) -> None:
        await bring(journal, record_of(number))
        done.append(number)

    async with anyio.create_task_group() as group:
        group.start_soon(send, 1)
        await anyio.to_thread.run_sync(held.wait)
        for number in range(2, FLUSHERS + 1):
            group.start_soon(send, number)
        while journal.flushes.waiting < FLUSHERS - 1:
            await anyio.sleep(0.001)
        assert len(await kept(journal)) == FLUSHERS + 1, "all have their names"
        assert done == []
        go_on.set()
    assert sorted(done) == list(range(1, FLUSHERS + 1))
    assert disk.fsyncs.count("file") == FLUSHERS
    assert disk.fsyncs.count("folder") == 2


async def test_one_alone_waits_for_two_flushes(journal: FileJournal, disk: Disk) -> None:
    disk.fsyncs.clear()
    await bring(journal, record_of(1))
    assert disk.fsyncs == ["file", "folder", "folder"], "the federation's folder is new"
    disk.fsyncs.clear()
    await bring(journal, record_of(2))
    assert disk.fsyncs == ["file", "folder"]
    await journal.drop("f", 2)
    disk.fsyncs.clear()
    await bring(journal, record_of(1, round_number=2))
    assert disk.fsyncs == ["file", "folder"], "the next round has the same folder"
    await journal.drop("f", ALL_ROUNDS)
    disk.fsyncs.clear()
    await bring(journal, record_of(1))
    assert disk.fsyncs == ["file", "folder", "folder"], "it is new again"


async def test_the_folder_of_a_federation_is_flushed_until_that_goes_well(journal: FileJournal, disk: Disk) -> None:
    disk.fault = lambda call, name: OSError(errno.EIO, "broken") if name == str(journal.folder) else None
    with pytest.raises(StorageError):
        await bring(journal, record_of(1))
    disk.fault = lambda call, name: None
    disk.fsyncs.clear()
    await bring(journal, record_of(2))
    assert disk.fsyncs == ["file", "folder", "folder"]


@pytest.mark.parametrize("seed", range(12))
async def test_of_uploads_at_once_those_fail_whose_own_file_fails(
    journal: FileJournal, disk: Disk, tmp_path: Path, seed: int
) -> None:
    draw = random.Random(seed)
    names = {str(journal.path_of(record_of(number))): number for number in range(30)}
    doomed = {number: draw.choice(["replace", "fsync"]) for number in range(30) if draw.random() < 0.4}
    left = list(doomed.values()).count("fsync")

    def fault(call: str, name: str) -> OSError | None:
        nonlocal left
        if call == "replace" and doomed.get(names.get(name, -1)) == "replace":
            return OSError(errno.EIO, "broken")
        if call == "fsync" and name.endswith(".partial"):
            with disk.lock:
                if left and draw.random() < 0.7:
                    left -= 1
                    return OSError(draw.choice([errno.ENOSPC, errno.EDQUOT]), "full")
        return None

    disk.fault = fault
    acknowledged: set[str] = set()
    refused = 0

    async def send(number: int) -> None:
        nonlocal refused
        await anyio.sleep(draw.random() * 0.005)
        record = record_of(number, nbytes=draw.choice(SIZES))
        try:
            await bring(journal, record)
        except StorageError:
            refused += 1
        else:
            assert doomed.get(number) != "replace"
            acknowledged.add(record.collaborator)

    async with anyio.create_task_group() as group:
        for number in range(30):
            group.start_soon(send, number)
    assert refused + len(acknowledged) == 30
    assert refused >= list(doomed.values()).count("replace")
    assert await kept(journal) == acknowledged
    assert leftovers(journal) == []
    disk.fault = lambda call, name: None
    for number in range(30):
        if f"c{number}" not in acknowledged:
            await bring(journal, record_of(number))
    assert len(await kept(journal)) == 30


@pytest.mark.parametrize(("code", "kind"), [(errno.ENOSPC, StorageFullError), (errno.EIO, StorageError)])
async def test_a_folder_that_cannot_be_flushed_fails_all_that_wait_for_it(
    journal: FileJournal, disk: Disk, code: int, kind: type[StorageError]
) -> None:
    await bring(journal, record_of(0))
    await bring(journal, record_of(0, federation="g"))
    folder = str(journal.path_of(record_of(0)).parent)
    held, go_on = threading.Event(), threading.Event()

    def hold(name: str) -> None:
        if name == folder and not held.is_set():
            held.set()
            assert go_on.wait(20)

    disk.held = hold
    ends: dict[tuple[str, int], StorageError | None] = {}

    async def send(federation: str, number: int) -> None:
        try:
            await bring(journal, record_of(number, federation=federation))
        except StorageError as exc:
            ends[federation, number] = exc
        else:
            ends[federation, number] = None

    async with anyio.create_task_group() as group:
        group.start_soon(send, "f", 1)
        await anyio.to_thread.run_sync(held.wait)
        for number in range(2, 6):
            group.start_soon(send, "f", number)
            group.start_soon(send, "g", number)
        while journal.flushes.waiting < 8:
            await anyio.sleep(0.001)
        disk.fault = lambda call, name: OSError(code, "no") if name == folder else None
        go_on.set()
    failed = {where for where, end in ends.items() if end is not None}
    assert failed == {("f", number) for number in range(1, 6)}
    assert {type(end) for end in ends.values() if end is not None} == {kind}
    assert await kept(journal) == {"c0"}, "nothing of what failed counts"
    assert await kept(journal, federation="g") == {"c0", "c2", "c3", "c4", "c5"}
    disk.fault = lambda call, name: None
    await bring(journal, record_of(1))
    assert await kept(journal) == {"c0", "c1"}


async def test_a_waiter_that_is_cancelled_takes_nobody_along(journal: FileJournal, disk: Disk) -> None:
    """Not even if its task is cancelled in a way that no scope holds back."""
    await bring(journal, record_of(0))
    folder = str(journal.path_of(record_of(0)).parent)
    held, go_on = threading.Event(), threading.Event()

    def hold(name: str) -> None:
        if name == folder:
            held.set()
            assert go_on.wait(20)

    disk.held = hold
    tasks = [asyncio.ensure_future(bring(journal, record_of(number))) for number in range(1, 7)]
    await anyio.to_thread.run_sync(held.wait)
    while journal.flushes.waiting < 5:
        await anyio.sleep(0.001)
    for task in tasks[::2]:
        task.cancel()
    await anyio.lowlevel.checkpoint()
    go_on.set()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(end) for end in ends] == [asyncio.CancelledError, type(None)] * 3
    await journal.close()  # what was begun ends
    assert await kept(journal) == {f"c{number}" for number in range(7)}, "each is whole: what was begun is ended"
    assert leftovers(journal) == []


async def test_uploads_that_wait_for_the_disk_keep_no_others_waiting(journal: FileJournal, disk: Disk) -> None:
    go_on = threading.Event()
    disk.held = lambda name: None if go_on.wait(20) else pytest.fail("nobody let it go on")
    async with anyio.create_task_group() as group:
        for number in range(FLUSHERS + 3):
            group.start_soon(bring, journal, record_of(number))
        while len(leftovers(journal)) < FLUSHERS:
            await anyio.sleep(0.001)
        with anyio.fail_after(20):
            spool = journal.spool(durable=False)
            await spool.write(bytes(1_000_000))
            (await spool.commit(record_of(0, round_number=2, nbytes=1_000_000))).close()
        assert await kept(journal, round_number=2) == {"c0"}
        go_on.set()
