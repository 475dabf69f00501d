"""Our aggregator for a federation of so many rounds, with its journal and its models on disk.

Settings: ``tensors`` (names), ``parameters`` (float32 values of each), ``collaborators``, ``tasks`` (names), ``rounds``,
``folder``, ``aggregator_uuid`` and ``federation_uuid``.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
from lines import answer, prepare

from openfl_aio.aggregator.service import Aggregator
from openfl_aio.config import AggregatorConfig, Endpoint, Timeouts, default_tasks


async def main() -> None:
    settings = prepare()
    source = np.random.default_rng(0)
    config = AggregatorConfig(
        uuid=settings["aggregator_uuid"],
        federation_uuid=settings["federation_uuid"],
        collaborators=tuple(settings["collaborators"]),
        rounds=settings["rounds"],
        tasks=tuple(task for task in default_tasks() if task.name in settings["tasks"]),
        workspace=Path(settings["folder"]),
        listen=Endpoint(),
        timeouts=Timeouts(drain=0),
    )
    model = {name: source.standard_normal(settings["parameters"], np.float32) for name in settings["tensors"]}
    async with Aggregator(config, initial_model=model) as server:
        del model
        await answer({"port": server.endpoint.port}, {})


if __name__ == "__main__":
    asyncio.run(main())
