"""One call's stream: what grpclib's calls, on both sides, send and receive through.

It has the methods of `grpclib.protocol.Stream` that grpclib's servers and clients use, and beside them `receive`, which
gives whole messages, and `send`, which takes one as a list of buffers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError
from h2.exceptions import StreamClosedError

from openfl_aio.errors import MalformedMessageError, MessageTooLargeError
from openfl_aio.transport.http2.frames import ErrorCode
from openfl_aio.transport.http2.headers import Headers
from openfl_aio.transport.http2.messages import PREFIX, Fault, Inbound, Message
from openfl_aio.transport.http2.outgoing import Outgoing, Piece
from openfl_aio.transport.http2.streams import StreamRecord

if TYPE_CHECKING:
    from openfl_aio.transport.http2.connection import Connection

__all__ = ["CompressedMessageError", "Stream"]

TURN_BYTES: Final = 2 * 1024 * 1024 + 4096
"""What one stream may send before the others have their turn."""

IN_A_ROW: Final = 16
"""How many messages a stream may give without waiting: then the others have their turn."""

STATUSES: Final[dict[int | None, Status]] = {
    ErrorCode.REFUSED_STREAM: Status.UNAVAILABLE,
    ErrorCode.ENHANCE_YOUR_CALM: Status.RESOURCE_EXHAUSTED,
}
"""What the codes of RST_STREAM mean to a client, where it is more than that the call is lost (gRPC over HTTP/2, Errors)."""

_JOINED_BYTES: Final = 16 * 1024  # up to here a copy is cheaper than a list of buffers
_PROGRESS_BYTES: Final = 32 * 1024  # what counts as progress; less would let a peer hold on to an answer for ever


class CompressedMessageError(MalformedMessageError):
    """A message is compressed, which nobody asked for."""


class Stream:
    """See the module. ``wrapper`` is grpclib's, on clients; ``on_reset`` is called with the reason, on servers."""

    __slots__ = (
        "_blocked",
        "_called",
        "_handled",
        "_in_a_row",
        "_invited",
        "_left_before",
        "_read_before",
        "_reading",
        "_reading_since",
        "_sending",
        "_sending_since",
        "_waiting",
        "connection",
        "headers",
        "lost",
        "max_bytes",
        "on_reset",
        "record",
        "trailers",
        "wrapper",
    )

    record: StreamRecord

    def __init__(self, connection: Connection, *, max_bytes: int, record: StreamRecord | None = None) -> None:
        self.connection = connection
        self.max_bytes = max_bytes
        self.wrapper: Any = None
        self.on_reset: Callable[[str], None] | None = None
        self.lost: str | None = None  # why the stream is gone
        self.headers: Headers | None = None
        self.trailers: Headers | None = None
        self._waiting: asyncio.Future[None] | None = None  # for headers or trailers
        self._reading: asyncio.Future[None] | None = None
        # the last of these that is woken, or will be when it is its turn
        self._called: asyncio.Future[None] | None = None
        self._sending: asyncio.Future[None] | None = None
        self._invited: asyncio.Future[None] | None = None  # likewise
        self._blocked: Outgoing | None = None  # what is being sent
        self._in_a_row = 0
        self._reading_since = self._sending_since = 0.0
        self._read_before = self._left_before = 0
        self._handled = record is None  # whether no handler (server) is counted for it
        if record is not None:
            self.record = record
            record.user = self

    def __repr__(self) -> str:
        return f"<Stream {self.id} of {self.connection!r}>"

    @property
    def id(self) -> int | None:
        """The number of the stream, None before it is open."""
        return self.record.id if hasattr(self, "record") else None

    @property
    def _transport(self) -> Stream:
        return self  # grpclib asks it whether it is closing

    def is_closing(self) -> bool:
        """Whether nothing more can come: neither is it here already nor is there a connection."""
        return self.trailers is None and self.connection.is_closing()

    # ---------------------------------------------------------------------------------------------- receiving

    async def receive(self) -> Message | None:
        """Return the next message, or None after the last; bytes, or a read-only view of memory of its own.

        On a stream whose ``record.inbound`` has a pool the view is valid until the next call of this method.

        Raises `CompressedMessageError`, `MessageTooLargeError`, `MalformedMessageError` for one that is cut short, and
        grpclib's `StreamTerminatedError` if the stream was reset or the connection is lost.
        """
        inbound = self.record.inbound
        inbound.release()
        self._in_a_row += 1
        if self._in_a_row > IN_A_ROW:
            self._in_a_row = 0
            await asyncio.sleep(0)
        while True:
            message = inbound.take()
            if message is not None:
                if not inbound.available:
                    self.connection.settle(self.record)
                return message
            if inbound.fault is not None:
                raise _error_of(inbound)
            if inbound.ended:
                self.connection.settle(self.record)
                return None
            if self.lost is not None:
                raise StreamTerminatedError(self.lost)
            self.connection.settle(self.record)
            await self._read_more()

    async def _read_more(self) -> None:
        self._reading_since, self._read_before = self.connection.now(), self.record.inbound.received
        self._reading = self.connection.loop.create_future()
        self._in_a_row = 0
        try:
            await self._reading
        finally:
            self._reading = None

    def data_received(self) -> None:
        """The connection received something for this stream."""
        reading = self._reading
        if reading is None:
            return
        self.connection.settle(self.record)
        inbound = self.record.inbound
        if reading is not self._called and (inbound.available or inbound.fault is not None or inbound.ended):
            self._called = reading
            self.connection.in_turn(partial(_wake, reading))

    async def recv_headers(self) -> Headers:
        """Return the answer's headers."""
        while self.headers is None:
            await self._wait()
        return self.headers

    async def recv_trailers(self) -> Headers:
        """Return the answer's trailers."""
        while self.trailers is None:
            await self._wait()
        return self.trailers

    async def _wait(self) -> None:
        if self.lost is not None:
            raise StreamTerminatedError(self.lost)
        if self.record.inbound.ended and self.headers is not None:
            raise MalformedMessageError("the answer ended without a status")
        self._waiting = self.connection.loop.create_future()
        try:
            await self._waiting
        finally:
            self._waiting = None

    def headers_received(self, headers: Headers) -> None:
        """The connection received the answer's headers."""
        self.headers = headers
        _wake(self._waiting)

    def trailers_received(self, headers: Headers) -> None:
        """The connection received the answer's trailers."""
        self.trailers = headers
        _wake(self._waiting)

    def ended(self) -> None:
        """The peer sends no more."""
        if self._reading is not None and self._reading is not self._called:
            self._called = self._reading
            self.connection.in_turn(partial(_wake, self._reading))
        _wake(self._waiting)

    # ---------------------------------------------------------------------------------------------- sending

    async def send_request(
        self, headers: Headers, end_stream: bool = False, *, _processor: object = None
    ) -> Callable[[], None]:
        """Open the stream (client) as soon as the server takes another, and return what lets go of it."""
        connection = self.connection
        await connection.until_open()
        self.record = connection.engine.open(headers, end=end_stream, max_bytes=self.max_bytes)
        self.record.user = self
        connection.opened()
        return self.release

    async def send_headers(self, headers: Headers, end_stream: bool = False) -> None:
        """Send headers or, with ``end_stream``, trailers."""
        if not self.connection.writable:
            self._sending_since, self._left_before = self.connection.now(), 0
            await self._until(lambda: self.connection.writable)
        self._check_open()
        self.connection.engine.send_headers(self.record, headers, end=end_stream)
        if self.connection.engine.streams:
            self.connection.flush_soon()
        else:
            self.connection.flush()  # the only call is answered: nothing can join it

    async def send_data(self, data: bytes, end_stream: bool = False) -> None:
        """Send a message with its prefix in one piece, as grpclib does."""
        await self._send([data], end=end_stream)

    async def send(self, parts: Sequence[Piece], *, end: bool = False) -> None:
        """Send one message, given as buffers that do not change until this returns, which are not copied."""
        await self._send([PREFIX.pack(0, sum(map(len, parts))), *parts], end=end)

    async def _send(self, parts: Sequence[Piece], *, end: bool) -> None:
        connection, record = self.connection, self.record
        engine = connection.engine
        size = sum(map(len, parts))
        if not size:
            self._check_open()
            engine.send_empty(record, end=end)
            connection.flush_soon()
            return
        outgoing = Outgoing(parts)
        if size <= _JOINED_BYTES and connection.writable and engine.sendable(record) >= size and record.local_open:
            engine.out.append(b"".join(engine.send_data(record, outgoing, size, end=end)))
            connection.flush_soon()
            return
        self._blocked = outgoing
        self._sending_since, self._left_before = connection.now(), size
        try:
            while outgoing.left:
                await self._until(lambda: connection.writable and engine.sendable(record) > 0)
                self._check_open()
                connection.write(engine.send_data(record, outgoing, TURN_BYTES, end=end))
                if not connection.writable:
                    await self._until(lambda: connection.writable)  # until then it is our memory that is being sent
                elif outgoing.left:
                    await self._next_turn()
        finally:
            self._blocked = None

    async def _next_turn(self) -> None:
        """Wait until the others had theirs: a server may have many peers who all take what they get."""
        turn = self.connection.loop.create_future()
        self.connection.in_turn(partial(_wake, turn))
        if turn.done():
            await asyncio.sleep(0)
        else:
            await turn

    async def _until(self, ready: Callable[[], bool]) -> None:
        connection = self.connection
        while not ready() and self.record.local_open and self.lost is None:
            self._sending = connection.loop.create_future()
            connection.senders.add(self)
            try:
                await self._sending
            finally:
                self._sending = None
                connection.senders.discard(self)

    def window_opened(self) -> None:
        """More may be sent."""
        if self._sending is not None and self._sending is not self._invited:
            self._invited = self._sending
            self.connection.in_turn(partial(_wake, self._sending))

    def _check_open(self) -> None:
        if not self.record.local_open or self.connection.is_closing():
            if self.wrapper is not None and self.lost is not None:  # what grpclib's client expects
                raise StreamTerminatedError(self.lost)
            raise StreamClosedError(self.record.id)

    async def end(self) -> None:
        """End our side of the stream."""
        self._check_open()
        self.connection.engine.send_empty(self.record, end=True)
        self.connection.flush_soon()

    async def reset(self, error_code: ErrorCode | None = None) -> None:
        """Give the stream up; without a code as a client who cancels, or as a server that has answered."""
        self.reset_nowait(error_code)

    def reset_nowait(self, error_code: ErrorCode | None = None) -> None:
        """Do the same without waiting."""
        if error_code is None:
            answered = self.connection.serves and not self.record.local_open
            error_code = ErrorCode.NO_ERROR if answered else ErrorCode.CANCEL
        self.connection.engine.reset(self.record, error_code)
        self.connection.flush_soon()

    @property
    def closable(self) -> bool:
        """Whether there is something left to give up."""
        return not self.record.closed and not self.connection.is_closing()

    # ---------------------------------------------------------------------------------------------- the end

    def terminated(self, reason: str, code: int | None = None) -> None:
        """The stream was reset with ``code``, or the connection is lost."""
        if self.lost is not None:
            return
        self.lost = reason
        if self.wrapper is not None:
            status = STATUSES.get(code)
            self.wrapper.cancel(StreamTerminatedError(reason) if status is None else GRPCError(status, reason))
        if self.on_reset is not None:
            self.on_reset(reason)  # which ends whoever waits
            return
        for waiter in (self._reading, self._waiting, self._sending):
            _wake(waiter)

    def stopped(self, reason: str) -> None:
        """The answer is complete, and the peer wants no more of the request (RFC 9113, section 8.1)."""
        self.lost = self.lost or reason
        _wake(self._sending)

    def handled(self) -> None:
        """The handler is done (server). To be said before the answer's end is: with that the peer may open the next stream."""
        if not self._handled:
            self._handled = True
            self.connection.engine.busy -= 1

    def release(self) -> None:
        """Let go of the stream: nobody reads it or writes to it any more."""
        self.handled()
        if hasattr(self, "record"):
            self.connection.settle(self.record)
            self.record.inbound.close()
            self.record.user = None
            self.connection.released()

    def stalled(self, now: float, seconds: float) -> bool:
        """Return whether the peer has let us wait for ``seconds``, for bytes or for room to send them."""
        if self._reading is not None:
            received = self.record.inbound.received
            if received > self._read_before or self.record.inbound.waiting:
                self._reading_since, self._read_before = now, received
            return now - self._reading_since >= seconds
        if self._sending is None:
            return False
        left = self._blocked.left if self._blocked is not None else 0
        if left and self._left_before - left >= min(_PROGRESS_BYTES, self._left_before):
            self._sending_since, self._left_before = now, left
        return now - self._sending_since >= seconds


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


def _error_of(inbound: Inbound) -> Exception:
    size = inbound.fault_bytes
    if inbound.fault is Fault.COMPRESSED:
        return CompressedMessageError("compressed messages are not supported; send with 'identity' encoding")
    if inbound.fault is Fault.TOO_LARGE:
        return MessageTooLargeError(f"message of {size} bytes; at most {inbound.max_bytes} bytes are accepted")
    what = f"a message of {size} bytes" if size else "the prefix of a message"
    return MalformedMessageError(f"the stream ended within {what}")
