"""Client channels, retries with an end, and our errors instead of the library's."""

from __future__ import annotations

import logging
import os
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, Self, TypeVar, cast

import anyio
import grpclib.client
import h2.exceptions
from grpclib.const import Cardinality
from grpclib.events import SendRequest, listen
from grpclib.exceptions import GRPCError, StreamTerminatedError
from grpclib.exceptions import ProtocolError as GrpclibProtocolError
from grpclib.metadata import Deadline
from multidict import MultiDict

from openfl_aio.config import Endpoint, Limits, RetryPolicy, Timeouts, TLSConfig
from openfl_aio.errors import (
    ConnectError,
    ConnectionLostError,
    DeadlineExceededError,
    LocalProtocolError,
    MalformedMessageError,
    OpenFLAioError,
    RemoteProtocolError,
    StorageFullError,
    TransportError,
)
from openfl_aio.pki import PeerCertificate
from openfl_aio.transport.budgets import LogLimiter
from openfl_aio.transport.codec import StrictCodec, decode_message
from openfl_aio.transport.credentials import Credentials
from openfl_aio.transport.http2.connection import Connection
from openfl_aio.transport.http2.shared import Shared
from openfl_aio.transport.http2.tls import TLSProtocol
from openfl_aio.transport.status import error_from_status
from openfl_aio.transport.wrappers import CleanDeadlineWrapper, CleanWrapper
from openfl_aio.wire import codec

