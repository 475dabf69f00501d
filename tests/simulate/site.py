"""What the sites of a directed federation run: a shard, and a task runner on it that is the same each time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from openfl_aio.collaborator.task_runner import TaskContext, TaskOutput
from openfl_aio.domain import TaskKind

__all__ = ["Shard", "Trainer", "initial_model", "work"]


def initial_model() -> dict[str, NDArray[np.float32]]:
    """Return the model that every federation begins with."""
    drawn = np.random.default_rng(7)
    return {"w": drawn.normal(size=(6, 4)).astype(np.float32), "b": np.zeros(3, np.float32)}


def work(context: TaskContext, tensors: Mapping[str, np.ndarray]) -> TaskOutput:
    """Train towards a point of the site's own, with noise, or validate: the accuracy is nearness to zero.

    What comes of it follows from the model, the site and the round.
    """
    number = int(context.collaborator.rpartition("_")[2])
    if context.task.kind is not TaskKind.TRAIN:
        error = float(np.mean([np.abs(tensors[name]).mean() for name in sorted(tensors)]))
        return TaskOutput(samples=10 + 7 * number, metrics={"accuracy": 1 / (1 + error) + number / 100})
    drawn = np.random.default_rng([number, context.round_number])
    trained = {
        name: (values + np.float32(0.3) * (number / 5 - values + drawn.normal(size=values.shape))).astype(np.float32)
        for name, values in sorted(tensors.items())
    }
    return TaskOutput(samples=10 + 7 * number, tensors=trained, metrics={"loss": float(np.abs(trained["w"]).mean())})


class Shard:
    """Data that nobody looks at."""

    sample_shape: Sequence[str] = ("1",)
    target_shape: Sequence[str] = ("1",)
    dataset_description = "nothing"

    def get_dataset(self, dataset_type: str) -> None:
        """Return nothing: what is trained follows from the site's name."""


class Trainer:
    """A task runner as it comes with an experiment."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard

    def tensor_names(self) -> Sequence[str]:
        """Return the names of the model's tensors."""
        return ("b", "w")

    def run(self, context: TaskContext, tensors: Mapping[str, np.ndarray]) -> TaskOutput:
        """Do a task."""
        return work(context, tensors)
