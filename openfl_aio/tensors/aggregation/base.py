"""What every aggregation function takes and gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from openfl_aio.errors import ShapeMismatchError

__all__ = ["AggregationContext", "AggregationFunction", "LocalTensor", "check_shape"]


@dataclass(frozen=True, slots=True, eq=False)
class LocalTensor:
    """One collaborator's values of a tensor. ``weight`` need not be normalised: the number of samples will do."""

    collaborator: str
    weight: float
    values: NDArray[Any] = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class AggregationContext:
    """What is aggregated: the tensor's name, the round, its tags, and the global value the round began with, if any."""

    tensor_name: str
    round_number: int
    tags: tuple[str, ...] = ()
    base: NDArray[Any] | None = field(default=None, repr=False)


class AggregationFunction(ABC):
    """Makes one global tensor of the collaborators' local ones.

    The result depends on the arguments alone: values, weights and their order. A caller who wants the same result
    whoever came first passes the tensors in an order of his own, by name. Nothing is kept between calls.
    """

    name: ClassVar[str]
    """The name the function is configured by."""

    @abstractmethod
    def aggregate(self, tensors: Iterable[LocalTensor], context: AggregationContext) -> NDArray[np.float32]:
        """Return the aggregate: a new, read-only float32 array of the tensors' common shape.

        ``tensors`` is read once; a function that can do so lets go of one before it takes the next. Raises
        `ShapeMismatchError` when the shapes differ, `TensorError` when there is nothing to aggregate.
        """


def check_shape(tensor: LocalTensor, expected: tuple[int, ...], context: AggregationContext) -> None:
    """Raise `ShapeMismatchError` unless the tensor's shape is ``expected``."""
    if tensor.values.shape != expected:
        raise ShapeMismatchError(
            f"expected shape {expected} for tensor {context.tensor_name!r} in round {context.round_number}, "
            f"got {tensor.values.shape} from {tensor.collaborator!r}"
        )
