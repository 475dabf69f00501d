"""Which of OpenFL 1.6's names there are, and what stands in their place: ``module -> name -> our module:attribute``.

Chosen by what archives, shard descriptors and the tutorials of 1.6 import. Servers of 1.6 and its command line are not
among them, nor is the task-runner API (``openfl.federated``), whose programs an envoy never runs.
"""

from __future__ import annotations

from typing import Final

__all__ = ["MODULES", "ROOT"]

ROOT: Final = "openfl"
_OURS: Final = "openfl_aio.compat.imports"
_FUNCTIONS: Final = {
    "weighted_average": "WeightedAverage",
    "median": "Median",
    "geometric_median": "GeometricMedian",
    "fedcurv_weighted_average": "FedCurvWeightedAverage",
    "adagrad_adaptive_aggregation": "AdagradAdaptiveAggregation",
    "adam_adaptive_aggregation": "AdamAdaptiveAggregation",
    "yogi_adaptive_aggregation": "YogiAdaptiveAggregation",
}

_PIPELINES: Final = {
    "eden_pipeline": "EdenPipeline",
    "kc_pipeline": "KCPipeline",
    "no_compression_pipeline": "NoCompressionPipeline",
    "random_shift_pipeline": "RandomShiftPipeline",
    "skc_pipeline": "SKCPipeline",
    "stc_pipeline": "STCPipeline",
    "tensor_codec": "TensorCodec",
}


def _from(module: str, *names: str, **renamed: str) -> dict[str, str]:
    """Return a table row: names of ``module`` here, under the same name or (theirs=ours) another."""
    return {
        theirs: f"{_OURS}.{module}:{ours}" for theirs, ours in {**{name: name for name in names}, **renamed}.items()
    }


