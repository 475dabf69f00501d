"""What the demonstration submits: a task runner as any user would write one. It runs at the sites, in a child process."""

from __future__ import annotations

import numpy as np

from openfl_aio.collaborator.frameworks.numpy import NumPyTaskRunner
from openfl_aio.collaborator.task_runner import TaskContext, TaskOutput
from openfl_aio.demo import network
from openfl_aio.demo.shard import DigitsShard


class DigitsTask(NumPyTaskRunner):
    """Trains the small network on this site's digits."""

    def __init__(self, shard: DigitsShard, *, steps: int = 20, seed: int = 0) -> None:
        self._training = shard.get_dataset("train")
        self._validation = shard.get_dataset("val")
        self._steps = steps
        self._seed = seed

    @classmethod
    def initial_model(cls) -> dict[str, np.ndarray]:
        """Return the network's first weights."""
        return dict(network.initial_model())

    def train(self, tensors: dict[str, np.ndarray], context: TaskContext) -> TaskOutput:
        """Take some mini-batch steps from the global model."""
        model, loss = network.train(
            tensors, self._training, steps=self._steps, seed=1000 * self._seed + context.round_number
        )
        return TaskOutput(samples=len(self._training), tensors=model, metrics={"loss": loss})

    def validate(self, tensors: dict[str, np.ndarray], context: TaskContext) -> TaskOutput:
        """Measure the accuracy on digits of this site that it does not train on."""
        return TaskOutput(
            samples=len(self._validation), metrics={"accuracy": network.accuracy(tensors, self._validation)}
        )
