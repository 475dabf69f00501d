"""A gRPC server that ends in an orderly way: services in, one bound address out."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import socket
import ssl
import weakref
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.to_thread
import grpclib.server
import h2.exceptions
from betterproto2.grpclib.grpclib_server import ServiceBase
from grpclib.events import RecvRequest, listen
from grpclib.protocol import H2Protocol

from openfl_aio.config import Endpoint, Limits, Timeouts, TLSConfig
from openfl_aio.errors import ConfigurationError, InvalidStateError
from openfl_aio.transport.calls import Calls
from openfl_aio.transport.codec import StrictCodec
from openfl_aio.transport.sockets import watch
from openfl_aio.transport.tls import server_context

__all__ = ["Server", "is_loopback"]

logger = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 5.0
BACKLOG = 1024
GOODBYE_PAUSE = 0.05
EVERYWHERE = ("", "*", "::")


def is_loopback(host: str) -> bool:
    """Return whether ``host`` is an address, or the usual name, of this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _send_at_once(transport: asyncio.BaseTransport) -> None:
    """Turn Nagle's algorithm off: an answer is several small writes, which would wait for delayed acknowledgements."""
    # asyncio does so only for sockets that know their protocol's number, and those of `socket.create_server` do not
    with contextlib.suppress(OSError):  # the peer is gone already
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class _Protocol(H2Protocol):
    """One connection. With TLS it must have agreed on HTTP/2, as gRPC demands."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            assert isinstance(transport, asyncio.Transport)
            transport.abort()
            return
        _send_at_once(transport)
        watch(transport)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if hasattr(self, "processor"):
            super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        if hasattr(self, "processor"):
            super().connection_lost(exc)

    def say_goodbye(self) -> None:
        """Send GOAWAY and close once everything is sent."""
        if not hasattr(self, "processor") or self.connection.is_closing():
            return
        try:
            self.connection._connection.close_connection()
            self.connection.flush()
        except h2.exceptions.ProtocolError:
            pass  # the connection is in no state to say anything
        self.processor.close("Server is stopping")


class _GrpcServer(grpclib.server.Server):
    """grpclib's server on our own socket, with a handshake timeout, and with its connections known."""

    def __init__(self, services: Sequence[Any], limits: Limits) -> None:
        super().__init__(services, codec=StrictCodec(limits))
        self._protocols: weakref.WeakSet[_Protocol] = weakref.WeakSet()

    def _protocol_factory(self) -> H2Protocol:
        self.__gc_step__()
        handler = grpclib.server.Handler(self._mapping, self._codec, self._status_details_codec, self.__dispatch__)
        self._handlers.add(handler)
        protocol = _Protocol(handler, self._config, self._h2_config)
        self._protocols.add(protocol)
        return protocol

    async def listen_on(self, sockets: Sequence[socket.socket], context: ssl.SSLContext | None) -> None:
        """Serve on bound ``sockets``."""
        timeout = None if context is None else HANDSHAKE_SECONDS
        self._listeners = [
            await self._loop.create_server(
                self._protocol_factory, sock=sock, ssl=context, backlog=BACKLOG, ssl_handshake_timeout=timeout
            )
            for sock in sockets
        ]

    def stop_accepting(self) -> None:
        """Close the listening sockets; open connections go on."""
        for listener in self._listeners:
            listener.close()

    async def end(self, *, seconds: float) -> None:
        """Let handlers send their last frames for ``seconds``, then cancel them and close every connection."""
        tasks = {task for handler in self._handlers for task in (*handler._tasks.values(), *handler._cancelled)}
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        # clients on grpclib drop an answer that arrives in one piece with GOAWAY
        await anyio.sleep(GOODBYE_PAUSE)
        for protocol in list(self._protocols):
            protocol.say_goodbye()
        for handler in self._handlers:
            handler.close()
        tasks = {task for handler in self._handlers for task in handler._cancelled if not task.done()}
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)


class Server:
    """Serves generated services on one endpoint, for as long as the context is entered.

    ``tls=None`` is plaintext: on loopback only, unless ``allow_plaintext_anywhere``, and always with a warning.
    Raises `ConfigurationError` on entering: port in use, host that is not this machine's, unusable certificates,
    plaintext off loopback. On leaving it stops accepting, tells waiting calls UNAVAILABLE, gives others
    ``timeouts.drain`` seconds and closes every connection.

    Handlers find who calls with `openfl_aio.transport.identity.current_caller` and raise our errors, which
    become statuses by the table of `openfl_aio.transport.status`.
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
    ) -> None:
        self._services = services
        self._listen = listen
        self._host = listen.host.strip("[]")
        self._tls = tls
        self._limits = limits or Limits()
        self._timeouts = timeouts or Timeouts()
        self._allow_plaintext_anywhere = allow_plaintext_anywhere
        self._endpoint: Endpoint | None = None

    def __repr__(self) -> str:
        return f"<Server {self._endpoint or self._listen} {'plaintext' if self._tls is None else 'TLS'}>"

    @property
    def endpoint(self) -> Endpoint:
        """The configured host with the port that is bound. Raises `InvalidStateError` before the server is entered."""
        if self._endpoint is None:
            raise InvalidStateError("the server is not bound yet; enter it first")
        return self._endpoint

    async def __aenter__(self) -> Self:
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
        context = None if self._tls is None else await server_context(self._tls)
        sockets = await self._bind()
        self._calls = Calls(self._limits)
        self._server = _GrpcServer(self._services, self._limits)
        listen(self._server, RecvRequest, self._calls.on_request)
        await self._server.listen_on(sockets, context)
        self._endpoint = Endpoint(host=self._listen.host, port=sockets[0].getsockname()[1])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):  # bounded by the drain time
            self._server.stop_accepting()
            await self._calls.drain(self._timeouts.drain)
            await self._server.end(seconds=1.0)

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
            return [socket.create_server(("::", port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True)]
        return [socket.create_server(("0.0.0.0", port), backlog=BACKLOG)]
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # IPv4 first: clients that know only 127.0.0.1 must reach a server on "localhost"
    addresses = sorted(dict.fromkeys((family, address) for family, *_, address in found), key=lambda item: item[0])
    sockets: list[socket.socket] = []
    try:
        for family, address in addresses[: 1 if port == 0 else None]:
            try:
                sockets.append(socket.create_server(address[:2], family=family, backlog=BACKLOG))
            except OSError as exc:
                # a machine may name an address family that it does not have
                if not sockets or exc.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets
