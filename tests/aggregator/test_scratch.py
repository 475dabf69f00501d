from __future__ import annotations

import mmap
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from openfl_aio.aggregator.scratch import LEAST_BYTES, put_away, unload
from openfl_aio.errors import StorageError


def test_values_come_back_from_a_file_that_has_no_name(tmp_path: Path) -> None:
    values = np.arange(LEAST_BYTES // 4, dtype=np.float32).reshape(512, -1)
    kept = put_away(values, tmp_path)
    assert np.array_equal(kept, values)
    assert kept.shape == values.shape
    assert not kept.flags.writeable
    assert not np.shares_memory(kept, values)
    assert list(tmp_path.iterdir()) == []


def test_small_values_stay_where_they_are(tmp_path: Path) -> None:
    values = np.zeros(LEAST_BYTES // 4 - 1, np.float32)
    assert put_away(values, tmp_path) is values


def test_a_disk_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nowhere"):
        put_away(np.zeros(LEAST_BYTES, np.uint8), tmp_path / "nowhere")


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says of a mapping")
def test_what_is_unloaded_takes_no_memory_until_it_is_read_again(tmp_path: Path) -> None:
    values = np.arange(LEAST_BYTES, dtype=np.float32)
    kept = put_away(values, tmp_path)
    total = kept.sum()
    assert resident(kept) >= values.nbytes
    unload(kept[1:])  # begins in the midst of a page
    assert resident(kept) <= mmap.PAGESIZE
    assert kept.sum() == total


def test_what_lies_in_memory_is_not_unloaded() -> None:
    values = np.arange(LEAST_BYTES, dtype=np.float32)
    unload(values)
    assert values[-1] == LEAST_BYTES - 1


def resident(values: NDArray[np.float32]) -> int:
    """Return how many bytes of the mapping that ``values`` begin are in memory."""
    begin = f"{values.ctypes.data:x}-"
    _, _, mapping = Path("/proc/self/smaps").read_text(encoding="ascii").partition(begin)
    return int(next(line for line in mapping.splitlines() if line.startswith("Rss:")).split()[1]) * 1024
