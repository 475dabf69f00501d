"""Fair turns on the event loop: calls begin, go on and end a few at a time, one connection after the other.

The loop runs everything that is ready before it looks at a socket again. One peer with a thousand calls would make that
long, for everybody; here its calls wait for each other, and a peer with one call waits for one of each other peer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias

__all__ = ["Turns"]

Act: TypeAlias = Callable[[], None]

ACTS: Final = 16  # in one turn of the loop; each wakes a task, which runs in the next


class Turns:
    """Runs acts that wake tasks: at once while there are few, else in turns. Acts must not raise."""

    __slots__ = ("_left", "_queues", "_scheduled")

    def __init__(self) -> None:
        self._left = ACTS
        self._queues: dict[object, deque[Act]] = {}  # by peer; the first is the next
        self._scheduled = False

    def __repr__(self) -> str:
        return f"<Turns left={self._left} waiting={sum(map(len, self._queues.values()))} of {len(self._queues)} peers>"

    def take(self, peer: object, act: Act, loop: asyncio.AbstractEventLoop) -> None:
        """Run ``act``, now or when it is the turn of ``peer``; the acts of one peer keep their order."""
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._run, loop)
        if self._left > 0 and not self._queues:
            self._left -= 1
            act()
        else:
            self._queues.setdefault(peer, deque()).append(act)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        left, queues = ACTS, self._queues
        while left and queues:
            left -= 1
            peer = next(iter(queues))
            queue = queues.pop(peer)
            act = queue.popleft()
            if queue:
                queues[peer] = queue  # behind all others
            act()
        self._left = left
        self._scheduled = left < ACTS
        if self._scheduled:
            loop.call_soon(self._run, loop)
