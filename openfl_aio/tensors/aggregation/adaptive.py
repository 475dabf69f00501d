"""AdaptiveAggregation: a server optimizer for the tensors that it has, and another function for all others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openfl_aio.errors import ShapeMismatchError, TensorError
from openfl_aio.tensors.aggregation.base import (
    NO_STATE,
    AggregationContext,
    AggregationFunction,
    LocalTensor,
    State,
    StatefulFunction,
    Step,
)
from openfl_aio.tensors.aggregation.server_optimizer import ServerOptimizer

__all__ = ["AdaptiveAggregation"]


class AdaptiveAggregation(StatefulFunction):
    """OpenFL's of this name: ``optimizer`` moves the tensors in ``params``, from the values there on.

    Those are usually the initial model's; where they differ, the first round jumps to them, as it does with OpenFL.
    ``otherwise`` aggregates every tensor that has no name in ``params``, an optimizer's state at the sites for example.
    """

    name = "adaptive"

    def __init__(
        self, optimizer: ServerOptimizer, *, params: Mapping[str, NDArray[Any]], otherwise: AggregationFunction
    ) -> None:
        self.optimizer = optimizer
        self.params = dict(params)
        self.otherwise = otherwise
        self.holds_all = otherwise.holds_all

    @property
    def least(self) -> int:
        """How many collaborators there must be at least."""
        return max(self.optimizer.least, self.otherwise.least)

    def step(self, tensors: Iterable[LocalTensor], context: AggregationContext, state: State = NO_STATE) -> Step:
        """Return the aggregate and the next state.

        Raises `TensorError` for a tensor in ``params`` that the global model does not have, `ShapeMismatchError` for one
        of another shape there.
        """
        start = self.params.get(context.tensor_name)
        if start is None:
            return self.otherwise.step(tensors, context, state)
        if context.base is None:
            raise TensorError(
                f"{self.optimizer.name} is to move tensor {context.tensor_name!r}, which the global model does not have; "
                "leave it out of the function's params"
            )
        if np.shape(context.base) != start.shape:
            raise ShapeMismatchError(
                f"expected shape {start.shape} for tensor {context.tensor_name!r}, as in the params of "
                f"{self.optimizer.name}, got {np.shape(context.base)} in the global model"
            )
        return self.optimizer.step(tensors, context, state, start=start)
