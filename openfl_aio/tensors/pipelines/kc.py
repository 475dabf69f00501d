"""KC: k-means and gzip. Each element becomes the nearest of a few values (OpenFL's KCPipeline)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from openfl_aio.errors import CodecError
from openfl_aio.tensors.encoded import Buffer, TransformerMetadata
from openfl_aio.tensors.pipelines.floats import element_count, shaped, to_finite_wire
from openfl_aio.tensors.pipelines.kmeans import cluster
from openfl_aio.tensors.pipelines.settings import check_clusters, check_level, check_share
from openfl_aio.tensors.pipelines.tables import coded, pack, unpack

__all__ = ["KC"]


class KC:
    """Two stages: the shape and the table of values; gzip.

    ``p_sparsity`` is accepted because plans give it; it has no effect, here and in OpenFL 1.6. The centres are not
    the random ones of OpenFL but those with the least error (see `kmeans`), so the bytes differ and the error is at
    most as large.
    """

    name: ClassVar[str] = "kc"
    lossy: ClassVar[bool] = True

    def __init__(self, *, p_sparsity: float = 0.01, n_clusters: int = 6, gzip_level: int = 6) -> None:
        check_share("p_sparsity", p_sparsity)
        self._clusters = check_clusters("n_clusters", n_clusters)
        self._level = check_level("gzip_level", gzip_level)

    def forward(self, array: NDArray[Any]) -> tuple[bytes, tuple[TransformerMetadata, ...]]:
        """Return the gzipped indices, and the shape with the table. Raises `CodecError`."""
        wire = to_finite_wire(array)
        centres, labels = cluster(wire.reshape(-1), self._clusters)
        table, indices = coded(centres, labels)
        return pack(indices, self._level), (TransformerMetadata(table, wire.shape), TransformerMetadata())

    def backward(self, data: Buffer, metadata: tuple[TransformerMetadata, ...]) -> NDArray[np.float32]:
        """Return the read-only float32 array. Raises `CodecError`."""
        if len(metadata) != 2:
            raise CodecError(
                f"expected 2 metadata records, the shape with a table of values and none, got {len(metadata)}"
            )
        shape = metadata[0].int_list
        return shaped(unpack(data, metadata[0].int_to_float, element_count(shape)), shape)