def _table() -> dict[str, dict[str, str]]:
    functions = _from("functions", "AggregationFunction", *_FUNCTIONS.values())
    core = _from("functions", "AggregationFunction", "AdaptiveAggregation")
    experimental = _from("functions", "PrivilegedAggregationFunction")
    database = _from("tensor_db", "ROUND_PLACEHOLDER")
    splitters = _from(
        "splitters",
        "DataSplitter",
        "DirichletNumPyDataSplitter",
        "EqualNumPyDataSplitter",
        "LogNormalNumPyDataSplitter",
        "NumPyDataSplitter",
        "RandomNumPyDataSplitter",
    )
    types = _from("utilities", "LocalTensor", "Metric", "SingletonABCMeta", "TaskResultKey", "TensorKey")
    utils = _from("utilities", "change_tags", "tqdm_report_hook", "validate_file_hash")
    optimizers = _from("optimizers", "NumPyAdagrad", "NumPyAdam", "NumPyYogi")
    pipelines = {path: _from("pipelines", name) for path, name in _PIPELINES.items()}
    stages = _from("pipelines", "Float32NumpyArrayToBytes", "TransformationPipeline", "Transformer")
    fedcurv = _from("fedcurv_torch", "FedCurv")
    keras = _from("fedprox_keras", "FedProxOptimizer")
    torch = _from("fedprox_torch", "FedProxAdam", "FedProxOptimizer")
    table = {
        "databases.utilities": database,
        "databases.utilities.dataframe": database,
        "component.assigner.tasks": _from("interactive", "Task", "TrainTask", "ValidateTask"),
        "interface.aggregation_functions": functions,
        "interface.aggregation_functions.core": core,
        "interface.aggregation_functions.core.adaptive_aggregation": core,
        "interface.aggregation_functions.core.interface": core,
        "interface.aggregation_functions.experimental": experimental,
        "interface.aggregation_functions.experimental.privileged_aggregation": experimental,
        "interface.cli": _from("utilities", "setup_logging"),
        "interface.interactive_api.experiment": _from(
            "interactive",
            "DataInterface",
            "FLExperiment",
            "ModelInterface",
            "ModelStatus",
            "TaskKeeper",
            TaskInterface="TaskKeeper",
        ),
        "interface.interactive_api.federation": _from("interactive", "Federation"),
        "interface.interactive_api.shard_descriptor": _from(
            "shards", "DummyShardDataset", "DummyShardDescriptor", "ShardDataset", "ShardDescriptor"
        ),
        "pipelines": {name: place for names in pipelines.values() for name, place in names.items()},
        "pipelines.pipeline": stages,
        **{f"pipelines.{module}": names for module, names in pipelines.items()},
        "plugins.frameworks_adapters.flax_adapter": _from("adapters", FrameworkAdapterPlugin="FlaxAdapter"),
        "plugins.frameworks_adapters.framework_adapter_interface": _from("plugins", "FrameworkAdapterPluginInterface"),
        "plugins.frameworks_adapters.keras_adapter": _from("adapters", FrameworkAdapterPlugin="KerasAdapter"),
        "plugins.frameworks_adapters.pytorch_adapter": _from(
            "adapters",
            "to_cpu_numpy",
            FrameworkAdapterPlugin="TorchAdapter",
            # private in 1.6, and yet what its own tutorial of several optimizers imports
            _get_optimizer_state="get_optimizer_state",
            _set_optimizer_state="set_optimizer_state",
        ),
        "plugins.interface_serializer.cloudpickle_serializer": _from("plugins", "CloudpickleSerializer"),
        "plugins.interface_serializer.dill_serializer": _from("plugins", "DillSerializer"),
        "plugins.interface_serializer.keras_serializer": _from("plugins", KerasSerializer="CloudpickleSerializer"),
        "plugins.interface_serializer.serializer_interface": _from("plugins", "Serializer"),
        "plugins.processing_units_monitor.cuda_device_monitor": _from("plugins", "CUDADeviceMonitor"),
        "plugins.processing_units_monitor.device_monitor": _from("plugins", "DeviceMonitor"),
        "plugins.processing_units_monitor.pynvml_monitor": _from("pynvml_monitor", "PynvmlCUDADeviceMonitor"),
        "utilities": {**types, **utils},
        "utilities.data_splitters": splitters,
        "utilities.data_splitters.data_splitter": _from("splitters", "DataSplitter"),
        "utilities.data_splitters.numpy": {**splitters, **_from("splitters", "get_label_count", "one_hot")},
        "utilities.fedcurv.torch": fedcurv,
        "utilities.fedcurv.torch.fedcurv": {**fedcurv, **_from("fedcurv_torch", "get_buffer", "register_buffer")},
        "utilities.optimizers.keras": keras,
        "utilities.optimizers.keras.fedprox": keras,
        "utilities.optimizers.numpy": optimizers,
        "utilities.optimizers.numpy.adagrad_optimizer": optimizers,
        "utilities.optimizers.numpy.adam_optimizer": optimizers,
        "utilities.optimizers.numpy.base_optimizer": _from("optimizers", "Optimizer"),
        "utilities.optimizers.numpy.yogi_optimizer": optimizers,
        "utilities.optimizers.torch": torch,
        "utilities.optimizers.torch.fedprox": torch,
        "utilities.split": _from("utilities", "split_tensor_dict_for_holdouts"),
        "utilities.types": types,
        "utilities.utils": utils,
    }
    for module, name in _FUNCTIONS.items():
        table[f"interface.aggregation_functions.{module}"] = {name: functions[name]}
    table["interface.aggregation_functions.weighted_average"].update(_from("functions", "weighted_average"))
    table["interface.aggregation_functions.geometric_median"].update(_from("functions", "geometric_median"))
    out: dict[str, dict[str, str]] = {ROOT: {}}
    for path, names in table.items():
        parts = path.split(".")
        for depth in range(1, len(parts)):
            out.setdefault(".".join([ROOT, *parts[:depth]]), {})
        out[f"{ROOT}.{path}"] = names
    return out


MODULES: Final = _table()
