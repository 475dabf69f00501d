from __future__ import annotations

import math

import numpy as np
import pytest

from openfl_aio.errors import CodecError
from openfl_aio.tensors.encoded import TransformerMetadata
from openfl_aio.tensors.pipelines.random_shift import RandomShift


def test_the_shifts_travel_one_an_element() -> None:
    array = np.array([[1, 2], [3, 4]], np.float32)
    data, metadata = RandomShift().forward(array)
    shifts = list(metadata[0].int_to_float.values())
    assert [record.int_list for record in metadata] == [(2, 2), (2, 2)]
    assert all(-20 <= shift < 20 for shift in shifts)
    assert np.frombuffer(data, "<f4").tolist() == [
        np.float32(a) + np.float32(b) for a, b in zip(array.flat, shifts, strict=True)
    ]


def test_the_error_is_half_a_unit_in_the_last_place_of_the_sum() -> None:
    array = np.random.default_rng(1).normal(size=1000).astype(np.float32)
    back = RandomShift().backward(*RandomShift().forward(array))
    assert np.abs(back - array).max() <= np.spacing(np.float32(np.abs(array).max() + 20)) / 2


@pytest.mark.parametrize(
    "table", [{}, {0: 1.0}, {0: 1.0, 2: 1.0}, {0: 1.0, 1: 1.0, 2: 1.0}, {0: 1.0, 1: math.nan}, {0: 1.0, 1: math.inf}]
)
def test_a_shift_too_few_or_too_many_or_not_finite_is_refused(table: dict[int, float]) -> None:
    stages = (TransformerMetadata(table, (2,)), TransformerMetadata(int_list=(2,)))
    with pytest.raises(CodecError, match=r"expected (one shift for each|finite shifts)"):
        RandomShift().backward(bytes(8), stages)


def test_two_shapes_are_refused() -> None:
    stages = (TransformerMetadata({0: 1.0, 1: 1.0}, (2, 1)), TransformerMetadata(int_list=(2,)))
    with pytest.raises(CodecError, match="expected 2 metadata records with one shape"):
        RandomShift().backward(bytes(8), stages)


def test_a_shift_out_of_the_range_of_float32_is_refused() -> None:
    stages = (TransformerMetadata({0: -3e38}, (1,)), TransformerMetadata(int_list=(1,)))
    with pytest.raises(CodecError, match="expected shifts that leave values in the range of float32"):
        RandomShift().backward(np.array([3e38], "<f4").tobytes(), stages)


def test_of_a_signalling_nan_nobody_is_warned() -> None:
    stages = (TransformerMetadata(int_to_float={0: 1.0}, int_list=(1,)), TransformerMetadata(int_list=(1,)))
    assert np.isnan(RandomShift().backward(np.array([0x7F800001], "<u4").tobytes(), stages)).all()
