"""What the connections of one server, or of one channel, share: limits, room, memory, turns, and who answers calls."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from openfl_aio.config import Limits
from openfl_aio.transport.budgets import LogLimiter
from openfl_aio.transport.http2.headers import Headers
from openfl_aio.transport.http2.memory import Tide
from openfl_aio.transport.http2.messages import BufferPool
from openfl_aio.transport.http2.room import Room
from openfl_aio.transport.http2.turns import Reads, Turns
from openfl_aio.transport.http2.windows import WindowPool

if TYPE_CHECKING:
    from openfl_aio.transport.http2.connection import Connection
    from openfl_aio.transport.http2.stream import Stream

__all__ = ["Calls", "Shared"]

POOLED_BYTES: Final = 8 * 1024 * 1024


class Calls(Protocol):
    """Who answers calls (server)."""

    def prepare(self, stream: Stream, headers: Headers) -> None:
        """Set what may be received on the stream of a call that begins."""

    def accept(self, stream: Stream, headers: Headers) -> None:
        """Answer the call; ``stream.release()`` when it is done."""


@dataclass(slots=True)
class Shared:
    """What the connections of one server, or of one channel, have in common."""

    limits: Limits
    client: bool = False
    calls: Calls | None = None
    pool: WindowPool = field(init=False)
    room: Room = field(init=False)
    tide: Tide = field(default_factory=Tide)
    turns: Turns = field(default_factory=Turns)
    reads: Reads = field(default_factory=Reads)
    buffers: BufferPool = field(default_factory=lambda: BufferPool(POOLED_BYTES))
    connections: set[Connection] = field(default_factory=set)
    emptied: asyncio.Event = field(default_factory=asyncio.Event)  # set while there are no connections
    log: LogLimiter = field(default_factory=LogLimiter)
    rested_until: float = 0.0  # when the next connection that causes much work may go on
    calmed: int = 0  # connections ended because they passed a limit
    faults: int = 0  # connections ended by a violation of the protocol

    def __post_init__(self) -> None:
        self.pool = WindowPool(self.limits.window_pool_bytes)
        self.room = Room(self.limits.max_receiving_bytes)
