"""HTTP/2 frames and header blocks as bytes, right or wrong as the caller likes. Written from RFC 9113 and RFC 7541."""

from __future__ import annotations

import struct
from collections.abc import Iterable

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED = 0x1, 0x1, 0x4, 0x8
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = range(1, 6)

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED = range(6)
FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM = range(6, 12)

LARGEST_WINDOW = 2**31 - 1


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def settings(*pairs: tuple[int, int]) -> bytes:
    """Return a SETTINGS frame of identifiers and values."""
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def window_update(stream: int, increment: int) -> bytes:
    """Return a WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", increment))


def reset(stream: int, code: int = CANCEL) -> bytes:
    """Return a RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream, struct.pack(">I", code))


def ping(number: int = 0) -> bytes:
    """Return a PING frame."""
    return frame(PING, 0, 0, struct.pack(">Q", number))


def integer(value: int, bits: int, first: int) -> bytes:
    """Return an HPACK integer with a prefix of ``bits``; ``first`` has the bits before it (RFC 7541, 5.1)."""
    largest = (1 << bits) - 1
    if value < largest:
        return bytes([first | value])
    out = bytearray([first | largest])
    value -= largest
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def literal(text: str | bytes) -> bytes:
    """Return an HPACK string without Huffman coding."""
    data = text.encode() if isinstance(text, str) else text
    return integer(len(data), 7, 0) + data


def header(name: str | bytes, value: str | bytes) -> bytes:
    """Return one header that leaves the dynamic table alone, so that blocks can be repeated and shuffled."""
    return b"\x00" + literal(name) + literal(value)


def block(path: str, more: Iterable[tuple[str, str]] = (), *, tls: bool = False) -> bytes:
    """Return the header block of an ordinary gRPC request."""
    # POST, the scheme and the names of path and authority are entries of the static table
    parts = [b"\x83", b"\x87" if tls else b"\x86", b"\x04" + literal(path), b"\x01" + literal("localhost")]
    parts += [header("te", "trailers"), header("content-type", "application/grpc")]
    parts += [header(name, value) for name, value in more]
    return b"".join(parts)


def headers(stream: int, fields: bytes, *, end: bool = False) -> bytes:
    """Return a HEADERS frame with a whole block."""
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, fields)


def data(stream: int, payload: bytes, *, end: bool = False) -> bytes:
    """Return a DATA frame."""
    return frame(DATA, END_STREAM if end else 0, stream, payload)
