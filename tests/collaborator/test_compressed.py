"""An OpenFL workspace whose plan names a compression pipeline, over the network."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import anyio
import anyio.to_thread
import numpy as np
import pytest

from openfl_aio.aggregator.run import open_aggregator
from openfl_aio.collaborator.run import run_collaborator
from openfl_aio.domain import ModelKind
from openfl_aio.storage.models import ModelFiles

pytestmark = pytest.mark.real_time

PLAN = """
aggregator: {settings: {rounds_to_train: 3, init_state_path: init.pbuf}}
collaborator: {settings: {delta_updates: true}}
network: {settings: {agg_addr: localhost, agg_port: PORT, tls: false}}
compression_pipeline: {template: openfl.pipelines.TEMPLATE, settings: SETTINGS}
data_loader: {template: compressed_source.Loader, settings: {}}
task_runner: {template: compressed_source.Runner, settings: {}}
tasks:
  aggregated_model_validation: {function: validate, kwargs: {apply: global}}
  train: {function: train, kwargs: {}}
"""

SOURCE = """
from openfl_aio.collaborator.frameworks.numpy import NumPyTaskRunner
from openfl_aio.collaborator.task_runner import TaskOutput
import numpy as np

class Loader:
    def __init__(self, data_path):
        self.target = float(data_path)

class Runner(NumPyTaskRunner):
    def __init__(self, shard):
        self.target = shard.target
    @classmethod
    def initial_model(cls):
        return {"w": np.zeros(600, np.float32)}
    def train(self, tensors, context):
        return TaskOutput(10, {"w": (tensors["w"] + self.target * np.linspace(1, 2, 600)) / 2})
    def validate(self, tensors, context):
        return TaskOutput(10, metrics={"value": float(tensors["w"].mean())})
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("template", "settings", "coding", "error"),
    [
        ("NoCompressionPipeline", "{}", "no_compression", 1e-6),
        ("RandomShiftPipeline", "{}", "random_shift", 1e-5),
        ("KCPipeline", "{p_sparsity: 0.01, n_clusters: 32}", "kc", 0.05),
        ("SKCPipeline", "{p_sparsity: 1.0, n_clusters: 32}", "skc", 0.05),
        ("STCPipeline", "{p_sparsity: 1.0}", "stc", 0.5),
        ("EdenPipeline", "{n_bits: 8, dim_threshold: 100, device: cpu}", "eden:n_bits=8", 0.02),
    ],
)
async def test_a_federation_runs_through_the_plans_pipeline(
    template: str, settings: str, coding: str, error: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend("/nowhere")
    sys.modules.pop("compressed_source", None)
    plan = PLAN.replace("TEMPLATE", template).replace("SETTINGS", settings).replace("PORT", str(free_port()))

    def prepare() -> None:
        (tmp_path / "plan.yaml").write_text(plan)
        (tmp_path / "cols.yaml").write_text("collaborators: [one, two]\n")
        (tmp_path / "data.yaml").write_text("one,1\ntwo,3\n")
        (tmp_path / "compressed_source.py").write_text(SOURCE)

    await anyio.to_thread.run_sync(prepare)
    # as OpenFL's `fx plan initialize` leaves it
    await ModelFiles(pipeline=coding).save(tmp_path / "init.pbuf", {"w": np.zeros(600, np.float32)}, round_number=0)
    async with (
        open_aggregator(tmp_path / "plan.yaml", tmp_path / "cols.yaml", root=tmp_path) as aggregator,
        anyio.create_task_group() as group,
    ):
        for name in ("one", "two"):

            async def collaborate(name: str = name) -> None:
                await run_collaborator(
                    name, plan_path=tmp_path / "plan.yaml", data_path=tmp_path / "data.yaml", root=tmp_path
                )

            group.start_soon(collaborate)
        with anyio.fail_after(30):
            await aggregator.wait_complete()
            await aggregator.wait_quits_sent()
        model = aggregator.model(ModelKind.LAST)
    assert model is not None
    expected = 2 * np.linspace(1, 2, 600) * (1 - 0.5**3)
    assert np.linalg.norm(model["w"] - expected) <= error * np.linalg.norm(expected)
