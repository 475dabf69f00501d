from __future__ import annotations

import anyio

from openfl_aio.aggregator.metrics import MetricLog
from openfl_aio.domain import Metric


def metric(value: float) -> Metric:
    return Metric("one", "train", "loss", value, 0)


async def test_every_reader_gets_everything_from_its_offset_live_and_ends() -> None:
    log = MetricLog()
    log.append([metric(0)])
    read: dict[str, list[float]] = {"first": [], "second": []}

    async def follow(name: str, after: int) -> None:
        read[name] += [m.value async for m in log.read(after)]

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follow, "first", 0)
        tasks.start_soon(follow, "second", 1)
        await anyio.sleep(1)
        log.append([metric(1), metric(2)])
        await anyio.sleep(1)
        log.append([metric(3)])
        log.close()
    assert read == {"first": [0, 1, 2, 3], "second": [1, 2, 3]}
    assert [m.value async for m in log.read(2)] == [2, 3]
    assert len(log) == 4
