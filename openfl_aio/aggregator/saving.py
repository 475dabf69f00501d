"""Models written to disk: before the federation goes on, or meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import anyio
from numpy.typing import NDArray

from openfl_aio.config import AggregatorConfig
from openfl_aio.storage.models import ModelFiles

__all__ = ["ModelSaver", "model_paths"]

logger = logging.getLogger(__name__)


def model_paths(config: AggregatorConfig) -> tuple[Path | None, Path | None]:
    """Return where the best and the last model are to be saved; None for one that is not."""
    if config.durability == "memory":
        return None, None
    best, last = config.best_model_path, config.last_model_path
    if config.workspace is None:
        return best, last
    return best or config.workspace / "best.pbuf", last or config.workspace / "last.pbuf"


class ModelSaver:
    """Saves models.

    If they are to be ``durable``, at once. Else one after another while the caller goes on, and of those that wait for
    the same path only the newest: ``start`` runs a coroutine function in somebody's task group, which then ends
    after what is being written, and ``failed`` is told of every error.
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
        self._waiting: dict[Path, tuple[Mapping[str, NDArray[Any]], int]] = {}
        self._settled = anyio.Event()
        self._settled.set()
        self.error: Exception | None = None
        """Why the last model that was tried could not be saved; None if it was."""

    def __repr__(self) -> str:
        return f"<ModelSaver {'settled' if self._settled.is_set() else 'writing'}, {len(self._waiting)} waiting>"

    async def save(self, path: Path, model: Mapping[str, NDArray[Any]], *, round_number: int) -> None:
        """Save ``model``, or have it saved soon; its arrays must not change. Raises like `ModelFiles.save` if at once."""
        if self._durable:
            await self._files.save(path, model, round_number=round_number)
            return
        self._waiting[path] = model, round_number
        if self._settled.is_set():
            self._settled = anyio.Event()
            self._start(self._write)

    async def settled(self) -> None:
        """Return once nothing is left to be written."""
        while not self._settled.is_set():
            await self._settled.wait()

    async def _write(self) -> None:
        try:
            with anyio.CancelScope(shield=True):  # a closing federation waits for its last model
                while self._waiting:
                    path = next(iter(self._waiting))
                    model, round_number = self._waiting.pop(path)
                    try:
                        await self._files.save(path, model, round_number=round_number, durable=False)
                        self.error = None
                    except Exception as exc:
                        self.error = exc
                        self._failed(exc)
                    del model  # or it would live as long as this waits for the next
        finally:
            self._settled.set()
