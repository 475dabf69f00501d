"""The interactive API of OpenFL 1.6 as its archives use it: tasks with their contracts, the model, the data.

Only what happens at a site is here. Names follow 1.6, attributes included: pickles restore them by name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, TypeVar

from openfl_aio.compat.imports.functions import AggregationFunction, WeightedAverage

__all__ = [
    "DataInterface",
    "FLExperiment",
    "Federation",
    "ModelInterface",
    "ModelStatus",
    "Task",
    "TaskKeeper",
    "TrainTask",
    "ValidateTask",
]

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass
class Task:
    """A task by its name, with the function that does it and what it does."""

    name: str
    function_name: str
    task_type: str
    apply_local: bool = False
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass
class TrainTask(Task):
    """A task that trains."""

    task_type: str = "train"


@dataclass
class ValidateTask(Task):
    """A task that validates, the global model or (``apply_local``) the one just trained."""

    task_type: str = "validate"


class TaskKeeper:
    """The experiment's functions by name, with their contracts (what each calls its arguments) and their settings."""

    def __init__(self) -> None:
        self.task_registry: dict[str, Callable[..., Any]] = {}
        self.task_contract: dict[str, dict[str, Any]] = {}
        self.task_settings: defaultdict[str, dict[str, Any]] = defaultdict(dict)
        self.aggregation_functions: defaultdict[str, AggregationFunction] = defaultdict(WeightedAverage)
        self._tasks: dict[str, Task] = {}

    def register_fl_task(
        self, model: str, data_loader: str, device: str, optimizer: str | None = None, round_num: str | None = None
    ) -> Callable[[Function], Function]:
        """Register the decorated function; with ``optimizer`` it trains, without it validates."""

        def register(function: Function) -> Function:
            name = function.__name__
            self.task_registry[name] = function
            self.task_contract[name] = {
                "model": model,
                "data_loader": data_loader,
                "device": device,
                "optimizer": optimizer,
                "round_num": round_num,
            }
            if optimizer:
                made: list[Task] = [TrainTask("train", name)]
            else:
                made = [
                    ValidateTask("locally_tuned_model_validate", name, apply_local=True),
                    ValidateTask("aggregated_model_validate", name),
                ]
            self._tasks.update({task.name: task for task in made})
            return function

        return register

    def add_kwargs(self, **task_kwargs: Any) -> Callable[[Function], Function]:
        """Give the decorated function these further arguments."""

        def keep(function: Function) -> Function:
            self.task_settings[function.__name__] = task_kwargs
            return function

        return keep

    def set_aggregation_function(self, aggregation_function: AggregationFunction) -> Callable[[Function], Function]:
        """Name the function that averages what the decorated one trains."""
        if not isinstance(aggregation_function, AggregationFunction):
            raise TypeError(f"expected an AggregationFunction, got {type(aggregation_function).__name__}")

        def keep(function: Function) -> Function:
            self.aggregation_functions[function.__name__] = aggregation_function
            return function

        return keep

    def get_registered_tasks(self) -> dict[str, Task]:
        """Return the tasks by name."""
        return self._tasks


class ModelInterface:
    """The model, its optimizer, and the class path of the adapter that reads and writes their tensors."""

    def __init__(self, model: Any, optimizer: Any, framework_plugin: str) -> None:
        self.model = model
        self.optimizer = optimizer
        self.framework_plugin = framework_plugin

    def provide_model(self) -> Any:
        """Return the model."""
        return self.model

    def provide_optimizer(self) -> Any:
        """Return the optimizer; asked for before every task where its state is to be forgotten."""
        return self.optimizer


class DataInterface:
    """Base of an experiment's access to the site's data; the envoy sets ``shard_descriptor``."""

    def __init__(self, **kwargs: Any) -> None:
        self.kwargs = kwargs

    @property
    def shard_descriptor(self) -> Any:
        """The site's data."""
        return self._shard_descriptor

    @shard_descriptor.setter
    def shard_descriptor(self, shard_descriptor: Any) -> None:
        self._shard_descriptor = shard_descriptor

    def get_train_loader(self, **kwargs: Any) -> Any:
        """Return what a training task gets."""
        raise NotImplementedError

    def get_valid_loader(self, **kwargs: Any) -> Any:
        """Return what a validating task gets."""
        raise NotImplementedError

    def get_train_data_size(self) -> int:
        """Return the number of samples for training, the weight in the average."""
        raise NotImplementedError

    def get_valid_data_size(self) -> int:
        """Return the number of samples for validation."""
        raise NotImplementedError


class ModelStatus:
    """Which model the frontend holds."""

    INITIAL: Final = "initial"
    BEST: Final = "best"
    LAST: Final = "last"
    RESTORED: Final = "restored"


class _Frontend:
    """A class of the frontend: modules of a workspace may import it, at a site nobody can use it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise RuntimeError(
            f"{type(self).__name__} is for the frontend; keep it out of modules that travel to the sites"
        )


class FLExperiment(_Frontend):
    """The frontend's experiment."""


class Federation(_Frontend):
    """The frontend's connection."""
