"""Every call whose message names its caller, over mutual TLS: answered in the own name, refused in any other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import anyio
import numpy as np
import pytest

from openfl_aio.aggregator.service import Aggregator
from openfl_aio.config import AggregatorConfig, DirectorConfig, Endpoint
from openfl_aio.director.service import Director
from openfl_aio.errors import AuthenticationError, AuthorizationError, OpenFLAioError
from openfl_aio.testing.ca import ThrowawayCA
from openfl_aio.transport.channel import Channel, open_channel, translate
from openfl_aio.wire.codec import encode
from openfl_aio.wire.messages import DataStream, aggregator, director, v1

pytestmark = pytest.mark.real_time

OWN: Final = "one"
OTHERS: Final = (
    "two",  # takes part as well
    "nobody",
    "",
    "One",
    "one ",
    " one",
    "one\n",
    "one\0",
    "one\r\n2026-01-01 CRITICAL forged",
    "../one",
    "\u043ene",  # with a Cyrillic letter
    "o\u0301ne",
    "x" * 10_000,
)


def header(name: str) -> aggregator.MessageHeader:
    return aggregator.MessageHeader(sender=name, receiver="aggregator_federation", federation_uuid="federation")


async def every(answers: AsyncIterator[Any]) -> None:
    async for _ in answers:
        pass


def tensor(name: str) -> aggregator.GetAggregatedTensorRequest:
    return aggregator.GetAggregatedTensorRequest(header=header(name), tensor_name="w", tags=["model"])


def upload(name: str) -> list[DataStream]:
    data = encode(aggregator.TaskResults(header=header(name), task_name="train", data_size=1))
    return [DataStream(size=len(data), npbytes=data)]


def shard(name: str) -> director.UpdateShardInfoRequest:
    return director.UpdateShardInfoRequest(
        shard_info=director.ShardInfo(node_info=director.NodeInfo(name=name), sample_shape=["1"], target_shape=["1"])
    )


Call = Callable[[Channel, str], Awaitable[Any]]
AGGREGATOR: Final[dict[str, Call]] = {
    "GetTasks": lambda c, n: aggregator.AggregatorStub(c).get_tasks(aggregator.GetTasksRequest(header=header(n))),
    "GetAggregatedTensor": lambda c, n: aggregator.AggregatorStub(c).get_aggregated_tensor(tensor(n)),
    "SendLocalTaskResults": lambda c, n: aggregator.AggregatorStub(c).send_local_task_results(upload(n)),
    "Ping": lambda c, n: aggregator.AggregatorStub(c).ping(aggregator.PingRequest(header=header(n))),
    "GetTensor": lambda c, n: every(v1.TensorsStub(c).get_tensor(tensor(n))),
    "GetTensors": lambda c, n: v1.TensorsStub(c).get_tensors(v1.TensorsRequest(header(n), [tensor(n)])),
    "GetOffset": lambda c, n: v1.UploadsStub(c).get_offset(v1.UploadQuery(header=header(n), upload_id="a" * 32)),
}
DIRECTOR: Final[dict[str, Call]] = {
    "UpdateShardInfo": lambda c, n: director.DirectorStub(c).update_shard_info(shard(n)),
    "UpdateEnvoyStatus": lambda c, n: director.DirectorStub(c).update_envoy_status(
        director.UpdateEnvoyStatusRequest(name=n)
    ),
    "WaitExperiment": lambda c, n: director.DirectorStub(c).wait_experiment(
        director.WaitExperimentRequest(collaborator_name=n)
    ),
    "GetExperimentData": lambda c, n: every(
        director.DirectorStub(c).get_experiment_data(
            director.GetExperimentDataRequest(experiment_name="exp", collaborator_name=n)
        )
    ),
    "SetExperimentFailed": lambda c, n: director.DirectorStub(c).set_experiment_failed(
        director.SetExperimentFailedRequest(experiment_name="exp", collaborator_name=n)
    ),
}


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> ThrowawayCA:
    authority = ThrowawayCA(tmp_path_factory.mktemp("every") / "cert")
    authority.server()
    authority.client(OWN)
    return authority


async def outcome(channel: Channel, call: Call, name: str) -> type[OpenFLAioError] | None:
    """Return as what a call was refused; None if it was answered, or waits for its answer."""
    try:
        with anyio.move_on_after(0.3 if name == OWN else 30), translate():
            await call(channel, name)
    except OpenFLAioError as exc:
        return type(exc)
    return None


async def check(channel: Channel, calls: dict[str, Call], refusal: type[OpenFLAioError]) -> None:
    for what, call in calls.items():
        for name in OTHERS:
            assert await outcome(channel, call, name) is refusal, (what, name[:40])
        assert await outcome(channel, call, OWN) not in (AuthenticationError, AuthorizationError), what


async def test_the_aggregators_calls(ca: ThrowawayCA) -> None:
    config = AggregatorConfig(collaborators=(OWN, "two"), rounds=1, listen=Endpoint(), tls=ca.server())
    async with (
        Aggregator(config, initial_model={"w": np.zeros(1, np.float32)}) as serving,
        open_channel(serving.endpoint, tls=ca.client(OWN)) as channel,
    ):
        await check(channel, AGGREGATOR, AuthenticationError)


async def test_the_directors_calls(ca: ThrowawayCA, tmp_path: Path) -> None:
    config = DirectorConfig(tls=ca.server(), workspace=tmp_path, sample_shape=("1",), target_shape=("1",))
    async with (
        Director(config) as serving,
        open_channel(serving.endpoint, tls=ca.client(OWN)) as channel,
    ):
        await check(channel, DIRECTOR, AuthorizationError)
