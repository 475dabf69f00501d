"""Collaborators of an OpenFL workspace folder against a real aggregator, over mutual TLS."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import anyio.to_thread
import numpy as np
import pytest

from openfl_aio.aggregator.run import open_aggregator
from openfl_aio.collaborator.run import run_collaborator
from openfl_aio.config import CollaboratorConfig
from openfl_aio.domain import ModelKind
from openfl_aio.errors import TaskError
from openfl_aio.storage.models import ModelFiles
from openfl_aio.testing.ca import ThrowawayCA

pytestmark = pytest.mark.real_time

PLAN = """
aggregator:
  settings: {rounds_to_train: 3, init_state_path: save/init.pbuf, last_state_path: save/last.pbuf}
collaborator: {settings: {delta_updates: DELTA}}
network: {settings: {agg_addr: localhost, agg_port: PORT, hash_salt: x, tls: true}}
data_loader: {template: workspace_source.Loader, settings: {}}
task_runner: {template: workspace_source.Runner, settings: {}}
tasks:
  aggregated_model_validation: {function: validate, kwargs: {apply: global}}
  train: {function: train, kwargs: {}}
  locally_tuned_model_validation: {function: validate, kwargs: {apply: local}}
"""

SOURCE = """
from openfl_aio.collaborator.frameworks.numpy import NumPyTaskRunner
from openfl_aio.collaborator.task_runner import TaskOutput
import numpy as np

class Loader:
    def __init__(self, data_path):
        target, _, self.note = data_path.partition(" ")
        self.target = float(target)

class Runner(NumPyTaskRunner):
    def __init__(self, shard):
        self.target, self.note = shard.target, shard.note
    @classmethod
    def initial_model(cls):
        return {"w": np.zeros(3, np.float32)}
    def train(self, tensors, context):
        if self.target < 0:
            raise ValueError("negative data")
        return TaskOutput(10, {"w": (tensors["w"] + self.target) / 2})
    def validate(self, tensors, context):
        if self.note == "dies" and context.task.apply_local:
            raise RuntimeError("the power went")
        return TaskOutput(10, metrics={"value": float(tensors["w"].mean())})
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(params=[False, True], ids=["whole models", "deltas"])
async def workspace(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Path]:
    monkeypatch.syspath_prepend("/nowhere")
    sys.modules.pop("workspace_source", None)

    def prepare() -> None:
        plan = PLAN.replace("PORT", str(free_port())).replace("DELTA", str(request.param).lower())
        for name, text in {
            "plan/plan.yaml": plan,
            "plan/cols.yaml": "collaborators: [one, two]\n",
            "plan/data.yaml": "one,1\ntwo,3\nbad,-1\n",
            "plan/dying.yaml": "one,1 dies\n",
            "workspace_source.py": SOURCE,
        }.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
        (tmp_path / "save").mkdir()
        ca = ThrowawayCA(tmp_path / "cert")
        ca.server("localhost")
        for name in ("one", "two"):
            ca.client(name)

    await anyio.to_thread.run_sync(prepare)
    await ModelFiles().save(tmp_path / "save" / "init.pbuf", {"w": np.zeros(3, np.float32)}, round_number=0)
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)


async def collaborate(workspace: Path, name: str, *, data: str = "plan/data.yaml") -> list[CollaboratorConfig]:
    started: list[CollaboratorConfig] = []
    await run_collaborator(
        name,
        plan_path=workspace / "plan" / "plan.yaml",
        data_path=workspace / data,
        root=workspace,
        started=started.append,
    )
    return started


async def test_a_federation_runs_to_its_end(workspace: Path) -> None:
    plan, members = workspace / "plan" / "plan.yaml", workspace / "plan" / "cols.yaml"
    async with open_aggregator(plan, members, root=workspace) as aggregator, anyio.create_task_group() as group:
        for name in ("one", "two"):
            group.start_soon(collaborate, workspace, name)
        with anyio.fail_after(30):
            await aggregator.wait_complete()
            await aggregator.wait_quits_sent()
        model = aggregator.model(ModelKind.LAST)
    assert model is not None
    np.testing.assert_allclose(model["w"], np.full(3, 2 * (1 - 0.5**3)), rtol=1e-6)


async def test_a_task_that_raises_ends_its_collaborator(workspace: Path) -> None:
    plan, members = workspace / "plan" / "plan.yaml", workspace / "plan" / "cols.yaml"
    bad = workspace / "plan" / "bad.yaml"
    await anyio.Path(bad).write_text("one,-1\n")
    async with open_aggregator(plan, members, root=workspace):
        with pytest.raises(TaskError, match="task 'train' raised ValueError: negative data"):
            await collaborate(workspace, "one", data="plan/bad.yaml")


async def test_who_dies_between_training_and_validation_comes_back(workspace: Path) -> None:
    plan, members = workspace / "plan" / "plan.yaml", workspace / "plan" / "cols.yaml"
    async with open_aggregator(plan, members, root=workspace) as aggregator, anyio.create_task_group() as group:
        group.start_soon(collaborate, workspace, "two")
        with anyio.fail_after(30):
            with pytest.raises(TaskError, match="the power went"):
                await collaborate(workspace, "one", data="plan/dying.yaml")
            await collaborate(workspace, "one")
            model = await aggregator.wait_complete()
            await aggregator.wait_quits_sent()
    assert aggregator.upload_counts().duplicates == 1  # it trained again, which gave the same
    np.testing.assert_allclose(model["w"], np.full(3, 2 * (1 - 0.5**3)), rtol=1e-6)
