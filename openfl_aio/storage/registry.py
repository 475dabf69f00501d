"""What a director remembers: experiments, shards, metrics, and how far each federation is.

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
from openfl_aio.storage.schema import EXPERIMENTS, METRICS, ROUNDS, SHARDS

__all__ = ["DatabaseRegistry", "ExperimentRecord", "MemoryRegistry", "Registry", "RoundRecord"]


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


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """The round a federation is in. ``best_value`` is the metric of its best model, None before the first."""

    federation_uuid: str
    round_number: int
    best_value: float | None = None


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

    async def shards(self) -> list[ShardInfo]:
        """Return all shards by name."""
        ...

    async def append_metrics(self, experiment: str, metrics: Sequence[Metric]) -> None:
        """Add metrics behind those that an experiment has: all of them or none."""
        ...

    async def metrics(self, experiment: str, after: int = 0) -> list[Metric]:
        """Return an experiment's metrics in order, without the first ``after``."""
        ...

    async def save_round(self, federation_uuid: str, round_number: int, *, best_value: float | None = None) -> None:
        """Set the round a federation is in."""
        ...

    async def round_of(self, federation_uuid: str) -> RoundRecord | None:
        """Return where a federation is, or None if it never said."""
        ...


class MemoryRegistry:
    """A `Registry` that ends with the process."""

    def __init__(self) -> None:
        self._experiments: dict[str, ExperimentRecord] = {}
        self._shards: dict[str, ShardInfo] = {}
        self._metrics: dict[str, list[Metric]] = {}
        self._rounds: dict[str, RoundRecord] = {}

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

    async def shards(self) -> list[ShardInfo]:
        """See `Registry`."""
        return sorted(self._shards.values(), key=lambda shard: shard.name)

    async def append_metrics(self, experiment: str, metrics: Sequence[Metric]) -> None:
        """See `Registry`."""
        self._metrics.setdefault(experiment, []).extend(metrics)

    async def metrics(self, experiment: str, after: int = 0) -> list[Metric]:
        """See `Registry`."""
        return self._metrics.get(experiment, [])[after:]

    async def save_round(self, federation_uuid: str, round_number: int, *, best_value: float | None = None) -> None:
        """See `Registry`."""
        self._rounds[federation_uuid] = RoundRecord(federation_uuid, round_number, best_value)

    async def round_of(self, federation_uuid: str) -> RoundRecord | None:
        """See `Registry`."""
        return self._rounds.get(federation_uuid)


class DatabaseRegistry:
    """A `Registry` in a `Database`, durable when a call returns. Calls raise `StorageError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __repr__(self) -> str:
        return f"<DatabaseRegistry {self._database!r}>"

    async def save_experiment(self, record: ExperimentRecord) -> None:
        """See `Registry`."""
        values = asdict(record) | {"collaborators": json.dumps(record.collaborators), "status": record.status.value}
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

    async def save_round(self, federation_uuid: str, round_number: int, *, best_value: float | None = None) -> None:
        """See `Registry`."""
        key = {"federation_uuid": federation_uuid}
        values = {"round_number": round_number, "best_value": best_value}
        async with self._database.begin() as connection:
            if not await _update(connection, ROUNDS, key, values):
                await connection.execute(ROUNDS.insert().values(**key, **values))

    async def round_of(self, federation_uuid: str) -> RoundRecord | None:
        """See `Registry`."""
        async with self._database.begin() as connection:
            row = (await connection.execute(select(ROUNDS).where(ROUNDS.c.federation_uuid == federation_uuid))).first()
        return None if row is None else RoundRecord(row.federation_uuid, row.round_number, row.best_value)


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
