"""A peer whose bytes cost much time is read less often, and the memory of uploads goes back to the system."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from openfl_aio.config import Limits
from openfl_aio.transport.http2 import connection as module
from openfl_aio.transport.http2 import frames
from openfl_aio.transport.http2.connection import REST, TURN_SECONDS, Connection, Shared
from openfl_aio.transport.http2.messages import BufferPool

pytestmark = pytest.mark.real_time


class Transport(asyncio.Transport):
    """Notes whether it is read."""

    reading = True
    written = 0
    ended = False

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return False

    def write(self, data: object) -> None:
        assert not self.ended, "asyncio raises"
        self.written += 1

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


def connected(shared: Shared) -> tuple[Connection, Transport]:
    connection, transport = Connection(shared), Transport()
    connection.connection_made(transport)
    give(connection, frames.PREFACE + frames.settings_frame({}))
    return connection, transport


def give(connection: Connection, data: bytes) -> None:
    connection.get_buffer(-1)[: len(data)] = data
    connection.buffer_updated(len(data))


def works(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let whatever is received from now on cost so much time."""

    def times() -> Iterator[float]:
        while True:
            yield 0.0
            yield seconds

    monkeypatch.setattr(f"{module.__name__}.time.thread_time", times().__next__)


PING = frames.frame(frames.PING, 0, 0, bytes(8))


async def test_cheap_bytes_are_read_on(monkeypatch: pytest.MonkeyPatch) -> None:
    connection, transport = connected(Shared(Limits()))
    works(monkeypatch, TURN_SECONDS / 2)
    give(connection, PING)
    assert transport.reading


async def test_dear_bytes_are_followed_by_a_rest_in_proportion(monkeypatch: pytest.MonkeyPatch) -> None:
    connection, transport = connected(Shared(Limits()))
    works(monkeypatch, 2 * TURN_SECONDS)
    began = asyncio.get_running_loop().time()
    give(connection, PING)
    assert not transport.reading
    while not transport.reading:
        await asyncio.sleep(0.001)
    assert asyncio.get_running_loop().time() - began >= 2 * TURN_SECONDS * REST


async def test_many_such_peers_share_what_one_would_have(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = Shared(Limits())
    peers = [connected(shared) for _ in range(5)]
    works(monkeypatch, 2 * TURN_SECONDS)
    began = asyncio.get_running_loop().time()
    for connection, _ in peers:
        give(connection, PING)
    while not all(transport.reading for _, transport in peers):
        await asyncio.sleep(0.001)
    assert asyncio.get_running_loop().time() - began >= 5 * 2 * TURN_SECONDS * REST


def test_memory_that_nobody_took_since_the_last_time_is_given_back() -> None:
    pool = BufferPool(2**20)
    first = pool.take(100_000)
    pool.give(first)
    pool.trim()
    assert pool.take(100_000) is first, "it was used, so it may be needed again"
    pool.give(first)
    pool.trim()
    pool.trim()
    assert pool.take(100_000) is not first


async def test_nothing_is_written_while_asyncio_says_that_it_may_be() -> None:
    # its transport would be closed twice if that write failed
    connection, transport = connected(Shared(Limits()))
    connection.pause_writing()
    give(connection, PING)
    before = transport.written
    connection.resume_writing()
    assert transport.written == before
    await asyncio.sleep(0)
    assert transport.written == before + 1


async def test_nothing_is_said_after_the_reason_for_the_end() -> None:
    connection, transport = connected(Shared(Limits()))
    give(connection, frames.frame(frames.PING, 0, 0, bytes(7)))
    assert transport.ended
    said = transport.written
    connection.engine.ping(bytes(8))
    connection.flush()
    assert transport.written == said
    connection.connection_lost(None)
