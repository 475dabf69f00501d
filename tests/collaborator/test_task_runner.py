from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from openfl_aio.collaborator.task_runner import (
    TaskContext,
    TaskOutput,
    ThreadTaskRunner,
    check_output,
    load_runner,
)
from openfl_aio.domain import Task, TaskKind
from openfl_aio.errors import ConfigurationError, TaskError

TRAIN = Task("train", "train", TaskKind.TRAIN)
VALIDATE = Task("check", "validate", TaskKind.VALIDATE)
SHAPES = {"w": (2,), "b": ()}
GOOD: dict[str, Any] = {"w": np.zeros(2), "b": np.float32(1.0)}


class Runner:
    def __init__(self, fails: Exception | None = None) -> None:
        self.fails = fails
        self.thread = ""

    def tensor_names(self) -> Sequence[str]:
        return ["w"]

    def run(self, context: TaskContext, tensors: Mapping[str, np.ndarray]) -> TaskOutput:
        self.thread = threading.current_thread().name
        if self.fails is not None:
            raise self.fails
        return TaskOutput(samples=len(tensors))


@pytest.mark.real_time
async def test_a_task_runs_in_another_thread() -> None:
    runner = Runner()
    threaded = ThreadTaskRunner(runner)
    assert await threaded.tensor_names() == ["w"]
    output = await threaded.run(TaskContext(TRAIN, 0, "one"), {"w": np.zeros(1)})
    assert output.samples == 1
    assert runner.thread != threading.current_thread().name
    assert "Runner" in repr(threaded)


@pytest.mark.real_time
@pytest.mark.parametrize(
    ("fails", "message"), [(ValueError("no data"), "ValueError: no data"), (TaskError("x"), "^x$")]
)
async def test_whatever_a_task_raises_is_a_task_error(fails: Exception, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        await ThreadTaskRunner(Runner(fails)).run(TaskContext(TRAIN, 0, "one"), {})


def test_good_outputs_pass() -> None:
    check_output(TaskOutput(3, GOOD, {"loss": 1.0}), task=TRAIN, shapes=SHAPES)
    check_output(TaskOutput(1, metrics={"accuracy": 1}), task=VALIDATE, shapes=SHAPES)


@pytest.mark.parametrize("loss", [float("nan"), np.float32("inf")])
def test_a_metric_that_is_not_finite_is_warned_of(caplog: pytest.LogCaptureFixture, loss: float) -> None:
    check_output(TaskOutput(3, GOOD, {"loss": loss}), task=TRAIN, shapes=SHAPES)
    assert "metric loss is" in caplog.text


@pytest.mark.parametrize(
    ("output", "task", "message"),
    [
        (None, TRAIN, "must return a TaskOutput, got NoneType"),
        (TaskOutput(0, GOOD), TRAIN, "at least 1, got 0"),
        (TaskOutput(True, GOOD), TRAIN, "at least 1, got True"),
        (TaskOutput(1.5, GOOD), TRAIN, "at least 1, got 1.5"),  # type: ignore[arg-type]
        (TaskOutput(1, GOOD, {"loss": "low"}), TRAIN, "metric 'loss' must be a number"),  # type: ignore[dict-item]
        (TaskOutput(1, {**GOOD, "c": np.zeros(1)}), TRAIN, "does not have: c"),
        (TaskOutput(1, {"w": np.zeros(2)}), TRAIN, "did not return the tensors b"),
        (TaskOutput(1, {**GOOD, "w": np.zeros(3)}), TRAIN, r"keep the shape \(2,\), got \(3,\)"),
        (TaskOutput(1, {**GOOD, "w": np.array([1.0, np.inf])}), TRAIN, "1 of 2 values that are not finite"),
        (TaskOutput(1, {**GOOD, "w": np.array(["a", "b"])}), TRAIN, "must be a numeric array, got dtype"),
        (TaskOutput(1, {**GOOD, "w": cast("Any", [1, 2])}), TRAIN, "must be a numeric array, got list"),
        (TaskOutput(1, GOOD), VALIDATE, "does not have: b, w"),
        (TaskOutput(1, GOOD, state={"b": np.zeros(())}), TRAIN, "returned b as the model's and as state"),
        (TaskOutput(1, GOOD, state={"v": np.array(["a"])}), TRAIN, "must be a numeric array"),
        (TaskOutput(1, state={"v": np.zeros(1)}), VALIDATE, "does not train, but returned the state v"),
    ],
)
def test_what_cannot_be_sent_is_refused(output: Any, task: Task, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        check_output(output, task=task, shapes=SHAPES)


SOURCE = """
class Good:
    def __init__(self, shard, *, rate=1):
        self.shard, self.rate = shard, rate
    def tensor_names(self):
        return []
    def run(self, context, tensors):
        return None

class Half:
    def __init__(self, shard):
        pass
    def tensor_names(self):
        return []
"""


def test_a_runner_is_loaded_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend("/nowhere")
    (tmp_path / "runner_source.py").write_text(SOURCE)
    runner: Any = load_runner("runner_source.Good", path=tmp_path, shard="data", settings={"rate": 2})
    assert (runner.shard, runner.rate) == ("data", 2)
    with pytest.raises(ConfigurationError, match=r"could not be built with settings \['speed'\]: TypeError"):
        load_runner("runner_source.Good", path=tmp_path, shard=None, settings={"speed": 2})
    with pytest.raises(ConfigurationError, match=r"has no method run\(\)"):
        load_runner("runner_source.Half", path=tmp_path, shard=None, settings={})