__all__ = ["RETRYABLE", "Channel", "Retries", "call_with_retries", "open_channel", "translate"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

RETRYABLE: Final[tuple[type[OpenFLAioError], ...]] = (ConnectError, ConnectionLostError, StorageFullError)
LOG_SECONDS: Final = 60.0  # between two lines about a server that has no room
LOOK_SECONDS: Final = 1.0  # at most so often a call makes us look whether the certificates were replaced


class _Stream(grpclib.client.Stream[Any, Any]):
    """One call: messages leave and arrive without a copy, and nothing of grpclib's cancellation stays behind."""

    _stream: Any  # grpclib names its own class; ours has the methods of it that are used

    async def __aenter__(self) -> Self:
        if self._deadline is None:
            self._wrapper = CleanWrapper()
        else:
            wrapper = self._wrapper = CleanDeadlineWrapper()
            self._wrapper_ctx = wrapper.start(self._deadline)
            self._wrapper_ctx.__enter__()
        return self

    async def send_message(self, message: Any, *, end: bool = False) -> None:
        """Send ``message``; large values in it leave as they are, so they must not change until this returns."""
        if not self._send_request_done:
            await self.send_request()
        unary = not self._cardinality.client_streaming
        if unary and self._send_message_done:
            raise GrpclibProtocolError("Message was already sent")
        if self._end_done:
            raise GrpclibProtocolError("Stream is ended")
        with self._wrapper:
            (message,) = await self._dispatch.send_message(message)
            if not isinstance(message, self._send_type):
                raise LocalProtocolError(f"expected a {self._send_type.__name__} to send, got {type(message).__name__}")
            with self._unless_answered():
                await self._stream.send(codec.encode_parts(message), end=end or unary)
            self._send_message_done = True
            self._messages_sent += 1
            self._end_done = end

    async def end(self) -> None:
        """End our side of the call."""
        with self._unless_answered():
            await super().end()
        self._end_done = True

    @contextmanager
    def _unless_answered(self) -> Iterator[None]:
        """Pass over that the server takes no more once it has answered that all is well (RFC 9113, section 8.1)."""
        try:
            yield
        except StreamTerminatedError:
            trailers = self._stream.trailers
            if trailers is None or ("grpc-status", "0") not in trailers:
                raise

    def _check_answered(self) -> None:
        """Raise if the call is over, well as its status says, and the one message of its answer never came."""
        well = self._trailers_only or ("grpc-status", "0") in (self._stream.trailers or ())
        if well and not self._cardinality.server_streaming and not self._messages_received:
            raise RemoteProtocolError("the peer answered OK without a message")

    async def recv_message(self) -> Any:
        """Return the next message, or None after the last; large ``bytes`` in it are views of memory of their own."""
        if not self._recv_initial_metadata_done:
            await self.recv_initial_metadata()
        with self._wrapper:
            try:
                data = await self._stream.receive()
                if data is None:
                    self._check_answered()
                    return None
                message = await decode_message(self._codec, data, self._recv_type)
            except MalformedMessageError:
                self._maybe_raise()  # the server broke off and said why
                raise
            (message,) = await self._dispatch.recv_message(message)
            self._messages_received += 1
            return message


class Channel(grpclib.client.Channel):
    """A connection to one server, made at the first call and made again after it was lost.

    It is made again too when the certificate files were replaced: calls in flight end on the old one. Usable with the
    generated stubs. Calls raise what `translate` turns into our errors.
    """

    _protocol: Any = None  # grpclib names its own class

    def __init__(self, endpoint: Endpoint, credentials: Credentials | None, timeouts: Timeouts, limits: Limits) -> None:
        context = None if credentials is None else credentials.context
        super().__init__(endpoint.host.strip("[]"), endpoint.port, ssl=context, codec=StrictCodec(limits))
        self._credentials = credentials
        self._next_look = 0.0
        self.endpoint = endpoint
        self._connect_timeout = timeouts.connect
        self._shared = Shared(limits, client=True)

    def request(
        self,
        name: str,
        cardinality: Cardinality,
        request_type: type[Any],
        reply_type: type[Any],
        *,
        timeout: float | None = None,
        deadline: Deadline | None = None,
        metadata: Any = None,
    ) -> grpclib.client.Stream[Any, Any]:
        """Return a call that is not begun yet; used by the generated stubs."""
        if timeout is not None:
            ours = Deadline.from_timeout(timeout)
            deadline = ours if deadline is None else min(ours, deadline)
        return _Stream(
            self,
            name,
            cast("Any", MultiDict(metadata or ())),
            cardinality,
            request_type,
            reply_type,
            codec=self._codec,
            status_details_codec=None,
            dispatch=self.__dispatch__,
            deadline=deadline,
        )

    @property
    def _connected(self) -> bool:
        return self._protocol is not None and self._protocol.usable

    async def __connect__(self) -> Any:
        """Return the connection for a call; grpclib's name."""
        if self._credentials is not None and (not self._connected or self._loop.time() >= self._next_look):
            await self._look(self._credentials)
        return await super().__connect__()

    async def _look(self, credentials: Credentials) -> None:
        """Let go of a connection that was made with files that have been replaced since."""
        self._next_look = self._loop.time() + LOOK_SECONDS
        await credentials.refresh(at_once=True)
        if credentials.context is not self._ssl:
            self._ssl = credentials.context
            old, self._protocol = self._protocol, None
            if old is not None:
                old.retire()

    async def _create_connection(self) -> Any:
        connection = Connection(self._shared)
        tls: TLSProtocol | None = None
        if self._ssl is not None:
            tls = TLSProtocol(connection, self._ssl, server_hostname=self._host, server_side=False)
        try:
            with anyio.fail_after(self._connect_timeout):
                await self._loop.create_connection(lambda: connection if tls is None else tls, self._host, self._port)
                if tls is not None:
                    await tls.handshake
                    self._check_server(connection)
        except TimeoutError:
            raise ConnectError(f"no connection to {self.endpoint} within {self._connect_timeout:g} s") from None
        except ssl.SSLCertVerificationError as exc:
            raise ConnectError(
                f"the certificate of {self.endpoint} was not accepted ({exc.verify_message}); "
                "check that both sides use the same CA and that the host name is in the certificate"
            ) from exc
        except ssl.SSLError as exc:
            raise ConnectError(
                f"no TLS connection to {self.endpoint} ({exc.reason or exc}); check that both sides use TLS"
            ) from exc
        except OSError as exc:
            raise ConnectError(f"no connection to {self.endpoint} ({_reason(exc)})") from exc
        finally:
            if tls is not None and not tls.established:
                tls.abort()
        return connection

    def _check_server(self, connection: Connection) -> None:
        credentials, tls = self._credentials, connection.get_extra_info("ssl_object")
        if credentials is None or not credentials.may_deny or tls is None:
            return
        reason = credentials.revocations.denies(PeerCertificate.from_der(tls.getpeercert(True)))
        if reason is not None:
            connection.abort()
            raise ConnectError(f"the certificate of {self.endpoint} was not accepted: {reason}")

    def close(self) -> None:
        """Close the connection. Calls in flight end with an error."""
        self._protocol = None
        for connection in list(self._shared.connections):
            connection.close()


def _reason(exc: OSError) -> str:
    """Return the system's words: asyncio replaces them, or joins those of several addresses."""
    if exc.errno is not None and exc.errno > 0:
        return os.strerror(exc.errno)
    return exc.strerror or str(exc)


@asynccontextmanager
async def open_channel(
    endpoint: Endpoint,
    *,
    tls: TLSConfig | None,
    timeouts: Timeouts | None = None,
    limits: Limits | None = None,
    metadata: Mapping[str, str] | None = None,
) -> AsyncIterator[Channel]:
    """Give a channel to ``endpoint``; ``metadata`` goes with every call. No connection is made before the first call.

    Raises `ConfigurationError` for certificate files that cannot be used.
    """
    credentials = None if tls is None else await Credentials.load_client(tls)
    channel = Channel(endpoint, credentials, timeouts or Timeouts(), limits or Limits())
    if metadata:

        async def add_metadata(event: SendRequest) -> None:
            event.metadata.update(metadata)

        listen(channel, SendRequest, add_metadata)
    try:
        yield channel
    finally:
        channel.close()


@contextmanager
def translate() -> Iterator[None]:
    """Raise whatever a call in the block raises as one of our errors."""
    try:
        yield
    except OpenFLAioError:
        raise
    except GRPCError as exc:
        raise error_from_status(exc) from exc
    except StreamTerminatedError as exc:
        raise ConnectionLostError(f"the connection was lost during the call ({exc})") from exc
    except GrpclibProtocolError as exc:
        raise LocalProtocolError(f"the call was made wrongly: {exc}") from exc
    except TimeoutError as exc:
        raise DeadlineExceededError("the call's deadline passed") from exc
    except OSError as exc:
        raise ConnectionLostError(f"the connection was lost during the call ({exc.strerror or exc})") from exc
    except h2.exceptions.H2Error as exc:
        raise ConnectionLostError(f"the connection was lost during the call ({type(exc).__name__})") from exc
    except AssertionError as exc:
        # how the generated stubs say that there is no reply
        if not _raised_by_library(exc):
            raise
        raise ConnectionLostError("the connection was lost before the reply was complete") from exc


def _raised_by_library(exc: BaseException) -> bool:
    frame = exc.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    module = "" if frame is None else str(frame.tb_frame.f_globals.get("__name__", ""))
    return module.partition(".")[0] in ("grpclib", "betterproto2")


async def call_with_retries(
    policy: RetryPolicy,
    call: Callable[[], Awaitable[T]],
    *,
    what: str,
    retryable: tuple[type[OpenFLAioError], ...] = RETRYABLE,
    draw: Callable[[float, float], float] = random.uniform,
    patient: bool = False,
) -> T:
    """Return the result of ``call``, repeated after ``retryable`` errors until the policy's time is used up.

    ``what`` names call and peer in the final error, for example ``"GetTasks from 10.0.0.1:5050"``. ``call`` must make
    its request anew each time and be safe to repeat. Errors are translated; the last one is raised when time is up,
    as a `TransportError` of the same class that says how long it was tried. A server without room for what it is to
    keep is there and asks to come again: whoever is ``patient`` does so for as long as that takes.
    """
    retries = Retries(policy, what, draw=draw, patient=patient)
    while True:
        try:
            with translate():
                return await call()
        except retryable as exc:
            await retries.after(exc)


class Retries:
    """The pauses between the attempts of one call, which have an end; see `call_with_retries`."""

    def __init__(
        self,
        policy: RetryPolicy,
        what: str,
        *,
        draw: Callable[[float, float], float] = random.uniform,
        patient: bool = False,
    ) -> None:
        self._policy = policy
        self._what = what
        self._draw = draw
        self._patient = patient
        self._lines = LogLimiter(1, LOG_SECONDS)
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget the failures so far: the call made headway."""
        self._attempts = 0
        self._failing_since: float | None = None

    async def after(self, exc: OpenFLAioError) -> None:
        """Wait after the failure ``exc``, or raise it as a `TransportError` that says how long it was tried."""
        policy, now = self._policy, anyio.current_time()
        # what an attempt that fails in the end took before, a long upload perhaps, was no waiting in vain
        self._failing_since = now if self._failing_since is None else self._failing_since
        elapsed = now - self._failing_since
        # no overflow for a policy that retries for ever
        ceiling = min(policy.max_delay, policy.first_delay * policy.multiplier ** min(self._attempts, 64))
        pause = self._draw(0.0, ceiling)
        self._attempts += 1
        if self._patient and isinstance(exc, StorageFullError):
            self._failing_since = None
            if self._lines.allow(now) is not None:
                logger.warning("%s: %s; this goes on until there is room", self._what, exc)
        elif policy.max_elapsed is not None and elapsed + pause > policy.max_elapsed:
            said = f"{self._what}: gave up after {elapsed:.0f} s and {self._attempts} attempts, last: {exc}"
            if isinstance(exc, StorageFullError):
                raise StorageFullError(said) from exc
            kind = type(exc) if isinstance(exc, TransportError) else ConnectionLostError
            raise kind(
                f"{said}; check that the server runs, that host and port are right and that both sides use TLS or "
                "neither does"
            ) from exc
        await anyio.sleep(pause)
