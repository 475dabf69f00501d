"""Task runners written for OpenFL's ``fx collaborator``, in our collaborator: the workspace stays as it is.

Such a runner subclasses a class of OpenFL, so OpenFL must be installed at the site; nothing here imports it. What is
called is what OpenFL 1.6's collaborator calls (`openfl/component/collaborator/collaborator.py`): the runner names the
tensors that a task needs, and its task functions return two dictionaries by tensor key, one for the aggregator and one
that stays at the site.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from openfl_aio.collaborator.task_runner import TaskContext, TaskOutput
from openfl_aio.errors import TaskError

__all__ = ["OpenFLTaskRunner", "is_openfl_runner"]

_NEEDED = ("get_required_tensorkeys_for_function", "get_tensor_dict", "get_train_data_size", "get_valid_data_size")


def is_openfl_runner(cls: type[Any]) -> bool:
    """Return whether ``cls`` is a task runner of OpenFL's task-runner API."""
    return all(callable(getattr(cls, method, None)) for method in _NEEDED)


class OpenFLTaskRunner:
    """Drives ``runner``, an object of such a class. ``settings`` has the plan's keyword arguments of each task by name."""

    def __init__(self, runner: Any, *, settings: Mapping[str, Mapping[str, Any]], opt_treatment: str) -> None:
        self._runner = runner
        self._settings = settings
        self._shared = opt_treatment == "CONTINUE_GLOBAL"
        runner.set_optimizer_treatment(opt_treatment)
        runner.initialize_tensorkeys_for_functions()
        options = getattr(runner, "tensor_dict_split_fn_kwargs", {})
        held = set(options.get("holdout_tensor_names", ()))
        kinds = options.get("keep_types", (np.floating, np.integer))
        self._names = tuple(
            name
            for name, values in runner.get_tensor_dict(False).items()
            if name not in held and any(np.issubdtype(np.asarray(values).dtype, kind) for kind in kinds)
        )
        self._held: dict[str, Any] = {}  # what stays at the site, by name: the latest

    def __repr__(self) -> str:
        return f"OpenFLTaskRunner({type(self._runner).__name__})"

    def tensor_names(self) -> Sequence[str]:
        """Return the names of the model's tensors, without those that OpenFL holds back at the site."""
        return self._names

    def run(self, context: TaskContext, tensors: Mapping[str, np.ndarray]) -> TaskOutput:
        """Call the runner's method that the task names. Raises `TaskError` if there is none, or it wants what is not here."""
        task = context.task
        function = getattr(self._runner, task.function_name, None)
        if not callable(function):
            raise TaskError(f"task {task.name!r}: {type(self._runner).__name__} has no method {task.function_name!r}")
        arguments = dict(self._settings.get(task.name, {}))
        wanted = [key[0] for key in self._runner.get_required_tensorkeys_for_function(task.function_name, **arguments)]
        missing = sorted(set(wanted) - set(tensors) - set(self._held))
        if missing:
            raise TaskError(f"task {task.name!r} needs {', '.join(missing)}, which neither the model nor this site has")
        # a runner may take the dictionary apart, and change the arrays
        given = {name: np.array(tensors[name]) if name in tensors else self._held[name] for name in wanted}
        sent, kept = function(
            col_name=context.collaborator, round_num=context.round_number, input_tensor_dict=given, **arguments
        )
        self._held.update((key[0], values) for key, values in kept.items())
        metrics = {key[0]: float(np.asarray(values).reshape(())) for key, values in sent.items() if "metric" in key[4]}
        made = {key[0]: np.asarray(values) for key, values in sent.items() if "metric" not in key[4]}
        model = {name: made.pop(name) for name in self._names if name in made}
        return TaskOutput(self._samples(task.name), model, metrics, state=made, state_is_shared=self._shared)

    def _samples(self, task_name: str) -> int:
        """Return the weight of the results: OpenFL goes by the task's name, and by validation if both words are in it."""
        if "valid" in task_name:
            return int(self._runner.get_valid_data_size())
        return int(self._runner.get_train_data_size())
