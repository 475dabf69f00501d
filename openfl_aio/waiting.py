"""Waiting is subscribing: wake the coroutines that wait on a key, and run one timer for a deciding class.

Nothing here polls. All times are those of the event loop, so that tests can run on virtual time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from contextvars import Context
from typing import Any, Generic, Protocol, TypeVar

import anyio

__all__ = ["TimedMachine", "Timers", "Waiters", "to_the_end"]

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


async def to_the_end(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return what ``coroutine`` returns; it is not cancelled with its caller.

    The caller's own cancellation comes out afterwards: that of a scope where it waits next, that of a task here.

    A shielded scope alone keeps off scopes, but not `asyncio.Task.cancel`, by which a server ends the calls of those who
    have hung up.
    """
    task = asyncio.ensure_future(coroutine)
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as exc:
                cancelled = exc
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # looked at: nobody will be told
        raise cancelled
    return task.result()


class Waiters(Generic[K]):
    """Coroutines parked until something about their key changes.

    `notify` costs what the waiters of that key cost, however many others are parked. There is one timer for all caps of
    the same length, and no trace of a wait is left when it is over.
    """

    def __init__(self) -> None:
        self._parked: dict[K, dict[_Wait, None]] = {}
        self._caps: dict[float, _Cap] = {}

    def __len__(self) -> int:
        return sum(map(len, self._parked.values()))

    async def wait_for(self, key: K, predicate: Callable[[], T | None], *, timeout: float | None) -> T | None:  # noqa: ASYNC109 - the cap is part of the question
        """Return the first result of ``predicate`` that is not None, or None after ``timeout`` seconds.

        The predicate is called at once and after each notification of ``key``, with no await between its
        result and the return: what it decided still holds.
        """
        result = predicate()
        if result is not None:
            return result
        wait = _Wait()
        cap = None if timeout is None else self._cap(timeout)
        if cap is not None:
            cap.add(wait)
        try:
            while not wait.over:
                wait.woken = asyncio.get_running_loop().create_future()
                self._parked.setdefault(key, {})[wait] = None
                await wait.woken
                if wait not in self._parked.get(key, ()):  # else nobody notified, the cap ended it
                    result = predicate()
                    if result is not None:
                        return result
            return None
        finally:
            self._leave(key, wait)
            if cap is not None and timeout is not None:
                cap.discard(wait)
                if not cap:
                    self._caps.pop(timeout, None)

    def _cap(self, seconds: float) -> _Cap:
        cap = self._caps.get(seconds)
        if cap is None:
            cap = self._caps[seconds] = _Cap(seconds)
        return cap

    def _leave(self, key: K, wait: _Wait) -> None:
        parked = self._parked.get(key)
        if parked is not None and wait in parked:
            del parked[wait]
            if not parked:
                del self._parked[key]

    def notify(self, *keys: K) -> None:
        """Wake everybody who waits on one of ``keys``."""
        for key in keys:
            for wait in self._parked.pop(key, ()):
                wait.wake()

    def notify_all(self) -> None:
        """Wake everybody."""
        self.notify(*list(self._parked))


class _Wait:
    """One coroutine that is parked: what wakes it, and whether it has waited long enough."""

    __slots__ = ("over", "woken")

    def __init__(self) -> None:
        self.over = False
        self.woken: asyncio.Future[None] | None = None

    def wake(self) -> None:
        if self.woken is not None and not self.woken.done():
            self.woken.set_result(None)


class _Cap:
    """Ends the waits of one length in the order in which they began, with one timer for all.

    A timer for each would outlive its wait: asyncio keeps cancelled ones for a while, and around each one the memory
    that came with it cannot be given back.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ends: dict[_Wait, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, wait: _Wait) -> None:
        loop = asyncio.get_running_loop()
        self._ends[wait] = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._fire, context=Context())

    def discard(self, wait: _Wait) -> None:
        self._ends.pop(wait, None)
        if not self._ends and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        while self._ends:
            wait, end = next(iter(self._ends.items()))
            if end > loop.time():
                self._timer = loop.call_at(end, self._fire, context=Context())
                return
            del self._ends[wait]
            wait.over = True
            wait.wake()


class TimedMachine(Protocol):
    """A deciding class with deadlines: time goes in, the next deadline comes out."""

    def next_timer(self) -> float | None:
        """Time at which `handle_timer` must be called, or None if nothing is pending."""
        ...

    def handle_timer(self, now: float) -> None:
        """Act on every deadline that has passed; safe to call early."""
        ...


class Timers:
    """Runs the deadlines of one `TimedMachine`: sleeps until the next, hands time in, tells its owner."""

    def __init__(self, machine: TimedMachine, fired: Callable[[], None]) -> None:
        self._machine = machine
        self._fired = fired
        self._moved = anyio.Event()

    def moved(self) -> None:
        """Say that the machine's next deadline may have changed."""
        self._moved.set()

    async def run(self) -> None:
        """Serve deadlines until cancelled."""
        while True:
            self._moved = anyio.Event()
            deadline = self._machine.next_timer()
            if deadline is None:
                await self._moved.wait()
                continue
            with anyio.CancelScope(deadline=deadline):
                await self._moved.wait()
            if anyio.current_time() >= deadline:
                self._machine.handle_timer(anyio.current_time())
                self._fired()
