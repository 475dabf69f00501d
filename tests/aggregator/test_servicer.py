from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import anyio
import numpy as np
import pytest

from openfl_aio.aggregator.service import Aggregator
from openfl_aio.aggregator.servicer import SEVERAL_AT_ONCE, AggregatorServicer, peek_header
from openfl_aio.aggregator.uploads import UploadCounts
from openfl_aio.config import AggregatorConfig, Limits
from openfl_aio.domain import Header
from openfl_aio.errors import (
    AlreadyExistsError,
    AuthenticationError,
    AuthorizationError,
    EmptyStreamError,
    ExperimentNotFoundError,
    HeaderMismatchError,
    MalformedStreamError,
    MessageTooLargeError,
    UnsupportedCallError,
)
from openfl_aio.tensors.codec import TensorCodec
from openfl_aio.tensors.key import TensorKey
from openfl_aio.testing.federation import inline
from openfl_aio.transport.identity import Caller, as_caller
from openfl_aio.transport.metadata import as_request
from openfl_aio.wire import convert, messages
from openfl_aio.wire.codec import decode, encode
from openfl_aio.wire.continuation import Continuation, new_upload_id
from openfl_aio.wire.framing import data_stream
from openfl_aio.wire.incremental import encode_task_results

MODEL = {"w": np.ones(2, np.float32)}


def aggregator(**more: Any) -> Aggregator:
    config = AggregatorConfig(collaborators=("one",), rounds=1, **more)
    return Aggregator(config, initial_model=MODEL, offload=inline)


@pytest.fixture(autouse=True)
def a_caller_without_a_certificate() -> Iterator[None]:
    with as_caller(Caller("__default__", authenticated=False)):
        yield


def header(service: Aggregator, sender: str = "one") -> Header:
    return Header(sender, service.uuid, service.federation_uuid)


def tasks_request(service: Aggregator, sender: str = "one") -> messages.aggregator.GetTasksRequest:
    return messages.aggregator.GetTasksRequest(header=convert.header_to_proto(header(service, sender)))


async def stream(chunks: Iterable[messages.DataStream]) -> AsyncIterator[messages.DataStream]:
    for chunk in chunks:
        yield chunk


def upload(service: Aggregator, task: str, *, chunk_bytes: int = 2**20) -> AsyncIterator[messages.DataStream]:
    tags = ["trained"] if task == "train" else ["metric", "validate_agg"]
    name, values = ("w", np.full(2, 5.0)) if task == "train" else ("acc", np.array(0.5))
    key = TensorKey.of(name, "one", 0, report=task != "train", tags=tags)
    parts = encode_task_results(
        header=header(service), round_number=0, task_name=task, data_size=3, tensors=[TensorCodec().encode(key, values)]
    )
    return stream(data_stream(parts, chunk_bytes=chunk_bytes))


@pytest.mark.parametrize("chunk_bytes", [1, 7, 2**20])
async def test_a_federation_through_all_six_calls(chunk_bytes: int) -> None:
    async with aggregator() as service:
        servicer = AggregatorServicer(service.find)
        answer = await servicer.get_tasks(tasks_request(service))
        assert answer.header == messages.aggregator.MessageHeader(
            sender=service.uuid, receiver="one", federation_uuid=service.federation_uuid
        )
        tensor = await servicer.get_aggregated_tensor(
            messages.aggregator.GetAggregatedTensorRequest(
                header=convert.header_to_proto(header(service)), tensor_name="w", tags=["model"], require_lossless=True
            )
        )
        assert tensor.tensor is not None
        np.testing.assert_array_equal(TensorCodec().decode(convert.tensor_from_proto(tensor.tensor)), MODEL["w"])
        empty = await servicer.get_trained_model(
            messages.aggregator.GetTrainedModelRequest(experiment_name=service.federation_uuid)
        )
        assert empty.model_proto is not None
        assert not empty.model_proto.tensors
        for task in answer.tasks:
            reply = await servicer.send_local_task_results(upload(service, task.name, chunk_bytes=chunk_bytes))
            assert reply.header == answer.header
        await service.wait_complete()
        assert (await servicer.get_tasks(tasks_request(service))).quit
        request = messages.aggregator.GetMetricStreamRequest(experiment_name=service.federation_uuid)
        origins = [metric.metric_origin async for metric in servicer.get_metric_stream(request)]
        assert origins.count("aggregator") == 2
        last = await servicer.get_trained_model(
            messages.aggregator.GetTrainedModelRequest(
                experiment_name=service.federation_uuid,
                model_type=messages.aggregator.GetTrainedModelRequestModelType.LAST_MODEL,
            )
        )
        received = decode(messages.aggregator.TrainedModelResponse, encode(last))
        (encoded,) = convert.model_from_proto(received.model_proto)
        assert (encoded.round_number, encoded.tags) == (1, ("compressed", "model"))
        np.testing.assert_array_equal(TensorCodec().decode(encoded), [5, 5])
        described = await servicer.get_experiment_description(
            messages.aggregator.GetExperimentDescriptionRequest(name=service.federation_uuid)
        )
        assert described.experiment is not None
        assert described.experiment.status == "finished"


