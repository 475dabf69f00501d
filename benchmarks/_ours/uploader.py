"""Our client with one tensor to upload, in the place of OpenFL's: see `_openfl16/uploader.py`, whose settings these are."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
from lines import answer, prepare

from openfl_aio.aggregator.client import AggregatorClient
from openfl_aio.config import CollaboratorConfig, Endpoint
from openfl_aio.tensors.codec import TensorCodec
from openfl_aio.tensors.key import TensorKey


async def main() -> None:
    settings = prepare()
    (name,) = settings["names"]
    values = np.random.default_rng(1).standard_normal(settings["parameters"], np.float32)
    ids = {key: settings[key] for key in ("aggregator_uuid", "federation_uuid")}
    current = -1
    async with AggregatorClient(
        CollaboratorConfig(name=name, endpoint=Endpoint(port=settings["port"]), **ids)
    ) as client:

        async def next_task() -> dict[str, Any]:
            nonlocal current
            before = current
            while current == before:
                assignment = await client.get_tasks()
                if assignment.tasks:
                    current = assignment.round_number
            return {}

        async def upload() -> dict[str, Any]:
            tensor = TensorCodec().encode(TensorKey.of("w0", name, current, tags=("trained",)), values)
            start = time.perf_counter()
            await client.send_local_task_results(round_number=current, task_name="train", data_size=1, tensors=[tensor])
            return {"seconds": time.perf_counter() - start}

        await answer({}, {"next_task": next_task, "upload": upload})


if __name__ == "__main__":
    asyncio.run(main())
