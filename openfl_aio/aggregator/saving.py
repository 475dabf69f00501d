"""What is written to disk of a federation's models: before the federation goes on, or meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
from numpy.typing import NDArray

from openfl_aio.config import AggregatorConfig
from openfl_aio.errors import StorageFullError
from openfl_aio.storage.models import ModelFiles

__all__ = ["Saver", "model_paths"]

logger = logging.getLogger(__name__)

Write = Callable[[], Awaitable[object]]

FIRST_PAUSE: Final = 0.5  # seconds before a full disk is tried again; doubled each time
LONGEST_PAUSE: Final = 10.0
SILENCE: Final = 60.0  # seconds between two lines in the log about the same full disk


def model_paths(config: AggregatorConfig) -> tuple[Path | None, Path | None]:
    """Return where the best and the last model are to be saved; None for one that is not."""
    if config.durability == "memory":
        return None, None
    best, last = config.best_model_path, config.last_model_path
    if config.workspace is None:
        return best, last
    return best or config.workspace / "best.pbuf", last or config.workspace / "last.pbuf"


class Saver:
    """Saves models and whatever else is to be written, in that order.

    If it is to be ``durable``, at once. Else one after another while the caller goes on, and of model files that wait
    for the same path only the newest: ``start`` runs a coroutine function in somebody's task group, which then ends
    after what is being written. A full disk is tried again until there is room. ``failed`` is told of every other error.
    """

    def __init__(
        self,
        files: ModelFiles,
        *,
        durable: bool,
        start: Callable[[Callable[[], Coroutine[Any, Any, None]]], object],
        failed: Callable[[Exception], None],
    ) -> None:
        self._files = files
        self._durable = durable
        self._start = start
        self._failed = failed
        self._first: Write | None = None
        self._waiting: dict[Path, tuple[Mapping[str, NDArray[Any]], int]] = {}
        self._settled = anyio.Event()
        self._settled.set()
        self._taken = anyio.Event()
        self._closing = anyio.Event()
        self.error: Exception | None = None
        """Why the last thing that was tried could not be saved; None if it was."""

    def __repr__(self) -> str:
        return f"<Saver {'settled' if self._settled.is_set() else 'writing'}, {len(self._waiting)} waiting>"

    async def save(self, path: Path, model: Mapping[str, NDArray[Any]], *, round_number: int) -> None:
        """Save ``model``, or have it saved soon; its arrays must not change. Raises like `ModelFiles.save` if at once."""
        if self._durable:
            await self.insist(partial(self._files.save, path, model, round_number=round_number))
            return
        self._waiting[path] = model, round_number
        self._begin()

    async def write(self, write: Write) -> None:
        """Run ``write``, or have it run before the model files that wait. Returns once the one before it has ended."""
        if self._durable:
            await self.insist(write)
            return
        while self._first is not None:
            await self._taken.wait()
        self._first = write
        self._begin()

    async def insist(self, write: Write) -> None:
        """Run ``write`` until the disk has room for it. Raises its other errors, and its `StorageFullError` after `close`."""
        pause, silent_until = FIRST_PAUSE, 0.0
        while True:
            try:
                await write()
                return
            except StorageFullError as exc:
                if self._closing.is_set():
                    raise
                if anyio.current_time() >= silent_until:
                    logger.error("waiting for room on the disk: %s", exc)
                    silent_until = anyio.current_time() + SILENCE
            with anyio.move_on_after(pause):
                await self._closing.wait()
            pause = min(2 * pause, LONGEST_PAUSE)

    async def settled(self) -> None:
        """Return once nothing is left to be written."""
        while not self._settled.is_set():
            await self._settled.wait()

    def close(self) -> None:
        """Wait for no disk any more."""
        self._closing.set()

    def _begin(self) -> None:
        if self._settled.is_set():
            self._settled = anyio.Event()
            self._start(self._run)

    async def _run(self) -> None:
        try:
            with anyio.CancelScope(shield=True):  # a closing federation waits for its last model
                while self._first is not None or self._waiting:
                    try:
                        await self._run_next()
                        self.error = None
                    except Exception as exc:
                        self.error = exc
                        self._failed(exc)
        finally:
            self._settled.set()

    async def _run_next(self) -> None:
        if self._first is not None:
            try:
                await self.insist(self._first)
            finally:
                self._first = None
                taken, self._taken = self._taken, anyio.Event()
                taken.set()
            return
        path = next(iter(self._waiting))
        model, round_number = self._waiting.pop(path)
        # nothing here holds the model longer than it takes to write it
        await self.insist(partial(self._files.save, path, model, round_number=round_number, durable=False))
