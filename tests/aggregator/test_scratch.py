from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from openfl_aio.aggregator.scratch import LEAST_BYTES, put_away
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
