from __future__ import annotations

import resource
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from openfl_aio.errors import (
    AlreadyExistsError,
    CorruptFileError,
    InvalidStateError,
    LocalProtocolError,
    StorageError,
    StorageFullError,
)
from openfl_aio.storage.database import Database
from openfl_aio.storage.file_journal import FileJournal
from openfl_aio.storage.journal import Entry, Journal, MemoryJournal, UploadRecord
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


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(tmp_path / "openfl.db")
    await database.open()
    yield database
    await database.close()


@pytest.fixture(params=["memory", "file"])
async def journal(request: pytest.FixtureRequest, tmp_path: Path, database: Database) -> Journal:
    if request.param == "memory":
        return MemoryJournal()
    return await file_journal(tmp_path, database)


async def file_journal(tmp_path: Path, database: Database) -> FileJournal:
    journal = FileJournal(tmp_path / "journal", database)
    await journal.open()
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


def spools(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "journal").iterdir())


async def test_a_restart_finds_what_was_acknowledged_and_nothing_else(tmp_path: Path, database: Database) -> None:
    journal = await file_journal(tmp_path, database)
    close(await committed(journal))
    await journal.spool().write(b"")
    (tmp_path / "journal" / ".0123.partial").write_bytes(b"half")
    (tmp_path / "journal" / "0123.spool").write_bytes(b"renamed, but its row was never written")
    reopened = await file_journal(tmp_path, database)
    assert len(spools(tmp_path)) == 1
    (entry,) = await reopened.entries("f", 3)
    assert bytes(entry.tensor(TENSOR).data) == DATA[4:20]
    close(entry)


async def test_files_go_with_their_rows(tmp_path: Path, database: Database) -> None:
    journal = await file_journal(tmp_path, database)
    close(await committed(journal))
    with pytest.raises(AlreadyExistsError):
        await committed(journal)
    with pytest.raises(LocalProtocolError):
        await committed(journal, total_bytes=1, task_name="other")
    spool = journal.spool()
    await spool.write(DATA)
    await spool.abort()
    assert len(spools(tmp_path)) == 1
    await journal.drop("f", 4)
    assert spools(tmp_path) == []


async def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path: Path, database: Database) -> None:
    journal = await file_journal(tmp_path, database)
    spool = journal.spool()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(StorageFullError, match="no space"):
            await spool.write(bytes(20_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await spool.abort()
    assert spools(tmp_path) == []


async def test_a_database_that_refuses_leaves_no_file(tmp_path: Path, database: Database) -> None:
    journal = await file_journal(tmp_path, database)
    spool = journal.spool()
    await spool.write(DATA)
    await database.close()
    with pytest.raises(StorageError, match="is closed"):
        await spool.commit(RECORD)
    assert spools(tmp_path) == []


async def test_a_lost_or_cut_file_is_never_read(tmp_path: Path, database: Database) -> None:
    journal = await file_journal(tmp_path, database)
    close(await committed(journal, collaborator="a"))
    (intact,) = spools(tmp_path)
    close(await committed(journal, collaborator="b"))
    (path,) = set(spools(tmp_path)) - {intact}
    path.write_bytes(DATA[:-1])
    with pytest.raises(CorruptFileError, match="has 29 bytes, expected 30"):
        await journal.entries("f", 3)
    path.unlink()
    with pytest.raises(CorruptFileError, match="is missing"):
        await journal.entries("f", 3)


async def test_a_cancelled_upload_can_be_aborted(tmp_path: Path, database: Database) -> None:
    journal = await file_journal(tmp_path, database)
    spool = journal.spool()
    with anyio.CancelScope() as scope:
        try:
            await spool.write(DATA)
            scope.cancel()
            await spool.write(DATA)
        finally:
            await spool.abort()
    assert spools(tmp_path) == []
