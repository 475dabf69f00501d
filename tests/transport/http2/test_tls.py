"""TLS over memory BIOs: against itself and against asyncio's own on real sockets, and byte by byte without any."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import hmac
import importlib.util
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from openfl_aio.testing.ca import ThrowawayCA
from openfl_aio.transport.credentials import Credentials
from openfl_aio.transport.http2.tls import TLSProtocol, TLSTransport

pytestmark = pytest.mark.real_time

UVLOOP = [pytest.param(True, id="uvloop")] if importlib.util.find_spec("uvloop") else []


@pytest.fixture(params=[pytest.param(False, id="asyncio"), *UVLOOP])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"debug": True, "use_uvloop": request.param}


@pytest.fixture(autouse=True)
async def nothing_is_reported(anyio_backend: Any, caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """Whatever a peer does: no error that only the loop's last resort sees, no line above DEBUG of ours or asyncio's."""
    seen: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: seen.append(context))
    yield
    gc.collect(1)  # futures complain about exceptions nobody asked for when they are collected
    assert seen == []
    loud = [record for record in caplog.records if record.levelno > logging.INFO]
    assert [record for record in loud if "Executing" not in record.getMessage()] == []  # a busy machine, in debug mode


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda version: version.name)
def version(request: pytest.FixtureRequest, client_tls: ssl.SSLContext) -> ssl.TLSVersion:
    """Make clients speak one version."""
    client_tls.minimum_version = client_tls.maximum_version = request.param
    return cast("ssl.TLSVersion", request.param)


@pytest.fixture
async def server_tls(ca: ThrowawayCA) -> ssl.SSLContext:
    return (await Credentials.load_server(ca.server())).context


@pytest.fixture
async def client_tls(ca: ThrowawayCA) -> ssl.SSLContext:
    return (await Credentials.load_client(ca.client("hospital_one"))).context


def pattern(size: int) -> bytes:
    """Return bytes in which no two places look alike."""
    return b"".join(number.to_bytes(4, "big") for number in range(size // 4 + 1))[:size]


class Inner(asyncio.BufferedProtocol):
    """Collects plaintext and remembers what it was told."""

    def __init__(self, *, buffer_bytes: int = 1 << 18) -> None:
        self.buffer = bytearray(buffer_bytes)
        self.received = bytearray()
        self.deliveries = 0
        self.calls: list[str] = []
        self.transport: TLSTransport | None = None
        self.error: Exception | None = None
        self.lost = asyncio.Event()
        self._changed = asyncio.Event()

    @property
    def tls(self) -> TLSTransport:
        assert self.transport is not None
        return self.transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, TLSTransport)
        self.transport = transport
        self._note("connection_made")

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        assert 0 < nbytes <= len(self.buffer)
        self.received += memoryview(self.buffer)[:nbytes]
        self.deliveries += 1
        self._changed.set()

    def eof_received(self) -> None:
        self._note("eof_received")

    def pause_writing(self) -> None:
        self._note("pause_writing")

    def resume_writing(self) -> None:
        self._note("resume_writing")

    def connection_lost(self, exc: Exception | None) -> None:
        self.error = exc
        self._note("connection_lost")
        self.lost.set()

    def _note(self, call: str) -> None:
        self.calls.append(call)
        self._changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something that this protocol is told makes ``condition`` true."""
        async with asyncio.timeout(20):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def receive(self, size: int) -> bytes:
        """Return what was received once it is ``size`` bytes."""
        await self.until(lambda: len(self.received) >= size)
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
        self.protocols.append(TLSProtocol(self.inners[-1], self.context, server_side=True, on_failed=self.on_failed))
        return self.protocols[-1]

    def on_failed(self, exc: Exception) -> None:
        self.failures.append(exc)
        self.failed.set()

    async def failure(self) -> Exception:
        """Return the first failure of a handshake."""
        async with asyncio.timeout(20):
            await self.failed.wait()
        return self.failures[0]


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
        await asyncio.sleep(0.01)  # connection_lost is called in a later round of the loop


