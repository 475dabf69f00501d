"""Ours: an aggregator with its journal on disk, and a process for each collaborator.

As a program of the benchmark it plays the federation; with the argument "server" or "client" it is one of its members.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from stage import TENSORS, Stage, free_port, play, stamp

from openfl_aio.aggregator.client import AggregatorClient
from openfl_aio.aggregator.service import Aggregator
from openfl_aio.collaborator.collaborator import Collaborator
from openfl_aio.collaborator.task_runner import TaskContext, TaskOutput
from openfl_aio.config import AggregatorConfig, CollaboratorConfig, Endpoint, Timeouts
from openfl_aio.domain import Task, TaskKind

ROOT = Path(__file__).parents[3]
UUIDS = {"aggregator_uuid": "aggregator_federation", "federation_uuid": "federation"}
NAMES = [f"w{index}" for index in range(TENSORS)]


async def serve(port: int, parameters: int, collaborators: int, rounds: int, folder: Path) -> None:
    config = AggregatorConfig(
        collaborators=tuple(f"site-{index}" for index in range(collaborators)),
        rounds=rounds,
        tasks=(Task("train", "train", TaskKind.TRAIN, apply_local=False),),
        workspace=folder,
        listen=Endpoint(port=port),
        timeouts=Timeouts(drain=0),
    )
    model = {name: np.ones(parameters // TENSORS, np.float32) for name in NAMES}
    for array in model.values():
        array.flags.writeable = False  # else it is copied
    async with Aggregator(config, initial_model=model) as server:
        del model
        await server.wait_complete()
        await server.wait_quits_sent()


class Echo:
    """Hands the model in as it came."""

    async def tensor_names(self) -> list[str]:
        """Return the names of the model's tensors."""
        return NAMES

    async def run(self, context: TaskContext, tensors: Mapping[str, Any]) -> TaskOutput:
        """Note that a round begins."""
        stamp(context.collaborator)
        return TaskOutput(samples=1, tensors=dict(tensors))


async def take_part(port: int, name: str) -> None:
    config = CollaboratorConfig(name=name, endpoint=Endpoint(port=port), **UUIDS)
    async with AggregatorClient(config) as client:
        member = Collaborator(name=name, aggregator=client, aggregator_uuid=UUIDS["aggregator_uuid"], runner=Echo())
        await member.run()


def begin(stage: Stage) -> tuple[list[int], Callable[[], None]]:
    settings, port = stage.settings, free_port()
    path = f"{ROOT}:{Path(__file__).parent}"
    values = [str(settings[name]) for name in ("parameters", "collaborators", "rounds")]
    folder = stage.folder / "server"
    server = stage.start("server", sys.executable, __file__, "server", str(port), *values, folder, PYTHONPATH=path)
    stage.listening(port)

    def start() -> None:
        for index in range(settings["collaborators"]):
            name = f"site-{index}"
            stage.start(name, sys.executable, __file__, "client", str(port), name, PYTHONPATH=path)

    return [server], start


if __name__ == "__main__":
    if sys.argv[1:2] == ["server"]:
        port, parameters, collaborators, rounds = map(int, sys.argv[2:6])
        asyncio.run(serve(port, parameters, collaborators, rounds, Path(sys.argv[6])))
    elif sys.argv[1:2] == ["client"]:
        asyncio.run(take_part(int(sys.argv[2]), sys.argv[3]))
    else:
        play(begin)
