"""A model file that is not as it was written is never loaded: cut, altered at any byte, or without its checksum's text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from openfl_aio.errors import CorruptFileError
from openfl_aio.storage.models import ModelFiles, checksum_path

pytestmark = pytest.mark.real_time


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """Return a model file of 1 KiB or a little more, with three tensors."""
    path = tmp_path / "last.pbuf"
    values = np.random.default_rng(0).normal(size=(3, 80)).astype(np.float32)
    await ModelFiles().save(path, dict(zip("abc", values, strict=True)), round_number=3)
    assert 1024 <= path.stat().st_size < 1400
    return path


async def refused(path: Path, data: bytes) -> bool:
    path.write_bytes(data)
    try:
        await ModelFiles().load(path)
    except CorruptFileError as exc:
        return path.name in str(exc)
    return False


async def test_cut_at_every_byte(path: Path) -> None:
    whole = path.read_bytes()
    assert [size for size in range(len(whole)) if not await refused(path, whole[:size])] == []
    assert not await refused(path, whole)


async def test_altered_at_every_byte(path: Path) -> None:
    whole = path.read_bytes()
    wrong = []
    for at in range(len(whole)):
        altered = bytearray(whole)
        altered[at] ^= 1 << at % 8
        if not await refused(path, bytes(altered)):
            wrong.append(at)
    assert wrong == []


async def test_its_checksum_cut_or_altered_at_every_byte(path: Path) -> None:
    beside = checksum_path(path)
    whole = beside.read_bytes()
    model = path.read_bytes()
    wrong = []
    for at in range(len(whole) - 1):  # the last byte ends the line
        altered = bytearray(whole)
        altered[at] ^= 1
        for data in (whole[:at], bytes(altered)):
            beside.write_bytes(data)
            if not await refused(path, model):
                wrong.append((at, data))
    assert wrong == []


async def test_an_empty_checksum_is_not_a_missing_one(path: Path) -> None:
    """Else a loss of power that empties it would let a model pass that lost its last tensors."""
    checksum_path(path).write_bytes(b"")
    with pytest.raises(CorruptFileError, match="checksum"):
        await ModelFiles().load(path)
    await ModelFiles().save(path, {"a": np.ones(3, np.float32)}, round_number=4)
    assert (await ModelFiles().load(path)).round_number == 4
