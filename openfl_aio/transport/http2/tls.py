"""TLS between a TCP transport and any `asyncio.BufferedProtocol`, in a small part of the memory of asyncio's own.

asyncio keeps a receive buffer of 256 KiB for every TLS connection. Here all connections of a thread share one: the
loop asks for a buffer, fills it and reports it without anything in between, so it is free again afterwards. Plaintext
is decrypted straight into the buffer that the inner protocol hands out.

OpenSSL's memory BIOs grow and never shrink, so a large transfer passes them in pieces: a connection that has moved a
gigabyte is about as small afterwards as one that was always idle.

What the caller's context decides: versions, certificates, the offer of ALPN (`h2`) and `ssl.OP_NO_RENEGOTIATION`,
which must be set, because TLS 1.2 could let a peer ask for handshakes without end. How long a handshake may take is
the caller's business too: see `TLSProtocol.established` and `TLSProtocol.abort`.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final, cast

__all__ = ["TLSProtocol", "TLSTransport"]

logger = logging.getLogger(__name__)

SHARED_BYTES: Final = 512 << 10  # of ciphertext, received at once
INCOMING_BYTES: Final = 64 << 10  # of ciphertext that OpenSSL is given at once
OUTGOING_BYTES: Final = 256 << 10  # of ciphertext that OpenSSL may keep before it goes to the raw transport
RECORD_BYTES: Final = 16 << 10  # of plaintext in the largest record
SMALL_BYTES: Final = 1 << 10  # shorter pieces are copied together rather than sent as records of their own
RECORDS_PER_TURN: Final = 256  # then other connections have their turn: records of one byte cost as much as full ones

Bytes = bytes | bytearray | memoryview

_thread = threading.local()


def _shared_buffer() -> memoryview:
    """Return the buffer for ciphertext that all connections of this thread share."""
    buffer: memoryview | None = getattr(_thread, "buffer", None)
    if buffer is None:
        buffer = _thread.buffer = memoryview(bytearray(SHARED_BYTES))
    return buffer


class TLSProtocol(asyncio.BufferedProtocol):
    """Sits between a plain TCP transport and ``inner``.

    ``inner.connection_made`` is called with a `TLSTransport` once the handshake is complete and ALPN chose `h2`;
    ``inner.connection_lost`` only if that was called, with the TLS error if there was one. A connection that ends
    before that, for whatever reason, calls ``on_failed`` once instead. Nothing is ever raised into the loop or logged
    above DEBUG for what a peer sends. Needs a running loop.
    """

    __slots__ = (
        "__weakref__", "_backlog", "_context", "_inner", "_on_failed", "_raw", "_raw_full", "_server_hostname",
        "_server_side", "_shared", "_transport", "_turn_due", "established", "handshake",
    )  # fmt: skip

    def __init__(
        self,
        inner: asyncio.BufferedProtocol,
        context: ssl.SSLContext,
        *,
        server_hostname: str | None = None,
        server_side: bool,
        on_failed: Callable[[Exception], None] | None = None,
    ) -> None:
        self.handshake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the connection is established, or with the `ssl.SSLError` or `ConnectionError` that prevented it.
        It may be left alone: an error that nobody asks for is not reported by asyncio."""
        self.established = False
        """True from the end of the handshake, and ever after."""
        self._inner = inner
        self._context = context
        self._server_hostname = server_hostname
        self._server_side = server_side
        self._on_failed = on_failed
        self._raw: asyncio.Transport | None = None
        self._raw_full = False  # the raw transport said pause_writing
        self._shared = _shared_buffer()
        self._transport: TLSTransport | None = None
        self._backlog: memoryview = memoryview(b"")  # ciphertext that waits for a turn or for resume_reading
        self._turn_due = False

    def __repr__(self) -> str:
        state = "established" if self.established else "in its handshake"
        return f"<TLSProtocol {state} for {self._inner!r}>"

    def abort(self) -> None:
        """Close the connection at once, in whatever state it is. Harmless before and after there is one."""
        if self._raw is not None:
            self._raw.abort()

    # -- what the raw transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the raw transport; a client says hello."""
        self._raw = cast("asyncio.Transport", transport)
        if not self._server_side:
            self._shake_hands(self._wrap(self._raw))

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer that all connections share; it is used up in the next call of `buffer_updated`."""
        return self._shared

    def buffer_updated(self, nbytes: int) -> None:
        """Take ``nbytes`` of ciphertext from the shared buffer."""
        if self._raw is None or self._raw.is_closing():
            return
        data = self._shared[:nbytes]
        if self._backlog or self._turn_due:
            # a loop that had read before it was told to pause
            self._backlog = memoryview(bytes(self._backlog) + bytes(data))
            return
        transport = self._transport
        if transport is None:  # a server spends OpenSSL's memory only on a peer that has sent something
            transport = self._wrap(self._raw)
        if not self.established:
            transport.incoming.write(data)
            if not self._shake_hands(transport):
                return
            data = data[:0]
        self._deliver(transport, data)

    def eof_received(self) -> None:
        """The peer has closed its side without goodbye: pass it on; the raw transport closes itself."""
        if self.established and self._transport is not None:
            self._peer_closed(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits, and let go of everything."""
        self._raw = None
        transport, self._transport = self._transport, None
        self._backlog = memoryview(b"")
        if not self.established:
            self._handshake_failed(exc or ConnectionResetError("the connection was closed during the TLS handshake"))
        elif transport is not None:
            transport.lost()
            self._inner.connection_lost(transport.error or exc)

    def pause_writing(self) -> None:
        """Pass it on, if there is anybody to pause."""
        self._raw_full = True
        if self.established:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._raw_full = False
        if self.established:
            self._inner.resume_writing()

    # -- the handshake

    def _wrap(self, raw: asyncio.Transport) -> TLSTransport:
        self._transport = transport = TLSTransport(
            self, raw, self._context, server_side=self._server_side, server_hostname=self._server_hostname
        )
        return transport

    def _shake_hands(self, transport: TLSTransport) -> bool:
        """Take the handshake as far as what was received allows. Returns True when it is complete."""
        try:
            transport.tls.do_handshake()
        except ssl.SSLWantReadError:
            transport.flush()
            return False
        except ssl.SSLError as exc:
            transport.flush()  # the alert that tells the peer why
            self._handshake_failed(exc)
            transport.abort()
            return False
        chosen = transport.tls.selected_alpn_protocol()
        if chosen != "h2":
            transport.flush()
            self._handshake_failed(ssl.SSLError(f"the peer does not speak HTTP/2 (ALPN chose {chosen or 'nothing'})"))
            transport.abort()
            return False
        self.established = True
        self._inner.connection_made(transport)
        transport.flush()  # the end of the handshake, together with what the inner protocol has just said
        if self._raw_full:
            self._inner.pause_writing()
        if not self.handshake.done():
            self.handshake.set_result(None)
        return True

    def _handshake_failed(self, exc: Exception) -> None:
        if not self.handshake.done():
            self.handshake.set_exception(exc)
            self.handshake.exception()  # it counts as retrieved: a server has nobody who awaits it
        on_failed, self._on_failed = self._on_failed, None
        if on_failed is not None:
            on_failed(exc)

    # -- reading

    def _deliver(self, transport: TLSTransport, data: memoryview) -> None:
        """Decrypt what OpenSSL has and then ``data`` into the inner protocol's buffers, until it is all delivered, the
        inner protocol wants no more, or the turn is over.
        """
        read = cast("Callable[[int, memoryview], int]", transport.tls.read)
        incoming, inner = transport.incoming, self._inner
        position, size = 0, len(data)
        records = 0
        while transport.is_reading():
            if records >= RECORDS_PER_TURN:
                self._yield_turn()
                break
            target = memoryview(inner.get_buffer(-1))
            filled, room = 0, len(target)
            more = True
            while filled < room and records < RECORDS_PER_TURN:
                if not incoming.pending and not transport.tls.pending():
                    if position >= size:
                        more = False
                        break
                    incoming.write(data[position : position + INCOMING_BYTES])
                    position += INCOMING_BYTES
                try:
                    count = read(room - filled, target[filled:])
                except ssl.SSLWantReadError:
                    continue  # what OpenSSL has is the beginning of a record
                except ssl.SSLError as exc:
                    transport.fail(exc)
                    return
                if not count:
                    if filled:
                        inner.buffer_updated(filled)
                    self._peer_closed(transport)
                    return
                records += 1
                filled += count
            if filled:
                inner.buffer_updated(filled)
            if not more:
                return
        if position < size and not transport.is_closing():
            rest = data[position:]
            # the shared buffer is another connection's next, what was kept before is our own
            self._backlog = memoryview(bytes(rest)) if data.obj is self._shared.obj else rest

    def _yield_turn(self) -> None:
        """Go on when the loop has looked after other connections."""
        if self._raw is not None and not self._turn_due:
            self._turn_due = True
            self._raw.pause_reading()
            asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._turn_due = False
        transport = self._transport
        if transport is None or not transport.is_reading():
            return
        data, self._backlog = self._backlog, memoryview(b"")
        self._deliver(transport, data)
        if self._raw is not None and transport.is_reading() and not self._turn_due:
            self._raw.resume_reading()

    def pause_reading(self) -> None:
        """Deliver nothing until `resume_reading`. For `TLSTransport`."""
        if self._raw is not None:
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        """Go on with what is kept here, then with the socket, in the loop's next round. For `TLSTransport`."""
        if self._raw is not None and not self._turn_due:
            self._turn_due = True
            asyncio.get_running_loop().call_soon(self._next_turn)

    def _peer_closed(self, transport: TLSTransport) -> None:
        if not transport.is_closing():
            self._inner.eof_received()
            transport.close()

    @property
    def inner(self) -> asyncio.BufferedProtocol:
        """The protocol that plaintext is for."""
        return self._inner


