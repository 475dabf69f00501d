"""What a director remembers: experiments, shards, and the metrics of experiments that have ended.

Two flavours with one contract: `MemoryRegistry` for tests and short-lived embedders, `DatabaseRegistry` for the rest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from sqlalchemy import Row, Table, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from openfl_aio.domain import DeviceInfo, ExperimentStatus, Metric, ShardInfo
from openfl_aio.storage.database import Database
from openfl_aio.storage.schema import EXPERIMENTS, METRICS, SHARDS

__all__ = ["DatabaseRegistry", "ExperimentRecord", "MemoryRegistry", "Registry"]


@dataclass(frozen=True, slots=True)
class ExperimentRecord:
    """An experiment as submitted and where it stands. ``created`` is Unix time in seconds."""

    name: str
    owner: str
    collaborators: tuple[str, ...]
    status: ExperimentStatus
    archive_id: str
    federation_uuid: str
    created: float
    error: str = ""
    assigned: str = ""
    told: bool = False


class Registry(Protocol):
    """Rows, each saved by name: saving again replaces, removing what is absent is no error."""

    async def save_experiment(self, record: ExperimentRecord) -> None:
        """Add or replace an experiment; a replaced one keeps its place in the order."""
        ...

    async def experiments(self) -> list[ExperimentRecord]:
        """Return all experiments in the order in which they were first saved."""
        ...

    async def remove_experiment(self, name: str) -> None:
        """Forget an experiment and its metrics."""
        ...

    async def save_shard(self, shard: ShardInfo) -> None:
        """Add or replace a shard."""
        ...

    async def remove_shard(self, name: str) -> None:
        """Forget a shard."""
        ...

    async def shards(self) -> list[ShardInfo]:
        """Return all shards by name."""
        ...

    async def append_metrics(self, experiment: str, metrics: Sequence[Metric]) -> None:
        """Add metrics behind those that an experiment has: all of them or none."""
        ...

    async def metrics(self, experiment: str, after: int = 0) -> list[Metric]:
        """Return an experiment's metrics in order, without the first ``after``."""
        ...


class MemoryRegistry:
    """A `Registry` that ends with the process."""

    def __init__(self) -> None:
        self._experiments: dict[str, ExperimentRecord] = {}
        self._shards: dict[str, ShardInfo] = {}
        self._metrics: dict[str, list[Metric]] = {}

    def __repr__(self) -> str:
        return f"<MemoryRegistry experiments={len(self._experiments)} shards={len(self._shards)}>"

    async def save_experiment(self, record: ExperimentRecord) -> None:
        """See `Registry`."""
        self._experiments[record.name] = record

    async def experiments(self) -> list[ExperimentRecord]:
        """See `Registry`."""
        return list(self._experiments.values())

    async def remove_experiment(self, name: str) -> None:
        """See `Registry`."""
        self._experiments.pop(name, None)
        self._metrics.pop(name, None)

    async def save_shard(self, shard: ShardInfo) -> None:
        """See `Registry`."""
        self._shards[shard.name] = shard

    async def remove_shard(self, name: str) -> None:
        """See `Registry`."""
        self._shards.pop(name, None)

    async def shards(self) -> list[ShardInfo]:
        """See `Registry`."""
        return sorted(self._shards.values(), key=lambda shard: shard.name)

    async def append_metrics(self, experiment: str, metrics: Sequence[Metric]) -> None:
        """See `Registry`."""
        self._metrics.setdefault(experiment, []).extend(metrics)

    async def metrics(self, experiment: str, after: int = 0) -> list[Metric]:
        """See `Registry`."""
        return self._metrics.get(experiment, [])[after:]


