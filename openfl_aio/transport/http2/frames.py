"""Frames of HTTP/2 as bytes (RFC 9113, sections 4, 6 and 7), and the two ways in which a peer can break the rules."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

__all__ = [
    "HEADER_BYTES",
    "PREFACE",
    "ConnectionFault",
    "ErrorCode",
    "Setting",
    "StreamFault",
    "code_name",
    "frame",
    "goaway_frame",
    "read_head",
    "reset_frame",
    "settings_frame",
    "window_frame",
]

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_BYTES: Final = 9
MAX_WINDOW: Final = 2**31 - 1
DEFAULT_WINDOW: Final = 65_535
DEFAULT_FRAME_BYTES: Final = 16_384
OUR_PING: Final = b"openflai"  # the payload of our own questions whether the peer is there
MAX_FRAME_BYTES: Final = 2**24 - 1

# types
DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

# flags
END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITY_FLAG: Final = 0x20

# a frame's head: length << 8 | type, flags, stream
_HEAD: Final = struct.Struct(">IBI")
_SETTING: Final = struct.Struct(">HI")
_WINDOW: Final = struct.Struct(">IBII")

pack_head = _HEAD.pack
read_head = _HEAD.unpack_from
"""``read_head(buffer, offset)`` gives (length << 8 | type, flags, stream with the reserved bit)."""


class ErrorCode(IntEnum):
    """RFC 9113, section 7."""

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
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


_CODES: Final = frozenset(ErrorCode)


def code_name(code: int) -> str:
    """Return the name of an error code; peers may send ones that have none."""
    return ErrorCode(code).name if code in _CODES else f"error code {code}"


class Setting(IntEnum):
    """RFC 9113, section 6.5.2."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class ConnectionFault(Exception):
    """The peer broke a rule that ends the connection: GOAWAY with ``code``."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class StreamFault(Exception):
    """The peer broke a rule that ends one stream: RST_STREAM with ``code``."""

    def __init__(self, stream_id: int, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.stream_id = stream_id
        self.code = code
        self.reason = reason


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Return one frame."""
    return _HEAD.pack(len(payload) << 8 | kind, flags, stream_id) + payload


def settings_frame(settings: dict[Setting, int]) -> bytes:
    """Return a SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(key, value) for key, value in settings.items()))


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """Return the pairs of a SETTINGS payload, whose length is a multiple of six."""
    return list(_SETTING.iter_unpack(payload))


def window_frame(stream_id: int, increment: int) -> bytes:
    """Return a WINDOW_UPDATE frame."""
    return _WINDOW.pack(4 << 8 | WINDOW_UPDATE, 0, stream_id, increment)


def reset_frame(stream_id: int, code: ErrorCode) -> bytes:
    """Return a RST_STREAM frame."""
    return _WINDOW.pack(4 << 8 | RST_STREAM, 0, stream_id, code)


def goaway_frame(last_stream_id: int, code: ErrorCode, reason: str) -> bytes:
    """Return a GOAWAY frame; ``reason`` goes with it as text for the peer's log."""
    return frame(GOAWAY, 0, 0, struct.pack(">II", last_stream_id, code) + reason.encode("ascii", "replace")[:200])
