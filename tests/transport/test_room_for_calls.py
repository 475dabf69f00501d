"""A client that has its answer may make its next call: the server must have made room for it by then."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from grpclib.exceptions import GRPCError

from openfl_aio.config import Endpoint, Limits
from openfl_aio.errors import NotFoundError
from openfl_aio.transport.channel import open_channel
from openfl_aio.transport.http2.engine import Engine
from openfl_aio.transport.server import Server
from openfl_aio.wire.messages import aggregator, v1

pytestmark = pytest.mark.real_time


class Answering(aggregator.AggregatorBase):
    async def get_tasks(self, message: aggregator.GetTasksRequest) -> aggregator.GetTasksResponse:
        return aggregator.GetTasksResponse()

    async def get_aggregated_tensor(
        self, message: aggregator.GetAggregatedTensorRequest
    ) -> aggregator.GetAggregatedTensorResponse:
        raise NotFoundError("nothing")


async def test_handlers_do_not_count_any_more_when_their_answer_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    busy: list[int] = []
    send = Engine.send_headers

    def send_headers(engine: Engine, *args: Any, end: bool = False) -> None:
        if end:
            busy.append(engine.busy)
        send(engine, *args, end=end)

    monkeypatch.setattr(Engine, "send_headers", send_headers)
    async with (
        Server([Answering()], listen=Endpoint(), tls=None, limits=Limits(max_streams=1)) as server,
        open_channel(server.endpoint, tls=None) as channel,
    ):
        stub = aggregator.AggregatorStub(channel)
        await stub.get_tasks(aggregator.GetTasksRequest())
        for call in (
            stub.get_aggregated_tensor(aggregator.GetAggregatedTensorRequest()),
            stub.get_trained_model(aggregator.GetTrainedModelRequest()),
        ):
            with pytest.raises(GRPCError):
                await call
        await stub.get_tasks(aggregator.GetTasksRequest())
    assert busy == [0] * 4


class Heavy(v1.TensorsBase, aggregator.AggregatorBase):
    def __init__(self) -> None:
        self.inside = self.most = 0
        self.may_end = anyio.Event()

    def __mapping__(self) -> dict[str, Any]:
        return v1.TensorsBase.__mapping__(self) | aggregator.AggregatorBase.__mapping__(self)

    async def get_tasks(self, message: aggregator.GetTasksRequest) -> aggregator.GetTasksResponse:
        return aggregator.GetTasksResponse()

    async def get_tensors(self, message: v1.TensorsRequest) -> v1.TensorsResponse:
        self.inside += 1
        self.most = max(self.most, self.inside)
        await self.may_end.wait()
        self.inside -= 1
        return v1.TensorsResponse()


async def test_of_the_calls_that_are_much_work_a_connection_has_one_at_a_time() -> None:
    service = Heavy()
    async with (
        Server([service], listen=Endpoint(), tls=None, limits=Limits()) as server,
        open_channel(server.endpoint, tls=None) as channel,
        open_channel(server.endpoint, tls=None) as other,
        anyio.create_task_group() as group,
    ):
        for _ in range(3):
            group.start_soon(v1.TensorsStub(channel).get_tensors, v1.TensorsRequest())
        for _ in range(3):  # what came after them is answered, so they have been seen
            await aggregator.AggregatorStub(channel).get_tasks(aggregator.GetTasksRequest())
        assert service.most == 1
        group.start_soon(v1.TensorsStub(other).get_tensors, v1.TensorsRequest())
        for _ in range(3):
            await aggregator.AggregatorStub(other).get_tasks(aggregator.GetTasksRequest())
        assert service.most == 2
        service.may_end.set()
    assert service.inside == 0
