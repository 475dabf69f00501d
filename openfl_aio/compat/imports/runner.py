"""Runs the tasks of an archive by OpenFL 1.6's interactive frontend: pickled model, tasks and data loader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from openfl_aio.collaborator.task_runner import TaskContext, TaskOutput
from openfl_aio.collaborator.templates import import_class
from openfl_aio.compat.imports.utilities import split_tensor_dict_for_holdouts
from openfl_aio.errors import TaskError

__all__ = ["ArchiveRunner"]

_HELD: Final = ("__opt_state_needed",)  # text, not a tensor: whether a PyTorch optimizer has a state


class ArchiveRunner:
    """A task runner over the objects of an archive, in the archive's folder, which must be the current one.

    ``model_file``, ``tasks_file`` and ``loader_file`` are pickles that ``serializer`` reads; ``adapter`` reads and
    writes the tensors of the model; both are class paths. ``opt_treatment`` says what becomes of the optimizer between
    rounds, as in 1.6:

    - ``RESET``: the model provider is asked for an optimizer before every task;
    - ``CONTINUE_LOCAL``: it goes on as it is;
    - ``CONTINUE_GLOBAL``: from the second training on it starts from the average of all sites' states.

    The optimizer's state is sent in any case: servers of 1.6 average the tensors that the first collaborator sent, and
    fail if another did not send them.
    """

    def __init__(
        self,
        shard: Any,
        *,
        model_file: str,
        tasks_file: str,
        loader_file: str,
        serializer: str,
        adapter: str,
        opt_treatment: str = "RESET",
        device: str = "cpu",
    ) -> None:
        here = Path.cwd()
        reader = import_class(serializer, path=here, what="serializer")()
        self._provider = _restored(reader, model_file)
        self._keeper = _restored(reader, tasks_file)
        self._loader = _restored(reader, loader_file)
        self._loader.shard_descriptor = shard
        self._adapter = import_class(adapter, path=here, what="framework adapter")()
        self._treatment = opt_treatment
        self._device = device
        self._model = self._provider.provide_model()
        self._optimizer = self._provider.provide_optimizer()
        tensors, self._held = self._split(self._adapter.get_tensor_dict(self._model))
        self._names = tuple(tensors)
        self._state_names: frozenset[str] = frozenset()

    def tensor_names(self) -> Sequence[str]:
        """Return the names of the model's tensors that are averaged."""
        return self._names

    def run(self, context: TaskContext, tensors: Mapping[str, np.ndarray]) -> TaskOutput:
        """Call the function that the task names. Raises `TaskError` if there is none or it breaks its contract."""
        name = context.task.function_name
        function = self._keeper.task_registry.get(name)
        contract = self._keeper.task_contract.get(name)
        if function is None or contract is None:
            known = ", ".join(sorted(self._keeper.task_registry)) or "none"
            raise TaskError(f"task {context.task.name!r}: no function {name!r} is registered, only {known}")
        training = contract["optimizer"] is not None
        self._fill(tensors, training=training)
        arguments = {
            contract["model"]: self._model,
            contract["data_loader"]: self._loader.get_train_loader() if training else self._loader.get_valid_loader(),
            contract["device"]: self._device,
        }
        if training:
            arguments[contract["optimizer"]] = self._optimizer
        if contract.get("round_num") is not None:
            arguments[contract["round_num"]] = context.round_number
        arguments.update(self._keeper.task_settings.get(name, {}))
        metrics = _numbers(context, function(**arguments))
        if not training:
            return TaskOutput(int(self._loader.get_valid_data_size()), metrics=metrics)
        return self._trained(metrics)

    def _fill(self, tensors: Mapping[str, np.ndarray], *, training: bool) -> None:
        """Put ``tensors`` into the model and, where they go with it, into the optimizer."""
        if self._treatment == "RESET":
            self._optimizer = self._provider.provide_optimizer()
        # adapters take the dictionary apart, and PyTorch would share its memory
        given: dict[str, Any] = {name: np.array(values) for name, values in tensors.items()}
        state = {name: given.pop(name) for name in self._state_names & given.keys()}
        given |= {name: values for name, values in self._held.items() if name not in _HELD}
        if training and state:
            marks = {name: self._held[name] for name in _HELD if name in self._held}
            self._adapter.set_tensor_dict(
                self._model, {**given, **state, **marks}, self._optimizer, device=self._device
            )
        else:
            self._adapter.set_tensor_dict(self._model, given, device=self._device)

    def _trained(self, metrics: dict[str, float]) -> TaskOutput:
        made, self._held = self._split(self._adapter.get_tensor_dict(self._model, self._optimizer))
        tensors = {name: made.pop(name) for name in self._names if name in made}
        shared = self._treatment == "CONTINUE_GLOBAL"
        if shared:
            self._state_names = frozenset(made)
        samples = int(self._loader.get_train_data_size())
        return TaskOutput(samples, tensors, metrics, state=made, state_is_shared=shared)

    @staticmethod
    def _split(tensors: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        return split_tensor_dict_for_holdouts(None, dict(tensors), holdout_tensor_names=_HELD)


def _restored(reader: Any, file: str) -> Any:
    try:
        return reader.restore_object(file)
    except ModuleNotFoundError as exc:
        raise TaskError(f"{file} of the archive needs what is not installed here: {exc}") from exc
    except Exception as exc:
        raise TaskError(
            f"{file} of the archive cannot be read: {type(exc).__name__}: {exc}; such files hold byte code, so the "
            "frontend's Python version must be the envoy's"
        ) from exc


def _numbers(context: TaskContext, metrics: object) -> dict[str, float]:
    """Return a task's metrics as numbers by name; nothing at all is no metrics."""
    if metrics is None:
        return {}
    if not isinstance(metrics, Mapping):
        raise TaskError(
            f"task {context.task.name!r} must return its metrics as a dictionary, got {type(metrics).__name__}"
        )
    out = {}
    for name, value in metrics.items():
        values = np.asarray(value)
        if values.size != 1 or values.dtype.kind not in "fiub":
            raise TaskError(f"task {context.task.name!r}: metric {name!r} must be one number, got {value!r:.80}")
        out[str(name)] = float(values.reshape(()))
    return out
