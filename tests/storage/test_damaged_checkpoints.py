"""A checkpoint that is not as it was written is never used, and says so; the one before it is used instead."""

from __future__ import annotations

import logging
from pathlib import Path

import anyio.to_thread
import numpy as np
import pytest

from openfl_aio.errors import CorruptFileError
from openfl_aio.storage.checkpoint_file import Checkpoint, read_checkpoint, write_checkpoint
from openfl_aio.storage.federations import FileFederation

pytestmark = pytest.mark.real_time


def checkpoint(round_number: int, elements: int = 200) -> Checkpoint:
    values = np.random.default_rng(round_number).normal(size=elements).astype(np.float32)
    arrays = {("model", "w"): values, ("state", "train", "w", "step"): np.array([round_number])}
    return Checkpoint(round_number, {"best": [0.5, 1, "validate", "accuracy"]}, arrays)


def refused(path: Path, data: bytes) -> bool:
    path.write_bytes(data)
    try:
        read_checkpoint(path)
    except CorruptFileError as exc:
        return path.name in str(exc)
    return False


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a checkpoint of 1 KiB or a little more."""
    path = tmp_path / "7.checkpoint"
    write_checkpoint(path, checkpoint(7), durable=False)
    assert 1024 <= path.stat().st_size < 1400
    return path


def test_cut_at_every_byte(path: Path) -> None:
    whole = path.read_bytes()
    assert [size for size in range(len(whole)) if not refused(path, whole[:size])] == []
    assert not refused(path, whole)


def test_altered_at_every_byte(path: Path) -> None:
    whole = path.read_bytes()
    wrong = []
    for at in range(len(whole)):
        altered = bytearray(whole)
        altered[at] ^= 1 << at % 8
        if not refused(path, bytes(altered)):
            wrong.append(at)
    assert wrong == []


def test_longer_than_it_was_written(path: Path) -> None:
    whole = path.read_bytes()
    for more in (b"\0", b"x" * 64, whole):
        assert refused(path, whole + more)


async def test_the_one_before_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    federation = FileFederation(tmp_path / "federation", anyio.to_thread.run_sync)
    for number in (1, 2):
        await federation.save(checkpoint(number), durable=False)
    (newest,) = [path for path in federation.folder.iterdir() if path.name.startswith("2.")]
    whole = newest.read_bytes()
    for data in (b"", whole[:100], whole[: len(whole) // 2], whole[:-1], whole.replace(b"accuracy", b"accurate")):
        newest.write_bytes(data)
        caplog.clear()
        with caplog.at_level(logging.ERROR):
            stored = await federation.load()
        assert [found.round_number for found in stored.checkpoints] == [1]
        np.testing.assert_array_equal(stored.checkpoints[0].arrays["model", "w"], checkpoint(1).arrays["model", "w"])
        assert newest.name in caplog.text
    newest.write_bytes(whole)
    assert [found.round_number for found in (await federation.load()).checkpoints] == [2, 1]
