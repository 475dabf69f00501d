"""TLS between a TCP transport and any `asyncio.BufferedProtocol`, in a small part of the memory of asyncio's own.

asyncio keeps a receive buffer of 256 KiB for every TLS connection. Here all connections of a thread share one: the
loop asks for a buffer, fills it and reports it without anything in between, so it is free again afterwards. Plaintext
is decrypted straight into the buffer that the inner protocol hands out.

OpenSSL's memory BIOs grow and never shrink, so they hold one TLS record at a time: after a gigabyte a connection has
kept some 44 KiB more than an idle one, which has 30.

Hostile records: OpenSSL takes any number of TLS 1.3's key updates, at 15 to 30 µs each. So records without data are
counted here, and a connection has a bounded number of records a turn of the loop, however short they are.

What the caller's context decides: versions, certificates, the offer of ALPN (`h2`) and `ssl.OP_NO_RENEGOTIATION`,
without which OpenSSL before 3.0 renegotiates TLS 1.2 at a peer's will. (3.0 refuses by itself; each attempt counts as
a record without data.) How long a handshake may take is the caller's business too: see `TLSProtocol.established` and
`TLSProtocol.abort`.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable
from typing import Final, cast

from openfl_aio.transport.http2.tls_transport import TLSTransport

__all__ = ["TLSProtocol", "TLSTransport"]

SHARED_BYTES: Final = 128 << 10  # of ciphertext, received at once; what a peer whose turn is over may leave with us
HEADER_BYTES: Final = 5  # of a record; its last two are the length of what follows
RECORDS_PER_TURN: Final = 256  # then other connections have theirs; a full shared buffer has 8 records of full size
HANDSHAKE_RECORDS: Final = 256  # that a peer may send until it is established; an ordinary one needs about five
BARREN_RECORDS: Final = 64  # without data (tickets, key updates) that a peer may send, and one more ...
BARREN_EVERY: Final = 1 << 20  # ... for so many bytes of data

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
        "__weakref__",
        "_backlog",
        "_context",
        "_full",
        "_head",
        "_inner",
        "_missing",
        "_on_failed",
        "_patience",
        "_raw",
        "_raw_full",
        "_server_hostname",
        "_server_side",
        "_shared",
        "_transport",
        "_turn_due",
        "established",
        "handshake",
    )

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
        """Done when the connection is established, or with what prevented it: an `ssl.SSLError`, a `ConnectionError`, or for an
        impossible hostname a `ValueError` or `TypeError`. It may be left alone: asyncio will not report the error."""
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
        self._head = b""  # the beginning of a record's header
        self._missing = 0  # bytes of the record that OpenSSL has the beginning of
        self._full = False  # the last buffer was filled to its end: OpenSSL may have the rest of a record
        self._patience = HANDSHAKE_RECORDS  # with records that carry no data

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
            try:
                hello = self._wrap(self._raw)
            except (TypeError, ValueError) as exc:  # a hostname that no certificate can have, in OpenSSL's view
                self._handshake_failed(exc)
                self._raw.abort()
            else:
                self._shake_hands(hello)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer that all connections share; it is used up in the next call of `buffer_updated`."""
        return self._shared

    def buffer_updated(self, nbytes: int) -> None:
        """Take ``nbytes`` of ciphertext from the shared buffer."""
        data, transport = self._shared[:nbytes], self._transport
        if self._backlog or self._turn_due:
            # a loop that had read before it was told to pause
            self._backlog = memoryview(bytes(self._backlog) + bytes(data))
        elif transport is not None and self.established:
            self._deliver(transport, data)
        elif self._raw is not None and not self._raw.is_closing():
            # a server spends OpenSSL's memory only on a peer that has sent something
            self._take_handshake(self._raw, transport or self._wrap(self._raw), data)

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
            self._on_failed = None  # it may lead back here
            self._inner.connection_lost(transport.error or exc)
        if transport is not None:
            transport.lost()

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

    def _take_handshake(self, raw: asyncio.Transport, transport: TLSTransport, data: memoryview) -> None:
        """Go on with the handshake; deliver what comes after it."""
        position = 0
        while position < len(data) and not raw.is_closing():
            position = self._next_record(transport.incoming, data, position)
            if not (self._missing or self._head):
                self._patience -= 1
            if self._patience < 0:
                self._refuse(transport, ssl.SSLError("the handshake has too many records"))
                return
            self._shake_hands(transport)
            if self.established:
                self._deliver(transport, data[position:])
                return

    def _shake_hands(self, transport: TLSTransport) -> None:
        """Take the handshake as far as what was received allows."""
        try:
            transport.tls.do_handshake()
        except ssl.SSLWantReadError:
            transport.flush()
            return
        except ssl.SSLError as exc:
            self._refuse(transport, exc)
            return
        chosen = transport.tls.selected_alpn_protocol()
        if chosen != "h2":
            self._refuse(transport, ssl.SSLError(f"the peer does not speak HTTP/2 (ALPN chose {chosen or 'nothing'})"))
            return
        self.established = True
        self._patience = BARREN_RECORDS * BARREN_EVERY
        full = self._raw_full  # what happens from now on reaches the inner protocol at once
        self._inner.connection_made(transport)
        transport.flush()  # the end of the handshake, together with what the inner protocol has just said
        if full and self._raw_full:
            self._inner.pause_writing()
        if not self.handshake.done():
            self.handshake.set_result(None)

    def _refuse(self, transport: TLSTransport, exc: ssl.SSLError) -> None:
        transport.flush()  # the alert that tells the peer why
        self._handshake_failed(exc)
        transport.abort()

    def _handshake_failed(self, exc: Exception) -> None:
        if not self.handshake.done():
            self.handshake.set_exception(exc)
            self.handshake.exception()  # it counts as retrieved: a server has nobody who awaits it
        on_failed, self._on_failed = self._on_failed, None
        if on_failed is not None:
            on_failed(exc)

    # -- reading

    def _next_record(self, incoming: ssl.MemoryBIO, data: memoryview, position: int) -> int:
        """Give OpenSSL the record that begins (or goes on) at ``position``, as far as ``data`` has it.

        Returns the position after it. The record is complete if ``_missing`` is 0 and ``_head`` is empty. OpenSSL's
        buffer stays as small as one record, and reading is tried only when it must succeed: an exception for every
        piece of a record would cost as much as decrypting it.
        """
        missing = self._missing
        if not missing:
            if self._head or len(data) - position < HEADER_BYTES:
                end = position + HEADER_BYTES - len(self._head)
                self._head += data[position:end]
                if len(self._head) < HEADER_BYTES:
                    return len(data)
                incoming.write(self._head)
                missing = self._head[3] << 8 | self._head[4]
                self._head = b""
                position = end
            else:
                missing = (data[position + 3] << 8 | data[position + 4]) + HEADER_BYTES
        piece = data[position : position + missing]
        incoming.write(piece)
        self._missing = missing - len(piece)
        return position + len(piece)

    def _deliver(self, transport: TLSTransport, data: memoryview) -> None:
        """Decrypt what OpenSSL has and then ``data`` into the inner protocol's buffers, until it is all delivered, the
        inner protocol wants no more, or the turn is over.
        """
        tls, incoming, inner = transport.tls, transport.incoming, self._inner
        read = cast("Callable[[int, memoryview], int]", tls.read)
        position, size, records = 0, len(data), 0
        while transport.is_reading():
            ready = self._full and tls.pending() > 0
            if not ready and position >= size:
                return
            if records >= RECORDS_PER_TURN:
                self._yield_turn()
                break
            target = memoryview(inner.get_buffer(-1))
            filled, room = 0, len(target)
            count = -1
            broken: ssl.SSLError | None = None
            while filled < room and records < RECORDS_PER_TURN:
                if not ready:
                    if position >= size:
                        break
                    position = self._next_record(incoming, data, position)
                    if self._missing or self._head:
                        break
                ready = False
                records += 1
                try:
                    count = read(room - filled, target[filled:] if filled else target)
                except ssl.SSLWantReadError:
                    self._patience -= BARREN_EVERY
                    continue
                except ssl.SSLError as exc:
                    broken = exc
                    break
                if not count:
                    break
                filled += count
            self._full = filled == room
            if filled:
                self._patience += filled
                inner.buffer_updated(filled)
            if not count:
                self._peer_closed(transport)
            elif self._patience < 0:
                broken = ssl.SSLError("the peer sends TLS records without data")
            if broken is not None:
                transport.fail(broken)
            if position >= size and not self._full:
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
