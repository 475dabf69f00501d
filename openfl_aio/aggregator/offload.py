"""Where work that needs the processor is done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import anyio.to_thread

__all__ = ["Offload", "in_thread"]

T = TypeVar("T")


class Offload(Protocol):
    """Runs a function that needs the processor somewhere else than on the event loop."""

    def __call__(self, function: Callable[[], T], /) -> Awaitable[T]:
        """Return the function's result, or raise its exception."""
        ...


async def in_thread(function: Callable[[], T], /) -> T:
    """Run ``function`` in a worker thread, to its end also when the caller is cancelled."""
    return await anyio.to_thread.run_sync(function)
