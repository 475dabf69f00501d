"""What OpenFL's interactive frontend puts into an archive, made here by cloudpickle: the same shape, not the same code."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import cloudpickle

TASKS = """
class Task:
    def __init__(self, name, function_name, task_type, apply_local=False):
        self.name, self.function_name, self.task_type, self.apply_local = name, function_name, task_type, apply_local
        self.parameters = {}
class TrainTask(Task): pass
class ValidateTask(Task): pass
"""
EXPERIMENT = """
class FLExperiment:
    def define_task_assigner(self, tasks, train=True):
        if train:
            def assigner(collaborators, round_number, **kwargs):
                out = {}
                for collaborator in collaborators:
                    out[collaborator] = [
                        tasks["train"], tasks["locally_tuned_model_validate"], tasks["aggregated_model_validate"]
                    ]
                return out
        else:
            def assigner(collaborators, round_number, **kwargs):
                out = {}
                for collaborator in collaborators:
                    out[collaborator] = [tasks["aggregated_model_validate"]]
                return out
        return assigner
"""
FUNCTIONS = """
class WeightedAverage: pass
class Median: pass
class AdamAdaptiveAggregation:
    def __init__(self, optimizer, agg_func):
        self.optimizer, self.default_agg_func = optimizer, agg_func
"""
OPTIMIZER = """
import numpy as np
class NumPyAdam:
    def __init__(self, params):
        self.params, self.learning_rate, self.beta_1, self.beta_2 = params, 0.5, 0.8, 0.9
        self.initial_accumulator_value, self.epsilon = 0.0, 1e-06
        self.current_step = {name: 0 for name in params}
        self.grads_first_moment = {name: np.zeros_like(values) for name, values in params.items()}
        self.grads_second_moment = {name: np.zeros_like(values) for name, values in params.items()}
"""
MODULES = {
    "openfl": "",
    "openfl.component": "",
    "openfl.component.assigner": "",
    "openfl.component.assigner.tasks": TASKS,
    "openfl.interface": "",
    "openfl.interface.interactive_api": "",
    "openfl.interface.interactive_api.experiment": EXPERIMENT,
    "openfl.interface.aggregation_functions": FUNCTIONS,
    "openfl.utilities": "",
    "openfl.utilities.optimizers": "",
    "openfl.utilities.optimizers.numpy": OPTIMIZER,
}


@contextmanager
def frontend() -> Iterator[dict[str, Any]]:
    """Give modules of OpenFL's names for a moment."""
    made = {}
    for name, source in MODULES.items():
        module = made[name] = types.ModuleType(name)
        module.__package__ = name.rpartition(".")[0]
        exec(compile(source, f"{name.replace('.', '/')}.py", "exec"), module.__dict__)
    sys.modules.update(made)
    try:
        yield made
    finally:
        for name in made:
            del sys.modules[name]


def registered(modules: dict[str, Any], train: str = "train", validate: str = "validate") -> dict[str, Any]:
    """Return what a frontend has registered for a function that trains and one that validates."""
    tasks = modules["openfl.component.assigner.tasks"]
    return {
        "train": tasks.TrainTask("train", train, "train"),
        "locally_tuned_model_validate": tasks.ValidateTask(
            "locally_tuned_model_validate", validate, "validate", apply_local=True
        ),
        "aggregated_model_validate": tasks.ValidateTask("aggregated_model_validate", validate, "validate"),
    }


def stock_assigner(*, train: bool = True, names: tuple[str, str] = ("train", "validate")) -> bytes:
    """Return the pickle of the assigner that OpenFL's frontend makes."""
    with frontend() as modules:
        experiment = modules["openfl.interface.interactive_api.experiment"].FLExperiment()
        assigner = experiment.define_task_assigner(registered(modules, *names), train)
        pickled: bytes = cloudpickle.dumps(assigner)
    return pickled


def stock_functions(**by_function: str) -> bytes:
    """Return the pickle of aggregation functions by the name of a task's function; all others are averaged."""
    from collections import defaultdict

    with frontend() as modules:
        functions = modules["openfl.interface.aggregation_functions"]
        table = defaultdict(
            functions.WeightedAverage, {name: getattr(functions, cls)() for name, cls in by_function.items()}
        )
        pickled: bytes = cloudpickle.dumps(table)
    return pickled


def adaptive_function(change: Callable[[Any], object], params: Mapping[str, object]) -> bytes:
    """Return the pickle of an adaptive function for the task function ``fit``, after ``change`` was done to it."""
    with frontend() as modules:
        functions = modules["openfl.interface.aggregation_functions"]
        optimizer = modules["openfl.utilities.optimizers.numpy"].NumPyAdam(dict(params))
        function = functions.AdamAdaptiveAggregation(optimizer, functions.Median())
        table = {"fit": function}
        change(table)
        pickled: bytes = cloudpickle.dumps(table)
    return pickled
