from __future__ import annotations

import numpy as np
import pytest

from openfl_aio.collaborator.frameworks.numpy import NumPyTaskRunner
from openfl_aio.collaborator.task_runner import TaskContext, TaskOutput
from openfl_aio.domain import Task, TaskKind
from openfl_aio.errors import TaskError


class Mean(NumPyTaskRunner):
    @classmethod
    def initial_model(cls) -> dict[str, np.ndarray]:
        return {"mean": np.zeros(2, np.float32)}

    def train(self, tensors: dict[str, np.ndarray], context: TaskContext) -> TaskOutput:
        tensors["mean"] += 1
        return TaskOutput(2, tensors)

    def validate(self, tensors: dict[str, np.ndarray], context: TaskContext) -> TaskOutput:
        return TaskOutput(2, metrics={"sum": float(tensors["mean"].sum())})

    def special(self, tensors: dict[str, np.ndarray], context: TaskContext) -> TaskOutput:
        return TaskOutput(7)


@pytest.mark.parametrize(
    ("task", "samples"),
    [
        (Task("a", "train"), 2),
        (Task("a", "", TaskKind.TRAIN), 2),
        (Task("a", "", TaskKind.VALIDATE), 2),
        (Task("a", "special", TaskKind.VALIDATE), 7),
    ],
)
def test_a_task_finds_its_method(task: Task, samples: int) -> None:
    model = {"mean": np.zeros(2, np.float32)}
    model["mean"].flags.writeable = False
    assert Mean().run(TaskContext(task, 0, "one"), model).samples == samples
    assert not model["mean"].any()


@pytest.mark.parametrize("name", ["", "absent", "_private", "__init__"])
def test_an_unknown_function_is_refused(name: str) -> None:
    with pytest.raises(TaskError, match="has no method"):
        Mean().run(TaskContext(Task("a", name), 0, "one"), {})


def test_names_are_those_of_the_initial_model() -> None:
    assert Mean().tensor_names() == ("mean",)
