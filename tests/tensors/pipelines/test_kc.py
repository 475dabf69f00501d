from __future__ import annotations

import gzip

import numpy as np
import pytest

from openfl_aio.errors import CodecError
from openfl_aio.tensors.encoded import TransformerMetadata
from openfl_aio.tensors.pipelines.kc import KC


def test_the_wire_is_a_table_and_gzipped_indices() -> None:
    data, metadata = KC(n_clusters=2).forward(np.array([[1, 11, 1.5], [10, 1, 0.5]]))
    assert metadata == (
        TransformerMetadata({0: np.nextafter(np.float32(1), 0), 1: 10.5}, (2, 3)),
        TransformerMetadata(),
    )
    assert np.frombuffer(gzip.decompress(data), "<f4").tolist() == [0, 1, 0, 1, 0, 0]


@pytest.mark.parametrize("clusters", [2, 6, 64])
def test_the_error_gets_less_with_the_number_of_clusters(clusters: int) -> None:
    array = np.random.default_rng(1).normal(size=(100, 50)).astype(np.float32)
    pipeline = KC(n_clusters=clusters)
    back = pipeline.backward(*pipeline.forward(array))
    assert len(np.unique(back)) == clusters
    # the error of the best quantiser of a normal distribution falls with the square of the number of levels
    assert float(np.square(back - array).mean()) < 3 / clusters**2


def test_fewer_elements_than_clusters_are_kept() -> None:
    array = np.array([0.25, -3, 0.25], np.float32)
    assert KC().backward(*KC().forward(array)).tolist() == array.tolist()


def test_a_table_in_the_wrong_record_is_refused() -> None:
    data, (first, second) = KC().forward(np.arange(10.0))
    with pytest.raises(CodecError, match="expected indices of a table with 0 values"):
        KC().backward(data, (TransformerMetadata(int_list=first.int_list), second))
