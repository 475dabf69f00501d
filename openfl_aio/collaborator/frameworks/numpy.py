"""Task runners whose model is a dictionary of NumPy arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np

from openfl_aio.collaborator.task_runner import TaskContext, TaskOutput
from openfl_aio.domain import TaskKind
from openfl_aio.errors import TaskError

__all__ = ["NumPyTaskRunner"]


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
