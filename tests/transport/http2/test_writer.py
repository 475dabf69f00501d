"""Frames through a real socket: in order and whole, whatever the peer takes, and without a copy while it takes nothing."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from openfl_aio.config import Limits
from openfl_aio.transport.http2.connection import LINGER_SECONDS, Connection, Shared
from openfl_aio.transport.http2.writer import Writer

pytestmark = pytest.mark.real_time


class Protocol(asyncio.Protocol):
    """Passes on what the transport says of writing, as a connection does."""

    writer: Writer
    lost = False

    def __init__(self) -> None:
        self.resumed = asyncio.Event()

    def pause_writing(self) -> None:
        self.writer.writable = False

    def resume_writing(self) -> None:
        asyncio.get_running_loop().call_soon(self._resume)

    def _resume(self) -> None:
        self.writer.resume()
        self.resumed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True

    async def until_writable(self) -> None:
        while not self.writer.writable:
            self.resumed.clear()
            await self.resumed.wait()


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Writer, list[bytes], Protocol, socket.socket]]:
    """Give a writer, its queue, its protocol, and the peer's socket, which nobody reads."""
    loop = asyncio.get_running_loop()
    ours, peer = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024)
    peer.setblocking(False)
    transport, protocol = await loop.create_connection(Protocol, sock=ours)
    queue: list[bytes] = []
    protocol.writer = Writer(transport, queue, high=1 << 20)
    try:
        yield protocol.writer, queue, protocol, peer
    finally:
        if not protocol.lost:
            transport.abort()
        peer.close()
        await asyncio.sleep(0)


async def read(peer: socket.socket, count: int, piece: int = 1 << 20) -> bytes:
    loop, received = asyncio.get_running_loop(), bytearray()
    while len(received) < count:
        received += await loop.sock_recv(peer, min(piece, count - len(received)))
    return bytes(received)


@pytest.mark.parametrize("seed", range(8))
async def test_everything_arrives_in_order_whatever_its_size_and_the_peers_pace(seed: int) -> None:
    chance, meant = random.Random(seed), bytearray()
    async with connected() as (writer, queue, protocol, peer):

        async def send() -> None:
            for _ in range(60):
                for _ in range(chance.randrange(3)):
                    queue.append(chance.randbytes(chance.choice([9, 13, 200])))
                    meant.extend(queue[-1])
                sizes = [chance.choice([0, 9, 4096, 4097, 100_000, 1_000_000]) for _ in range(chance.randrange(4))]
                if chance.random() < 0.05:
                    sizes += [9] * 600 + [70_000]
                parts = [chance.randbytes(size) for size in sizes]
                meant.extend(b"".join(parts))
                writer.write(map(memoryview, parts))
                assert not queue
                if chance.random() < 0.8:
                    await protocol.until_writable()
                if chance.random() < 0.3:
                    await asyncio.sleep(0)
            await protocol.until_writable()

        received = bytearray()
        sending = asyncio.create_task(send())
        while not sending.done() or len(received) < len(meant):
            try:
                received += peer.recv(chance.choice([1, 5000, 300_000]))
            except BlockingIOError:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0)
        await sending
        assert bytes(received) == bytes(meant)


async def test_what_is_not_taken_stays_the_senders_memory() -> None:
    async with connected() as (writer, _, protocol, peer):
        large = bytearray(8_000_000)
        writer.write([memoryview(large)])
        assert not writer.writable
        assert writer._transport.get_write_buffer_size() <= 4096
        assert repr(writer) == "<Writer waiting, 1 pieces unsent>"
        large[-5:] = b"later"

        assert (await read(peer, len(large)))[-5:] == b"later"
        await asyncio.wait_for(protocol.until_writable(), 5)
        assert repr(writer) == "<Writer ready, 0 pieces unsent>"


async def test_what_is_unsent_is_copied_when_the_connection_closes() -> None:
    async with connected() as (writer, queue, _, peer):
        large = bytearray(b"a" * 8_000_000)
        writer.write([memoryview(large)])
        queue.append(b"goodbye")
        writer.copy_unsent()
        writer.write(())
        writer._transport.close()
        large[:] = bytes(len(large))

        received = await read(peer, len(large) + 7)
        assert received == b"a" * len(large) + b"goodbye"
        queue.append(b"more")
        writer.write([b"and more"])
        assert queue == [], "what comes after the end goes nowhere"


@pytest.mark.parametrize("size", [10, 8_000_000])
async def test_a_peer_that_is_gone_is_noticed_by_the_transport(size: int) -> None:
    async with connected() as (writer, queue, protocol, peer):
        peer.close()
        for _ in range(5):
            writer.write([bytes(size)])
            await asyncio.sleep(0.01)
        assert protocol.lost
        queue.append(b"x")
        assert writer.queued == 1
        writer.close()
        assert queue == []


async def test_a_peer_that_vanishes_while_much_is_unsent_frees_it() -> None:
    async with connected() as (writer, _, protocol, peer):
        writer.write([bytes(8_000_000)])
        peer.close()
        while not protocol.lost:
            await asyncio.sleep(0.01)
        writer.close()

        assert repr(writer).endswith("0 pieces unsent>")


@pytest.mark.parametrize("taken", [False, True])
async def test_a_connection_that_closes_with_much_unsent_ends_once_whether_it_is_taken_or_not(taken: bool) -> None:
    loop = asyncio.get_running_loop()
    failed: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: failed.append(context))
    ours, peer = socket.socketpair()
    peer.setblocking(False)
    _, connection = await loop.create_connection(lambda: Connection(Shared(Limits())), sock=ours)
    connection.write([bytes(3_000_000)])
    connection.close()
    if taken:
        await read(peer, 3_000_000)
    await asyncio.sleep(LINGER_SECONDS + 0.2)

    assert connection.get_extra_info("socket") is None, "it is lost by now"
    peer.close()
    assert failed == []
