"""What every aggregation function takes and gives."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from openfl_aio.errors import ConfigurationError, ShapeMismatchError, TensorError
from openfl_aio.tensors.delta import apply_delta

__all__ = [
    "NO_STATE",
    "AggregationContext",
    "AggregationFunction",
    "LocalTensor",
    "SelectingFunction",
    "State",
    "StatefulFunction",
    "Step",
    "check_least",
    "check_shape",
    "check_share",
    "check_weight",
    "checked_state",
    "read_only",
]

State: TypeAlias = Mapping[str, NDArray[Any]]
"""What a function wants to know of a tensor in the next round: read-only arrays by name, of float32 or integers."""

NO_STATE: Final[State] = MappingProxyType({})


@dataclass(frozen=True, slots=True, eq=False)
class LocalTensor:
    """One collaborator's values of a tensor. ``weight`` need not be normalised: the number of samples will do.

    With a ``base``, ``values`` are the difference to it. ``kept`` says that somebody else keeps the memory of both
    (the values are a view of a file, say), so that holding on to them costs nothing.
    """

    collaborator: str
    weight: float
    values: NDArray[Any] = field(repr=False)
    base: NDArray[Any] | None = field(default=None, repr=False)
    kept: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor."""
        return self.values.shape

    def array(self) -> NDArray[Any]:
        """Return the absolute values. Raises `TensorError` if a sum with the base leaves the range of float32."""
        return self.values if self.base is None else apply_delta(self.base, self.values)


@dataclass(frozen=True, slots=True, eq=False)
class AggregationContext:
    """What is aggregated: the tensor's name, the round, its tags, and the global value the round began with, if any."""

    tensor_name: str
    round_number: int
    tags: tuple[str, ...] = ()
    base: NDArray[Any] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """The aggregate of one round, and the state with which the next one goes on."""

    values: NDArray[np.float32] = field(repr=False)
    state: State = field(default_factory=dict, repr=False)


class AggregationFunction(ABC):
    """Makes one global tensor of the collaborators' local ones.

    The result depends on the arguments alone: values, weights and their order, and the state if there is one. A caller
    who wants the same result whoever came first passes the tensors in an order of his own, by name. Nothing is kept
    between calls.
    """

    name: ClassVar[str]
    """The name the function is configured by."""

    holds_all: bool = False
    """Whether it holds on to every local tensor until the end, also to those that are not kept."""

    @property
    def least(self) -> int:
        """How many collaborators there must be at least."""
        return 1

    @abstractmethod
    def aggregate(self, tensors: Iterable[LocalTensor], context: AggregationContext) -> NDArray[np.float32]:
        """Return the aggregate: a new, read-only float32 array of the tensors' common shape.

        ``tensors`` is read once; a function that can do so lets go of one that is not ``kept`` before it takes the
        next. Raises `ShapeMismatchError` when the shapes differ, `TensorError` when there is nothing to aggregate.
        """

    def step(self, tensors: Iterable[LocalTensor], context: AggregationContext, state: State = NO_STATE) -> Step:
        """Return the aggregate and the next ``state`` of this tensor; ``state`` is what the round before returned.

        Raises like `aggregate`, and `TensorError` for a state that is not this function's.
        """
        return Step(self.aggregate(tensors, context))


class StatefulFunction(AggregationFunction):
    """A function that goes on from round to round, such as an optimizer. All it remembers goes in and comes out."""

    def aggregate(self, tensors: Iterable[LocalTensor], context: AggregationContext) -> NDArray[np.float32]:
        """Return the aggregate of a first round."""
        return self.step(tensors, context).values

    @abstractmethod
    def step(self, tensors: Iterable[LocalTensor], context: AggregationContext, state: State = NO_STATE) -> Step:
        """Return the aggregate and the next ``state`` of this tensor; no state is the first round."""


class SelectingFunction(AggregationFunction):
    """A function that first chooses collaborators by the distances of their whole models, then combines the chosen ones.

    Their papers speak of one vector a collaborator. So a caller with a model of many tensors adds up their
    `squared_distances`, asks `select` once, and gives each tensor of the chosen ones to `combine`. `aggregate` does
    all three for a single tensor.
    """

    holds_all = True

    @abstractmethod
    def select(self, distances: NDArray[np.float64]) -> tuple[int, ...]:
        """Return who is chosen, in ascending order.

        ``distances`` are the squared distances of n collaborators, an (n, n) array; NaN counts as infinitely far.
        Raises `TensorError` if n is below `least`.
        """

    @abstractmethod
    def combine(self, tensors: Iterable[LocalTensor], context: AggregationContext) -> NDArray[np.float32]:
        """Return the aggregate of the chosen tensors, like `aggregate`."""


def check_shape(tensor: LocalTensor, expected: tuple[int, ...], context: AggregationContext) -> None:
    """Raise `ShapeMismatchError` unless the tensor's shape, and that of its base, is ``expected``."""
    for shape in (tensor.shape, expected if tensor.base is None else tensor.base.shape):
        if shape != expected:
            raise ShapeMismatchError(
                f"expected shape {expected} for tensor {context.tensor_name!r} in round {context.round_number}, "
                f"got {shape} from {tensor.collaborator!r}"
            )


def check_weight(tensor: LocalTensor, context: AggregationContext) -> None:
    """Raise `TensorError` unless the tensor's weight is a number from 0."""
    if not (math.isfinite(tensor.weight) and tensor.weight >= 0):
        raise TensorError(
            f"expected a weight of 0 or more for tensor {context.tensor_name!r}, "
            f"got {tensor.weight} from {tensor.collaborator!r}"
        )


def check_least(function: AggregationFunction, count: int) -> None:
    """Raise `TensorError` if there are fewer collaborators than ``function`` needs."""
    if count < function.least:
        raise TensorError(
            f"{function.name} needs {function.least} collaborators or more, got {count}; "
            "lower what it shall withstand, or let a round close only with enough of them"
        )


def check_share(name: str, value: object, *, most: float, positive: bool = False, below: bool = False) -> float:
    """Return the setting ``value`` as a float between 0 and ``most``, bounds included.

    ``positive`` excludes 0, ``below`` excludes ``most``. Raises `ConfigurationError`.
    """
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= most and value < math.inf
    if not good or (positive and value == 0) or (below and value == most):
        bounds = "above 0" if positive else "from 0"
        bounds += "" if most == math.inf else f" and {'below' if below else 'at most'} {most:g}"
        raise ConfigurationError(f"{name}: expected a number {bounds}, got {value!r:.60}")
    assert isinstance(value, int | float)
    return float(value)


def read_only(values: NDArray[Any]) -> NDArray[Any]:
    """Return ``values``, which nobody can change from now on."""
    values.flags.writeable = False
    return values


def checked_state(state: State, names: Sequence[str], shape: tuple[int, ...], context: AggregationContext) -> None:
    """Raise `TensorError` unless ``state`` is empty or has exactly ``names``, each of ``shape`` or a single number."""
    shapes = {name: array.shape for name, array in state.items()}
    if state and (set(shapes) != set(names) or any(found not in (shape, ()) for found in shapes.values())):
        raise TensorError(
            f"expected the state {sorted(names)} of the shape {shape} for tensor {context.tensor_name!r}, got {shapes}"
        )
