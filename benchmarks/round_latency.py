"""How long from the last result of a round to the first task of the next, over TCP, against in-process calls?

N collaborators take part, and all but one wait in GetTasks. The clock starts when the last one begins to hand in its
result; the round closes, is aggregated, and the next one opens. It stops when the first collaborator, or every one,
holds its next task. Everything is in one event loop and in memory, over the loopback in plaintext, with a tensor so
small that its average costs nothing.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import numpy as np
from _harness import Comparison, arguments, expect, report
from _network import client_of, event_loop, within

from openfl_aio.aggregator.api import AggregatorAPI
from openfl_aio.aggregator.service import Aggregator
from openfl_aio.config import AggregatorConfig, Endpoint, Timeouts
from openfl_aio.domain import ModelKind, Task, TaskKind
from openfl_aio.tensors.codec import TensorCodec
from openfl_aio.tensors.key import TensorKey
from openfl_aio.testing.federation import InProcessAggregator

WARM_UP = 2
TASK = "train"
PAUSE = 0.05  # seconds in which the calls of those who wait reach the aggregator


class Federation:
    """An aggregator and its collaborators, who do one round when they are told."""

    def __init__(self, aggregator: Aggregator, collaborators: dict[str, AggregatorAPI]) -> None:
        self.aggregator = aggregator
        self._collaborators = collaborators
        self._round = 0

    async def play(self) -> tuple[float, float]:
        """Do one round and return the seconds until the first, and until every collaborator had its next task."""
        *others, last = self._collaborators
        for name, api in self._collaborators.items():
            assignment = await api.get_tasks()
            expect(
                (assignment.round_number, len(assignment.tasks)) == (self._round, 1),
                f"{name} was told {assignment} in round {self._round}",
            )
            if name != last:
                await self._hand_in(name)
        arrivals: list[float] = []
        async with anyio.create_task_group() as tasks:
            for name in others:
                tasks.start_soon(self._wait, name, arrivals)
            await anyio.sleep(PAUSE)
            expect(not arrivals, "somebody got a task of the next round before this one was over")
            start = time.perf_counter()
            await self._hand_in(last)
            await self._wait(last, arrivals)
        self._round += 1
        expect(len(arrivals) == len(self._collaborators), "somebody got no task of the next round")
        return min(arrivals) - start, max(arrivals) - start

    async def _wait(self, name: str, arrivals: list[float]) -> None:
        assignment = await self._collaborators[name].get_tasks()
        arrivals.append(time.perf_counter())
        expect(assignment.round_number == self._round + 1, f"{name} was told {assignment} after round {self._round}")

    async def _hand_in(self, name: str) -> None:
        key = TensorKey.of("w", name, self._round, tags=("trained",))
        tensor = TensorCodec().encode(key, np.full(4, self._round + 1, np.float32))
        await self._collaborators[name].send_local_task_results(
            round_number=self._round, task_name=TASK, data_size=1, tensors=[tensor]
        )

    def check(self) -> None:
        """End the benchmark unless every round was counted, and the model is the average of the last one."""
        expect(self.aggregator.round_number == self._round, f"expected round {self._round} to have begun")
        model = self.aggregator.model(ModelKind.LAST)
        expect(model is not None and bool((model["w"] == self._round).all()), "the model is not the rounds' average")


@asynccontextmanager
async def federation(collaborators: int, rounds: int, *, network: bool) -> AsyncIterator[Federation]:
    """Open a federation, with a connection for every collaborator if it is to use the network."""
    names = tuple(f"c{number}" for number in range(collaborators))
    config = AggregatorConfig(
        collaborators=names,
        rounds=rounds,
        tasks=(Task(TASK, TASK, TaskKind.TRAIN, apply_local=False),),
        listen=Endpoint() if network else None,
        timeouts=Timeouts(drain=1),
    )
    async with AsyncExitStack() as stack:
        aggregator = await stack.enter_async_context(Aggregator(config, initial_model={"w": np.zeros(4, np.float32)}))
        apis: dict[str, AggregatorAPI] = {}
        for name in names:
            if network:
                apis[name] = await stack.enter_async_context(client_of(aggregator, name))
            else:
                apis[name] = InProcessAggregator(aggregator, name)
        yield Federation(aggregator, apis)


def measure(collaborators: int, pairs: int) -> list[Comparison]:
    seconds: dict[str, list[tuple[float, float]]] = {"in process": [], "over TCP": []}
    rounds = pairs + WARM_UP + 1
    with (
        event_loop() as portal,
        portal.wrap_async_context_manager(federation(collaborators, rounds, network=False)) as inside,
        portal.wrap_async_context_manager(federation(collaborators, rounds, network=True)) as outside,
    ):
        both = {"in process": inside, "over TCP": outside}
        for number in range(WARM_UP + pairs):
            for name in both if number % 2 == 0 else reversed(both):
                seconds[name].append(portal.call(within, both[name].play))
        for one in both.values():
            one.check()
    return [
        Comparison(
            f"{collaborators} collaborators, {case}",
            "in process",
            "over TCP",
            0,
            tuple(both_seconds[which] for both_seconds in seconds["in process"][WARM_UP:]),
            tuple(both_seconds[which] for both_seconds in seconds["over TCP"][WARM_UP:]),
        )
        for which, case in enumerate(("first task", "every task"))
    ]


def main() -> None:
    options = arguments(__doc__)
    sizes = [2, 8] if options.small else [2, 16, 128]
    comparisons = [one for size in sizes for one in measure(size, options.pairs)]
    report("round latency: last result of a round to a task of the next", comparisons, options)


if __name__ == "__main__":
    main()
