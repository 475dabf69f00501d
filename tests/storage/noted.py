"""A disk that notes what the loss of power would take, and fails as it is told to."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Disk"]

Fault = Callable[[str, str], OSError | None]


@dataclass
class Disk:
    """Notes what is changed and what is flushed, and fails as it is told to.

    ``unsafe`` holds what the loss of power would take: files (by inode) that were changed since their flush began, and
    names (paths) that were given since that of their folder.
    """

    unsafe: set[int | Path] = field(default_factory=set)
    fsyncs: list[str] = field(default_factory=list)
    fault: Fault = lambda call, name: None
    held: Callable[[str], None] = lambda name: None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(os, "fsync", self._fsync(os.fsync))
        for call in ("write", "pwrite", "ftruncate"):
            patch.setattr(os, call, self._changing(getattr(os, call)))
        for call in ("replace", "mkdir", "link"):
            patch.setattr(os, call, self._naming(call, getattr(os, call)))
        patch.setattr(os, "open", self._opening(os.open))

    def is_safe(self, path: Path, root: Path) -> bool:
        """Whether the file and every name on the way to it from ``root`` are on the disk."""
        on_the_way = {path, *(folder for folder in path.parents if root in folder.parents)}
        with self.lock:
            return not self.unsafe & {*on_the_way, path.stat().st_ino}

    def _fsync(self, function: Callable[[int], None]) -> Callable[[int], None]:
        def fsync(descriptor: int) -> None:
            found = os.fstat(descriptor)
            name = os.readlink(f"/proc/self/fd/{descriptor}")
            with self.lock:
                self.fsyncs.append("folder" if stat.S_ISDIR(found.st_mode) else "file")
                flushed = {
                    one for one in self.unsafe if one == found.st_ino or getattr(one, "parent", "") == Path(name)
                }
                self.unsafe -= flushed
            try:
                self.held(name)
                error = self.fault("fsync", name)
                if error is not None:
                    raise error
                function(descriptor)
            except OSError:
                with self.lock:
                    self.unsafe |= flushed
                raise

        return fsync

    def _changing(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def changing(descriptor: int, *arguments: Any) -> Any:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                with self.lock:
                    self.unsafe.add(os.fstat(descriptor).st_ino)
            return function(descriptor, *arguments)

        return changing

    def _naming(self, call: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def naming(path: Any, *arguments: Any, **settings: Any) -> Any:
            named = Path(arguments[0] if call != "mkdir" else path)
            error = self.fault(call, str(named))
            if error is not None:
                raise error
            result = function(path, *arguments, **settings)
            with self.lock:
                self.unsafe.add(named)
            return result

        return naming

    def _opening(self, function: Callable[..., int]) -> Callable[..., int]:
        def opening(path: Any, flags: int, *arguments: Any, **settings: Any) -> int:
            if flags & os.O_CREAT and not Path(path).exists():
                with self.lock:
                    self.unsafe.add(Path(path))
            return function(path, flags, *arguments, **settings)

        return opening
