"""A pickle read as data: what it would import and call becomes inert records, and nothing of it is ever run.

Archives of OpenFL's interactive frontend hold two pickles for the server. This reads the part of the pickle language that
cloudpickle writes for functions and plain objects, on Python 3.8 and newer; `Record` stands for every class, function
and object in it. Whatever else a pickle may do (extension codes, persistent ids, an index that makes the reader reserve
gigabytes) is refused before a single instruction is carried out.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import Any, Final

from openfl_aio.errors import ArchiveError

__all__ = ["MAX_PICKLE_BYTES", "Record", "read_pickle"]

MAX_PICKLE_BYTES: Final = 1024 * 1024
MAX_INSTRUCTIONS: Final = 200_000
_VALUES: Final = ("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT")
_TEXTS: Final = ("SHORT_BINUNICODE", "BINUNICODE", "SHORT_BINBYTES", "BINBYTES")
_TUPLES: Final = ("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
_CONTAINERS: Final = (
    "EMPTY_LIST",
    "APPEND",
    "APPENDS",
    "EMPTY_DICT",
    "SETITEM",
    "SETITEMS",
    "EMPTY_SET",
    "ADDITEMS",
    "FROZENSET",
)
_OBJECTS: Final = ("STACK_GLOBAL", "REDUCE", "NEWOBJ", "NEWOBJ_EX", "BUILD")
_MACHINE: Final = ("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "MEMOIZE", "BINGET", "LONG_BINGET")
_ALLOWED: Final = frozenset((*_MACHINE, *_VALUES, *_TEXTS, *_TUPLES, *_CONTAINERS, *_OBJECTS))
# cloudpickle gives a function or class its state by calling one of these with it
_STATE_SETTERS: Final = frozenset({"_function_setstate", "_class_setstate"})


class Record:
    """What a pickle names or makes: a class or function by its import ``path``, or what comes of calling one.

    ``args`` and ``keywords`` are what it was called with, None for a name that was not called. ``state`` is what was set
    afterwards, and ``items`` what was put into it. Equal paths are the same type, so `isinstance` tells nothing.
    """

    path: str = ""

    def __new__(cls, *args: Any, **keywords: Any) -> Any:
        """Note a call. One that makes a class gives a record type, as what is named does."""
        if cls.path.endswith("._make_skeleton_class") and len(args) > 1:
            return _named(str(args[1]))
        self = object.__new__(cls)
        self.__dict__.update(args=args, keywords=keywords, state=None, items={})
        if cls.path.rpartition(".")[2] in _STATE_SETTERS and len(args) == 2 and isinstance(args[0], Record):
            args[0].__dict__["state"] = args[1]
        return self

    args: tuple[Any, ...]
    keywords: dict[str, Any]
    state: Any
    items: dict[Any, Any]

    def __repr__(self) -> str:
        return f"<Record of {self.path}>"

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        """Note a call of what a call gave."""
        return _named(f"{self.path}()")(*args, **keywords)

    def __reduce__(self) -> Any:
        raise TypeError("a record is not to be pickled again")

    def __setstate__(self, state: Any) -> None:
        self.__dict__["state"] = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def append(self, value: Any) -> None:
        """Keep what is put into a list's subclass."""
        self.items[len(self.items)] = value

    def extend(self, values: Any) -> None:
        """Keep what is put into a list's subclass."""
        for value in values:
            self.append(value)

    def add(self, value: Any) -> None:
        """Keep what is put into a set's subclass."""
        self.append(value)


def _named(path: str) -> type[Record]:
    return type("Record", (Record,), {"path": path})


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return a record type instead of what is named: nothing is imported."""
        return _named(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        """Refuse: there is no such store."""
        raise pickle.UnpicklingError("persistent ids are not read")


def read_pickle(data: bytes, *, name: str) -> Any:
    """Return what the pickle ``data`` holds: plain values, and a `Record` (or record type) for everything else.

    ``name`` is the file's, for errors. Takes a second for a hostile megabyte, so call it in a thread.

    Raises `ArchiveError` for what is no pickle, too large, or not of the kind that cloudpickle writes.
    """
    if len(data) > MAX_PICKLE_BYTES:
        raise ArchiveError(f"{name} has {len(data)} bytes; at most {MAX_PICKLE_BYTES} are read")
    try:
        for count, (opcode, _, _) in enumerate(pickletools.genops(data)):
            if opcode.name not in _ALLOWED:
                raise ArchiveError(f"{name} uses the instruction {opcode.name}, which cloudpickle does not write here")
            if count >= MAX_INSTRUCTIONS:
                raise ArchiveError(f"{name} has more than {MAX_INSTRUCTIONS} instructions")
        return _Reader(io.BytesIO(data)).load()
    except ArchiveError:
        raise
    except Exception as exc:  # a damaged pickle fails in any way there is
        raise ArchiveError(f"{name} is no pickle that can be read ({type(exc).__name__}: {exc!s:.200})") from None
