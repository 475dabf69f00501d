"""What is said to be durable is on the disk, with every name on the way to it."""

from __future__ import annotations

from pathlib import Path

import anyio.to_thread
import numpy as np
import pytest

from openfl_aio.storage.archives import Archives
from openfl_aio.storage.checkpoint_file import Checkpoint
from openfl_aio.storage.federations import FileFederation
from openfl_aio.storage.files import make_folder
from openfl_aio.storage.models import ModelFiles, checksum_path
from tests.storage.noted import Disk

pytestmark = pytest.mark.real_time

MODEL = {"w": np.ones(3, np.float32)}


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    disk.install(monkeypatch)
    return disk


def test_a_folder_is_on_the_disk_with_those_above_it(disk: Disk, tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b" / "c"
    assert make_folder(deep)
    assert disk.is_safe(deep, tmp_path)
    disk.fsyncs.clear()
    assert not make_folder(deep)
    assert make_folder(tmp_path / "d", durable=False)
    assert disk.fsyncs == []


async def test_decisions(disk: Disk, tmp_path: Path) -> None:
    federation = FileFederation(tmp_path / "federations" / "f", anyio.to_thread.run_sync)
    await federation.load()
    for number in range(300):
        federation.add({"number": number, "padding": "x" * 50})
        await federation.flush(durable=True)
        assert disk.is_safe(federation.folder / "log", tmp_path)
    await federation.compact(lambda lines: lines, durable=True)
    assert disk.is_safe(federation.folder / "log", tmp_path)


async def test_checkpoints(disk: Disk, tmp_path: Path) -> None:
    federation = FileFederation(tmp_path / "federations" / "f", anyio.to_thread.run_sync)
    for number in range(3):
        await federation.save(Checkpoint(number, {}, {("model", "w"): MODEL["w"]}), durable=True)
        assert disk.is_safe(federation.folder / f"{number}.checkpoint", tmp_path)
        await federation.save_best(number, durable=True)
        assert disk.is_safe(federation.folder / "best.checkpoint", tmp_path)


async def test_models(disk: Disk, tmp_path: Path) -> None:
    path = tmp_path / "save" / "here" / "last.pbuf"
    for number in range(2):
        await ModelFiles().save(path, MODEL, round_number=number)
        assert disk.is_safe(path, tmp_path)
        assert disk.is_safe(checksum_path(path), tmp_path)


async def test_archives(disk: Disk, tmp_path: Path) -> None:
    archives = Archives(tmp_path / "state" / "archives")
    await archives.open()
    async with archives.receive() as sink:
        await sink.write(b"bytes of an archive")
        archive = await sink.keep()
    assert disk.is_safe(archive.path, tmp_path)
