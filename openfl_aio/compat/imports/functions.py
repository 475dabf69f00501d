"""OpenFL 1.6's aggregation functions and their optimizers by name, and nothing of what they do.

An archive's pickled tasks refer to them, because the frontend keeps the functions there too. They are called at the
director, never at a site.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from openfl_aio.compat.imports.utilities import SingletonABCMeta

__all__ = [
    "AdagradAdaptiveAggregation",
    "AdamAdaptiveAggregation",
    "AdaptiveAggregation",
    "AggregationFunction",
    "FedCurvWeightedAverage",
    "GeometricMedian",
    "Median",
    "NumPyAdagrad",
    "NumPyAdam",
    "NumPyYogi",
    "Optimizer",
    "PrivilegedAggregationFunction",
    "WeightedAverage",
    "YogiAdaptiveAggregation",
    "weighted_average",
]


class AggregationFunction(metaclass=SingletonABCMeta):
    """Base of every aggregation function."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take whatever a function of that name takes."""

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: sites do not aggregate."""
        raise NotImplementedError(f"{type(self).__name__} is for the director, which aggregates; a site does not")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Do what `call` does."""
        return self.call(*args, **kwargs)


def weighted_average(tensors: Any, weights: Any) -> Any:
    """Return the average of ``tensors`` (a sequence or one array, along the first axis) by ``weights``."""
    return np.average(tensors, weights=weights, axis=0)


class WeightedAverage(AggregationFunction):
    """The average by samples."""


class Median(AggregationFunction):
    """The median of each value."""


class GeometricMedian(AggregationFunction):
    """The geometric median."""


class FedCurvWeightedAverage(AggregationFunction):
    """The average by samples, and sums for the terms of FedCurv."""


class AdaptiveAggregation(AggregationFunction):
    """Base of the functions that take the round as a gradient."""


class AdagradAdaptiveAggregation(AdaptiveAggregation):
    """Adagrad on the rounds."""


class AdamAdaptiveAggregation(AdaptiveAggregation):
    """Adam on the rounds."""


class YogiAdaptiveAggregation(AdaptiveAggregation):
    """Yogi on the rounds."""


class PrivilegedAggregationFunction(AggregationFunction):
    """Base of the functions that may change the history."""


class Optimizer:
    """Base of the optimizers inside the adaptive functions."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take whatever an optimizer of that name takes."""


class NumPyAdagrad(Optimizer):
    """Adagrad."""


class NumPyAdam(Optimizer):
    """Adam."""


class NumPyYogi(Optimizer):
    """Yogi."""
