"""A gRPC server that ends in an orderly way: services in, one bound address out."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import ipaddress
import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, cast

import anyio
import anyio.to_thread
import grpclib.server
from betterproto2.grpclib.grpclib_server import ServiceBase

from openfl_aio.config import Endpoint, Limits, Timeouts, TLSConfig
from openfl_aio.errors import ConfigurationError, InvalidStateError
from openfl_aio.pki import PeerCertificate
from openfl_aio.transport.acceptor import Acceptor, Admission, Gate
from openfl_aio.transport.budgets import LogLimiter
from openfl_aio.transport.calls import Calls
from openfl_aio.transport.codec import StrictCodec
from openfl_aio.transport.credentials import Credentials
from openfl_aio.transport.descriptors import within_descriptors
from openfl_aio.transport.http2.connection import Connection
from openfl_aio.transport.http2.memory import collect, give_back
from openfl_aio.transport.http2.shared import Shared
from openfl_aio.transport.http2.tls import TLSProtocol
from openfl_aio.transport.roles import Roles
from openfl_aio.transport.watchdog import LoopStatistics, StallWatch

__all__ = ["Server", "ServerStatistics", "is_loopback"]

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 1.0
GOODBYE_PAUSE = 0.05
CLOSE_SECONDS = 1.0
FAREWELL_SECONDS = 2.0  # for a peer whose certificate is denied, to hear so; refusals may be slowed down
EVERYWHERE = ("", "*", "::")


def is_loopback(host: str) -> bool:
    """Return whether ``host`` is an address, or the usual name, of this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """What a server has done since it was entered, and does now."""

    connections: int
    unauthenticated: int  # of those: in the handshake, or before their first SETTINGS
    refused: int  # connections, for lack of room
    calls: int  # in flight
    calmed: int  # connections ended because they passed a limit
    faults: int  # connections ended by a violation of the protocol
    denied: int  # connections whose certificate was denied, when they came or later
    loop: LoopStatistics  # of the event loop's stalls


class _Plane:
    """The connections of one server: let in, watched, and sent away."""

    def __init__(
        self, limits: Limits, credentials: Credentials | None, handler: grpclib.server.Server, roles: Roles | None
    ) -> None:
        self._limits = limits
        self._credentials = credentials
        self._denials = LogLimiter()
        self.denied = 0
        self.gate = Gate(within_descriptors(limits))
        self.shared = Shared(limits)
        self.calls = Calls(
            handler._mapping, limits, dispatch=handler.__dispatch__, buffers=self.shared.buffers, roles=roles
        )
        self.shared.calls = self.calls
        self._handshakes: dict[TLSProtocol, float] = {}
        self._loop = asyncio.get_running_loop()
        self._sweep = self._loop.call_later(SWEEP_SECONDS, self._check)

    def admit(self) -> asyncio.BaseProtocol | None:
        """Return the protocol of a new connection, or None if there is no room for it."""
        admission = self.gate.admit()
        if admission is None:
            return None

        def ready(connection: Connection) -> bool:
            certificate = _certificate(connection)
            if certificate is not None and self._credentials is not None and self._credentials.may_deny:
                self._get_to_know(connection, certificate)
            return admission.authenticated(None if certificate is None else hashlib.sha256(certificate).hexdigest())

        connection = Connection(self.shared, on_ready=ready, on_lost=admission.leave)
        if self._credentials is None:
            admission.evictable(connection.abort)
            return connection
        tls = TLSProtocol(
            connection,
            self._credentials.context,
            server_side=True,
            on_failed=lambda exc: self._failed(tls, admission, exc),
        )
        admission.evictable(tls.abort)
        self._handshakes[tls] = self._loop.time()
        return tls

    def _failed(self, tls: TLSProtocol, admission: Admission, exc: Exception) -> None:
        self._handshakes.pop(tls, None)
        admission.leave()
        logger.debug("no TLS connection: %s", exc)

    def _get_to_know(self, connection: Connection, certificate: bytes) -> None:
        try:
            connection.certificate = PeerCertificate.from_der(certificate)
        except ConfigurationError as exc:  # OpenSSL is less strict: it may be on a list, and we cannot tell
            self._deny(connection, str(exc))
        else:
            self._judge(connection)

    def judge(self) -> None:
        """Refuse those whose certificate is denied now, and end what they have begun."""
        for connection in list(self.shared.connections):
            self._judge(connection)

    def _judge(self, connection: Connection) -> None:
        if connection.certificate is None or self._credentials is None:
            return
        reason = self._credentials.revocations.denies(connection.certificate)
        if reason is None:
            connection.denied_since = None
        elif connection.denied_since is None:
            names, serial = connection.certificate.names, connection.certificate.serial_number
            self._deny(connection, f"{reason}, serial number {serial:x} of {', '.join(map(repr, names))}")

    def _deny(self, connection: Connection, reason: str) -> None:
        now = connection.denied_since = self._loop.time()
        self.denied += 1
        suppressed = self._denials.allow(now)
        if suppressed is not None:
            more = f" ({suppressed} more such lines were left out)" if suppressed else ""
            logger.warning("%s: the certificate is denied: %s%s", connection.address, reason, more)
        self.calls.deny(connection)

    def _check(self) -> None:
        """End what has waited too long."""
        now = self._loop.time()
        self._sweep = self._loop.call_later(SWEEP_SECONDS, self._check)
        for tls, began in list(self._handshakes.items()):
            if tls.established:
                del self._handshakes[tls]
            elif now - began >= self._limits.handshake_seconds:
                del self._handshakes[tls]
                tls.abort()
        for connection in list(self.shared.connections):
            connection.check(now)
            if connection.denied_since is not None:
                _usher_out(connection, now - connection.denied_since)
        self.calls.tell_left_out(now)
        self.shared.buffers.trim()
        if self.shared.tide.is_out():
            collect()
            self._loop.run_in_executor(None, give_back)

    async def end(self, drain: float) -> None:
        """Tell everybody at once, let calls in flight finish for ``drain`` seconds, and close every connection.

        No connections are accepted any more.
        """
        for tls in list(self._handshakes):
            if not tls.established:
                tls.abort()
        for connection in list(self.shared.connections):
            connection.go_away()
        await self.calls.drain(drain)
        # stock grpclib drops an answer that arrives in one piece with the end of the connection
        await asyncio.sleep(GOODBYE_PAUSE)
        for connection in list(self.shared.connections):
            connection.close("Server is stopping")
        if self.shared.connections:
            with anyio.move_on_after(CLOSE_SECONDS):
                await self.shared.emptied.wait()
        for connection in list(self.shared.connections):
            connection.abort()
        self._sweep.cancel()


