"""gRPC messages out of the DATA of one stream: each received once, into the memory where it stays.

A message is a prefix of five bytes (whether it is compressed, and its length, big-endian) and as many bytes. Large ones
get memory of their own as soon as the prefix is known, and the socket writes into it. What comes while nobody asks
is bounded by the stream's flow-control window, however the peer cuts it: messages that are ahead of the reader by more
than a few are kept as plain bytes, not as objects.
"""

from __future__ import annotations

import mmap
import struct
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Final, TypeAlias

import numpy as np

from openfl_aio.transport.http2.room import Room

__all__ = ["PREFIX_BYTES", "BufferPool", "Fault", "Inbound", "Message"]

PREFIX_BYTES: Final = 5
PREFIX: Final = struct.Struct(">BI")
OWN_MEMORY: Final = 64 * 1024
"""From this size on a message gets memory of its own; smaller ones are cut out of what was received."""

_AHEAD: Final = 32
_read_prefix = PREFIX.unpack_from

Message: TypeAlias = bytes | memoryview


class Fault(Enum):
    """Why no more messages can be taken from a stream."""

    COMPRESSED = "a message is compressed"
    TOO_LARGE = "a message is larger than accepted"
    CUT = "the stream ended within a message"


def allocate(size: int) -> memoryview:
    """Return ``size`` writable bytes that nobody has set."""
    return np.empty(size, np.uint8).data  # unlike bytearray: without a pass that writes zeros


