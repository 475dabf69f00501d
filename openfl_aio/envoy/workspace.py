"""The folder of one run: an experiment's archive is fetched, unpacked and, when the run is over, removed."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import anyio
import anyio.to_thread

from openfl_aio.config import Limits
from openfl_aio.confinement.guardian import remove_tree
from openfl_aio.errors import InvalidStateError
from openfl_aio.storage.archives import Archives
from openfl_aio.storage.files import disk_errors
from openfl_aio.storage.unpack import unpack

__all__ = ["Run", "Workspaces"]

_RUNS: Final = "runs"
_ARCHIVES: Final = "archives"


@dataclass(frozen=True, slots=True)
class Run:
    """One run's files: ``source``, the unpacked workspace, and ``log``, for what its code prints."""

    source: Path
    log: Path


class Workspaces:
    """Makes run folders under ``folder`` (None: a temporary directory). An async context manager.

    Folders are named by ids chosen here, never by what a director or an archive says. What an envoy that was killed
    left behind is removed when the next one opens: one envoy a folder.
    """

    def __init__(self, folder: Path | None, *, limits: Limits) -> None:
        self._given = folder
        self._limits = limits
        self._folder: Path | None = None

    def __repr__(self) -> str:
        return f"Workspaces({str(self._given)!r})"

    @property
    def folder(self) -> Path:
        """The folder that holds everything. Raises `InvalidStateError` outside the context."""
        if self._folder is None:
            raise InvalidStateError("the workspaces are not open; use them inside 'async with'")
        return self._folder

    async def __aenter__(self) -> Self:
        self._folder = await anyio.to_thread.run_sync(self._prepare)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        folder, self._folder = self.folder, None
        doomed = [folder] if self._given is None else [folder / _RUNS, folder / _ARCHIVES]
        with anyio.CancelScope(shield=True):
            for path in doomed:
                await anyio.to_thread.run_sync(_remove, path)

    def run(self, archive: AsyncIterable[bytes | memoryview]) -> AbstractAsyncContextManager[Run]:
        """Receive and unpack an archive; the run's folder is there as long as the context.

        Raises `ArchiveError`, `MessageTooLargeError`, `StorageError`, and what ``archive`` raises.
        """
        return self._run(archive)

    @asynccontextmanager
    async def _run(self, archive: AsyncIterable[bytes | memoryview]) -> AsyncIterator[Run]:
        folder = self.folder / _RUNS / uuid.uuid4().hex
        archives = Archives(self.folder / _ARCHIVES, limits=self._limits)
        run = Run(folder / "source", folder / "log")
        try:
            await anyio.to_thread.run_sync(_make, folder)
            async with archives.receive() as sink:
                async for chunk in archive:
                    await sink.write(chunk)
                kept = await sink.keep()
            try:
                await unpack(kept.path, run.source, limits=self._limits)
            finally:
                with anyio.CancelScope(shield=True):
                    await archives.remove(kept.id)
            yield run
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(_remove, folder)

    def _prepare(self) -> Path:
        if self._given is None:
            folder = Path(tempfile.mkdtemp(prefix="openfl-aio-envoy-"))
            folder.chmod(0o711)  # another user, as which a run may be told to run, has to pass
        else:
            folder = self._given
            _remove(folder / _RUNS)
            _remove(folder / _ARCHIVES)
        _make(folder / _RUNS)
        _make(folder / _ARCHIVES)
        return folder


def _make(folder: Path) -> None:
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)


def _remove(folder: Path) -> None:
    # what cannot be removed must not fail a run that is over; the next start tries again
    remove_tree(folder)
