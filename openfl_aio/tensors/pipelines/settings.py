"""What plans may set in a pipeline, checked when it is made."""

from __future__ import annotations

from typing import Any

from openfl_aio.errors import ConfigurationError
from openfl_aio.tensors.pipelines.tables import MAX_VALUES

__all__ = ["check_clusters", "check_integer", "check_level", "check_share"]


def check_integer(name: str, value: Any, least: int, most: int) -> int:
    """Return ``value`` if it is an integer in the range, both ends included. Raises `ConfigurationError`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigurationError(f"{name}: expected an integer from {least} to {most}, got {value!r}")
    return value


def check_clusters(name: str, value: Any) -> int:
    """Return a number of values in a table. Raises `ConfigurationError`."""
    return check_integer(name, value, 1, MAX_VALUES)


def check_level(name: str, value: Any) -> int:
    """Return how hard gzip works. Raises `ConfigurationError`."""
    return check_integer(name, value, 1, 9)


def check_share(name: str, value: Any) -> float:
    """Return ``value`` if it is a number above 0 and at most 1. Raises `ConfigurationError`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise ConfigurationError(f"{name}: expected a number above 0 and at most 1, got {value!r}")
    return float(value)
