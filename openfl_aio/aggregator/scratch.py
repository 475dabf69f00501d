"""Arrays put away in files that nobody sees, so that many of them at once need no memory of their own."""

from __future__ import annotations

import mmap
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from openfl_aio.storage.files import disk_errors

__all__ = ["LEAST_BYTES", "put_away"]

LEAST_BYTES: Final = 1 << 20
"""A smaller array stays where it is: a file would cost more than it spares."""


def put_away(values: NDArray[Any], folder: Path) -> NDArray[Any]:
    """Return the same values as a read-only view of a new file in ``folder``, which ends with the last view.

    Blocks. Raises `StorageFullError` or another `StorageError`.
    """
    if values.nbytes < LEAST_BYTES:
        return values
    with disk_errors(folder), tempfile.TemporaryFile(dir=folder) as file:
        file.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
        file.flush()
        mapped = mmap.mmap(file.fileno(), values.nbytes, access=mmap.ACCESS_READ)
    return np.frombuffer(mapped, values.dtype).reshape(values.shape)
