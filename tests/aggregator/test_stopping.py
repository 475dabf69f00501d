"""Calls that wait for the next round are told at once when the server of an aggregator stops, and can be made again."""

from __future__ import annotations

from pathlib import Path

import anyio
import numpy as np
import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from openfl_aio.aggregator.client import AggregatorClient
from openfl_aio.aggregator.service import Aggregator
from openfl_aio.aggregator.servicer import AggregatorServicer
from openfl_aio.config import AggregatorConfig, CollaboratorConfig, Endpoint, Timeouts
from openfl_aio.domain import Header, Task
from openfl_aio.tensors.codec import TensorCodec
from openfl_aio.tensors.key import TensorKey
from openfl_aio.testing.ca import ThrowawayCA
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


async def train(api: AggregatorClient, name: str, round_number: int) -> None:
    """Send a model of which the round can be read."""
    key = TensorKey.of("w", name, round_number, tags=("trained",))
    trained = TensorCodec().encode(key, np.full(2, round_number + 2, np.float32))
    await api.send_local_task_results(round_number=round_number, task_name="train", data_size=1, tensors=[trained])


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> ThrowawayCA:
    authority = ThrowawayCA(tmp_path_factory.mktemp("stopping") / "cert")
    authority.server()
    for name in ("one", "two"):
        authority.client(name)
    return authority


async def test_a_collaborator_that_waits_is_not_told_to_quit_a_federation_that_goes_on(
    ca: ThrowawayCA, tmp_path: Path
) -> None:
    config = AggregatorConfig(
        collaborators=("one", "two"),
        tasks=(Task("train"),),
        rounds=2,
        listen=Endpoint(),
        tls=ca.server(),  # whose renewal a server waits for before it ends calls: time to answer one
        workspace=tmp_path,
    )
    model = {"w": np.ones(2, np.float32)}
    told: list[Status] = []

    def client(name: str, serving: Aggregator) -> AggregatorClient:
        return AggregatorClient(
            CollaboratorConfig(
                name=name,
                endpoint=serving.endpoint,
                aggregator_uuid=config.uuid,
                federation_uuid=config.federation_uuid,
                tls=ca.client(name),
            )
        )

    async def wait(serving: Aggregator) -> None:
        header = convert.header_to_proto(Header("one", config.uuid, config.federation_uuid))
        async with open_channel(serving.endpoint, tls=ca.client("one")) as channel:
            try:
                answer = await messages.aggregator.AggregatorStub(channel).get_tasks(
                    messages.aggregator.GetTasksRequest(header=header)
                )
            except GRPCError as exc:
                told.append(exc.status)
            else:
                raise AssertionError(f"answered {answer!r}")

    async def until(serving: Aggregator, calls: int) -> None:
        with anyio.fail_after(5):
            while serving.statistics().calls != calls:
                await anyio.sleep(0.01)

    async with (
        anyio.create_task_group() as group,
        Aggregator(config, initial_model=model) as serving,
        client("one", serving) as one,
    ):
        await train(one, "one", 0)
        await until(serving, 0)
        group.start_soon(wait, serving)
        await until(serving, 1)
    assert told == [Status.UNAVAILABLE]

    async with (
        Aggregator(config, initial_model=model) as serving,
        client("one", serving) as one,
        client("two", serving) as two,
    ):
        await train(two, "two", 0)
        for api, name in ((one, "one"), (two, "two")):
            assert [task.name for task in (await api.get_tasks()).tasks] == ["train"]
            await train(api, name, 1)
        assert (await one.get_tasks()).quit
        assert (await two.get_tasks()).quit
        np.testing.assert_array_equal((await serving.wait_complete())["w"], [3, 3])
