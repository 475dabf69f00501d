"""OpenFL 1.6's FedProx optimizer for Keras: gradient descent with a pull to old weights (Li et al. 2020), for Keras 3.

The old weights are the slot ``vstar`` of each variable: zeros, as in 1.6, until ``get_slot(variable, "vstar").assign(…)``
or `set_old_weights` says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

__all__ = ["FedProxOptimizer"]


@keras.saving.register_keras_serializable(package="openfl")
class FedProxOptimizer(keras.optimizers.Optimizer):
    """Each step moves a variable by ``-learning_rate * (gradient + mu * (variable - old))``."""

    def __init__(
        self, learning_rate: float = 0.01, mu: float = 0.01, name: str = "FedProxOptimizer", **kwargs: Any
    ) -> None:
        if mu < 0:
            raise ValueError(f"mu must be at least 0, got {mu}")
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.mu = mu
        self._old: list[Any] = []

    def build(self, var_list: list[Any]) -> None:
        """Make the slots of the variables."""
        if self.built:
            return
        super().build(var_list)
        self._old = self.add_optimizer_variables(var_list, "vstar")

    def get_slot(self, var: Any, slot_name: str) -> Any:
        """Return the slot ``vstar`` of a variable. Raises `ValueError` for any other, `KeyError` for a foreign variable."""
        if slot_name != "vstar":
            raise ValueError(f"expected the slot 'vstar', got {slot_name!r}")
        return self._old[self._get_variable_index(var)]

    def set_old_weights(self, old_weights: Iterable[Any]) -> None:
        """Pull to ``old_weights``, one for each variable in their order, from now on."""
        for slot, values in zip(self._old, old_weights, strict=True):
            slot.assign(values)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Move ``variable``."""
        rate = keras.ops.cast(learning_rate, variable.dtype)
        pull = self.mu * (variable - self.get_slot(variable, "vstar"))
        self.assign_sub(variable, rate * (keras.ops.cast(gradient, variable.dtype) + pull))

    def get_config(self) -> dict[str, Any]:
        """Return the settings."""
        return {**super().get_config(), "mu": self.mu}
