from __future__ import annotations

from collections.abc import AsyncIterable
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
from anyio import to_thread

from openfl_aio.director.client import DirectorClient
from openfl_aio.errors import ConfigurationError
from openfl_aio.experiment.experiment import Experiment
from openfl_aio.experiment.federation import Federation
from openfl_aio.plan.plan import Plan

RUNNER = """
import numpy as np

class Good:
    @classmethod
    def initial_model(cls):
        return {"w": np.ones((2, 3)), "b": np.zeros(3)}

class Empty:
    @classmethod
    def initial_model(cls):
        return {}

class Bare:
    pass
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "experiment_test_runner.py").write_text(RUNNER)
    return tmp_path


def make(folder: Path, **changes: Any) -> Experiment:
    arguments: dict[str, Any] = {
        "name": "x",
        "workspace": folder,
        "rounds": 1,
        "task_runner": "experiment_test_runner.Good",
    }
    return Experiment(**(arguments | changes))


def test_the_initial_model_is_the_one_given_or_the_task_runners(workspace: Path) -> None:
    model = make(workspace).model()
    assert {name: (values.shape, values.dtype.name) for name, values in model.items()} == {
        "w": ((2, 3), "float32"),
        "b": ((3,), "float32"),
    }
    assert make(workspace, initial_model={"only": np.float64(2)}).model() == {"only": np.float32(2)}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"name": "../victim"}, "not a plain name"),
        ({"rounds": 0}, "at least 1 round, got 0"),
        ({"workspace": Path("nowhere")}, "is no folder"),
    ],
)
def test_what_cannot_work_is_refused_at_construction(workspace: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        make(workspace, **changes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"task_runner": "experiment_test_runner.Bare"}, r"has no initial_model\(\)"),
        ({"task_runner": "experiment_test_runner.Empty"}, "must map tensor names to arrays"),
        ({"task_runner": "experiment_test_runner.Missing"}, "no class 'Missing'"),
        ({"initial_model": {"w": np.array([1.0, np.nan])}}, "not finite in w"),
    ],
)
def test_a_model_that_cannot_start_is_refused_with_the_reason(
    workspace: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        make(workspace, **changes).model()


async def test_deltas_and_their_pipeline_stand_in_the_plan_that_is_sent(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = bytearray()

    async def take(self: DirectorClient, name: str, *, archive: AsyncIterable[bytes], **others: object) -> bool:
        async for chunk in archive:
            sent.extend(chunk)
        return True

    monkeypatch.setattr(DirectorClient, "set_new_experiment", take)
    changes = {"collaborators": ("one",), "delta_updates": True, "pipeline": "kc:n_clusters=16"}
    experiment = await to_thread.run_sync(lambda: make(workspace, **changes))
    await Federation("localhost", 1).submit(experiment)
    with ZipFile(BytesIO(sent)) as archive:
        plan = Plan.parse(archive.read("plan/plan.yaml").decode())
    assert (plan.delta_updates, plan.pipeline) == (True, "kc:n_clusters=16")