class BufferPool:
    """Memory for messages that are gone before the next one is read: fresh pages cost more than the copy into them."""

    __slots__ = ("_free", "_kept", "_most", "_used")

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept = 0
        self._used = False  # since the last `trim`
        self._free: dict[int, list[memoryview]] = {}

    def take(self, size: int, *, fresh: bool = False) -> memoryview:
        """Return memory of at least ``size`` bytes, nobody's before if it is to be ``fresh``; `give` it back whole."""
        step = 1 << max(size.bit_length() - 4, 0)  # a few sizes, none of them much larger than what is asked for
        capacity = -(-size // step) * step
        self._used = True
        free = self._free.get(capacity)
        if free and not fresh:
            self._kept -= capacity
            return free.pop()
        # not from the heap: what is let go of is the system's again, and memory is bounded by what is in use
        return memoryview(mmap.mmap(-1, capacity, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))

    def give(self, memory: memoryview) -> None:
        """Take back what `take` returned. Nobody may read it afterwards."""
        if self._kept + len(memory) <= self._most:
            self._kept += len(memory)
            self._free.setdefault(len(memory), []).append(memory)

    def trim(self) -> None:
        """Give everything back to the system if nothing was taken since the last time."""
        if not self._used:
            self._free.clear()
            self._kept = 0
        self._used = False


class _Lease:
    """What a large message has until it is released: a place in the room, and perhaps memory of the pool."""

    __slots__ = ("memory",)

    def __init__(self, memory: memoryview | None) -> None:
        self.memory = memory


class Inbound:
    """The receiving side of one stream.

    ``max_bytes`` bounds one message. With ``pool`` set, large messages live in its memory and are valid until
    `release`. With ``room`` set, a large message waits for room beyond what the first window gives; ``on_room`` is
    called when it has it. ``unread`` counts bytes of flow control that were received and not settled with the peer.
    """

    __slots__ = (
        "_at",
        "_backlog",
        "_body",
        "_filled",
        "_lease",
        "_leased",
        "_need",
        "_prefix",
        "_ready",
        "ended",
        "fault",
        "fault_bytes",
        "max_bytes",
        "on_room",
        "pool",
        "received",
        "room",
        "unread",
        "waiting",
    )

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.pool: BufferPool | None = None
        self.room: Room | None = None
        self.on_room: Callable[[], None] | None = None
        self.ended = False
        self.fault: Fault | None = None
        self.fault_bytes = 0  # length of the message that is at fault, 0 if even that is not known
        self.unread = 0
        self.received = 0  # bytes in all, for whoever watches progress
        self._prefix = b""
        self._need = -1  # length of the message under way, -1 between messages
        self._filled = 0
        self._body: memoryview | None = None
        self._lease: _Lease | None = None  # of the message under way
        self._ready: deque[tuple[Message, _Lease | None]] = deque()
        self._backlog: bytearray | None = None
        self._at = 0
        self._leased: _Lease | None = None  # of the message taken last
        self.waiting = False  # the message under way has no room yet

    def __repr__(self) -> str:
        return f"<Inbound ready={len(self._ready)} need={self._need} filled={self._filled} ended={self.ended}>"

    # -- the side of the connection

    def feed(self, view: memoryview) -> None:
        """Take bytes; ``view`` may be reused afterwards."""
        count = len(view)
        self.unread += count
        self.received += count
        if self.fault is not None:
            return
        if self._backlog is not None:
            self._backlog += view
            return
        position = self._cut(view, 0)
        if position < count and self.fault is None:
            self._backlog = bytearray(view[position:])
            self._at = 0

    def target(self, most: int) -> memoryview | None:
        """Return where the next bytes belong, at most ``most`` of them, or None if they must come through `feed`."""
        body = self._body
        if body is None or self._backlog is not None:
            return None
        filled = self._filled
        return body[filled : min(self._need, filled + most)]

    def advance(self, count: int) -> None:
        """Take note that ``count`` bytes were written to the `target`."""
        self.unread += count
        self.received += count
        self._filled += count
        if self._filled == self._need:
            self._complete()

    def end(self) -> None:
        """Take note that the peer sends no more."""
        self.ended = True
        if self._backlog is None:
            self._check_cut()

    # -- the side of the reader

    def take(self) -> Message | None:
        """Return the next message, or None if there is none yet (or, with ``ended`` or ``fault``, will be none)."""
        if not self._ready:
            if self._backlog is None:
                return None
            self._cut_backlog()
            if not self._ready:
                return None
        message, self._leased = self._ready.popleft()
        return message

    def release(self) -> None:
        """Give back the room of the message taken last, and its memory if it is the pool's."""
        lease, self._leased = self._leased, None
        if lease is not None:
            self._give(lease)

    def _give(self, lease: _Lease) -> None:
        if lease.memory is not None and self.pool is not None:
            self.pool.give(lease.memory)
        if self.room is not None:
            self.room.leave(lease)

    def close(self) -> None:
        """Forget everything, and whatever is still to come."""
        self.fault = self.fault or Fault.CUT
        self.on_room = None  # it leads back here
        self.release()
        while self._ready:
            _, lease = self._ready.popleft()
            if lease is not None:
                self._give(lease)
        self._forget()

    def _forget(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            self._give(lease)
        self._body = self._backlog = None
        self._need = -1
        self._prefix = b""
        self.waiting = False

    def settle(self) -> int:
        """Return how many bytes the peer may send for those that came: they are read, or have room to stay."""
        kept = min(self._filled, self.unread) if self.waiting else 0
        count, self.unread = self.unread - kept, kept
        return count

    @property
    def partial(self) -> bool:
        """Whether a message has begun and is not complete."""
        return self._need >= 0 or bool(self._prefix)

    @property
    def more(self) -> bool:
        """Whether there is anything behind the message taken last."""
        return self.available or self.partial or self.fault is not None

    @property
    def available(self) -> bool:
        """Whether `take` may return something."""
        return bool(self._ready) or self._backlog is not None

    # -- cutting

    def _cut(self, view: memoryview, position: int) -> int:
        """Cut messages out of ``view`` until it is used up or enough are ready; return how far."""
        end = len(view)
        ready = self._ready
        while position < end:
            if self._need < 0:
                if len(ready) >= _AHEAD:
                    return position
                if not self._prefix and end - position >= PREFIX_BYTES:
                    compressed, need = _read_prefix(view, position)
                    position += PREFIX_BYTES
                else:
                    part = bytes(view[position : position + PREFIX_BYTES - len(self._prefix)])
                    position += len(part)
                    self._prefix += part
                    if len(self._prefix) < PREFIX_BYTES:
                        break
                    compressed, need = _read_prefix(self._prefix, 0)
                    self._prefix = b""
                if compressed or need > self.max_bytes:
                    self._need = need
                    self._fail(Fault.COMPRESSED if compressed else Fault.TOO_LARGE)
                    return end
                if need <= OWN_MEMORY and end - position >= need:
                    ready.append((bytes(view[position : position + need]), None))
                    position += need
                    continue
                self._begin(need)
            body = self._body
            assert body is not None
            filled = self._filled
            count = min(self._need - filled, end - position)
            body[filled : filled + count] = view[position : position + count]
            position += count
            self._filled = filled + count
            if self._filled == self._need:
                self._complete()
        return position

    def _begin(self, need: int) -> None:
        self._need = need
        self._filled = 0
        memory = None
        if need > OWN_MEMORY:
            if self.pool is not None or self.room is not None:
                self._lease = _Lease(None)
            if self.room is not None:
                assert self._lease is not None
                self.waiting = not self.room.ask(self._lease, need, self._has_room)
            if self.pool is not None:
                assert self._lease is not None
                # who waits has few bytes so far: memory that was used before would take all its pages with it
                memory = self._lease.memory = self.pool.take(need, fresh=self.waiting)
        self._body = allocate(need) if memory is None else memory[:need]

    def _has_room(self) -> None:
        self.waiting = False
        if self.on_room is not None:
            self.on_room()

    def _complete(self) -> None:
        assert self._body is not None
        self._ready.append((self._body.toreadonly(), self._lease))
        self._body = self._lease = None
        self._need = -1
        self.waiting = False

    def _cut_backlog(self) -> None:
        backlog = self._backlog
        assert backlog is not None
        with memoryview(backlog) as view:
            self._at = self._cut(view, self._at)
        if self._at == len(backlog):
            self._backlog = None
            if self.ended:
                self._check_cut()
        elif self._at * 2 > len(backlog):
            del backlog[: self._at]
            self._at = 0

    def _check_cut(self) -> None:
        if self.partial and self.fault is None:
            self._fail(Fault.CUT)

    def _fail(self, fault: Fault) -> None:
        self.fault = fault
        self.fault_bytes = max(self._need, 0)
        self._forget()
