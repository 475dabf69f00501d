"""A name for every call by which openfl_aio changes the disk, and a process that dies at one of them.

The calls are replaced from outside, so nothing of this is in the package. A name is
``module.function.call.when``: which function of ours made which call, and whether the process stands ``before`` it,
``half``-way (of what is written only the first half arrives), or ``after`` it. What goes through the helpers of
`openfl_aio.storage.files` is named by who uses them: ``models._save.writing_atomic.replace.before``.
A commit is named by what the transaction changed: ``sqlite.insert_experiments.commit.before``.
"""

from __future__ import annotations

import _io
import builtins
import io
import os
import re
import signal
import sqlite3
import sys
import tempfile  # noqa: F401  the modules that look at what `os` can do must see it as it is
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import shutil  # noqa: F401  isort: skip

__all__ = ["Failpoints"]

PACKAGE: Final = "openfl_aio."
HELPERS: Final = "openfl_aio.storage.files"
NOT_THE_DISK: Final = ("openfl_aio.transport", "openfl_aio.telemetry")

WRITES: Final = ("write", "pwrite", "writev", "pwritev")
OTHERS: Final = (
    "fsync",
    "fdatasync",
    "replace",
    "rename",
    "link",
    "symlink",
    "unlink",
    "remove",
    "ftruncate",
    "truncate",
    "mkdir",
    "rmdir",
    "posix_fallocate",
    "copy_file_range",
    "sendfile",
)
CHANGE: Final = re.compile(r"\s*(insert|update|delete|create|drop|alter)\s+(?:into|from|table)?\s*(\w+)", re.IGNORECASE)

_write, _kill = os.write, os.kill


