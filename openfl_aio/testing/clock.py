"""An event loop on virtual time: waits of minutes take no time, in a fixed order."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any

__all__ = ["AutojumpEventLoop", "backend_options"]


class _AutojumpSelector(selectors.DefaultSelector):
    """Instead of sleeping until the next timer, adds up how long it would have slept."""

    def __init__(self) -> None:
        super().__init__()
        self.skipped = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        events = super().select(0)
        if not events:
            self.skipped += timeout
        return events


class AutojumpEventLoop(asyncio.SelectorEventLoop):
    """Event loop whose clock stands still while anything can run, then jumps to the next timer.

    How fast the machine is has no influence on what happens in which order. For code without threads, processes or
    sockets: work in flight outside the loop looks like idleness to it.
    """

    def __init__(self) -> None:
        self._autojump = _AutojumpSelector()
        super().__init__(self._autojump)

    def time(self) -> float:
        """Virtual time in seconds: the sum of the skipped sleeps."""
        return self._autojump.skipped


def backend_options() -> dict[str, Any]:
    """Options for ``anyio.run(..., backend_options=...)`` and for anyio's pytest fixture."""
    return {"loop_factory": AutojumpEventLoop, "debug": True}
