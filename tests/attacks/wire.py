"""One raw connection of an attacker: bytes out, frames in, and how it ended."""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hpack

from tests.attacks import frames

CONNECT_SECONDS = 5.0
READ_BYTES = 256 * 1024


@dataclass(frozen=True)
class Target:
    """Where to attack. ``certificates`` is a folder with CA, certificate and key for each name; None: plaintext."""

    host: str
    port: int
    certificates: Path | None = None
    name: str = "one"

    @property
    def tls(self) -> bool:
        return self.certificates is not None

    def context(self, *, alpn: bool = True) -> ssl.SSLContext:
        """Return what this attacker makes TLS connections with."""
        assert self.certificates is not None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.load_cert_chain(self.certificates / f"col_{self.name}.crt", self.certificates / f"col_{self.name}.key")
        if alpn:
            context.set_alpn_protocols(["h2"])
        return context


class Wire:
    """A connection that keeps no rule unless told. It never raises for what the server does: it ends.

    ``ended`` is None while it is open, else "goaway:CODE", "closed", "reset", "refused" or "dropped" (by us).
    """

    def __init__(self, *, deadline: float, reading: bool = True, answers: bool = False) -> None:
        self.deadline = deadline
        self.reading = reading
        self.ended: str | None = None
        self.since = time.monotonic()
        self.until = self.since
        self.sent = 0
        self.outcomes: Counter[str] = Counter()
        self.seen: Counter[int] = Counter()  # frames by type
        self.window = 65_535
        self.windows: dict[int, int] = {}
        self.over: set[int] = set()  # streams that the server ended
        self.pinged = 0.0  # when the last PING of the server came
        self._initial_window = 65_535
        self._decoder = hpack.Decoder() if answers else None
        self._incoming = bytearray()
        self._goaway: int | None = None
        self.socket: Any = None

    @property
    def life(self) -> float:
        """Return for how long it was, or is, open."""
        return (time.monotonic() if self.ended is None else self.until) - self.since

    def connect(self, target: Target, *, context: ssl.SSLContext | None = None, buffer: int = 0) -> bool:
        """Connect, with TLS if there is a ``context``. Return whether it worked."""
        raw = socket.socket()
        try:
            if buffer:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            raw.settimeout(max(0.1, min(CONNECT_SECONDS, self.deadline - time.monotonic())))
            raw.connect((target.host, target.port))
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.socket = raw if context is None else context.wrap_socket(raw)
            self.socket.setblocking(False)
        except OSError:
            raw.close()
            self._end("refused")
            return False
        self.since = time.monotonic()
        return True

    def greet(self, *pairs: tuple[int, int]) -> bool:
        """Send the preface, SETTINGS, and a connection window that never runs out."""
        return self.send(
            frames.PREFACE
            + frames.settings(*pairs)
            + frames.window_update(0, frames.LARGEST_WINDOW - 65_535)
            + frames.frame(frames.SETTINGS, frames.ACK, 0)
        )

    def send(self, data: bytes | memoryview) -> bool:
        """Send everything, reading meanwhile. Return False if the connection ended or time is up."""
        view = memoryview(data)
        while view:
            if self.ended is not None or time.monotonic() >= self.deadline:
                return False
            try:
                count = self.socket.send(view[:READ_BYTES])
            except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                self._wait(writing=True)
                continue
            except OSError as exc:
                self._leftovers("closed" if isinstance(exc, BrokenPipeError) else "reset")
                return False
            self.sent += count
            view = view[count:]
        if self.reading:
            self.read()
        return self.ended is None

    def send_data(self, stream: int, payload: bytes, *, end: bool = False) -> bool:
        """Send DATA within the windows. Return False if stream or connection ended, or time is up."""
        view = memoryview(payload)
        self.windows.setdefault(stream, self._initial_window)
        while view:
            room = min(len(view), self.window, self.windows[stream], 16_384)
            if room <= 0:
                if self.ended is not None or stream in self.over or time.monotonic() >= self.deadline:
                    return False
                self._wait(writing=False)
                self.read()
                continue
            if not self.send(frames.data(stream, bytes(view[:room]), end=end and room == len(view))):
                return False
            view = view[room:]
            self.window -= room
            self.windows[stream] -= room
            if stream in self.over:
                return False
        return True

    def read(self) -> None:
        """Take in what has arrived, without waiting."""
        while self.ended is None:
            try:
                data = self.socket.recv(READ_BYTES)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                data = b""
            except OSError:
                self._end("reset")
                return
            if not data:
                self._end("closed")
                return
            self._take(data)

    def drop(self, *, abruptly: bool = False) -> None:
        """Close without a word; ``abruptly`` with a reset."""
        if self.ended is None:
            if abruptly:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._end("dropped")

    def _wait(self, *, writing: bool) -> None:
        left = self.deadline - time.monotonic()
        if left > 0:
            readers = [self.socket] if self.reading or not writing else []
            readable, _, _ = select.select(readers, [self.socket] if writing else [], [], min(left, 0.1))
            if readable and self.reading:
                self.read()

    def _leftovers(self, ending: str) -> None:
        """Read what was said before the end, which a failed `send` announces first."""
        self.read()
        self._end(ending)

    def _end(self, ending: str) -> None:
        if self.ended is None:
            # over TLS the server may wait for the peer to close, once it has said why
            said = self._goaway is not None and (self._goaway or ending != "dropped")
            self.ended = f"goaway:{self._goaway}" if said else ending
            self.until = time.monotonic()
            if self.socket is not None:
                self.socket.close()

    def _take(self, data: bytes) -> None:
        buffer = self._incoming
        buffer += data
        position = 0
        while len(buffer) - position >= 9:
            size = buffer[position] << 16 | buffer[position + 1] << 8 | buffer[position + 2]
            if len(buffer) - position - 9 < size:
                break
            kind, flags, stream = struct.unpack_from(">BBI", buffer, position + 3)
            self.seen[kind] += 1
            if kind != frames.DATA:
                self._frame(kind, flags, stream, bytes(buffer[position + 9 : position + 9 + size]))
            elif flags & frames.END_STREAM:
                self.over.add(stream)
            position += 9 + size
        del buffer[:position]

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == frames.GOAWAY:
            code = int.from_bytes(payload[4:8], "big")
            self._goaway = code if self._goaway is None else max(self._goaway, code)
        elif kind == frames.RST_STREAM:
            self.outcomes[f"rst:{int.from_bytes(payload, 'big')}"] += 1
            self.over.add(stream)
        elif kind == frames.WINDOW_UPDATE:
            increment = int.from_bytes(payload, "big")
            if stream == 0:
                self.window += increment
            elif stream in self.windows:
                self.windows[stream] += increment
        elif kind == frames.SETTINGS and not flags & frames.ACK:
            for position in range(0, len(payload), 6):
                name, value = struct.unpack_from(">HI", payload, position)
                if name == frames.INITIAL_WINDOW_SIZE:
                    self.windows = {key: was + value - self._initial_window for key, was in self.windows.items()}
                    self._initial_window = value
        elif kind == frames.PING and not flags & frames.ACK:
            self.pinged = time.monotonic()
        elif kind == frames.HEADERS:
            self._answer(flags, stream, payload)

    def _answer(self, flags: int, stream: int, payload: bytes) -> None:
        if flags & frames.END_STREAM:
            self.over.add(stream)
        if self._decoder is not None:
            found = {str(name): str(value) for name, value in self._decoder.decode(payload)}
            if found.get(":status", "200") != "200":
                self.outcomes[f"http:{found[':status']}"] += 1
            elif "grpc-status" in found:
                self.outcomes[f"status:{found['grpc-status']}"] += 1
            if "grpc-accept-encoding" in found:
                self.outcomes[f"accepts:{found['grpc-accept-encoding']}"] += 1
