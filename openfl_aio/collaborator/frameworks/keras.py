"""Keras: a model's and its optimizer's variables as NumPy arrays and back. Needs the extra ``keras`` and a backend.

In Keras 2 a tensor is called by its variable's ``name``, as OpenFL 1.6 does: ``dense/kernel:0``. In Keras 3 every layer
has a ``kernel``, and the names of layers and of the optimizer's variables count what was built before in the process.
There a tensor is called by its place: ``0/kernel``, ``optimizer/2``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from openfl_aio.collaborator.frameworks.model import ModelTaskRunner
from openfl_aio.errors import TensorError

__all__ = ["KerasTaskRunner", "get_tensors", "set_tensors"]


def get_tensors(model: Any, optimizer: Any = None) -> dict[str, np.ndarray]:
    """Return copies of the weights of ``model`` and, if given, of the variables of ``optimizer``."""
    return {name: _array(variable) for name, variable in _variables(model, optimizer).items()}


def set_tensors(model: Any, tensors: Mapping[str, Any], optimizer: Any = None, *, device: str = "cpu") -> None:
    """Put ``tensors`` into ``model`` and, if given, ``optimizer``. On which device is the backend's choice.

    Raises `TensorError` if one is missing.
    """
    for name, variable in _variables(model, optimizer).items():
        if name not in tensors:
            raise TensorError(f"expected a tensor {name!r}, got only {', '.join(sorted(tensors)[:20])}")
        variable.assign(np.asarray(tensors[name]).reshape(tuple(variable.shape)))


class KerasTaskRunner(ModelTaskRunner):
    """Base of a task runner whose model is a `keras.Model`; see `ModelTaskRunner`."""

    get_tensors = staticmethod(get_tensors)
    set_tensors = staticmethod(set_tensors)


def _variables(model: Any, optimizer: Any) -> dict[str, Any]:
    out = {_name(variable, place, f"{place}/"): variable for place, variable in enumerate(model.weights)}
    if optimizer is not None:
        variables = optimizer.variables
        named = enumerate(variables() if callable(variables) else variables)  # a method in Keras 2
        out.update({_name(variable, place, ""): variable for place, variable in named})
    return out


def _name(variable: Any, place: int, prefix: str) -> str:
    if not hasattr(variable, "path"):
        return str(variable.name)
    return f"{prefix}{variable.name}" if prefix else f"optimizer/{place}"


def _array(variable: Any) -> np.ndarray:
    # in Keras 3 the value: the variable around it warns of NumPy 2
    return np.array(keras.ops.convert_to_numpy(variable.value) if hasattr(keras, "ops") else variable.numpy())
