"""WeightedAverage: the mean weighted by the number of samples (federated averaging, McMahan et al. 2017, algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from openfl_aio.errors import TensorError
from openfl_aio.tensors.aggregation.base import (
    AggregationContext,
    AggregationFunction,
    LocalTensor,
    check_shape,
    check_weight,
    read_only,
)
from openfl_aio.tensors.aggregation.slices import SLICE, FlatTensor, at_once, slices_of

__all__ = ["Mean", "WeightedAverage"]


class WeightedAverage(AggregationFunction):
    """``sum(weight * values) / sum(weight)``, summed in float64, given as float32.

    Tensors that are kept are read slice by slice, and take no memory. Of others one is alive at a time, beside one
    float64 array of the shape. A weight of 0 leaves a tensor out. NaN and infinity pass into the result: refuse them
    before, where the sender is known.
    """

    name = "weighted_average"

    def aggregate(self, tensors: Iterable[LocalTensor], context: AggregationContext) -> NDArray[np.float32]:
        """Return the average. Raises `TensorError` as well for a weight below 0 or not finite, or when all are 0."""
        return Mean(tensors, context).array()


class Mean:
    """A weighted mean: takes all ``tensors`` at once, and gives the result in slices.

    The sum goes from the first to the last whatever is kept, so that this makes no difference to the result. It is
    divided by ``total_weight``, that of all tensors unless given.
    Raises like `WeightedAverage.aggregate`.
    """

    def __init__(
        self, tensors: Iterable[LocalTensor], context: AggregationContext, *, total_weight: float | None = None
    ) -> None:
        self._total: NDArray[np.float64] | None = None
        self._run: list[tuple[FlatTensor, float]] = []
        self._total_weight = 0.0
        first = True
        for tensor in tensors:
            check_weight(tensor, context)
            if first:
                self.shape, first = tensor.shape, False
                self.size = int(np.prod(self.shape, dtype=np.int64))
            check_shape(tensor, self.shape, context)
            if tensor.weight > 0:
                self._total_weight += tensor.weight
                self._run.append((FlatTensor(tensor), tensor.weight))
                if not tensor.kept:
                    self._add_run()
        if self._total_weight == 0:
            raise TensorError(
                f"nothing to average for tensor {context.tensor_name!r} in round {context.round_number}: "
                "expected at least one local tensor with a weight above 0"
            )
        if total_weight is not None:
            self._total_weight = total_weight

    def __repr__(self) -> str:
        return f"<Mean of shape {self.shape}, weights {self._total_weight:g}>"

    def slices(self, span: slice) -> Iterator[tuple[slice, NDArray[np.float64]]]:
        """Yield each slice of the result in ``span``, which stays until the next."""
        sums, product = np.empty((2, min(SLICE, span.stop - span.start)))
        for part in slices_of(span):
            out = sums[: part.stop - part.start]
            with np.errstate(over="ignore", invalid="ignore"):
                if self._total is not None:
                    out[:] = self._total[part]
                self._add_to(out, product, part, fresh=self._total is None)
                out /= self._total_weight
            yield part, out

    def array(self) -> NDArray[np.float32]:
        """Return the result as a read-only array."""
        result = np.empty(self.shape, np.float32)
        flat = result.reshape(-1)

        def write(span: slice) -> None:
            with np.errstate(over="ignore", invalid="ignore"):
                for part, mean in self.slices(span):
                    flat[part] = mean

        at_once(write, self.size)
        return read_only(result)

    def _add_run(self) -> None:
        """Add up what was collected, and let go of it."""
        fresh = self._total is None
        total = np.empty(self.size) if self._total is None else self._total

        def add(span: slice) -> None:
            product = np.empty(min(SLICE, span.stop - span.start))
            with np.errstate(over="ignore", invalid="ignore"):
                for part in slices_of(span):
                    self._add_to(total[part], product, part, fresh=fresh)

        at_once(add, self.size)
        self._total = total
        self._run.clear()

    def _add_to(self, sums: NDArray[np.float64], space: NDArray[np.float64], part: slice, *, fresh: bool) -> None:
        """Add a slice of what was collected to ``sums``; ``fresh`` sums hold nothing yet. Works in ``space``."""
        product = space[: sums.size]
        for flat, weight in self._run:
            out = sums if fresh else product
            # to float64 first and then times: faster than one call that does both
            out[:] = flat.read(part)
            out *= weight
            if not fresh:
                sums += product
            fresh = False
