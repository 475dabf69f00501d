"""Task runners whose model is a dictionary of NumPy arrays, and what FedProx adds to their training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np

from openfl_aio.collaborator.task_runner import TaskContext, TaskOutput
from openfl_aio.domain import TaskKind
from openfl_aio.errors import ConfigurationError, TaskError

__all__ = ["NumPyTaskRunner", "proximal_gradient", "proximal_term"]


class NumPyTaskRunner(ABC):
    """Base of a task runner in NumPy: say the initial model, how to train and how to validate.

    A subclass's constructor takes the shard and the plan's settings: ``__init__(self, shard, *, learning_rate=0.1)``.
    A task whose function is neither ``train`` nor ``validate`` is looked up as a method of that name.
    """

    @classmethod
    @abstractmethod
    def initial_model(cls) -> dict[str, np.ndarray]:
        """Return the model of round 0 by tensor name. It must be the same wherever it is called."""

    @abstractmethod
    def train(self, tensors: dict[str, np.ndarray], context: TaskContext) -> TaskOutput:
        """Train on the shard, starting at ``tensors`` (copies, free to change); return all of them and the samples used."""

    @abstractmethod
    def validate(self, tensors: dict[str, np.ndarray], context: TaskContext) -> TaskOutput:
        """Measure the model ``tensors`` on the shard; return metrics and the number of samples."""

    def tensor_names(self) -> Sequence[str]:
        """Return the names of the initial model's tensors."""
        return tuple(self.initial_model())

    def run(self, context: TaskContext, tensors: Mapping[str, np.ndarray]) -> TaskOutput:
        """Dispatch on the task's function name, else on its kind. Raises `TaskError` if there is no such method."""
        task = context.task
        name = task.function_name
        if not name and task.kind is not TaskKind.UNSPECIFIED:
            name = task.kind.value
        method = getattr(self, name, None) if name and not name.startswith("_") else None
        if not callable(method):
            raise TaskError(f"task {task.name!r}: {type(self).__name__} has no method {name!r}")
        output: TaskOutput = method({key: np.array(value) for key, value in tensors.items()}, context)
        return output


def proximal_term(tensors: Mapping[str, np.ndarray], start: Mapping[str, np.ndarray], mu: float) -> float:
    """Return ``mu / 2 * |tensors - start|^2`` over all tensors of ``start``, to be added to the loss.

    FedProx (Li et al. 2020, "Federated Optimization in Heterogeneous Networks", equation 2) keeps local training near the
    global model: ``start`` is what ``train`` was given, before it was changed. Summed in float64. With ``mu`` 0 it is
    federated averaging. Raises `ConfigurationError` for a ``mu`` below 0 or not finite, `KeyError` for a missing tensor.
    """
    _check_mu(mu)
    differences = (np.subtract(tensors[name], values, dtype=np.float64) for name, values in start.items())
    return mu / 2 * float(sum(np.vdot(difference, difference) for difference in differences))


def proximal_gradient(
    tensors: Mapping[str, np.ndarray], start: Mapping[str, np.ndarray], mu: float
) -> dict[str, np.ndarray]:
    """Return the gradient of `proximal_term`, ``mu * (tensors - start)``, to be added to the loss's: new arrays by name.

    Raises like `proximal_term`.
    """
    _check_mu(mu)
    return {name: (mu * (tensors[name] - values)).astype(tensors[name].dtype) for name, values in start.items()}


def _check_mu(mu: float) -> None:
    if not (np.isfinite(mu) and mu >= 0):
        raise ConfigurationError(f"mu: expected a number from 0, got {mu!r:.60}")
