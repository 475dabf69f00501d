from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from openfl_aio.compat.imports import install, uninstall

TASKS = """
import numpy as np
from openfl.interface.aggregation_functions import Median
from openfl.interface.interactive_api.experiment import DataInterface, ModelInterface, TaskInterface


class Weights:
    def __init__(self):
        self.w = np.zeros(3, np.float32)
        self.seen = np.zeros((), np.int64)
        self.mask = np.ones(3, bool)


class Momentum:
    def __init__(self):
        self.state = {}


class Renewed(ModelInterface):
    def provide_optimizer(self):
        return Momentum()


class Data(DataInterface):
    @property
    def shard_descriptor(self):
        return self._shard_descriptor

    @shard_descriptor.setter
    def shard_descriptor(self, shard_descriptor):
        self._shard_descriptor = shard_descriptor
        self.target = shard_descriptor.get_dataset("train") * self.kwargs.get("scale", 1)

    def get_train_loader(self, **kwargs):
        return self.target

    def get_valid_loader(self, **kwargs):
        return self.target + 100

    def get_train_data_size(self):
        return 7

    def get_valid_data_size(self):
        return np.int64(5)


tasks = TaskInterface()


@tasks.add_kwargs(rate=0.5)
@tasks.register_fl_task(model="net", data_loader="target", device="where", optimizer="momentum", round_num="now")
@tasks.set_aggregation_function(Median())
def train(net, target, where, momentum, now, rate):
    step = rate * (target - net.w)
    momentum.state["velocity"] = momentum.state.get("velocity", 0) + step
    net.w = net.w + step
    net.seen = net.seen + 1
    return {"now": now, "device_is_cpu": where == "cpu"}


@tasks.register_fl_task(model="net", data_loader="loader", device="device")
def validate(net, loader, device):
    if not net.mask.all():
        raise RuntimeError("the mask was lost")
    return {"loader": np.float64(loader), "w": np.array([net.w.sum()])}


@tasks.register_fl_task(model="net", data_loader="loader", device="device")
def odd(net, loader, device):
    return {"text": "much"}


@tasks.register_fl_task(model="net", data_loader="loader", device="device")
def silent(net, loader, device):
    return None


@tasks.register_fl_task(model="net", data_loader="loader", device="device")
def wrong(net, loader, device):
    return 3
"""

ADAPTER = """
import numpy as np
from openfl.plugins.frameworks_adapters.framework_adapter_interface import FrameworkAdapterPluginInterface


class Adapter(FrameworkAdapterPluginInterface):
    @staticmethod
    def get_tensor_dict(model, optimizer=None):
        tensors = {"w": model.w, "seen": model.seen, "mask": model.mask}
        if optimizer is not None:
            tensors.update(optimizer.state)
            tensors["__opt_state_needed"] = "true" if optimizer.state else "false"
        return tensors

    @staticmethod
    def set_tensor_dict(model, tensor_dict, optimizer=None, device="cpu"):
        for name in ("w", "seen", "mask"):
            setattr(model, name, tensor_dict.pop(name))
        if optimizer is not None:
            if tensor_dict.pop("__opt_state_needed") == "true":
                optimizer.state["velocity"] = tensor_dict.pop("velocity")
            assert not tensor_dict
"""

SHARD = """
from openfl.interface.interactive_api.shard_descriptor import ShardDescriptor


class Shard(ShardDescriptor):
    def get_dataset(self, dataset_type="train"):
        return 4.0

    @property
    def sample_shape(self):
        return ["1"]

    @property
    def target_shape(self):
        return ["1"]
"""

PICKLES = {
    "model_obj.pkl": 'ModelInterface(Weights(), Momentum(), "archive_adapter.Adapter")',
    "renewed_model_obj.pkl": 'Renewed(Weights(), None, "archive_adapter.Adapter")',
    "tasks_obj.pkl": "tasks",
    "loader_obj.pkl": "Data(scale=2)",
}


@pytest.fixture
def names() -> Iterator[None]:
    install()
    yield
    uninstall()


@pytest.fixture
def archive(tmp_path: Path, names: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace as the frontend packs it; its objects refer to OpenFL's classes by OpenFL's names."""
    import cloudpickle

    from openfl_aio.compat.imports import functions, interactive

    for module, classes in {
        "openfl.interface.interactive_api.experiment": (
            interactive.TaskKeeper,
            interactive.DataInterface,
            interactive.ModelInterface,
        ),
        "openfl.component.assigner.tasks": (interactive.TrainTask, interactive.ValidateTask),
        "openfl.interface.aggregation_functions": (functions.WeightedAverage, functions.Median),
    }.items():
        importlib.import_module(module)  # a class is pickled by its name if its module is loaded
        for cls in classes:
            monkeypatch.setattr(cls, "__module__", module)
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    (workspace / "archive_adapter.py").write_text(ADAPTER)
    (tmp_path / "archive_shard.py").write_text(SHARD)
    sys.modules.pop("archive_adapter", None)
    # what a notebook defines is in __main__ and travels by value
    notebook: dict[str, object] = {"__name__": "__main__"}
    exec(compile(TASKS, "notebook", "exec"), notebook)
    for file, expression in PICKLES.items():
        written = cloudpickle.dumps(eval(expression, notebook))
        assert b"openfl_aio" not in written
        (workspace / file).write_bytes(written)
    monkeypatch.undo()
    monkeypatch.syspath_prepend("/nowhere")  # what the runner prepends goes away with the test
    monkeypatch.chdir(workspace)
    return workspace
