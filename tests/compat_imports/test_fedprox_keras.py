"""The pull to the old weights in Keras, against arithmetic."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "jax")
pytest.importorskip("jax")
keras: Any = pytest.importorskip("keras")

from openfl_aio.collaborator.frameworks.keras import KerasTaskRunner  # noqa: E402
from openfl_aio.collaborator.task_runner import TaskContext  # noqa: E402
from openfl_aio.compat.imports.fedprox_keras import FedProxOptimizer  # noqa: E402
from openfl_aio.domain import Task, TaskKind  # noqa: E402

# Keras with JAX converts its variables in NumPy's old way
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_each_step_is_pulled_to_the_old_weights() -> None:
    variables = [keras.Variable(np.array([1.0, 2.0], np.float32)), keras.Variable(np.array([3.0], np.float32))]
    optimizer = FedProxOptimizer(learning_rate=0.1, mu=0.5)
    gradients = [np.array([1.0, -1.0], np.float32), np.array([2.0], np.float32)]
    expected = [np.array([1.0, 2.0]), np.array([3.0])]
    old = [np.zeros(2), np.zeros(1)]  # as OpenFL begins
    for number in range(4):
        if number == 2:
            old = [np.array([5.0, 5.0]), np.array([-5.0])]
            optimizer.set_old_weights(old)
        optimizer.apply_gradients(zip(map(keras.ops.convert_to_tensor, gradients), variables, strict=True))
        expected = [
            values - 0.1 * (gradient + 0.5 * (values - before))
            for values, gradient, before in zip(expected, gradients, old, strict=True)
        ]
        for variable, values in zip(variables, expected, strict=True):
            np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), values, rtol=1e-5)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(optimizer.get_slot(variables[1], "vstar")), [-5.0])
    with pytest.raises(ValueError, match="vstar"):
        optimizer.get_slot(variables[0], "momentum")


def test_settings_are_checked_and_survive_a_saved_model() -> None:
    with pytest.raises(ValueError, match="at least 0"):
        FedProxOptimizer(mu=-1)
    made = FedProxOptimizer.from_config(FedProxOptimizer(learning_rate=0.25, mu=0.75).get_config())
    assert (float(made.learning_rate), made.mu) == (0.25, 0.75)


SAMPLES = np.random.default_rng(1).normal(size=(8, 3)).astype(np.float32)
TARGETS = SAMPLES.sum(1, keepdims=True)
RATE, MU, EPOCHS = 0.1, 0.5, 5


class Runner(KerasTaskRunner):
    """Trains a linear model, pulled to what each round began with."""

    @classmethod
    def build(cls) -> tuple[Any, Any]:
        layers = [keras.layers.Input((3,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")]
        model = keras.Sequential(layers)
        model.compile(optimizer=FedProxOptimizer(learning_rate=RATE, mu=MU), loss="mse")
        return model, model.optimizer

    def train(self, model: Any, optimizer: Any, context: TaskContext) -> tuple[int, dict[str, float]]:
        optimizer.build(model.trainable_variables)
        optimizer.set_old_weights(model.get_weights())
        losses = model.fit(SAMPLES, TARGETS, batch_size=8, epochs=EPOCHS, shuffle=False, verbose=0).history["loss"]
        return 8, {"loss": losses[-1]}

    def validate(self, model: Any, context: TaskContext) -> tuple[int, dict[str, float]]:
        return 8, {"loss": float(model.evaluate(SAMPLES, TARGETS, verbose=0))}


def test_a_task_runner_trains_by_it() -> None:
    runner, weights, losses = Runner(), np.array([[3.0], [-2.0], [0.0]]), []
    tensors = {"0/kernel": weights.astype(np.float32)}
    for number in range(3):
        output = runner.run(TaskContext(Task("t", "t", TaskKind.TRAIN), number, "one"), tensors)
        old = weights
        for _ in range(EPOCHS):
            gradient = 2 / 8 * SAMPLES.T @ (SAMPLES @ weights - TARGETS)
            weights = weights - RATE * (gradient + MU * (weights - old))
        np.testing.assert_allclose(output.tensors["0/kernel"], weights, rtol=1e-4, atol=1e-5)
        losses.append(output.metrics["loss"])
        tensors = dict(output.tensors)
    assert losses == sorted(losses, reverse=True)
