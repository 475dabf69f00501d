"""What runs a task: the protocol user code meets, and the checks on what it returns."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import anyio.to_thread
import numpy as np

from openfl_aio.collaborator.templates import import_class
from openfl_aio.domain import Task, TaskKind
from openfl_aio.errors import ConfigurationError, TaskError

__all__ = [
    "AsyncTaskRunner",
    "TaskContext",
    "TaskOutput",
    "TaskRunner",
    "ThreadTaskRunner",
    "check_output",
    "load_runner",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TaskContext:
    """Which task is run, in which round, for whom."""

    task: Task
    round_number: int
    collaborator: str


@dataclass(frozen=True, slots=True)
class TaskOutput:
    """What a task returns.

    ``samples``: how many samples it used, the weight in the average, at least 1. ``tensors``: the trained model, by
    the model's names and in its shapes; empty for validation. ``metrics``: numbers by name; the round's average leaves
    out what is not finite. ``state``: what training made besides, an optimizer's state, which is averaged like the
    model under names of its own; with ``state_is_shared`` the next training gets the average with the model.
    """

    samples: int
    tensors: Mapping[str, np.ndarray] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    state: Mapping[str, np.ndarray] = field(default_factory=dict)
    state_is_shared: bool = False


class TaskRunner(Protocol):
    """User code: synchronous, free to block, run off the event loop."""

    def tensor_names(self) -> Sequence[str]:
        """Return the names of the model's tensors."""
        ...

    def run(self, context: TaskContext, tensors: Mapping[str, np.ndarray]) -> TaskOutput:
        """Do ``context.task`` with the model ``tensors`` (read-only float32 by name)."""
        ...


class AsyncTaskRunner(Protocol):
    """What a `Collaborator` drives: a task runner somewhere else, a thread or a process."""

    async def tensor_names(self) -> Sequence[str]:
        """Return the names of the model's tensors."""
        ...

    async def run(self, context: TaskContext, tensors: Mapping[str, np.ndarray]) -> TaskOutput:
        """Do ``context.task`` with the model ``tensors``. Raises `TaskError` when the task fails."""
        ...


class ThreadTaskRunner:
    """Runs a `TaskRunner` in a worker thread of this process.

    A thread cannot be killed: cancellation waits for the task that is running. Where that is too long, use a process.
    """

    def __init__(self, runner: TaskRunner) -> None:
        self._runner = runner

    def __repr__(self) -> str:
        return f"ThreadTaskRunner({self._runner!r})"

    async def tensor_names(self) -> Sequence[str]:
        """Return the names of the model's tensors."""
        return await anyio.to_thread.run_sync(self._runner.tensor_names)

    async def run(self, context: TaskContext, tensors: Mapping[str, np.ndarray]) -> TaskOutput:
        """Run the task in a thread; whatever it raises comes out as `TaskError`."""
        try:
            return await anyio.to_thread.run_sync(self._runner.run, context, tensors)
        except TaskError:
            raise
        except Exception as exc:
            raise TaskError(f"task {context.task.name!r} raised {type(exc).__name__}: {exc}") from exc


def check_output(output: object, *, task: Task, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise `TaskError` unless ``output`` may be sent: counted, finite, and for training the whole model in ``shapes``.

    Metrics alone need not be finite.
    """
    if not isinstance(output, TaskOutput):
        raise TaskError(f"task {task.name!r} must return a TaskOutput, got {type(output).__name__}")
    samples: object = output.samples
    if isinstance(samples, bool) or not isinstance(samples, int | np.integer) or samples < 1:
        raise TaskError(f"task {task.name!r} must return how many samples it used, at least 1, got {samples!r}")
    for name, metric in output.metrics.items():
        _check_metric(name, metric, task=task)
    expected = shapes if task.kind is TaskKind.TRAIN else {}
    unknown = sorted(set(output.tensors) - set(expected))
    if unknown:
        raise TaskError(f"task {task.name!r} returned tensors the model does not have: {', '.join(unknown)}")
    missing = sorted(set(expected) - set(output.tensors) - set(output.state))
    if missing:
        raise TaskError(f"task {task.name!r} did not return the tensors {', '.join(missing)}")
    for name, values in output.tensors.items():
        _check_tensor(name, values, task=task, shape=expected[name])
    _check_state(output, task=task, shapes=shapes)


def _check_state(output: TaskOutput, *, task: Task, shapes: Mapping[str, tuple[int, ...]]) -> None:
    if output.state and task.kind is not TaskKind.TRAIN:
        raise TaskError(f"task {task.name!r} does not train, but returned the state {', '.join(sorted(output.state))}")
    both = sorted(set(output.state) & set(output.tensors))
    if both:
        raise TaskError(f"task {task.name!r} returned {', '.join(both)} as the model's and as state; return each once")
    for name, values in output.state.items():
        _check_tensor(name, values, task=task, shape=shapes.get(name, np.shape(values)))


def _check_metric(name: str, value: object, *, task: Task) -> None:
    if not isinstance(value, int | float | np.number):
        raise TaskError(f"task {task.name!r}: metric {name!r} must be a number, got {value!r}")
    if not np.isfinite(value):
        logger.warning(
            "task %s: metric %s is %r: it is told so, and the round's average leaves it out", task.name, name, value
        )


def _check_tensor(name: str, values: object, *, task: Task, shape: tuple[int, ...]) -> None:
    if not isinstance(values, np.ndarray | np.generic) or values.dtype.kind not in "fiub":
        kind = f"dtype {values.dtype}" if isinstance(values, np.ndarray) else type(values).__name__
        raise TaskError(f"task {task.name!r}: tensor {name!r} must be a numeric array, got {kind}")
    if values.shape != shape:
        raise TaskError(f"task {task.name!r}: tensor {name!r} must keep the shape {shape}, got {values.shape}")
    bad = values.size - int(np.count_nonzero(np.isfinite(values)))
    if bad:
        raise TaskError(f"task {task.name!r}: tensor {name!r} has {bad} of {values.size} values that are not finite")


def load_runner(
    template: str,
    *,
    path: Path | None,
    shard: Any,
    settings: Mapping[str, Any],
    opt_treatment: str | None = None,
) -> TaskRunner:
    """Import the class ``template`` names (``"module.Class"``, from the folder ``path``) and build it on ``shard``.

    ``opt_treatment``, the plan's word, is told to a runner with the method ``set_optimizer_treatment``: all that have a
    framework's optimizer. Runs foreign code. Raises `ConfigurationError` if the class cannot be imported, refuses its
    settings, or is no task runner.
    """
    cls = import_class(template, path=path, what="task runner")
    try:
        runner = cls(shard, **settings)
    except Exception as exc:
        raise ConfigurationError(
            f"task runner {template!r} could not be built with settings {sorted(settings)}: {type(exc).__name__}: {exc}"
        ) from exc
    for method in ("tensor_names", "run"):
        if not callable(getattr(runner, method, None)):
            raise ConfigurationError(f"task runner {template!r} has no method {method}(); see TaskRunner")
    told = getattr(runner, "set_optimizer_treatment", None)
    if opt_treatment is not None and callable(told):
        told(opt_treatment)
    return cast("TaskRunner", runner)
