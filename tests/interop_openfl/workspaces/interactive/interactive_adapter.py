"""Reads and writes the tensors of the frontend's model; travels with the workspace."""

import numpy as np
from openfl.plugins.frameworks_adapters.framework_adapter_interface import FrameworkAdapterPluginInterface


class Adapter(FrameworkAdapterPluginInterface):
    """For a model that is a dictionary."""

    @staticmethod
    def get_tensor_dict(model, optimizer=None):
        tensors = {name: np.array(values) for name, values in model.tensors.items()}
        if optimizer is not None:
            tensors.update(optimizer.velocity)
            tensors["__opt_state_needed"] = "true" if optimizer.velocity else "false"
        return tensors

    @staticmethod
    def set_tensor_dict(model, tensor_dict, optimizer=None, device="cpu"):
        for name in list(model.tensors):
            model.tensors[name] = np.asarray(tensor_dict.pop(name), np.float32)
        if optimizer is not None:
            if tensor_dict.pop("__opt_state_needed") == "true":
                for name in list(optimizer.velocity):
                    optimizer.velocity[name] = np.asarray(tensor_dict.pop(name), np.float32)
            assert not tensor_dict, sorted(tensor_dict)
