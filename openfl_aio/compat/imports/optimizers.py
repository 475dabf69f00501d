"""OpenFL 1.6's optimizers in NumPy, for aggregation functions of a user's own that are built on them.

Attributes have OpenFL's names: pickles restore them by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np

__all__ = ["NumPyAdagrad", "NumPyAdam", "NumPyYogi", "Optimizer"]


class Optimizer:
    """Base of the optimizers: ``params`` are arrays by name, and `step` moves some of them."""

    params: dict[str, Any]

    def step(self, gradients: Mapping[str, Any]) -> None:
        """Move the parameters that ``gradients`` names."""
        raise NotImplementedError(f"{type(self).__name__} has no method `step`")

    def _set_params_from_model(self, model_interface: Any) -> None:
        """Take the tensors of the frontend's model, which its adapter reads."""
        module, _, name = model_interface.framework_plugin.rpartition(".")
        adapter = getattr(import_module(module), name)
        self.params = adapter.get_tensor_dict(model_interface.provide_model())

    def _begin(
        self,
        params: Mapping[str, Any] | None,
        model_interface: Any,
        learning_rate: float,
        initial_accumulator_value: float,
        epsilon: float,
    ) -> None:
        self.learning_rate = learning_rate
        self.initial_accumulator_value = initial_accumulator_value
        self.epsilon = epsilon
        if min(learning_rate, initial_accumulator_value) < 0 or epsilon <= 0:
            raise ValueError(
                "expected a learning_rate and an initial_accumulator_value of at least 0 and an epsilon above 0, "
                f"got {learning_rate}, {initial_accumulator_value} and {epsilon}"
            )
        if params is None and model_interface is None:
            raise ValueError("expected params or a model_interface, got neither")
        if params is None:
            self._set_params_from_model(model_interface)
        else:
            self.params = dict(params)

    def _filled(self, value: float) -> dict[str, Any]:
        return {name: np.full_like(values, value) for name, values in self.params.items()}


class NumPyAdagrad(Optimizer):
    """Adagrad (Duchi et al. 2011)."""

    def __init__(
        self,
        *,
        params: Mapping[str, Any] | None = None,
        model_interface: Any = None,
        learning_rate: float = 0.01,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-10,
    ) -> None:
        self._begin(params, model_interface, learning_rate, initial_accumulator_value, epsilon)
        self.grads_squared = self._filled(initial_accumulator_value)

    def step(self, gradients: Mapping[str, Any]) -> None:
        """Move the parameters. Raises `KeyError` for one that is not there."""
        for name, gradient in gradients.items():
            self.grads_squared[name] = squared = self.grads_squared[name] + gradient**2
            self.params[name] = self.params[name] - self.learning_rate * gradient / (np.sqrt(squared) + self.epsilon)


class NumPyAdam(Optimizer):
    """Adam (Kingma and Ba 2015)."""

    def __init__(
        self,
        *,
        params: Mapping[str, Any] | None = None,
        model_interface: Any = None,
        learning_rate: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        initial_accumulator_value: float = 0.0,
        epsilon: float = 1e-8,
    ) -> None:
        self._begin(params, model_interface, learning_rate, initial_accumulator_value, epsilon)
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"expected betas from 0 to below 1, got {betas}")
        self.beta_1, self.beta_2 = betas
        self.current_step = dict.fromkeys(self.params, 0)
        self.grads_first_moment = self._filled(initial_accumulator_value)
        self.grads_second_moment = self._filled(initial_accumulator_value)

    def step(self, gradients: Mapping[str, Any]) -> None:
        """Move the parameters. Raises `KeyError` for one that is not there."""
        for name, gradient in gradients.items():
            steps = self.current_step[name] + 1
            first = self.beta_1 * self.grads_first_moment[name] + (1 - self.beta_1) * gradient
            second = self._second(self.grads_second_moment[name], gradient)
            mean, variance = first / (1 - self.beta_1**steps), second / (1 - self.beta_2**steps)
            self.params[name] = self.params[name] - self.learning_rate * mean / (np.sqrt(variance) + self.epsilon)
            self.grads_first_moment[name], self.grads_second_moment[name] = first, second
            self.current_step[name] = steps

    def _second(self, moment: Any, gradient: Any) -> Any:
        return self.beta_2 * moment + (1 - self.beta_2) * gradient**2


class NumPyYogi(NumPyAdam):
    """Yogi (Zaheer et al. 2018), with the second moment as OpenFL 1.6 has it."""

    def _second(self, moment: Any, gradient: Any) -> Any:
        squared = gradient**2
        return self.beta_2 * moment + (1 - self.beta_2) * np.sign(squared - moment) * squared
