from __future__ import annotations

import numpy as np
import pytest

from openfl_aio.demo.digits import CLASSES, FEATURES, Digits, load_digits
from openfl_aio.demo.network import _gradients, accuracy, initial_model, train


def test_training_is_reproducible_learns_and_leaves_its_input_alone() -> None:
    training, held_out = load_digits()
    start = initial_model(seed=3)
    kept = {name: values.copy() for name, values in start.items()}
    once, loss = train(start, training, steps=100, seed=5)
    again, _ = train(start, training, steps=100, seed=5)
    assert all(np.array_equal(start[name], kept[name]) for name in start)
    assert all(np.array_equal(once[name], again[name]) for name in once)
    assert loss > 0
    assert accuracy(start, held_out) < 0.4
    assert accuracy(once, held_out) > 0.85


def test_gradients_are_those_of_the_loss() -> None:
    random = np.random.default_rng(0)
    batch = Digits(random.random((8, FEATURES), np.float32), random.integers(0, CLASSES, 8))
    model = initial_model()
    _, gradients = _gradients(model, batch)
    for name, index in [("hidden.weight", (3, 5)), ("hidden.bias", (7,)), ("out.weight", (9, 2)), ("out.bias", (1,))]:
        losses = []
        for step in (+1e-2, -1e-2):
            moved = {key: values.astype(np.float64) for key, values in model.items()}
            moved[name][index] += step
            losses.append(_gradients(moved, batch)[0])  # type: ignore[arg-type]
        assert gradients[name][index] == pytest.approx((losses[0] - losses[1]) / 2e-2, abs=2e-3)


def test_no_steps_change_nothing() -> None:
    training, _ = load_digits()
    model, loss = train(initial_model(), training, steps=0)
    assert loss == 0.0
    assert np.array_equal(model["out.weight"], initial_model()["out.weight"])
