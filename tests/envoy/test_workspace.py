from __future__ import annotations

import io
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from openfl_aio.config import Limits
from openfl_aio.envoy.workspace import Workspaces
from openfl_aio.errors import ArchiveError, InvalidStateError, OpenFLAioError, StorageError

pytestmark = pytest.mark.real_time


def zipped(**files: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return buffer.getvalue()


async def stream(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 50):
        yield data[start : start + 50]


def left(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


async def test_a_run_has_its_files_and_leaves_nothing(tmp_path: Path) -> None:
    async with Workspaces(tmp_path, limits=Limits()) as workspaces:
        async with workspaces.run(stream(zipped(module="x = 1"))) as run:
            assert await anyio.Path(run.source / "module").read_text() == "x = 1"
            assert run.log.parent.is_dir()
            assert left(tmp_path / "archives") == []
        assert left(tmp_path) == ["archives", "runs"]
    assert left(tmp_path) == []


async def test_without_a_folder_it_is_a_temporary_one() -> None:
    workspaces = Workspaces(None, limits=Limits())
    async with workspaces:
        folder = workspaces.folder
        async with workspaces.run(stream(zipped(module="x"))):
            assert folder.is_dir()
    assert not folder.exists()
    with pytest.raises(InvalidStateError):
        _ = workspaces.folder
    assert "None" in repr(workspaces)


async def test_what_a_killed_envoy_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "runs" / "old").mkdir(parents=True)
    (tmp_path / "mine").write_text("stays")
    async with Workspaces(tmp_path, limits=Limits()):
        assert left(tmp_path) == ["archives", "mine", "runs"]


@pytest.mark.parametrize("data", [b"no zip at all", zipped(**{"../out": "x"}), zipped(big="x" * 2000)])
async def test_a_bad_archive_leaves_nothing(tmp_path: Path, data: bytes) -> None:
    async with Workspaces(tmp_path, limits=Limits(max_unpacked_bytes=1000)) as workspaces:
        with pytest.raises(ArchiveError):
            async with workspaces.run(stream(data)):
                pass
        assert left(tmp_path) == ["archives", "runs"]


async def test_an_archive_that_is_too_large_leaves_nothing(tmp_path: Path) -> None:
    async with Workspaces(tmp_path, limits=Limits(max_archive_bytes=100)) as workspaces:
        with pytest.raises(OpenFLAioError):
            async with workspaces.run(stream(zipped(big="x" * 2000))):
                pass
        assert left(tmp_path) == ["archives", "runs"]


async def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        async with Workspaces(tmp_path / "file", limits=Limits()):
            pass
