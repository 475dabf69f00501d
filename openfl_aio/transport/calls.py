"""Calls on the server: found by their path, known by their caller, and answered with a status whatever happens."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import anyio
import grpclib.const
import grpclib.server
from grpclib.const import Status
from grpclib.encoding.base import GRPC_CONTENT_TYPE
from grpclib.exceptions import GRPCError, StreamTerminatedError
from grpclib.metadata import Deadline, decode_metadata, encode_grpc_message, encode_metadata
from h2.exceptions import StreamClosedError
from multidict import MultiDict

from openfl_aio.config import Limits
from openfl_aio.errors import DeadlineExceededError, MalformedMessageError, OpenFLAioError, StorageFullError
from openfl_aio.transport.codec import StrictCodec, decode_message
from openfl_aio.transport.http2.connection import Connection
from openfl_aio.transport.http2.headers import Headers
from openfl_aio.transport.http2.messages import BufferPool
from openfl_aio.transport.http2.stream import CompressedMessageError
from openfl_aio.transport.http2.stream import Stream as H2Stream
from openfl_aio.transport.identity import Caller, as_caller, identify
from openfl_aio.transport.metadata import as_request
from openfl_aio.transport.refusals import Refusals, peer_of
from openfl_aio.transport.roles import Roles
from openfl_aio.transport.status import is_internal, status_of
from openfl_aio.wire import codec
from openfl_aio.wire.messages import DataStream, director

__all__ = ["WAITING_METHODS", "Calls", "ServerStream"]

logger = logging.getLogger(__name__)

DENIED: Final = "the certificate is no longer valid: it was revoked; ask the operator of the federation for a new one"
STOPPING: Final = "the server is stopping; try again"

# calls that may wait long before they answer: when the server stops they are told at once, for their answer is
# state that can be asked for again
WAITING_METHODS: Final = frozenset(
    {"GetTasks", "GetAggregatedTensor", "GetTensor", "GetTensors", "WaitExperiment", "GetMetricStream"}
)

# calls that are much work for few bytes: those of one connection are served one after the other
HEAVY_METHODS: Final = frozenset({"GetTensors"})

# messages that hold a model, every other request is bounded by Limits.max_request_bytes
LARGE_REQUESTS: Final = (director.ExperimentInfo,)

FULL_PAUSE: Final = (5.0, 15.0)  # seconds: with every try a 1.6 client sends a model, which a full disk does not take
JITTER: Final = (0.75, 1.25)  # of a refusal's delay: peers that were refused together shall not come again together
LOGGED_CHARACTERS: Final = 300  # of a refusal's reason, which may have a peer's text in it
STOCK_AGENT: Final = "grpc-python/"  # with the slash: grpclib, and so we, are "grpc-python-grpclib/"
REFUSALS: Final = frozenset(
    {
        Status.INVALID_ARGUMENT,
        Status.NOT_FOUND,
        Status.PERMISSION_DENIED,
        Status.UNAUTHENTICATED,
        Status.FAILED_PRECONDITION,
        Status.RESOURCE_EXHAUSTED,
        Status.INTERNAL,
        Status.UNIMPLEMENTED,
    }
)
RESULTS: Final = frozenset({"SendLocalTaskResults"})  # a round waits for them
STRANGERS: Final = frozenset({Status.PERMISSION_DENIED, Status.UNAUTHENTICATED})  # whom an operator wants to hear of
_ANSWER: Final = [(":status", "200"), ("content-type", f"{GRPC_CONTENT_TYPE}+{StrictCodec.__content_subtype__}")]
_CONTENT_TYPES: Final = frozenset({GRPC_CONTENT_TYPE, f"{GRPC_CONTENT_TYPE}+{StrictCodec.__content_subtype__}"})


class ServerStream(grpclib.server.Stream[Any, Any]):
    """grpclib's server stream over our data plane: the same to handlers, with messages that are not copied.

    A ``DataStream`` is valid until the next one is asked for: its payload is a view of memory that is used again.
    """

    _stream: Any  # grpclib names its own class; ours has the methods of it that are used
    after_message: Callable[[], None] | None = None  # called once the message being sent is out
    answering = False  # whether a message is being sent

    async def recv_message(self) -> Any:
        """Return the next message, or None after the last of a stream.

        Raises `MessageTooLargeError`, `MalformedMessageError` (also for a unary call without a message), and
        `StreamTerminatedError` if the call is given up.
        """
        data = await self._stream.receive()
        if data is None:
            if not self._cardinality.client_streaming:
                raise MalformedMessageError("the call ended before its message came")
            return None
        if not self._cardinality.client_streaming and self._stream.record.inbound.more:
            raise MalformedMessageError("expected one message, got more")
        message = await decode_message(self._codec, data, self._recv_type)
        (message,) = await self._dispatch.recv_message(message)
        self._messages_received += 1
        return message

    async def send_initial_metadata(self, *, metadata: Any = None) -> None:
        """See grpclib's."""
        if self._send_initial_metadata_done:
            raise grpclib.exceptions.ProtocolError("Initial metadata was already sent")
        (metadata,) = await self._dispatch.send_initial_metadata(MultiDict(metadata or ()))
        await self._stream.send_headers([*_ANSWER, *encode_metadata(metadata)] if metadata else _ANSWER)
        self._send_initial_metadata_done = True

    async def send_message(self, message: Any) -> None:
        """Send ``message``; large values in it leave as they are, so they must not change until this returns."""
        if not self._send_initial_metadata_done:
            await self.send_initial_metadata()
        if self._send_message_done and not self._cardinality.server_streaming:
            raise grpclib.exceptions.ProtocolError("Message was already sent")
        (message,) = await self._dispatch.send_message(message)
        self.answering = True
        try:
            await self._stream.send(codec.encode_parts(message))
        finally:
            if self._cardinality.server_streaming:
                self.answering = False
                if self.after_message is not None:
                    self.after_message()
        self._send_message_done = True
        self._messages_sent += 1

    async def finish(self, status: Status, text: str | None, extra: Headers | None = None) -> None:
        """Send the trailers, unless the handler did."""
        if self._send_trailing_metadata_done or self._cancel_done:
            return
        headers: Headers = [] if self._send_initial_metadata_done else list(_ANSWER)
        headers.append(("grpc-status", str(status.value)))
        if text is not None:
            headers.append(("grpc-message", encode_grpc_message(text)))
        (metadata,) = await self._dispatch.send_trailing_metadata(
            MultiDict(), status=status, status_message=text, status_details=None
        )
        if metadata:
            headers += encode_metadata(metadata)
        if extra:
            headers += extra
        await self._stream.send_headers(headers, end_stream=True)
        self._send_trailing_metadata_done = True


