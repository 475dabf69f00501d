"""A small fully connected network in plain NumPy, trained by mini-batch gradient descent with momentum.

64 inputs, one hidden layer of rectified linear units, softmax over 10 classes, cross-entropy loss.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from openfl_aio.demo.digits import CLASSES, FEATURES, Digits

__all__ = ["Model", "accuracy", "initial_model", "train"]

Model = dict[str, npt.NDArray[np.float32]]
HIDDEN = 64
BATCH = 32
LEARNING_RATE = 0.1
MOMENTUM = 0.9


def initial_model(seed: int = 0) -> Model:
    """Return float32 weights: ``hidden.weight`` (64, 64), ``hidden.bias`` (64,), ``out.weight`` (64, 10), ``out.bias`` (10,).

    He initialisation (He et al., 2015, section 2.2).
    """
    random = np.random.default_rng(seed)

    def layer(inputs: int, outputs: int) -> npt.NDArray[np.float32]:
        return np.asarray(random.standard_normal((inputs, outputs)) * np.sqrt(2.0 / inputs), dtype=np.float32)

    return {
        "hidden.weight": layer(FEATURES, HIDDEN),
        "hidden.bias": np.zeros(HIDDEN, np.float32),
        "out.weight": layer(HIDDEN, CLASSES),
        "out.bias": np.zeros(CLASSES, np.float32),
    }


def accuracy(model: Mapping[str, npt.NDArray[np.float32]], digits: Digits) -> float:
    """Return the share of ``digits`` whose label the model predicts, 0 to 1."""
    _, logits = _forward(model, digits.images)
    return float(np.mean(logits.argmax(axis=1) == digits.labels))


def train(
    model: Mapping[str, npt.NDArray[np.float32]], digits: Digits, *, steps: int, seed: int = 0
) -> tuple[Model, float]:
    """Return the model after ``steps`` mini-batches of ``digits``, and the mean loss over them. The input is not changed."""
    weights = {name: values.astype(np.float32, copy=True) for name, values in model.items()}
    velocity = {name: np.zeros_like(values) for name, values in weights.items()}
    random = np.random.default_rng(seed)
    losses = []
    order = np.empty(0, np.int64)
    for _ in range(steps):
        if not len(order):
            order = random.permutation(len(digits))
        batch, order = digits.subset(order[:BATCH]), order[BATCH:]
        loss, gradients = _gradients(weights, batch)
        losses.append(loss)
        for name, gradient in gradients.items():
            velocity[name] = MOMENTUM * velocity[name] - LEARNING_RATE * gradient
            weights[name] += velocity[name]
    return weights, float(np.mean(losses)) if losses else 0.0


def _forward(
    model: Mapping[str, npt.NDArray[np.float32]], images: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    hidden = np.maximum(images @ model["hidden.weight"] + model["hidden.bias"], 0)
    return hidden, hidden @ model["out.weight"] + model["out.bias"]


def _gradients(model: Model, batch: Digits) -> tuple[float, Model]:
    hidden, logits = _forward(model, batch.images)
    logits = logits - logits.max(axis=1, keepdims=True)
    log_likelihood = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    rows = np.arange(len(batch))
    loss = -float(log_likelihood[rows, batch.labels].mean())
    slope = np.exp(log_likelihood)
    slope[rows, batch.labels] -= 1
    slope /= len(batch)
    slope_hidden = (slope @ model["out.weight"].T) * (hidden > 0)
    return loss, {
        "hidden.weight": batch.images.T @ slope_hidden,
        "hidden.bias": slope_hidden.sum(axis=0),
        "out.weight": hidden.T @ slope,
        "out.bias": slope.sum(axis=0),
    }
