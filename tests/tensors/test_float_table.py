from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from openfl_aio.tensors.float_table import FloatTable

floats = st.floats(width=32, allow_nan=False)
small_keys = st.integers(-3, 12)
any_keys = st.integers(-(2**31), 2**31 - 1)


@given(st.lists(st.tuples(st.one_of(small_keys, any_keys), floats), max_size=20))
@example([(0, 0.0), (0, 1.0)])
def test_it_is_the_dictionary_of_its_entries(entries: list[tuple[int, float]]) -> None:
    table = FloatTable(np.array([value for _, value in entries]), np.array([key for key, _ in entries], np.int32))
    expected = dict(sorted(dict(entries).items()))
    assert list(table.items()) == list(expected.items())
    assert table == expected
    assert len(table) == len(expected)
    for key in (-4, 0, 5, 13):
        assert (key in table) is (key in expected)
    assert (table.of_each(len(table)) is not None) is (list(expected) == list(range(len(expected))))


@given(st.permutations(range(9)))
def test_keys_that_count_from_0_take_no_memory_in_whatever_order_they_come(keys: list[int]) -> None:
    table = FloatTable(np.array(keys) * 0.5, np.array(keys, np.int32))
    assert table.keys_ is None
    values = table.of_each(9)
    assert values is not None
    assert values.tolist() == [key * 0.5 for key in range(9)]
    assert table.of_each(8) is None


def test_what_is_not_there_is_a_key_error() -> None:
    for table in (FloatTable(np.zeros(2)), FloatTable(np.zeros(2), np.array([1, 5], np.int32))):
        assert table.keys().isdisjoint(["1"])
        for key in (-1, 2, 6):
            assert table.get(key) is None
            with pytest.raises(KeyError):
                table[key]
    assert repr(FloatTable(np.zeros(2))) == "<FloatTable of 2>"