class Failpoints:
    """Counts the failpoints that a process reaches, writes their names to ``record``, and kills it at one.

    ``kill`` is a name and the how-manieth time that it is reached, from 1. A set of names kills at the first failpoint
    that is not among them.
    """

    def __init__(self, record: Path | None = None, kill: tuple[str, int] | frozenset[str] | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self._kill = kill
        self._lock = threading.Lock()
        self._record = None if record is None else os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def reach(self, name: str) -> None:
        """Say that the process is at the failpoint; it may be the last thing it does."""
        if self._passed(name):
            _kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)  # the signal may take a moment to arrive at another thread

    def due(self, name: str) -> bool:
        """Return whether the next time that ``name`` is reached the process dies."""
        return self._is_end(name, self.counts[name] + 1)

    def _is_end(self, name: str, count: int) -> bool:
        return name not in self._kill if isinstance(self._kill, frozenset) else self._kill == (name, count)

    def _passed(self, name: str) -> bool:
        with self._lock:
            self.counts[name] += 1
            if self._record is not None:
                _write(self._record, f"{name}\n".encode())
            return self._is_end(name, self.counts[name])

    def install(self) -> None:
        """Replace the calls, for the rest of the process's life."""
        for call in WRITES:
            if hasattr(os, call):
                setattr(os, call, self._wrapped_write(call, getattr(os, call)))
        for call in OTHERS:
            if hasattr(os, call):
                setattr(os, call, self._wrapped(call, getattr(os, call)))
        os.open = self._wrapped_creation(os.open)
        opened = self._wrapped_open(_io.open)
        builtins.open = io.open = _io.open = opened  # each is somebody's way to it
        connect = sqlite3.connect

        def connected(*arguments: Any, **settings: Any) -> Any:
            return connect(*arguments, **{"factory": _connection_class(self), **settings})

        sqlite3.connect = connected

    def _wrapped(self, call: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **settings: Any) -> Any:
            where = _caller()
            if where is None:
                return function(*arguments, **settings)
            self.reach(f"{where}.{call}.before")
            result = function(*arguments, **settings)
            self.reach(f"{where}.{call}.after")
            return result

        return wrapped

    def _wrapped_creation(self, function: Callable[..., int]) -> Callable[..., int]:
        def wrapped(path: Any, flags: int, *arguments: Any, **settings: Any) -> int:
            where = _caller() if flags & os.O_CREAT else None
            if where is None:
                return function(path, flags, *arguments, **settings)
            self.reach(f"{where}.create.before")
            descriptor = function(path, flags, *arguments, **settings)
            self.reach(f"{where}.create.after")
            return descriptor

        return wrapped

    def _wrapped_write(self, call: str, function: Callable[..., int]) -> Callable[..., int]:
        def wrapped(descriptor: int, data: Any, *arguments: Any, **settings: Any) -> int:
            where = _caller()
            if where is None:
                return function(descriptor, data, *arguments, **settings)
            self.reach(f"{where}.{call}.before")
            if self.due(f"{where}.{call}.half"):
                function(descriptor, _half(data), *arguments, **settings)
            self.reach(f"{where}.{call}.half")
            written = function(descriptor, data, *arguments, **settings)
            self.reach(f"{where}.{call}.after")
            return written

        return wrapped

    def _wrapped_open(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(file: Any, mode: str = "r", *arguments: Any, **settings: Any) -> Any:
            where = _caller() if set(mode) & set("wax+") else None
            if where is None:
                return function(file, mode, *arguments, **settings)
            self.reach(f"{where}.open.before")
            opened = function(file, mode, *arguments, **settings)
            self.reach(f"{where}.open.after")
            return _File(opened, self)

        return wrapped


class _File:
    """A file that is open for writing. What it holds back in memory is written at ``flush`` and ``close``."""

    def __init__(self, file: Any, points: Failpoints) -> None:
        self._file = file
        self._points = points

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Any:
        return iter(self._file)

    def write(self, data: Any) -> int:
        where = _caller()
        if where is None:
            return int(self._file.write(data))
        self._points.reach(f"{where}.write.before")
        if self._points.due(f"{where}.write.half"):
            self._file.write(_half(data))
            self._file.flush()
        self._points.reach(f"{where}.write.half")
        written = int(self._file.write(data))
        self._points.reach(f"{where}.write.after")
        return written

    def flush(self) -> None:
        self._around("flush", self._file.flush)

    def close(self) -> None:
        if not self._file.closed:
            self._around("close", self._file.close)

    def truncate(self, size: int | None = None) -> int:
        return int(self._around("ftruncate", lambda: self._file.truncate(size)))

    def _around(self, call: str, function: Callable[[], Any]) -> Any:
        where = _caller()
        if where is not None:
            self._points.reach(f"{where}.{call}.before")
        result = function()
        if where is not None:
            self._points.reach(f"{where}.{call}.after")
        return result


def _connection_class(points: Failpoints) -> type[sqlite3.Connection]:
    class Connection(sqlite3.Connection):
        """A connection whose commits have names. Transactions that changed nothing have none."""

        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings)
            self._changed = ""
            self.set_trace_callback(self._look)

        def commit(self) -> None:
            if not self.in_transaction or not self._changed:
                super().commit()
                return
            where, self._changed = f"sqlite.{self._changed}", ""
            points.reach(f"{where}.commit.before")
            super().commit()
            points.reach(f"{where}.commit.after")

        def rollback(self) -> None:
            self._changed = ""
            super().rollback()

        def _look(self, statement: str) -> None:
            change = CHANGE.match(statement)
            if change is not None:
                self._changed = "_".join(change.groups()).lower()

    return Connection


def _half(data: Any) -> Any:
    """Return the first half of what was to be written: bytes, text, or a list of bytes."""
    if isinstance(data, list | tuple):
        joined = b"".join(data)
        return [joined[: len(joined) // 2]]
    if isinstance(data, str):
        return data[: len(data) // 2]
    view = memoryview(data).cast("B") if len(data) else memoryview(b"")
    return view[: len(view) // 2]


def _caller() -> str | None:
    """Return which function of ours makes the call, None if none does, or it is about the network or the log."""
    frame = sys._getframe(2)
    helper = ""
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module.startswith(NOT_THE_DISK):
            return None
        if module.startswith(PACKAGE):
            name = f"{module.rpartition('.')[2]}.{frame.f_code.co_name}"
            if module != HELPERS:
                return f"{name}.{helper}" if helper else name
            # the outermost of the helpers says most
            helper = frame.f_code.co_name
        frame = frame.f_back  # type: ignore[assignment]
    return f"files.{helper}" if helper else None
