"""A plain TCP or TLS connection as a program of the benchmarks: no HTTP/2, no messages, nothing is looked at.

Settings: ``role`` ("server" or "client"), ``tls`` (paths, or null), and for a client ``port``. A server receives into
one buffer and answers one byte for every ``PIECE`` bytes at the end of a transfer, whose length comes first.
"""

# ruff: noqa: D102 - the callbacks are those of asyncio

from __future__ import annotations

import asyncio
import ssl
import struct
import time
from typing import Any

from lines import answer, prepare

LENGTH = struct.Struct("!Q")
BUFFER = 2**20
PIECE = 2 * 2**20


def context_of(tls: dict[str, str] | None, purpose: ssl.Purpose) -> ssl.SSLContext | None:
    if tls is None:
        return None
    context = ssl.create_default_context(purpose, cafile=tls["ca"])
    context.load_cert_chain(tls["certificate"], tls["private_key"])
    if purpose is ssl.Purpose.CLIENT_AUTH:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class Receiver(asyncio.BufferedProtocol):
    """Receives transfers and says when each is complete."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(BUFFER))
        self._left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._left == 0:
            (self._left,) = LENGTH.unpack_from(self._buffer)
            nbytes -= LENGTH.size
        self._left -= nbytes
        if self._left == 0:
            self._transport.write(b"\0")


class Sender(asyncio.Protocol):
    """Sends transfers; waits while the socket takes no more."""

    def __init__(self) -> None:
        self._may_write = asyncio.Event()
        self._may_write.set()
        self.answers: asyncio.Queue[bytes] = asyncio.Queue()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def data_received(self, data: bytes) -> None:
        self.answers.put_nowait(data)

    async def send(self, nbytes: int) -> dict[str, Any]:
        """Send so many bytes in pieces of `PIECE`; return the seconds until the other side has them all."""
        piece = memoryview(bytearray(PIECE))
        start = time.perf_counter()
        self._transport.write(LENGTH.pack(nbytes))
        for position in range(0, nbytes, PIECE):
            await self._may_write.wait()
            self._transport.write(piece[: nbytes - position])
        await self.answers.get()
        return {"seconds": time.perf_counter() - start}


async def main() -> None:
    settings = prepare()
    loop = asyncio.get_running_loop()
    if settings["role"] == "server":
        context = context_of(settings["tls"], ssl.Purpose.CLIENT_AUTH)
        server = await loop.create_server(Receiver, "127.0.0.1", 0, ssl=context)
        await answer({"port": server.sockets[0].getsockname()[1]}, {})
        server.close()
    else:
        context = context_of(settings["tls"], ssl.Purpose.SERVER_AUTH)
        transport, sender = await loop.create_connection(Sender, "localhost", settings["port"], ssl=context)
        await answer({}, {"upload": sender.send})
        transport.abort()


if __name__ == "__main__":
    asyncio.run(main())
