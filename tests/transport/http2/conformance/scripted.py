"""A server that follows a script, frame by frame, and serves well afterwards: what our channel is tested against."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import anyio
import hpack

from openfl_aio.config import Endpoint, Limits, Timeouts
from openfl_aio.errors import OpenFLAioError
from openfl_aio.transport.channel import open_channel, translate
from openfl_aio.wire.messages import aggregator
from tests.transport.http2.conformance.wire import (
    ACK,
    END_HEADERS,
    END_STREAM,
    PADDED,
    PREFACE,
    Code,
    Frame,
    Kind,
    block,
    data,
    headers,
    message,
    ping,
    settings,
)

__all__ = ["HEAD", "OK", "SECONDS", "TASKS", "Connection", "Script", "Scripted", "answer", "calling", "outcome"]

SECONDS: Final = 5.0
TASKS: Final = aggregator.GetTasksRequest()

HEAD: Final = block([(":status", "200"), ("content-type", "application/grpc")])
OK: Final = block([("grpc-status", "0")])


def answer(stream: int, payload: bytes = message()) -> bytes:
    """Return a whole answer."""
    return headers(stream, HEAD) + data(stream, payload) + headers(stream, OK, end=True)


class Connection:
    """One connection from our client, and what came on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._decoder = hpack.Decoder()
        self.frames: list[Frame] = []
        self.preface = b""
        self.settings: dict[int, int] = {}  # the client's
        self.settings_acks = 0
        self.pongs: list[bytes] = []
        self.fields: dict[int, list[tuple[str, str]]] = {}  # header blocks by stream
        self.bodies: dict[int, bytearray] = {}
        self.ended: list[int] = []  # streams whose request is complete, in order
        self.resets: dict[int, int] = {}
        self.goaway: int | None = None
        self.closed = False
        self._answered = 0

    def send(self, octets: bytes) -> None:
        """Send ``octets``."""
        self._writer.write(octets)

    async def drain(self) -> None:
        """Wait while the client takes nothing."""
        await self._writer.drain()

    def limit_header_table(self, size: int) -> None:
        """Hold the client to a size of the header table."""
        self._decoder.max_allowed_table_size = size

    def close(self) -> None:
        """Close the connection once everything is sent."""
        self._writer.close()

    def abort(self) -> None:
        """Break the connection off."""
        self._writer.transport.abort()

    async def start(self, *pairs: tuple[int, int]) -> None:
        """Read the preface and send SETTINGS."""
        self.preface = await self._reader.readexactly(len(PREFACE))
        self.send(settings(*pairs))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Read until ``condition`` holds. Raises `EOFError` if the client closes before."""
        while not condition():
            await self.read()

    async def request(self) -> int:
        """Return the stream of the next call whose request is complete."""
        await self.until(lambda: len(self.ended) > self._answered)
        self._answered += 1
        return self.ended[self._answered - 1]

    async def serve_well(self) -> None:
        """Answer every call until the client closes."""
        while True:
            stream = await self.request()
            if stream not in self.resets:
                self.send(answer(stream))

    async def read(self) -> None:
        """Read one frame."""
        try:
            header = await self._reader.readexactly(9)
            high, low, kind, flags, stream = struct.unpack(">BHBBI", header)
            payload = await self._reader.readexactly(high << 16 | low)
        except (EOFError, ConnectionError):
            self.closed = True
            raise EOFError from None
        self.frames.append(Frame(kind, flags, stream, payload))
        match kind:
            case Kind.SETTINGS if flags & ACK:
                self.settings_acks += 1
            case Kind.SETTINGS:
                self.settings.update(struct.iter_unpack(">HI", payload))
                self.send(settings(flags=ACK))
            case Kind.PING if flags & ACK:
                self.pongs.append(payload)
            case Kind.PING:
                self.send(ping(payload, flags=ACK))
            case Kind.GOAWAY:
                self.goaway = int.from_bytes(payload[4:8], "big")
            case Kind.RST_STREAM:
                self.resets[stream] = int.from_bytes(payload, "big")
            case Kind.HEADERS:
                assert flags & END_HEADERS, "our client's header blocks are small"
                assert not flags & PADDED, "our client does not pad"
                block = payload[5:] if flags & 0x20 else payload
                self.fields[stream] = [(str(name), str(value)) for name, value in self._decoder.decode(block)]
            case Kind.DATA:
                self.bodies.setdefault(stream, bytearray()).extend(payload)
        if kind in (Kind.HEADERS, Kind.DATA) and flags & END_STREAM:
            self.ended.append(stream)

    def story(self) -> str:
        """Tell what came."""
        return "; ".join(f"{Kind(one.kind).name} {one.flags:#x} stream {one.stream}" for one in self.frames)

    @property
    def goaway_name(self) -> str | None:
        """The client's code of GOAWAY in words."""
        return None if self.goaway is None else Code(self.goaway).name


Script = Callable[[Connection], Awaitable[None]]


class Scripted:
    """Connections are handled by the scripts in turn; later ones are served well."""

    def __init__(self, *scripts: Script) -> None:
        self._scripts = list(scripts)
        self.connections: list[Connection] = []
        self.failures: list[BaseException] = []
        self.endpoint = Endpoint()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Follow the next script."""
        connection = Connection(reader, writer)
        number = len(self.connections)
        self.connections.append(connection)
        try:
            if number < len(self._scripts):
                await self._scripts[number](connection)
            else:
                await connection.start()
            await connection.serve_well()
        except (EOFError, ConnectionError):
            connection.closed = True
        except Exception as exc:
            self.failures.append(exc)
        finally:
            writer.close()


@asynccontextmanager
async def scripted(*scripts: Script) -> AsyncIterator[Scripted]:
    """Listen on a free port of loopback; at the end no script may have failed."""
    server = Scripted(*scripts)
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    server.endpoint = Endpoint(port=listener.sockets[0].getsockname()[1])
    try:
        yield server
    finally:
        listener.close()
        for connection in server.connections:
            connection.abort()
        await asyncio.sleep(0)
    if server.failures:
        raise server.failures[0]


@asynccontextmanager
async def calling(
    *scripts: Script, limits: Limits | None = None
) -> AsyncIterator[tuple[aggregator.AggregatorStub, Scripted]]:
    """Give a stub on a channel to a server that follows ``scripts``."""
    with anyio.fail_after(5 * SECONDS):
        async with (
            scripted(*scripts) as server,
            open_channel(server.endpoint, tls=None, timeouts=Timeouts(connect=SECONDS), limits=limits) as channel,
        ):
            yield aggregator.AggregatorStub(channel), server


async def outcome(stub: aggregator.AggregatorStub, *, deadline: float | None = None) -> type[OpenFLAioError] | None:
    """Return the class of the error of a call with so many seconds for it, or None; fails after `SECONDS`."""
    try:
        with anyio.fail_after(SECONDS), translate():
            await stub.get_tasks(TASKS, timeout=deadline)
    except OpenFLAioError as exc:
        return type(exc)
    return None
