from __future__ import annotations

import anyio
import numpy as np

from openfl_aio.aggregator.service import Aggregator
from openfl_aio.config import AggregatorConfig, StragglerConfig
from openfl_aio.domain import Metric, TensorQuery
from openfl_aio.tensors.codec import EncodedTensor, TensorCodec
from openfl_aio.tensors.key import TensorKey
from openfl_aio.testing.federation import Faults, InProcessAggregator, inline

MODEL = {"w": np.zeros((3, 4), np.float32)}
CODEC = TensorCodec()


async def collaborate(api: InProcessAggregator, name: str) -> None:
    """Train to a number that depends on the name, the round and the global model."""
    number = int(name[1:])
    while True:
        assignment = await api.get_tasks()
        if assignment.quit:
            return
        await anyio.sleep(assignment.sleep_seconds)
        round_number = assignment.round_number
        for task in assignment.tasks:
            if task.name == "train":
                model = await api.get_aggregated_tensor(TensorQuery("w", round_number, tags=("model",)))
                key = TensorKey.of("w", name, round_number, tags=("trained",))
                tensors = [CODEC.encode(key, CODEC.decode(model) * 0.5 + number)]
            else:
                key = TensorKey.of("acc", name, round_number, report=True, tags=("metric", "validate_agg"))
                tensors = [CODEC.encode(key, np.array(round_number + number / 100))]
            await send(api, round_number, task.name, number + 1, tensors)


async def send(
    api: InProcessAggregator, round_number: int, task_name: str, data_size: int, tensors: list[EncodedTensor]
) -> None:
    await api.send_local_task_results(
        round_number=round_number, task_name=task_name, data_size=data_size, tensors=tensors
    )


async def federate(seed: int, *, rounds: int = 50, chaos: bool) -> tuple[bytes, list[Metric], float]:
    names = tuple(f"c{number}" for number in range(20))
    config = AggregatorConfig(
        collaborators=names,
        rounds=rounds,
        stragglers=StragglerConfig(kind="cutoff", cutoff_seconds=8 if chaos else 10_000, minimum_reporting=3),
    )
    async with Aggregator(config, initial_model=MODEL, offload=inline) as aggregator:
        begun = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            for name in names:
                faults = Faults(seed, 0.1, 0.1, pause=1.0, max_delay=1.0)
                tasks.start_soon(collaborate, InProcessAggregator(aggregator, name, faults=faults), name)
        model = await aggregator.wait_complete()
        await aggregator.wait_quits_sent()
        metrics = [metric async for metric in aggregator.metrics()]
        return model["w"].tobytes(), metrics, round(anyio.current_time() - begun, 6)


async def test_twenty_collaborators_and_fifty_rounds_with_losses_and_stragglers() -> None:
    _, metrics, seconds = await federate(1, chaos=True)
    assert 100 < seconds < 1000
    rounds = {metric.round_number for metric in metrics if metric.origin == "aggregator"}
    assert rounds == set(range(50))
    reports = sum(metric.origin != "aggregator" for metric in metrics)
    assert reports < 2 * 20 * 50  # some straggled


async def test_stragglers_and_losses_come_again_with_their_seed() -> None:
    assert await federate(3, rounds=8, chaos=True) == await federate(3, rounds=8, chaos=True)


async def test_the_same_to_the_bit_whoever_comes_first() -> None:
    first, _, _ = await federate(1, rounds=8, chaos=False)
    second, _, _ = await federate(2, rounds=8, chaos=False)
    assert first == second


async def test_describes_itself() -> None:
    config = AggregatorConfig(collaborators=("one",), rounds=1)
    async with Aggregator(config, initial_model=MODEL, offload=inline) as aggregator:
        assert "'one'" in repr(InProcessAggregator(aggregator, "one"))
