"""What a federation needs to go on after its process died: a log of what was decided, and checkpoints.

The log says in which order things were decided, a line each; a checkpoint holds what a round begins with. What a
restart does not need word for word is said in fewer words from time to time, so that a log stays short. Two flavours
with one contract: `MemoryFederation` for embedders and tests, and `FileFederation`, which survives a restart.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import anyio

from openfl_aio.errors import CorruptFileError
from openfl_aio.storage.checkpoint_file import Checkpoint, read_checkpoint, write_checkpoint
from openfl_aio.storage.files import (
    disk_errors,
    fsync_folder,
    make_folder,
    remove_quietly,
    sweep_partials,
    write_atomic,
)
from openfl_aio.waiting import to_the_end

__all__ = ["FederationStore", "FileFederation", "Line", "MemoryFederation", "Stored"]

logger = logging.getLogger(__name__)

LOG_NAME: Final = "log"
BEST_NAME: Final = "best"
SUFFIX: Final = ".checkpoint"
LEAST_BYTES: Final = 4096  # a block of the disk: to save less of a log saves nothing

Line = Mapping[str, Any]
"""One decision, in values that JSON can say."""

Settle = Callable[[Iterable[Line]], Iterable[Line]]
"""Says lines in fewer words."""

Run = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs a function that blocks somewhere else than on the event loop."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What was found. ``checkpoints`` are the whole ones, the newest first."""

    lines: tuple[Line, ...] = ()
    checkpoints: tuple[Checkpoint, ...] = ()
    best: Checkpoint | None = None


class FederationStore(Protocol):
    """The log and the checkpoints of one federation. One process uses them at a time."""

    async def load(self) -> Stored:
        """Return what is there; what is not whole is told in the log of the program and left out.

        Raises `CorruptFileError` for a log with a broken line that is not its last.
        """
        ...

    def add(self, line: Line) -> None:
        """Put a line behind the others. It is kept when a `flush` that begins later returns."""
        ...

    async def flush(self, *, durable: bool) -> None:
        """Keep all lines. Raises `StorageFullError`, `StorageError`: then they are tried again by the next flush."""
        ...

    async def compact(self, settle: Settle, *, durable: bool) -> None:
        """Put what ``settle`` makes of the lines in their place, if enough were kept since it did so last.

        Raises `StorageFullError`, `StorageError`; nothing is changed then.
        """
        ...

    async def save(self, checkpoint: Checkpoint, *, durable: bool) -> None:
        """Keep a checkpoint. Raises `StorageFullError`, `StorageError`; nothing is changed then."""
        ...

    async def look(self, round_number: int) -> Checkpoint | None:
        """Return the checkpoint of that round as it was written, None if there is none; it is not checked again."""
        ...

    async def save_best(self, round_number: int, *, durable: bool) -> None:
        """Keep the checkpoint of that round as the best one, however many follow."""
        ...

    async def drop(self, before_round: int) -> None:
        """Remove the checkpoints of earlier rounds, but not the best one."""
        ...

    async def forget(self) -> None:
        """Remove everything, also what was added and not kept."""
        ...


