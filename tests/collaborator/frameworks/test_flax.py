from __future__ import annotations

from typing import Any

import numpy as np
import pytest

jax: Any = pytest.importorskip("jax")
pytest.importorskip("flax")
optax: Any = pytest.importorskip("optax")

import flax.linen as nn  # type: ignore[import-not-found, unused-ignore]  # noqa: E402
from flax.training.train_state import TrainState  # type: ignore[import-not-found, unused-ignore]  # noqa: E402

from openfl_aio.collaborator.frameworks.flax import FlaxTaskRunner, get_tensors, set_tensors  # noqa: E402
from openfl_aio.collaborator.task_runner import TaskContext  # noqa: E402
from openfl_aio.domain import Task, TaskKind  # noqa: E402
from openfl_aio.errors import TensorError  # noqa: E402

SAMPLES = np.random.default_rng(1).normal(size=(8, 3)).astype(np.float32)
OPTIMIZERS: dict[str, Any] = {
    "sgd": (lambda: optax.sgd(0.1), []),
    "momentum": (lambda: optax.sgd(0.1, momentum=0.9), ["trace"]),
    "adam": (lambda: optax.adam(0.1), ["mu", "nu"]),
}


def state(kind: str) -> Any:
    model = nn.Sequential([nn.Dense(2), nn.Dense(1)])
    params = model.init(jax.random.PRNGKey(1), SAMPLES)["params"]
    return TrainState.create(apply_fn=model.apply, params=params, tx=OPTIMIZERS[kind][0]())


def step(state: Any) -> Any:
    def loss(params: Any) -> Any:
        return ((state.apply_fn({"params": params}, SAMPLES)[:, 0] - SAMPLES.sum(1)) ** 2).mean()

    return state.apply_gradients(grads=jax.grad(loss)(state.params))


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_training_goes_on_elsewhere_as_if_it_had_stayed(kind: str) -> None:
    here = step(state(kind))
    there = step(step(state(kind))).replace(step=here.step)
    sent = get_tensors(here)
    names = [f"layers_{layer}*{name}" for layer in (0, 1) for name in ("bias", "kernel")]
    parts = ["param", *(f"opt_{moment}" for moment in OPTIMIZERS[kind][1])]
    assert sorted(sent) == sorted(f"{part}*{name}" for part in parts for name in names)
    set_tensors(there, sent)
    if kind != "adam":  # whose bias correction counts its own steps
        here, there = step(here), step(there)
    for name, values in get_tensors(here).items():
        np.testing.assert_allclose(get_tensors(there)[name], values, rtol=1e-6, err_msg=name)


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(TensorError, match=r"expected a tensor 'param\*layers_0\*"):
        set_tensors(state("sgd"), {})


class Runner(FlaxTaskRunner):
    @classmethod
    def build(cls) -> tuple[Any, Any]:
        return state("momentum"), None

    def train(self, model: Any, optimizer: Any, context: TaskContext) -> tuple[int, dict[str, float]]:
        trained = step(model)
        set_tensors(model, get_tensors(trained))
        return 8, {}

    def validate(self, model: Any, context: TaskContext) -> tuple[int, dict[str, float]]:
        return 8, {"w": float(model.params["layers_0"]["kernel"].sum())}


def test_a_runner_trains_in_place() -> None:
    runner = Runner()
    model = Runner.initial_model()
    output = runner.run(TaskContext(Task("t", "t", TaskKind.TRAIN), 0, "one"), model)
    assert list(output.tensors) == list(model)
    assert any(not np.array_equal(output.tensors[name], model[name]) for name in model)
