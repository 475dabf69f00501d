"""Waiting is subscribing: wake the coroutines that wait on a key, and run one timer for a deciding class.

Nothing here polls. All times are those of the event loop, so that tests can run on virtual time.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

import anyio

__all__ = ["TimedMachine", "Timers", "Waiters"]

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Waiters(Generic[K]):
    """Coroutines parked until something about their key changes.

    `notify` costs what the waiters of that key cost, however many others are parked.
    """

    def __init__(self) -> None:
        self._events: dict[K, anyio.Event] = {}
        self._counts: dict[K, int] = {}

    def __len__(self) -> int:
        return sum(self._counts.values())

    async def wait_for(self, key: K, predicate: Callable[[], T | None], *, timeout: float | None) -> T | None:  # noqa: ASYNC109 - the cap is part of the question
        """Return the first result of ``predicate`` that is not None, or None after ``timeout`` seconds.

        The predicate is called at once and after each notification of ``key``, with no await between its
        result and the return: what it decided still holds.
        """
        result = predicate()
        if result is not None:
            return result
        with anyio.move_on_after(timeout):
            while True:
                event = self._events.get(key)
                if event is None:
                    event = self._events[key] = anyio.Event()
                self._counts[key] = self._counts.get(key, 0) + 1
                try:
                    await event.wait()
                finally:
                    self._leave(key, event)
                result = predicate()
                if result is not None:
                    return result
        return None

    def _leave(self, key: K, event: anyio.Event) -> None:
        self._counts[key] -= 1
        if not self._counts[key]:
            del self._counts[key]
            if self._events.get(key) is event:
                del self._events[key]

    def notify(self, *keys: K) -> None:
        """Wake everybody who waits on one of ``keys``."""
        for key in keys:
            event = self._events.pop(key, None)
            if event is not None:
                event.set()

    def notify_all(self) -> None:
        """Wake everybody."""
        self.notify(*list(self._events))


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
