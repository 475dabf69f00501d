"""Our aggregator, or our director, as a program of the benchmarks.

Settings: ``kind`` ("aggregator" or "director"), ``tls`` (paths, or null), and for an aggregator ``parameters`` (float32
values of its one tensor), ``collaborators`` and ``folder`` (of its journal and models).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lines import Operations, answer, prepare

from openfl_aio.aggregator.service import Aggregator
from openfl_aio.config import AggregatorConfig, DirectorConfig, Endpoint, Limits, Timeouts, TLSConfig
from openfl_aio.director.service import Director
from openfl_aio.domain import Task, TaskKind

ROUNDS = 10_000  # more than any benchmark plays
MANY = 20_000


def tls_of(settings: dict[str, Any]) -> TLSConfig | None:
    paths = settings["tls"]
    return None if paths is None else TLSConfig(**{name: Path(path) for name, path in paths.items()})


@contextlib.asynccontextmanager
async def aggregator(settings: dict[str, Any]) -> AsyncIterator[Aggregator]:
    values = np.random.default_rng(0).standard_normal(settings["parameters"], np.float32)
    config = AggregatorConfig(
        collaborators=tuple(settings["collaborators"]),
        rounds=ROUNDS,
        tasks=(Task("train", "train", TaskKind.TRAIN, apply_local=False),),
        workspace=Path(settings["folder"]),
        listen=Endpoint(),
        tls=tls_of(settings),
        timeouts=Timeouts(drain=0),
    )
    async with Aggregator(config, initial_model={"w": values}) as server:
        yield server


@contextlib.asynccontextmanager
async def director(settings: dict[str, Any]) -> AsyncIterator[Director]:
    # aggregators of removed experiments stay for one long poll
    config = DirectorConfig(
        sample_shape=("1",),
        target_shape=("1",),
        tls=tls_of(settings),
        limits=Limits(max_connections=MANY, max_envoys=MANY),
        timeouts=Timeouts(drain=0, long_poll=0.1),
    )
    async with Director(config) as server:
        yield server


async def main() -> None:
    settings = prepare()
    if settings["kind"] == "director":
        async with director(settings) as one:

            async def parked() -> dict[str, Any]:
                return {"parked": one.parked}

            await answer({"port": one.endpoint.port}, {"parked": parked})
    else:
        async with aggregator(settings) as server:

            async def statistics() -> dict[str, Any]:
                return _statistics(server)

            operations: Operations = {"statistics": statistics}
            await answer({"port": server.endpoint.port}, operations)


def _statistics(server: Aggregator) -> dict[str, Any]:
    """Return what the server counts, as far as it counts."""
    read = getattr(server._server, "statistics", None)
    found = read() if callable(read) else None
    return asdict(found) if is_dataclass(found) and not isinstance(found, type) else {}


if __name__ == "__main__":
    asyncio.run(main())
