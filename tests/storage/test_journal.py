from __future__ import annotations

import asyncio
import itertools
import mmap
import random
import resource
import sys
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from openfl_aio.errors import (
    AlreadyExistsError,
    InvalidStateError,
    LocalProtocolError,
    StorageError,
    StorageFullError,
)
from openfl_aio.storage.checksum import Checksum, checksum
from openfl_aio.storage.file_journal import HELD_BYTES, FileJournal
from openfl_aio.storage.journal import ALL_ROUNDS, INLINE_BYTES, Entry, Journal, MemoryJournal, UploadRecord
from openfl_aio.tensors.encoded import TransformerMetadata
from openfl_aio.wire.incremental import TensorRecord

pytestmark = pytest.mark.real_time

TENSOR = TensorRecord(
    name="dense/kernel:0",
    round_number=3,
    lossless=True,
    report=False,
    tags=("compressed", "trained"),
    metadata=(TransformerMetadata({0: 0.1, 7: -2.5}, (2, 2), (True, False)), TransformerMetadata()),
    offset=4,
    nbytes=16,
)
RECORD = UploadRecord("f", 3, "train", "one", 100, (TENSOR,), 30)
DATA = bytes(range(30))


OPENED: list[FileJournal] = []


@pytest.fixture(autouse=True)
async def close_journals() -> AsyncIterator[None]:
    yield
    while OPENED:
        await OPENED.pop().close()


@pytest.fixture(params=["memory", "file"])
async def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Journal:
    if request.param == "memory":
        return MemoryJournal(anyio.to_thread.run_sync)
    return await file_journal(tmp_path)


async def file_journal(tmp_path: Path) -> FileJournal:
    journal = FileJournal(tmp_path / "journal")
    await journal.open()
    OPENED.append(journal)
    return journal


async def committed(journal: Journal, **changes: Any) -> Entry:
    spool = journal.spool()
    for at in range(0, len(DATA), 7):
        await spool.write(memoryview(DATA)[at : at + 7])
    return await spool.commit(replace(RECORD, **changes))


def close(*entries: Entry) -> None:
    for entry in entries:
        entry.close()
        entry.close()


async def test_a_committed_upload_gives_its_tensors(journal: Journal) -> None:
    entry = await committed(journal)
    (again,) = await journal.entries("f", 3)
    for found in (entry, again):
        assert found.record == RECORD
        tensor = found.tensor(found.record.tensors[0])
        assert (tensor.name, tensor.tags, tensor.metadata) == (TENSOR.name, TENSOR.tags, TENSOR.metadata)
        assert isinstance(tensor.data, memoryview)
        assert tensor.data.readonly
        assert bytes(tensor.data) == DATA[4:20]
        assert "round 3 'train' of 'one'" in repr(found)
    close(entry, again)
    assert "Journal" in repr(journal)


async def test_a_tensor_outlives_its_entry(journal: Journal) -> None:
    entry = await committed(journal)
    tensor = entry.tensor(TENSOR)
    entry.close()
    assert bytes(tensor.data) == DATA[4:20]


async def test_a_second_result_is_refused_and_the_first_stays(journal: Journal) -> None:
    close(await committed(journal))
    with pytest.raises(AlreadyExistsError, match="round 3 has results of 'one' for task 'train' already"):
        await committed(journal, data_size=7)
    (entry,) = await journal.entries("f", 3)
    assert entry.record.data_size == 100
    close(entry)


async def test_entries_are_those_of_the_round_in_order(journal: Journal) -> None:
    for task, name, round_number, federation in [
        ("train", "two", 3, "f"),
        ("train", "one", 3, "f"),
        ("a", "two", 3, "f"),
        ("train", "one", 4, "f"),
        ("train", "one", 3, "g"),
    ]:
        close(
            await committed(
                journal, task_name=task, collaborator=name, round_number=round_number, federation_uuid=federation
            )
        )
    entries = await journal.entries("f", 3)
    assert [(e.record.task_name, e.record.collaborator) for e in entries] == [
        ("a", "two"),
        ("train", "one"),
        ("train", "two"),
    ]
    close(*entries)
    assert await journal.entries("absent", 3) == []


