"""A client that speaks HTTP/2 in frames and says afterwards what came back."""

from __future__ import annotations

import itertools
import socket
import ssl
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

import hpack

from tests.transport.http2.conformance.wire import (
    ACK,
    END_HEADERS,
    END_STREAM,
    PADDED,
    PREFACE,
    REQUEST,
    Code,
    Frame,
    Kind,
    Setting,
    data,
    padded,
    ping,
    request,
    settings,
)

__all__ = ["SECONDS", "Answer", "Peer"]

SECONDS: Final = 5.0  # that a case may take before it has failed; those that pass take milliseconds
DEFAULT_WINDOW: Final = 65_535
DEFAULT_FRAME: Final = 16_384
LATE_STREAM: Final = 100_001  # where a connection that goes on is asked again


@dataclass(eq=False)
class Answer:
    """What came on one stream."""

    blocks: list[list[tuple[str, str]]] = field(default_factory=list)  # header blocks, decoded
    pieces: list[int] = field(default_factory=list)  # lengths of DATA frames
    body: bytearray = field(default_factory=bytearray)
    ended: bool = False
    resets: list[int] = field(default_factory=list)  # codes of RST_STREAM
    window: int = 0  # sum of WINDOW_UPDATE

    def field(self, name: str) -> str | None:
        """Return the last value of a header or trailer, or None."""
        values = [value for fields in self.blocks for key, value in fields if key == name]
        return values[-1] if values else None


