"""OpenFL's ``AggregatorGRPCClient`` over our `AggregatorClient`."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from openfl_aio.aggregator.client import AggregatorClient, Reply
from openfl_aio.compat.arguments import PLAN_ARGUMENTS, File, endpoint_of, only
from openfl_aio.compat.calls import plain
from openfl_aio.config import CollaboratorConfig, Limits, RetryPolicy, Timeouts, TLSConfig
from openfl_aio.domain import Header, TensorQuery
from openfl_aio.errors import ConfigurationError, HeaderMismatchError
from openfl_aio.transport.channel import Channel
from openfl_aio.transport.credentials import Credentials
from openfl_aio.wire import convert, messages

__all__ = ["AggregatorGRPCClient", "WrongReplyError"]

logger = logging.getLogger(__name__)


class WrongReplyError(HeaderMismatchError, ValueError):
    """A reply is not from the aggregator that was asked, or not for us. A ValueError, as OpenFL raises it."""


class AggregatorGRPCClient:
    """Calls one aggregator, in the name of any collaborator. ``async with``, or the first call connects.

    While the aggregator cannot be reached a call is tried again after ``client_reconnect_interval`` seconds at most,
    for ever; any other refusal is raised, as one of `openfl_aio.errors`. One connection serves all calls.
    """

    def __init__(
        self,
        agg_addr: str,
        agg_port: int | str,
        disable_client_auth: bool,
        root_certificate: File,
        certificate: File,
        private_key: File,
        tls: bool = True,
        aggregator_uuid: str | None = None,
        federation_uuid: str | None = None,
        single_col_cert_common_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        only(type(self).__name__, kwargs, PLAN_ARGUMENTS)
        self.uri = f"{agg_addr}:{agg_port}"
        self.tls = tls
        self.disable_client_auth = disable_client_auth
        self.root_certificate = root_certificate
        self.certificate = certificate
        self.private_key = private_key
        self.aggregator_uuid = aggregator_uuid
        self.federation_uuid = federation_uuid
        self.single_col_cert_common_name = single_col_cert_common_name
        self.channel: Channel | None = None
        pause = max(float(kwargs.get("client_reconnect_interval", 1)), 0.01)
        self._retry = RetryPolicy(first_delay=pause, max_delay=pause, max_elapsed=None)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.uri!r})"

    async def __aenter__(self) -> Self:
        await self.reconnect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.disconnect()

    def create_insecure_channel(self, uri: str) -> Channel:
        """Return a channel to ``host:port`` without TLS, with a warning. Nothing connects before the first call."""
        logger.warning(
            "no TLS on the channel to %s, which is not recommended: anybody can read and change everything", uri
        )
        return Channel(endpoint_of(uri), None, Timeouts(), Limits())

    async def create_tls_channel(
        self, uri: str, root_certificate: File, disable_client_auth: bool, certificate: File, private_key: File
    ) -> Channel:
        """Return a channel to ``host:port`` with TLS; without a certificate of ours if ``disable_client_auth``.

        Raises `ConfigurationError` for files that cannot be used.
        """
        if not root_certificate or not (disable_client_auth or (certificate and private_key)):
            raise ConfigurationError(
                "TLS needs root_certificate, and certificate and private_key unless disable_client_auth; "
                "at least one is missing"
            )
        own = {} if disable_client_auth else {"certificate": certificate, "private_key": private_key}
        if disable_client_auth:
            logger.warning("no certificate is shown to %s: whoever is there believes any name", uri)
        credentials = await Credentials.load_client(TLSConfig(ca=Path(root_certificate), **own))
        return Channel(endpoint_of(uri), credentials, Timeouts(), Limits())

    async def disconnect(self) -> None:
        """Close the connection; calls in flight end with an error. May be called twice."""
        channel, self.channel = self.channel, None
        if channel is not None:
            channel.close()

    async def reconnect(self) -> None:
        """Begin anew: read the certificates again, and connect at the next call."""
        await self.disconnect()
        if not self.tls:
            self.channel = self.create_insecure_channel(self.uri)
        else:
            self.channel = await self.create_tls_channel(
                self.uri, self.root_certificate, self.disable_client_auth, self.certificate, self.private_key
            )

    def validate_response(self, reply: Reply, collaborator_name: str) -> None:
        """Raise `WrongReplyError`, a ValueError, unless ``reply`` is the aggregator's, for this collaborator."""
        got = convert.header_from_proto(reply.header)
        expected = Header(
            self.aggregator_uuid or "",
            collaborator_name,
            self.federation_uuid or "",
            self.single_col_cert_common_name or "",
        )
        if got != expected:
            raise WrongReplyError(f"expected a reply with {expected}, got {got}; do both sides have the same plan?")

    async def get_tasks(self, collaborator_name: str) -> tuple[list[messages.aggregator.Task], int, int, bool]:
        """Return the tasks, the round, for how many seconds to sleep before the next time, and whether to quit."""
        async with self._as(collaborator_name) as client:
            answer = await client.get_tasks()
        tasks = [convert.task_to_proto(task) for task in answer.tasks]
        return tasks, answer.round_number, answer.sleep_seconds, answer.quit

    async def get_aggregated_tensor(
        self,
        collaborator_name: str,
        tensor_name: str,
        round_number: int,
        report: bool,
        tags: Sequence[str],
        require_lossless: bool,
    ) -> messages.NamedTensor:
        """Return a tensor; waits for one of the round to come. Raises `NotFoundError` for one that will not come."""
        query = TensorQuery(tensor_name, round_number, report, tuple(tags), require_lossless)
        async with self._as(collaborator_name) as client:
            return convert.tensor_to_proto(await client.get_aggregated_tensor(query))

    async def send_local_task_results(
        self,
        collaborator_name: str,
        round_number: int,
        task_name: str,
        data_size: int,
        named_tensors: Iterable[messages.NamedTensor],
    ) -> None:
        """Hand in the results of a task, in chunks that are made while they are sent."""
        tensors = [convert.tensor_from_proto(tensor) for tensor in named_tensors]
        async with self._as(collaborator_name) as client:
            await client.send_local_task_results(
                round_number=round_number, task_name=task_name, data_size=data_size, tensors=tensors
            )

    @asynccontextmanager
    async def _as(self, collaborator_name: str) -> AsyncIterator[AggregatorClient]:
        if self.channel is None:
            await self.reconnect()
        assert self.channel is not None, "reconnect makes it"
        config = CollaboratorConfig(
            name=collaborator_name,
            aggregator_uuid=self.aggregator_uuid or "",
            federation_uuid=self.federation_uuid or "",
            endpoint=endpoint_of(self.uri),
            single_col_cert_common_name=self.single_col_cert_common_name or "",
            retry=self._retry,
        )
        async with _Validating(self, config, channel=self.channel) as client:
            yield client


class _Validating(AggregatorClient):
    """Asks the facade whether a reply is right, so that an overridden `validate_response` counts."""

    def __init__(self, facade: AggregatorGRPCClient, config: CollaboratorConfig, *, channel: Channel) -> None:
        super().__init__(config, channel=channel)
        self._facade = facade
        self._name = config.name

    def _check(self, reply: Reply) -> None:
        plain(self._facade.validate_response(reply, self._name), "validate_response")  # type: ignore[func-returns-value]