async def test_drop_forgets_rounds_before(journal: Journal) -> None:
    for round_number in (1, 2, 3):
        close(await committed(journal, round_number=round_number))
    close(await committed(journal, round_number=1, federation_uuid="g"))
    (held,) = await journal.entries("f", 1)
    await journal.drop("f", 3)
    await journal.drop("f", 3)
    assert bytes(held.tensor(TENSOR).data) == DATA[4:20]
    assert [len(await journal.entries("f", n)) for n in (1, 2)] == [0, 0]
    left = [*await journal.entries("f", 3), *await journal.entries("g", 1)]
    assert len(left) == 2
    close(held, *left)


async def test_drop_forgets_rounds_after(journal: Journal) -> None:
    for round_number in (1, 2, 3):
        close(await committed(journal, round_number=round_number))
    close(await committed(journal, round_number=3, federation_uuid="g"))
    await journal.drop("f", 0, after_round=2)
    assert await journal.entries("f", 3) == []
    left = [*await journal.entries("f", 1), *await journal.entries("f", 2), *await journal.entries("g", 3)]
    assert len(left) == 3
    close(*left)


async def test_an_aborted_upload_leaves_nothing(journal: Journal) -> None:
    spool = journal.spool()
    await spool.write(DATA)
    await spool.abort()
    await spool.abort()
    with pytest.raises(InvalidStateError, match="has ended"):
        await spool.write(DATA)
    with pytest.raises(InvalidStateError, match="has ended"):
        await spool.commit(RECORD)
    assert await journal.entries("f", 3) == []


async def test_abort_after_commit_changes_nothing(journal: Journal) -> None:
    spool = journal.spool()
    await spool.write(bytearray(DATA))
    close(await spool.commit(RECORD))
    await spool.abort()
    entries = await journal.entries("f", 3)
    assert len(entries) == 1
    close(*entries)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"total_bytes": 31}, "tells of 31 bytes, 30 were written"),
        ({"tensors": (replace(TENSOR, offset=20),)}, "outside of the 30 bytes"),
        ({"tensors": (replace(TENSOR, offset=-1),)}, "outside of the 30 bytes"),
    ],
)
async def test_a_record_of_something_else(journal: Journal, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(LocalProtocolError, match=sentence):
        await committed(journal, **changes)
    assert await journal.entries("f", 3) == []


async def test_an_upload_of_no_bytes(journal: Journal) -> None:
    spool = journal.spool()
    await spool.write(b"")
    close(await spool.commit(replace(RECORD, tensors=(), total_bytes=0)))
    (entry,) = await journal.entries("f", 3)
    assert entry.record.total_bytes == 0
    close(entry)


async def test_uploads_at_once(journal: Journal) -> None:
    async def upload(name: str) -> None:
        close(await committed(journal, collaborator=name))

    async with anyio.create_task_group() as group:
        for n in range(12):
            group.start_soon(upload, f"c{n:02}")
    entries = await journal.entries("f", 3)
    assert [entry.record.collaborator for entry in entries] == [f"c{n:02}" for n in range(12)]
    close(*entries)


def files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "journal").rglob("*") if path.is_file()]


BIG = 3 * 1024 * 1024 + 17


async def big(journal: Journal, byte: int, *, nbytes: int = BIG, durable: bool = False, **changes: Any) -> Entry:
    """Commit an upload that is one tensor of ``nbytes`` times ``byte``, in chunks of 1 MiB."""
    spool = journal.spool(durable=durable)
    left = nbytes
    while left:
        piece = min(left, 1024 * 1024)
        await spool.write(bytes([byte]) * piece)
        left -= piece
    tensor = replace(TENSOR, offset=0, nbytes=nbytes)
    return await spool.commit(replace(RECORD, tensors=(tensor,), total_bytes=nbytes, **changes))


def payload(entry: Entry) -> bytes:
    return bytes(entry.tensor(entry.record.tensors[0]).data)


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("nbytes", [0, 1, HELD_BYTES - 1, HELD_BYTES, HELD_BYTES + 1, BIG])
async def test_uploads_of_all_sizes_come_back(journal: Journal, nbytes: int, durable: bool) -> None:
    entry = await big(journal, 5, nbytes=nbytes, durable=durable)
    (again,) = await journal.entries("f", 3)
    assert again.record == entry.record
    assert payload(entry) == payload(again) == bytes([5]) * nbytes
    close(entry, again)


