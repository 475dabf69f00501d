from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from openfl_aio.domain import ShardInfo
from openfl_aio.errors import StorageError
from openfl_aio.storage.archives import Archive
from openfl_aio.storage.director_storage import DATABASE_NAME, DirectorStorage
from openfl_aio.storage.journal import UploadRecord
from openfl_aio.storage.storage import Storage

pytestmark = pytest.mark.real_time


async def fill(storage: DirectorStorage) -> Archive:
    await storage.registry.save_shard(ShardInfo("one"))
    spool = storage.journal.spool()
    await spool.write(b"upload")
    (await spool.commit(UploadRecord("f", 0, "train", "one", 1, (), 6))).close()
    async with storage.archives.receive() as sink:
        await sink.write(b"archive")
        return await sink.keep()


async def test_a_workspace_survives(tmp_path: Path) -> None:
    workspace = tmp_path / "new" / "workspace"
    async with DirectorStorage(workspace) as storage:
        archive = await fill(storage)
        assert str(workspace) in repr(storage)
    async with DirectorStorage(workspace) as storage:
        assert await storage.registry.shards() == [ShardInfo("one")]
        (entry,) = await storage.journal.entries("f", 0)
        entry.close()
        assert await storage.archives.get(archive.id) == archive
    assert workspace.stat().st_mode & 0o077 == 0


async def test_memory_leaves_nothing() -> None:
    async with DirectorStorage() as storage:
        archive = await fill(storage)
        assert archive.path.exists()
        assert "in memory" in repr(storage)
    assert not archive.path.parent.parent.exists()


async def test_a_workspace_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot use"):
        await DirectorStorage(tmp_path / "file").__aenter__()


async def test_a_database_that_is_none_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / DATABASE_NAME).write_bytes(b"no database " * 100)
    with pytest.raises(StorageError, match="not a database"):
        await DirectorStorage(tmp_path).__aenter__()
    assert (tmp_path / DATABASE_NAME).read_bytes() == b"no database " * 100


async def test_a_folder_that_is_in_use_is_refused_until_it_is_free(tmp_path: Path) -> None:
    async with DirectorStorage(tmp_path):
        with pytest.raises(StorageError, match="in use by another process; end that one first"):
            await DirectorStorage(tmp_path).__aenter__()
    async with DirectorStorage(tmp_path):
        pass


async def test_what_was_kept_of_other_federations_is_removed(tmp_path: Path) -> None:
    async with DirectorStorage(tmp_path) as storage:
        for uuid in ("one", "other"):
            spool = storage.journal.spool()
            await spool.write(b"upload")
            (await spool.commit(UploadRecord(uuid, 0, "train", "site", 1, (), 6))).close()
            federation = storage.federation(uuid)
            federation.add({"round": 0})
            await federation.flush(durable=True)
        await storage.keep_federations(["one"])
        assert (await storage.federation("one").load()).lines == ({"round": 0},)
        assert (await storage.federation("other").load()).lines == ()
        (entry,) = await storage.journal.entries("one", 0)
        entry.close()
        assert not await storage.journal.entries("other", 0)
    for name in ("federations", "journal"):
        assert len(list((tmp_path / name).iterdir())) == 1


async def test_in_memory_nothing_is_left_of_other_federations() -> None:
    async with DirectorStorage() as storage:
        await fill(storage)
        await storage.keep_federations([])


async def test_an_aggregator_keeps_no_database(tmp_path: Path) -> None:
    async with Storage(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal", "lock"]


def test_an_aggregator_by_itself_loads_no_database() -> None:
    """It takes 20 MiB of memory."""
    script = (
        "import sys, openfl_aio.aggregator.run; print(*{'sqlalchemy', 'aiosqlite', 'sqlite3'} & sys.modules.keys())"
    )
    assert subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout == "\n"
