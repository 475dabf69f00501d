"""Header blocks out of HEADERS and CONTINUATION (RFC 9113, sections 4.3, 6.2 and 6.10)."""

from __future__ import annotations

from typing import Final, NamedTuple

from openfl_aio.config import Limits
from openfl_aio.transport.http2.frames import (
    END_HEADERS,
    END_STREAM,
    PADDED,
    PRIORITY_FLAG,
    ConnectionFault,
    ErrorCode,
)
from openfl_aio.transport.http2.headers import HeaderDecoder, Headers

__all__ = ["Block", "HeaderBlocks"]

_HARD: Final = 4  # headers beyond the limit end their call; beyond so many times the limit, the connection


class Block(NamedTuple):
    """A whole header block, decoded. ``too_long``: beyond what a call may have."""

    stream_id: int
    ends: bool  # the stream, for the peer
    fields: Headers
    too_long: bool


class HeaderBlocks:
    """Puts blocks together and decodes them, in the order in which they came.

    ``started`` is when the block under way began, None between blocks; ``stream_id`` whose it is. All methods raise
    `ConnectionFault`.
    """

    __slots__ = ("_block", "_continuations", "_decoder", "_flags", "_limits", "started", "stream_id")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._decoder = HeaderDecoder(_HARD * limits.max_header_bytes)
        self._block = bytearray()
        self._flags = 0
        self._continuations = 0
        self.stream_id = 0
        self.started: float | None = None

    def begin(self, flags: int, stream_id: int, payload: bytes, now: float) -> Block | None:
        """Take a HEADERS frame; return its block if that is all of it."""
        if not stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "HEADERS on stream 0")
        if flags & PADDED:
            if not payload:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "padded HEADERS without the length of the padding")
            if payload[0] >= len(payload):
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "more padding than HEADERS")
            payload = payload[1 : len(payload) - payload[0]]
        if flags & PRIORITY_FLAG:
            if len(payload) < 5:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for their priority")
            if int.from_bytes(payload[:4], "big") & 0x7FFFFFFF == stream_id:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a stream that depends on itself")
            payload = payload[5:]
        self._check_size(len(payload))
        if flags & END_HEADERS:
            return self._decode(flags, stream_id, payload)
        self.started, self.stream_id, self._flags = now, stream_id, flags
        self._block = bytearray(payload)
        self._continuations = 0
        return None

    def go_on(self, flags: int, payload: bytes) -> Block | None:
        """Take a CONTINUATION frame of the block under way; return the block if it is the last."""
        if self.started is None:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of nothing")
        self._continuations += 1
        if self._continuations > self._limits.max_continuations:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many CONTINUATION frames")
        self._block += payload
        self._check_size(len(self._block))
        if not flags & END_HEADERS:
            return None
        block, self._block, self.started = bytes(self._block), bytearray(), None
        return self._decode(self._flags, self.stream_id, block)

    def _check_size(self, size: int) -> None:
        if size > _HARD * self._limits.max_header_bytes:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "the header block is too long")

    def _decode(self, flags: int, stream_id: int, payload: bytes) -> Block:
        fields, size = self._decoder.decode(payload)
        return Block(stream_id, bool(flags & END_STREAM), fields, size > self._limits.max_header_bytes)
