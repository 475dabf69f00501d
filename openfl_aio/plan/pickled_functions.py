"""The aggregation functions that OpenFL's interactive frontend puts into an archive as a pickle, read as data.

OpenFL's own are known by their classes and by what they hold. An adaptive one holds an optimizer with the parameters that
it moves, and the function for all other tensors; it means here what it means to OpenFL 1.6, or it is a user's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from openfl_aio.domain import Task, TaskKind
from openfl_aio.errors import ArchiveError, ConfigurationError
from openfl_aio.plan.assigned import (
    AGGREGATION_FILE,
    MAX_PICKLED_BYTES,
    ForeignCodeError,
    check_serializer,
    described,
    mapping,
    refusal,
    unreadable,
)
from openfl_aio.plan.pickled_arrays import array_of, number_of
from openfl_aio.plan.pickles import Record, UnreadablePickleError, read_pickle
from openfl_aio.plan.templates import AGGREGATIONS
from openfl_aio.tensors.aggregation import (
    AdaptiveAggregation,
    AggregationFunction,
    ServerOptimizer,
    describe_aggregation,
    get_aggregation,
)

__all__ = ["Functions", "read_functions"]

_AVERAGE: Final = "weighted_average"
_WITHOUT_MEMORY: Final = ("weighted_average", "median", "geometric_median", "fedcurv_weighted_average")
_BASES: Final = frozenset(path for path in AGGREGATIONS.elsewhere if path.endswith(".AdaptiveAggregation"))
_OPTIMIZERS: Final = "openfl.utilities.optimizers.numpy"
# OpenFL's optimizers: ours, how it is written, and the attributes with the first step's moments
_KNOWN: Final[dict[str, tuple[str, dict[str, int], tuple[str, ...]]]] = {
    "NumPyAdagrad": ("adagrad", {}, ("grads_squared",)),
    "NumPyAdam": ("adam", {}, ("grads_first_moment", "grads_second_moment")),
    "NumPyYogi": ("yogi", {"shrinking": 1}, ("grads_first_moment", "grads_second_moment")),
}
_MODULES: Final = {"NumPyAdagrad": "adagrad_optimizer", "NumPyAdam": "adam_optimizer", "NumPyYogi": "yogi_optimizer"}
_SETTINGS: Final = ("learning_rate", "initial_accumulator_value", "epsilon")
_BETAS: Final = ("beta_1", "beta_2")
_NAME_BYTES: Final = 1024


@dataclass(frozen=True)
class Functions:
    """Which aggregation function, as `get_aggregation` reads it, the tensors of a task's function get.

    ``adaptive`` has those of them that move parameters of their own. ``foreign`` says of the others, which are a user's
    own, what stands there; ``unreadable`` that any of them may be.
    """

    by_function: dict[str, str] = field(default_factory=dict)
    default: str = _AVERAGE
    adaptive: dict[str, AdaptiveAggregation] = field(default_factory=dict)
    foreign: dict[str, str] = field(default_factory=dict)
    unreadable: bool = False

    def of(self, tasks: Iterable[Task]) -> dict[str, str]:
        """Return the function of each task by its name; a user's own are left out."""
        known = [task for task in tasks if not self._is_foreign(task)]
        return {task.name: self.by_function.get(task.function_name, self.default) for task in known}

    def adaptive_of(self, tasks: Iterable[Task]) -> dict[str, AggregationFunction]:
        """Return the adaptive functions by the names of their tasks, for an aggregator."""
        found = {task.name: self.adaptive.get(task.function_name) for task in tasks if not self._is_foreign(task)}
        return {name: function for name, function in found.items() if function is not None}

    def foreign_tasks(self, tasks: Iterable[Task]) -> tuple[Task, ...]:
        """Return the tasks whose tensors a function of a user's own aggregates."""
        return tuple(task for task in tasks if self._is_foreign(task))

    def _is_foreign(self, task: Task) -> bool:
        # what validates has metrics alone, and those are averaged whatever the function
        return (self.unreadable and task.kind is not TaskKind.VALIDATE) or task.function_name in self.foreign


class _OwnFunction(Exception):
    """What stands where a function of OpenFL's was expected; says what it is."""


class _Budget:
    """How many bytes of parameters are looked at: a hostile pickle names the same ones over and over.

    A name counts for `_NAME_BYTES`, so that empty arrays are not for nothing.
    """

    def __init__(self) -> None:
        self._left = MAX_PICKLED_BYTES

    def spend(self, size: int) -> None:
        """Raise `_OwnFunction` if there are too many."""
        self._left -= size
        if self._left < 0:
            raise _OwnFunction(f"more than {MAX_PICKLED_BYTES} bytes of parameters")


def read_functions(data: bytes, *, serializer: str | None = None, allow_foreign: bool = False) -> Functions:
    """Return the aggregation functions in the pickle ``data``, which ``serializer`` (a class path) wrote.

    With ``allow_foreign`` a user's own are named, and what cannot be read is taken for theirs. Without, raises
    `ForeignCodeError` for the first of either.
    """
    try:
        check_serializer(AGGREGATION_FILE, serializer)
        found = read_pickle(data, name=AGGREGATION_FILE, most=MAX_PICKLED_BYTES)
        functions = _functions(found, serializer)
    except ArchiveError as exc:
        if allow_foreign:
            return Functions(unreadable=True)
        if isinstance(exc, UnreadablePickleError):
            raise unreadable(AGGREGATION_FILE, exc, serializer) from None
        raise
    if functions.foreign and not allow_foreign:
        raise _refused(next(iter(functions.foreign.values())), serializer)
    return functions


def _refused(what: str, serializer: str | None) -> ForeignCodeError:
    return refusal(AGGREGATION_FILE, f"holds {what}, which is no aggregation function of OpenFL's", serializer)


