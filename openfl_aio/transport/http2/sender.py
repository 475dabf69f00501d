"""Frames on their way out: what is queued, what the peer's windows allow, and how large frames may be."""

from __future__ import annotations

from openfl_aio.transport.http2 import frames
from openfl_aio.transport.http2.frames import (
    CONTINUATION,
    DATA,
    DEFAULT_FRAME_BYTES,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    pack_head,
)
from openfl_aio.transport.http2.headers import NO_TABLE, Headers, encode_headers
from openfl_aio.transport.http2.outgoing import Outgoing, Piece
from openfl_aio.transport.http2.streams import StreamRecord

__all__ = ["Sender"]


class Sender:
    """``queue`` is what to send next, in order. ``window`` and ``max_bytes`` are the peer's: for DATA, and for one frame."""

    __slots__ = ("_table_told", "max_bytes", "queue", "window")

    def __init__(self) -> None:
        self.queue: list[bytes] = []
        self.window = DEFAULT_WINDOW
        self.max_bytes = DEFAULT_FRAME_BYTES
        self._table_told = False

    def headers(self, stream_id: int, fields: Headers, *, end: bool) -> None:
        """Queue headers or trailers."""
        block = encode_headers(tuple(fields))
        if not self._table_told:
            self._table_told = True
            block = NO_TABLE + block
        flags = END_STREAM if end else 0
        most = self.max_bytes
        if len(block) <= most:
            self.queue.append(pack_head(len(block) << 8 | HEADERS, flags | END_HEADERS, stream_id) + block)
            return
        kind = HEADERS
        for start in range(0, len(block), most):
            if start + most >= len(block):
                flags |= END_HEADERS
            self.queue.append(frames.frame(kind, flags, stream_id, block[start : start + most]))
            kind, flags = CONTINUATION, 0

    def room(self, record: StreamRecord) -> int:
        """Return how many bytes of DATA the peer takes on a stream now."""
        return max(0, min(record.out_window, self.window))

    def data(self, record: StreamRecord, outgoing: Outgoing, most: int, *, end: bool) -> list[Piece]:
        """Return frames with as much of ``outgoing`` as the windows and ``most`` bytes allow.

        They belong behind the queue. With ``end`` the frame with the last byte ends the stream.
        """
        room = min(self.room(record), most, outgoing.left)
        record.out_window -= room
        self.window -= room
        pieces: list[Piece] = []
        while room:
            size = min(room, self.max_bytes)
            room -= size
            content = outgoing.take(size)
            flags = END_STREAM if end and not outgoing.left else 0
            pieces.append(pack_head(size << 8 | DATA, flags, record.id))
            pieces += content
        return pieces
