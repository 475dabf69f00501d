"""Aggregation functions: how local tensors become a global one. One published algorithm a module."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from openfl_aio.errors import ConfigurationError
from openfl_aio.tensors.aggregation.adagrad import AdagradAdaptiveAggregation
from openfl_aio.tensors.aggregation.adam import AdamAdaptiveAggregation
from openfl_aio.tensors.aggregation.base import (
    NO_STATE,
    AggregationContext,
    AggregationFunction,
    LocalTensor,
    SelectingFunction,
    State,
    StatefulFunction,
    Step,
)
from openfl_aio.tensors.aggregation.bulyan import Bulyan
from openfl_aio.tensors.aggregation.fedavgm import FedAvgM
from openfl_aio.tensors.aggregation.fedcurv import FedCurvWeightedAverage
from openfl_aio.tensors.aggregation.geometric_median import GeometricMedian
from openfl_aio.tensors.aggregation.krum import Krum, MultiKrum
from openfl_aio.tensors.aggregation.median import Median
from openfl_aio.tensors.aggregation.trimmed_mean import TrimmedMean
from openfl_aio.tensors.aggregation.weighted_average import WeightedAverage
from openfl_aio.tensors.aggregation.yogi import YogiAdaptiveAggregation

__all__ = [
    "KNOWN_AGGREGATIONS",
    "NO_STATE",
    "AdagradAdaptiveAggregation",
    "AdamAdaptiveAggregation",
    "AggregationContext",
    "AggregationFunction",
    "Bulyan",
    "FedAvgM",
    "FedCurvWeightedAverage",
    "GeometricMedian",
    "Krum",
    "LocalTensor",
    "Median",
    "MultiKrum",
    "SelectingFunction",
    "State",
    "StatefulFunction",
    "Step",
    "TrimmedMean",
    "WeightedAverage",
    "YogiAdaptiveAggregation",
    "get_aggregation",
]

_FUNCTIONS: Final[tuple[type[AggregationFunction], ...]] = (
    AdagradAdaptiveAggregation,
    AdamAdaptiveAggregation,
    Bulyan,
    FedAvgM,
    FedCurvWeightedAverage,
    GeometricMedian,
    Krum,
    Median,
    MultiKrum,
    TrimmedMean,
    WeightedAverage,
    YogiAdaptiveAggregation,
)

KNOWN_AGGREGATIONS: Final[Mapping[str, type[AggregationFunction]]] = MappingProxyType(
    {function.name: function for function in _FUNCTIONS}
)
"""Every aggregation function by its name."""


def get_aggregation(name: str, settings: Mapping[str, Any] = MappingProxyType({})) -> AggregationFunction:
    """Return an aggregation function of that name; ``settings`` are its keyword arguments.

    Raises `ConfigurationError`, listing the known names or settings.
    """
    function = KNOWN_AGGREGATIONS.get(name)
    if function is None:
        known = ", ".join(sorted(KNOWN_AGGREGATIONS))
        raise ConfigurationError(f"unknown aggregation function {name!r}; known are: {known}")
    parameters = inspect.signature(function).parameters
    unknown = sorted(str(key) for key in settings if key not in parameters)
    if unknown:
        known = ", ".join(parameters) or "none at all"
        raise ConfigurationError(
            f"aggregation function {name!r}: unknown setting {unknown[0]!r:.60}; known are: {known}"
        )
    return function(**settings)
