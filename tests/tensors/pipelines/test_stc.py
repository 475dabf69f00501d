from __future__ import annotations

import gzip

import numpy as np
import pytest

from openfl_aio.tensors.encoded import TransformerMetadata
from openfl_aio.tensors.pipelines.stc import STC


def test_the_wire_is_the_shape_a_table_and_gzipped_indices() -> None:
    data, metadata = STC(p_sparsity=0.5).forward(np.array([[0.1, 9, 0.2], [8, 0.3, -4]]))
    mean = float(np.float32((9 + 8 + 4) / 6))
    # what is kept is raised by 1e-7 because a negative is among it, which float32 does not show here
    assert metadata == (
        TransformerMetadata(int_list=(2, 3)),
        TransformerMetadata({0: -mean, 1: 0, 2: mean}),
        TransformerMetadata(),
    )
    assert np.frombuffer(gzip.decompress(data), "<f4").tolist() == [1, 2, 1, 2, 1, 0]


@pytest.mark.parametrize(
    ("array", "share", "table"),
    [
        ([1.0, 0.1, 0.1, 0.1], 0.25, {0: 0.0, 1: 0.25}),
        ([-1.0, 0.1, 0.1, 0.1], 0.25, {0: -0.25, 1: 0.0}),
        ([2.0, 4.0], 1.0, {0: 3.0}),
        ([2.0, -4.0], 1.0, {0: -3.0, 1: 3.0}),
        ([-np.float32(1e-7)], 1.0, {0: 0.0}),  # raised to just nothing
        ([], 1.0, {}),
    ],
)
def test_the_table_has_only_what_is_used(array: list[float], share: float, table: dict[int, float]) -> None:
    pipeline = STC(p_sparsity=share)
    data, metadata = pipeline.forward(np.array(array, np.float32))
    assert metadata[1].int_to_float == pytest.approx(table, abs=1e-6)
    assert pipeline.backward(data, metadata).shape == (len(array),)


def test_every_kept_element_becomes_plus_or_minus_the_mean() -> None:
    array = np.random.default_rng(1).normal(size=1000).astype(np.float32)
    back = STC().backward(*STC().forward(array))
    kept = back != 0
    assert np.count_nonzero(kept) == 100
    assert (np.sign(back[kept]) == np.sign(array[kept])).all()
    assert np.unique(np.abs(back[kept])).tolist() == pytest.approx([np.abs(array[kept]).sum() / 1000], rel=1e-6)


def test_level_nine_is_smaller_and_means_the_same() -> None:
    array = np.random.default_rng(1).normal(size=20_000)
    small, large = STC().forward(array), STC(gzip_level=1).forward(array)
    assert len(small[0]) < len(large[0])
    assert np.array_equal(STC().backward(*small), STC().backward(*large))