def _functions(root: object, serializer: str | None) -> Functions:
    """Return the aggregation function of each task's function, and that of all others."""
    if isinstance(root, dict):
        items, default = root, _AVERAGE
    elif isinstance(root, Record) and root.path == "collections.defaultdict" and len(root.args) == 1:
        items = root.items
        default = _without_memory(root.args[0], called=False) or ""
        if not default:
            raise _refused(f"{described(root.args[0])} as the function of all tasks", serializer)
    else:
        raise _refused(described(root), serializer)
    found = Functions(default=default)
    budget = _Budget()
    optimizers: dict[int, str] = {}
    for name, value in items.items():
        if not isinstance(name, str):
            continue  # no task's function is called so
        try:
            optimizer = mapping(getattr(value, "state", None)).get("optimizer")
            before = optimizers.setdefault(id(optimizer), name) if optimizer is not None else name
            if before != name:
                raise _OwnFunction(f"one optimizer for the two functions {before:.60} and {name:.60}")
            known = _without_memory(value, called=True)
            if known is None:
                known, found.adaptive[name] = _adaptive(value, budget)
            found.by_function[name] = known
        except _OwnFunction as exc:
            found.foreign[name] = f"for {name[:100]!r} {exc}"
    return found


def _without_memory(value: object, *, called: bool) -> str | None:
    """Return our name for a class of OpenFL's that keeps nothing, or for an object of it; else None."""
    if not isinstance(value, Record) or value.called is not called:
        return None
    name = _name(value.path)
    return name if name in _WITHOUT_MEMORY else None


def _name(path: str) -> str | None:
    if "." not in path:
        return None  # our own name, which a path must not be
    try:
        return AGGREGATIONS.name_of(path)
    except ConfigurationError:
        return None


def _adaptive(value: object, budget: _Budget) -> tuple[str, AdaptiveAggregation]:
    """Return an adaptive function, and how it is written without its parameters. Raises `_OwnFunction`."""
    if not isinstance(value, Record) or not value.called or (value.path not in _BASES and _name(value.path) is None):
        raise _OwnFunction(described(value))
    attributes = mapping(value.state)
    optimizer, otherwise = attributes.get("optimizer"), attributes.get("default_agg_func")
    if not isinstance(optimizer, Record):
        raise _OwnFunction(f"{described(value)} without an optimizer")
    name = _optimizer(optimizer.path)
    if name is None:
        raise _OwnFunction(f"{described(value)} with the optimizer {described(optimizer)}")
    other = _without_memory(otherwise, called=True)
    if other is None:
        raise _OwnFunction(f"{described(value)} with {described(otherwise)} as its agg_func")
    ours, settings, moments = _KNOWN[name]
    state = mapping(optimizer.state)
    try:
        read = _settings(state, (*_SETTINGS, *(_BETAS if ours != "adagrad" else ())))
        params = _params(state, moments, read["initial_accumulator_value"], budget)
    except _OwnFunction as exc:
        raise _OwnFunction(f"{described(value)} with {exc}") from None
    try:
        text = describe_aggregation(ours, read | settings)
    except ConfigurationError as exc:
        raise _OwnFunction(f"{described(value)} with what it does not take ({exc})") from None
    function = get_aggregation(text)
    assert isinstance(function, ServerOptimizer)
    return text, AdaptiveAggregation(function, params=params, otherwise=get_aggregation(other))


def _optimizer(path: str) -> str | None:
    module, _, name = path.rpartition(".")
    known = name in _KNOWN and module in (_OPTIMIZERS, f"{_OPTIMIZERS}.{_MODULES[name]}")
    return name if known else None


def _settings(attributes: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in names:
        number = number_of(attributes.get(name))
        try:
            found[name] = math.nan if number is None else float(number)
        except OverflowError:  # an integer beyond all floats
            found[name] = math.inf
        if not math.isfinite(found[name]):
            raise _OwnFunction(f"{described(attributes.get(name))} as its {name}, no number that is finite")
    betas = [found.pop(name) for name in _BETAS if name in found]
    return found | ({"betas": betas} if betas else {})


def _params(
    attributes: Mapping[str, Any], moments: Iterable[str], initial: float, budget: _Budget
) -> dict[str, NDArray[Any]]:
    """Return the parameters of an optimizer that has made no step. Raises `_OwnFunction`."""
    params = {}
    for name, value in _pairs(attributes.get("params"), "params", budget).items():
        array = array_of(value)
        if array is None:
            raise _OwnFunction(
                f"{described(value)} as the parameter {name[:100]!r}, no array of floating-point numbers"
            )
        budget.spend(array.nbytes)
        params[name] = array
    for moment in moments:
        begun = _pairs(attributes.get(moment), moment, budget)
        for name, array in params.items():
            values = array_of(begun.get(name))
            # filled as OpenFL does, in the parameter's own precision
            if values is None or values.shape != array.shape or (values != np.asarray(initial, array.dtype)).any():
                raise _OwnFunction(f"an optimizer that made steps already ({moment} of {name[:100]!r})")
    steps = attributes.get("current_step", {})
    if not isinstance(steps, dict) or any(steps.values()):
        raise _OwnFunction("an optimizer that made steps already (current_step)")
    return params


def _pairs(value: object, name: str, budget: _Budget) -> dict[str, Any]:
    items = value.items if isinstance(value, Record) and value.path == "collections.OrderedDict" else value
    if isinstance(items, dict):
        budget.spend(_NAME_BYTES * len(items))
    if not isinstance(items, dict) or not all(isinstance(key, str) for key in items):
        raise _OwnFunction(f"{described(value)} as its {name}")
    return items
