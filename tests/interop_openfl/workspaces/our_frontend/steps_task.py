"""The arithmetic of the other frontend's program, as a task runner of ours."""

import numpy as np

from openfl_aio.collaborator.frameworks.numpy import NumPyTaskRunner
from openfl_aio.collaborator.task_runner import TaskOutput


class Steps(NumPyTaskRunner):
    """Moves half of the way to the shard's number, unless that is ``fail_at``."""

    def __init__(self, shard, fail_at=0):
        self.number = shard.get_dataset("train")
        self.fail_at = fail_at

    @classmethod
    def initial_model(cls):
        return {"matrix": np.arange(12, dtype=np.float32).reshape(3, 4) / 7, "number": np.array(2, np.float32)}

    def train(self, tensors, context):
        if self.number == self.fail_at:
            raise RuntimeError("the data is gone")
        moved = {
            name: values + np.float32(0.5) * (np.float32(self.number) - values) for name, values in tensors.items()
        }
        return TaskOutput(int(10 * self.number), moved, {"loss": 1.0})

    def validate(self, tensors, context):
        return TaskOutput(1, metrics={"closeness": -float(np.abs(tensors["matrix"] - self.number).mean())})
