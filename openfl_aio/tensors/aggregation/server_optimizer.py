"""Server optimizers: the mean change of a round is taken for a gradient (Reddi et al. 2021, "Adaptive Federated
Optimization", algorithm 2), here what they share.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from openfl_aio.tensors.aggregation.base import (
    NO_STATE,
    AggregationContext,
    LocalTensor,
    State,
    StatefulFunction,
    Step,
    check_share,
    checked_state,
    read_only,
)
from openfl_aio.tensors.aggregation.slices import at_once
from openfl_aio.tensors.aggregation.weighted_average import Mean

__all__ = ["ServerOptimizer"]


class ServerOptimizer(StatefulFunction):
    """Moves each tensor of the global model by an optimizer, with ``model - weighted average`` as the gradient.

    Computed in float64; the state is float32 arrays of the tensor's shape and ``steps``, how many were made. A tensor
    that the global model does not have is averaged by weights, and has no state.
    """

    moments: ClassVar[tuple[str, ...]]
    """The names of the arrays in the state."""

    def __init__(self, *, learning_rate: float, initial_accumulator_value: float = 0.0) -> None:
        self._learning_rate = check_share("learning_rate", learning_rate, most=np.inf)
        self._initial = check_share("initial_accumulator_value", initial_accumulator_value, most=np.inf)

    def step(
        self,
        tensors: Iterable[LocalTensor],
        context: AggregationContext,
        state: State = NO_STATE,
        *,
        start: NDArray[Any] | None = None,
    ) -> Step:
        """Return the moved tensor and the next state. Raises `TensorError` as well for a foreign state.

        ``start``: what the first step moves, where that is not the global model; the gradient is still of the model.
        """
        mean = Mean(tensors, context)
        if context.base is None:
            return Step(mean.array())
        checked_state(state, (*self.moments, "steps"), mean.shape, context)
        base = np.asarray(context.base).reshape(-1)
        moved = base if start is None or state else np.asarray(start).reshape(-1)
        steps = int(state["steps"]) + 1 if state else 1
        before = {name: state[name].reshape(-1) for name in self.moments} if state else {}
        values = np.empty(mean.shape, np.float32)
        after = {name: np.empty(mean.shape, np.float32) for name in self.moments}

        def move(span: slice) -> None:
            with np.errstate(over="ignore", invalid="ignore"):
                for part, target in mean.slices(span):
                    gradient = np.subtract(base[part], target, out=target)
                    model = moved[part].astype(np.float64)
                    moments = {
                        name: before[name][part].astype(np.float64)
                        if before
                        else np.full(gradient.shape, self._initial)
                        for name in self.moments
                    }
                    model -= self._learning_rate * self.direction(gradient, moments, steps)
                    values.reshape(-1)[part] = model
                    for name, array in after.items():
                        array.reshape(-1)[part] = moments[name]

        at_once(move, mean.size)
        numbers = {name: read_only(array) for name, array in after.items()}
        return Step(read_only(values), {**numbers, "steps": read_only(np.array(steps, np.int64))})

    @abstractmethod
    def direction(
        self, gradient: NDArray[np.float64], moments: Mapping[str, NDArray[np.float64]], steps: int
    ) -> NDArray[np.float64]:
        """Return where to go from a slice's ``gradient``, and update its ``moments`` in place; ``steps`` counts from 1.

        Several threads call it, each with slices of its own.
        """
