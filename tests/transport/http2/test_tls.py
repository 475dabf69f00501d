"""TLS over memory BIOs, against itself and against asyncio's own, on real loopback sockets."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest

from openfl_aio.testing.ca import ThrowawayCA
from openfl_aio.transport.http2.tls import TLSProtocol, TLSTransport
from openfl_aio.transport.tls import client_context, server_context

pytestmark = pytest.mark.real_time

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture(autouse=True)
async def nothing_reaches_the_loop() -> AsyncIterator[None]:
    """No peer may cause an error that only the loop's last resort sees."""
    seen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: seen.append(context))
    yield
    gc.collect()  # futures complain about exceptions nobody asked for when they are collected
    assert seen == []


@pytest.fixture(params=VERSIONS, ids=lambda version: version.name)
def version(request: pytest.FixtureRequest) -> ssl.TLSVersion:
    return cast("ssl.TLSVersion", request.param)


@pytest.fixture
async def server_tls(ca: ThrowawayCA) -> ssl.SSLContext:
    return await server_context(ca.server())


@pytest.fixture
async def client_tls(ca: ThrowawayCA) -> ssl.SSLContext:
    return await client_context(ca.client("hospital_one"))


class Inner(asyncio.BufferedProtocol):
    """Collects plaintext and remembers what it was told."""

    def __init__(self, *, buffer_bytes: int = 1 << 18) -> None:
        self.buffer = bytearray(buffer_bytes)
        self.received = bytearray()
        self.calls: list[str] = []
        self.transport: TLSTransport | None = None
        self.error: Exception | None = None
        self.made = asyncio.Event()
        self.lost = asyncio.Event()
        self._grown = asyncio.Event()

    @property
    def tls(self) -> TLSTransport:
        assert self.transport is not None
        return self.transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, TLSTransport)
        self.calls.append("connection_made")
        self.transport = transport
        self.made.set()

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        assert 0 < nbytes <= len(self.buffer)
        self.received += memoryview(self.buffer)[:nbytes]
        self._grown.set()

    def eof_received(self) -> None:
        self.calls.append("eof_received")

    def pause_writing(self) -> None:
        self.calls.append("pause_writing")

    def resume_writing(self) -> None:
        self.calls.append("resume_writing")

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("connection_lost")
        self.error = exc
        self.lost.set()

    async def until(self, size: int) -> bytes:
        """Return what was received once it is ``size`` bytes."""
        while len(self.received) < size:
            self._grown.clear()
            await asyncio.wait_for(self._grown.wait(), 10)
        return bytes(self.received)


class Echo(Inner):
    """Sends everything back."""

    def buffer_updated(self, nbytes: int) -> None:
        self.tls.write(memoryview(self.buffer)[:nbytes])


class Serving:
    """A TLS server on loopback; keeps the protocols it has made and the failures it was told."""

    def __init__(self, make_inner: Callable[[], Inner], context: ssl.SSLContext) -> None:
        self.make_inner = make_inner
        self.context = context
        self.inners: list[Inner] = []
        self.protocols: list[TLSProtocol] = []
        self.failures: list[Exception] = []
        self.failed = asyncio.Event()
        self.port = 0

    def make_protocol(self) -> TLSProtocol:
        self.inners.append(self.make_inner())
        protocol = TLSProtocol(self.inners[-1], self.context, server_side=True, on_failed=self.on_failed)
        self.protocols.append(protocol)
        return protocol

    def on_failed(self, exc: Exception) -> None:
        self.failures.append(exc)
        self.failed.set()


@contextlib.asynccontextmanager
async def serve(make_inner: Callable[[], Inner], context: ssl.SSLContext) -> AsyncIterator[Serving]:
    serving = Serving(make_inner, context)
    server = await asyncio.get_running_loop().create_server(serving.make_protocol, "127.0.0.1", 0)
    serving.port = server.sockets[0].getsockname()[1]
    try:
        yield serving
    finally:
        server.close()
        for protocol in serving.protocols:
            protocol.abort()
        await asyncio.sleep(0.01)  # connection_lost is called in a later round


@contextlib.asynccontextmanager
async def connect(
    port: int, context: ssl.SSLContext, inner: Inner | None = None, *, hostname: str = "localhost"
) -> AsyncIterator[Inner]:
    inner = inner or Inner()
    _, protocol = await asyncio.get_running_loop().create_connection(
        lambda: TLSProtocol(inner, context, server_side=False, server_hostname=hostname), "127.0.0.1", port
    )
    try:
        await asyncio.wait_for(protocol.handshake, 10)
        yield inner
    finally:
        protocol.abort()
        await asyncio.sleep(0.01)


def pattern(size: int) -> bytes:
    """Return bytes in which no two places look alike."""
    return b"".join(number.to_bytes(4, "big") for number in range(size // 4 + 1))[:size]


# -- bytes


@pytest.mark.parametrize("size", [1, 9, 1023, 1024, 16383, 16384, 16385, 65537, 262144, 1000003, 8 << 20])
async def test_bytes_of_any_number_come_back(
    size: int, version: ssl.TLSVersion, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    client_tls.minimum_version = client_tls.maximum_version = version
    async with serve(Echo, server_tls) as serving, connect(serving.port, client_tls) as client:
        assert client.tls.get_extra_info("ssl_object").version() == version.name.replace("_", ".")
        client.tls.write(pattern(size))
        assert await client.until(size) == pattern(size)


@pytest.mark.parametrize("buffer_bytes", [1, 9, 1000, 16384, 1 << 20])
async def test_buffers_of_any_size_are_filled(
    buffer_bytes: int, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    size = min(buffer_bytes * 20_000, 3_000_000)
    inner = Inner(buffer_bytes=buffer_bytes)
    async with serve(Echo, server_tls) as serving, connect(serving.port, client_tls, inner) as client:
        client.tls.write(pattern(size))
        assert await client.until(size) == pattern(size)
