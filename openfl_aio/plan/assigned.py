"""The tasks that OpenFL's interactive frontend puts into an archive as a pickle, read as data.

Its stock assigner is a closure over the registered tasks, made by ``FLExperiment.define_task_assigner``: it gives every
collaborator the same tasks in every round. Which tasks those are stands in the function's constants, so nothing has to be
run to know them. A function of the user's own cannot be known without running it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from openfl_aio.domain import Task, TaskKind, check_name
from openfl_aio.errors import ArchiveError, ConfigurationError
from openfl_aio.plan.pickles import Record, UnreadablePickleError, read_pickle

__all__ = [
    "AGGREGATION_FILE",
    "ASSIGNER_FILE",
    "MAX_PICKLED_BYTES",
    "ForeignCodeError",
    "check_serializer",
    "described",
    "mapping",
    "read_tasks",
    "refusal",
    "unreadable",
]

ASSIGNER_FILE: Final = "task_assigner_obj.pkl"
AGGREGATION_FILE: Final = "aggregation_function_obj.pkl"

MAX_PICKLED_BYTES: Final = 64 * 1024 * 1024
"""Of either file: an adaptive function has the model in it, and as much again for each of its moments."""

_REMEDIES: Final = {
    ASSIGNER_FILE: "let the frontend use OpenFL's own assigner",
    AGGREGATION_FILE: "use an aggregation function of OpenFL's",
}

_FRONTEND: Final = "openfl.interface.interactive_api.experiment"
_STOCK: Final = "assigner"
_STOCK_ARGUMENTS: Final = ("collaborators", "round_number", "kwargs")
_TASKS: Final = "openfl.component.assigner.tasks"
_KINDS: Final = {kind.value: kind for kind in TaskKind if kind.value}
_MAX_TASKS: Final = 100
_SERIALIZERS: Final = "openfl.plugins.interface_serializer"
_CLOUDPICKLE: Final = f"{_SERIALIZERS}.cloudpickle_serializer.CloudpickleSerializer"
# all of them write pickles; Keras's is cloudpickle
_READ: Final = frozenset(
    {_CLOUDPICKLE, f"{_SERIALIZERS}.keras_serializer.KerasSerializer", f"{_SERIALIZERS}.dill_serializer.DillSerializer"}
)
_MAX_DEPTH: Final = 3


class ForeignCodeError(ArchiveError):
    """An archive's pickle holds code of the user's own, which only running it could tell the meaning of."""


class _OwnAssigner(Exception):
    """What stands where OpenFL's assigner was expected is a user's own; says what follows its name, if anything."""


def read_tasks(data: bytes, *, serializer: str | None = None) -> tuple[Task, ...]:
    """Return what OpenFL's stock assigner in the pickle ``data`` gives everybody in every round, in order.

    ``serializer`` is the class path of what wrote it, CloudpickleSerializer's if None.
    Raises `ForeignCodeError` for a function of the user's own and for what cannot be read, `ArchiveError` for tasks that
    are none.
    """
    check_serializer(ASSIGNER_FILE, serializer)
    try:
        root = read_pickle(data, name=ASSIGNER_FILE, most=MAX_PICKLED_BYTES)
    except UnreadablePickleError as exc:
        raise unreadable(ASSIGNER_FILE, exc, serializer) from None
    try:
        return _stock_tasks(root)
    except _OwnAssigner as exc:
        said = f"holds {described(root)}{exc}, which only running it could tell the meaning of"
        raise refusal(ASSIGNER_FILE, said, serializer) from None


def check_serializer(file: str, serializer: str | None) -> None:
    """Raise `ForeignCodeError` for a serializer whose files are not read as data."""
    if serializer is not None and serializer.replace(":", ".") not in _READ:
        raise ForeignCodeError(
            f"{file} was written by the plan's serializer {serializer:.200}, whose files only its code can read; this "
            f"director runs no code of an archive: let the plan name {_CLOUDPICKLE}, or ask the operator for "
            "'allow_pickled_code'"
        )


def refusal(file: str, said: str, serializer: str | None) -> ForeignCodeError:
    """Return the error that ``file`` is what is ``said`` of it, with what to do about that."""
    remedy = _REMEDIES[file]
    if serializer is not None and serializer.replace(":", ".") != _CLOUDPICKLE:
        said += f" (the plan's serializer is {serializer:.200})"
        remedy += f", written by {_CLOUDPICKLE}"
    return ForeignCodeError(
        f"{file} {said}; this director runs no code of an archive: {remedy}, or ask the operator for 'allow_pickled_code'"
    )


def unreadable(file: str, exc: UnreadablePickleError, serializer: str | None) -> ForeignCodeError:
    """Return the error for a pickle that cannot be read, which says with what it begins if that much is known."""
    begun = "" if exc.begun is None else f"begins with {described(exc.begun)}, and "
    return refusal(file, f"{begun}{exc.reason}", serializer)


def described(value: object, depth: int = 0) -> str:
    """Name ``value``. Only what is text is shown: what is nested may be endless to print."""
    if not isinstance(value, Record):
        return f"a value of type {type(value).__name__}"
    inner = value.args[0] if value.args and depth < _MAX_DEPTH else None
    last = value.path.rpartition(".")[2]
    if last in ("_make_function", "_create_function"):  # cloudpickle's and dill's
        return _function_name(value)
    if value.path == "functools.partial" and isinstance(inner, Record):
        return f"functools.partial of {described(inner, depth + 1)}"
    if value.path == "types.MethodType" and isinstance(inner, Record):
        return f"the method {described(inner, depth + 1)}"
    if value.path == "builtins.getattr" and len(value.args) == 2 and isinstance(value.args[1], str):
        return f"{value.args[1]:.100} of {described(inner, depth + 1)}"
    if value.path.startswith("class ") and value.called:
        return f"an object of {value.path:.200}"
    return f"{value.path:.200}"


def _function_name(value: Record) -> str:
    """Name a function that is in the pickle itself, as far as it is known."""
    slots = mapping(value.state[1]) if isinstance(value.state, tuple) and len(value.state) == 2 else {}
    texts = _texts(getattr(value.args[0], "args", ())) if value.args else []
    module, name = slots.get("__module__"), slots.get("__qualname__")
    if not isinstance(name, str):  # its code has it too
        name = texts[-1] if texts else "a function"
    if not isinstance(module, str):
        globals_ = mapping(value.args[1]) if len(value.args) > 1 else {}
        module = globals_.get("__name__")
    return f"{module:.100}.{name:.100}" if isinstance(module, str) else f"{name:.100}"


def _stock_tasks(root: object) -> tuple[Task, ...]:
    if not isinstance(root, Record) or not root.path.endswith("._make_function") or len(root.args) < 1:
        raise _OwnAssigner
    slots = mapping(root.state[1]) if isinstance(root.state, tuple) and len(root.state) == 2 else {}
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
        raise _OwnAssigner
    registered = mapping(_cell(slots.get("__closure__")))
    # the constants come in the order in which the function names the tasks
    constants = next((value for value in names if any(item in registered for item in _texts(value))), ())
    tasks = tuple(_task(registered[name]) for name in _texts(constants) if name in registered)
    if not tasks or len(tasks) > _MAX_TASKS:
        raise _OwnAssigner(f" with {len(tasks)} tasks (1 to {_MAX_TASKS} are read)")
    return tasks


def _cell(closure: object) -> object:
    if not isinstance(closure, tuple) or len(closure) != 1 or not isinstance(closure[0], Record):
        raise _OwnAssigner(" that does not close over its tasks")
    cell = closure[0]
    return cell.args[0] if cell.args else None


def _task(record: object) -> Task:
    """Return our task for OpenFL's ``TrainTask`` or ``ValidateTask``. Raises `ArchiveError` for a name that is none."""
    values = mapping(getattr(record, "state", None))
    name, function, written = values.get("name"), values.get("function_name"), values.get("task_type")
    kind = _KINDS.get(written) if isinstance(written, str) else None
    known = isinstance(record, Record) and record.path.rpartition(".")[0] == _TASKS
    if not known or not isinstance(name, str) or not isinstance(function, str) or kind is None:
        raise _OwnAssigner(f" with {described(record)} as a task, not one of OpenFL's with name, function and type")
    try:
        check_name(name, what="task")
    except ConfigurationError as exc:
        raise ArchiveError(f"{ASSIGNER_FILE}: {exc}") from None
    return Task(name, function, kind, apply_local=values.get("apply_local") is True)


def mapping(value: object) -> Mapping[str, Any]:
    """Return ``value``, or an empty mapping in place of anything else than a dictionary."""
    return value if isinstance(value, dict) else {}


def _texts(values: Iterable[object]) -> list[str]:
    return [value for value in values if isinstance(value, str)]
