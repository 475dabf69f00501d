"""The calls of OpenFL's aggregator service and our own one, each a check, a call of the `Aggregator`, an answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread

from openfl_aio.aggregator.closing import Arrays
from openfl_aio.domain import Assignment, Header, Verdict
from openfl_aio.errors import (
    AlreadyExistsError,
    AuthenticationError,
    AuthorizationError,
    ExperimentNotFoundError,
    HeaderMismatchError,
    MalformedStreamError,
    MessageTooLargeError,
    OpenFLAioError,
    UnsupportedCallError,
)
from openfl_aio.tensors.codec import EncodedTensor, TensorCodec
from openfl_aio.tensors.float_table import FloatTable
from openfl_aio.tensors.key import TensorKey
from openfl_aio.transport.identity import check_speaks_for, current_caller
from openfl_aio.transport.metadata import current_metadata
from openfl_aio.wire import convert, messages
from openfl_aio.wire.codec import EncodedMessage, decode
from openfl_aio.wire.continuation import Continuation
from openfl_aio.wire.framing import ChunkChecker
from openfl_aio.wire.incremental import encode_model
from openfl_aio.wire.parts import tensor_parts
from openfl_aio.wire.scan import MAX_QUERIES
from openfl_aio.wire.tables import encode_table

if TYPE_CHECKING:
    from openfl_aio.aggregator.service import Aggregator

__all__ = ["AggregatorServicer", "peek_header"]

HEADER_TAG: Final = (
    0x0A  # field 1, length-delimited: the first byte of every TaskResults that a protobuf library writes
)
MAX_HEADER_BYTES: Final = 16 * 1024
MAX_CHUNKS_BYTES: Final = 1 << 62  # the bound is the upload's own, which knows the model
SEVERAL_BYTES: Final = 4 * 1024 * 1024  # of the tensors in one answer of GetTensors
SEVERAL_AT_ONCE: Final = 4  # such calls of one collaborator: what is small in an answer is a copy, until it is fetched
UNFETCHED_SECONDS: Final = 0.25  # before a call beyond them is answered, without a tensor
SEVERAL: Final = "/openfl_aio.v1.Tensors/GetTensors"
FEW_ENTRIES: Final = 10_000  # of a table: they are written sooner than a thread is found
ANSWER_BYTES: Final = 64 * 1024  # of an answer with a tensor, for all that is not its data


def peek_header(data: memoryview) -> Header | None:
    """Return the header at the start of a serialized TaskResults, or None if ``data`` is too short to tell.

    Raises `MalformedStreamError` if something else comes first: until the header is known nobody can say which
    federation the bytes belong to, and they are not kept on suspicion.
    """
    if not data:
        return None
    if data[0] != HEADER_TAG:
        raise MalformedStreamError(f"expected TaskResults to begin with its header, got the byte {data[0]:#04x}")
    size = shift = 0
    for position in range(1, min(len(data), 4)):
        size |= (data[position] & 0x7F) << shift
        shift += 7
        if data[position] < 0x80:
            if size > MAX_HEADER_BYTES:
                break
            end = position + 1 + size
            if len(data) < end:
                return None
            return convert.header_from_proto(decode(messages.aggregator.MessageHeader, data[position + 1 : end]))
    else:
        if len(data) < 4:
            return None
    raise MalformedStreamError(f"expected a header of at most {MAX_HEADER_BYTES} bytes at the start of TaskResults")


class AggregatorServicer(messages.aggregator.AggregatorBase, messages.v1.TensorsBase, messages.v1.UploadsBase):
    """Serves any number of federations on one port; ``find`` knows them by ``federation_uuid``.

    For the three calls whose requests have no header, ``find`` gets the experiment's name.
    """

    def __init__(self, find: Callable[[str], Aggregator]) -> None:
        self._find = find
        self._giving: Counter[tuple[str, str]] = Counter()  # calls of GetTensors, by federation and collaborator

    def __mapping__(self) -> dict[str, Any]:
        """Return the calls of all three services, by path."""
        services = (messages.aggregator.AggregatorBase, messages.v1.TensorsBase, messages.v1.UploadsBase)
        calls = {path: handler for service in services for path, handler in service.__mapping__(self).items()}
        return calls | {SEVERAL: calls[SEVERAL]._replace(func=self._give_several)} if SEVERAL in calls else calls

    async def get_tasks(self, message: messages.aggregator.GetTasksRequest) -> messages.aggregator.GetTasksResponse:
        """Answer what the sender shall do next; parks while there is nothing. A federation that is not here is over."""
        try:
            aggregator, header = self._admit(message.header)
        except ExperimentNotFoundError:
            header = _of_removed(convert.header_from_proto(message.header))
            assignment = Assignment(0, quit=True)
        else:
            assignment = await aggregator.get_tasks(header.sender)
        return convert.assignment_to_proto(assignment, header=self._reply(header))

    async def get_aggregated_tensor(
        self, message: messages.aggregator.GetAggregatedTensorRequest
    ) -> messages.aggregator.GetAggregatedTensorResponse:
        """Answer one tensor; parks for one of the round to come. One that is too large for a message is refused."""
        try:
            aggregator, header = self._admit(message.header)
        except ExperimentNotFoundError as exc:
            _of_removed(convert.header_from_proto(message.header))
            # of this a collaborator of OpenFL 1.6 ends, and its envoy goes on
            raise AuthenticationError(f"nobody takes part any more: {exc}") from None
        tensor = await aggregator.get_aggregated_tensor(header.sender, convert.query_from_proto(message))
        nbytes, most = await _written(tensor), aggregator.config.limits.max_message_bytes
        if nbytes + ANSWER_BYTES > most:
            raise MessageTooLargeError(
                f"tensor {message.tensor_name!r} has {nbytes} bytes, which is too much for a message of {most} bytes; "
                "openfl_aio.v1.Tensors/GetTensor gives it in parts"
            )
        return messages.aggregator.GetAggregatedTensorResponse(
            header=convert.header_to_proto(self._reply(header)),
            round_number=message.round_number,
            tensor=convert.tensor_to_proto(tensor),
        )

    async def get_tensor(
        self, message: messages.aggregator.GetAggregatedTensorRequest
    ) -> AsyncIterator[messages.v1.TensorPart]:
        """Answer one tensor of any size, in parts."""
        aggregator, header = self._admit(message.header)
        tensor = await aggregator.get_aggregated_tensor(header.sender, convert.query_from_proto(message))
        await _written(tensor)
        chunk_bytes = aggregator.config.limits.chunk_bytes
        for part in tensor_parts(tensor, header=self._reply(header), chunk_bytes=chunk_bytes):
            yield part

    async def _give_several(self, stream: Any) -> None:
        """Serve GetTensors. A collaborator that leaves answers unfetched gets none of the tensors: they are there singly."""
        message = await stream.recv_message()
        _, header = self._admit(message.header)
        who = header.federation_uuid, header.sender
        self._giving[who] += 1
        try:
            if self._giving[who] > SEVERAL_AT_ONCE:
                message.queries = []
                await anyio.sleep(UNFETCHED_SECONDS)  # its connection's next such call waits for this one
            answer = await self.get_tensors(message)
            del message  # it has many objects, and the answer may be a long time under way
            await stream.send_message(answer)
        finally:
            self._giving[who] -= 1
            if not self._giving[who]:
                del self._giving[who]

    async def get_tensors(self, message: messages.v1.TensorsRequest) -> messages.v1.TensorsResponse:
        """Answer the first of several tensors, as many as fit into a small message."""
        aggregator, header = self._admit(message.header)
        if len(message.queries) > MAX_QUERIES:
            raise MessageTooLargeError(f"expected at most {MAX_QUERIES} queries, got {len(message.queries)}")
        tensors = []
        room = SEVERAL_BYTES
        for query in message.queries:
            tensor = await aggregator.get_aggregated_tensor(header.sender, convert.query_from_proto(query))
            room -= await _written(tensor)
            if room < 0:
                break
            tensors.append(convert.tensor_to_proto(tensor))
        return messages.v1.TensorsResponse(header=convert.header_to_proto(self._reply(header)), tensors=tensors)

    async def send_local_task_results(
        self, messages_: AsyncIterator[messages.DataStream]
    ) -> messages.aggregator.SendLocalTaskResultsResponse:
        """Take in one upload, or the rest of one. A duplicate or a late one is answered like one that counts, as 1.6 does.

        So is one for a federation that is not here any more, unless a peer of ours sends it.

        Raises `AlreadyExistsError` where a peer of ours sends other results than those that count.
        """
        continued = Continuation.from_metadata(current_metadata())
        checker = ChunkChecker(MAX_CHUNKS_BYTES, strict=True)
        head = bytearray()
        upload = None
        removed = False
        with ExitStack() as sending:
            try:
                if continued is not None and continued.header is not None:
                    aggregator, header = self._check(continued.header)
                    upload = await aggregator.suspended.resume(header.sender, continued.upload_id, continued.offset)
                    sending.enter_context(aggregator.suspended.sending(header.sender, continued.upload_id))
                async for chunk in messages_:
                    data = checker.check(chunk)
                    if removed:
                        continue
                    if upload is None:
                        if head:
                            data = memoryview(head + data)
                        peeked = peek_header(data[: MAX_HEADER_BYTES + 8])
                        if peeked is None:
                            head = bytearray(data)
                            continue
                        try:
                            aggregator, header = self._check(peeked)
                        except ExperimentNotFoundError:
                            if continued is not None:
                                raise
                            header, removed = _of_removed(peeked), True
                            continue
                        if continued is not None:
                            sending.enter_context(aggregator.suspended.sending(header.sender, continued.upload_id))
                        upload = aggregator.upload(header.sender, None if continued is None else continued.upload_id)
                    await upload.feed(data)
                    del chunk, data  # else their memory would be here while the next ones come
                if continued is None or not continued.offset:
                    checker.finish()  # else all of it may have come before
                if upload is None and not removed:
                    raise MalformedStreamError("the upload ended inside its header")
                if upload is not None and await upload.finish() is Verdict.CONFLICT and continued is not None:
                    # clients of 1.6, which give uploads no names, would send theirs again for ever
                    raise AlreadyExistsError(
                        f"other results of {header.sender!r} for this task came before, and count; these do not"
                    )
            except OpenFLAioError:
                raise
            except BaseException:
                # the caller is gone, or waits no longer
                if continued is not None and upload is not None:
                    suspended = await aggregator.suspended.suspend(header.sender, continued.upload_id, upload)
                    upload = None if suspended else upload
                raise
            finally:
                if upload is not None:
                    await upload.abort()
        return messages.aggregator.SendLocalTaskResultsResponse(header=convert.header_to_proto(self._reply(header)))

    async def get_offset(self, message: messages.v1.UploadQuery) -> messages.v1.UploadOffset:
        """Answer where an upload that was cut may be gone on with."""
        aggregator, header = self._admit(message.header)
        offset = await aggregator.suspended.offset(header.sender, message.upload_id)
        kept = aggregator.suspended.was_kept(header.sender, message.upload_id)
        return messages.v1.UploadOffset(header=convert.header_to_proto(self._reply(header)), bytes=offset, kept=kept)

    async def get_metric_stream(
        self, message: messages.aggregator.GetMetricStreamRequest
    ) -> AsyncIterator[messages.aggregator.GetMetricStreamResponse]:
        """Stream all metrics from the first on, until the federation ends."""
        async for metric in self._observed(message.experiment_name).metrics():
            yield convert.metric_to_proto(metric, messages.aggregator.GetMetricStreamResponse)

    async def get_trained_model(
        self, message: messages.aggregator.GetTrainedModelRequest
    ) -> messages.aggregator.TrainedModelResponse:
        """Answer the best or last model, without tensors while there is no best one."""
        aggregator = self._observed(message.experiment_name)
        kind = convert.model_kind_from_proto(message.model_type)
        encoded = None if kind is None else await aggregator.encoded_model(kind, _encode_model)
        if encoded is None:
            return messages.aggregator.TrainedModelResponse(model_proto=messages.ModelProto())
        most = aggregator.config.limits.max_message_bytes
        if encoded.nbytes + ANSWER_BYTES > most:
            raise MessageTooLargeError(
                f"the model has {encoded.nbytes} bytes, which is too much for a message of {most} bytes; "
                "take it from the file that the aggregator saves"
            )
        return messages.aggregator.TrainedModelResponse(model_proto=encoded)  # type: ignore[arg-type]

    async def get_experiment_description(
        self, message: messages.aggregator.GetExperimentDescriptionRequest
    ) -> messages.aggregator.GetExperimentDescriptionResponse:
        """Answer how far the federation is."""
        description = self._observed(message.name).describe()
        return messages.aggregator.GetExperimentDescriptionResponse(
            experiment=convert.description_to_proto(description)
        )

    async def ping(self, message: messages.aggregator.PingRequest) -> messages.aggregator.PingResponse:
        """Answer OpenFL 1.9's question whether the sender would be let in."""
        _, header = self._admit(message.header)
        return messages.aggregator.PingResponse(header=convert.header_to_proto(self._reply(header)))

    async def interop_relay(self, message: messages.aggregator.InteropMessage) -> messages.aggregator.InteropMessage:
        """Refuse, with a sentence, to carry another framework's messages (OpenFL 1.8 and later)."""
        raise UnsupportedCallError(
            "this aggregator carries no messages of other frameworks: InteropRelay needs OpenFL 1.8 or later on both "
            "sides; use the task runner's API"
        )

    def _admit(self, header: messages.aggregator.MessageHeader | None) -> tuple[Aggregator, Header]:
        return self._check(convert.header_from_proto(header))

    def _check(self, header: Header) -> tuple[Aggregator, Header]:
        """Find the federation that a header names, and check that the caller may speak for its sender."""
        aggregator = self._find(header.federation_uuid)
        caller = current_caller()
        if not caller.authenticated:
            check_speaks_for(caller, header.sender)
        else:
            expected = aggregator.config.single_col_cert_common_name or header.sender
            # of these a collaborator of OpenFL 1.6 dies; any other answer it would ask for again for ever
            if caller.name != expected:
                raise AuthenticationError(f"certificate of {caller.name!r}: expected that of {expected!r}")
            if header.sender not in aggregator.collaborators:
                raise AuthenticationError(f"{header.sender!r} is no collaborator of this federation")
        aggregator.check_header(header)
        return aggregator, header

    def _reply(self, request: Header) -> Header:
        """Answer under the name by which the aggregator was called: it has one in each release's eyes."""
        return Header(request.receiver, request.sender, request.federation_uuid, request.single_col_cert_common_name)

    def _observed(self, experiment_name: str) -> Aggregator:
        """Find a federation for a call without a header, which its collaborators may make."""
        aggregator = self._find(experiment_name)
        caller = current_caller()
        if caller.authenticated and caller.name not in aggregator.collaborators:
            raise AuthorizationError(f"{caller.name!r} takes no part in this federation")
        return aggregator


