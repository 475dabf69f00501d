"""Bytes into frames (RFC 9113, section 4): control frames whole, the payload of DATA as it comes and where it belongs."""

from __future__ import annotations

from typing import Final, Protocol

from openfl_aio.transport.http2.frames import (
    CONTINUATION,
    DATA,
    HEADER_BYTES,
    PADDED,
    PREFACE,
    ConnectionFault,
    ErrorCode,
    read_head,
)
from openfl_aio.transport.http2.messages import OWN_MEMORY, Inbound

__all__ = ["FrameReader", "FrameTaker"]

_MAX_CONTROL_BYTES: Final = 64 * 1024  # of any frame but DATA: the frame size that we advertise is meant for DATA


class FrameTaker(Protocol):
    """Who takes the frames. All may raise `ConnectionFault`."""

    def take_frame(self, kind: int, flags: int, stream_id: int, payload: memoryview) -> None:
        """Take any frame but DATA; ``payload`` is valid during the call."""

    def begin_data(self, flags: int, stream_id: int, length: int, content: int) -> Inbound | None:
        """Take the head of a DATA frame of ``length`` bytes, ``content`` of them no padding; return who gets those."""

    def data_received(self) -> None:
        """There is more in what `begin_data` returned."""

    def end_data(self) -> None:
        """The DATA frame is complete."""

    def take_unknown(self, kind: int, stream_id: int) -> None:
        """Take note of a frame of unknown type, which is skipped."""


class FrameReader:
    """Cuts what a peer sends into frames, whatever the pieces in which it arrives."""

    __slots__ = ("_content", "_inbound", "_max_bytes", "_padding", "_partial", "_preface", "_skip", "_taker")

    def __init__(self, taker: FrameTaker, *, max_bytes: int, preface: bool) -> None:
        self._taker = taker
        self._max_bytes = max_bytes
        self._preface = preface  # whether the client's preface is still to come
        self._partial = bytearray()
        self._content = 0  # bytes still to come of the DATA under way,
        self._padding = 0  # and of its padding
        self._skip = 0  # bytes still to come of an unknown frame
        self._inbound: Inbound | None = None

    def __repr__(self) -> str:
        return f"<FrameReader content={self._content} padding={self._padding} skip={self._skip}>"

    @property
    def began(self) -> bool:
        """Whether the peer's preface came."""
        return not self._preface

    def target(self) -> memoryview | None:
        """Return where the next bytes may go without a copy, or None: then give them to `receive`."""
        if self._content < OWN_MEMORY or self._inbound is None:
            return None
        return self._inbound.target(self._content)

    def advance(self, count: int) -> None:
        """Take note that ``count`` bytes were received into the `target`."""
        assert self._inbound is not None
        self._inbound.advance(count)
        self._content -= count
        self._taker.data_received()
        if not self._content and not self._padding:
            self._end_data()

    def receive(self, view: memoryview) -> None:
        """Take bytes; ``view`` may be reused afterwards. Raises `ConnectionFault`."""
        position, end = 0, len(view)
        while position < end:
            if self._content:
                position = self._take_content(view, position, end)
            elif self._padding:
                count = min(self._padding, end - position)
                self._padding -= count
                position += count
                if not self._padding:
                    self._end_data()
            elif self._skip:
                count = min(self._skip, end - position)
                self._skip -= count
                position += count
            elif self._partial or self._preface or end - position < HEADER_BYTES:
                position = self._gather(view, position, end)
            else:
                position = self._take_frame(view, position, end)

    def _take_content(self, view: memoryview, position: int, end: int) -> int:
        count = min(self._content, end - position)
        self._content -= count
        if self._inbound is not None:
            self._inbound.feed(view[position : position + count])
            self._taker.data_received()
        if not self._content and not self._padding:
            self._end_data()
        return position + count

    def _end_data(self) -> None:
        self._inbound = None
        self._taker.end_data()

    def _take_frame(self, view: memoryview, position: int, end: int) -> int:
        """Take the frame at ``position``, or its head if the rest is streamed; return how far."""
        word, flags, stream_id = read_head(view, position)
        kind, length = word & 0xFF, word >> 8
        stream_id &= 0x7FFFFFFF
        if length > self._max_bytes:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
        needed = _needed(kind, flags, length)
        start = position + HEADER_BYTES
        if end - start < needed:
            return self._gather(view, position, end)
        if kind == DATA:
            self._begin_data(flags, stream_id, length, view[start] if needed else None)
        elif kind > CONTINUATION:
            self._taker.take_unknown(kind, stream_id)
            self._skip = length
        elif length > _MAX_CONTROL_BYTES:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"a frame of {length} bytes that is not DATA")
        else:
            self._taker.take_frame(kind, flags, stream_id, view[start : start + length])
        return start + needed

    def _begin_data(self, flags: int, stream_id: int, length: int, padding: int | None) -> None:
        content = length
        if flags & PADDED:
            if padding is None:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "padded DATA without the length of its padding")
            content -= 1 + padding
            if content < 0:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "more padding than DATA")
        self._inbound = self._taker.begin_data(flags, stream_id, length, content)
        self._content, self._padding = content, padding or 0
        if not content and not self._padding:
            self._end_data()

    def _gather(self, view: memoryview, position: int, end: int) -> int:
        """Take the bytes of a frame that does not lie in one piece; return how far."""
        partial = self._partial
        while position < end:
            wanted = self._wanted()
            taken = view[position : position + wanted - len(partial)]
            position += len(taken)
            partial += taken
            if self._preface and not PREFACE.startswith(partial):
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "this is no HTTP/2")
            if len(partial) < wanted:
                break
            if self._preface:
                self._preface = False
                partial.clear()
                break
            if self._wanted() == wanted:
                self._partial = bytearray()
                self._take_frame(memoryview(partial), 0, wanted)
                break
        return position

    def _wanted(self) -> int:
        """Return how many bytes of the frame that has begun are needed to go on."""
        if self._preface:
            return len(PREFACE)
        if len(self._partial) < HEADER_BYTES:
            return HEADER_BYTES
        word, flags, _ = read_head(self._partial, 0)
        if word >> 8 > self._max_bytes:
            return HEADER_BYTES  # it is refused, whatever follows
        return HEADER_BYTES + _needed(word & 0xFF, flags, word >> 8)


def _needed(kind: int, flags: int, length: int) -> int:
    """Return how many bytes of a payload must lie in one piece: none of what is streamed, skipped or refused."""
    if kind == DATA:
        return 1 if flags & PADDED and length else 0
    return 0 if kind > CONTINUATION or length > _MAX_CONTROL_BYTES else length