class MemoryFederation:
    """A `FederationStore` that ends with the process."""

    def __init__(self) -> None:
        self._added: list[Line] = []
        self._lines: list[Line] = []
        self._checkpoints: dict[int, Checkpoint] = {}
        self._best: Checkpoint | None = None

    def __repr__(self) -> str:
        return f"<MemoryFederation {len(self._lines)} lines, {len(self._checkpoints)} checkpoints>"

    async def load(self) -> Stored:
        """See `FederationStore`."""
        self._added.clear()
        newest = sorted(self._checkpoints, reverse=True)
        return Stored(tuple(self._lines), tuple(self._checkpoints[number] for number in newest), self._best)

    def add(self, line: Line) -> None:
        """See `FederationStore`."""
        self._added.append(line)

    async def flush(self, *, durable: bool) -> None:
        """See `FederationStore`."""
        self._lines += self._added
        self._added.clear()

    async def compact(self, settle: Settle, *, durable: bool) -> None:
        """See `FederationStore`; a line is enough."""
        self._lines = list(settle(self._lines))

    async def save(self, checkpoint: Checkpoint, *, durable: bool) -> None:
        """See `FederationStore`."""
        self._checkpoints[checkpoint.round_number] = checkpoint

    async def look(self, round_number: int) -> Checkpoint | None:
        """See `FederationStore`."""
        return self._checkpoints.get(round_number)

    async def save_best(self, round_number: int, *, durable: bool) -> None:
        """See `FederationStore`."""
        self._best = self._checkpoints.get(round_number, self._best)

    async def drop(self, before_round: int) -> None:
        """See `FederationStore`."""
        self._checkpoints = {number: kept for number, kept in self._checkpoints.items() if number >= before_round}

    async def forget(self) -> None:
        """See `FederationStore`."""
        self._added.clear()
        self._lines.clear()
        self._checkpoints.clear()
        self._best = None


