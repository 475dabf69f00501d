"""Calls that wait for the next round are told at once when the server that mounts an aggregator stops."""

from __future__ import annotations

import anyio
import numpy as np
import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from openfl_aio.aggregator.service import Aggregator
from openfl_aio.aggregator.servicer import AggregatorServicer
from openfl_aio.config import AggregatorConfig, Endpoint, Timeouts
from openfl_aio.domain import Header
from openfl_aio.transport.channel import open_channel
from openfl_aio.transport.server import Server
from openfl_aio.wire import convert, messages

# a call that is not told holds the server for the whole drain, which is longer than a test may take
pytestmark = [pytest.mark.real_time, pytest.mark.timeout(30)]


@pytest.mark.parametrize("in_parts", [False, True], ids=["GetAggregatedTensor", "GetTensor"])
async def test_a_call_that_waits_for_the_next_round_is_told_at_once(in_parts: bool) -> None:
    config = AggregatorConfig(collaborators=("one",), rounds=2)
    failures: list[Status] = []
    async with Aggregator(config, initial_model={"w": np.ones(2, np.float32)}) as aggregator:
        request = messages.aggregator.GetAggregatedTensorRequest(
            header=convert.header_to_proto(Header("one", aggregator.uuid, aggregator.federation_uuid)),
            tensor_name="w",
            round_number=1,
            tags=["model"],
            require_lossless=True,
        )
        timeouts = Timeouts(drain=300)
        server = Server([AggregatorServicer(aggregator.find)], listen=Endpoint(), tls=None, timeouts=timeouts)
        await server.__aenter__()
        async with open_channel(server.endpoint, tls=None) as channel, anyio.create_task_group() as group:

            async def park() -> None:
                try:
                    if in_parts:
                        _ = [part async for part in messages.v1.TensorsStub(channel).get_tensor(request)]
                    else:
                        await messages.aggregator.AggregatorStub(channel).get_aggregated_tensor(request)
                except GRPCError as exc:
                    failures.append(exc.status)

            group.start_soon(park)
            with anyio.fail_after(5):
                while server.statistics().calls == 0:
                    await anyio.sleep(0.01)
            await server.__aexit__(None, None, None)
    assert failures == [Status.UNAVAILABLE]
