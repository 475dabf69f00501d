"""Local tensors read slice by slice: what is computed then stays in the processor's cache, and memory stays small.

Means are computed by all processors at once, and are the same to the bit however many. What makes many short calls of
numpy for a slice, as sorting does, is no faster in threads, which then wait for each other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from openfl_aio.errors import TensorError
from openfl_aio.tensors.aggregation.base import AggregationContext, LocalTensor, check_shape, check_weight
from openfl_aio.tensors.delta import apply_delta

__all__ = ["SLICE", "FlatTensor", "Stack", "at_once", "slices_of"]

SLICE: Final = 1 << 16
"""Elements a slice at most: two float64 slices and a float32 one are 1.25 MiB, and calling numpy is not what costs."""

_ROW: Final = 1 << 14  # with many slices side by side the cache is full earlier

_WORTH_A_THREAD: Final = 1 << 19  # elements
_MOST_THREADS: Final = 8  # more wait for the memory


def slices_of(span: slice, step: int = SLICE) -> Iterator[slice]:
    """Return the slices of the elements in ``span``, of ``step`` each but the last."""
    for start in range(span.start, span.stop, step):
        yield slice(start, min(start + step, span.stop))


def at_once(work: Callable[[slice], object], size: int) -> None:
    """Call ``work`` with the spans that ``size`` elements are divided into, one for each processor, in threads.

    ``work`` must give each element what it would get alone. Returns, or raises what one of them raised, when all have
    ended.
    """
    threads = min(_processors(), _MOST_THREADS, size // _WORTH_A_THREAD)
    if threads < 2:
        work(slice(0, size))
        return
    first, *others = slices_of(slice(0, size), -(-size // (threads * SLICE)) * SLICE)
    with ThreadPoolExecutor(max(len(others), 1)) as pool:
        begun = [pool.submit(work, span) for span in others]
        work(first)
    for future in begun:
        future.result()


def _processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class FlatTensor:
    """One local tensor as a sequence of elements in C order."""

    def __init__(self, tensor: LocalTensor) -> None:
        self._values = _flat(tensor.values)
        self._base = None if tensor.base is None else _flat(tensor.base)

    def read(self, part: slice) -> NDArray[Any]:
        """Return the absolute values of a slice, which may be misaligned: to copy them elsewhere costs no more for it.

        Raises `TensorError` if a sum with the base leaves the range of float32.
        """
        values = self._values[part]
        return values if self._base is None else apply_delta(self._base[part], values)


class Stack:
    """The local tensors of one tensor side by side: n collaborators by the elements of a slice.

    Holds all of them; for its own it takes memory for one slice of each. Raises `ShapeMismatchError` when the shapes
    differ, `TensorError` for a weight below 0 or not finite, or when there is no tensor.
    """

    def __init__(self, tensors: Iterable[LocalTensor], context: AggregationContext) -> None:
        self.tensors = tuple(tensors)
        if not self.tensors:
            raise TensorError(
                f"nothing to aggregate for tensor {context.tensor_name!r} in round {context.round_number}: "
                "expected at least one local tensor"
            )
        self.shape = self.tensors[0].shape
        for tensor in self.tensors:
            check_weight(tensor, context)
            check_shape(tensor, self.shape, context)
        self._flat = [FlatTensor(tensor) for tensor in self.tensors]
        self.size = int(np.prod(self.shape, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.tensors)

    def __repr__(self) -> str:
        return f"<Stack {len(self)} tensors of shape {self.shape}>"

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 if that holds every value, else float64."""
        return np.result_type(np.float32, *(tensor.values.dtype for tensor in self.tensors))

    def rows(
        self, *, dtype: np.dtype[Any] | type[np.floating[Any]] = np.float64, only: Sequence[int] | None = None
    ) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Yield each slice and its values, one row a collaborator (of those in ``only``): an array to work in."""
        flat = self._flat if only is None else [self._flat[index] for index in only]
        rows = np.empty((len(flat), min(_ROW, self.size)), dtype)
        for part in slices_of(slice(0, self.size), _ROW):
            block = rows[:, : part.stop - part.start]
            for row, tensor in zip(block, flat, strict=True):
                row[:] = tensor.read(part)
            yield part, block


def _flat(values: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(values).reshape(-1)
