"""The job of every fault: six rounds of three collaborators, whose model follows from their names and rounds alone."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import numpy as np
from numpy.typing import NDArray

from openfl_aio.aggregator.api import AggregatorAPI
from openfl_aio.aggregator.client import AggregatorClient
from openfl_aio.collaborator.collaborator import Collaborator
from openfl_aio.collaborator.frameworks.numpy import NumPyTaskRunner
from openfl_aio.collaborator.task_runner import TaskContext, TaskOutput, ThreadTaskRunner
from openfl_aio.config import AggregatorConfig, CollaboratorConfig, Endpoint, Limits, RetryPolicy, Timeouts, TLSConfig
from openfl_aio.domain import Metric, Task

__all__ = ["METRICS", "NAMES", "ROUNDS", "Job", "Runner", "counted_once", "digest", "take_part"]

ROUNDS = 6
NAMES = ("one", "two", "three")
RETRY = RetryPolicy(first_delay=0.02, max_delay=0.25, max_elapsed=60.0)
METRICS = len(NAMES) * 3 * ROUNDS
"""How many results count in the whole job: each task of each collaborator in each round reports one metric."""


@dataclass(frozen=True)
class Job:
    """What a fault may set: the model's size, and limits and deadlines of both sides."""

    elements: int = 4_000
    limits: Limits = field(default_factory=Limits)
    timeouts: Timeouts = field(default_factory=lambda: Timeouts(connect=5.0, long_poll=5.0, drain=1.0))
    retry: RetryPolicy = RETRY
    aggregation: str = "weighted_average"

    def initial_model(self) -> dict[str, NDArray[np.float32]]:
        """Return a matrix and a vector."""
        source = np.random.default_rng(7)
        return {
            "matrix": source.normal(size=(4, self.elements // 4)).astype(np.float32),
            "vector": source.normal(size=11).astype(np.float32),
        }

    def aggregator(self, *, tls: TLSConfig | None, workspace: Path | None) -> AggregatorConfig:
        """Return the configuration of the aggregator."""
        return AggregatorConfig(
            collaborators=NAMES,
            rounds=ROUNDS,
            listen=Endpoint(),
            tls=tls,
            limits=self.limits,
            timeouts=self.timeouts,
            workspace=workspace,
            aggregation=self.aggregation,
        )

    def collaborator(self, name: str, ids: Mapping[str, str], endpoint: Endpoint, tls: TLSConfig | None) -> Any:
        """Return the configuration of a collaborator; ``ids`` are the uuids of aggregator and federation."""
        return CollaboratorConfig(
            name=name,
            endpoint=endpoint,
            tls=tls,
            limits=self.limits,
            timeouts=self.timeouts,
            retry=self.retry,
            **ids,
        )


class Runner(NumPyTaskRunner):
    """Trains towards a target that follows from its name; no data, no chance."""

    def __init__(self, name: str, *, seconds: float = 0.0) -> None:
        self._number = NAMES.index(name) + 1
        self._seconds = seconds

    @classmethod
    def initial_model(cls) -> dict[str, NDArray[np.float32]]:
        """Return the model of an ordinary job."""
        return Job().initial_model()

    def train(self, tensors: dict[str, NDArray[Any]], context: TaskContext) -> TaskOutput:
        """Go a third of the way to this round's target."""
        time.sleep(self._seconds)
        source = np.random.default_rng((self._number, context.round_number))
        moved = {}
        for name in sorted(tensors):
            target = source.normal(size=tensors[name].shape).astype(np.float32)
            moved[name] = tensors[name] + (target - tensors[name]) / np.float32(3)
        return TaskOutput(samples=10 * self._number, tensors=moved, metrics={"loss": 1.0 / self._number})

    def validate(self, tensors: dict[str, NDArray[Any]], context: TaskContext) -> TaskOutput:
        """Measure the mean."""
        return TaskOutput(samples=10 * self._number, metrics={"mean": float(tensors["vector"].mean())})


async def take_part(
    config: CollaboratorConfig, *, seconds: float = 0.0, api: type[AggregatorClient] = AggregatorClient
) -> None:
    """Be one collaborator until the federation is over."""
    async with api(config) as client:
        await work(config, client, seconds=seconds)


async def work(
    config: CollaboratorConfig, client: AggregatorAPI, *, seconds: float = 0.0, tasks: Sequence[Task] = ()
) -> None:
    """Work for ``client`` until the federation is over."""
    await Collaborator(
        name=config.name,
        aggregator=client,
        aggregator_uuid=config.aggregator_uuid,
        runner=ThreadTaskRunner(Runner(config.name, seconds=seconds)),
        tasks=tasks,
        offload=anyio.to_thread.run_sync,
    ).run()


def digest(model: Mapping[str, NDArray[Any]]) -> str:
    """Return a fingerprint of every bit of a model."""
    whole = hashlib.sha256()
    for name in sorted(model):
        whole.update(name.encode() + str(model[name].shape).encode() + np.ascontiguousarray(model[name]).tobytes())
    return whole.hexdigest()[:16]


def counted_once(metrics: list[Metric]) -> list[str]:
    """Say which results of collaborators counted twice or not at all."""
    got: dict[tuple[str, str, int], int] = {}
    for metric in metrics:
        if metric.origin in NAMES:
            key = (metric.origin, metric.task_name, metric.round_number)
            got[key] = got.get(key, 0) + 1
    wrong = [f"{key} counted {count} times" for key, count in got.items() if count != 1]
    if len(got) != METRICS:
        wrong.append(f"{len(got)} of {METRICS} results counted")
    return wrong