async def test_who_may_call() -> None:
    async with aggregator() as service:
        servicer = AggregatorServicer(service.find)
        with pytest.raises(HeaderMismatchError):
            await servicer.get_tasks(messages.aggregator.GetTasksRequest())
        with pytest.raises(AuthorizationError):
            await servicer.get_tasks(tasks_request(service, "mallory"))
        with as_caller(Caller("mallory", authenticated=True)):
            with pytest.raises(AuthenticationError):
                await servicer.get_tasks(tasks_request(service))
            with pytest.raises(AuthenticationError):
                await servicer.send_local_task_results(upload(service, "train"))
            with pytest.raises(AuthorizationError):
                await servicer.get_trained_model(
                    messages.aggregator.GetTrainedModelRequest(experiment_name=service.federation_uuid)
                )
        with as_caller(Caller("one", authenticated=True)):
            assert (await servicer.get_tasks(tasks_request(service))).tasks


async def test_who_comes_for_a_federation_that_was_removed_is_let_go() -> None:
    """A collaborator of OpenFL 1.6 asks again for ever for what is refused; ours is told."""

    def find(name: str) -> Aggregator:
        raise ExperimentNotFoundError(name)

    servicer, gone = AggregatorServicer(find), aggregator()
    answer = await servicer.get_tasks(tasks_request(gone))
    assert answer.quit
    assert answer.header == messages.aggregator.MessageHeader(
        sender=gone.uuid, receiver="one", federation_uuid=gone.federation_uuid
    )
    for chunk_bytes in (1, 2**20):
        reply = await servicer.send_local_task_results(upload(gone, "train", chunk_bytes=chunk_bytes))
        assert reply.header == answer.header
    with as_request(Continuation(new_upload_id()).metadata()), pytest.raises(ExperimentNotFoundError):
        await servicer.send_local_task_results(upload(gone, "train"))
    query = messages.aggregator.GetAggregatedTensorRequest(header=tasks_request(gone).header, tensor_name="w")
    with pytest.raises(AuthenticationError, match="any more"):  # of which it ends
        await servicer.get_aggregated_tensor(query)
    with pytest.raises(HeaderMismatchError):
        await servicer.get_tasks(messages.aggregator.GetTasksRequest())
    with as_caller(Caller("mallory", authenticated=True)):
        with pytest.raises(AuthorizationError):
            await servicer.get_tasks(tasks_request(gone))
        with pytest.raises(AuthorizationError):
            await servicer.send_local_task_results(upload(gone, "train"))
        with pytest.raises(AuthorizationError):
            await servicer.get_aggregated_tensor(query)


