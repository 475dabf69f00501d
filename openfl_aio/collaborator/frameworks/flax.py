"""Flax: a train state's parameters and optimizer state as NumPy arrays and back, under OpenFL 1.6's names.

Needs the extra ``flax``. The model is a `flax.training.train_state.TrainState` or anything else with ``params`` and
``opt_state``: nested dictionaries of arrays, and optax's tuple, of which the first state counts. Names are paths:
``param*Dense_0*kernel``, ``opt_mu*Dense_0*kernel``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import jax.numpy
import numpy as np

from openfl_aio.collaborator.frameworks.model import ModelTaskRunner
from openfl_aio.errors import TensorError

__all__ = ["FlaxTaskRunner", "get_tensors", "set_tensors"]

SEPARATOR: Final = "*"
_NOT_AVERAGED: Final = frozenset({"count", "index"})  # a counter, and a method of every tuple


def get_tensors(model: Any, optimizer: Any = None) -> dict[str, np.ndarray]:
    """Return copies of the parameters and of the optimizer's moments, which are part of the model here."""
    return {name: np.array(values) for prefix, tree in _trees(model).items() for name, values in _leaves(tree, prefix)}


def set_tensors(model: Any, tensors: Mapping[str, Any], optimizer: Any = None, *, device: str = "cpu") -> None:
    """Put ``tensors`` into the train state, whose dictionaries are changed in place.

    Raises `TensorError` if one is missing, or if a dictionary is frozen.
    """
    for prefix, tree in _trees(model).items():
        _fill(tree, prefix, tensors)


class FlaxTaskRunner(ModelTaskRunner):
    """Base of a task runner whose model is a train state, its own optimizer; see `ModelTaskRunner`."""

    get_tensors = staticmethod(get_tensors)
    set_tensors = staticmethod(set_tensors)


def _trees(model: Any) -> dict[str, Any]:
    """Return the dictionaries of arrays in ``model`` by the first part of their names."""
    trees = {"param": model.params}
    first = model.opt_state[0] if model.opt_state else None
    for field in getattr(first, "_fields", ()):
        value = getattr(first, field)
        if field not in _NOT_AVERAGED and isinstance(value, Mapping):
            trees[f"opt_{field}"] = value
    return trees


def _leaves(tree: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        name = f"{path}{SEPARATOR}{key}"
        if isinstance(value, Mapping):
            yield from _leaves(value, name)
        else:
            yield name, value


def _fill(tree: Any, path: str, tensors: Mapping[str, Any]) -> None:
    if not isinstance(tree, dict):
        raise TensorError(f"expected a dictionary that can be changed at {path!r}, got {type(tree).__name__}")
    for key, value in tree.items():
        name = f"{path}{SEPARATOR}{key}"
        if isinstance(value, Mapping):
            _fill(value, name, tensors)
        elif name not in tensors:
            raise TensorError(f"expected a tensor {name!r}, got only {', '.join(sorted(tensors)[:20])}")
        else:
            tree[key] = jax.numpy.asarray(tensors[name], dtype=value.dtype)
