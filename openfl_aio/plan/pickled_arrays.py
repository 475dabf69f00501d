"""NumPy's arrays and numbers in a pickle that was read as data: nothing of NumPy's own code for it is called."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from openfl_aio.plan.pickles import Record
from openfl_aio.tensors.aggregation.base import read_only

__all__ = ["array_of", "number_of"]

# NumPy 2 moved them
_WHOLE: Final = frozenset({"numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer"})
_PARTS: Final = frozenset({"numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"})
_SCALAR: Final = frozenset({"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"})
_FLOATS: Final = ("f2", "f4", "f8")
_NUMBERS: Final = (*_FLOATS, "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
_MAX_AXES: Final = 32


def array_of(value: object) -> NDArray[Any] | None:
    """Return the array of floating-point numbers that ``value`` is, read-only; None if it is none.

    It is a view of the bytes in ``value``, however many dimensions are claimed of them.
    """
    if not isinstance(value, Record) or not value.called:
        return None
    if value.path in _WHOLE and len(value.args) == 4:
        data, dtype, shape, order = value.args
        return _array(data, dtype, shape, column_major=order == "F" if isinstance(order, str) else None)
    state = value.state
    if value.path in _PARTS and isinstance(state, tuple) and len(state) == 5:
        _, shape, dtype, column_major, data = state
        return _array(data, dtype, shape, column_major=column_major if isinstance(column_major, bool) else None)
    return None


def number_of(value: object) -> float | int | None:
    """Return the number that ``value`` is, one of Python's or of NumPy's; None if it is none."""
    if isinstance(value, Record) and value.path in _SCALAR and value.called and len(value.args) == 2:
        dtype, data = _dtype(value.args[0], _NUMBERS), value.args[1]
        if dtype is None or not isinstance(data, bytes) or len(data) != dtype.itemsize:
            return None
        found: float | int = np.frombuffer(data, dtype)[0].item()
        return found
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _array(data: object, dtype: object, shape: object, *, column_major: bool | None) -> NDArray[Any] | None:
    kind = _dtype(dtype, _FLOATS)
    if kind is None or column_major is None or not isinstance(data, bytes | bytearray):
        return None
    if not isinstance(shape, tuple) or len(shape) > _MAX_AXES:
        return None
    if not all(type(size) is int and 0 <= size <= len(data) for size in shape):
        return None
    if math.prod(shape) * kind.itemsize != len(data):
        return None
    return read_only(np.frombuffer(data, kind).reshape(shape, order="F" if column_major else "C"))


def _dtype(value: object, known: tuple[str, ...]) -> np.dtype[Any] | None:
    if not isinstance(value, Record) or value.path != "numpy.dtype" or not value.called or not value.args:
        return None
    name, state = value.args[0], value.state
    if name not in known or not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
        return None
    return np.dtype(f"{state[1]}{name}")
