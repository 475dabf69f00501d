"""Names made durable for everybody who asks at once: a disk takes as long to flush one name as to flush many."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from errno import EIO
from pathlib import Path

from openfl_aio.storage.files import fsync_folder

__all__ = ["FolderFlushes"]


@dataclass(slots=True, eq=False)
class _Batch:
    """Folders that are flushed together. What is not in ``flushed`` at the end was not."""

    waiting: int = 0
    folders: set[Path] = field(default_factory=set)
    flushed: set[Path] = field(default_factory=set)
    errors: dict[Path, int] = field(default_factory=dict)
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        try:
            for folder in self.folders:
                try:
                    fsync_folder(folder)
                    self.flushed.add(folder)
                except OSError as exc:
                    self.errors[folder] = exc.errno or EIO
        finally:
            self.over.set()


class FolderFlushes:
    """Flushes folders one batch at a time. Who comes while one is under way waits for it and shares the next.

    Nobody waits for others to come: who is alone is served at once. May be used from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # held for moments
        self._turn = threading.Lock()  # held while a batch is flushed
        self._next: _Batch | None = None

    def __repr__(self) -> str:
        return f"<FolderFlushes {'busy' if self._turn.locked() else 'idle'}>"

    @property
    def waiting(self) -> int:
        """How many wait for a flush that has not begun."""
        with self._lock:
            return 0 if self._next is None else self._next.waiting

    def flush(self, *folders: Path) -> None:
        """Return once all names that are in ``folders`` now are on the disk. Blocks.

        Raises `OSError` if one of them could not be flushed, to all who wait for that one.
        """
        with self._lock:
            batch, leads = self._next, self._next is None
            if batch is None:
                batch = self._next = _Batch()
            batch.waiting += 1
            batch.folders.update(folders)
        if leads:
            with self._turn:
                with self._lock:
                    self._next = None  # a name that is made from now on may come too late for this flush
                batch.run()
        else:
            batch.over.wait()
        for folder in folders:
            if folder not in batch.flushed:
                code = batch.errors.get(folder, EIO)
                raise OSError(code, os.strerror(code), str(folder))