@contextlib.asynccontextmanager
async def connect(port: int, context: ssl.SSLContext, inner: Inner | None = None) -> AsyncIterator[Inner]:
    inner = inner or Inner()
    _, protocol = await asyncio.get_running_loop().create_connection(
        lambda: TLSProtocol(inner, context, server_side=False, server_hostname="localhost"), "127.0.0.1", port
    )
    try:
        await asyncio.wait_for(protocol.handshake, 20)
        yield inner
    finally:
        protocol.abort()
        await asyncio.sleep(0.01)


# -- bytes


@pytest.mark.parametrize("size", [1, 9, 1023, 1024, 16383, 16384, 16385, 65537, 262144, 1000003, 8 << 20])
async def test_bytes_of_any_number_come_back(
    size: int, version: ssl.TLSVersion, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with serve(Echo, server_tls) as serving, connect(serving.port, client_tls) as client:
        assert client.tls.get_extra_info("ssl_object").version() == version.name.replace("_", ".")
        client.tls.write(pattern(size))
        assert await client.receive(size) == pattern(size)


@pytest.mark.parametrize("buffer_bytes", [1, 9, 1000, 16384, 1 << 20])
async def test_buffers_of_any_size_are_filled(
    buffer_bytes: int, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    size = min(buffer_bytes * 2_000, 3_000_000)
    async with (
        serve(Echo, server_tls) as serving,
        connect(serving.port, client_tls, Inner(buffer_bytes=buffer_bytes)) as client,
    ):
        client.tls.write(pattern(size))
        assert await client.receive(size) == pattern(size)


async def test_small_and_large_writes_keep_their_order(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    sizes = [9, 300_000, 0, 1, 1024, 1023, 16384, 9, 9, 20_000, 5] * 20
    sent = pattern(sum(sizes))
    pieces = [sent[sum(sizes[:index]) : sum(sizes[: index + 1])] for index in range(len(sizes))]
    async with serve(Echo, server_tls) as serving, connect(serving.port, client_tls) as client:
        for index in range(0, len(pieces), 22):
            client.tls.writelines(pieces[index : index + 11])
            for piece in pieces[index + 11 : index + 22]:
                client.tls.write(piece)
        assert await client.receive(len(sent)) == sent


# -- who is there


async def test_both_sides_know_each_other(
    version: ssl.TLSVersion, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with serve(Inner, server_tls) as serving, connect(serving.port, client_tls) as client:
        server = serving.inners[0]
        await server.until(lambda: server.transport)
        for inner, name in ((server, "hospital_one"), (client, "localhost")):
            assert dict(pair[0] for pair in inner.tls.get_extra_info("peercert")["subject"])["commonName"] == name
            assert inner.tls.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
            assert inner.tls.get_extra_info("cipher")[2] >= 128
            assert inner.tls.get_protocol() is inner
            assert not inner.tls.can_write_eof()
        assert client.tls.get_extra_info("peername") == ("127.0.0.1", serving.port)
        assert server.tls.get_extra_info("sockname") == ("127.0.0.1", serving.port)
        assert server.tls.get_extra_info("socket").family == socket.AF_INET
        assert server.tls.get_extra_info("nothing of the kind", 7) == 7


@pytest.mark.parametrize("offer", [["http/1.1"], []])
async def test_nothing_but_http2_is_served(
    offer: list[str], version: ssl.TLSVersion, ca: ThrowawayCA, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    client_tls.set_alpn_protocols(offer)
    async with serve(Inner, server_tls) as serving:
        with pytest.raises(ssl.SSLError, match="does not speak HTTP/2"):
            async with connect(serving.port, client_tls):
                raise AssertionError("connected")
        assert "HTTP/2" in str(await serving.failure())
        assert serving.inners[0].calls == []


async def test_client_without_a_certificate_is_refused_and_learns_why(
    version: ssl.TLSVersion, ca: ThrowawayCA, server_tls: ssl.SSLContext
) -> None:
    anonymous = ssl.create_default_context(cafile=str(ca.layout.chain))
    anonymous.set_alpn_protocols(["h2"])
    anonymous.minimum_version = anonymous.maximum_version = version
    inner = Inner()
    error: Exception | None = None
    async with serve(Inner, server_tls) as serving:
        try:  # with TLS 1.3 the client's handshake ends before the server has seen that there is no certificate
            async with connect(serving.port, anonymous, inner):
                await inner.until(inner.lost.is_set)
            error = inner.error
        except OSError as exc:
            error = exc
        assert "PEER_DID_NOT_RETURN_A_CERTIFICATE" in str(await serving.failure())
        assert serving.inners[0].calls == []
    assert "ALERT" in str(error)


async def test_server_of_another_name_is_not_trusted(
    ca: ThrowawayCA, client_tls: ssl.SSLContext, server_tls: ssl.SSLContext
) -> None:
    async with serve(Inner, server_tls) as serving:
        protocol = TLSProtocol(Inner(), client_tls, server_side=False, server_hostname="elsewhere")
        await asyncio.get_running_loop().create_connection(lambda: protocol, "127.0.0.1", serving.port)
        with pytest.raises(ssl.SSLCertVerificationError, match="elsewhere"):
            await protocol.handshake
        await serving.failure()


@pytest.mark.parametrize("hostname", ["", ".", "a\0b"])
async def test_impossible_hostname_fails_the_handshake(
    hostname: str, client_tls: ssl.SSLContext, server_tls: ssl.SSLContext
) -> None:
    async with serve(Inner, server_tls) as serving:
        protocol = TLSProtocol(Inner(), client_tls, server_side=False, server_hostname=hostname)
        await asyncio.get_running_loop().create_connection(lambda: protocol, "127.0.0.1", serving.port)
        with pytest.raises((ValueError, TypeError)):
            await protocol.handshake


# -- peers that are no good


@pytest.mark.parametrize(
    "data",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00" * 40,
        os.urandom(3000),
        b"\x16\x03\x01\xff",
    ],
    ids=["plaintext HTTP/2", "HTTP/1.1", "zeros", "noise", "lengthy record"],
)
async def test_garbage_instead_of_a_handshake_is_refused(data: bytes, server_tls: ssl.SSLContext) -> None:
    async with serve(Inner, server_tls) as serving:
        reader, writer = await asyncio.open_connection("127.0.0.1", serving.port)
        writer.write(data)
        if data.startswith(b"\x16"):
            writer.write_eof()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        assert isinstance(await serving.failure(), OSError)
        assert serving.inners[0].calls == []
        assert not serving.protocols[0].established


@pytest.mark.parametrize("side", ["server", "client"])
async def test_end_in_the_middle_of_a_handshake_fails_it(
    side: str, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    if side == "server":
        async with serve(Inner, server_tls) as serving:
            _, writer = await asyncio.open_connection("127.0.0.1", serving.port)
            writer.write(b"\x16\x03\x01\x02\x00\x01")
            writer.close()
            assert isinstance(await serving.failure(), ConnectionResetError)
    else:
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        with pytest.raises(ConnectionError):
            async with connect(server.sockets[0].getsockname()[1], client_tls):
                raise AssertionError("connected")
        server.close()


async def test_silent_peer_costs_no_openssl_and_can_be_aborted(server_tls: ssl.SSLContext) -> None:
    async with serve(Inner, server_tls) as serving:
        reader, writer = await asyncio.open_connection("127.0.0.1", serving.port)
        async with asyncio.timeout(5):
            while not serving.protocols:
                await asyncio.sleep(0.001)
        assert not [found for found in gc.get_objects() if isinstance(found, ssl.SSLObject)]
        serving.protocols[0].abort()
        await serving.failure()
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()


async def test_server_need_not_look_at_a_failed_handshake(server_tls: ssl.SSLContext) -> None:
    async with serve(Inner, server_tls) as serving:
        _, writer = await asyncio.open_connection("127.0.0.1", serving.port)
        writer.write(b"nonsense" * 4)
        await serving.failure()
        assert serving.protocols[0].handshake.done()
        writer.close()
        serving.protocols.clear()  # the fixture sees what asyncio says of the future


# -- pausing


async def test_paused_protocol_gets_nothing_until_it_resumes(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    class Sipping(Inner):
        """Pauses after each buffer."""

        def buffer_updated(self, nbytes: int) -> None:
            assert self.tls.is_reading()
            super().buffer_updated(nbytes)
            self.tls.pause_reading()
            assert not self.tls.is_reading()
            asyncio.get_running_loop().call_later(0.0005, self.tls.resume_reading)

    sent = pattern(3_000_000)
    async with (
        serve(lambda: Sipping(buffer_bytes=10_000), server_tls) as serving,
        connect(serving.port, client_tls) as client,
    ):
        client.tls.write(sent)
        await serving.inners[0].until(lambda: serving.inners[0].deliveries)
        assert await serving.inners[0].receive(len(sent)) == sent
        assert serving.inners[0].deliveries >= 300


async def test_paused_protocol_stops_its_peer(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    class Deaf(Inner):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.tls.pause_reading()

    size = 32 << 20
    async with serve(Deaf, server_tls) as serving, connect(serving.port, client_tls) as client:
        client.tls.set_write_buffer_limits(high=100_000)
        assert client.tls.get_write_buffer_limits()[1] == 100_000
        client.tls.write(bytes(size))
        assert client.calls[-1] == "pause_writing"
        await asyncio.sleep(0.05)
        assert client.tls.get_write_buffer_size() > 1 << 20
        assert not serving.inners[0].received
        serving.inners[0].tls.resume_reading()
        await client.until(lambda: client.calls[-1] == "resume_writing")
        assert await serving.inners[0].receive(size) == bytes(size)


async def test_other_connections_have_their_turn_between_short_records(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    pair = Pair(server_tls, client_tls)
    for value in range(2000):
        pair.client_inner.tls.write(bytes([value % 251]))
    arrive(pair.server, pair.client_wire.take())
    assert 0 < len(pair.server_inner.received) <= 256
    assert not pair.server_wire.reading
    assert await pair.server_inner.receive(2000) == bytes(value % 251 for value in range(2000))
    await asyncio.sleep(0)
    assert pair.server_wire.reading


# -- the end


@pytest.mark.parametrize("size", [0, 1, 100_000, 8 << 20])
async def test_everything_written_arrives_before_the_end(
    size: int, version: ssl.TLSVersion, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    class Parting(Inner):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.tls.write(pattern(size))
            self.tls.close()
            self.tls.write(b"too late")
            self.tls.close()
            assert self.tls.is_closing()

    async with serve(Parting, server_tls) as serving, connect(serving.port, client_tls) as client:
        await client.until(client.lost.is_set)
        assert client.received == pattern(size)
        assert client.calls == ["connection_made", "eof_received", "connection_lost"]
        assert client.error is None
        await serving.inners[0].until(serving.inners[0].lost.is_set)
        assert serving.inners[0].error is None


async def test_closing_while_data_is_delivered_ends_the_delivery(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    class Brief(Inner):
        def buffer_updated(self, nbytes: int) -> None:
            super().buffer_updated(nbytes)
            self.tls.close()

    async with (
        serve(lambda: Brief(buffer_bytes=100), server_tls) as serving,
        connect(serving.port, client_tls) as client,
    ):
        client.tls.write(bytes(200_000))
        await client.until(client.lost.is_set)
        assert len(serving.inners[0].received) == 100


async def test_end_without_goodbye_is_an_end(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    async with serve(Inner, server_tls) as serving, connect(serving.port, client_tls) as client:
        client.tls.write(b"unfinished")
        server = serving.inners[0]
        assert await server.receive(10) == b"unfinished"
        client.tls.get_extra_info("socket")  # its owner dies: the kernel says FIN, TLS says nothing
        client.tls.abort()
        await server.until(server.lost.is_set)
        assert server.calls == ["connection_made", "eof_received", "connection_lost"]
        await client.until(client.lost.is_set)
        with pytest.raises(ConnectionResetError):
            client.tls.get_protocol()
        client.tls.write(b"nobody is there")
        client.tls.pause_reading()
        client.tls.resume_reading()
        client.tls.close()
        assert client.tls.get_extra_info("cipher") is not None


async def test_broken_record_ends_the_connection(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    pair = Pair(server_tls, client_tls)
    pair.client_inner.tls.write(b"good")
    pair.client_inner.tls.write(b"forged")
    sent = bytearray(pair.client_wire.take())
    sent[-1] ^= 1
    arrive(pair.server, bytes(sent))
    assert pair.server_inner.received == b"good"
    assert pair.server_wire.closing
    pair.server.connection_lost(None)
    assert isinstance(pair.server_inner.error, ssl.SSLError)
    arrive(pair.client, pair.server_wire.take())  # the alert
    pair.client.connection_lost(None)
    assert "BAD_RECORD_MAC" in str(pair.client_inner.error)


async def test_lost_connection_is_freed_without_a_collection(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    gc.collect()
    gc.disable()
    try:
        pair = Pair(server_tls, client_tls)
        for protocol, inner in ((pair.client, pair.client_inner), (pair.server, pair.server_inner)):
            protocol.connection_lost(None)
            inner.transport = None
        del pair, protocol, inner
        assert not [found for found in gc.get_objects() if isinstance(found, ssl.SSLObject)]
    finally:
        gc.enable()


# -- asyncio's own TLS at the other end


async def test_client_speaks_with_asyncios_server(
    version: ssl.TLSVersion, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server_tls)
    async with connect(server.sockets[0].getsockname()[1], client_tls) as client:
        client.tls.write(pattern(2_000_000))
        assert await client.receive(2_000_000) == pattern(2_000_000)
        client.tls.close()
        await client.until(client.lost.is_set)
        assert client.error is None
    server.close()


async def test_server_speaks_with_asyncios_client(
    version: ssl.TLSVersion, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with serve(Echo, server_tls) as serving:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", serving.port, ssl=client_tls, server_hostname="localhost"
        )
        writer.write(pattern(2_000_000))
        assert await reader.readexactly(2_000_000) == pattern(2_000_000)
        writer.close()
        await writer.wait_closed()
        await serving.inners[0].until(serving.inners[0].lost.is_set)
        assert serving.inners[0].calls[-2:] == ["eof_received", "connection_lost"]


# -- byte by byte, without sockets


class Wire(asyncio.Transport):
    """A raw transport without a socket, for tests that decide which bytes arrive together."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.closing = False
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def take(self) -> bytes:
        sent, self.sent = bytes(self.sent), bytearray()
        return sent


def arrive(protocol: TLSProtocol, data: bytes, piece: int = 1 << 19) -> None:
    """Let ``data`` arrive at ``protocol`` in pieces."""
    for position in range(0, len(data), piece):
        part = data[position : position + piece]
        protocol.get_buffer(-1)[: len(part)] = part
        protocol.buffer_updated(len(part))


class Pair:
    """An established client and server with nothing but their bytes between them."""

    def __init__(
        self,
        server_tls: ssl.SSLContext,
        client_tls: ssl.SSLContext,
        *,
        piece: int = 1 << 19,
        make_inner: Callable[[], Inner] = Inner,
    ) -> None:
        self.piece = piece
        self.server_inner, self.client_inner = make_inner(), make_inner()
        self.server = TLSProtocol(self.server_inner, server_tls, server_side=True)
        self.client = TLSProtocol(self.client_inner, client_tls, server_side=False, server_hostname="localhost")
        self.server_wire, self.client_wire = Wire(), Wire()
        self.server.connection_made(self.server_wire)
        self.client.connection_made(self.client_wire)
        self.exchange()
        assert self.client.established
        assert self.server.established

    def exchange(self) -> None:
        """Let everything arrive, in both directions, until both are silent."""
        while self.client_wire.sent or self.server_wire.sent:
            arrive(self.server, self.client_wire.take(), self.piece)
            arrive(self.client, self.server_wire.take(), self.piece)


@pytest.mark.parametrize("piece", [*range(1, 12), 21, 22, 23, 100, 1000])
async def test_conversation_may_be_cut_anywhere(
    piece: int, version: ssl.TLSVersion, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    pair = Pair(server_tls, client_tls, piece=piece)
    sent = pattern(20_000)
    for position in range(0, 294, 7):
        pair.client_inner.tls.write(sent[position : position + 7])
    pair.client_inner.tls.write(sent[294:])
    pair.server_inner.tls.write(sent)
    pair.exchange()
    assert pair.server_inner.received == sent
    assert pair.client_inner.received == sent
    pair.client_inner.tls.close()
    arrive(pair.server, pair.client_wire.take(), piece)
    assert pair.server_inner.calls == ["connection_made", "eof_received"]
    assert pair.server_wire.closing


async def test_data_may_come_with_the_end_of_the_handshake(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    class Eager(Inner):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.tls.write(pattern(50_000))

    pair = Pair(server_tls, client_tls, make_inner=Eager)
    assert pair.server_inner.received == pattern(50_000)
    assert pair.client_inner.received == pattern(50_000)


@pytest.mark.parametrize("when", ["before", "during"])
async def test_full_raw_transport_pauses_the_inner_protocol_once(
    when: str, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    class Verbose(Inner):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            if when == "during":
                client.pause_writing()

    inner = Verbose()
    server = TLSProtocol(Inner(), server_tls, server_side=True)
    client = TLSProtocol(inner, client_tls, server_side=False, server_hostname="localhost")
    wires = Wire(), Wire()
    server.connection_made(wires[0])
    client.connection_made(wires[1])
    if when == "before":
        client.pause_writing()
    assert inner.calls == []
    for _ in range(2):
        arrive(server, wires[1].take())
        arrive(client, wires[0].take())
    assert inner.calls == ["connection_made", "pause_writing"]
    client.resume_writing()
    assert inner.calls[-1] == "resume_writing"


async def test_what_a_loop_had_read_before_the_pause_waits_in_order(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    pair = Pair(server_tls, client_tls)
    pair.server_inner.tls.pause_reading()
    for position in range(0, 60_000, 20_000):
        pair.client_inner.tls.write(pattern(60_000)[position : position + 20_000])
        arrive(pair.server, pair.client_wire.take())
    assert not pair.server_wire.reading
    assert not pair.server_inner.received
    pair.server_inner.tls.resume_reading()
    assert await pair.server_inner.receive(60_000) == pattern(60_000)
    assert pair.server_wire.reading


async def test_connections_of_a_thread_share_their_buffer_without_mixing_their_bytes(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    one, two = Pair(server_tls, client_tls), Pair(server_tls, client_tls)
    assert one.server.get_buffer(-1).obj is two.client.get_buffer(-1).obj
    one.server_inner.tls.pause_reading()
    for pair, byte in ((one, b"1"), (two, b"2")):
        pair.client_inner.tls.write(byte * 30_000)
        arrive(pair.server, pair.client_wire.take())
    one.server_inner.tls.resume_reading()
    assert await one.server_inner.receive(30_000) == b"1" * 30_000
    assert two.server_inner.received == b"2" * 30_000


async def test_header_of_a_frame_is_no_record_of_its_own(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    pair = Pair(server_tls, client_tls)
    pair.client_inner.tls.writelines([b"n" * 9, bytes(16384 - 9), b"n" * 9, b"n" * 5, b"x" * 2000])
    sent = pair.client_wire.take()
    lengths = []
    while sent:
        lengths.append(int.from_bytes(sent[3:5], "big") - 17)  # a byte of type and 16 of authentication
        sent = sent[lengths[-1] + 22 :]
    assert lengths == [16384, 2014]


# -- hostile records


class Forger:
    """Encrypts TLS 1.3 records of a client of its own making, from the secret in a key log."""

    def __init__(self, secret: bytes) -> None:
        self._use(secret)

    def _use(self, secret: bytes) -> None:
        self._secret = secret
        self._cipher = AESGCM(self._expand(b"key", 32))
        self._nonce = int.from_bytes(self._expand(b"iv", 12), "big")
        self._number = 0

    def _expand(self, label: bytes, size: int) -> bytes:
        info = size.to_bytes(2, "big") + bytes([6 + len(label)]) + b"tls13 " + label + b"\0"
        return hmac.new(self._secret, info + b"\1", hashlib.sha384).digest()[:size]

    def record(self, kind: int, data: bytes) -> bytes:
        header = b"\x17\x03\x03" + (len(data) + 17).to_bytes(2, "big")
        nonce = (self._nonce ^ self._number).to_bytes(12, "big")
        self._number += 1
        return header + self._cipher.encrypt(nonce, data + bytes([kind]), header)

    def key_update(self) -> bytes:
        record = self.record(22, b"\x18\0\0\1\1")  # and the peer shall do the same
        self._use(self._expand(b"traffic upd", 48))
        return record


@pytest.fixture
async def forge(tmp_path: Path, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> tuple[Pair, Forger]:
    client_tls.keylog_filename = str(tmp_path / "keys")
    pair = Pair(server_tls, client_tls)
    assert pair.server_inner.tls.get_extra_info("cipher")[0] == "TLS_AES_256_GCM_SHA384"
    lines = (tmp_path / "keys").read_text().splitlines()
    return pair, Forger(bytes.fromhex(next(line.split()[2] for line in lines if line.startswith("CLIENT_TRAFFIC"))))


async def test_some_key_updates_are_followed(forge: tuple[Pair, Forger]) -> None:
    pair, forger = forge
    for _ in range(20):
        arrive(pair.server, forger.key_update() + forger.record(23, b"data"))
    assert pair.server_inner.received == b"data" * 20
    pair.server_inner.tls.write(b"answer")
    arrive(pair.client, pair.server_wire.take())
    assert pair.client_inner.received == b"answer"


async def test_flood_of_key_updates_ends_the_connection(forge: tuple[Pair, Forger]) -> None:
    pair, forger = forge
    flood = b"".join(forger.key_update() + forger.record(23, b"x") for _ in range(1000))
    arrive(pair.server, flood)
    assert pair.server_wire.closing
    assert len(pair.server_inner.received) < 256
    pair.server.connection_lost(None)
    assert "without data" in str(pair.server_inner.error)


async def test_handshake_of_many_tiny_records_is_refused(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    failures: list[Exception] = []
    server = TLSProtocol(Inner(), server_tls, server_side=True, on_failed=failures.append)
    client = TLSProtocol(Inner(), client_tls, server_side=False, server_hostname="localhost")
    server_wire, client_wire = Wire(), Wire()
    server.connection_made(server_wire)
    client.connection_made(client_wire)
    hello = client_wire.take()[5:]
    assert len(hello) > 256
    arrive(server, b"".join(b"\x16\x03\x01\x00\x01" + bytes([byte]) for byte in hello))
    assert server_wire.closing
    assert "too many records" in str(failures[0])
    server.connection_lost(None)
    assert len(failures) == 1


# -- memory


async def test_connections_stay_small(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    def anonymous_kib() -> int:
        gc.collect()
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("RssAnon")))

    scratch = bytearray(1 << 18)

    class Frugal(Echo):
        def __init__(self) -> None:
            super().__init__(buffer_bytes=0)
            self.buffer = scratch

    class Counting(Inner):
        def __init__(self) -> None:
            super().__init__(buffer_bytes=0)
            self.buffer = scratch
            self.count = 0

        def buffer_updated(self, nbytes: int) -> None:
            self.count += nbytes
            self._note("buffer_updated")

    count, moved = 100, 300_000
    async with serve(Frugal, server_tls) as serving, contextlib.AsyncExitStack() as stack:
        for _ in range(5):
            await stack.enter_async_context(connect(serving.port, client_tls, Counting()))
        before = anonymous_kib()
        clients = [
            cast("Counting", await stack.enter_async_context(connect(serving.port, client_tls, Counting())))
            for _ in range(count)
        ]
        idle = (anonymous_kib() - before) / count / 2  # both ends are here
        for client in clients:
            client.tls.write(bytes(moved))
            await client.until(lambda client=client: client.count == moved)  # type: ignore[misc]
        used = (anonymous_kib() - before) / count / 2
    # 30 and 75 measured with 500 connections; asyncio's own take 290 and 815
    assert idle < 60
    assert used < 150
