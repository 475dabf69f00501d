"""A pickle read as data: what it would import and call becomes inert records, and nothing of it is ever run.

Archives of OpenFL's interactive frontend hold two pickles for the server. This reads the part of the pickle language that
cloudpickle writes for functions, plain objects and arrays, by protocol 2 and newer, on Python 3.8 and newer; `Record` stands
for every class, function and object in it. Python's own unpickler is not used, even with its imports cut off: it hashes
whatever is put into a dictionary or set, and sixty bytes of nested tuples take for ever to hash, or more than the C stack.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from openfl_aio.errors import ArchiveError

__all__ = ["MAX_PICKLE_BYTES", "Nested", "Record", "UnreadablePickleError", "read_pickle"]

MAX_PICKLE_BYTES: Final = 1024 * 1024
MAX_INSTRUCTIONS: Final = 200_000
MAX_PATH: Final = 1000
# cloudpickle gives a function or class its state by calling one of these with it
_STATE_SETTERS: Final = frozenset({"_function_setstate", "_class_setstate"})


class UnreadablePickleError(ArchiveError):
    """A pickle that is damaged, too large, or of a kind that is not read here.

    ``reason`` says which; ``begun`` is the outermost object that was being made, as far as it came, None if none was.
    """

    def __init__(self, name: str, reason: str, begun: Any = None) -> None:
        super().__init__(f"{name} {reason}")
        self.reason = reason
        self.begun = begun


@dataclass(slots=True, eq=False)
class Record:
    """What a pickle names or makes: a class or function by its import ``path``, or what comes of calling one.

    ``args`` and ``keywords`` are what it was called with, ``called`` whether it was. ``state`` is what was set afterwards,
    and ``items`` what was put into it. The path of a class that is in the pickle itself begins with "class ".
    """

    path: str
    called: bool = False
    args: tuple[Any, ...] = field(default=(), repr=False)  # what is nested may be endless to print
    keywords: dict[Any, Any] = field(default_factory=dict, repr=False)
    state: Any = field(default=None, repr=False)
    items: dict[Any, Any] = field(default_factory=dict, repr=False)


@dataclass(slots=True, eq=False)
class Nested:
    """A key of a dictionary that is no plain value, a tuple for example. Found by nothing, for it is never hashed."""

    value: Any = field(repr=False)


def read_pickle(data: bytes, *, name: str, most: int = MAX_PICKLE_BYTES) -> Any:
    """Return what the pickle ``data`` holds: plain values, and a `Record` for everything else. A set is a list.

    ``name`` is the file's, for errors, ``most`` how many bytes it may have. Takes a second for a hostile megabyte, so call
    it in a thread. What comes may be nested without end: compare and print nothing of it that is not known to be plain.

    Raises `UnreadablePickleError` for what is no pickle, too large, or not of the kind that cloudpickle writes.
    """
    if len(data) > most:
        raise UnreadablePickleError(name, f"has {len(data)} bytes; at most {most} are read")
    machine = _Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if count >= MAX_INSTRUCTIONS:
                raise _Unknown(f"has more than {MAX_INSTRUCTIONS} instructions")
            if opcode.name == "STOP":
                break
            action = _ACTIONS.get(opcode.name)
            if action is None:
                raise _Unknown(f"uses the instruction {opcode.name}, which cloudpickle does not write here")
            action(machine, argument)
        return machine.pop()
    except Exception as exc:  # a damaged pickle fails in any way there is
        reason = f"is no pickle that can be read ({type(exc).__name__}: {exc!s:.200})"
        if isinstance(exc, _Unknown):
            reason = str(exc)
        begun = next((value for value in machine.stack if value is not _Mark), None)
        raise UnreadablePickleError(name, reason, begun) from None


class _Unknown(Exception):
    """What is not read, said of the file."""


def _joined(*names: str) -> str:
    """Return the path of ``names``. A long one is refused: a pickle can name a text that it has once as often as it likes."""
    if sum(map(len, names)) > MAX_PATH:
        raise ValueError(f"a name of more than {MAX_PATH} characters")
    return ".".join(names)


class _Mark:
    """Where a group of operands begins on the stack."""


class _Machine:
    """The stack and the memo of one reading, and the instructions that do more than push a value."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}  # a pickle may name any index

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _Mark:
            raise ValueError("a value is missing")
        return value

    def group(self) -> list[Any]:
        """Take everything above the last mark off the stack, and the mark."""
        taken = []
        while (value := self.stack.pop()) is not _Mark:
            taken.append(value)
        taken.reverse()
        return taken

    def tuple_of(self, size: int) -> None:
        taken = [self.pop() for _ in range(size)]
        self.push(tuple(reversed(taken)))

    def put(self, values: list[Any]) -> None:
        """Put ``values`` into the list, or object, on top of the stack."""
        target = self.stack[-1]
        if isinstance(target, Record):
            target.items.update(enumerate(values, start=len(target.items)))
        else:
            target.extend(values)

    def put_pairs(self, values: list[Any]) -> None:
        """Put keys and values into the dictionary, or object, on top of the stack."""
        target = self.stack[-1]
        items = target.items if isinstance(target, Record) else target
        if not isinstance(items, dict):
            raise TypeError(f"a {type(items).__name__} has no keys")
        for key, value in zip(values[::2], values[1::2], strict=True):
            items[key if isinstance(key, str | bytes | int | float | None) else Nested(key)] = value

    def name(self) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("a name that is no text")
        self.push(Record(_joined(module, name)))

    def call(self, keywords: dict[Any, Any] | None = None) -> None:
        args, callee = self.pop(), self.pop()
        if not isinstance(args, tuple) or not isinstance(callee, Record) or not isinstance(keywords, dict | None):
            raise TypeError("a call of what cannot be called")
        function = callee.path.rpartition(".")[2]
        if function in _STATE_SETTERS and len(args) == 2 and isinstance(args[0], Record):
            args[0].state = args[1]
        if function == "_make_skeleton_class" and len(args) > 1 and isinstance(args[1], str):
            made = args[3] if len(args) > 3 and isinstance(args[3], dict) else {}
            module = made.get("__module__")
            named = _joined(module, args[1]) if isinstance(module, str) else _joined(args[1])
            self.push(Record(f"class {named}"))
            return
        path = f"{callee.path}()" if callee.called else callee.path
        if path.endswith("._builtin_type()") and callee.args and isinstance(callee.args[0], str):
            path = _joined("types", callee.args[0])  # cloudpickle's way to write types.MethodType and the like
        self.push(Record(_joined(path), True, args, keywords or {}))

    def set_state(self) -> None:
        state, target = self.pop(), self.stack[-1]
        if not isinstance(target, Record):
            raise TypeError(f"a {type(target).__name__} has no state")
        target.state = state


