"""Envoys against a real director, over mutual TLS, with real child processes."""

from __future__ import annotations

import io
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread
import numpy as np
import pytest

from openfl_aio.config import DirectorConfig, Endpoint, EnvoyConfig, RetryPolicy, default_tasks
from openfl_aio.director.client import DirectorClient
from openfl_aio.director.service import Director
from openfl_aio.domain import ExperimentStatus, ModelKind
from openfl_aio.envoy.envoy import Envoy
from openfl_aio.plan.experiment import experiment_plan
from openfl_aio.tensors.codec import TensorCodec
from openfl_aio.tensors.key import TensorKey
from openfl_aio.testing.ca import ThrowawayCA

pytestmark = pytest.mark.real_time

SHARD = """
class Shard:
    def __init__(self, *, target):
        self.target = target
    sample_shape = ["1"]
    target_shape = ["1"]
    dataset_description = "one number"
    def get_dataset(self, dataset_type):
        return self.target
"""

# moves half of the way to its shard's number: the federation ends in the middle of its members
RUNNER = """
import numpy as np
from openfl_aio.collaborator.frameworks.numpy import NumPyTaskRunner
from openfl_aio.collaborator.task_runner import TaskOutput

class Runner(NumPyTaskRunner):
    def __init__(self, shard, *, fail_at=""):
        self.target = shard.get_dataset("train")
        self.fail_at = fail_at
    @classmethod
    def initial_model(cls):
        return {"w": np.zeros(3, np.float32)}
    def train(self, tensors, context):
        if self.fail_at == context.collaborator:
            raise RuntimeError("the data is gone")
        return TaskOutput(10, {"w": (tensors["w"] + self.target) / 2}, {"loss": 1.0})
    def validate(self, tensors, context):
        return TaskOutput(10, metrics={"closeness": -float(np.abs(tensors["w"] - self.target).mean())})
"""


def archive(**options: Any) -> bytes:
    settings = options.pop("settings", {})
    plan = experiment_plan(
        task_runner="runner_source.Runner",
        settings=settings,
        rounds=4,
        tasks=default_tasks(),
        agg_addr="localhost",
        **options,
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        zipped.writestr("plan/plan.yaml", plan.dump())
        zipped.writestr("runner_source.py", RUNNER)
    return buffer.getvalue()


async def chunks(data: bytes) -> AsyncIterator[bytes]:
    yield data


class Site:
    """A director with two envoys and a frontend's client."""

    def __init__(self, director: Director, client: DirectorClient) -> None:
        self.director = director
        self.client = client

    async def submit(self, name: str, data: bytes) -> None:
        model = [TensorCodec().encode(TensorKey("w", "", 0, False, ("model",)), np.zeros(3, np.float32))]
        accepted = await self.client.set_new_experiment(
            name, collaborators=["one", "two"], model=model, archive=chunks(data)
        )
        assert accepted

    async def ended(self, name: str) -> ExperimentStatus:
        with anyio.fail_after(30):
            async for _ in self.client.get_metric_stream(name):
                pass
            while True:
                status = await self.client.get_experiment_status(name)
                if status is not None and status.ended:
                    return status
                await anyio.sleep(0.02)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    def prepare() -> ThrowawayCA:
        (tmp_path / "shard_source.py").write_text(SHARD)
        ca = ThrowawayCA(tmp_path / "cert")
        ca.server()
        for name in ("one", "two", "researcher"):
            ca.client(name)
        return ca

    ca = await anyio.to_thread.run_sync(prepare)
    config = DirectorConfig(sample_shape=("1",), target_shape=("1",), tls=ca.server())
    async with Director(config) as director, anyio.create_task_group() as group:
        where = Endpoint(host="localhost", port=director.endpoint.port)

        async def start_envoy(
            name: str, target: float, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
        ) -> None:
            envoy = EnvoyConfig(
                name=name,
                director=where,
                shard_template="shard_source.Shard",
                shard_params={"target": target},
                shard_path=tmp_path,
                tls=ca.client(name),
                retry=RetryPolicy(first_delay=0.05, max_delay=0.2),
            )
            await Envoy(envoy, registered=lambda _: task_status.started()).run()

        await group.start(start_envoy, "one", 1.0)
        await group.start(start_envoy, "two", 3.0)
        async with DirectorClient(where, tls=ca.client("researcher")) as client:
            yield Site(director, client)
        group.cancel_scope.cancel()


@pytest.mark.parametrize("delta_updates", [False, True])
async def test_an_experiment_from_submission_to_its_model(site: Site, delta_updates: bool) -> None:
    await site.submit("middle", archive(delta_updates=delta_updates))
    assert await site.ended("middle") is ExperimentStatus.FINISHED
    model = await site.client.get_trained_model("middle", ModelKind.LAST)
    assert model is not None
    # half of the way to the mean of the targets, four times
    np.testing.assert_allclose(np.frombuffer(model[0].data, "<f4"), np.full(3, 2 * (1 - 0.5**4)), rtol=1e-6)


async def test_a_failed_task_fails_the_experiment_and_the_next_one_runs(site: Site) -> None:
    await site.submit("failing", archive(settings={"fail_at": "two"}))
    assert await site.ended("failing") is ExperimentStatus.FAILED
    await site.submit("next", archive())
    assert await site.ended("next") is ExperimentStatus.FINISHED