class _Call:
    """One call in flight. ``verdict`` is what it is told when it is ended from outside; None if nobody listens."""

    __slots__ = ("method", "server_stream", "stream", "task", "verdict")

    def __init__(self, stream: H2Stream, method: str) -> None:
        self.stream = stream
        self.method = method
        self.task: asyncio.Task[None] | None = None
        self.server_stream: ServerStream | None = None
        self.verdict: GRPCError | None = None

    @property
    def waiting(self) -> bool:
        return self.method.rpartition("/")[2] in WAITING_METHODS

    def end(self, verdict: GRPCError | None) -> None:
        """Cancel the handler; its caller gets ``verdict``."""
        if self.task is not None and not self.task.done():
            self.verdict = verdict
            self.task.cancel()

    def end_soon(self, verdict: GRPCError) -> None:
        """Do the same, but let the message that is being sent go out whole."""
        stream = self.server_stream
        if stream is not None and stream.answering:
            stream.after_message = lambda: self.end(verdict)
        else:
            self.end(verdict)

    def abandoned(self, reason: str) -> None:
        """Nobody waits for the answer any more."""
        self.stream.connection.in_turn(lambda: self.end(None))


class Calls:
    """Every call in flight on one server, and how each is answered.

    ``mapping`` is grpclib's: path -> handler, cardinality and message types. ``dispatch`` its events. ``roles``: who
    may call what; None leaves that to the handlers.
    """

    def __init__(
        self,
        mapping: Mapping[str, grpclib.const.Handler],
        limits: Limits,
        *,
        dispatch: Any,
        buffers: BufferPool,
        roles: Roles | None = None,
    ) -> None:
        self._roles = roles
        self._refusals = Refusals()
        self._mapping = mapping
        self._limits = limits
        self._dispatch = dispatch
        self._buffers = buffers
        self._codec = StrictCodec(limits)
        self._active: set[_Call] = set()
        self._uploads = asyncio.Semaphore(limits.max_uploads)
        self._stopping = False
        self._idle = asyncio.Event()

    def __len__(self) -> int:
        return len(self._active)

    def prepare(self, stream: H2Stream, headers: Headers) -> None:
        """Set what may be received on ``stream``, before any of it is."""
        path = next((value for name, value in headers if name == ":path"), "")
        handler = self._mapping.get(path)
        if handler is None:
            return
        inbound = stream.record.inbound
        if handler.request_type in LARGE_REQUESTS:
            inbound.max_bytes = self._limits.max_message_bytes
        elif handler.request_type is DataStream:
            inbound.pool = self._buffers

    def accept(self, stream: H2Stream, headers: Headers) -> None:
        """Begin to answer a call."""
        fields = dict(headers)
        call = _Call(stream, fields[":path"])
        self._active.add(call)
        stream.on_reset = call.abandoned
        call.task = stream.connection.loop.create_task(self._answer(call, headers, fields))
        call.task.add_done_callback(lambda task: self._done(call, task))

    def _done(self, call: _Call, task: asyncio.Task[None]) -> None:
        # here and not in the task, which may be cancelled before it ever ran
        self._active.discard(call)
        stream, call.stream.on_reset = call.stream, None
        if stream.closable:
            stream.reset_nowait()  # the answer is complete, whatever the peer still sends
        stream.release()
        call.task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("cannot answer %s", call.method, exc_info=error)
        if not self._active:
            self._idle.set()

    async def _answer(self, call: _Call, headers: Headers, fields: dict[str, str]) -> None:
        try:
            refused = _refuse(fields, self._mapping)
            if refused is not None:
                call.stream.handled()
                await call.stream.send_headers(refused, end_stream=True)
                return
            await self._serve(call, headers, fields)
        except StreamClosedError:
            pass  # the peer is gone, and with it everybody who would want to know

    async def _serve(self, call: _Call, headers: Headers, fields: dict[str, str]) -> None:
        handler, connection = self._mapping[call.method], call.stream.connection
        stream = call.server_stream = ServerStream(
            call.stream,  # type: ignore[arg-type]
            call.method,
            handler.cardinality,
            handler.request_type,
            handler.reply_type,
            codec=self._codec,
            status_details_codec=None,
            dispatch=self._dispatch,
            user_agent=fields.get("user-agent"),
        )
        timer: asyncio.TimerHandle | None = None
        try:
            stream.deadline = Deadline.from_headers(headers)
            stream.metadata = decode_metadata(headers)
        except ValueError as exc:
            call.stream.handled()
            await stream.finish(Status.INTERNAL, f"bad request headers: {exc}"[:200])
            return
        if stream.deadline is not None:
            timer = connection.loop.call_later(stream.deadline.time_remaining(), call.end, _late())
        refusal: GRPCError | None = None
        extra: Headers | None = None
        full = False
        try:
            await self._handle(stream, handler, fields, connection)
            if not stream._send_message_done and not handler.cardinality.server_streaming:
                raise TypeError(f"the handler of {call.method} returned without an answer")
        except asyncio.CancelledError:
            if call.verdict is None or call.task is None:
                raise
            call.task.uncancel()
            refusal = call.verdict
        except Exception as exc:
            error = _single(exc)
            # else the peer gave the call up, before or while it was answered
            if not isinstance(error, (StreamTerminatedError, StreamClosedError)):
                refusal = self._answer_for(error, call.method, connection)
                full = isinstance(error, StorageFullError)
                if isinstance(error, CompressedMessageError):
                    refusal = GRPCError(Status.UNIMPLEMENTED, str(error))
                    extra = [("grpc-accept-encoding", "identity")]
            _let_go(exc)
            del error
            if refusal is None:
                return
        finally:
            if timer is not None:
                timer.cancel()
        if refusal is None:
            call.stream.handled()
            await stream.finish(Status.OK, None)
            return
        if refusal.status in REFUSALS and not self._stopping:
            await self._pause(call, impatient=STOCK_AGENT in (stream.user_agent or ""), full=full)
        call.stream.handled()
        await stream.finish(refusal.status, refusal.message, extra)

    async def _handle(
        self, stream: ServerStream, handler: grpclib.const.Handler, fields: dict[str, str], connection: Connection
    ) -> None:
        if self._stopping:
            raise GRPCError(Status.UNAVAILABLE, STOPPING)
        if connection.denied_since is not None:
            raise _denied()
        caller = self._caller(stream, connection.address)
        if self._roles is not None:
            self._roles.check(stream._method_name, caller)
        stream.metadata, method = await self._dispatch.recv_request(
            stream.metadata,
            handler.func,
            method_name=stream._method_name,
            deadline=stream.deadline,
            content_type=fields["content-type"],
            user_agent=stream.user_agent,
            peer=stream.peer,
        )
        with as_caller(caller), as_request(stream.metadata):
            if handler.cardinality.client_streaming:
                await self._upload(stream, method)
            elif stream._method_name.rpartition("/")[2] in HEAVY_METHODS:
                async with connection.heavy:
                    await method(stream)
            else:
                await method(stream)

    async def _upload(self, stream: ServerStream, method: Callable[[Any], Awaitable[None]]) -> None:
        """Read an upload when it is its turn; until then it has no more than the first window."""
        connection = stream._stream.connection
        if connection.uploads >= self._limits.max_uploads_per_connection:
            raise GRPCError(
                Status.RESOURCE_EXHAUSTED,
                f"expected at most {self._limits.max_uploads_per_connection} uploads at once on one connection, got more",
            )
        connection.uploads += 1
        try:
            async with self._uploads:
                await method(stream)
        finally:
            connection.uploads -= 1

    def _caller(self, stream: ServerStream, address: str) -> Caller:
        """Return who calls: by certificate the same for the whole connection, else whoever the metadata say."""
        connection: Connection = stream._stream.connection
        if connection.caller is not None:
            return connection.caller
        # an optional certificate that was not shown is an empty mapping or None: the name is then a claim
        certificate = connection.get_extra_info("peercert") or None
        assert stream.metadata is not None
        caller = identify(certificate=certificate, metadata=stream.metadata, address=address)
        if caller.authenticated:
            connection.caller = caller
        return caller

    async def _pause(self, call: _Call, *, impatient: bool, full: bool) -> None:
        """Let a peer that is refused often wait; a call that is ended from outside meanwhile still gets its answer."""
        connection: Connection = call.stream.connection
        peer = peer_of(connection.caller, connection.address)
        delay = self._refusals.delay(peer, connection.now(), impatient=impatient)
        if not delay:
            return
        seconds = random.uniform(*FULL_PAUSE) if full and impatient else delay * random.uniform(*JITTER)
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            if call.verdict is None or call.task is None:
                raise
            call.task.uncancel()
        finally:
            self._refusals.end_wait(peer)

    def _answer_for(self, exc: Exception, method: str, connection: Connection) -> GRPCError:
        """Return what the peer is told about ``exc``; only what is nobody's fault but ours is logged with a traceback."""
        if isinstance(exc, GRPCError):
            return exc
        if isinstance(exc, OpenFLAioError) and not is_internal(exc):
            status, text = status_of(exc)
            reason = f"{method} refused: {status.name}: {str(exc)[:LOGGED_CHARACTERS]!r}"
            self._log(self._level(status, method, reason, connection), reason, connection)
            return GRPCError(status, text)
        if isinstance(exc, TimeoutError):
            return GRPCError(*status_of(DeadlineExceededError("the server did not finish in time")))
        correlation = secrets.token_hex(8)
        self._log(logging.ERROR, f"internal error {correlation}: {method}", connection, exc)
        return GRPCError(Status.INTERNAL, f"internal error {correlation}")

    def _level(self, status: Status, method: str, reason: str, connection: Connection) -> int:
        """Return how loudly a refusal is told. One of results, which may be sent again for ever, once for each reason."""
        if status in STRANGERS:
            return logging.WARNING
        if status not in REFUSALS or method.rpartition("/")[2] not in RESULTS:
            return logging.DEBUG
        peer = peer_of(connection.caller, connection.address)
        return logging.WARNING if self._refusals.is_new(peer, reason, connection.now()) else logging.DEBUG

    def _log(self, level: int, what: str, connection: Connection, exc: Exception | None = None) -> None:
        """Write one line, unless its peer has caused too many."""
        if not logger.isEnabledFor(level):
            return
        peer = peer_of(connection.caller, connection.address)
        left_out = self._refusals.lines.allow(peer, connection.now())
        if left_out is not None:
            more = f" (and {left_out:,} more)" if left_out else ""
            logger.log(level, "%s from %s at %s%s", what, peer, connection.address, more, exc_info=exc)

    def tell_left_out(self, now: float) -> None:
        """Say of how many refusals no line was written, once a flood of them is over."""
        for peer, count in self._refusals.lines.left_out(now):
            logger.warning("%s: and %s more refused calls", peer, f"{count:,}")

    def deny(self, connection: Connection) -> None:
        """End every call of ``connection``, whose certificate is denied from now on. Those that come are refused."""
        for call in list(self._active):
            # a call that has not begun would be ended without an answer; it is refused as soon as it does
            if call.stream.connection is connection and call.server_stream is not None:
                call.end_soon(_denied())

    async def drain(self, seconds: float) -> None:
        """Refuse new calls, end waiting ones, let the others finish for ``seconds``, then end those too."""
        self._stopping = True
        for call in list(self._active):
            if call.waiting:
                call.end_soon(_stopping())
        await self._until_idle(seconds)
        for call in list(self._active):
            call.end(_stopping())
        await self._until_idle(1.0)

    async def _until_idle(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            while self._active:
                self._idle.clear()
                await self._idle.wait()


def _late() -> GRPCError:
    return GRPCError(Status.DEADLINE_EXCEEDED, "the deadline of the call passed")


def _stopping() -> GRPCError:
    return GRPCError(Status.UNAVAILABLE, STOPPING)


def _denied() -> GRPCError:
    return GRPCError(Status.UNAUTHENTICATED, DENIED)


def _refuse(fields: dict[str, str], mapping: Mapping[str, grpclib.const.Handler]) -> Headers | None:
    """Return the answer to a request that is no call of ours, by gRPC's rules for HTTP/2, or None."""
    if fields[":method"] != "POST":
        return [(":status", "405")]
    if fields.get("content-type", "") not in _CONTENT_TYPES:
        what = "Unacceptable" if "content-type" in fields else "Missing"
        return [
            (":status", "415"),
            ("grpc-status", str(Status.UNKNOWN.value)),
            ("grpc-message", f"{what} content-type header"),
        ]
    if fields.get("te") != "trailers":
        text = 'Required "te: trailers" header is missing'
        return [(":status", "400"), ("grpc-status", str(Status.UNKNOWN.value)), ("grpc-message", text)]
    if fields[":path"] not in mapping:
        return [
            *_ANSWER,
            ("grpc-status", str(Status.UNIMPLEMENTED.value)),
            ("grpc-message", "Method not found"),
        ]
    return None


def _single(exc: Exception) -> Exception:
    """Return the only error inside nested exception groups, or ``exc``: handlers may use task groups."""
    while isinstance(exc, ExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    return exc


def _let_go(exc: BaseException | None) -> None:
    """Take the frames from an error that was dealt with.

    They refer to it in turn, and would keep the message that it is about in memory until a full garbage collection.
    """
    while exc is not None:
        exc.__traceback__ = None
        exc = exc.__context__
