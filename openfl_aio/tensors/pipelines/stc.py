"""STC: sparse ternary compression, and gzip (OpenFL's STCPipeline).

After Sattler et al., "Robust and Communication-Efficient Federated Learning from Non-IID Data" (2019), algorithm 1,
but with OpenFL's mean, which counts the elements that were set to zero too.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from openfl_aio.errors import CodecError
from openfl_aio.tensors.encoded import Buffer, TransformerMetadata
from openfl_aio.tensors.pipelines.floats import element_count, shaped, to_finite_wire
from openfl_aio.tensors.pipelines.settings import check_clusters, check_level, check_share
from openfl_aio.tensors.pipelines.sparsity import keep_largest
from openfl_aio.tensors.pipelines.tables import pack, table_of, unpack

__all__ = ["STC", "from_three_stages"]


class STC:
    """Three stages: the shape; the table of at most three values, ``-m``, 0 and ``m``; gzip.

    Keeps the share ``p_sparsity`` of the elements; ``m`` is the mean magnitude of all. ``n_clusters`` is accepted
    because plans give it; it has no effect, here and in OpenFL 1.6. ``gzip_level`` 9 gives OpenFL's bytes but for the
    clock in them; 6 is ten times as fast. The table is OpenFL's too, in ascending order: with a zero at key 1, which
    its own decoder reads right in the order that protobuf gives so small a table.
    """

    name: ClassVar[str] = "stc"
    lossy: ClassVar[bool] = True

    def __init__(self, *, p_sparsity: float = 0.1, n_clusters: int = 6, gzip_level: int = 9) -> None:
        self._share = check_share("p_sparsity", p_sparsity)
        check_clusters("n_clusters", n_clusters)
        self._level = check_level("gzip_level", gzip_level)

    def forward(self, array: NDArray[Any]) -> tuple[bytes, tuple[TransformerMetadata, ...]]:
        """Return the gzipped indices, the shape, and the table. Raises `CodecError`."""
        wire = to_finite_wire(array)
        sparse = keep_largest(wire.reshape(-1), self._share)
        # a float64 array of its own, because OpenFL has one: the order of the additions decides the last bit
        mean = np.abs(sparse.astype(np.float64)).mean() if sparse.size else 0.0
        signs = np.sign(sparse).astype(np.int8) if mean else np.zeros(sparse.shape, np.int8)
        present = np.flatnonzero(np.bincount(signs + 1, minlength=3)) - 1
        labels = np.searchsorted(present, np.arange(-1, 2)).astype(np.uint8)[signs + 1]
        stages = (TransformerMetadata(int_list=wire.shape), TransformerMetadata(table_of(present * mean)))
        return pack(labels, self._level), (*stages, TransformerMetadata())

    def backward(self, data: Buffer, metadata: tuple[TransformerMetadata, ...]) -> NDArray[np.float32]:
        """Return the read-only float32 array. Raises `CodecError`."""
        return from_three_stages(data, metadata)


def from_three_stages(data: Buffer, metadata: tuple[TransformerMetadata, ...]) -> NDArray[np.float32]:
    """Return the read-only float32 array of SKC and STC. Raises `CodecError`."""
    if len(metadata) != 3:
        raise CodecError(f"expected 3 metadata records, the shape, a table of values and none, got {len(metadata)}")
    shape = metadata[0].int_list
    return shaped(unpack(data, metadata[1].int_to_float, element_count(shape)), shape)
