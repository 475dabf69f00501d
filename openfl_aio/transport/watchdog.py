"""How long the event loop stood still: everybody who is served on it waited as long."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from openfl_aio.transport.budgets import LogLimiter

__all__ = ["LoopStatistics", "StallWatch"]

logger = logging.getLogger(__name__)

PERIOD_SECONDS: Final = 0.05
STALL_SECONDS: Final = 0.1
RECENT_SECONDS: Final = 60.0
LOG_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class LoopStatistics:
    """How late the event loop ran its timers, in seconds. A stall may have been up to 0.05 longer than its timer was late."""

    longest_stall: float  # since the watch was started
    recent_stall: float  # the longest that ended in the last 60 seconds
    stalls: int  # that were longer than 0.1 seconds, since the watch was started


class StallWatch:
    """Measures every 50 ms how late the event loop runs a timer, and warns of more than 100 ms, once in 10 seconds.

    An async context manager, or `start` and `stop`. A process that is given no processor looks like a stall too; the
    warning tells how much of the time the loop's thread was computing.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        processor_clock: Callable[[], float] = time.thread_time,
        log: logging.Logger = logger,
    ) -> None:
        self._clock = clock
        self._processor_clock = processor_clock
        self._log = log
        self._lines = LogLimiter(1, LOG_SECONDS)
        self._timer: asyncio.TimerHandle | None = None
        self._forget()

    def __repr__(self) -> str:
        state = "stopped" if self._timer is None else "running"
        return f"<StallWatch {state}, {self._stalls} stalls, longest {self._longest * 1000:.0f} ms>"

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Watch the running loop from now on, and forget what was before. Does nothing while it runs."""
        if self._timer is None:
            self._forget()
            self._schedule(asyncio.get_running_loop())

    def stop(self) -> None:
        """Watch no longer; the statistics stay."""
        if self._timer is not None:
            self._measure()  # a stall that has just ended counts
            self._timer.cancel()
            self._timer = None

    def statistics(self) -> LoopStatistics:
        """Return what was seen until now, a stall included that has only just ended."""
        now = self._clock()
        late = 0.0 if self._timer is None else max(0.0, now - self._due)
        recent = max((each for when, each in self._recent if when > now - RECENT_SECONDS), default=0.0)
        return LoopStatistics(
            longest_stall=max(self._longest, late),
            recent_stall=max(recent, late),
            stalls=self._stalls + (late > STALL_SECONDS),
        )

    def _forget(self) -> None:
        self._longest = 0.0
        self._stalls = 0
        # (time, lateness), later ones shorter: the first is the longest, and what follows is so when it has expired
        self._recent: deque[tuple[float, float]] = deque()

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due = self._clock() + PERIOD_SECONDS
        self._processor = self._processor_clock()
        self._timer = loop.call_later(PERIOD_SECONDS, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._measure()
        self._schedule(loop)

    def _measure(self) -> None:
        now = self._clock()
        late = max(0.0, now - self._due)
        while self._recent and self._recent[-1][1] <= late:
            self._recent.pop()
        while self._recent and self._recent[0][0] <= now - RECENT_SECONDS:
            self._recent.popleft()
        self._recent.append((now, late))
        self._longest = max(self._longest, late)
        if late > STALL_SECONDS:
            self._stalls += 1
            self._warn(now, late)

    def _warn(self, now: float, late: float) -> None:
        suppressed = self._lines.allow(now)
        if suppressed is None:
            return
        computing = self._processor_clock() - self._processor
        self._log.warning(
            "the event loop stood still for %.0f ms; its thread computed for %.0f ms since it last ran on time%s",
            late * 1000,
            computing * 1000,
            f"; {suppressed} more such stalls since the last line" if suppressed else "",
        )
