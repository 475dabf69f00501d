from __future__ import annotations

import numpy as np
import pytest

from openfl_aio.tensors.pipelines.hadamard import flip_signs, hadamard


def step_by_step(values: np.ndarray) -> np.ndarray:
    """The transform as it is written down: pair by pair, stage by stage, in float32."""
    out = values.copy()
    half = 1
    while half < len(out):
        for start in range(0, len(out), 2 * half):
            for index in range(start, start + half):
                total = out[index] + out[index + half]
                out[index + half] = total - np.float32(2) * out[index + half]
                out[index] = total
        half *= 2
    return out / np.float32(np.sqrt(len(out)))


@pytest.mark.parametrize("size", [8, 16, 512, 1024, 2048, 4096])
def test_every_bit_is_as_written_down(size: int) -> None:
    values = np.random.default_rng(size).normal(size=size).astype(np.float32)
    expected = step_by_step(values)
    hadamard(values)
    assert values.tobytes() == expected.tobytes()


@pytest.mark.parametrize("size", [8, 1 << 17, 1 << 21])
def test_twice_is_nothing_and_lengths_stay(size: int) -> None:
    values = np.random.default_rng(1).normal(size=size).astype(np.float32)
    before = values.copy()
    hadamard(values)
    assert np.linalg.norm(values) == pytest.approx(np.linalg.norm(before), rel=1e-5)
    hadamard(values)
    assert np.allclose(values, before, atol=1e-5)


def test_signs_are_flipped_back_with_the_same_seed() -> None:
    values = np.arange(1, 65, dtype=np.float32)
    flipped = values.copy()
    flip_signs(flipped, 17)
    assert np.array_equal(np.abs(flipped), values)
    assert 10 < np.count_nonzero(flipped < 0) < 54
    other = values.copy()
    flip_signs(other, 18)
    assert not np.array_equal(flipped, other)
    flip_signs(flipped, 17)
    assert np.array_equal(flipped, values)


def test_the_signs_are_those_of_openfl() -> None:
    # seen in OpenFL 1.6: rand_diag(size=32, seed=12345)
    values = np.ones(32, np.float32)
    flip_signs(values, 12345)
    assert "".join("+" if value > 0 else "-" for value in values) == "+-+-+++-++--++++++-++--++-+--+--"
