"""The same task runner for ours."""

import math
import time

from src import model

from openfl_aio import TaskOutput


class Steps:
    """Goes a share ``step`` of the way to the data loader's targets, and takes ``seconds`` for it.

    ``validating`` is how many it takes to validate what it trained, ``lost`` a collaborator and a round of its in which
    every metric is NaN, ``slow`` a collaborator that takes so many seconds more to train.
    """

    def __init__(self, shard, step=0.5, seconds=0.0, validating=0.0, lost=None, slow=("", 0.0)):
        self._validating = validating
        self._shard = shard
        self._step = step
        self._seconds = seconds
        self._lost = lost
        self._slow = dict([slow])

    def tensor_names(self):
        """Return the names of the model's tensors."""
        return tuple(self._shard.shapes)

    def run(self, context, tensors):
        """Train or validate."""
        if context.task.kind.value == "validate":
            if context.task.apply_local:
                print(f"validating locally in round {context.round_number}", flush=True)  # noqa: T201 - the tests wait for it
                time.sleep(self._validating)
            metrics = {"closeness": self._metric(tensors, context)}
            return TaskOutput(samples=self._shard.get_valid_data_size(), metrics=metrics)
        print(f"training in round {context.round_number}", flush=True)  # noqa: T201 - the tests wait for it
        time.sleep(self._seconds + self._slow.get(context.collaborator, 0.0))
        out = model.trained(tensors, self._shard.targets, self._step)
        metrics = {"distance": self._metric(out, context)}
        return TaskOutput(samples=self._shard.get_train_data_size(), tensors=out, metrics=metrics)

    def _metric(self, tensors, context):
        if [context.collaborator, context.round_number] == self._lost:
            return math.nan
        return float(model.closeness(tensors, self._shard.targets))
