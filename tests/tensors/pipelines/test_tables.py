from __future__ import annotations

import gzip
import math
import tracemalloc

import numpy as np
import pytest

from openfl_aio.errors import CodecError
from openfl_aio.tensors.pipelines.tables import coded, pack, table_of, unpack

TABLE = {0: -1.5, 1: 0.0, 2: 2.5}


def packed(*indices: float) -> bytes:
    return gzip.compress(np.array(indices, "<f4").tobytes())


def test_indices_travel_as_gzipped_float32() -> None:
    data = pack(np.array([0, 2, 1], np.uint8), 9)
    assert np.frombuffer(gzip.decompress(data), "<f4").tolist() == [0, 2, 1]
    assert unpack(data, TABLE, 3).tolist() == [-1.5, 2.5, 0.0]


@pytest.mark.parametrize("level", [1, 6, 9])
def test_millions_of_indices_pass_block_by_block(level: int) -> None:
    indices = (np.arange(1_500_001) % 251 % 3).astype(np.uint8)
    data = pack(indices, level)
    # in one piece or in blocks, gzip gives the same but for its header
    assert gzip.compress(indices.astype("<f4").tobytes(), level, mtime=0)[10:] == data[10:]
    assert np.array_equal(unpack(data, TABLE, len(indices)), np.array([-1.5, 0, 2.5], np.float32)[indices])


def test_the_clock_is_not_in_the_bytes() -> None:
    assert pack(np.zeros(1, np.uint8), 9)[4:8] == bytes(4)


def test_decoding_is_one_lookup_and_no_chain_of_replacements() -> None:
    assert unpack(packed(1, 1, 2, 2), {0: 1.0, 1: 2.0, 2: 0.0}, 4).tolist() == [2.0, 2.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 7.0], [math.nextafter(1.0, 0.0), 7.0]),  # OpenFL would turn all 0 to 1, and all 1 to 7
        ([0.0, 1.0, 2.0], [0.0, 1.0, 2.0]),  # equal to their own keys: nothing is turned twice
        ([-1.0, 0.0, 5.0], [0.0, -1.0, 5.0]),  # zero has the key 0
        ([-1.0, -0.0, 1.0], [0.0, -1.0, math.nextafter(1.0, 0.0)]),
        ([1.5, 3.0], [1.5, 3.0]),
        ([], []),
    ],
)
def test_no_value_equals_another_ones_key(values: list[float], expected: list[float]) -> None:
    labels = np.arange(len(values), dtype=np.uint8)
    table, indices = coded(np.array(values), labels)
    assert list(table) == list(range(len(values)))
    assert list(table.values()) == pytest.approx(expected, rel=1e-6)
    assert all(value == key or value not in table for key, value in table.items())
    assert [table[index] for index in indices.tolist()] == pytest.approx(values, rel=1e-6)


def test_a_table_in_its_own_order_keeps_its_zero() -> None:
    table = table_of(np.array([-1.0, 0.0, 1.0]))
    assert list(table.values()) == [-1.0, 0.0, float(np.nextafter(np.float32(1), np.float32(0)))]


@pytest.mark.parametrize("index", [3, -1, 0.5, math.nan, math.inf, 1e30, -1e30])
def test_an_index_beyond_the_table_is_refused(index: float) -> None:
    with pytest.raises(CodecError, match="expected indices of a table with 3 values"):
        unpack(packed(0, index), TABLE, 2)


@pytest.mark.parametrize("table", [{1: 0.0}, {0: 0.0, 2: 0.0}, {-1: 0.0, 0: 0.0}])
def test_a_table_with_other_keys_is_refused(table: dict[int, float]) -> None:
    with pytest.raises(CodecError, match="expected the keys 0 to"):
        unpack(packed(0), table, 1)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_table_with_values_that_are_not_finite_is_refused(value: float) -> None:
    with pytest.raises(CodecError, match="expected finite values in a table"):
        unpack(packed(0), {0: value}, 1)


def test_no_elements_need_no_table() -> None:
    assert unpack(packed(), {}, 0).shape == (0,)
    with pytest.raises(CodecError, match="expected indices of a table with 0 values"):
        unpack(packed(0), {}, 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected 2 elements, which 0 compressed bytes cannot hold"),
        (b"no gzip", "expected a gzip stream"),
        (packed(0), "expected one gzip stream with 8 bytes of indices, got 4 bytes"),
        (packed(0, 0, 0), "expected 8 bytes of indices, got more"),
        (packed(0, 0)[:-1], "expected a whole gzip stream, the bytes end within it"),
        (packed(0, 0) + b"x", "and something after it"),
        (packed(0, 0) + packed(), "and something after it"),
        (packed(0, 0) + bytes(1 << 17), "and something after it"),
        (packed(0, 0)[:-8] + bytes(8), "expected a gzip stream: .*incorrect data check"),
    ],
)
def test_anything_but_one_gzip_stream_of_the_right_length_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        unpack(data, TABLE, 2)


def test_a_bomb_is_stopped_before_it_takes_memory() -> None:
    bomb = gzip.compress(bytes(64 << 20))  # 64 KiB that become 64 MiB
    tracemalloc.start()
    try:
        with pytest.raises(CodecError, match="expected 400 bytes of indices, got more"):
            unpack(bomb, TABLE, 100)
        with pytest.raises(CodecError, match="compressed bytes cannot hold"):
            unpack(bomb, TABLE, 2**50)
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()
