from __future__ import annotations

import gzip

import numpy as np

from openfl_aio.tensors.encoded import TransformerMetadata
from openfl_aio.tensors.pipelines.skc import SKC


def test_the_wire_is_the_shape_a_table_and_gzipped_indices() -> None:
    data, metadata = SKC(p_sparsity=0.5).forward(np.array([[0.1, 9, 0.2], [8, 0.3, 8]]))
    assert metadata == (
        TransformerMetadata(int_list=(2, 3)),
        TransformerMetadata({0: 0, 1: 8, 2: 9}),
        TransformerMetadata(),
    )
    assert np.frombuffer(gzip.decompress(data), "<f4").tolist() == [0, 2, 0, 1, 0, 1]


def test_the_largest_are_kept_nearly_and_the_others_are_zero() -> None:
    array = np.random.default_rng(1).normal(size=5000).astype(np.float32)
    pipeline = SKC(p_sparsity=0.1, n_clusters=32)
    back = pipeline.backward(*pipeline.forward(array))
    largest = np.argsort(np.abs(array))[-500:]
    assert np.abs(back[largest] - array[largest]).max() < 0.2
    back_of_others = np.delete(back, largest)
    assert not back_of_others.any()
