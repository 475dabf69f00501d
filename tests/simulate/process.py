"""Processes that are none: parts of one event loop that die as processes do, at once and with nothing cleaned up."""

from __future__ import annotations

import asyncio
import fcntl
import random
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING
from weakref import WeakSet

import anyio

from tests.simulate.disk import Killed
from tests.simulate.schedule import Death

if TYPE_CHECKING:
    from tests.simulate.network import Network

__all__ = ["Process", "current"]

_PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


def current() -> Process | None:
    """Return the process to which the running code belongs; None for the world around them."""
    return _PROCESS.get()


class Process:
    """One life of the process ``name``.

    Whatever it does to its disk takes up to ``disk`` seconds, and is a step at which it dies if ``death`` says so. What
    it still does afterwards raises `Killed`, and nobody hears of it.
    """

    def __init__(self, name: str, number: int, network: Network, *, disk: float, death: Death | None = None) -> None:
        self.name = name
        self.number = number
        self.dead = False
        self.failure: BaseException | None = None
        self.over = anyio.Event()  # it was killed, or has ended
        self.gone = anyio.Event()  # not even its remains are on the loop any more
        self.steps = 0
        self.locks: list[int] = []
        self.databases: list[sqlite3.Connection] = []
        self.cursors: WeakSet[sqlite3.Cursor] = WeakSet()
        self.random = random.Random(f"process {network.seed} {name} {number}")
        self.connections = 0
        self._network = network
        self._disk = disk
        self._death = death
        self._timer: asyncio.TimerHandle | None = None
        self._scope = anyio.CancelScope()

    def __repr__(self) -> str:
        return f"{self.name}.{self.number}"

    async def run(self, main: Callable[[], Awaitable[object]]) -> None:
        """Run ``main`` in this process, to its end or to death; `failure` is what it raised. In a task of its own."""
        _PROCESS.set(self)
        if self._death is not None and self._death.seconds is not None:
            self._timer = asyncio.get_running_loop().call_later(self._death.seconds, self.kill)
        try:
            with self._scope:
                await main()
        except BaseException as exc:
            if not self.dead:
                self.failure = exc
                if isinstance(exc, anyio.get_cancelled_exc_class()):
                    raise
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self.over.set()
            self.gone.set()

    def stop(self) -> None:
        """Let it end in an orderly way, as SIGTERM does. Nothing happens to it any more."""
        self._death = None
        if self._timer is not None:
            self._timer.cancel()
        self._scope.cancel()

    def kill(self) -> None:
        """End it here and now."""
        if self.dead or self.gone.is_set():
            return
        self.dead = True
        self._network.trace(f"{self!r} is killed after {self.steps} steps")
        self._network.forget(self)
        # what the system does: locks are let go, and a transaction that was not committed is none
        for descriptor in self.locks:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        for cursor in list(self.cursors):
            with suppress(sqlite3.ProgrammingError):  # of a connection that was closed
                cursor.close()  # with one that is open, a connection stays behind
        for connection in self.databases:
            with suppress(sqlite3.ProgrammingError):
                connection.rollback()
                connection.close()
        self._scope.cancel()
        self.over.set()

    def check(self) -> None:
        """Raise `Killed` if the process is dead."""
        if self.dead:
            raise Killed

    def step(self) -> float:
        """Come to a step, and die there if it is time. Returns how many seconds it takes. Raises `Killed`."""
        self.check()
        self.steps += 1
        if self._death is not None and self._death.seconds is None and self.steps == self._death.count:
            self.kill()
        self.check()
        return self.random.uniform(0, self._disk)
