"""Cancellation of a client's calls that leaves nothing behind."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

from grpclib.utils import DeadlineWrapper, Wrapper

__all__ = ["CleanDeadlineWrapper", "CleanWrapper"]


class CleanWrapper(Wrapper):
    """grpclib's way to wake a call with an error, without a trace of the cancellation that it uses for that.

    Otherwise the task counts as being cancelled from then on, and cancel scopes and timeouts around the call break.
    """

    def __init__(self) -> None:
        super().__init__()
        self._woken: set[asyncio.Task[Any]] = set()

    def cancel(self, error: Exception) -> None:
        """Wake every task inside with ``error``."""
        self._woken.update(self._tasks)
        super().cancel(error)

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task = asyncio.current_task()
        if task in self._woken:
            assert task is not None
            self._woken.discard(task)
            task.uncancel()
        super().__exit__(kind, exc, traceback)


class CleanDeadlineWrapper(CleanWrapper, DeadlineWrapper):
    """The same for calls with a deadline."""