def _certificate(connection: Connection) -> bytes | None:
    tls = connection.get_extra_info("ssl_object")
    certificate: bytes | None = None if tls is None else tls.getpeercert(True)
    return certificate


def _usher_out(connection: Connection, seconds: float) -> None:
    """Send away a peer who was denied ``seconds`` ago. A call that comes before that still hears the reason."""
    if seconds >= FAREWELL_SECONDS or (connection.engine.draining and not connection.engine.streams):
        connection.go_away()
        connection.close("The certificate is denied")
    else:
        connection.go_away()


class Server:
    """Serves generated services on one endpoint, for as long as the context is entered.

    ``tls=None`` is plaintext: on loopback only, unless ``allow_plaintext_anywhere``, and always with a warning.
    Raises `ConfigurationError` on entering: port in use, host that is not this machine's, unusable certificates,
    plaintext off loopback; `InvalidStateError` while it is entered already. On leaving it stops accepting, tells
    waiting calls UNAVAILABLE, gives others ``timeouts.drain`` seconds and closes every connection.

    Handlers find who calls with `openfl_aio.transport.identity.current_caller` and raise our errors, which
    become statuses by the table of `openfl_aio.transport.status`. ``roles`` says who may call what; None: everybody.
    """

    def __init__(
        self,
        services: Sequence[ServiceBase],
        *,
        listen: Endpoint,
        tls: TLSConfig | None,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        allow_plaintext_anywhere: bool = False,
        roles: Roles | None = None,
    ) -> None:
        self._services = services
        self._roles = roles
        self._listen = listen
        self._host = listen.host.strip("[]")
        self._tls = tls
        self._limits = limits or Limits()
        self._timeouts = timeouts or Timeouts()
        self._allow_plaintext_anywhere = allow_plaintext_anywhere
        self._endpoint: Endpoint | None = None
        self._entered = False
        self._reload = asyncio.Event()
        self._renewal: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Server {self._endpoint or self._listen} {'plaintext' if self._tls is None else 'TLS'}>"

    @property
    def endpoint(self) -> Endpoint:
        """The configured host with the port that is bound. Raises `InvalidStateError` before the server is entered."""
        if self._endpoint is None:
            raise InvalidStateError("the server is not bound yet; enter it first")
        return self._endpoint

    async def __aenter__(self) -> Self:
        if self._entered:
            raise InvalidStateError(f"{self!r} is entered already; make another one to serve on another port")
        self._entered = True
        try:
            await self._start()
        except BaseException:
            self._entered = False
            raise
        return self

    async def _start(self) -> None:
        if self._tls is None and not is_loopback(self._host):
            if not self._allow_plaintext_anywhere:
                raise ConfigurationError(
                    f"plaintext on '{self._host}': without TLS only loopback is served; give certificates, "
                    "or set allow_plaintext_anywhere if every machine of this network may be trusted"
                )
            logger.warning(
                "serving without TLS beyond loopback on %s: anybody can read and change everything", self._host
            )
        elif self._tls is None:
            logger.warning("serving without TLS on %s: callers are believed whatever name they give", self._host)
        credentials = None if self._tls is None else await Credentials.load_server(self._tls)
        sockets = await self._bind()
        # grpclib's server knows methods and listeners; connections are our own
        handler = grpclib.server.Server(cast("Any", self._services), codec=StrictCodec(self._limits))
        self._plane = _Plane(self._limits, credentials, handler, self._roles)
        self._watch = StallWatch()
        self._acceptor = Acceptor(sockets, self._plane.admit, limits=self._limits, log=logger, gate=self._plane.gate)
        self._acceptor.start()
        self._watch.start()
        if credentials is not None:
            self._renewal = asyncio.create_task(credentials.renew(self._plane.judge, self._reload))
        self._endpoint = Endpoint(host=self._listen.host, port=sockets[0].getsockname()[1])

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):  # bounded by the drain time
            self._acceptor.stop()
            if self._renewal is not None:
                self._renewal.cancel()
                await asyncio.wait([self._renewal])
            await self._plane.end(self._timeouts.drain)
            self._watch.stop()
            self._entered = False

    def reload_certificates(self) -> None:
        """Read certificates, key and lists at once, as SIGHUP asks for. By themselves changes are noticed soon."""
        self._reload.set()

    def statistics(self) -> ServerStatistics:
        """Return what the server does and has done. Raises `InvalidStateError` before the server is entered."""
        if self._endpoint is None:
            raise InvalidStateError("the server is not bound yet; enter it first")
        gate, shared = self._plane.gate, self._plane.shared
        return ServerStatistics(
            connections=gate.open,
            unauthenticated=gate.unauthenticated,
            refused=gate.refused,
            calls=len(self._plane.calls),
            calmed=shared.calmed,
            faults=shared.faults,
            denied=self._plane.denied,
            loop=self._watch.statistics(),
        )

    async def _bind(self) -> list[socket.socket]:
        try:
            return await anyio.to_thread.run_sync(_bind, self._host, self._listen.port)
        except socket.gaierror as exc:
            raise ConfigurationError(
                f"cannot listen on '{self._host}': {exc.strerror}; expected a host name or address"
            ) from None
        except OSError as exc:
            reason = exc.strerror or str(exc)
            if exc.errno == errno.EADDRINUSE:
                reason = "the port is in use; stop the other server or choose another port"
            elif exc.errno == errno.EADDRNOTAVAIL:
                reason = "this machine has no such address"
            elif exc.errno == errno.EACCES:
                reason = "ports below 1024 need privileges; choose a higher one"
            raise ConfigurationError(f"cannot listen on {self._listen}: {reason}") from None


def _bind(host: str, port: int) -> list[socket.socket]:
    """Return sockets bound to every address of ``host`` (of the first only, for port 0: ports would differ)."""
    if host in EVERYWHERE:
        if socket.has_dualstack_ipv6():
            return [socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)]
        return [socket.create_server(("0.0.0.0", port))]
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # IPv4 first: clients that know only 127.0.0.1 must reach a server on "localhost"
    addresses = sorted(dict.fromkeys((family, address) for family, *_, address in found), key=lambda item: item[0])
    sockets: list[socket.socket] = []
    try:
        for family, address in addresses[: 1 if port == 0 else None]:
            try:
                sockets.append(socket.create_server(address[:2], family=family))
            except OSError as exc:
                # a machine may name an address family that it does not have
                if not sockets or exc.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets
