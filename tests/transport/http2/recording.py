"""An engine's owner that writes down what it is told, and frames as another implementation reads them."""

from __future__ import annotations

from typing import Any, Final

import hyperframe.frame
from hpack import Encoder

from openfl_aio.config import Limits
from openfl_aio.transport.http2 import frames
from openfl_aio.transport.http2.engine import Engine
from openfl_aio.transport.http2.frames import END_HEADERS, END_STREAM, PREFACE
from openfl_aio.transport.http2.headers import Headers
from openfl_aio.transport.http2.messages import PREFIX
from openfl_aio.transport.http2.streams import StreamRecord
from openfl_aio.transport.http2.windows import WindowPool

__all__ = ["REQUEST", "RESPONSE", "TRAILERS", "Recorder", "data", "head", "message", "parse", "settings"]

REQUEST: Final[Headers] = [(":method", "POST"), (":scheme", "http"), (":path", "/s/m"), ("te", "trailers")]
RESPONSE: Final[Headers] = [(":status", "200"), ("content-type", "application/grpc")]
TRAILERS: Final[Headers] = [("grpc-status", "0")]


def message(body: bytes) -> bytes:
    return PREFIX.pack(0, len(body)) + body


def head(stream_id: int, fields: Headers = REQUEST, *, flags: int = END_HEADERS, end: bool = False) -> bytes:
    """Return HEADERS with a block that needs no table."""
    block = Encoder().encode([(name, value, True) for name, value in fields])
    return frames.frame(frames.HEADERS, flags | (END_STREAM if end else 0), stream_id, bytes(block))


def data(stream_id: int, payload: bytes = b"", *, flags: int = 0, end: bool = False) -> bytes:
    return frames.frame(frames.DATA, flags | (END_STREAM if end else 0), stream_id, payload)


def settings(**values: int) -> bytes:
    return frames.settings_frame({frames.Setting[name.upper()]: value for name, value in values.items()})


def parse(written: bytes) -> list[Any]:
    """Return the frames in ``written``; a preface at its beginning is skipped."""
    written = written.removeprefix(PREFACE)
    found: list[Any] = []
    while written:
        frame, length = hyperframe.frame.Frame.parse_frame_header(memoryview(written[:9]))
        frame.parse_body(memoryview(written[9 : 9 + length]))
        found.append(frame)
        written = written[9 + length :]
    return found


WIDE = Limits(stream_window=256 * 1024, connection_window=512 * 1024, max_connection_window=32 << 20)
"""Windows of streams are met before that of the connection."""


class Recorder:
    """Owner of an engine. ``reading`` is whether it reads what comes at once; ``bodies`` are the messages it read."""

    def __init__(
        self,
        *,
        client: bool = False,
        limits: Limits | None = None,
        pool: WindowPool | None = None,
        ready: bool = True,
        reading: bool = True,
    ) -> None:
        self.limits = limits or WIDE
        self.pool = pool or WindowPool(self.limits.window_pool_bytes)
        self.told: list[tuple[Any, ...]] = []
        self.bodies: dict[int, list[bytes]] = {}
        self.reading = reading
        self.engine = Engine(self, self.limits, client=client, pool=self.pool, now=0.0)
        if ready:
            self.sent()
            self.feed((b"" if client else PREFACE) + settings())
            self.sent()
            self.told.clear()

    # -- for tests

    def feed(self, *pieces: bytes, now: float = 0.0) -> None:
        """Give bytes to the engine, straight into a message's memory where it asks for that."""
        rest = memoryview(b"".join(pieces))
        while rest and self.engine.fault is None:
            target = self.engine.target()
            if target is None:
                count = min(len(rest), 64 * 1024)
                self.engine.receive(memoryview(bytearray(rest[:count])), now)
            else:
                count = min(len(target), len(rest))
                target[:count] = rest[:count]
                self.engine.advance(count, now)
            rest = rest[count:]

    def sent(self) -> list[Any]:
        """Return what the engine wants to send, as frames, and forget it."""
        written = b"".join(self.engine.out)
        self.engine.out.clear()
        return parse(written)

    def read(self, record: StreamRecord) -> None:
        """Read every message that is there."""
        while (found := record.inbound.take()) is not None:
            self.bodies.setdefault(record.id, []).append(bytes(found))
            record.inbound.release()
        self.engine.read(record)

    def names(self) -> list[str]:
        return [what[0] for what in self.told]

    # -- the engine's owner

    def settings_received(self) -> None:
        self.told.append(("settings",))

    def request_received(self, record: StreamRecord, headers: Headers) -> None:
        self.told.append(("request", record.id, headers))

    def response_received(self, record: StreamRecord, headers: Headers) -> None:
        self.told.append(("response", record.id, headers))

    def trailers_received(self, record: StreamRecord, headers: Headers) -> None:
        self.told.append(("trailers", record.id, headers))

    def data_received(self, record: StreamRecord) -> None:
        if self.reading:
            self.read(record)

    def stream_ended(self, record: StreamRecord) -> None:
        if self.reading:
            self.read(record)
        self.told.append(("ended", record.id))

    def stream_reset(self, record: StreamRecord, code: int, reason: str) -> None:
        self.told.append(("reset", record.id, code))

    def window_opened(self, record: StreamRecord | None) -> None:
        self.told.append(("window", None if record is None else record.id))

    def goaway_received(self, code: int, reason: str) -> None:
        self.told.append(("goaway", code, reason))

    def ping_acknowledged(self) -> None:
        self.told.append(("pong",))
