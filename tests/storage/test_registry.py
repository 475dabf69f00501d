from __future__ import annotations

import math
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from openfl_aio.domain import DeviceInfo, ExperimentStatus, Metric, ShardInfo
from openfl_aio.storage.database import Database
from openfl_aio.storage.registry import DatabaseRegistry, ExperimentRecord, MemoryRegistry, Registry

pytestmark = pytest.mark.real_time

RECORD = ExperimentRecord(
    name="digits",
    owner="alice",
    collaborators=("one", "two"),
    status=ExperimentStatus.PENDING,
    archive_id="0" * 32,
    federation_uuid="f",
    created=1.5,
)


@pytest.fixture(params=["memory", "database"])
async def registry(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Registry]:
    if request.param == "memory":
        yield MemoryRegistry()
        return
    database = Database(tmp_path / "openfl.db")
    await database.open()
    yield DatabaseRegistry(database)
    await database.close()


async def test_experiments_keep_their_order(registry: Registry) -> None:
    assert await registry.experiments() == []
    second = replace(RECORD, name="a second", collaborators=())
    await registry.save_experiment(RECORD)
    await registry.save_experiment(second)
    failed = replace(RECORD, status=ExperimentStatus.FAILED, error="out of luck")
    await registry.save_experiment(failed)
    assert await registry.experiments() == [failed, second]
    await registry.remove_experiment("digits")
    await registry.remove_experiment("digits")
    assert await registry.experiments() == [second]
    assert "Registry" in repr(registry)


async def test_shards_come_back_whole(registry: Registry) -> None:
    shard = ShardInfo("two", "digits", 10, ("8", "8"), ("1",), (DeviceInfo(0, 8, 4, "50%", "1", "2", "gpu"),))
    await registry.save_shard(ShardInfo("two"))
    await registry.save_shard(shard)
    await registry.save_shard(ShardInfo("one"))
    assert await registry.shards() == [ShardInfo("one"), shard]
    await registry.remove_shard("one")
    await registry.remove_shard("one")
    assert await registry.shards() == [shard]


async def test_metrics_are_read_from_any_offset(registry: Registry) -> None:
    metrics = [Metric("one", "train", "loss", 1 / (n + 1), n) for n in range(5)]
    await registry.append_metrics("digits", metrics[:2])
    await registry.append_metrics("digits", [])
    await registry.append_metrics("digits", metrics[2:])
    await registry.append_metrics("other", metrics[:1])
    assert await registry.metrics("digits") == metrics
    assert await registry.metrics("digits", after=3) == metrics[3:]
    assert await registry.metrics("digits", after=9) == []
    await registry.remove_experiment("digits")
    assert await registry.metrics("digits") == []
    assert await registry.metrics("other") == metrics[:1]


async def test_values_that_are_no_numbers(registry: Registry) -> None:
    await registry.append_metrics("e", [Metric("o", "t", "m", value, 0) for value in (math.nan, math.inf)])
    nan, infinite = await registry.metrics("e")
    assert math.isnan(nan.value)
    assert infinite.value == math.inf


async def test_many_at_once(registry: Registry) -> None:
    async with anyio.create_task_group() as group:
        for n in range(20):
            group.start_soon(registry.append_metrics, "e", [Metric("o", "t", "m", n, n)])
    assert sorted(metric.round_number for metric in await registry.metrics("e")) == list(range(20))