class TLSTransport(asyncio.Transport):
    """What the inner protocol writes to. Bytes are encrypted, and so copied, before a write returns.

    `get_extra_info` knows `ssl_object`, `sslcontext`, `peercert` and `cipher`, also after the connection was lost, and
    asks the raw transport for the rest.
    """

    __slots__ = ("__weakref__", "_closing", "_outgoing", "_protocol", "_raw", "error", "incoming", "paused", "tls")

    def __init__(
        self,
        protocol: TLSProtocol,
        raw: asyncio.Transport,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_hostname: str | None,
    ) -> None:
        super().__init__()
        self.incoming = ssl.MemoryBIO()
        """Ciphertext from the peer, for OpenSSL."""
        self._outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self.incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname
        )
        """OpenSSL's side of the connection."""
        self.paused = False
        """True while the inner protocol wants nothing."""
        self.error: Exception | None = None
        """The TLS error that ended the connection."""
        self._protocol: TLSProtocol | None = protocol
        self._raw = raw
        self._closing = False

    def __repr__(self) -> str:
        return f"<TLSTransport {self.tls.version()} over {self._raw!r}>"

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what is known about the connection under ``name``."""
        if name == "ssl_object":
            return self.tls
        if name == "peercert":
            return self.tls.getpeercert()
        if name == "cipher":
            return self.tls.cipher()
        if name == "sslcontext":
            return self.tls.context
        return self._raw.get_extra_info(name, default)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the inner protocol. Raises `ConnectionResetError` after the connection was lost."""
        if self._protocol is None:
            raise ConnectionResetError("the connection was lost")
        return self._protocol.inner

    # -- reading

    def is_reading(self) -> bool:
        """Tell whether plaintext may be delivered."""
        return not self.paused and not self.is_closing()

    def pause_reading(self) -> None:
        """Deliver no more plaintext, not even what was received already, until `resume_reading`."""
        if self._protocol is not None and not self.paused:
            self.paused = True
            self._protocol.pause_reading()

    def resume_reading(self) -> None:
        """Deliver plaintext again, from the loop's next round on."""
        if self._protocol is not None and self.paused:
            self.paused = False
            self._protocol.resume_reading()

    # -- writing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the limits of ciphertext in the raw transport, in bytes."""
        self._raw.set_write_buffer_limits(high, low)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the limits of ciphertext in the raw transport, in bytes."""
        return self._raw.get_write_buffer_limits()

    def get_write_buffer_size(self) -> int:
        """Return the bytes of ciphertext that the raw transport has not yet sent."""
        return self._raw.get_write_buffer_size()

    def can_write_eof(self) -> bool:
        """Return False: TLS 1.2 cannot close one side only."""
        return False

    def write(self, data: Bytes) -> None:
        """Encrypt and send ``data``. Does nothing on a connection that is closing."""
        if self.is_closing():
            return
        self._encrypt(memoryview(data))
        self.flush()

    def writelines(self, list_of_data: Iterable[Bytes]) -> None:
        """Encrypt and send pieces, the short ones together with their neighbours: a frame's header is no record of
        its own. Does nothing on a connection that is closing.
        """
        if self.is_closing():
            return
        small: list[Bytes] = []
        smalls = 0
        for piece in list_of_data:
            size = len(piece)
            if size < SMALL_BYTES:
                small.append(piece)
                smalls += size
                if smalls >= RECORD_BYTES:
                    self._encrypt(memoryview(b"".join(small)))
                    small, smalls = [], 0
                continue
            view = memoryview(piece)
            if small:
                room = RECORD_BYTES - smalls
                small.append(view[:room])
                self._encrypt(memoryview(b"".join(small)))
                small, smalls = [], 0
                view = view[room:]
            self._encrypt(view)
        if small:
            self._encrypt(memoryview(b"".join(small)))
        self.flush()

    def _encrypt(self, view: memoryview) -> None:
        write, outgoing = self.tls.write, self._outgoing
        position, size = 0, len(view)
        try:
            while position < size:
                position += write(view[position:])
                if outgoing.pending >= OUTGOING_BYTES:
                    self.flush()
        except ssl.SSLError as exc:
            self.fail(exc)

    def flush(self) -> None:
        """Give the raw transport what OpenSSL has for the peer."""
        if self._outgoing.pending:
            self._raw.write(self._outgoing.read())

    # -- the end

    def is_closing(self) -> bool:
        """Tell whether the connection is closing or closed."""
        return self._closing or self._raw.is_closing()

    def close(self) -> None:
        """Say goodbye to the peer, send everything, then close. Nothing more is delivered."""
        if self.is_closing():
            return
        self._closing = True
        try:
            self.tls.unwrap()
        except ssl.SSLError:
            pass  # the goodbye is written, and the peer's is not waited for
        self.flush()
        self._raw.close()

    def abort(self) -> None:
        """Close at once, without what is not yet sent."""
        self._closing = True
        self._raw.abort()

    def fail(self, exc: ssl.SSLError) -> None:
        """End a connection whose TLS is broken. The inner protocol is told ``exc`` in `connection_lost`."""
        if self.error is None:
            logger.debug("TLS connection broken: %s", exc)
            self.error = exc
            self.flush()  # the alert
            self.abort()

    def lost(self) -> None:
        """Let go of the protocols, so that no cycle keeps OpenSSL's memory until a garbage collection."""
        self._protocol = None