@pytest.mark.parametrize("piece", [1, 1000, INLINE_BYTES, INLINE_BYTES + 1, HELD_BYTES + 1])
async def test_what_is_written_is_inspected_first_and_in_order(journal: Journal, piece: int) -> None:
    data = bytes(range(256)) * (1 if piece == 1 else 600)
    seen = bytearray()
    buffer = bytearray(piece)  # used again for every piece, as a receiver does
    spool = journal.spool()
    for at in range(0, len(data), piece):
        part = data[at : at + piece]
        buffer[: len(part)] = part
        await spool.write(memoryview(buffer)[: len(part)], inspect=seen.extend)
    assert seen == data
    tensor = replace(TENSOR, offset=0, nbytes=len(data))
    looked_at: list[bytes] = []
    entry = await spool.commit(
        replace(RECORD, tensors=(tensor,), total_bytes=len(data)), inspect=lambda it: looked_at.append(payload(it))
    )
    assert looked_at == [data]
    assert payload(entry) == data
    close(entry)


@pytest.mark.parametrize("nbytes", [10, BIG])
async def test_what_an_inspection_refuses_is_not_kept(journal: Journal, tmp_path: Path, nbytes: int) -> None:
    def refuse(*_: object) -> None:
        raise LocalProtocolError("not this")

    spool = journal.spool()
    with pytest.raises(LocalProtocolError, match="not this"):
        await spool.write(bytes(nbytes), inspect=refuse)
    await spool.abort()
    spool = journal.spool()
    await spool.write(bytes(nbytes))
    with pytest.raises(LocalProtocolError, match="not this"):
        await spool.commit(replace(RECORD, tensors=(), total_bytes=nbytes), inspect=refuse)
    await spool.abort()
    assert await journal.entries("f", 3) == []
    if isinstance(journal, FileJournal):
        assert files(tmp_path) == []


async def test_a_restart_finds_what_was_acknowledged_and_nothing_else(tmp_path: Path) -> None:
    journal = await file_journal(tmp_path)
    close(await committed(journal))
    close(await big(journal, 1, round_number=4))
    await journal.spool().write(b"")
    await journal.spool().write(bytes(HELD_BYTES + 1))
    (tmp_path / "journal" / ".0123.partial").write_bytes(b"half")
    (tmp_path / "journal" / "0123.spool").write_bytes(b"of a former layout")
    reopened = await file_journal(tmp_path)
    assert len(files(tmp_path)) == 2
    (entry,) = await reopened.entries("f", 3)
    assert bytes(entry.tensor(TENSOR).data) == DATA[4:20]
    close(entry)


ACKNOWLEDGE = """
import anyio, sys
from pathlib import Path
from openfl_aio.storage.file_journal import FileJournal
from openfl_aio.storage.journal import UploadRecord

async def main():
    journal = FileJournal(Path(sys.argv[1]))
    await journal.open()
    for number in range(10_000):
        spool = journal.spool(durable=False)
        nbytes = 10 + number % 7 * 50_000
        await spool.write(bytes([number % 251]) * nbytes)
        record = UploadRecord("f", number, "train", "one", 1, (), nbytes)
        (await spool.commit(record)).close()
        print(number, nbytes, flush=True)

anyio.run(main)
"""


async def test_what_was_acknowledged_survives_that_the_process_is_killed(tmp_path: Path) -> None:
    async with await anyio.open_process([sys.executable, "-c", ACKNOWLEDGE, str(tmp_path / "journal")]) as process:
        assert process.stdout is not None
        said = b""
        while said.count(b"\n") < 40:
            said += await process.stdout.receive()
        process.kill()
        async for more in process.stdout:
            said += more
    acknowledged = [tuple(map(int, line.split())) for line in said.decode().splitlines() if line.count(" ") == 1]
    journal = await file_journal(tmp_path)
    for number, nbytes in acknowledged:
        (entry,) = await journal.entries("f", number)
        assert entry.record.total_bytes == nbytes
        whole = entry.tensor(replace(TENSOR, offset=0, nbytes=nbytes))
        assert bytes(whole.data) == bytes([number % 251]) * nbytes
        close(entry)


async def test_files_go_with_what_they_hold(tmp_path: Path) -> None:
    journal = await file_journal(tmp_path)
    close(await committed(journal))
    with pytest.raises(AlreadyExistsError):
        await committed(journal)
    with pytest.raises(LocalProtocolError):
        await committed(journal, total_bytes=1, task_name="other")
    spool = journal.spool()
    await spool.write(bytes(HELD_BYTES + 1))
    await spool.abort()
    assert len(files(tmp_path)) == 1
    await journal.drop("f", 4)
    assert files(tmp_path) == []
    await journal.drop("f", ALL_ROUNDS)
    assert list((tmp_path / "journal").iterdir()) == []