class Peer:
    """One connection. Every wait ends ``SECONDS`` after it was made, with an `AssertionError` that tells what came."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self.secure = isinstance(sock, ssl.SSLSocket)
        self._until = time.monotonic() + SECONDS
        self._begun = False  # whether the preface was sent
        self._buffer = bytearray()
        self._decoder = hpack.Decoder()
        self._block: bytearray | None = None  # of a header block that is not complete
        self._streams = itertools.count(LATE_STREAM, 2)
        self._pings = itertools.count(1)
        self.frames: list[Frame] = []
        self.answers: dict[int, Answer] = {}
        self.settings: dict[int, int] = {}  # the server's
        self.settings_acks = 0
        self.pongs: list[bytes] = []
        self.window = DEFAULT_WINDOW  # that the server gives to the connection
        self.goaway: tuple[int, int] | None = None  # last stream, code
        self._sent: Counter[int] = Counter()  # bytes of flow control, by stream and, for 0, in all
        self.closed = False
        self.deaf = False  # to PING

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def answer(self, stream: int) -> Answer:
        """Return what came on ``stream`` so far."""
        return self.answers.setdefault(stream, Answer())

    def limit_header_table(self, size: int) -> None:
        """Hold the server to the size of the header table that was, or is about to be, announced."""
        self._decoder.max_allowed_table_size = size

    def send(self, octets: bytes) -> None:
        """Send ``octets``. A connection that the server closed already takes them without a word."""
        self._begun = self._begun or octets.startswith(PREFACE)
        self._socket.settimeout(self._left())
        try:
            self._socket.sendall(octets)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
            pass  # what the server said before that is still to be read
        except TimeoutError:
            raise AssertionError(f"the server does not read; {self.story()}") from None

    def send_end(self) -> None:
        """Send no more, but go on reading."""
        try:
            socket.socket.shutdown(self._socket, socket.SHUT_WR)  # that of TLS sockets would end reading too
        except OSError:
            pass  # the server was faster

    def start(self, *pairs: tuple[int, int]) -> None:
        """Send the preface and settings."""
        self.send(PREFACE + settings(*pairs))

    def restart_clock(self) -> None:
        """Begin the time again in which everything must happen."""
        self._until = time.monotonic() + SECONDS

    def wait(self, condition: Callable[[], bool], what: str, *, or_closed: bool = False) -> None:
        """Read until ``condition`` holds. Fails if the connection ends, if that is not allowed, or time is up before."""
        while not condition():
            if self.closed and or_closed:
                return
            assert not self.closed, f"expected {what}, but the connection was closed; {self.story()}"
            self._read(what)

    def wait_closed(self) -> None:
        """Read until the server closes the connection."""
        if self.secure:
            self.send_end()  # over TLS the server cannot say the end alone: it would hear us out for half a second
        while not self.closed:
            self._read("the end of the connection")

    def barrier(self) -> None:
        """Wait until the server has handled all that was sent."""
        payload = struct.pack(">Q", next(self._pings))
        self.send(ping(payload))
        self.wait(lambda: payload in self.pongs, "the answer to a PING")

    def room(self, stream: int) -> int:
        """Return how many bytes of DATA may be sent on ``stream`` now, if all went through `upload`."""
        return min(self.window - self._sent[0], self.stream_window(stream) - self._sent[stream])

    def upload(self, stream: int, octets: bytes, *, padding: int = 0) -> None:
        """Send ``octets`` as DATA frames of at most 1,000 bytes, or 16,384 without ``padding``, as windows allow."""
        step = 1_000 if padding else DEFAULT_FRAME
        for start in range(0, len(octets), step):
            payload = octets[start : start + step]
            if padding:
                payload = padded(payload, padding)
            self.wait(lambda size=len(payload): self.room(stream) >= size, "room to send")  # type: ignore[misc]
            self.send(data(stream, payload, flags=PADDED if padding else 0))
            self._sent.update({0: len(payload), stream: len(payload)})

    def call(self, fields: Iterable[tuple[str | bytes, str | bytes]] = REQUEST) -> Answer:
        """Make a call on a new stream and return its answer."""
        stream = next(self._streams)
        self.send(request(stream, fields))
        return self.finished(stream)

    def finished(self, stream: int) -> Answer:
        """Wait for the end of an answer."""
        answer = self.answer(stream)
        self.wait(lambda: answer.ended or bool(answer.resets), f"an answer on stream {stream}")
        return answer

    def story(self) -> str:
        """Tell what came."""
        return "received: " + ("; ".join(_words(one) for one in self.frames[-30:]) or "nothing")

    def _left(self) -> float:
        return max(0.001, self._until - time.monotonic())

    def _read(self, what: str) -> None:
        assert time.monotonic() < self._until, f"expected {what} within {SECONDS:g} s; {self.story()}"
        self._socket.settimeout(self._left())
        try:
            piece = self._socket.recv(262_144)
        except TimeoutError:
            return
        except (ConnectionResetError, ssl.SSLEOFError):
            piece = b""
        if not piece:
            self.closed = True
        self._buffer += piece
        while len(self._buffer) >= 9:
            high, low, kind, flags, stream = struct.unpack_from(">BHBBI", self._buffer)
            size = high << 16 | low
            if len(self._buffer) < 9 + size:
                break
            one = Frame(kind, flags, stream, bytes(self._buffer[9 : 9 + size]))
            del self._buffer[: 9 + size]
            self.frames.append(one)
            self._take(one)

    def _take(self, one: Frame) -> None:
        kind, flags, stream, payload = one
        if self._block is not None:
            assert kind == Kind.CONTINUATION, f"a header block was not completed; {self.story()}"
        match kind:
            case Kind.SETTINGS if flags & ACK:
                self.settings_acks += 1
            case Kind.SETTINGS:
                self.settings.update(struct.iter_unpack(">HI", payload))
                if self._begun:
                    self.send(settings(flags=ACK))
            case Kind.PING if flags & ACK:
                self.pongs.append(payload)
            case Kind.PING if not self.deaf:
                self.send(ping(payload, flags=ACK))
            case Kind.GOAWAY:
                last_stream, code = struct.unpack_from(">II", payload)
                self.goaway = (last_stream, code)
            case Kind.WINDOW_UPDATE if stream:
                self.answer(stream).window += int.from_bytes(payload, "big")
            case Kind.WINDOW_UPDATE:
                self.window += int.from_bytes(payload, "big")
            case Kind.RST_STREAM:
                self.answer(stream).resets.append(int.from_bytes(payload, "big"))
            case Kind.DATA:
                self._take_data(one)
            case Kind.HEADERS | Kind.CONTINUATION:
                self._take_block(one)
            case Kind.PING:
                pass
            case _:
                raise AssertionError(f"a server must not send this; {self.story()}")

    def _take_data(self, one: Frame) -> None:
        answer = self.answer(one.stream)
        assert answer.blocks, f"DATA before HEADERS; {self.story()}"
        assert not answer.ended, f"DATA after the end; {self.story()}"
        answer.pieces.append(len(one.payload))
        answer.body += one.payload
        answer.ended = bool(one.flags & END_STREAM)

    def _take_block(self, one: Frame) -> None:
        answer = self.answer(one.stream)
        if one.kind == Kind.HEADERS:
            assert not answer.ended, f"HEADERS after the end; {self.story()}"
            answer.ended = bool(one.flags & END_STREAM)
            self._block = bytearray()
        assert self._block is not None, f"CONTINUATION without HEADERS; {self.story()}"
        self._block += one.payload
        if one.flags & END_HEADERS:
            fields = self._decoder.decode(bytes(self._block))
            answer.blocks.append([(str(name), str(value)) for name, value in fields])
            self._block = None

    @property
    def max_frame_bytes(self) -> int:
        """What the server takes in one frame."""
        return self.settings.get(Setting.MAX_FRAME_SIZE, DEFAULT_FRAME)

    def stream_window(self, stream: int) -> int:
        """What the server has allowed on ``stream`` so far, in all."""
        return self.settings.get(Setting.INITIAL_WINDOW_SIZE, DEFAULT_WINDOW) + self.answer(stream).window


def _words(one: Frame) -> str:
    kind, flags, stream, payload = one
    name = Kind(kind).name if kind in list(Kind) else f"type {kind}"
    if kind == Kind.RST_STREAM:
        detail = _code(int.from_bytes(payload, "big"))
    elif kind == Kind.GOAWAY:
        last_stream, code = struct.unpack_from(">II", payload)
        detail = f"{_code(code)} last stream {last_stream} {payload[8:]!r}"
    else:
        detail = f"{len(payload)} bytes"
    return f"{name} flags {flags:#x} stream {stream} {detail}"


def _code(code: int) -> str:
    return Code(code).name if code in list(Code) else str(code)
