"""What all pipelines share: float32 on the wire, and shapes that are checked before any memory is spent on them."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from openfl_aio.errors import CodecError

__all__ = ["WIRE_DTYPE", "element_count", "shaped", "to_finite_wire", "to_wire"]

WIRE_DTYPE: Final = np.dtype("<f4")


def to_wire(array: NDArray[Any]) -> NDArray[np.float32]:
    """Return ``array`` as little-endian float32 in C order, itself if it is that already.

    Raises `CodecError` for values that are no real numbers or lie outside the range of float32.
    """
    array = np.asarray(array)
    if array.dtype.kind not in "fiub":
        raise CodecError(f"expected an array of real numbers, got dtype {array.dtype}; convert it to float32")
    try:
        with np.errstate(over="raise"):
            return array.astype(WIRE_DTYPE, order="C", copy=False)
    except FloatingPointError as error:
        raise CodecError("expected values in the range of float32, got larger ones; scale them down") from error


def to_finite_wire(array: NDArray[Any]) -> NDArray[np.float32]:
    """Return `to_wire`. Raises `CodecError` for NaN and infinity too, which no lossy coding can carry."""
    wire = to_wire(array)
    # both ends tell of any value that is not finite, and need no array of their own
    if wire.size and not (math.isfinite(wire.min()) and math.isfinite(wire.max())):
        raise CodecError("expected finite values, got NaN or infinity; a lossy pipeline cannot carry them")
    return wire


def element_count(shape: tuple[int, ...]) -> int:
    """Return how many elements ``shape`` has, as a Python integer, which does not wrap. Raises `CodecError`."""
    if min(shape, default=0) < 0:
        raise CodecError(f"expected a shape without negative sizes, got {shape}")
    return math.prod(shape)


def shaped(flat: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return ``flat``, which has as many elements, in its shape and read-only.

    Raises `CodecError` for shapes that numpy cannot hold.
    """
    try:
        array = flat.reshape(shape)
    except (ValueError, OverflowError) as error:
        raise CodecError(f"expected a shape that numpy can hold, got {len(shape)} dimensions: {error}") from error
    array.flags.writeable = False
    return array
