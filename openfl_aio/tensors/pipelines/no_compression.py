"""NoCompression: float32, little endian, C order, and nothing else (OpenFL's NoCompressionPipeline)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from openfl_aio.errors import CodecError
from openfl_aio.tensors.encoded import Buffer, TransformerMetadata
from openfl_aio.tensors.pipelines.floats import WIRE_DTYPE, element_count, shaped, to_wire

__all__ = ["NoCompression"]


class NoCompression:
    """The lossless pipeline: one stage, whose ``int_list`` is the shape. Neither way copies what is float32 already."""

    name: ClassVar[str] = "no_compression"
    lossy: ClassVar[bool] = False

    def forward(self, array: NDArray[Any]) -> tuple[memoryview, tuple[TransformerMetadata, ...]]:
        """Return the float32 bytes of ``array``, a view of it if it is contiguous float32, and its shape.

        Raises `CodecError` for values that are no real numbers or lie outside the range of float32.
        """
        wire = to_wire(array)
        # Through uint8, because a memoryview cannot cast an empty array to bytes.
        data = wire.reshape(-1).view(np.uint8).data.toreadonly()
        return data, (TransformerMetadata(int_list=wire.shape),)

    def backward(self, data: Buffer, metadata: tuple[TransformerMetadata, ...]) -> NDArray[np.float32]:
        """Return a read-only float32 view of ``data`` in the shape that ``metadata`` tells.

        Raises `CodecError` when there is not exactly one record, or its shape does not fit the bytes.
        """
        if len(metadata) != 1:
            raise CodecError(f"expected 1 metadata record with the shape, got {len(metadata)}")
        shape = metadata[0].int_list
        nbytes = memoryview(data).nbytes
        # Sizes are compared as Python integers first: numpy would wrap around, and -1 would mean "guess".
        if min(shape, default=0) < 0 or element_count(shape) * WIRE_DTYPE.itemsize != nbytes:
            raise CodecError(f"expected the bytes of a float32 array of shape {shape}, got {nbytes} bytes")
        return shaped(np.frombuffer(data, dtype=WIRE_DTYPE), shape)
