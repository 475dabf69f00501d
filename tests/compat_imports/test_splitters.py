from __future__ import annotations

import numpy as np
import pytest

from openfl_aio.compat.imports import splitters

LABELS = np.repeat(np.arange(4), 50)


@pytest.mark.parametrize(
    "splitter",
    [
        splitters.EqualNumPyDataSplitter(),
        splitters.RandomNumPyDataSplitter(seed=3),
        splitters.LogNormalNumPyDataSplitter(0, 2.0, 4, 2, 5),
        splitters.DirichletNumPyDataSplitter(),
    ],
    ids=lambda splitter: type(splitter).__name__,
)
def test_nobody_gets_a_sample_twice(splitter: splitters.DataSplitter) -> None:
    parts = splitter.split(LABELS, 4)
    dealt = np.concatenate([np.asarray(part, int) for part in parts])
    assert len(parts) == 4
    assert len(np.unique(dealt)) == len(dealt)
    again = splitter.split(LABELS, 4)
    for part, same in zip(parts, again, strict=True):
        np.testing.assert_array_equal(part, same)


def test_every_site_gets_its_minimum() -> None:
    parts = splitters.LogNormalNumPyDataSplitter(0, 2.0, 4, 2, 5).split(LABELS, 8)
    for site, part in enumerate(parts):
        counts = [splitters.get_label_count(LABELS[np.asarray(part)], label) for label in range(4)]
        assert all(count >= 5 for label, count in enumerate(counts) if label in (site % 4, (site + 1) % 4))
    with pytest.raises(SystemError, match="expected 120 samples for every site"):
        splitters.LogNormalNumPyDataSplitter(0, 2.0, 4, 2, 60).split(LABELS, 4)


def test_equal_parts_in_order_and_rows_of_one() -> None:
    parts = splitters.EqualNumPyDataSplitter(shuffle=False).split(LABELS, 4)
    np.testing.assert_array_equal(parts[1], np.arange(50, 100))
    np.testing.assert_array_equal(splitters.one_hot(np.array([1, 0]), 2), [[0, 1], [1, 0]])
