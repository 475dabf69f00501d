from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "jax")
pytest.importorskip("jax")
keras: Any = pytest.importorskip("keras")

from openfl_aio.collaborator.frameworks.keras import KerasTaskRunner, get_tensors, set_tensors  # noqa: E402
from openfl_aio.collaborator.task_runner import TaskContext  # noqa: E402
from openfl_aio.domain import Task, TaskKind  # noqa: E402
from openfl_aio.errors import TensorError  # noqa: E402

# Keras reads its own variables in a way that NumPy 2 warns of
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SAMPLES = np.random.default_rng(1).normal(size=(8, 3)).astype(np.float32)


def network() -> Any:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2), keras.layers.Dense(1)])
    model.compile(optimizer=keras.optimizers.Adam(0.1), loss="mse")
    return model


def steps(model: Any) -> float:
    return float(model.fit(SAMPLES, SAMPLES.sum(1), epochs=2, shuffle=False, verbose=0).history["loss"][-1])


def test_training_goes_on_elsewhere_as_if_it_had_stayed() -> None:
    here, there = network(), network()
    assert list(get_tensors(here)) == ["0/kernel", "1/bias", "2/kernel", "3/bias"]
    assert list(get_tensors(here)) == list(get_tensors(there)), "whatever was built before"
    steps(here)
    steps(there)
    steps(there)
    sent = get_tensors(here, here.optimizer)
    assert len(sent) == 4 + len(here.optimizer.variables)
    set_tensors(there, {name: np.asarray(values, np.float32) for name, values in sent.items()}, there.optimizer)
    steps(here)
    steps(there)
    expected, got = get_tensors(here, here.optimizer), get_tensors(there, there.optimizer)
    for name, values in expected.items():
        np.testing.assert_allclose(got[name], values, rtol=1e-6, err_msg=name)


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(TensorError, match="expected a tensor '0/kernel'"):
        set_tensors(network(), {})


class Runner(KerasTaskRunner):
    optimizer_state = "shared"

    @classmethod
    def build(cls) -> tuple[Any, Any]:
        model = network()
        return model, model.optimizer

    def train(self, model: Any, optimizer: Any, context: TaskContext) -> tuple[int, dict[str, float]]:
        return 8, {"loss": steps(model)}

    def validate(self, model: Any, context: TaskContext) -> tuple[int, dict[str, float]]:
        return 8, {"loss": float(model.evaluate(SAMPLES, SAMPLES.sum(1), verbose=0))}


def test_a_runner_trains_from_what_it_gets() -> None:
    runner = Runner()
    model = Runner.initial_model()
    first = runner.run(TaskContext(Task("t", "t", TaskKind.TRAIN), 0, "one"), model)
    assert first.state_is_shared
    assert set(first.state) == {f"optimizer/{place}" for place in range(10)}
    second = runner.run(TaskContext(Task("t", "t", TaskKind.TRAIN), 1, "one"), {**first.tensors, **first.state})
    assert second.metrics["loss"] < first.metrics["loss"]
    checked = runner.run(TaskContext(Task("v", "v", TaskKind.VALIDATE), 1, "one"), model)
    assert checked.metrics["loss"] > second.metrics["loss"]
