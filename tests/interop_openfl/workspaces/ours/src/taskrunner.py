"""The same task runner for ours."""

import time

from src import model

from openfl_aio import TaskOutput


class Steps:
    """Goes a share ``step`` of the way to the data loader's targets, and takes ``seconds`` for it.

    ``validating`` is how many it takes to validate what it trained.
    """

    def __init__(self, shard, step=0.5, seconds=0.0, validating=0.0):
        self._validating = validating
        self._shard = shard
        self._step = step
        self._seconds = seconds

    def tensor_names(self):
        """Return the names of the model's tensors."""
        return tuple(self._shard.shapes)

    def run(self, context, tensors):
        """Train or validate."""
        if context.task.kind.value == "validate":
            if context.task.apply_local:
                print(f"validating locally in round {context.round_number}", flush=True)  # noqa: T201 - the tests wait for it
                time.sleep(self._validating)
            metrics = {"closeness": float(model.closeness(tensors, self._shard.targets))}
            return TaskOutput(samples=self._shard.get_valid_data_size(), metrics=metrics)
        print(f"training in round {context.round_number}", flush=True)  # noqa: T201 - the tests wait for it
        time.sleep(self._seconds)
        out = model.trained(tensors, self._shard.targets, self._step)
        metrics = {"distance": float(model.closeness(out, self._shard.targets))}
        return TaskOutput(samples=self._shard.get_train_data_size(), tensors=out, metrics=metrics)
