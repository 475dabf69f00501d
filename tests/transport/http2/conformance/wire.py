"""HTTP/2 frames as bytes, right or wrong as the test wishes, after RFC 9113 section 4 and RFC 7541 section 6.

Header blocks are literals that are never indexed, so a block means the same wherever it is sent.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import Final, NamedTuple

__all__ = [
    "ACK",
    "END_HEADERS",
    "END_STREAM",
    "PADDED",
    "PARKED",
    "PREFACE",
    "PRIORITY",
    "REQUEST",
    "UPLOAD",
    "Code",
    "Fields",
    "Frame",
    "Kind",
    "Setting",
    "block",
    "call",
    "changed",
    "chunk",
    "continuation",
    "data",
    "frame",
    "goaway",
    "headers",
    "integer",
    "message",
    "padded",
    "ping",
    "priority",
    "request",
    "reset",
    "settings",
    "string",
    "varint",
    "weight",
    "window_update",
]

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

ACK: Final = 0x1  # of SETTINGS and PING
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITY: Final = 0x20


class Kind(IntEnum):
    """Types of frames."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Code(IntEnum):
    """Error codes of RST_STREAM and GOAWAY."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11


class Setting(IntEnum):
    """Identifiers of settings."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class Frame(NamedTuple):
    """One frame as it came."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int, stream: int, payload: bytes = b"", *, length: int | None = None) -> bytes:
    """Return a frame; ``length`` instead of the payload's own is a lie, or stands for a payload sent later."""
    size = len(payload) if length is None else length
    return struct.pack(">BHBBI", size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def padded(payload: bytes, padding: int, *, claimed: int | None = None) -> bytes:
    """Return ``payload`` followed by ``padding`` zeros, with the length of the padding before, or a claimed one."""
    return bytes([padding if claimed is None else claimed]) + payload + bytes(padding)


def data(stream: int, payload: bytes = b"", *, end: bool = False, flags: int = 0) -> bytes:
    """Return a DATA frame."""
    return frame(Kind.DATA, flags | (END_STREAM if end else 0), stream, payload)


def headers(stream: int, fields: bytes, *, end: bool = False, complete: bool = True, flags: int = 0) -> bytes:
    """Return a HEADERS frame with a header block; not ``complete``: CONTINUATION must follow."""
    flags |= (END_STREAM if end else 0) | (END_HEADERS if complete else 0)
    return frame(Kind.HEADERS, flags, stream, fields)


def continuation(stream: int, fields: bytes = b"", *, complete: bool = True) -> bytes:
    """Return a CONTINUATION frame."""
    return frame(Kind.CONTINUATION, END_HEADERS if complete else 0, stream, fields)


def settings(*pairs: tuple[int, int], flags: int = 0) -> bytes:
    """Return a SETTINGS frame."""
    return frame(Kind.SETTINGS, flags, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def ping(payload: bytes = b"8 bytes!", *, flags: int = 0) -> bytes:
    """Return a PING frame."""
    return frame(Kind.PING, flags, 0, payload)


def reset(stream: int, code: int = Code.CANCEL) -> bytes:
    """Return a RST_STREAM frame."""
    return frame(Kind.RST_STREAM, 0, stream, struct.pack(">I", code))


def goaway(last_stream: int = 0, code: int = Code.NO_ERROR, text: bytes = b"") -> bytes:
    """Return a GOAWAY frame."""
    return frame(Kind.GOAWAY, 0, 0, struct.pack(">II", last_stream, code) + text)


def window_update(stream: int, increment: int) -> bytes:
    """Return a WINDOW_UPDATE frame."""
    return frame(Kind.WINDOW_UPDATE, 0, stream, struct.pack(">I", increment))


def weight(depends_on: int, value: int, *, exclusive: bool = False) -> bytes:
    """Return the five bytes of a priority; ``value`` is the weight from 1 to 256."""
    return struct.pack(">IB", depends_on | (0x80000000 if exclusive else 0), value - 1)


def priority(stream: int, depends_on: int = 0, value: int = 16, *, exclusive: bool = False) -> bytes:
    """Return a PRIORITY frame."""
    return frame(Kind.PRIORITY, 0, stream, weight(depends_on, value, exclusive=exclusive))


def integer(value: int, prefix_bits: int, pattern: int = 0) -> bytes:
    """Return an integer of RFC 7541 section 5.1 whose first byte also holds ``pattern``."""
    limit = (1 << prefix_bits) - 1
    if value < limit:
        return bytes([pattern | value])
    out = bytearray([pattern | limit])
    value -= limit
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def string(value: bytes) -> bytes:
    """Return a string of RFC 7541 section 5.2, without Huffman coding."""
    return integer(len(value), 7) + value


Fields = Iterable[tuple[str | bytes, str | bytes]]


def block(fields: Fields) -> bytes:
    """Return a header block of literals that are never indexed; names and values are not checked."""
    return b"".join(b"\x10" + string(_octets(name)) + string(_octets(value)) for name, value in fields)


def _octets(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")


def message(payload: bytes = b"", *, compressed: int = 0, size: int | None = None) -> bytes:
    """Return a gRPC message with its prefix; ``size`` instead of the payload's own is a lie."""
    return struct.pack(">BI", compressed, len(payload) if size is None else size) + payload


def chunk(payload: bytes) -> bytes:
    """Return a message of an upload."""
    return message(b"\x12" + varint(len(payload)) + payload)


def varint(value: int) -> bytes:
    """Return a number as protobuf writes it."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


SERVICE: Final = "/openfl.aggregator.Aggregator/"


def call(method: str) -> list[tuple[str, str]]:
    """Return the header fields of a call."""
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", SERVICE + method),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]


REQUEST: Final = call("GetTasks")  # answered with one message
UPLOAD: Final = call("SendLocalTaskResults")  # answered once the client has ended its side
PARKED: Final = call("GetAggregatedTensor")  # never answered


def request(stream: int = 1, fields: Fields = REQUEST, payload: bytes = message()) -> bytes:
    """Return a whole call: header block, one empty message, the end."""
    return headers(stream, block(fields)) + data(stream, payload, end=True)


def changed(
    fields: Fields, *add: tuple[str | bytes, str | bytes], without: str = ""
) -> list[tuple[str | bytes, str | bytes]]:
    """Return ``fields`` without those of one name, and with more at the end."""
    return [pair for pair in fields if pair[0] != without] + list(add)
