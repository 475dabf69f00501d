"""The writing half of a TLS connection, and the transport that its inner protocol knows."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from openfl_aio.transport.http2.tls import TLSProtocol

__all__ = ["TLSTransport"]

logger = logging.getLogger(__name__)

OUTGOING_BYTES: Final = 256 << 10  # of ciphertext that is sent at once
RECORD_BYTES: Final = 16 << 10  # of plaintext in the largest record
SHORT_BYTES: Final = 1 << 10  # shorter pieces are copied together rather than sent as records of their own

Bytes = bytes | bytearray | memoryview


class TLSTransport(asyncio.Transport):
    """What the inner protocol writes to. Bytes are encrypted, and so copied, before a write returns.

    `get_extra_info` knows `ssl_object`, `sslcontext`, `peercert` and `cipher`, also after the connection was lost, and
    asks the raw transport for the rest.
    """

    __slots__ = (
        "__weakref__",
        "_closing",
        "_fileno",
        "_outgoing",
        "_protocol",
        "_raw",
        "_ready",
        "_ready_bytes",
        "error",
        "incoming",
        "paused",
        "tls",
    )

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
        sock = raw.get_extra_info("socket")
        self._fileno: int = -1 if sock is None else sock.fileno()
        self._closing = False
        self._ready: list[bytes] = []  # records that are not yet with the raw transport
        self._ready_bytes = 0

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
        return not (self.paused or self._closing or self._raw.is_closing())

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
        if 0 < len(data) <= RECORD_BYTES:  # small calls are many: the short way
            try:
                self.tls.write(data)
            except ssl.SSLError as exc:
                self.fail(exc)
            else:
                self._raw.write(self._outgoing.read())
        else:
            self._encrypt(data)
            self.flush()

    def writelines(self, list_of_data: Iterable[Bytes]) -> None:
        """Encrypt and send pieces, the short ones together with their neighbours: a frame's header is no record of
        its own. Does nothing on a connection that is closing.
        """
        if self.is_closing():
            return
        short: list[Bytes] = []
        room = RECORD_BYTES  # for more of them in a record
        for piece in list_of_data:
            size = len(piece)
            if size < SHORT_BYTES and size < room:
                short.append(piece)
                room -= size
            elif short:
                view = memoryview(piece)
                short.append(view[:room])
                self._encrypt(b"".join(short))
                self._encrypt(view[room:])
                short, room = [], RECORD_BYTES
            else:
                self._encrypt(piece)
        if short:
            self._encrypt(b"".join(short))
        self.flush()

    def _encrypt(self, data: Bytes) -> None:
        write, take, ready = self.tls.write, self._outgoing.read, self._ready
        view = memoryview(data)
        try:
            for position in range(0, len(view), RECORD_BYTES):
                write(view[position : position + RECORD_BYTES])
                record = take()  # at once, so that OpenSSL's buffer stays small and the bytes in the cache
                ready.append(record)
                self._ready_bytes += len(record)
                if self._ready_bytes >= OUTGOING_BYTES:
                    self.flush()
        except ssl.SSLError as exc:
            self.fail(exc)

    def flush(self) -> None:
        """Send what is encrypted, and what else OpenSSL has for the peer."""
        ready = self._ready
        if self._raw.is_closing():
            ready.clear()
            self._ready_bytes = 0
            return
        if self._outgoing.pending:
            ready.append(self._outgoing.read())
        if len(ready) > 1:
            self._send_together(ready)
        for record in ready:
            self._raw.write(record)
        ready.clear()
        self._ready_bytes = 0

    def _send_together(self, ready: list[bytes]) -> None:
        """Send many records in one system call if nothing waits before them. Leaves in ``ready`` what did not go."""
        if self._fileno < 0 or self._raw.is_closing() or self._raw.get_write_buffer_size():
            return
        try:
            sent = os.writev(self._fileno, ready)
        except OSError:
            return  # no room just now; if it is anything else, the raw transport meets it too and closes
        for index, record in enumerate(ready):
            if sent < len(record):
                ready[: index + 1] = [record[sent:]]
                return
            sent -= len(record)
        ready.clear()

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
        if not self.is_closing():
            logger.debug("TLS connection broken: %s", exc)
            self.error = exc
            self.flush()  # the alert
            self.abort()

    def lost(self) -> None:
        """Let go of the protocols, so that no cycle keeps OpenSSL's memory until a garbage collection."""
        self._protocol = None