async def test_a_small_upload_touches_the_disk_only_when_it_is_committed(tmp_path: Path) -> None:
    journal = await file_journal(tmp_path)
    spool = journal.spool()
    await spool.write(DATA)
    assert files(tmp_path) == []
    close(await spool.commit(RECORD))
    assert len(files(tmp_path)) == 1


async def test_a_dropped_file_is_written_over_by_the_next_upload(tmp_path: Path) -> None:
    journal = await file_journal(tmp_path)
    close(await big(journal, 1))
    (path,) = files(tmp_path)
    inode = path.stat().st_ino
    await journal.drop("f", 4)
    for nbytes in (BIG - 1_000_000, BIG, BIG + 1_000_000):
        entry = await big(journal, 2, nbytes=nbytes)
        (path,) = files(tmp_path)
        assert path.stat().st_ino == inode
        (again,) = await journal.entries("f", 3)
        assert payload(entry) == payload(again) == bytes([2]) * nbytes
        close(entry, again)
        await journal.drop("f", 4)
    await journal.close()
    assert files(tmp_path) == []


@pytest.mark.parametrize("nbytes", [len(DATA), 100_000])
async def test_a_small_upload_leaves_large_files_to_large_ones(tmp_path: Path, nbytes: int) -> None:
    """A round begins with the small results of a validation: they would cut off what the large ones need next."""
    journal = await file_journal(tmp_path)
    close(await big(journal, 1))
    (path,) = files(tmp_path)
    inode = path.stat().st_ino
    await journal.drop("f", 4)
    close(await big(journal, 2, nbytes=nbytes, task_name="validate"))
    close(await big(journal, 3))
    assert sorted((path.stat().st_ino == inode, path.stat().st_size > BIG) for path in files(tmp_path)) == [
        (False, False),
        (True, True),
    ]


async def test_when_a_federation_is_over_nothing_is_kept_for_more_uploads(tmp_path: Path) -> None:
    journal = await file_journal(tmp_path)
    close(await big(journal, 1))
    await journal.drop("f", 4)
    assert len(files(tmp_path)) == 1
    close(await big(journal, 1), await big(journal, 1, task_name="other"))
    await journal.drop("f", ALL_ROUNDS)
    assert list((tmp_path / "journal").iterdir()) == []


async def test_a_file_that_somebody_looks_at_is_not_written_over(tmp_path: Path) -> None:
    journal = await file_journal(tmp_path)
    still_open, closed = await big(journal, 1), await big(journal, 2, task_name="other")
    tensor = closed.tensor(closed.record.tensors[0])
    closed.close()
    await journal.drop("f", 4)
    close(await big(journal, 9), await big(journal, 9, task_name="other"))
    assert payload(still_open) == bytes([1]) * BIG
    assert bytes(tensor.data) == bytes([2]) * BIG
    close(still_open)