async def test_the_names_that_other_releases_have_for_the_federation() -> None:
    async with aggregator(aliases=("plan.yaml_1", "plan.yaml_2")) as service:
        servicer = AggregatorServicer(service.find)
        for alias in ("plan.yaml_1", "plan.yaml_2"):
            called = messages.aggregator.MessageHeader(
                sender="one", receiver=f"aggregator_{alias}", federation_uuid=alias
            )
            answer = await servicer.get_tasks(messages.aggregator.GetTasksRequest(header=called))
            assert answer.tasks
            assert answer.header == messages.aggregator.MessageHeader(
                sender=f"aggregator_{alias}", receiver="one", federation_uuid=alias
            )
            called.receiver = service.uuid
            with pytest.raises(HeaderMismatchError, match="receiver"):
                await servicer.get_tasks(messages.aggregator.GetTasksRequest(header=called))
        called = messages.aggregator.MessageHeader(
            sender="one", receiver="aggregator_plan.yaml_1", federation_uuid=service.federation_uuid
        )
        with pytest.raises(HeaderMismatchError, match="receiver"):
            await servicer.get_tasks(messages.aggregator.GetTasksRequest(header=called))


async def test_a_model_that_no_message_can_hold_is_refused() -> None:
    async with aggregator(limits=Limits(max_message_bytes=64 * 1024)) as service:
        request = messages.aggregator.GetTrainedModelRequest(
            experiment_name=service.federation_uuid,
            model_type=messages.aggregator.GetTrainedModelRequestModelType.LAST_MODEL,
        )
        with pytest.raises(MessageTooLargeError, match="take it from the file"):
            await AggregatorServicer(service.find).get_trained_model(request)


async def test_one_certificate_for_all_collaborators() -> None:
    async with aggregator(single_col_cert_common_name="shared") as service:
        servicer = AggregatorServicer(service.find)
        request = messages.aggregator.GetTasksRequest(
            header=messages.aggregator.MessageHeader(
                sender="one",
                receiver=service.uuid,
                federation_uuid=service.federation_uuid,
                single_col_cert_common_name="shared",
            )
        )
        with as_caller(Caller("shared", authenticated=True)):
            answer = await servicer.get_tasks(request)
        assert answer.tasks
        assert answer.header is not None
        assert answer.header.single_col_cert_common_name == "shared"


async def test_uploads_that_are_none() -> None:
    async with aggregator() as service:
        servicer = AggregatorServicer(service.find)
        with pytest.raises(EmptyStreamError):
            await servicer.send_local_task_results(stream([]))
        with pytest.raises(MalformedStreamError, match="inside its header"):
            await servicer.send_local_task_results(stream([messages.DataStream(size=2, npbytes=b"\x0a\x7f")]))
        with pytest.raises(MalformedStreamError, match="begin with its header"):
            await servicer.send_local_task_results(stream([messages.DataStream(size=1, npbytes=b"\x2a")]))


@pytest.mark.parametrize("data", [b"", b"\x0a", b"\x0a\x80", b"\x0a\x80\x01", b"\x0a\x02\x0a"])
def test_a_header_that_is_not_there_yet(data: bytes) -> None:
    assert peek_header(memoryview(data)) is None


@pytest.mark.parametrize("data", [b"\x0a\xff\xff\x03", b"\x0a\xff\xff\xff\x03"])
def test_a_header_that_is_too_long(data: bytes) -> None:
    with pytest.raises(MalformedStreamError, match="at most"):
        peek_header(memoryview(data))


@pytest.mark.parametrize("chunk_bytes", [3, 50, 2**20])
async def test_an_upload_whose_chunks_come_in_one_buffer(chunk_bytes: int) -> None:
    """What the transport hands out is valid only until the next message is asked for."""

    async def reused() -> AsyncIterator[messages.DataStream]:
        buffer = bytearray(2**20)
        async for chunk in upload(service, "train", chunk_bytes=chunk_bytes):
            size = len(chunk.npbytes)
            buffer[:size] = chunk.npbytes
            view = memoryview(buffer)[:size]
            yield messages.DataStream(size=size, npbytes=view)  # type: ignore[arg-type]
            buffer[:size] = bytes(size)

    async with aggregator() as service:
        await AggregatorServicer(service.find).send_local_task_results(reused())
        await service.get_tasks("one")
        for task in ("aggregated_model_validation", "locally_tuned_model_validation"):
            await AggregatorServicer(service.find).send_local_task_results(upload(service, task))
        np.testing.assert_array_equal((await service.wait_complete())["w"], [5, 5])


