"""Fair turns on the event loop: calls begin, go on and end a few at a time, one connection after the other.

The loop runs everything that is ready before it looks at a socket again. One peer with a thousand calls would make that
long, for everybody; here its calls wait for each other, and a peer with one call waits for one of each other peer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias

__all__ = ["Reads", "Turns"]

Act: TypeAlias = Callable[[], None]

ACTS: Final = 16  # in one turn of the loop; each wakes a task, which runs in the next
READ_SECONDS: Final = 0.01  # of work for what peers sent, in one turn of the loop


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


class Reads:
    """Takes what peers sent for so many milliseconds in a turn of the loop; what comes beyond is held until the next.

    The loop hands over what all sockets have in one go: a few milliseconds for each of hundreds would be a second.
    """

    __slots__ = ("_held", "_left", "_scheduled")

    def __init__(self) -> None:
        self._left = READ_SECONDS
        self._held: deque[Act] = deque()
        self._scheduled = False

    def __repr__(self) -> str:
        return f"<Reads {self._left * 1e3:.1f} ms left, {len(self._held)} held>"

    @property
    def over(self) -> bool:
        """Whether no more should be taken in this turn of the loop."""
        return self._left <= 0

    def spend(self, seconds: float, loop: asyncio.AbstractEventLoop) -> None:
        """Take note of work that was done."""
        self._left -= seconds
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._next_turn, loop)

    def hold(self, act: Act) -> None:
        """Do ``act`` in a later turn, once for each that was held before. It calls `spend` and must not raise."""
        self._held.append(act)

    def _next_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._scheduled = False
        self._left = READ_SECONDS
        # half of the turn: the other half is for peers who were not held
        while self._held and self._left > READ_SECONDS / 2:
            self._held.popleft()()
        if self._held:
            self.spend(0.0, loop)