class DatabaseRegistry:
    """A `Registry` in a `Database`, durable when a call returns. Calls raise `StorageError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __repr__(self) -> str:
        return f"<DatabaseRegistry {self._database!r}>"

    async def save_experiment(self, record: ExperimentRecord) -> None:
        """See `Registry`."""
        values = asdict(record) | {
            "collaborators": json.dumps(record.collaborators),
            "status": record.status.value,
            "told": int(record.told),
        }
        del values["name"]
        async with self._database.begin() as connection:
            if not await _update(connection, EXPERIMENTS, {"name": record.name}, values):
                last = await connection.scalar(select(func.max(EXPERIMENTS.c.position)))
                position = 0 if last is None else last + 1
                await connection.execute(EXPERIMENTS.insert().values(name=record.name, position=position, **values))

    async def experiments(self) -> list[ExperimentRecord]:
        """See `Registry`."""
        async with self._database.begin() as connection:
            rows = await connection.execute(select(EXPERIMENTS).order_by(EXPERIMENTS.c.position))
        return [_experiment(row) for row in rows]

    async def remove_experiment(self, name: str) -> None:
        """See `Registry`."""
        async with self._database.begin() as connection:
            await connection.execute(EXPERIMENTS.delete().where(EXPERIMENTS.c.name == name))
            await connection.execute(METRICS.delete().where(METRICS.c.experiment == name))

    async def save_shard(self, shard: ShardInfo) -> None:
        """See `Registry`."""
        body = {"body": json.dumps(asdict(shard))}
        async with self._database.begin() as connection:
            if not await _update(connection, SHARDS, {"name": shard.name}, body):
                await connection.execute(SHARDS.insert().values(name=shard.name, **body))

    async def remove_shard(self, name: str) -> None:
        """See `Registry`."""
        async with self._database.begin() as connection:
            await connection.execute(SHARDS.delete().where(SHARDS.c.name == name))

    async def shards(self) -> list[ShardInfo]:
        """See `Registry`."""
        async with self._database.begin() as connection:
            rows = await connection.execute(select(SHARDS.c.body).order_by(SHARDS.c.name))
        return [_shard(json.loads(body)) for (body,) in rows]

    async def append_metrics(self, experiment: str, metrics: Sequence[Metric]) -> None:
        """See `Registry`."""
        if not metrics:
            return
        async with self._database.begin() as connection:
            mine = METRICS.c.experiment == experiment
            last = await connection.scalar(select(func.max(METRICS.c.position)).where(mine))
            start = 0 if last is None else last + 1
            rows = [
                {"experiment": experiment, "position": start + i, **asdict(metric)} for i, metric in enumerate(metrics)
            ]
            await connection.execute(METRICS.insert(), rows)

    async def metrics(self, experiment: str, after: int = 0) -> list[Metric]:
        """See `Registry`."""
        query = (
            select(METRICS)
            .where(METRICS.c.experiment == experiment, METRICS.c.position >= after)
            .order_by(METRICS.c.position)
        )
        async with self._database.begin() as connection:
            rows = await connection.execute(query)
        return [
            Metric(row.origin, row.task_name, row.name, math.nan if row.value is None else row.value, row.round_number)
            for row in rows
        ]


async def _update(connection: AsyncConnection, table: Table, key: dict[str, str], values: dict[str, Any]) -> bool:
    """Update the row of ``key``; False if there is none. (The "upsert" of each database differs; this works in all.)"""
    statement = table.update().values(**values)
    for column, value in key.items():
        statement = statement.where(table.c[column] == value)
    return (await connection.execute(statement)).rowcount > 0


def _experiment(row: Row[Any]) -> ExperimentRecord:
    return ExperimentRecord(
        name=row.name,
        owner=row.owner,
        collaborators=tuple(json.loads(row.collaborators)),
        status=ExperimentStatus(row.status),
        archive_id=row.archive_id,
        federation_uuid=row.federation_uuid,
        created=row.created,
        error=row.error,
        assigned=row.assigned,
        told=bool(row.told),
    )


def _shard(body: dict[str, Any]) -> ShardInfo:
    return ShardInfo(
        name=body["name"],
        description=body["description"],
        n_samples=body["n_samples"],
        sample_shape=tuple(body["sample_shape"]),
        target_shape=tuple(body["target_shape"]),
        devices=tuple(DeviceInfo(**device) for device in body["devices"]),
    )
