"""Aggregation functions: how local tensors become a global one. One published algorithm a module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from openfl_aio.errors import ConfigurationError
from openfl_aio.tensors.aggregation.base import AggregationContext, AggregationFunction, LocalTensor
from openfl_aio.tensors.aggregation.weighted_average import WeightedAverage

__all__ = [
    "KNOWN_AGGREGATIONS",
    "AggregationContext",
    "AggregationFunction",
    "LocalTensor",
    "WeightedAverage",
    "get_aggregation",
]

KNOWN_AGGREGATIONS: Final[Mapping[str, Callable[[], AggregationFunction]]] = MappingProxyType(
    {WeightedAverage.name: WeightedAverage}
)
"""Every aggregation function by its name."""


def get_aggregation(name: str) -> AggregationFunction:
    """Return an aggregation function of that name. Raises `ConfigurationError`, listing the known ones."""
    factory = KNOWN_AGGREGATIONS.get(name)
    if factory is None:
        known = ", ".join(sorted(KNOWN_AGGREGATIONS))
        raise ConfigurationError(f"unknown aggregation function {name!r}; known are: {known}")
    return factory()
