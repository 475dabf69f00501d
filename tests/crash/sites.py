"""The sites of a federation that is killed: real collaborators and clients, whose work follows from a seed.

What a site makes depends on its name, the round and the global model alone, so two runs give the same bits.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import anyio
import numpy as np
from numpy.typing import NDArray

from openfl_aio.aggregator.api import get_each
from openfl_aio.aggregator.client import AggregatorClient
from openfl_aio.collaborator.collaborator import Collaborator
from openfl_aio.collaborator.task_runner import TaskContext, TaskOutput
from openfl_aio.config import CollaboratorConfig, RetryPolicy
from openfl_aio.domain import Assignment, Task, TaskKind, TensorQuery
from openfl_aio.errors import AlreadyExistsError, NotFoundError
from openfl_aio.tensors.codec import EncodedTensor, TensorCodec
from tests.crash.catalogue import Case
from tests.crash.history import Fetched, History, Tasks, Upload, Uploaded, digest, digest_upload

__all__ = ["RETRY", "initial_model", "is_late", "take_part"]

RETRY: Final = RetryPolicy(first_delay=0.02, max_delay=0.2, max_elapsed=120.0)
REPEATED: Final = 0.25  # share of the uploads that are sent again after their answer, half of them altered
LATE_SECONDS: Final = 60.0


def initial_model(case: Case) -> dict[str, NDArray[np.float32]]:
    """Return the model that the federation of ``case`` begins with."""
    draw = np.random.default_rng(7)
    return {"w": draw.normal(size=(case.elements // 10, 10)).astype(np.float32), "b": np.zeros(16, np.float32)}


def is_late(case: Case, site: str, round_number: int) -> bool:
    """Return whether ``site`` hands in what it trained only when the round is over: one of them in each round."""
    if case.cutoff is None:
        return False
    return case.collaborators[random.Random(f"{case.name}:{round_number}").randrange(case.sites)] == site


class _Trainer:
    """Draws towards a point of the site's own, with noise; the accuracy is nearness to zero."""

    async def tensor_names(self) -> Sequence[str]:
        """Return the names of the model's tensors."""
        return ("b", "w")

    async def run(self, context: TaskContext, tensors: Mapping[str, np.ndarray]) -> TaskOutput:
        """Train or validate."""
        number = int(context.collaborator.rpartition("_")[2])
        if context.task.kind is not TaskKind.TRAIN:
            error = float(np.mean([np.abs(tensors[name]).mean() for name in sorted(tensors)]))
            return TaskOutput(samples=10 + 7 * number, metrics={"accuracy": 1 / (1 + error) + number / 100})
        draw = np.random.default_rng([number, context.round_number])
        trained = {
            name: (values + np.float32(0.3) * (number / 5 - values + draw.normal(size=values.shape))).astype(np.float32)
            for name, values in sorted(tensors.items())
        }
        return TaskOutput(
            samples=10 + 7 * number, tensors=trained, metrics={"loss": float(np.abs(trained["w"]).mean())}
        )


class _Recording:
    """The calls of one site, each written into the history; some uploads are made again after their answer."""

    def __init__(self, client: AggregatorClient, site: str, case: Case, history: History, seed: int) -> None:
        self._client = client
        self._site = site
        self._case = case
        self._history = history
        self._codec = TensorCodec(case.pipeline)
        self._random = random.Random(f"{seed}:{site}")

    async def get_tasks(self) -> Assignment:
        """Ask what to do."""
        call = self._history.begin(self._site, "GetTasks")
        answer = await self._client.get_tasks()
        names = tuple(task.name for task in answer.tasks)
        self._history.end(call, Tasks(answer.round_number, names, answer.quit))
        return answer

    async def get_aggregated_tensor(self, query: TensorQuery) -> EncodedTensor:
        """Fetch a tensor."""
        call = self._history.begin(self._site, f"GetAggregatedTensor {query.tensor_name} of {query.round_number}")
        encoded = await self._client.get_aggregated_tensor(query)
        values = np.ascontiguousarray(self._codec.decode(encoded))
        self._history.end(call, Fetched(query.tensor_name, query.round_number, query.tags, digest(values)))
        return encoded

    async def get_aggregated_tensors(self, queries: Sequence[TensorQuery]) -> list[EncodedTensor]:
        """Fetch several tensors."""
        return await get_each(self.get_aggregated_tensor, queries)

    async def send_local_task_results(
        self, *, round_number: int, task_name: str, data_size: int, tensors: Iterable[EncodedTensor]
    ) -> None:
        """Hand in results; where they are to be late, once the round is over."""
        tensors = tuple(tensors)
        named = digest_upload(data_size, tensors)
        self._history.uploads.setdefault((self._site, round_number, task_name), Upload(data_size, tensors))
        if task_name == "train" and is_late(self._case, self._site, round_number):
            with anyio.move_on_after(LATE_SECONDS):
                while not self._history.is_over(round_number):
                    await anyio.sleep(0.02)
        again = False
        while True:
            call = self._history.begin(self._site, f"SendLocalTaskResults {task_name} of {round_number}")
            try:
                await self._client.send_local_task_results(
                    round_number=round_number, task_name=task_name, data_size=data_size, tensors=tensors
                )
            except AlreadyExistsError:
                if not again:
                    raise
            self._history.end(call, Uploaded(round_number, task_name, named, again))
            if again or self._random.random() >= REPEATED:
                return
            again = True
            if self._random.random() < 0.5:
                data_size += 1000  # other content: it would weigh more than all the others


async def take_part(
    config: CollaboratorConfig, case: Case, history: History, *, tasks: Sequence[Task] = (), seed: int = 0
) -> None:
    """Work as the site ``config.name`` until told to quit, through every restart of the server."""
    async with AggregatorClient(config.model_copy(update={"retry": RETRY})) as client:
        recording = _Recording(client, config.name, case, history, seed)
        while True:
            collaborator = Collaborator(
                name=config.name,
                aggregator=recording,
                aggregator_uuid=config.aggregator_uuid,
                runner=_Trainer(),
                tasks=tasks,
                delta_updates=config.delta_updates,
                pipeline=config.pipeline,
                store_rounds=config.store_rounds,
            )
            try:
                await collaborator.run()
                return
            except NotFoundError:
                # a late site asks for the model of a round that is long over: it begins anew, as its process would
                if case.cutoff is None:
                    raise
