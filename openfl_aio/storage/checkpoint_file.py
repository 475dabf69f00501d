"""One checkpoint as one file: named arrays, then what is known of them, then how to find that.

=====================  =====================================================================================
arrays                 one after another, each filled up with zeros to a multiple of 64 bytes
index                  JSON: the checkpoint's own values, and key, dtype, shape, place and checksum of each array
footer, 28 bytes       offset of the index (8), length of the index (4), number of arrays (4), CRC-32 of the index (4),
                       magic (8)
=====================  =====================================================================================

A file that was cut anywhere, is longer than it says, or was altered in any byte is told from a whole one.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from openfl_aio.errors import CorruptFileError
from openfl_aio.storage.checksum import Checksum, checksum
from openfl_aio.storage.files import disk_errors, writing_atomic

__all__ = ["Checkpoint", "Key", "read_checkpoint", "write_checkpoint"]

MAGIC: Final = b"oflckpt2"
FOOTER: Final = struct.Struct("<QIII8s")
ALIGNMENT: Final = 64
PART: Final = 1 << 20  # bytes that are written and summed at a time, while they are in the cache

Key = tuple[str, ...]
"""The name of an array in a checkpoint."""


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """What a federation needs to go on in round ``round_number``: ``values`` that JSON can say, and arrays by key.

    Arrays that were read lie in the file, mapped and read-only: they take no memory of their own.
    """

    round_number: int
    values: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[Key, NDArray[Any]] = field(default_factory=dict, repr=False)


def write_checkpoint(path: Path, checkpoint: Checkpoint, *, durable: bool) -> None:
    """Write ``checkpoint`` to ``path``, all or nothing. Blocks. Raises `StorageFullError`, `StorageError`."""
    places: list[list[Any]] = []
    position = 0
    with writing_atomic(path, mode=0o600, durable=durable) as file:
        for key, array in checkpoint.arrays.items():
            raw = _raw(array)
            summed = Checksum()
            for start in range(0, len(raw), PART):
                part = raw[start : start + PART]
                summed.add(part)
                file.write(part)
            padding = bytes(-len(raw) % ALIGNMENT)
            summed.add(memoryview(padding))
            file.write(padding)
            places.append([list(key), array.dtype.str, list(array.shape), position, summed.value])
            position += len(raw) + len(padding)
        index = json.dumps([checkpoint.round_number, dict(checkpoint.values), places], separators=(",", ":")).encode()
        file.write(index)
        file.write(FOOTER.pack(position, len(index), len(places), zlib.crc32(index), MAGIC))


def read_checkpoint(path: Path, *, check: bool = True) -> Checkpoint:
    """Read the file at ``path``, and ``check`` every byte of it. Blocks.

    Raises `CorruptFileError`, and `StorageError` if it cannot be read.
    """
    with disk_errors(path), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < FOOTER.size:
            raise _corrupt(path, f"has {size} bytes, which is no whole checkpoint")
        mapped = memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ))
    position, length, count, of_index, magic = FOOTER.unpack(mapped[-FOOTER.size :])
    if magic != MAGIC or position + length + FOOTER.size != size:
        raise _corrupt(path, f"has {size} bytes, which is no whole checkpoint")
    index = mapped[position : position + length]
    if zlib.crc32(index) != of_index:
        raise _corrupt(path, "has an index that does not fit its checksum")
    round_number, values, places = json.loads(bytes(index))
    if len(places) != count:
        raise _corrupt(path, f"has {len(places)} arrays, its footer says {count}")
    arrays = {tuple(place[0]): _array(path, mapped, *place, check=check) for place in places}
    return Checkpoint(round_number, values, arrays)


def _raw(array: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _array(
    path: Path,
    mapped: memoryview,
    key: list[str],
    dtype: str,
    shape: list[int],
    position: int,
    expected: int,
    *,
    check: bool,
) -> NDArray[Any]:
    kind = np.dtype(dtype)
    nbytes = math.prod(shape) * kind.itemsize
    whole = mapped[position : position + nbytes + -nbytes % ALIGNMENT]
    if check and checksum(whole) != expected:
        raise _corrupt(path, f"has an array {'/'.join(key)!r} that does not fit its checksum")
    return np.frombuffer(whole, kind, math.prod(shape)).reshape(shape)


def _corrupt(path: Path, what: str) -> CorruptFileError:
    return CorruptFileError(f"the checkpoint {str(path)!r} {what}; it is not used")
