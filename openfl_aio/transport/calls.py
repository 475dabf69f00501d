"""One call on the server: messages within limits, who calls, and an answer with the right status whatever happens."""

from __future__ import annotations

import logging
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
from grpclib.const import Status
from grpclib.events import RecvRequest
from grpclib.exceptions import GRPCError, StreamTerminatedError
from grpclib.server import Stream

from openfl_aio.config import Limits
from openfl_aio.errors import DeadlineExceededError, MalformedMessageError, OpenFLAioError
from openfl_aio.transport.frames import read_message
from openfl_aio.transport.identity import Caller, as_caller, identify
from openfl_aio.transport.status import is_internal, status_of

__all__ = ["WAITING_METHODS", "Calls", "CheckedStream"]

logger = logging.getLogger(__name__)

STOPPING: Final = "the server is stopping; try again"

# calls that may wait long before they answer: when the server stops they are told at once, for their answer is
# state that can be asked for again
WAITING_METHODS: Final = frozenset({"GetTasks", "GetAggregatedTensor", "WaitExperiment", "GetMetricStream"})

# a 1.6 client repeats a refused call at once and for ever: its refusals are slowed down, in seconds
REFUSAL_PAUSE: Final = (0.5, 1.5)
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
    }
)


class CheckedStream:
    """The part of grpclib's server stream that generated handlers use, with every message checked before it is read."""

    def __init__(self, stream: Stream[Any, Any], limits: Limits) -> None:
        self._stream = stream
        self._limits = limits
        self.answering = False  # whether a message is being sent
        self.after_message: Callable[[], None] | None = None  # called once the message being sent is out

    @property
    def metadata(self) -> Any:
        """The metadata that came with the call."""
        return self._stream.metadata

    async def recv_message(self) -> Any:
        """Return the next message, or None after the last of a stream.

        Raises like `read_message`, and `MalformedMessageError` for a unary call without a message.
        """
        stream = self._stream
        message = await read_message(stream._stream, stream._codec, stream._recv_type, self._limits)
        if message is None and not stream._cardinality.client_streaming:
            raise MalformedMessageError("the call ended before its message came")
        return message

    async def send_message(self, message: Any) -> None:
        """Send ``message``."""
        self.answering = True
        try:
            await self._stream.send_message(message)
        finally:
            if self._stream._cardinality.server_streaming:
                self.answering = False
                if self.after_message is not None:
                    self.after_message()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        message = await self.recv_message()
        if message is None:
            raise StopAsyncIteration
        return message


@dataclass(eq=False, slots=True)
class _Call:
    method: str
    stream: CheckedStream
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    @property
    def waiting(self) -> bool:
        return self.method.rpartition("/")[2] in WAITING_METHODS


class Calls:
    """Every call in flight on one server, and how each is answered."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._active: set[_Call] = set()
        self._stopping = False
        self._idle = anyio.Event()

    def __len__(self) -> int:
        return len(self._active)

    async def on_request(self, event: RecvRequest) -> None:
        """Wrap the handler of a call that begins; grpclib calls this in the task of the call."""
        if self._stopping:
            raise GRPCError(Status.UNAVAILABLE, STOPPING)
        handler, method = event.method_func, event.method_name
        address = _address(event.peer.addr())
        certificate, metadata, slow = event.peer.cert(), event.metadata, STOCK_AGENT in (event.user_agent or "")

        async def answer(stream: Stream[Any, Any]) -> None:
            try:
                # an optional certificate that was not shown is an empty mapping or None: the name is then a claim
                caller = identify(certificate=certificate or None, metadata=metadata, address=address)
                await self._run(handler, method, stream, caller)
            except (GRPCError, StreamTerminatedError) as exc:
                refusal = exc
            except Exception as exc:
                refusal = _answer_for(_single(exc), method, address)
            else:
                return
            if slow and isinstance(refusal, GRPCError) and refusal.status in REFUSALS and not self._stopping:
                await anyio.sleep(random.uniform(*REFUSAL_PAUSE))
            raise refusal

        event.method_func = answer

    async def _run(
        self, handler: Callable[[Any], Awaitable[None]], method: str, stream: Stream[Any, Any], caller: Caller
    ) -> None:
        call = _Call(method, CheckedStream(stream, self._limits))
        self._active.add(call)
        try:
            with as_caller(caller), call.scope:
                await handler(call.stream)
            if call.scope.cancelled_caught:
                raise GRPCError(Status.UNAVAILABLE, STOPPING)
        finally:
            self._active.discard(call)
            if not self._active:
                self._idle.set()

    async def drain(self, seconds: float) -> None:
        """Refuse new calls, end waiting ones, let the others finish for ``seconds``, then end those too."""
        self._stopping = True
        for call in self._active:
            if call.waiting and call.stream.answering:
                call.stream.after_message = call.scope.cancel
            elif call.waiting:
                call.scope.cancel()
        with anyio.move_on_after(seconds):
            await self._until_idle()
        for call in self._active:
            call.scope.cancel()
        with anyio.move_on_after(1.0):  # handlers that do not end when cancelled are left to grpclib
            await self._until_idle()

    async def _until_idle(self) -> None:
        while self._active:
            self._idle = anyio.Event()
            await self._idle.wait()


def _single(exc: Exception) -> Exception:
    """Return the only error inside nested exception groups, or ``exc``: handlers may use task groups."""
    while isinstance(exc, ExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    return exc


def _answer_for(exc: Exception, method: str, address: str) -> GRPCError:
    """Return what the peer is told about ``exc``; only what is nobody's fault but ours is logged with a traceback."""
    if isinstance(exc, GRPCError):
        return exc
    if isinstance(exc, StreamTerminatedError):
        return GRPCError(Status.CANCELLED, "the call was given up by the peer")
    if isinstance(exc, OpenFLAioError) and not is_internal(exc):
        status, text = status_of(exc)
        logger.debug("call refused: %s from %s: %s: %r", method, address, status.name, str(exc))
        return GRPCError(status, text)
    if isinstance(exc, TimeoutError):
        return GRPCError(*status_of(DeadlineExceededError("the server did not finish in time")))
    correlation = secrets.token_hex(8)
    logger.error("internal error %s: %s from %s", correlation, method, address, exc_info=exc)
    return GRPCError(Status.INTERNAL, f"internal error {correlation}")


def _address(peer: Any) -> str:
    """Return ``host:port`` of what the transport says about the peer."""
    if isinstance(peer, tuple) and len(peer) >= 2:
        return f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"
    return "unknown"
