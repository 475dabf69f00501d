"""OpenFL's ``AggregatorGRPCServer`` over our `Aggregator`."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any, Protocol, Self

from openfl_aio.aggregator.service import Aggregator
from openfl_aio.aggregator.servicer import AggregatorServicer
from openfl_aio.compat.arguments import (
    EVERYWHERE,
    PLAN_ARGUMENTS,
    SERVER_ARGUMENTS,
    File,
    endpoint_of,
    only,
    server_host,
    tls_of,
)
from openfl_aio.compat.calls import Context, each, plain
from openfl_aio.config import TLSConfig
from openfl_aio.domain import Header
from openfl_aio.errors import (
    AuthenticationError,
    AuthorizationError,
    HeaderMismatchError,
    InvalidStateError,
    OpenFLAioError,
)
from openfl_aio.transport.context import COMMON_NAME, CallContext, NamedService
from openfl_aio.transport.roles import Roles
from openfl_aio.transport.server import Server
from openfl_aio.wire import convert, messages

__all__ = ["AggregatorGRPCServer", "ForeignSenderError", "WrongHeaderError"]

logger = logging.getLogger(__name__)


class ForeignSenderError(AuthorizationError, ValueError):
    """The sender takes no part in the federation. A ValueError, as OpenFL raises it."""


class WrongHeaderError(HeaderMismatchError, ValueError):
    """A request is for another aggregator or federation. A ValueError, as OpenFL raises it."""


class _Request(Protocol):
    """Every request of a collaborator."""

    header: messages.aggregator.MessageHeader | None


class AggregatorGRPCServer:
    """Serves ``aggregator``, ours, on a port; that has none of its own then (``AggregatorConfig.listen`` unset).

    ``await server.serve()`` as in OpenFL, or ``async with server`` to serve beside other work. What a subclass
    overrides is what the network calls. Keyword arguments of ours are ``deny_list`` and ``crl``, files of certificates
    to deny, and ``allow_plaintext_anywhere``; what else a plan's section ``network`` hands on has no effect. The three
    RPCs that OpenFL left out are answered too.
    """

    def __init__(
        self,
        aggregator: Aggregator,
        agg_port: int | str,
        tls: bool = True,
        disable_client_auth: bool = False,
        root_certificate: File = None,
        certificate: File = None,
        private_key: File = None,
        **kwargs: Any,
    ) -> None:
        only(type(self).__name__, kwargs, {"agg_addr", *PLAN_ARGUMENTS, *SERVER_ARGUMENTS})
        self._plaintext_anywhere = bool(kwargs.get("allow_plaintext_anywhere", False))
        host = server_host(EVERYWHERE, tls=tls, allow_plaintext_anywhere=self._plaintext_anywhere)
        self.aggregator = aggregator
        self.uri = f"{host}:{agg_port}"
        self.tls = tls
        self.disable_client_auth = disable_client_auth
        self.root_certificate = root_certificate
        self.certificate = certificate
        self.private_key = private_key
        self.deny_list: File = kwargs.get("deny_list")
        self.crl: File = kwargs.get("crl")
        self.server: Server | None = None
        self.server_credentials: TLSConfig | None = None
        self._stack: AsyncExitStack | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.uri!r})"

    async def __aenter__(self) -> Self:
        server = self.get_server()
        async with AsyncExitStack() as stack:
            if not self.aggregator.entered:
                await stack.enter_async_context(self.aggregator)
            await stack.enter_async_context(server)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        stack, self._stack = self._stack, None
        self.server = None
        if stack is not None:
            await stack.aclose()

    def validate_collaborator(self, request: _Request, context: Context | None) -> None:
        """End the call as UNAUTHENTICATED unless the peer's certificate is that of the sender, who takes part.

        Of that status a collaborator of OpenFL 1.6 ends; for any other answer it would ask again for ever.
        Without a certificate (plaintext, ``disable_client_auth``), and without a context, the sender is believed.
        Raises `AuthenticationError` if ``context.abort`` comes back. An override may be stricter, and not more lenient
        over TLS: who shows a certificate that is no collaborator's is refused before it is asked.
        """
        if not self.tls or context is None:
            return
        header = convert.header_from_proto(request.header)
        proven = context.auth_context().get(COMMON_NAME)
        if not proven and self.disable_client_auth:
            return
        name = proven[0].decode() if proven else ""
        expected = self.aggregator.config.single_col_cert_common_name or header.sender
        if name != expected or header.sender not in self.aggregator.collaborators:
            details = f"Invalid collaborator. CN: |{name}| collaborator_common_name: |{header.sender}|"
            context.abort("UNAUTHENTICATED", details)
            raise AuthenticationError(details)

    def check_request(self, request: _Request) -> None:
        """Raise a ValueError unless the header is one of this federation, from one of its collaborators."""
        try:
            self.aggregator.check_header(convert.header_from_proto(request.header))
        except AuthorizationError as exc:
            raise ForeignSenderError(str(exc)) from None
        except HeaderMismatchError as exc:
            raise WrongHeaderError(str(exc)) from None

    def get_header(self, collaborator_name: str) -> messages.aggregator.MessageHeader:
        """Return the header of a reply to ``collaborator_name``."""
        aggregator = self.aggregator
        return messages.aggregator.MessageHeader(
            sender=aggregator.uuid,
            receiver=collaborator_name,
            federation_uuid=aggregator.federation_uuid,
            single_col_cert_common_name=aggregator.config.single_col_cert_common_name,
        )

    async def GetTasks(  # noqa: N802
        self, request: messages.aggregator.GetTasksRequest, context: Context | None
    ) -> messages.aggregator.GetTasksResponse:
        """Answer what the sender shall do next; waits while there is nothing."""
        return await _Checked(self, context).get_tasks(request)

    async def GetAggregatedTensor(  # noqa: N802
        self, request: messages.aggregator.GetAggregatedTensorRequest, context: Context | None
    ) -> messages.aggregator.GetAggregatedTensorResponse:
        """Answer one tensor; waits for one of the round to come."""
        return await _Checked(self, context).get_aggregated_tensor(request)

    async def SendLocalTaskResults(  # noqa: N802
        self,
        request: AsyncIterator[messages.DataStream] | Iterable[messages.DataStream],
        context: Context | None,
    ) -> messages.aggregator.SendLocalTaskResultsResponse:
        """Take the results of a task in as their chunks come, and answer when they are kept."""
        return await _Checked(self, context).send_local_task_results(each(request))

    def get_server(self) -> Server:
        """Return the server, made if there is none yet; it serves while it is entered.

        Raises `InvalidStateError` for an aggregator that listens on a port of its own.
        """
        if self.server is None:
            if self.aggregator.config.listen is not None:
                raise InvalidStateError(
                    f"the aggregator serves on {self.aggregator.config.listen} by itself, and would on {self.uri} too; "
                    "leave AggregatorConfig.listen unset"
                )
            if self.tls and self.disable_client_auth:
                logger.warning(
                    "no client certificates are asked for on %s: callers without one are believed whatever name they give",
                    self.uri,
                )
            self.server_credentials = tls_of(
                self.tls,
                self.root_certificate,
                self.certificate,
                self.private_key,
                require_client_certificate=not self.disable_client_auth,
                deny_list=self.deny_list,
                crl=self.crl,
            )
            config = self.aggregator.config
            collaborators = (*self.aggregator.collaborators, config.single_col_cert_common_name)
            self.server = Server(
                [NamedService(self, lambda context: _Checked(self, context))],
                listen=endpoint_of(self.uri),
                tls=self.server_credentials,
                limits=config.limits,
                timeouts=config.timeouts,
                allow_plaintext_anywhere=self._plaintext_anywhere,
                roles=Roles(collaborators=collaborators),
            )
        return self.server

    async def serve(self) -> None:
        """Serve until every collaborator was told to quit."""
        if self._stack is not None:
            await self.aggregator.wait_quits_sent()
            return
        async with self:
            await self.aggregator.wait_quits_sent()


class _Checked(AggregatorServicer):
    """Answers one call; who may make it is asked of the facade, and so is the header of the reply."""

    def __init__(self, server: AggregatorGRPCServer, context: Context | CallContext | None) -> None:
        super().__init__(server.aggregator.find)
        self._server = server
        self._context = context

    def _check(self, header: Header) -> tuple[Aggregator, Header]:
        request = messages.aggregator.GetTasksRequest(header=convert.header_to_proto(header))
        plain(self._server.validate_collaborator(request, self._context), "validate_collaborator")  # type: ignore[func-returns-value]
        try:
            plain(self._server.check_request(request), "check_request")  # type: ignore[func-returns-value]
        except OpenFLAioError:
            raise
        except ValueError as exc:  # of an override
            raise WrongHeaderError(str(exc)) from exc
        return self._server.aggregator, header

    def _reply(self, request: Header) -> Header:
        own = super()._reply(request)
        header = convert.header_from_proto(plain(self._server.get_header(request.sender), "get_header"))
        if header.sender != self._server.aggregator.uuid:
            return header
        # the aggregator has a name in each release's eyes, and answers under the one by which it was called
        return replace(header, sender=own.sender, federation_uuid=own.federation_uuid)
