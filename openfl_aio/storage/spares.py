"""Files that are needed no more, kept to be written over.

Their pages are in memory and their blocks on the disk: writing over them is about twice as fast as making new ones.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Final

from openfl_aio.storage.files import partial_path, remove_quietly

__all__ = ["LEAST_BYTES", "SpareFiles"]

LEAST_BYTES: Final = 1024 * 1024  # below, a new file is as good
MOST_BYTES: Final = 4 * 1024**3


class SpareFiles:
    """Spare files under temporary names in ``folder``; at most ``most_bytes`` of them. May be used from any thread.

    Whoever sweeps the folder's partial files at the next start removes what a killed process left.
    """

    def __init__(self, folder: Path, *, most_bytes: int = MOST_BYTES) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._files: list[tuple[Path, int]] = []
        self._nbytes = 0

    def __repr__(self) -> str:
        return f"<SpareFiles {len(self._files)} files, {self._nbytes} bytes>"

    def put(self, path: Path) -> None:
        """Take over the file at ``path``, which nobody reads any more; the name is free afterwards. Never raises."""
        try:
            nbytes = path.stat().st_size
            with self._lock:
                if nbytes >= LEAST_BYTES and self._nbytes + nbytes <= self._most_bytes:
                    spare = partial_path(self._folder / path.name)
                    os.replace(path, spare)
                    self._files.append((spare, nbytes))
                    self._nbytes += nbytes
                    return
        except OSError:
            pass
        remove_quietly(path)

    def take(self) -> Path | None:
        """Give the last file that was put away, with whatever is in it; None if there is none."""
        with self._lock:
            if not self._files:
                return None
            path, nbytes = self._files.pop()
            self._nbytes -= nbytes
            return path

    def clear(self) -> bool:
        """Remove them all. Return whether that freed anything."""
        with self._lock:
            files, self._files, self._nbytes = self._files, [], 0
        for path, _ in files:
            remove_quietly(path)
        return bool(files)
