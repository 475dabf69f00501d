"""The job as an experiment of a director whose disk is full again and again."""

from __future__ import annotations

import io
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio

from openfl_aio.aggregator.client import AggregatorClient
from openfl_aio.config import DirectorConfig, Endpoint, Limits, RetryPolicy, Timeouts, TLSConfig, default_tasks
from openfl_aio.director.client import DirectorClient
from openfl_aio.director.service import Director
from openfl_aio.director.servicer import encode_model
from openfl_aio.director.upload import decode_model
from openfl_aio.domain import ExperimentStatus, Metric, ModelKind, ShardInfo
from openfl_aio.errors import StorageFullError
from openfl_aio.plan.experiment import experiment_plan
from openfl_aio.plan.plan import Plan
from openfl_aio.testing.ca import ThrowawayCA
from tests.faults.job import NAMES, RETRY, ROUNDS, Job, digest, work
from tests.faults.processes import questions, say, tls_of

__all__ = ["OWNER", "Frontend", "envoy", "serve_director"]

OWNER, EXPERIMENT = "alice", "exp"
IMPATIENT = RetryPolicy(first_delay=0.05, max_delay=0.1, max_elapsed=0.5)


async def serve_director(options: dict[str, Any]) -> None:
    """Serve until nobody asks any more (in the process)."""
    config = DirectorConfig(
        tls=tls_of(options.get("tls")),
        sample_shape=("1",),
        target_shape=("1",),
        limits=Limits(**options.get("limits", {})),
        timeouts=Timeouts(**options.get("timeouts", {})),
        workspace=Path(options["workspace"]),
    )
    async with Director(config) as director:
        say({"port": director.endpoint.port})
        async for _ in questions():
            say({})


def connect(endpoint: Endpoint, tls: TLSConfig, *, retry: RetryPolicy = RETRY) -> DirectorClient:
    return DirectorClient(endpoint, tls=tls, retry=retry)


class Frontend:
    """Who submits the job, and sees what becomes of it."""

    def __init__(self, endpoint: Endpoint, ca: ThrowawayCA, job: Job) -> None:
        self._endpoint = endpoint
        self._tls = ca.client(OWNER)
        self._job = job

    async def submit(self) -> None:
        """Submit the job once. Raises what the director answers."""
        plan = experiment_plan(
            task_runner="job.Runner",
            settings={},
            rounds=ROUNDS,
            tasks=default_tasks(),
            agg_addr="localhost",
            agg_port=self._endpoint.port,
            tls=True,
        )

        async def archive() -> AsyncIterator[bytes]:
            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w") as zf:
                zf.writestr("plan/plan.yaml", plan.dump())
            yield buffer.getvalue()

        async with connect(self._endpoint, self._tls, retry=IMPATIENT) as client:
            await client.set_new_experiment(
                EXPERIMENT, collaborators=NAMES, model=encode_model(self._job.initial_model()), archive=archive()
            )

    async def refused(self) -> str | None:
        """Submit the job to a director whose disk is full; return what is wrong with what came of it."""
        try:
            await self.submit()
        except StorageFullError:
            async with connect(self._endpoint, self._tls) as client:
                listed = await client.get_experiments_list()
            return f"a refused experiment is there: {listed}" if listed else None
        return "an experiment was taken that could not be kept"

    async def status(self) -> ExperimentStatus | None:
        """Return how the experiment stands."""
        async with connect(self._endpoint, self._tls) as client:
            return await client.get_experiment_status(EXPERIMENT)

    async def outcome(self) -> tuple[str, list[Metric]]:
        """Return the model's fingerprint and all metrics, once the experiment has ended."""
        async with connect(self._endpoint, self._tls) as client:
            metrics = [metric async for metric in client.get_metric_stream(EXPERIMENT)]
            encoded = await client.get_trained_model(EXPERIMENT, ModelKind.LAST)
        return digest(decode_model(encoded or ())), metrics


async def envoy(name: str, endpoint: Endpoint, tls: TLSConfig, *, seconds: float) -> None:
    """Do what an envoy does: register, wait, fetch, work."""
    async with connect(endpoint, tls) as client:
        await client.update_shard_info(ShardInfo(name, sample_shape=("1",), target_shape=("1",)))
        experiment = await client.wait_experiment(name)
        data = b"".join([bytes(chunk) async for chunk in client.get_experiment_data(experiment, name)])
    with zipfile.ZipFile(io.BytesIO(data)) as zf:
        plan = await anyio.to_thread.run_sync(Plan.parse, zf.read("plan/plan.yaml").decode())
    config = plan.collaborator_config(name, tls=tls, retry=RETRY)
    async with AggregatorClient(config) as aggregator:
        await work(config, aggregator, seconds=seconds, tasks=plan.tasks)
