"""The metrics of a federation as a log that any number of readers follow, each from where it wants."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Iterable

from openfl_aio.domain import Metric
from openfl_aio.waiting import Waiters

__all__ = ["MetricLog"]


class MetricLog:
    """An append-only list of `Metric`; a reader that comes late misses nothing.

    What is appended may be shown later, when it is kept: a reader's offset is then good after a restart too.
    """

    def __init__(self) -> None:
        self._metrics: list[Metric] = []
        self._shown = 0
        self._closed = False
        self._waiters: Waiters[str] = Waiters()

    def __len__(self) -> int:
        return len(self._metrics)

    @property
    def shown(self) -> int:
        """How many of them readers may have."""
        return self._shown

    def append(self, metrics: Iterable[Metric]) -> int:
        """Add metrics and return how many there are then, for `show`."""
        self._metrics.extend(metrics)
        return len(self._metrics)

    def show(self, count: int) -> None:
        """Let readers have the first ``count`` metrics, and wake them."""
        if count > self._shown:
            self._shown = count
            self._waiters.notify("more")

    def close(self) -> None:
        """Say that nothing more will come; readers end after what is there."""
        self._closed = True
        self._shown = len(self._metrics)
        self._waiters.notify("more")

    async def read(self, after: int = 0) -> AsyncIterator[Metric]:
        """Yield every metric from offset ``after`` on, then those to come, until the log is closed."""
        while True:
            while after < self._shown:
                yield self._metrics[after]
                after += 1
            if self._closed:
                return
            await self._waiters.wait_for("more", functools.partial(self._news, after), timeout=None)

    def _news(self, after: int) -> bool | None:
        return True if self._closed or self._shown > after else None
