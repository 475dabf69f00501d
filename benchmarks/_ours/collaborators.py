"""Our collaborators, all on one loop, in the place of OpenFL's: see `_openfl16/collaborators.py`, whose settings these are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from lines import answer, prepare

from openfl_aio.aggregator.client import AggregatorClient
from openfl_aio.collaborator.collaborator import Collaborator
from openfl_aio.collaborator.task_runner import TaskContext, TaskOutput
from openfl_aio.config import CollaboratorConfig, Endpoint, default_tasks
from openfl_aio.domain import Assignment, TaskKind


class HandBack:
    """Trains nothing and finds every model equally good."""

    def __init__(self, tensors: Sequence[str]) -> None:
        self._tensors = tensors

    async def tensor_names(self) -> Sequence[str]:
        """Return the names that were given."""
        return self._tensors

    async def run(self, context: TaskContext, tensors: Mapping[str, np.ndarray]) -> TaskOutput:
        """Return the model as it came, or one metric."""
        if context.task.kind is TaskKind.TRAIN:
            return TaskOutput(1, tensors)
        return TaskOutput(1, metrics={"accuracy": 0.5})


class Watched(AggregatorClient):
    """Notes when tasks came and when results began to be handed in."""

    def __init__(self, config: CollaboratorConfig) -> None:
        super().__init__(config)
        self.began: dict[int, float] = {}
        self.handed: dict[int, float] = {}

    async def get_tasks(self) -> Assignment:
        """Ask, and note when the first tasks of a round came."""
        assignment = await super().get_tasks()
        if assignment.tasks:
            self.began.setdefault(assignment.round_number, time.monotonic())
        return assignment

    async def send_local_task_results(self, *, round_number: int, **results: Any) -> None:
        """Hand in, and note when that began; the last one of a round counts."""
        self.handed[round_number] = time.monotonic()
        await super().send_local_task_results(round_number=round_number, **results)


async def main() -> None:
    settings = prepare()

    async def play(name: str) -> Watched:
        ids = {key: settings[key] for key in ("aggregator_uuid", "federation_uuid")}
        delta_updates = settings["delta_updates"]
        endpoint = Endpoint(port=settings["port"])
        config = CollaboratorConfig(name=name, endpoint=endpoint, delta_updates=delta_updates, **ids)
        async with Watched(config) as client:
            await Collaborator(
                name=name,
                aggregator=client,
                aggregator_uuid=settings["aggregator_uuid"],
                runner=HandBack(settings["tensors"]),
                tasks=default_tasks(),
                delta_updates=delta_updates,
            ).run()
        return client

    async def run() -> dict[str, Any]:
        played = dict(zip(settings["names"], await asyncio.gather(*map(play, settings["names"])), strict=True))
        return {kind: {name: getattr(one, kind) for name, one in played.items()} for kind in ("began", "handed")}

    await answer({}, {"run": run})


if __name__ == "__main__":
    asyncio.run(main())
