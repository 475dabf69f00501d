"""The aggregator over the network, for one collaborator."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing
from functools import partial
from types import TracebackType
from typing import Final, Protocol, Self, cast

from openfl_aio.aggregator.api import get_each
from openfl_aio.config import CollaboratorConfig
from openfl_aio.domain import Assignment, Header, TensorQuery
from openfl_aio.errors import (
    HeaderMismatchError,
    MalformedMessageError,
    MessageTooLargeError,
    OpenFLAioError,
    UnsupportedCallError,
)
from openfl_aio.tensors.codec import EncodedTensor
from openfl_aio.transport.channel import RETRYABLE, Channel, call_with_retries, open_channel, translate
from openfl_aio.wire import convert, messages
from openfl_aio.wire.codec import Buffer
from openfl_aio.wire.continuation import Continuation, new_upload_id, rest_of
from openfl_aio.wire.framing import data_stream
from openfl_aio.wire.incremental import encode_task_results
from openfl_aio.wire.parts import TensorAssembler
from openfl_aio.wire.scan import MAX_QUERIES

__all__ = ["AggregatorClient", "Reply"]

logger = logging.getLogger(__name__)

_WORTH_ASKING: Final = 64 * 1024  # bytes: fewer are sent again sooner than a server is asked for them


class Reply(Protocol):
    """Every reply of an aggregator."""

    header: messages.aggregator.MessageHeader | None


class _Upload:
    """What is sent, in one call or several: the same bytes each time they are made."""

    def __init__(self, parts: Callable[[], Iterator[Buffer]], chunk_bytes: int) -> None:
        self._parts = parts
        self._chunk_bytes = chunk_bytes
        self.begin_anew()

    def begin_anew(self) -> None:
        """Have another name, so that nothing of what was sent belongs to it."""
        self.id = new_upload_id()
        self.sent = 0  # where the last call was, at most

    def chunks(self, offset: int) -> Iterator[messages.DataStream]:
        """Yield the messages of a call that begins at ``offset``."""
        self.sent = offset
        for chunk in data_stream(rest_of(self._parts(), offset), chunk_bytes=self._chunk_bytes):
            self.sent += chunk.size
            yield chunk


class AggregatorClient:
    """An `AggregatorAPI` over one connection, kept for all calls; an async context manager.

    A call is repeated with growing pauses while the aggregator cannot be reached, within ``config.retry``. Replies
    from somebody else than the configured aggregator raise `HeaderMismatchError`. A ``channel`` that is given is used
    and stays open.
    """

    def __init__(self, config: CollaboratorConfig, *, channel: Channel | None = None) -> None:
        self._config = config
        self._channel = channel
        self._gives_several = True  # until it says that it does not
        self._header = Header(
            config.name, config.aggregator_uuid, config.federation_uuid, config.single_col_cert_common_name
        )

    async def __aenter__(self) -> Self:
        config = self._config
        async with AsyncExitStack() as stack:
            channel = self._channel
            if channel is None:
                channel = await stack.enter_async_context(
                    open_channel(
                        config.endpoint,
                        tls=config.tls,
                        timeouts=config.timeouts,
                        limits=config.limits,
                        metadata={"client_id": config.name},
                    )
                )
            self._stub = messages.aggregator.AggregatorStub(channel)
            self._tensors = messages.v1.TensorsStub(channel)
            self._uploads = messages.v1.UploadsStub(channel)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._stack.__aexit__(exc_type, exc, traceback)

    async def get_tasks(self) -> Assignment:
        """Return what to do next. Raises `TransportError` when the aggregator stayed out of reach."""
        request = messages.aggregator.GetTasksRequest(header=convert.header_to_proto(self._header))
        reply = await call_with_retries(
            self._config.retry, lambda: self._stub.get_tasks(request), what=self._what("GetTasks")
        )
        self._check(reply)
        return convert.assignment_from_proto(reply)

    async def get_aggregated_tensor(self, query: TensorQuery) -> EncodedTensor:
        """Return one tensor, in parts if it is too large for a message.

        Raises `NotFoundError` for one that will not come, `MessageTooLargeError` for one that is too large and that
        the aggregator does not give in parts.
        """
        request = convert.query_to_proto(query, header=self._header)
        try:
            reply = await call_with_retries(
                self._config.retry,
                lambda: self._stub.get_aggregated_tensor(request),
                what=self._what("GetAggregatedTensor"),
                patient=True,
            )
        except MessageTooLargeError as refused:
            try:
                return await call_with_retries(
                    self._config.retry, lambda: self._get_tensor(request), what=self._what("GetTensor")
                )
            except UnsupportedCallError:
                raise refused from None
        self._check(reply)
        if reply.tensor is None:
            raise MalformedMessageError(f"the aggregator answered {query.tensor_name!r} without a tensor")
        return convert.tensor_from_proto(reply.tensor)

    async def get_aggregated_tensors(self, queries: Sequence[TensorQuery]) -> list[EncodedTensor]:
        """Return several tensors, in their order: in one call, or a few, from an aggregator of ours, else in one each."""
        found: list[EncodedTensor] = []
        while self._gives_several and len(queries) - len(found) > 1:
            ask = partial(self._get_tensors, queries[len(found) : len(found) + MAX_QUERIES])
            try:
                several = await call_with_retries(self._config.retry, ask, what=self._what("GetTensors"), patient=True)
            except (UnsupportedCallError, MessageTooLargeError):
                self._gives_several = False
            else:
                found += several or [
                    await self.get_aggregated_tensor(queries[len(found)])
                ]  # too large to be one of several
        return found + await get_each(self.get_aggregated_tensor, queries[len(found) :])

    async def _get_tensors(self, queries: Sequence[TensorQuery]) -> list[EncodedTensor]:
        reply = await self._tensors.get_tensors(
            messages.v1.TensorsRequest(
                header=convert.header_to_proto(self._header),
                queries=[convert.query_to_proto(query) for query in queries],
            )
        )
        self._check(reply)
        names = [tensor.name for tensor in reply.tensors]
        if names != [query.tensor_name for query in queries[: len(names)]]:
            raise MalformedMessageError(f"the aggregator answered {names} to queries that begin otherwise")
        return [convert.tensor_from_proto(tensor) for tensor in reply.tensors]

    async def _get_tensor(self, request: messages.aggregator.GetAggregatedTensorRequest) -> EncodedTensor:
        assembler = TensorAssembler(self._config.limits)
        async with aclosing(cast("AsyncGenerator[messages.v1.TensorPart]", self._tensors.get_tensor(request))) as parts:
            async for part in parts:
                assembler.feed(part)
        tensor = assembler.finish()
        self._check(
            messages.aggregator.GetAggregatedTensorResponse(
                header=assembler.header, round_number=request.round_number, tensor=convert.tensor_to_proto(tensor)
            )
        )
        return tensor

    async def send_local_task_results(
        self, *, round_number: int, task_name: str, data_size: int, tensors: Iterable[EncodedTensor]
    ) -> None:
        """Hand in results, encoded while they are sent.

        If the connection breaks, an aggregator of ours is sent what it has not; OpenFL's, or one that has forgotten the
        upload, all of it again. While the aggregator has no room for them it is asked again, without end: results are
        not given up for that.
        """
        if isinstance(tensors, Iterator):
            tensors = list(tensors)  # it could be read only once, but an upload may have to be repeated

        def parts() -> Iterator[Buffer]:
            return encode_task_results(
                header=self._header,
                round_number=round_number,
                task_name=task_name,
                data_size=data_size,
                tensors=tensors,
            )

        upload = _Upload(parts, self._config.limits.chunk_bytes)
        await call_with_retries(
            self._config.retry, lambda: self._send(upload), what=self._what("SendLocalTaskResults"), patient=True
        )

    async def _send(self, upload: _Upload) -> None:
        offset = 0
        if upload.sent >= _WORTH_ASKING:
            known = await self._arrived(upload)
            if known.kept:
                return
            offset = known.bytes
        if offset:
            rest = Continuation(upload.id, offset, self._header)
            try:
                with translate():
                    reply = await self._stub.send_local_task_results(upload.chunks(offset), metadata=rest.metadata())
            except RETRYABLE:
                raise
            except OpenFLAioError as exc:
                logger.warning("upload refused at byte %d, and sent as a whole: %s", offset, exc)
                upload.begin_anew()
            else:
                self._check(reply)
                return
        reply = await self._stub.send_local_task_results(upload.chunks(0), metadata=Continuation(upload.id).metadata())
        self._check(reply)

    async def _arrived(self, upload: _Upload) -> messages.v1.UploadOffset:
        """Return how much of an upload the aggregator has: nothing, if it does not know the question."""
        request = messages.v1.UploadQuery(header=convert.header_to_proto(self._header), upload_id=upload.id)
        try:
            with translate():
                reply = await self._uploads.get_offset(request)
        except UnsupportedCallError:
            return messages.v1.UploadOffset()
        self._check(reply)
        return reply

    def _what(self, call: str) -> str:
        return f"{call} at the aggregator {self._config.endpoint}"

    def _check(self, reply: Reply) -> None:
        header = convert.header_from_proto(reply.header)
        # 1.6 answers without the certificate name whatever was asked, so that field proves nothing
        got = (header.sender, header.receiver, header.federation_uuid)
        expected = (self._header.receiver, self._header.sender, self._header.federation_uuid)
        if got != expected:
            raise HeaderMismatchError(
                f"expected a reply with (sender, receiver, federation) {expected!r}, got {got!r}; "
                "do both sides have the same plan?"
            )
