"""Transports without a network: one that a test plays the peer of, and a pair that joins two connections."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from openfl_aio.config import Limits
from openfl_aio.transport.http2 import frames
from openfl_aio.transport.http2.connection import Connection, Shared
from openfl_aio.transport.http2.headers import Headers
from openfl_aio.transport.http2.stream import Stream
from tests.transport.http2.recording import parse

__all__ = ["Handlers", "Pipe", "join", "served"]

Handler = Callable[[Stream], Awaitable[None]]


class Pipe(asyncio.Transport):
    """Keeps what is written, or hands it to ``other``, whose connection receives it in the next turn of the loop."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.connection = connection
        self.other: Pipe | None = None
        self.buffer = bytearray()
        self.reading = True
        self.taken = True  # whether the peer takes what is written
        self.ended = self.closing = self.lost = False
        self.high = 1 << 20
        self._paused = self._scheduled = False

    # -- for tests

    def give(self, *pieces: bytes) -> None:
        """Let the connection receive bytes, as much at a time as it has room for."""
        data = b"".join(pieces)
        while data and not self.lost:
            buffer = self.connection.get_buffer(-1)
            count = min(len(buffer), len(data))
            buffer[:count] = data[:count]
            self.connection.buffer_updated(count)
            data = data[count:]

    def sent(self) -> list[Any]:
        """Return the frames that were written, and forget them."""
        written = bytes(self.buffer)
        self.buffer.clear()
        return parse(written)

    def take(self) -> None:
        """Let the peer take what is written from now on."""
        self.taken = True
        self._carry_on()

    # -- asyncio's

    def write(self, data: Any) -> None:
        if self.closing:
            return
        self.buffer += data
        if self.taken and self.other is not None:
            self._carry_on()
        elif not self.taken and len(self.buffer) > self.high and not self._paused:
            self._paused = True
            self.connection.pause_writing()

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    def _carry_on(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._carry)

    def _carry(self) -> None:
        self._scheduled = False
        other = self.other
        if self.taken and other is not None and other.reading and self.buffer:
            data = bytes(self.buffer[: 1 << 20])
            del self.buffer[: len(data)]
            other.give(data)
            if self.buffer:
                self._carry_on()
        if self._paused and self.taken and (other is None or not self.buffer):
            self._paused = False
            self.connection.resume_writing()
        if self.closing and not self.buffer and not self.lost:
            self.abort()

    def close(self) -> None:
        self.closing = True
        self._carry_on()

    def abort(self) -> None:
        if self.lost:
            return
        self.closing = self.lost = True
        self.connection.connection_lost(None)
        if self.other is not None:
            self.other.abort()

    def is_closing(self) -> bool:
        return self.closing

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True
        if self.other is not None:
            self.other._carry_on()

    def get_write_buffer_size(self) -> int:
        return len(self.buffer)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high is not None
        self.high = high

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("::1", 4711, 0, 0) if name == "peername" else default


class Handlers:
    """Answers every call with one handler; ``resets`` are the reasons for which calls ended early."""

    def __init__(self, handler: Handler, *, pooled: bool = False) -> None:
        self.handler = handler
        self.pooled = pooled
        self.streams: list[Stream] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.resets: list[str] = []
        self.shared: Shared | None = None

    def prepare(self, stream: Stream, headers: Headers) -> None:
        if self.pooled and self.shared is not None:
            stream.record.inbound.pool = self.shared.buffers

    def accept(self, stream: Stream, headers: Headers) -> None:
        self.streams.append(stream)
        task = stream.connection.loop.create_task(self._answer(stream))
        stream.on_reset = lambda reason: self._reset(task, reason)
        self.tasks.append(task)

    def _reset(self, task: asyncio.Task[None], reason: str) -> None:
        self.resets.append(reason)
        task.cancel()

    async def _answer(self, stream: Stream) -> None:
        try:
            await self.handler(stream)
        finally:
            stream.on_reset = None
            if stream.closable:
                stream.reset_nowait()
            stream.release()


async def nothing(stream: Stream) -> None:
    await asyncio.Event().wait()


def served(
    handler: Handler = nothing,
    *,
    limits: Limits | None = None,
    ready: bool = True,
    shared: Shared | None = None,
    pooled: bool = False,
    **options: Any,
) -> tuple[Connection, Pipe, Handlers]:
    """Return a server's connection, the pipe of which the test is the peer, and who answers its calls."""
    handlers = Handlers(handler, pooled=pooled)
    if shared is None:
        shared = Shared(limits or Limits())
    shared.calls = handlers
    handlers.shared = shared
    connection = Connection(shared, **options)
    pipe = Pipe(connection)
    connection.connection_made(pipe)
    if ready:
        pipe.give(frames.PREFACE, frames.settings_frame({}))
        pipe.sent()
    return connection, pipe, handlers


async def join(
    handler: Handler = nothing, *, limits: Limits | None = None, pooled: bool = False
) -> tuple[Connection, Connection, Handlers]:
    """Return the connections of a client and of a server that have greeted each other, and who answers."""
    server, pipe, handlers = served(handler, limits=limits, ready=False, pooled=pooled)
    client = Connection(Shared(limits or Limits(), client=True))
    other = Pipe(client)
    pipe.other, other.other = other, pipe
    client.connection_made(other)
    pipe._carry_on()
    for _ in range(4):
        await asyncio.sleep(0)
    assert client.engine.got_settings
    assert server.engine.got_settings
    return client, server, handlers
