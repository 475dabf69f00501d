"""Arrays put away in files that nobody sees, so that many of them at once need no memory of their own."""

from __future__ import annotations

import math
import mmap
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from openfl_aio.storage.files import disk_errors, unload_pages

__all__ = ["LEAST_BYTES", "is_put_away", "put_away", "put_away_parts", "unload"]

LEAST_BYTES: Final = 1 << 20
"""A smaller array stays where it is: a file would cost more than it spares."""


def put_away(values: NDArray[Any], folder: Path) -> NDArray[Any]:
    """Return the same values as a read-only view of a new file in ``folder``, which ends with the last view.

    Blocks. Raises `StorageFullError` or another `StorageError`.
    """
    if values.nbytes < LEAST_BYTES:
        return values
    return put_away_parts([values], values.shape, values.dtype, folder)


def put_away_parts(
    parts: Iterable[NDArray[Any]], shape: tuple[int, ...], dtype: np.dtype[Any], folder: Path
) -> NDArray[Any]:
    """Return the values that ``parts`` are one after another like `put_away`; one part is alive at a time."""
    with disk_errors(folder), tempfile.TemporaryFile(dir=folder) as file:
        for part in parts:
            file.write(np.ascontiguousarray(part, dtype).reshape(-1).view(np.uint8).data)
        file.flush()
        mapped = mmap.mmap(file.fileno(), math.prod(shape) * dtype.itemsize, access=mmap.ACCESS_READ)
    return np.frombuffer(mapped, dtype).reshape(shape)


def is_put_away(values: NDArray[Any]) -> bool:
    """Return whether ``values`` lie in a mapped file."""
    return _file_of(values) is not None


def unload(values: NDArray[Any]) -> None:
    """Take ``values`` out of memory until they are read again, if they lie in a mapped file."""
    mapped = _file_of(values)
    if mapped is not None:
        begin = values.ctypes.data - np.frombuffer(mapped, np.uint8).ctypes.data
        unload_pages(mapped, begin, values.nbytes)


def _file_of(values: NDArray[Any]) -> mmap.mmap | None:
    owner: object = values
    while isinstance(owner, np.ndarray | memoryview):
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
    return owner if isinstance(owner, mmap.mmap) else None
