"""OpenFL 1.6's aggregation functions by name, as functions of a user's own build on them.

A director aggregates by ours (`openfl_aio.tensors.aggregation`), which these only wrap; they are called where a user's own
function, in a child process of the director's, calls or extends one of OpenFL's. At a site pickles refer to them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from openfl_aio.compat.imports.optimizers import NumPyAdagrad, NumPyAdam, NumPyYogi, Optimizer
from openfl_aio.compat.imports.utilities import LocalTensor, SingletonABCMeta
from openfl_aio.tensors.aggregation import AggregationContext, get_aggregation
from openfl_aio.tensors.aggregation import LocalTensor as OurTensor

__all__ = [
    "AdagradAdaptiveAggregation",
    "AdamAdaptiveAggregation",
    "AdaptiveAggregation",
    "AggregationFunction",
    "FedCurvWeightedAverage",
    "GeometricMedian",
    "Median",
    "PrivilegedAggregationFunction",
    "WeightedAverage",
    "YogiAdaptiveAggregation",
    "geometric_median",
    "weighted_average",
]


class AggregationFunction(metaclass=SingletonABCMeta):
    """Base of every aggregation function: subclasses say `call`."""

    def __init__(self) -> None:
        self._privileged = False

    def call(self, local_tensors: Any, db_iterator: Any, tensor_name: str, fl_round: int, tags: Any) -> Any:
        """Return the aggregate of ``local_tensors``, whose weights add up to 1."""
        raise NotImplementedError(f"{type(self).__name__} has no method `call`")

    def __call__(self, local_tensors: Any, db_iterator: Any, tensor_name: str, fl_round: int, tags: Any) -> Any:
        """Do what `call` does."""
        return self.call(local_tensors, db_iterator, tensor_name, fl_round, tags)


class PrivilegedAggregationFunction(AggregationFunction):
    """Base of the functions that are given the database to write to in place of an iterator over it."""

    def __init__(self) -> None:
        super().__init__()
        self._privileged = True


class _OfOurs(AggregationFunction):
    """One that keeps nothing between calls."""

    _name: ClassVar[str]

    def call(
        self, local_tensors: Any, db_iterator: Any = (), tensor_name: str = "", fl_round: int = 0, tags: Any = ()
    ) -> Any:
        """Return the aggregate as a new array."""
        tensors = [OurTensor(str(name), float(weight), np.asarray(values)) for name, values, weight in local_tensors]
        context = AggregationContext(tensor_name, fl_round, tuple(tags))
        return np.array(get_aggregation(self._name).aggregate(tensors, context))


class WeightedAverage(_OfOurs):
    """The average by samples."""

    _name = "weighted_average"


class Median(_OfOurs):
    """The median of each value."""

    _name = "median"


class GeometricMedian(_OfOurs):
    """The geometric median."""

    _name = "geometric_median"


class FedCurvWeightedAverage(_OfOurs):
    """The average by samples, and sums for the terms of FedCurv."""

    _name = "fedcurv_weighted_average"


def weighted_average(tensors: Any, weights: Any) -> Any:
    """Return the average of ``tensors`` (a sequence or one array, along the first axis) by ``weights``."""
    return np.average(tensors, weights=weights, axis=0)


def geometric_median(tensors: Iterable[Any], weights: Iterable[float]) -> Any:
    """Return the geometric median of ``tensors`` by ``weights``."""
    pairs = zip(tensors, weights, strict=True)
    return GeometricMedian().call([LocalTensor(str(at), *pair) for at, pair in enumerate(pairs)])


class AdaptiveAggregation(AggregationFunction):
    """Takes the mean change of a round for a gradient and lets ``optimizer`` make a step (Reddi et al. 2021).

    Tensors that the optimizer does not have are aggregated by ``agg_func``.
    """

    def __init__(self, optimizer: Optimizer, agg_func: AggregationFunction) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.default_agg_func = agg_func

    def call(self, local_tensors: Any, db_iterator: Any, tensor_name: str, fl_round: int, tags: Any) -> Any:
        """Return the optimizer's new parameter. Raises `KeyError` if the database has no model of this round."""
        if tensor_name not in self.optimizer.params:
            return self.default_agg_func(local_tensors, db_iterator, tensor_name, fl_round, tags)
        for row in db_iterator:
            if row["round"] == fl_round and row["tensor_name"] == tensor_name and "model" in row["tags"]:
                base = row["nparray"]
                break
        else:
            raise KeyError(f"there is no model of round {fl_round} with a tensor {tensor_name!r}")
        gradient = sum(tensor.weight * (base - tensor.tensor) for tensor in local_tensors)
        self.optimizer.step({tensor_name: gradient})
        return self.optimizer.params[tensor_name]


class _OptimizerOnRounds(AdaptiveAggregation):
    """One of OpenFL's optimizers on the rounds: ``settings`` are those of `_optimizer`."""

    _optimizer: ClassVar[type[NumPyAdagrad | NumPyAdam]]

    def __init__(self, *, agg_func: AggregationFunction | None = None, **settings: Any) -> None:
        super().__init__(self._optimizer(**settings), agg_func or WeightedAverage())


class AdagradAdaptiveAggregation(_OptimizerOnRounds):
    """Adagrad on the rounds."""

    _optimizer = NumPyAdagrad


class AdamAdaptiveAggregation(_OptimizerOnRounds):
    """Adam on the rounds."""

    _optimizer = NumPyAdam


class YogiAdaptiveAggregation(_OptimizerOnRounds):
    """Yogi on the rounds."""

    _optimizer = NumPyYogi
