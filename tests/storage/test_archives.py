from __future__ import annotations

import io
import resource
import zipfile
from contextlib import aclosing
from pathlib import Path

import anyio.lowlevel
import pytest

from openfl_aio.config import Limits
from openfl_aio.errors import (
    ArchiveError,
    EmptyStreamError,
    MessageTooLargeError,
    NotFoundError,
    StorageError,
    StorageFullError,
)
from openfl_aio.storage.archives import Archive, Archives

pytestmark = pytest.mark.real_time


@pytest.fixture
async def archives(tmp_path: Path) -> Archives:
    made = Archives(tmp_path / "archives", limits=Limits(max_archive_bytes=100_000))
    await made.open()
    return made


def workspace(**members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as zf:
        for name, data in members.items():
            zf.writestr(name, data)
    return out.getvalue()


async def kept(archives: Archives, data: bytes) -> Archive:
    async with archives.receive() as sink:
        for at in range(0, len(data), 100):
            await sink.write(memoryview(data)[at : at + 100])
        return await sink.keep()


def files(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "archives").iterdir())


async def test_a_kept_archive_comes_back_in_chunks(archives: Archives, tmp_path: Path) -> None:
    data = bytes(range(256)) * 10
    archive = await kept(archives, data)
    assert archive.nbytes == len(data)
    assert files(tmp_path) == [archive.path]
    assert await archives.get(archive.id) == archive
    assert await archives.ids() == [archive.id]
    chunks = [chunk async for chunk in archives.chunks(archive, 1000)]
    assert [len(chunk) for chunk in chunks] == [1000, 1000, 560]
    assert b"".join(chunks) == data


async def test_leaving_without_keep_removes(archives: Archives, tmp_path: Path) -> None:
    async with archives.receive() as sink:
        await sink.write(b"half")
        assert len(files(tmp_path)) == 1
    assert files(tmp_path) == []


async def test_a_cancelled_upload_leaves_nothing(archives: Archives, tmp_path: Path) -> None:
    with anyio.CancelScope() as scope:
        async with archives.receive() as sink:
            await sink.write(b"half")
            scope.cancel()
            await anyio.lowlevel.checkpoint()
    assert files(tmp_path) == []


async def test_too_many_bytes(archives: Archives, tmp_path: Path) -> None:
    async with archives.receive(10) as sink:
        await sink.write(b"123456")
        with pytest.raises(MessageTooLargeError, match="more than 10 bytes"):
            await sink.write(b"78901")
    assert files(tmp_path) == []


async def test_nothing_written(archives: Archives) -> None:
    async with archives.receive() as sink:
        with pytest.raises(EmptyStreamError, match="empty"):
            await sink.keep()


async def test_a_full_disk_leaves_nothing(archives: Archives, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StorageFullError, match="no space"):
            await kept(archives, b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(tmp_path) == []


async def test_a_reader_that_leaves_and_an_archive_that_goes(archives: Archives) -> None:
    archive = await kept(archives, b"x" * 500)
    async with aclosing(archives.chunks(archive, 200)) as chunks:
        assert await anext(chunks) == b"x" * 200
        await archives.remove(archive.id)
        assert await anext(chunks) == b"x" * 200
    with pytest.raises(StorageError, match="cannot use"):
        await anext(archives.chunks(archive, 10))


@pytest.mark.parametrize("id", ["../../etc/passwd", "", "0" * 32])
async def test_unknown_and_hostile_ids(archives: Archives, id: str) -> None:
    await archives.remove(id)
    with pytest.raises(NotFoundError, match="no archive"):
        await archives.get(id)


async def test_members_are_read_and_replaced(archives: Archives) -> None:
    archive = await kept(archives, workspace(**{"plan/plan.yaml": b"old", "net.py": b"pass"}))
    assert await archives.members(archive) == ["net.py", "plan/plan.yaml"]
    assert await archives.read_member(archive, "plan/plan.yaml") == b"old"
    changed = await archives.replace_member(archive, "plan/plan.yaml", b"new plan")
    assert changed.id == archive.id
    assert await archives.read_member(changed, "plan/plan.yaml") == b"new plan"
    assert await archives.read_member(changed, "net.py") == b"pass"
    added = await archives.replace_member(changed, "b.py", b"1")
    assert await archives.members(added) == ["b.py", "net.py", "plan/plan.yaml"]
    with pytest.raises(NotFoundError, match=r"no file 'absent.py'"):
        await archives.read_member(added, "absent.py")
    with pytest.raises(ArchiveError, match="more than 3 bytes"):
        await archives.read_member(added, "net.py", limit=3)


async def test_an_archive_that_is_none(archives: Archives) -> None:
    archive = await kept(archives, b"these bytes are no zip file")
    with pytest.raises(ArchiveError, match="not a zip"):
        await archives.read_member(archive, "plan/plan.yaml")
    with pytest.raises(ArchiveError, match="not a zip"):
        await archives.replace_member(archive, "plan/plan.yaml", b"")


async def test_open_sweeps_what_a_killed_process_left(archives: Archives, tmp_path: Path) -> None:
    archive = await kept(archives, b"kept")
    (tmp_path / "archives/.0123.partial").write_bytes(b"half")
    await archives.open()
    assert files(tmp_path) == [archive.path]
