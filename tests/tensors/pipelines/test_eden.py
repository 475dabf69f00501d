from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from openfl_aio.errors import CodecError
from openfl_aio.tensors.encoded import TransformerMetadata
from openfl_aio.tensors.pipelines.eden import Eden
from openfl_aio.tensors.pipelines.eden_centroids import boundaries, centroids


def lengths_of(metadata: tuple[TransformerMetadata, ...]) -> list[float]:
    table = metadata[0].int_to_float
    return [table[key] for key in range(3, len(table), 2)]


@pytest.mark.parametrize(
    ("count", "lengths"),
    [(1, [8]), (7, [8, 8, 8]), (8, [8]), (9, [8, 8]), (100, [64, 32, 8]), (128, [128]), (120, [128]), (1000, [1024])],
)
def test_a_tensor_is_cut_to_powers_of_two(count: int, lengths: list[int]) -> None:
    pipeline = Eden(dim_threshold=1)
    data, metadata = pipeline.forward(np.arange(count, dtype=np.float32))
    assert lengths_of(metadata) == lengths
    assert len(data) == sum(lengths)
    assert metadata[0].int_to_float[1] == count
    back = pipeline.backward(data, metadata)
    assert np.linalg.norm(back - np.arange(count)) <= 0.02 * np.linalg.norm(np.arange(count))


@pytest.mark.parametrize(
    ("bits", "least", "most"),
    # the error of the best quantiser of so many bits for a normal distribution, as a share of the variance
    [(1, 0.30, 0.60), (2, 0.09, 0.14), (3, 0.028, 0.037), (4, 0.0080, 0.0102), (6, 0.0005, 0.0008), (8, 2e-5, 6e-5)],
)
def test_the_error_is_that_of_normally_distributed_numbers(bits: int, least: float, most: float) -> None:
    # with few large and many small values: the rotation makes anything look normally distributed
    array = (np.random.default_rng(1).standard_t(2, size=(128, 128)) * 0.01).astype(np.float32)
    pipeline = Eden(n_bits=bits)
    data, metadata = pipeline.forward(array)
    back = pipeline.backward(data, metadata)
    assert len(data) == array.size * bits // 8
    assert least < float(np.square(back - array).sum() / np.square(array).sum()) < most


def test_the_error_has_no_direction() -> None:
    source = np.random.default_rng(1)
    array = source.normal(size=256).astype(np.float32)
    pipeline = Eden(n_bits=1)
    total = np.zeros(256)
    for number in range(300):
        # another seed, because a bit is another
        shifted = array + np.float32(1e-6 * number)
        total += pipeline.backward(*pipeline.forward(shifted))
    assert np.linalg.norm(total / 300 - array) < 0.15 * np.linalg.norm(array)


def test_nothing_but_zeros_stays_so() -> None:
    data, metadata = Eden().forward(np.zeros(500))
    assert not Eden().backward(data, metadata).any()


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e30])
def test_tiny_and_huge_values_pass(scale: float) -> None:
    array = (np.random.default_rng(1).normal(size=200) * scale).astype(np.float32)
    back = Eden().backward(*Eden().forward(array))
    assert np.linalg.norm((back - array) / np.float32(scale)) < 0.3


def test_values_whose_sum_is_beyond_float32_are_refused() -> None:
    array = np.full(1 << 12, 3e38, np.float32)
    with pytest.raises(CodecError, match="expected values whose sum is in the range of float32"):
        Eden().forward(array)


def test_tensors_below_the_threshold_travel_as_they_are() -> None:
    small, enough = np.arange(99, dtype=np.float32), np.arange(100, dtype=np.float32)
    data, metadata = Eden().forward(small)
    assert bytes(data) == small.tobytes()
    assert metadata == (TransformerMetadata(int_list=(99,)),)
    # 1.6 cannot read a tensor of just the threshold that is not compressed
    assert Eden().forward(enough)[1][0].int_to_float
    assert Eden().backward(enough.tobytes(), (TransformerMetadata(int_list=(100,)),)).tolist() == enough.tolist()


