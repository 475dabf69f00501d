"""Frames to a transport, without a copy where the socket can be reached past it.

asyncio's transports copy what the system does not take at once. Here large messages are given to the system as they are,
and what it does not take stays a list of views. The transport gets one small piece of it, and reports when that is gone.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from typing import Final

from openfl_aio.transport.http2.outgoing import Piece

__all__ = ["Writer"]

_GATHERED: Final = 512  # buffers of one system call; Linux takes 1024
_JOINED_BYTES: Final = 64 * 1024  # up to here a copy is cheaper than a list of buffers
_FIRST_BYTES: Final = 4096


class Writer:
    """Sends ``queue``, which others fill, and what `write` is given behind it.

    While ``writable`` is false the peer does not take what was sent: views given to `write` are still in use, and
    nothing should be sent but what ends the connection.
    """

    __slots__ = ("_fd", "_queue", "_transport", "_unsent", "writable")

    def __init__(self, transport: asyncio.Transport, queue: list[bytes], *, high: int) -> None:
        self._transport = transport
        self._queue = queue
        self._unsent: list[Piece] = []
        self._fd = -1
        self.writable = True
        sock = transport.get_extra_info("socket")
        if sock is not None and transport.get_extra_info("ssl_object") is None and _is_plain_asyncio(transport):
            self._fd = sock.fileno()
        # past the transport no byte may be left in it, so it says at once when it has one
        transport.set_write_buffer_limits(high=0 if self._fd >= 0 else high)

    def __repr__(self) -> str:
        return f"<Writer {'ready' if self.writable else 'waiting'}, {len(self._unsent)} pieces unsent>"

    @property
    def queued(self) -> int:
        """Bytes in the queue."""
        return sum(map(len, self._queue))

    def write(self, pieces: Iterable[Piece]) -> None:
        """Send the queue and then ``pieces``. They are sent, or copied, once `writable` is true again."""
        transport = self._transport
        if transport.is_closing():
            self._queue.clear()
            return
        parts: list[Piece] = [*self._queue, *pieces]
        self._queue.clear()
        if self._unsent:
            self._unsent += parts
        elif self._fd < 0:
            transport.writelines(parts)
        elif transport.get_write_buffer_size() or sum(map(len, parts)) <= _JOINED_BYTES:
            transport.write(b"".join(parts))
        else:
            self._write_through(parts)

    def resume(self) -> None:
        """Go on: the transport has nothing left to send."""
        self.writable = True
        unsent, self._unsent = self._unsent, []
        if unsent:
            self._write_through(unsent)

    def copy_unsent(self) -> None:
        """Let the transport copy what is unsent, so that it is sent while the connection closes."""
        unsent, self._unsent = self._unsent, []
        if unsent:
            self._transport.writelines(unsent)

    def close(self) -> None:
        """Forget everything: the connection is lost."""
        self._fd = -1
        self._unsent = []
        self._queue.clear()

    def _write_through(self, parts: list[Piece]) -> None:
        transport = self._transport
        while parts:
            try:
                sent = os.writev(self._fd, parts[:_GATHERED])
            except OSError:
                sent = 0  # the transport will find out what it is
            index = 0
            while index < len(parts) and sent >= len(parts[index]):
                sent -= len(parts[index])
                index += 1
            del parts[:index]
            if not parts:
                return
            rest = memoryview(parts[0])[sent:]
            transport.write(bytes(rest[:_FIRST_BYTES]))
            parts[0] = rest[_FIRST_BYTES:]
            if not len(parts[0]):
                del parts[0]
            if transport.get_write_buffer_size() or transport.is_closing():
                break
        if parts and not transport.is_closing():
            self._unsent = parts
            self.writable = False


def _is_plain_asyncio(transport: asyncio.Transport) -> bool:
    """Return whether writing to the socket past the transport is sound, as it is while asyncio has nothing to write."""
    return type(transport).__module__.partition(".")[0] == "asyncio"