async def test_calls_of_later_releases() -> None:
    async with aggregator() as service:
        servicer = AggregatorServicer(service.find)
        answer = await servicer.ping(messages.aggregator.PingRequest(header=convert.header_to_proto(header(service))))
        assert convert.header_from_proto(answer.header) == Header(service.uuid, "one", service.federation_uuid)
        foreign = messages.aggregator.PingRequest(header=convert.header_to_proto(header(service, "mallory")))
        with pytest.raises(AuthorizationError):
            await servicer.ping(foreign)
        with pytest.raises(UnsupportedCallError, match="no messages of other frameworks"):
            await servicer.interop_relay(messages.aggregator.InteropMessage())


async def test_other_results_than_those_that_count_are_refused_to_our_own_peers_only() -> None:
    async with aggregator() as service:
        servicer = AggregatorServicer(service.find)
        await servicer.send_local_task_results(upload(service, "train"))

        def others() -> AsyncIterator[messages.DataStream]:
            parts = encode_task_results(
                header=header(service), round_number=0, task_name="train", data_size=4, tensors=[]
            )
            return stream(data_stream(parts, chunk_bytes=2**20))

        await servicer.send_local_task_results(others())  # a client of 1.6 would send it again for ever
        with as_request(Continuation(new_upload_id()).metadata()):
            await servicer.send_local_task_results(upload(service, "train"))
            with pytest.raises(AlreadyExistsError, match="came before"):
                await servicer.send_local_task_results(others())
        assert service.upload_counts() == UploadCounts(accepted=1, duplicates=1, conflicting=2)


class Unfetched:
    """The call of a peer that asks for several tensors and does not take the answer before it is told to."""

    def __init__(self, request: messages.v1.TensorsRequest) -> None:
        self._request = request
        self.fetched = anyio.Event()
        self.answer: messages.v1.TensorsResponse | None = None

    async def recv_message(self) -> messages.v1.TensorsRequest:
        return self._request

    async def send_message(self, answer: messages.v1.TensorsResponse) -> None:
        self.answer = answer
        await self.fetched.wait()


def several(service: Aggregator, count: int, sender: str = "one") -> messages.v1.TensorsRequest:
    query = messages.aggregator.GetAggregatedTensorRequest(tensor_name="w", tags=["model"])
    return messages.v1.TensorsRequest(convert.header_to_proto(header(service, sender)), [query] * count)


async def test_who_leaves_them_unfetched_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openfl_aio.aggregator.servicer.UNFETCHED_SECONDS", 1_000_000)
    async with aggregator() as service:
        give = AggregatorServicer(service.find).__mapping__()["/openfl_aio.v1.Tensors/GetTensors"].func
        calls = [Unfetched(several(service, 3)) for _ in range(SEVERAL_AT_ONCE + 1)]
        async with anyio.create_task_group() as group:
            for call in calls:
                group.start_soon(give, call)
            await anyio.wait_all_tasks_blocked()
            assert [call.answer is None for call in calls] == [False] * SEVERAL_AT_ONCE + [True]
            group.cancel_scope.cancel()


async def test_answers_with_several_tensors_that_are_not_fetched_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openfl_aio.aggregator.servicer.UNFETCHED_SECONDS", 0)
    async with aggregator() as service:
        servicer = AggregatorServicer(service.find)
        give = servicer.__mapping__()["/openfl_aio.v1.Tensors/GetTensors"].func
        calls = [Unfetched(several(service, 3)) for _ in range(SEVERAL_AT_ONCE + 2)]
        async with anyio.create_task_group() as group:
            for call in calls:
                group.start_soon(give, call)
            await anyio.wait_all_tasks_blocked()
            counts = [len(call.answer.tensors) for call in calls if call.answer is not None]
            assert counts == [3] * SEVERAL_AT_ONCE + [0, 0]
            for call in calls:
                call.fetched.set()
        assert not servicer._giving
        again = Unfetched(several(service, 3))
        again.fetched.set()
        await give(again)
        assert again.answer is not None
        assert len(again.answer.tensors) == 3


async def test_too_many_tensors_at_once() -> None:
    async with aggregator() as service:
        with pytest.raises(MessageTooLargeError, match="at most 128 queries, got 129"):
            await AggregatorServicer(service.find).get_tensors(several(service, 129))
