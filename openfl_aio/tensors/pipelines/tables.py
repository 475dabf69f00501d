"""The end of KC, SKC and STC: every element is the index of a value in a short table, and the indices are gzipped.

As OpenFL 1.6 has it, an index travels as a float32, the table is ``int_to_float`` with the keys 0, 1, 2 ..., and the
compressor is gzip, whose clock is left at zero, so that equal tensors give equal bytes. OpenFL compresses at level 9:
a fifth fewer bytes than at level 6, and ten to twenty times as slow.

OpenFL decodes key by key in place, in the order in which a protobuf map happens to lie in memory, so that a value
which is also a key may be looked up once more. Here decoding is one lookup, and tables are written so that no order
hurts.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from openfl_aio.errors import CodecError
from openfl_aio.tensors.encoded import Buffer
from openfl_aio.tensors.pipelines.floats import WIRE_DTYPE

__all__ = ["MAX_VALUES", "coded", "pack", "table_of", "unpack"]

MAX_VALUES: Final = 256
"""Values in a table that we write: an index is one byte until it is packed."""

_GZIP: Final = 31  # window bits of zlib, with a gzip header and trailer
_BLOCK: Final = 1 << 18  # elements at a time, so that what is temporary fits the cache
_DEFLATE_MOST: Final = 1032  # deflate cannot make more bytes of one
_INPUT_BLOCK: Final = 1 << 16


def coded(values: NDArray[Any], labels: NDArray[np.uint8]) -> tuple[dict[int, float], NDArray[np.uint8]]:
    """Return a table of ascending ``values``, as float32, and the indices that stand for ``labels`` in it.

    Zero, if it is there, has the key 0, so that no value equals another one's key.
    """
    ordered = np.asarray(values, np.float32)
    zero = np.flatnonzero(ordered == 0)[:1]
    order = np.concatenate((zero, np.delete(np.arange(len(ordered)), zero)))
    return table_of(ordered[order]), np.argsort(order).astype(np.uint8)[labels]


def table_of(values: NDArray[Any]) -> dict[int, float]:
    """Return the table of ``values``, as float32, in their order.

    One that equals another one's key, and is not zero, is moved by one unit in its last place.
    """
    table = dict(enumerate(np.asarray(values, np.float32).tolist()))
    for key, value in table.items():
        if value and value != key and value in table:
            table[key] = float(np.nextafter(np.float32(value), np.float32(-1)))
    return table


def pack(indices: NDArray[np.uint8], level: int) -> bytes:
    """Return the flat ``indices`` as float32, gzipped at ``level`` (1 to 9)."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, _GZIP)
    parts = [
        compressor.compress(indices[start : start + _BLOCK].astype(WIRE_DTYPE).data)
        for start in range(0, len(indices), _BLOCK)
    ]
    parts.append(compressor.flush())
    return b"".join(parts)


def unpack(data: Buffer, table: Mapping[int, float], count: int) -> NDArray[np.float32]:
    """Return the ``count`` values that gzipped indices stand for, flat and writeable.

    Takes memory for ``count`` elements, and only if ``data`` can hold so many.

    Raises `CodecError` for a table whose keys are not 0, 1, 2 ... or whose values are not finite, for anything but one
    whole gzip stream of just ``count`` indices, and for an index that the table does not have.
    """
    values = _table_values(table)
    floats = _inflate(memoryview(data).cast("B"), count)
    for start in range(0, count, _BLOCK):
        block = floats[start : start + _BLOCK]
        with np.errstate(invalid="ignore"):  # NaN and what is too large for an integer fail the comparison
            indices = block.astype(np.int64)
        if not np.array_equal(indices, block) or indices.min() < 0 or indices.max() >= len(values):
            raise CodecError(f"expected indices of a table with {len(values)} values, got others")
        np.take(values, indices, out=block, mode="clip")  # already checked; "raise" would buffer
    return floats


def _table_values(table: Mapping[int, float]) -> NDArray[np.float32]:
    if any(key not in table for key in range(len(table))):
        raise CodecError(f"expected the keys 0 to {len(table) - 1} in a table of values, got others")
    values = [table[key] for key in range(len(table))]
    if not all(math.isfinite(value) for value in values):
        raise CodecError("expected finite values in a table, got NaN or infinity")
    with np.errstate(over="ignore"):  # a protobuf float has no more range; only code that makes metadata itself can
        return np.array(values, np.float32)


def _inflate(data: memoryview, count: int) -> NDArray[np.float32]:
    size = count * WIRE_DTYPE.itemsize
    if size > _DEFLATE_MOST * len(data):
        raise CodecError(f"expected {count} elements, which {len(data)} compressed bytes cannot hold")
    floats = np.empty(count, WIRE_DTYPE)
    room = floats.view(np.uint8)
    stream = zlib.decompressobj(_GZIP)
    filled = position = 0
    try:
        while not stream.eof:
            if not stream.unconsumed_tail and position == len(data):
                raise CodecError("expected a whole gzip stream, the bytes end within it")
            source: Buffer = stream.unconsumed_tail
            if not source:
                source = data[position : position + _INPUT_BLOCK]
                position += len(source)
            # one byte more than there is room for, to see that there is more
            piece = stream.decompress(source, min(size - filled, 4 * _BLOCK) + 1)
            if filled + len(piece) > size:
                raise CodecError(f"expected {size} bytes of indices, got more")
            room[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
            filled += len(piece)
    except zlib.error as error:
        raise CodecError(f"expected a gzip stream: {error}") from error
    if filled != size or stream.unused_data or position != len(data):
        raise CodecError(
            f"expected one gzip stream with {size} bytes of indices, got {filled} bytes"
            + (" and something after it" if stream.unused_data or position != len(data) else "")
        )
    return floats