async def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path: Path) -> None:
    journal = await file_journal(tmp_path)
    spool, small = journal.spool(), journal.spool()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(StorageFullError, match="no space"):
            await spool.write(bytes(INLINE_BYTES + 1))
        await small.write(bytes(10_000))
        with pytest.raises(StorageFullError, match="no space"):
            await small.commit(replace(RECORD, tensors=(), total_bytes=10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await spool.abort()
    await small.abort()
    assert files(tmp_path) == []


async def test_files_kept_for_reuse_make_way_on_a_full_disk(tmp_path: Path) -> None:
    journal = await file_journal(tmp_path)
    close(await big(journal, 1), await big(journal, 1, task_name="other"))
    await journal.drop("f", 4)
    spool = journal.spool()
    await spool.write(bytes(1_000_000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(StorageFullError, match="no space"):
            await spool.write(bytes(1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(files(tmp_path)) == 1
    await spool.abort()


async def test_a_folder_that_is_gone_is_an_error_and_no_upload(tmp_path: Path) -> None:
    journal = await file_journal(tmp_path)
    (tmp_path / "journal").rmdir()
    spool = journal.spool()
    await spool.write(DATA)
    with pytest.raises(StorageError, match="cannot use"):
        await spool.commit(RECORD)


async def test_a_file_that_was_cut_or_altered_anywhere_is_left_out_and_makes_way(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = await file_journal(tmp_path)
    close(await committed(journal, collaborator="a"))
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    damaged = [whole[:size] for size in range(len(whole))]
    damaged += [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole))]
    damaged += [whole + b"x", whole.replace(b'"train"', b'"brain"')]
    for content in damaged:
        caplog.clear()
        path.write_bytes(content)
        assert await journal.entries("f", 3) == []
        (line,) = caplog.records
        assert line.levelname == "ERROR"
        assert "no whole upload" in line.message or "checksum" in line.message
        assert not path.exists()
    close(await committed(journal, collaborator="a"))
    (entry,) = await journal.entries("f", 3)
    close(entry)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 2**20 - 1, 2**20, 2**20 + 11])
async def test_the_checksum_tells_changed_and_moved_bytes(size: int) -> None:
    data = bytearray(random.Random(size).randbytes(size))
    whole = checksum(memoryview(data))
    for at in {0, size // 2, size - 1} & set(range(size)):
        data[at] ^= 0x80
        assert checksum(memoryview(data)) != whole
        data[at] ^= 0x80
    assert checksum(memoryview(bytes(data))) == whole
    twice = bytes(2**20) + bytes([1]) * 2**20
    assert checksum(memoryview(twice)) != checksum(memoryview(twice[2**20 :] + twice[: 2**20]))


@pytest.mark.parametrize("size", [1, 7, 8, 2**20 - 1, 2**20, 2**20 + 11, 2**21 + 8])
async def test_a_checksum_in_pieces_is_that_of_the_whole(size: int) -> None:
    source = random.Random(size)
    data = memoryview(source.randbytes(size))
    for _ in range(20):
        borders = [0, *sorted(source.randrange(size + 1) for _ in range(5)), size]
        found = Checksum()
        for start, end in itertools.pairwise(borders):
            found.add(data[start:end])
        assert found.value == checksum(data)
    assert repr(found) == f"<Checksum {checksum(data):08x}>"


async def test_one_bad_file_leaves_the_good_ones(tmp_path: Path) -> None:
    journal = await file_journal(tmp_path)
    close(await big(journal, 1, collaborator="a"), await big(journal, 1, collaborator="b"))
    files(tmp_path)[0].write_bytes(b"nothing")
    (good,) = await journal.entries("f", 3)
    good.close()
    await journal.drop("f", 4)
    close(await big(journal, 2))
    assert len(files(tmp_path)) == 1  # the good one was written over, so nobody held it


async def test_a_cancelled_upload_can_be_aborted(tmp_path: Path) -> None:
    journal = await file_journal(tmp_path)
    spool = journal.spool()
    data = bytes(HELD_BYTES + 1)
    with anyio.CancelScope() as scope:
        try:
            await spool.write(data)
            scope.cancel()
            await spool.write(data)
        finally:
            await spool.abort()
    assert files(tmp_path) == []


async def test_a_write_under_way_ends_before_its_file_is_removed(tmp_path: Path) -> None:
    """A transport may cancel a call's task in a way that does not wait for its worker thread."""
    journal = await file_journal(tmp_path)
    spool = journal.spool()
    begun, go_on = threading.Event(), threading.Event()

    def slow(data: memoryview) -> None:
        begun.set()
        assert go_on.wait(10)

    task = asyncio.ensure_future(spool.write(bytes(BIG), inspect=slow))
    await anyio.to_thread.run_sync(begun.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with anyio.create_task_group() as group:
        group.start_soon(spool.abort)
        await anyio.sleep(0.05)
        go_on.set()
    assert files(tmp_path) == []


def resident(folder: Path) -> int:
    """Return how many KiB of the files below ``folder`` are mapped and in this process's memory."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    ours = [number for number, line in enumerate(lines) if str(folder) in line]
    return sum(next(int(line.split()[1]) for line in lines[number:] if line.startswith("Rss:")) for number in ours)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells what is in memory")
async def test_what_was_looked_at_leaves_memory_until_it_is_read_again(tmp_path: Path) -> None:
    journal = await file_journal(tmp_path)
    entry = await big(journal, 7, nbytes=2**20)
    assert await anyio.to_thread.run_sync(resident, tmp_path) == 0, "the commit looked at all of it"
    for offset, left in ((0, 0), (2**19 + 100, 2**9)):
        assert set(entry.payload) == {7}
        assert await anyio.to_thread.run_sync(resident, tmp_path) == 2**10
        entry.unload(replace(TENSOR, offset=offset, nbytes=2**20 - offset))
        assert left <= await anyio.to_thread.run_sync(resident, tmp_path) <= left + mmap.PAGESIZE // 2**10
    kept = memoryview(entry.payload)
    entry.close()
    entry.unload(TENSOR)
    assert set(kept) == {7}
    kept.release()
