"""A task runner as a user of OpenFL writes it: a subclass of its `TaskRunner`, on NumPy arrays."""

import time

import numpy as np
from openfl.federated import TaskRunner
from openfl.utilities import TensorKey
from src import model


class Steps(TaskRunner):
    """Goes a share ``step`` of the way to the data loader's targets, and takes ``seconds`` for it.

    ``validating`` is how many it takes to validate what it trained, ``lost`` a collaborator and a round of its in which
    every metric is NaN, ``slow`` a collaborator that takes so many seconds more to train.
    """

    def __init__(self, step=0.5, seconds=0.0, validating=0.0, lost=None, slow=("", 0.0), **kwargs):
        super().__init__(**kwargs)
        self._validating = validating
        self._step = step
        self._lost = lost
        self._slow = dict([slow])
        self._seconds = seconds
        self._model = model.initial(self.data_loader.shapes)

    def train(self, col_name, round_num, input_tensor_dict, **kwargs):
        """Train; the model's tensors and one metric go to the aggregator."""
        print(f"training in round {round_num}", flush=True)  # noqa: T201 - the tests wait for it
        time.sleep(self._seconds + self._slow.get(col_name, 0.0))
        tensors = model.trained(input_tensor_dict, self.data_loader.targets, self._step)
        sent = {TensorKey(name, col_name, round_num, False, ("trained",)): array for name, array in tensors.items()}
        distance = self._metric(tensors, col_name, round_num)
        return {TensorKey("distance", col_name, round_num, True, ("metric",)): distance, **sent}, {}

    def validate(self, col_name, round_num, input_tensor_dict, apply, **kwargs):
        """Validate the global model, or the one just trained here."""
        if apply == "local":
            print(f"validating locally in round {round_num}", flush=True)  # noqa: T201 - the tests wait for it
            time.sleep(self._validating)
        tags = ("metric", "validate_local" if apply == "local" else "validate_agg")
        value = self._metric(input_tensor_dict, col_name, round_num)
        return {TensorKey("closeness", col_name, round_num, True, tags): value}, {}

    def _metric(self, tensors, col_name, round_num):
        if [col_name, round_num] == self._lost:
            return np.array(np.nan)
        return model.closeness(tensors, self.data_loader.targets)

    def get_required_tensorkeys_for_function(self, func_name, **kwargs):
        """Return what a task needs: the round's model, or the tensors trained in this round."""
        local = func_name == "validate" and kwargs["apply"] == "local"
        origin, tags = ("LOCAL", ("trained",)) if local else ("GLOBAL", ("model",))
        return [TensorKey(name, origin, 0, False, tags) for name in self._model]

    def initialize_tensorkeys_for_functions(self, with_opt_vars=False):
        """Do nothing: `get_required_tensorkeys_for_function` needs no preparation."""

    def get_tensor_dict(self, with_opt_vars=False):
        """Return the model."""
        return dict(self._model)