def test_an_empty_tensor_is_never_compressed() -> None:
    data, metadata = Eden(dim_threshold=0).forward(np.empty((0, 3)))
    assert metadata == (TransformerMetadata(int_list=(0, 3)),)
    assert Eden().backward(data, metadata).shape == (0, 3)


def test_a_count_that_float32_has_not_is_read() -> None:
    # 2**24 + 1 travels as 2**24, because the table has float32 values; what is wrong here comes after it
    table = {0: 0.0, 1: float(1 << 24), 2: math.nan, 3: float(1 << 24), 4: 0.0, 5: 8.0}
    with pytest.raises(CodecError, match="expected finite scales"):
        Eden(n_bits=1).backward(bytes((1 << 21) + 1), (TransformerMetadata(table, ((1 << 24) + 1,)),))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({0: -1.0}, "expected a seed from 0 to 65535, got -1.0"),
        ({0: 65536.0}, "expected a seed"),
        ({0: 0.5}, "expected a seed"),
        ({0: math.nan}, "expected a seed"),
        ({1: 101.0}, r"expected a table of 100 elements in slices of \[64, 32, 8\], got another"),
        ({3: 32.0}, "expected a table of 100 elements"),
        ({8: 1.0}, "expected a table of 100 elements"),
        ({2: math.nan}, "expected finite scales"),
        ({4: math.inf}, "expected finite scales"),
        ({2: 3e38}, "expected scales that leave values in the range of float32"),
    ],
)
def test_another_table_is_refused(changes: dict[int, float], message: str) -> None:
    data, metadata = Eden().forward(np.arange(100.0))
    changed = TransformerMetadata({**metadata[0].int_to_float, **changes}, (100,))
    with pytest.raises(CodecError, match=message):
        Eden().backward(data, (changed,))


def test_a_missing_entry_is_refused() -> None:
    data, metadata = Eden().forward(np.arange(100.0))
    for key in metadata[0].int_to_float:
        table = {k: value for k, value in metadata[0].int_to_float.items() if k != key}
        with pytest.raises(CodecError, match=r"expected a (seed|table)"):
            Eden().backward(data, (TransformerMetadata(table, (100,)),))


def test_other_bits_are_refused_by_their_number() -> None:
    data, metadata = Eden(n_bits=4).forward(np.arange(128.0))
    with pytest.raises(CodecError, match="expected the bits of an array of shape"):
        Eden(n_bits=8).backward(data, metadata)
    with pytest.raises(CodecError, match="expected 2 bits for each of 128 elements, got 64 bytes"):
        Eden(n_bits=2).backward(data, metadata)


def test_a_shape_that_the_bytes_cannot_fill_takes_no_memory() -> None:
    data, metadata = Eden().forward(np.arange(128.0))
    tracemalloc.start()
    try:
        with pytest.raises(CodecError, match="expected the bits of an array of shape"):
            Eden().backward(data, (TransformerMetadata(metadata[0].int_to_float, (1 << 60,)),))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("bits", range(1, 9))
def test_centroids_are_those_of_a_normal_distribution(bits: int) -> None:
    values = centroids(bits)
    assert len(values) == 2**bits
    assert (np.diff(values) > 0).all()
    assert np.array_equal(values, -values[::-1])
    assert len(boundaries(bits)) == 2**bits - 1
    # Lloyd-Max: each is the mean of what is rounded to it
    numbers = np.random.default_rng(1).normal(size=400_000).astype(np.float32)
    bins = np.searchsorted(boundaries(bits), numbers)
    counts = np.bincount(bins, minlength=2**bits)
    means = np.bincount(bins, weights=numbers, minlength=2**bits) / np.maximum(counts, 1)
    many = counts > 500
    assert np.abs(means - values)[many].max() < 0.02
