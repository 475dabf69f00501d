"""The tasks and aggregation functions that OpenFL's interactive frontend puts into an archive as pickles, read as data.

Its stock assigner is a closure over the registered tasks, made by ``FLExperiment.define_task_assigner``: it gives every
collaborator the same tasks in every round. Which tasks those are stands in the function's constants, so nothing has to be
run to know them. A function of the user's own cannot be known without running it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from openfl_aio.domain import Task, TaskKind, check_name
from openfl_aio.errors import ArchiveError, ConfigurationError
from openfl_aio.plan.pickles import Record, read_pickle
from openfl_aio.plan.templates import AGGREGATIONS
from openfl_aio.tensors.aggregation import describe_aggregation

__all__ = [
    "AGGREGATION_FILE",
    "ASSIGNER_FILE",
    "MAX_FUNCTIONS_BYTES",
    "ForeignCodeError",
    "Functions",
    "read_functions",
    "read_tasks",
]

ASSIGNER_FILE: Final = "task_assigner_obj.pkl"
AGGREGATION_FILE: Final = "aggregation_function_obj.pkl"

MAX_FUNCTIONS_BYTES: Final = 64 * 1024 * 1024
"""Of `AGGREGATION_FILE`: an adaptive function has the model in it, and as much again for each of its moments."""

_FRONTEND: Final = "openfl.interface.interactive_api.experiment"
_STOCK: Final = "assigner"
_STOCK_ARGUMENTS: Final = ("collaborators", "round_number", "kwargs")
_TASKS: Final = "openfl.component.assigner.tasks"
_KINDS: Final = {kind.value: kind for kind in TaskKind if kind.value}
_MAX_TASKS: Final = 100
# attributes of 1.6's optimizers, by ours
_SETTINGS: Final = {
    "learning_rate": "learning_rate",
    "initial_accumulator_value": "initial_accumulator_value",
    "epsilon": "epsilon",
}


class ForeignCodeError(ArchiveError):
    """An archive's pickle holds code of the user's own, which only running it could tell the meaning of."""


@dataclass(frozen=True)
class Functions:
    """Which aggregation function, as `get_aggregation` reads it, the tensors of a task's function get.

    ``foreign`` says of the others, which are a user's own, what stands there; ``unreadable`` that any of them may be.
    """

    by_function: dict[str, str] = field(default_factory=dict)
    default: str = "weighted_average"
    foreign: dict[str, str] = field(default_factory=dict)
    unreadable: bool = False

    def of(self, tasks: Iterable[Task]) -> dict[str, str]:
        """Return the function of each task by its name; a user's own are left out."""
        known = [task for task in tasks if not self._is_foreign(task)]
        return {task.name: self.by_function.get(task.function_name, self.default) for task in known}

    def foreign_tasks(self, tasks: Iterable[Task]) -> tuple[Task, ...]:
        """Return the tasks whose tensors a function of a user's own aggregates."""
        return tuple(task for task in tasks if self._is_foreign(task))

    def _is_foreign(self, task: Task) -> bool:
        # what validates has metrics alone, and those are averaged whatever the function
        return (self.unreadable and task.kind is not TaskKind.VALIDATE) or task.function_name in self.foreign


def read_tasks(data: bytes) -> tuple[Task, ...]:
    """Return what OpenFL's stock assigner in the pickle ``data`` gives everybody in every round, in order.

    Raises `ForeignCodeError` for a function of the user's own, `ArchiveError` for what cannot be read.
    """
    return _stock_tasks(read_pickle(data, name=ASSIGNER_FILE))


def read_functions(data: bytes, *, allow_foreign: bool = False) -> Functions:
    """Return the aggregation functions in the pickle ``data``.

    With ``allow_foreign`` a user's own are named, and what cannot be read is taken for theirs. Without, raises
    `ForeignCodeError` for the first of a user's own, and `ArchiveError` for what cannot be read.
    """
    try:
        functions = _functions(read_pickle(data, name=AGGREGATION_FILE, most=MAX_FUNCTIONS_BYTES))
    except ArchiveError:
        if not allow_foreign:
            raise
        return Functions(unreadable=True)
    if functions.foreign and not allow_foreign:
        raise _unknown_function(next(iter(functions.foreign.values())))
    return functions


def _foreign(what: str) -> ForeignCodeError:
    return ForeignCodeError(
        f"{ASSIGNER_FILE} holds {what}, which only running it could tell the meaning of; this director runs no code of an "
        "archive: let the frontend use OpenFL's own assigner, or ask the operator for 'allow_pickled_code'"
    )


def _unknown_function(what: str) -> ForeignCodeError:
    return ForeignCodeError(
        f"{AGGREGATION_FILE} holds {what}, which is no aggregation function of OpenFL; this director runs no code of an "
        "archive: use one of OpenFL's, or ask the operator for 'allow_pickled_code'"
    )


