"""Task runners whose model is an object of a framework: what is common to all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final, Literal, TypeAlias

import numpy as np

from openfl_aio.collaborator.task_runner import TaskContext, TaskOutput
from openfl_aio.domain import TaskKind
from openfl_aio.errors import ConfigurationError, TaskError

__all__ = ["ModelTaskRunner"]

_NOT_SENT: Final = "__opt_state_needed"  # PyTorch's mark is a text
OptimizerState: TypeAlias = Literal["local", "reset", "shared"]
_TREATMENTS: Final[Mapping[str, OptimizerState]] = {
    "RESET": "reset",
    "CONTINUE_LOCAL": "local",
    "CONTINUE_GLOBAL": "shared",
}
Measured = tuple[int, Mapping[str, float]]


class ModelTaskRunner(ABC):
    """Base of a framework's task runner: say how the model is built, how it is trained and how it is validated.

    A subclass's constructor takes the shard and the plan's settings, as with `NumPyTaskRunner`. The model is built at
    the first task and kept; before each task it gets the tensors that the task is for.

    ``optimizer_state`` says what becomes of the optimizer from round to round: ``"local"`` goes on here, ``"reset"``
    is built anew, ``"shared"`` is averaged over the sites like the model (OpenFL's CONTINUE_LOCAL, RESET and
    CONTINUE_GLOBAL). A plan that says ``opt_treatment`` decides it. A framework without an optimizer of its own kind,
    as Flax, keeps it in the model.
    """

    get_tensors: ClassVar[Callable[..., dict[str, Any]]]
    set_tensors: ClassVar[Callable[..., None]]
    optimizer_state: OptimizerState = "local"

    _built: tuple[Any, Any] | None = None
    _mark: str | None = None

    @classmethod
    @abstractmethod
    def build(cls) -> tuple[Any, Any]:
        """Return a new model and its optimizer (None where there is none), the same wherever it is called."""

    @abstractmethod
    def train(self, model: Any, optimizer: Any, context: TaskContext) -> Measured:
        """Train ``model`` in place on the shard; return the number of samples and metrics by name."""

    @abstractmethod
    def validate(self, model: Any, context: TaskContext) -> Measured:
        """Measure ``model`` on the shard; return the number of samples and metrics by name."""

    @classmethod
    def initial_model(cls) -> dict[str, np.ndarray]:
        """Return the tensors of a new model."""
        return {name: np.asarray(values, np.float32) for name, values in cls.get_tensors(cls.build()[0]).items()}

    def set_optimizer_treatment(self, opt_treatment: str) -> None:
        """Do with the optimizer as a plan says, in OpenFL's words. Raises `ConfigurationError` for another word."""
        state = _TREATMENTS.get(opt_treatment)
        if state is None:
            raise ConfigurationError(
                f"expected one of {', '.join(_TREATMENTS)} as opt_treatment, got {opt_treatment[:60]!r}"
            )
        self.optimizer_state = state

    def tensor_names(self) -> Sequence[str]:
        """Return the names of the model's tensors."""
        return tuple(self.get_tensors(self._model()[0]))

    def run(self, context: TaskContext, tensors: Mapping[str, np.ndarray]) -> TaskOutput:
        """Do the task of ``context`` by its kind. Raises `TaskError` if it has none."""
        kind = context.task.kind
        if kind is TaskKind.UNSPECIFIED:
            raise TaskError(f"task {context.task.name!r}: expected a kind, train or validate, got none")
        training = kind is TaskKind.TRAIN
        model, optimizer = self._model()
        if training and self.optimizer_state == "reset" and optimizer is not None:
            # a new optimizer holds the parameters of a new model
            self._built = model, optimizer = self.build()
        restored = optimizer if training and self._mark is not None and self.optimizer_state == "shared" else None
        given = tensors if restored is None else {**tensors, _NOT_SENT: self._mark}
        self.set_tensors(model, given, restored)
        if not training:
            samples, metrics = self.validate(model, context)
            return TaskOutput(samples, metrics=metrics)
        samples, metrics = self.train(model, optimizer, context)
        return self._trained(samples, metrics, model, optimizer)

    def _trained(self, samples: int, metrics: Mapping[str, float], model: Any, optimizer: Any) -> TaskOutput:
        made = self.get_tensors(model)
        if optimizer is None or self.optimizer_state != "shared":
            return TaskOutput(samples, made, metrics)
        state = {name: values for name, values in self.get_tensors(model, optimizer).items() if name not in made}
        self._mark = state.pop(_NOT_SENT, "true")
        return TaskOutput(samples, made, metrics, state=state, state_is_shared=bool(state))

    def _model(self) -> tuple[Any, Any]:
        if self._built is None:
            self._built = self.build()
        return self._built
