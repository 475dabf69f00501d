"""What becomes of a framework's optimizer from round to round, as a plan says it; with a framework of nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openfl_aio.collaborator.frameworks.model import ModelTaskRunner
from openfl_aio.collaborator.run import load_workspace_runner
from openfl_aio.collaborator.task_runner import TaskContext, TaskOutput
from openfl_aio.domain import Task, TaskKind
from openfl_aio.errors import ConfigurationError
from openfl_aio.plan.plan import Plan

PLAN = """
aggregator: {settings: {rounds_to_train: 2}}
collaborator: {settings: SETTINGS}
network: {settings: {agg_addr: here, agg_port: 1}}
task_runner: {template: counting.Counting}
tasks: {train: {function: train, kwargs: {}}}
"""
SOURCE = "from tests.collaborator.frameworks.test_model import Counting"
MODEL = {"w": np.zeros(2, np.float32)}


class Steps:
    """An optimizer that counts."""

    def __init__(self) -> None:
        self.count = 0


def get_tensors(model: dict[str, Any], optimizer: Steps | None = None) -> dict[str, Any]:
    state = {} if optimizer is None else {"steps": np.array([optimizer.count], np.float32)}
    return {**model, **state}


def set_tensors(model: dict[str, Any], tensors: dict[str, Any], optimizer: Steps | None = None) -> None:
    model["w"] = np.array(tensors["w"])
    if optimizer is not None:
        optimizer.count = int(tensors["steps"][0])


class Counting(ModelTaskRunner):
    get_tensors = staticmethod(get_tensors)
    set_tensors = staticmethod(set_tensors)

    def __init__(self, shard: object) -> None:
        pass

    @classmethod
    def build(cls) -> tuple[Any, Any]:
        return {"w": np.zeros(2, np.float32)}, Steps()

    def train(self, model: Any, optimizer: Steps, context: TaskContext) -> tuple[int, dict[str, float]]:
        optimizer.count += 1
        return 1, {"steps": optimizer.count}

    def validate(self, model: Any, context: TaskContext) -> tuple[int, dict[str, float]]:
        return 1, {}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend("/nowhere")  # what is imported from here is looked for elsewhere afterwards
    (tmp_path / "counting.py").write_text(SOURCE)
    return tmp_path


def two_rounds(workspace: Path, settings: str) -> TaskOutput:
    """Train twice as the plan says, the second time with the average of some other site's state; return the last."""
    plan = Plan.parse(PLAN.replace("SETTINGS", settings))
    runner = load_workspace_runner(plan, data_path="1", root=workspace)
    task = Task("train", "train", TaskKind.TRAIN)
    first = runner.run(TaskContext(task, 0, "one"), MODEL)
    shared = {"steps": np.array([100], np.float32)} if first.state_is_shared else {}
    return runner.run(TaskContext(task, 1, "one"), {**MODEL, **shared})


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ("{opt_treatment: RESET}", 1),
        ("{opt_treatment: CONTINUE_LOCAL}", 2),
        ("{opt_treatment: CONTINUE_GLOBAL}", 101),
        ("{}", 2),
    ],
)
def test_the_plan_decides(workspace: Path, settings: str, steps: int) -> None:
    output = two_rounds(workspace, settings)
    assert output.metrics == {"steps": steps}
    assert output.state_is_shared is (steps == 101)
    assert list(output.state) == (["steps"] if steps == 101 else [])


def test_a_plan_that_says_nothing_leaves_it_to_the_class(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counting, "optimizer_state", "reset")
    assert two_rounds(workspace, "{}").metrics == {"steps": 1}
    assert two_rounds(workspace, "{opt_treatment: CONTINUE_LOCAL}").metrics == {"steps": 2}


def test_another_word_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"expected one of RESET, CONTINUE_LOCAL, CONTINUE_GLOBAL .* 'local'"):
        Counting(None).set_optimizer_treatment("local")