def _of_removed(header: Header) -> Header:
    """Return the header of a call for a federation that is not here: its experiment was removed.

    A collaborator of OpenFL 1.6 asks again for ever for what is refused, and its envoy never takes part in anything
    else. So whoever speaks for himself is let go, and learns nothing. Raises `HeaderMismatchError` for an empty header.
    """
    if not header.sender or not header.federation_uuid:
        raise HeaderMismatchError(
            "expected a header with the names of its sender and of the federation, got an empty one"
        )
    check_speaks_for(current_caller(), header.sender)
    return header


async def _written(tensor: EncodedTensor) -> int:
    """Write the tables of ``tensor``, away from the event loop if they are large; return its bytes with them."""
    tables = [stage.int_to_float for stage in tensor.metadata if isinstance(stage.int_to_float, FloatTable)]
    for table in tables:
        if len(table) < FEW_ENTRIES or table.written is not None:
            encode_table(table)
        else:
            await anyio.to_thread.run_sync(encode_table, table)
    return memoryview(tensor.data).nbytes + sum(len(encode_table(table)) for table in tables)


def _encode_model(model: Arrays, round_number: int) -> EncodedMessage:
    codec = TensorCodec()
    return EncodedMessage(
        encode_model(codec.encode(TensorKey(name, "", round_number, False, ("model",)), model[name]) for name in model)
    )
