"""Client channels, retries with an end, and our errors instead of the library's."""

from __future__ import annotations

import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Final, TypeVar

import anyio
import grpclib.client
from grpclib.events import SendRequest, listen
from grpclib.exceptions import GRPCError, StreamTerminatedError
from grpclib.exceptions import ProtocolError as GrpclibProtocolError
from grpclib.protocol import H2Protocol

from openfl_aio.config import Endpoint, Limits, RetryPolicy, Timeouts, TLSConfig
from openfl_aio.errors import (
    ConnectError,
    ConnectionLostError,
    DeadlineExceededError,
    LocalProtocolError,
    OpenFLAioError,
    TransportError,
)
from openfl_aio.transport.codec import StrictCodec
from openfl_aio.transport.status import error_from_status
from openfl_aio.transport.tls import client_context

__all__ = ["RETRYABLE", "Channel", "call_with_retries", "open_channel", "translate"]

T = TypeVar("T")

RETRYABLE: Final[tuple[type[OpenFLAioError], ...]] = (ConnectError, ConnectionLostError)


class Channel(grpclib.client.Channel):
    """A connection to one server, made at the first call and made again after it was lost.

    Usable with the generated stubs. Calls raise what `translate` turns into our errors.
    """

    def __init__(self, endpoint: Endpoint, context: ssl.SSLContext | None, timeouts: Timeouts, limits: Limits) -> None:
        super().__init__(endpoint.host.strip("[]"), endpoint.port, ssl=context, codec=StrictCodec(limits))
        self.endpoint = endpoint
        self._connect_timeout = timeouts.connect

    async def _create_connection(self) -> H2Protocol:
        try:
            with anyio.fail_after(self._connect_timeout):
                return await super()._create_connection()
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
            raise ConnectError(f"no connection to {self.endpoint} ({exc.strerror or exc})") from exc


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
    context = None if tls is None else await client_context(tls)
    channel = Channel(endpoint, context, timeouts or Timeouts(), limits or Limits())
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
    except AssertionError as exc:  # the generated stubs assert, without a word, that a reply came
        if exc.args:
            raise
        raise ConnectionLostError("the connection was lost before the reply was complete") from exc


async def call_with_retries(
    policy: RetryPolicy,
    call: Callable[[], Awaitable[T]],
    *,
    what: str,
    retryable: tuple[type[OpenFLAioError], ...] = RETRYABLE,
    draw: Callable[[float, float], float] = random.uniform,
) -> T:
    """Return the result of ``call``, repeated after ``retryable`` errors until the policy's time is used up.

    ``what`` names call and peer in the final error, for example ``"GetTasks from 10.0.0.1:5050"``. ``call`` must make
    its request anew each time and be safe to repeat. Errors are translated; the last one is raised when time is up,
    as a `TransportError` of the same class that says how long it was tried.
    """
    started = anyio.current_time()
    attempt = 0
    while True:
        try:
            with translate():
                return await call()
        except retryable as exc:
            elapsed = anyio.current_time() - started
            # no overflow for a policy that retries for ever
            ceiling = min(policy.max_delay, policy.first_delay * policy.multiplier ** min(attempt, 64))
            pause = draw(0.0, ceiling)
            attempt += 1
            if policy.max_elapsed is not None and elapsed + pause > policy.max_elapsed:
                kind = type(exc) if isinstance(exc, TransportError) else ConnectionLostError
                raise kind(
                    f"{what}: gave up after {elapsed:.0f} s and {attempt} attempts, last: {exc}; "
                    "check that the server runs, that host and port are right and that both sides use TLS or neither does"
                ) from exc
            await anyio.sleep(pause)
