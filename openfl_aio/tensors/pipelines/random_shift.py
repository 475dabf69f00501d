"""RandomShift: every element is moved by a random number that travels with it (OpenFL's RandomShiftPipeline).

It makes bytes larger and hides nothing; OpenFL has it to try pipelines out. The numbers are drawn from the values
themselves, so that equal tensors give equal bytes.
"""

from __future__ import annotations

import zlib
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from openfl_aio.errors import CodecError
from openfl_aio.tensors.encoded import Buffer, TransformerMetadata
from openfl_aio.tensors.float_table import FloatTable
from openfl_aio.tensors.pipelines.floats import shaped, to_wire
from openfl_aio.tensors.pipelines.no_compression import NoCompression

__all__ = ["RandomShift"]

_MOST: Final = 20.0


class RandomShift:
    """Two stages: the shape with the shifts, one table entry an element; the shape.

    OpenFL calls it lossless and so do the tags, though adding a number of up to 20 and taking it away again leaves
    an error of up to half a unit in the last place of the sum.
    """

    name: ClassVar[str] = "random_shift"
    lossy: ClassVar[bool] = False
    table_of_elements: ClassVar[bool] = True

    def forward(self, array: NDArray[Any]) -> tuple[memoryview, tuple[TransformerMetadata, ...]]:
        """Return the bytes of the shifted float32 values, and the shifts. Raises `CodecError`."""
        wire = to_wire(array)
        source = np.random.default_rng(zlib.crc32(wire.reshape(-1).view(np.uint8).data))
        shifts = source.uniform(-_MOST, _MOST, wire.shape).astype(np.float32)
        data, shape = NoCompression().forward(wire + shifts)
        return data, (TransformerMetadata(FloatTable(shifts.reshape(-1)), wire.shape), *shape)

    def backward(self, data: Buffer, metadata: tuple[TransformerMetadata, ...]) -> NDArray[np.float32]:
        """Return the read-only float32 array. Raises `CodecError`."""
        if len(metadata) != 2 or metadata[0].int_list != metadata[1].int_list:
            raise CodecError(f"expected 2 metadata records with one shape, got {len(metadata)}")
        shifted = NoCompression().backward(data, metadata[1:])
        table = metadata[0].int_to_float
        if not isinstance(table, FloatTable):
            table = FloatTable(np.fromiter(table.values(), np.float32), np.fromiter(table, np.int32))
        shifts = table.of_each(shifted.size)
        if shifts is None:
            raise CodecError(f"expected one shift for each of {shifted.size} elements, got {len(table)}")
        if not np.isfinite(shifts).all():
            raise CodecError("expected finite shifts, got NaN or infinity")
        try:
            # of a signalling NaN numpy would warn whoever decodes; whether a NaN may come is not decided here
            with np.errstate(over="raise", invalid="ignore"):
                exact = np.subtract(shifted.reshape(-1), shifts, dtype=np.float64)
                return shaped(exact.astype(np.float32), shifted.shape)
        except FloatingPointError as error:
            raise CodecError("expected shifts that leave values in the range of float32, got larger ones") from error