class FileFederation:
    """A `FederationStore` in the folder ``folder``, which is made with the first thing that is kept."""

    def __init__(self, folder: Path, run: Run) -> None:
        self.folder = folder
        self._run = run
        self._added: list[Line] = []
        self._size: int | None = None  # of the log, as far as its lines are whole; None: not looked at yet
        self._settled = 0  # its size when it was put in fewer words
        self._flushing = anyio.Lock()

    def __repr__(self) -> str:
        return f"<FileFederation {str(self.folder)!r}>"

    async def load(self) -> Stored:
        """See `FederationStore`."""
        self._added.clear()
        stored: Stored = await self._run(self._load)
        return stored

    def add(self, line: Line) -> None:
        """See `FederationStore`."""
        self._added.append(line)

    async def flush(self, *, durable: bool) -> None:
        """See `FederationStore`. Callers at the same time share one write."""
        if self._added or self._flushing.locked():
            await to_the_end(self._flush(durable))  # half-way it would be unclear what was kept

    async def _flush(self, durable: bool) -> None:
        async with self._flushing:
            if self._added:
                lines = list(self._added)
                await self._run(partial(self._write, lines, durable))
                del self._added[: len(lines)]

    async def compact(self, settle: Settle, *, durable: bool) -> None:
        """See `FederationStore`. Enough is a quarter more: all the writing is then five times what is kept."""
        await to_the_end(self._compact_soon(settle, durable))

    async def _compact_soon(self, settle: Settle, durable: bool) -> None:
        async with self._flushing:
            if self._size is not None and self._size - self._settled > LEAST_BYTES + self._settled // 4:
                await self._run(partial(self._compact, settle, durable))

    async def save(self, checkpoint: Checkpoint, *, durable: bool) -> None:
        """See `FederationStore`."""
        await self._run(partial(self._save, checkpoint, durable))

    async def look(self, round_number: int) -> Checkpoint | None:
        """See `FederationStore`."""
        found: Checkpoint | None = await self._run(partial(self._look, round_number))
        return found

    async def save_best(self, round_number: int, *, durable: bool) -> None:
        """See `FederationStore`."""
        await self._run(partial(self._save_best, round_number, durable))

    async def drop(self, before_round: int) -> None:
        """See `FederationStore`."""
        await self._run(partial(self._drop, before_round))

    async def forget(self) -> None:
        """See `FederationStore`."""
        async with self._flushing:
            self._added.clear()
            self._size, self._settled = None, 0
            await self._run(partial(remove_quietly, self.folder))

    def _load(self) -> Stored:
        if not self.folder.is_dir():
            self._size = 0
            return Stored()
        with disk_errors(self.folder):
            sweep_partials(self.folder)
            numbers = sorted(self._numbers(), reverse=True)
        lines, self._size = self._read_log()
        found = [self._checkpoint(self._path(number)) for number in numbers]
        best_path = self.folder / f"{BEST_NAME}{SUFFIX}"
        best = self._checkpoint(best_path) if best_path.exists() else None
        return Stored(tuple(lines), tuple(checkpoint for checkpoint in found if checkpoint is not None), best)

    def _read_log(self) -> tuple[list[Line], int]:
        """Return the lines, and where the last whole one ends."""
        path = self.folder / LOG_NAME
        with disk_errors(path):
            data = path.read_bytes() if path.exists() else b""
        found: list[Line] = []
        size = 0
        lines = data.split(b"\n")
        if lines[-1]:
            logger.info("the last line of %r was not whole: it was never acknowledged", str(path))
        for number, text in enumerate(lines[:-1]):
            checksum, _, body = text.partition(b" ")
            if checksum != b"%08x" % zlib.crc32(body):
                if number == len(lines) - 2 and not lines[-1]:
                    logger.warning("the last line of %r is broken and left out", str(path))
                    break
                raise CorruptFileError(
                    f"the log {str(path)!r} is broken in line {number + 1} of {len(lines) - 1}; restore it from a copy, "
                    "or begin the federation anew"
                )
            found.append(json.loads(body))
            size += len(text) + 1
        return found, size

    def _compact(self, settle: Settle, durable: bool) -> None:
        lines, _ = self._read_log()
        size = write_atomic(self.folder / LOG_NAME, [_encoded(settle(lines))], mode=0o600, durable=durable)
        self._size = self._settled = size

    def _write(self, lines: Iterable[Line], durable: bool) -> None:
        path = self.folder / LOG_NAME
        data = _encoded(lines)
        with disk_errors(path):
            made = make_folder(self.folder, durable=durable)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                found = os.fstat(descriptor).st_size
                size = found if self._size is None else self._size
                if found > size:
                    os.ftruncate(descriptor, size)  # what is behind was never whole
                written = 0
                while written < len(data):
                    written += os.pwrite(descriptor, data[written:], size + written)
                if durable:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if durable and (made or not size):
                fsync_folder(self.folder)
        self._size = size + len(data)

    def _save(self, checkpoint: Checkpoint, durable: bool) -> None:
        with disk_errors(self.folder):
            make_folder(self.folder, durable=durable)
        write_checkpoint(self._path(checkpoint.round_number), checkpoint, durable=durable)

    def _save_best(self, round_number: int, durable: bool) -> None:
        source, path = self._path(round_number), self.folder / f"{BEST_NAME}{SUFFIX}"
        beside = self.folder / f".{BEST_NAME}.partial"
        with disk_errors(path):
            if not source.exists():
                return  # it was dropped: a later one is better than this anyway
            beside.unlink(missing_ok=True)
            os.link(source, beside)
            os.replace(beside, path)
            beside.unlink(missing_ok=True)  # a rename onto another name of the same file does nothing
            if durable:
                fsync_folder(self.folder)

    def _look(self, round_number: int) -> Checkpoint | None:
        path = self._path(round_number)
        return read_checkpoint(path, check=False) if path.exists() else None

    def _drop(self, before_round: int) -> None:
        with disk_errors(self.folder):
            numbers = self._numbers()
        for number in numbers:
            if number < before_round:
                remove_quietly(self._path(number))

    def _path(self, round_number: int) -> Path:
        return self.folder / f"{round_number}{SUFFIX}"

    def _numbers(self) -> list[int]:
        stems = [path.stem for path in self.folder.glob(f"*{SUFFIX}")]
        return [int(stem) for stem in stems if stem.isdecimal()]

    def _checkpoint(self, path: Path) -> Checkpoint | None:
        try:
            return read_checkpoint(path)
        except CorruptFileError as exc:
            logger.error("%s", exc)
            return None


def _encoded(lines: Iterable[Line]) -> bytes:
    bodies = [json.dumps(line, separators=(",", ":")).encode() for line in lines]
    return b"".join(b"%08x %s\n" % (zlib.crc32(body), body) for body in bodies)
