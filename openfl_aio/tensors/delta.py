"""Differences between two versions of a tensor.

OpenFL 1.6's ``TensorCodec.generate_delta`` and ``apply_delta`` (``openfl.pipelines.tensor_codec``), to the bit for the
float32 arrays that travel; ``tests/interop_openfl/test_delta.py`` compares them. Ours refuse what does not fit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from openfl_aio.errors import ShapeMismatchError, TensorError

__all__ = ["apply_delta", "delta", "round_to_delta"]


def delta(new: NDArray[Any], base: NDArray[Any]) -> NDArray[np.float32]:
    """Return ``new - base``: a new, read-only float32 array, computed in float32 as peers do.

    Raises `ShapeMismatchError`, or `TensorError` when a difference leaves the range of float32.
    """
    return _combine(np.subtract, new, base, what="difference")


def apply_delta(base: NDArray[Any], delta: NDArray[Any]) -> NDArray[np.float32]:
    """Return ``base + delta``: a new, read-only float32 array, computed in float32 as peers do.

    Raises `ShapeMismatchError`, or `TensorError` when a sum leaves the range of float32.
    """
    return _combine(np.add, base, delta, what="sum")


def round_to_delta(values: NDArray[np.float32], base: NDArray[Any], step: int = 1 << 15) -> None:
    """Change ``values`` to ``base + (values - base)`` in float32, what those get who apply the delta; ``step`` at a time.

    Then ``base + delta(values, base)`` is ``values`` again, to the bit: what the sum was rounded by is less than the
    difference can say, so nothing but the values need be kept. Raises like `delta`.
    """
    if values.shape != base.shape:
        raise ShapeMismatchError(f"expected a tensor and its base of one shape, got {values.shape} and {base.shape}")
    flat, flat_base = values.reshape(-1), base.reshape(-1)
    for start in range(0, flat.size, step):
        part = slice(start, start + step)
        flat[part] = apply_delta(flat_base[part], delta(flat[part], flat_base[part]))


def _combine(operation: np.ufunc, left: NDArray[Any], right: NDArray[Any], *, what: str) -> NDArray[np.float32]:
    # Never broadcast: a (3,) delta on a (2, 3) base is an error of the sender.
    if left.shape != right.shape:
        raise ShapeMismatchError(
            f"expected a tensor and its delta or base of one shape, got {left.shape} and {right.shape}"
        )
    result = np.empty(left.shape, np.float32)
    try:
        with np.errstate(over="raise", invalid="ignore"):
            operation(left, right, out=result, dtype=np.float32, casting="same_kind")
    except FloatingPointError as error:
        raise TensorError(f"expected a {what} of tensors in the range of float32, got a larger one") from error
    result.flags.writeable = False
    return result
