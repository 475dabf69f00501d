"""A task runner that hands the model in as it came."""

import numpy as np
from openfl.federated import TaskRunner
from openfl.utilities import TensorKey
from stage import stamp


class Echo(TaskRunner):
    """Trains nothing."""

    def train(self, col_name, round_num, input_tensor_dict, **kwargs):
        """Note that a round begins."""
        stamp(col_name)
        tensors = {
            TensorKey(name, col_name, round_num, False, ("trained",)): array
            for name, array in input_tensor_dict.items()
        }
        return {TensorKey("loss", col_name, round_num, True, ("metric",)): np.array(0.0), **tensors}, {}

    def _names(self):
        return [f"w{index}" for index in range(self.data_loader.tensors)]

    def get_required_tensorkeys_for_function(self, func_name, **kwargs):
        """Return the keys of the round's model."""
        return [TensorKey(name, "GLOBAL", 0, False, ("model",)) for name in self._names()]

    def initialize_tensorkeys_for_functions(self, with_opt_vars=False):
        """Do nothing."""

    def get_tensor_dict(self, with_opt_vars=False):
        """Return the initial model."""
        return {name: np.ones(self.data_loader.size, np.float32) for name in self._names()}

    def set_tensor_dict(self, tensor_dict, with_opt_vars=False):
        """Do nothing."""