def _stock_tasks(root: object) -> tuple[Task, ...]:
    if not isinstance(root, Record) or not root.path.endswith("._make_function") or len(root.args) < 1:
        raise _foreign(_described(root))
    slots = _mapping(root.state[1]) if isinstance(root.state, tuple) and len(root.state) == 2 else {}
    code = root.args[0]
    names = [value for value in getattr(code, "args", ()) if isinstance(value, tuple)]
    plain = [value for value in getattr(code, "args", ()) if isinstance(value, str)]
    own = (
        slots.get("__module__") != _FRONTEND
        or slots.get("__name__") != _STOCK
        or _STOCK not in plain
        or ("tasks",) not in names  # its only free variable
        or not any(value[:3] == _STOCK_ARGUMENTS for value in names)
    )
    if own:
        raise _foreign(f"a function of its own ({_described(root)})")
    registered = _mapping(_cell(slots.get("__closure__")))
    # the constants come in the order in which the function names the tasks
    constants = next((value for value in names if any(item in registered for item in _texts(value))), ())
    tasks = tuple(_task(registered[name]) for name in _texts(constants) if name in registered)
    if not tasks or len(tasks) > _MAX_TASKS:
        raise ArchiveError(f"{ASSIGNER_FILE} assigns {len(tasks)} tasks; expected 1 to {_MAX_TASKS}")
    return tasks


def _cell(closure: object) -> object:
    if not isinstance(closure, tuple) or len(closure) != 1 or not isinstance(closure[0], Record):
        raise ArchiveError(f"{ASSIGNER_FILE}: expected OpenFL's assigner to close over its tasks, got something else")
    cell = closure[0]
    return cell.args[0] if cell.args else None


def _task(record: object) -> Task:
    """Return our task for OpenFL's ``TrainTask`` or ``ValidateTask``. Raises `ArchiveError`."""
    values = _mapping(getattr(record, "state", None))
    name, function, written = values.get("name"), values.get("function_name"), values.get("task_type")
    kind = _KINDS.get(written) if isinstance(written, str) else None
    known = isinstance(record, Record) and record.path.rpartition(".")[0] == _TASKS
    if not known or not isinstance(name, str) or not isinstance(function, str) or kind is None:
        raise ArchiveError(
            f"{ASSIGNER_FILE}: expected a task of OpenFL with its name, function and type, got something else"
        )
    try:
        check_name(name, what="task")
    except ConfigurationError as exc:
        raise ArchiveError(f"{ASSIGNER_FILE}: {exc}") from None
    return Task(name, function, kind, apply_local=values.get("apply_local") is True)


def _functions(root: object) -> Functions:
    """Return the aggregation function of each task's function, and that of all others."""
    foreign: dict[str, str] = {}
    if isinstance(root, dict):
        items, default = root, "weighted_average"
    elif isinstance(root, Record) and root.path == "collections.defaultdict" and len(root.args) == 1:
        items, default = root.items, _function(root.args[0])
    else:
        raise _unknown_function(_described(root))
    known: dict[str, str] = {}
    for name, value in items.items():
        try:
            known[str(name)] = _function(value)
        except ForeignCodeError:
            foreign[str(name)] = _described(value)
    return Functions(known, default, foreign)


def _function(value: object) -> str:
    path = getattr(value, "path", None)
    if not isinstance(path, str):
        raise _unknown_function(_described(value))
    try:
        name = AGGREGATIONS.name_of(path)
    except ConfigurationError:
        raise _unknown_function(f"the aggregation function {path:.200}") from None
    optimizer = _mapping(getattr(value, "state", None)).get("optimizer")
    try:
        return describe_aggregation(name, _settings(_mapping(getattr(optimizer, "state", None))))
    except (ConfigurationError, OverflowError) as exc:
        raise ArchiveError(f"{AGGREGATION_FILE}: {exc}") from None


def _settings(attributes: Mapping[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {
        ours: float(attributes[theirs])
        for theirs, ours in _SETTINGS.items()
        if isinstance(attributes.get(theirs), int | float)
    }
    betas = [attributes.get(f"beta_{number}") for number in (1, 2)]
    if all(isinstance(beta, int | float) for beta in betas):
        settings["betas"] = betas
    return settings


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _texts(values: Iterable[object]) -> list[str]:
    return [value for value in values if isinstance(value, str)]


def _described(value: object) -> str:
    """Name ``value``. Only what is text is shown: what is nested may be endless to print."""
    if isinstance(value, Record) and isinstance(value.state, tuple) and len(value.state) == 2:
        slots = _mapping(value.state[1])
        names = (slots.get("__module__"), slots.get("__qualname__"))
        return ".".join(f"{name:.100}" if isinstance(name, str) else "?" for name in names)
    return f"{value.path:.200}" if isinstance(value, Record) else f"a value of type {type(value).__name__}"