_VALUES: Final = (
    "BININT BININT1 BININT2 LONG1 BINFLOAT "  # noqa: SIM905
    "SHORT_BINUNICODE BINUNICODE SHORT_BINBYTES BINBYTES BYTEARRAY8".split()
)
_ACTIONS: Final[dict[str, Callable[[_Machine, Any], object]]] = {
    **dict.fromkeys(_VALUES, _Machine.push),
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "MARK": lambda machine, _: machine.push(_Mark),
    "POP": lambda machine, _: machine.pop(),
    "POP_MARK": lambda machine, _: machine.group(),
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    "MEMOIZE": lambda machine, _: machine.memo.update({len(machine.memo): machine.stack[-1]}),
    "BINPUT": lambda machine, index: machine.memo.update({index: machine.stack[-1]}),
    "LONG_BINPUT": lambda machine, index: machine.memo.update({index: machine.stack[-1]}),
    "BINGET": lambda machine, index: machine.push(machine.memo[index]),
    "LONG_BINGET": lambda machine, index: machine.push(machine.memo[index]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.group())),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_SET": lambda machine, _: machine.push([]),
    "FROZENSET": lambda machine, _: machine.push(machine.group()),
    "APPEND": lambda machine, _: machine.put([machine.pop()]),
    "APPENDS": lambda machine, _: machine.put(machine.group()),
    "ADDITEMS": lambda machine, _: machine.put(machine.group()),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "SETITEM": lambda machine, _: machine.put_pairs([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.put_pairs(machine.group()),
    "GLOBAL": lambda machine, names: machine.push(Record(_joined(*names.split(" ", 1)))),
    "STACK_GLOBAL": lambda machine, _: machine.name(),
    "REDUCE": lambda machine, _: machine.call(),
    "NEWOBJ": lambda machine, _: machine.call(),
    "NEWOBJ_EX": lambda machine, _: machine.call(machine.pop()),
    "BUILD": lambda machine, _: machine.set_state(),
}
