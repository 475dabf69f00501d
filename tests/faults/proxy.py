"""A TCP proxy on the loopback that does what networks do: delays, chops, cuts, loses answers, and says nothing."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from openfl_aio.config import Endpoint

__all__ = ["Network", "Proxy", "Record"]

READ_BYTES = 64 * 1024
UNDER_WAY = 256 * 1024  # bytes that one direction holds at most before it reads no more
RESET = struct.pack("ii", 1, 0)
LOSING_SECONDS = 0.15  # between the request whose answer is lost and the end of the connection


@dataclass(frozen=True)
class Network:
    """How a network misbehaves. Seconds and bytes.

    ``latency`` is the mean and how far from it each delay may be; ``rate`` bounds bytes a second; ``segment`` is the
    size of what is passed on at a time. Each connection is cut, in one direction, after a number of bytes from
    ``cut_between``, until ``cuts`` were made; or from such a byte of its requests on its answers are swallowed
    (``lost_replies``) and it ends a moment later. ``holes`` are times, from the first byte on, at which everything is
    swallowed for ``hole_seconds``; connections that were open then stay dead, unless they are to ``resume``.
    """

    latency: tuple[float, float] = (0.0, 0.0)
    rate: float = 0.0
    segment: int = READ_BYTES
    cuts: int = 0
    lost_replies: int = 0
    cut_between: tuple[int, int] = (1, 60_000)
    holes: tuple[float, ...] = ()
    hole_seconds: float = 0.0
    resume: bool = False


@dataclass
class Record:
    """What a proxy did."""

    connections: int = 0
    cuts: int = 0
    lost_replies: int = 0
    holes: int = 0
    swallowed: int = 0  # bytes
    passed: int = 0  # bytes


@dataclass(eq=False)
class _Link:
    """One connection: the two sockets, and what is to become of it."""

    client: socket.socket
    server: socket.socket
    cut_up: int | None = None
    cut_down: int | None = None
    swallow_from: int | None = None
    up: int = 0
    losing: bool = False  # its answers are swallowed, and it ends in a moment
    dead: bool = False  # nothing passes any more, and nobody is told
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Proxy:
    """Stands before ``target`` and behaves as ``network`` says, with draws from ``seed``; an async context manager."""

    def __init__(self, target: Endpoint, network: Network, *, seed: int = 0, port: int = 0) -> None:
        self.record = Record()
        self._target = target
        self._port = port
        self._network = network
        self._random = random.Random(seed)
        self._tasks: set[asyncio.Task[None]] = set()
        self._links: set[_Link] = set()
        self._open = asyncio.Event()  # unset while there is a hole
        self._open.set()
        self._began = False

    async def __aenter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._listener.setblocking(False)
        self._start(self._accept())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listener.close()

    @property
    def endpoint(self) -> Endpoint:
        """Where the proxy listens."""
        return Endpoint(port=self._listener.getsockname()[1])

    def _start(self, what: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(self._listener)
            self.record.connections += 1
            self._start(self._serve(client))

    async def _serve(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        server = socket.socket()
        try:
            for sock in (client, server):
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                await loop.sock_connect(server, (self._target.host, self._target.port))
            except OSError:
                return
            link = self._fate(_Link(client, server))
            if not self._began and self._network.holes:
                self._began = True
                self._start(self._dig())
            link.dead = not self._open.is_set() and not self._network.resume
            self._links.add(link)
            ways = [loop.create_task(self._pass(link, up=up)) for up in (True, False)]
            try:
                await link.over.wait()
            finally:
                self._links.discard(link)
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        finally:
            for sock in (client, server):
                with contextlib.suppress(OSError):
                    if self._random.random() < 0.5:  # else it ends in good order, if only for TCP
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                sock.close()

    def _fate(self, link: _Link) -> _Link:
        """Decide what becomes of a connection; small numbers are as likely as large ones."""
        network, record = self._network, self.record
        low, high = network.cut_between
        after = int(low * (high / low) ** self._random.random())
        if record.cuts < network.cuts:
            if self._random.random() < 0.5:
                link.cut_up = after
            else:
                link.cut_down = after
        elif record.lost_replies < network.lost_replies:
            link.swallow_from = after
        return link

    async def _dig(self) -> None:
        """Swallow everything for a while, again and again."""
        loop, network = asyncio.get_running_loop(), self._network
        began = loop.time()
        for start in network.holes:
            await asyncio.sleep(max(0.0, began + start - loop.time()))
            self._open.clear()
            self.record.holes += 1
            for link in self._links:
                link.dead = not network.resume
            await asyncio.sleep(network.hole_seconds)
            self._open.set()

    # ---------------------------------------------------------------------------------------------- one direction

    async def _pass(self, link: _Link, *, up: bool) -> None:
        """Pass one direction on: read, keep for as long as it is to take, and send."""
        under_way: deque[tuple[float, bytes]] = deque()
        changed = asyncio.Event()
        sender = asyncio.get_running_loop().create_task(self._send(link, under_way, changed, up=up))
        source = link.client if up else link.server
        try:
            await self._read(link, source, under_way, changed, up=up)
            while under_way and not sender.done():
                await asyncio.sleep(0.01)
        except OSError:
            pass
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
            if not link.dead:
                link.over.set()

    async def _read(
        self,
        link: _Link,
        source: socket.socket,
        under_way: deque[tuple[float, bytes]],
        changed: asyncio.Event,
        *,
        up: bool,
    ) -> None:
        loop, network = asyncio.get_running_loop(), self._network
        cut = link.cut_up if up else link.cut_down
        seen, due = 0, 0.0
        while data := await loop.sock_recv(source, READ_BYTES):
            if link.dead:
                self.record.swallowed += len(data)
                continue
            if up:
                link.up += len(data)
                if link.swallow_from is not None and link.up >= link.swallow_from:
                    self._lose_reply(link)
            elif link.losing:
                self.record.swallowed += len(data)
                continue
            if cut is not None and seen + len(data) >= cut:
                if self.record.cuts < network.cuts:
                    self.record.cuts += 1
                    data = data[: cut - seen]
                else:
                    cut = None  # enough were cut while this one waited for its turn
            seen += len(data)
            mean, spread = network.latency
            delay = self._random.uniform(mean - spread, mean + spread) if mean else 0.0
            due = max(due, loop.time() + delay)
            for start in range(0, len(data), network.segment):
                under_way.append((due, data[start : start + network.segment]))
            changed.set()
            while sum(len(piece) for _, piece in under_way) > UNDER_WAY:
                await asyncio.sleep(0.01)
            if seen == cut:
                return

    async def _send(
        self, link: _Link, under_way: deque[tuple[float, bytes]], changed: asyncio.Event, *, up: bool
    ) -> None:
        loop, network = asyncio.get_running_loop(), self._network
        sink = link.server if up else link.client
        free = 0.0
        try:
            while True:
                while not under_way:
                    changed.clear()
                    await changed.wait()
                due, piece = under_way[0]
                await asyncio.sleep(max(0.0, max(due, free) - loop.time()))
                await self._open.wait()
                if link.dead:
                    self.record.swallowed += len(piece)
                else:
                    await loop.sock_sendall(sink, piece)
                    self.record.passed += len(piece)
                if network.rate:
                    free = max(free, loop.time()) + len(piece) / network.rate
                under_way.popleft()
        except OSError:
            if not link.dead:
                link.over.set()

    def _lose_reply(self, link: _Link) -> None:
        """Let the request arrive, and end the connection before anything comes back."""
        if not link.losing and self.record.lost_replies < self._network.lost_replies:
            link.losing = True
            self.record.lost_replies += 1
            asyncio.get_running_loop().call_later(LOSING_SECONDS, link.over.set)
