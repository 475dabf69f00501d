"""Aggregation functions: how local tensors become a global one. One published algorithm a module.

A function is written as its name, with settings where they are not the usual ones: ``"median"``,
``"trimmed_mean:share=0.2"``, ``"adam:learning_rate=0.1,betas=0.9/0.99"``.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, Final

from openfl_aio.errors import ConfigurationError
from openfl_aio.tensors.aggregation.adagrad import AdagradAdaptiveAggregation
from openfl_aio.tensors.aggregation.adam import AdamAdaptiveAggregation
from openfl_aio.tensors.aggregation.adaptive import AdaptiveAggregation
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
from openfl_aio.tensors.aggregation.privileged import History, HistoryRow, PrivilegedFunction
from openfl_aio.tensors.aggregation.server_optimizer import ServerOptimizer
from openfl_aio.tensors.aggregation.trimmed_mean import TrimmedMean
from openfl_aio.tensors.aggregation.weighted_average import WeightedAverage
from openfl_aio.tensors.aggregation.yogi import YogiAdaptiveAggregation

__all__ = [
    "KNOWN_AGGREGATIONS",
    "NO_STATE",
    "AdagradAdaptiveAggregation",
    "AdamAdaptiveAggregation",
    "AdaptiveAggregation",
    "AggregationContext",
    "AggregationFunction",
    "Bulyan",
    "FedAvgM",
    "FedCurvWeightedAverage",
    "GeometricMedian",
    "History",
    "HistoryRow",
    "Krum",
    "LocalTensor",
    "Median",
    "MultiKrum",
    "PrivilegedFunction",
    "SelectingFunction",
    "ServerOptimizer",
    "State",
    "StatefulFunction",
    "Step",
    "TrimmedMean",
    "WeightedAverage",
    "YogiAdaptiveAggregation",
    "check_enough",
    "describe_aggregation",
    "get_aggregation",
    "parse_aggregation",
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


def get_aggregation(text: str) -> AggregationFunction:
    """Return the aggregation function that ``text`` writes. Raises `ConfigurationError`, listing what is known."""
    name, settings = parse_aggregation(text)
    function = KNOWN_AGGREGATIONS.get(name)
    if function is None:
        known = ", ".join(sorted(KNOWN_AGGREGATIONS))
        raise ConfigurationError(f"unknown aggregation function {name[:200]!r}; known are: {known}")
    parameters = inspect.signature(function).parameters
    for key in settings:
        if key not in parameters:
            takes = f"it takes {', '.join(parameters)}" if parameters else "it takes none"
            raise ConfigurationError(f"aggregation function {name!r} has no setting {key[:60]!r}; {takes}")
    try:
        return function(**settings)
    except ConfigurationError as error:
        raise ConfigurationError(f"aggregation function {name!r}: {error}") from None


def parse_aggregation(text: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the settings in ``text``; neither need be known. Raises `ConfigurationError`."""
    name, _, written = text.partition(":")
    settings: dict[str, Any] = {}
    for item in written.split(",") if written else ():
        key, equals, value = item.partition("=")
        if not equals or key in settings:
            raise ConfigurationError(
                f"aggregation function {text[:200]!r}: expected 'name:setting=value,setting=value'"
            )
        numbers = [_number(part) for part in value.split("/")]
        settings[key] = numbers[0] if len(numbers) == 1 else numbers
    return name, settings


def describe_aggregation(name: str, settings: Mapping[str, Any]) -> str:
    """Return how the function ``name`` with ``settings`` is written. Raises `ConfigurationError` as `get_aggregation`."""
    written = ",".join(f"{key}={_written(value)}" for key, value in settings.items())
    text = f"{name}:{written}" if written else name
    get_aggregation(text)
    return text


def check_enough(functions: Mapping[str, AggregationFunction], collaborators: Collection[str]) -> None:
    """Raise `ConfigurationError` if a federation has fewer members than the function of one of its tasks needs."""
    for task_name, function in functions.items():
        if len(collaborators) < function.least:
            raise ConfigurationError(
                f"task {task_name!r}: {function.name} needs {function.least} collaborators or more, "
                f"the federation has {len(collaborators)}"
            )


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _written(value: object) -> str:
    return "/".join(map(repr, value)) if isinstance(value, list | tuple) else str(value)
