from __future__ import annotations

import numpy as np
import pytest

from openfl_aio.collaborator.frameworks.numpy import NumPyTaskRunner, proximal_gradient, proximal_term
from openfl_aio.collaborator.task_runner import TaskContext, TaskOutput
from openfl_aio.domain import Task, TaskKind
from openfl_aio.errors import ConfigurationError, TaskError


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


def test_the_proximal_gradient_is_the_slope_of_the_proximal_term() -> None:
    random = np.random.default_rng(0)
    start = {"w": random.standard_normal((2, 3)), "b": random.standard_normal(2)}
    tensors = {name: values + random.standard_normal(values.shape) for name, values in start.items()}
    gradient = proximal_gradient(tensors, start, 0.3)
    for name, values in tensors.items():
        for index in np.ndindex(values.shape):
            moved = {key: array.copy() for key, array in tensors.items()}
            moved[name][index] += 1e-6
            slope = (proximal_term(moved, start, 0.3) - proximal_term(tensors, start, 0.3)) / 1e-6
            assert gradient[name][index] == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_training_with_it_stays_nearer_to_the_global_model() -> None:
    def trained(mu: float) -> float:
        start = {"w": np.zeros(1, np.float32)}
        tensors = {"w": start["w"].copy()}
        for _ in range(500):  # the loss is (w - 1)^2 / 2, whose best is 1; with the term it is 1 / (1 + mu)
            tensors["w"] -= np.float32(0.1) * (tensors["w"] - 1 + proximal_gradient(tensors, start, mu)["w"])
        assert tensors["w"].dtype == np.float32
        return float(tensors["w"][0])

    assert [trained(mu) for mu in (0, 1, 3)] == pytest.approx([1, 1 / 2, 1 / 4], rel=1e-5)


@pytest.mark.parametrize("mu", [-1, float("nan"), float("inf")])
def test_a_weight_of_the_proximal_term_that_cannot_work(mu: float) -> None:
    with pytest.raises(ConfigurationError, match="mu: expected a number from 0"):
        proximal_term({}, {}, mu)
    with pytest.raises(ConfigurationError, match="mu: expected a number from 0"):
        proximal_gradient({}, {}, mu)
