"""SKC: sparsity, k-means and gzip (OpenFL's SKCPipeline)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from openfl_aio.tensors.encoded import Buffer, TransformerMetadata
from openfl_aio.tensors.pipelines.floats import to_finite_wire
from openfl_aio.tensors.pipelines.kmeans import cluster
from openfl_aio.tensors.pipelines.settings import check_clusters, check_level, check_share
from openfl_aio.tensors.pipelines.sparsity import keep_largest
from openfl_aio.tensors.pipelines.stc import from_three_stages
from openfl_aio.tensors.pipelines.tables import coded, pack

__all__ = ["SKC"]


class SKC:
    """Three stages: the shape; the table of values; gzip.

    Keeps the share ``p_sparsity`` of the elements, and of those and the zeros ``n_clusters`` values, which are not
    the random ones of OpenFL but those with the least error (see `kmeans`).
    """

    name: ClassVar[str] = "skc"
    lossy: ClassVar[bool] = True

    def __init__(self, *, p_sparsity: float = 0.1, n_clusters: int = 6, gzip_level: int = 6) -> None:
        self._share = check_share("p_sparsity", p_sparsity)
        self._clusters = check_clusters("n_clusters", n_clusters)
        self._level = check_level("gzip_level", gzip_level)

    def forward(self, array: NDArray[Any]) -> tuple[bytes, tuple[TransformerMetadata, ...]]:
        """Return the gzipped indices, the shape, and the table. Raises `CodecError`."""
        wire = to_finite_wire(array)
        centres, labels = cluster(keep_largest(wire.reshape(-1), self._share), self._clusters)
        table, indices = coded(centres, labels)
        stages = (TransformerMetadata(int_list=wire.shape), TransformerMetadata(table))
        return pack(indices, self._level), (*stages, TransformerMetadata())

    def backward(self, data: Buffer, metadata: tuple[TransformerMetadata, ...]) -> NDArray[np.float32]:
        """Return the read-only float32 array. Raises `CodecError`."""
        return from_three_stages(data, metadata)
