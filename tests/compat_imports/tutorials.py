"""The import statements of OpenFL 1.6's interactive tutorials and of its workspaces, each once: names, no code.

`tests/interop_openfl/test_tutorials.py` holds this list against the tutorials that the real package brings.
"""

from __future__ import annotations

ARCHIVES = """
from openfl.interface.aggregation_functions import FedCurvWeightedAverage
from openfl.interface.aggregation_functions import Median
from openfl.interface.cli import setup_logging
from openfl.interface.interactive_api.experiment import DataInterface
from openfl.interface.interactive_api.experiment import DataInterface, FLExperiment, ModelInterface, TaskInterface
from openfl.interface.interactive_api.experiment import FLExperiment
from openfl.interface.interactive_api.experiment import ModelInterface
from openfl.interface.interactive_api.experiment import TaskInterface
from openfl.interface.interactive_api.experiment import TaskInterface, DataInterface, ModelInterface, FLExperiment
from openfl.interface.interactive_api.federation import Federation
from openfl.interface.interactive_api.shard_descriptor import ShardDataset
from openfl.interface.interactive_api.shard_descriptor import ShardDescriptor
from openfl.plugins.frameworks_adapters.framework_adapter_interface import FrameworkAdapterPluginInterface
from openfl.plugins.frameworks_adapters.pytorch_adapter import FrameworkAdapterPlugin
from openfl.plugins.frameworks_adapters.pytorch_adapter import _get_optimizer_state
from openfl.plugins.frameworks_adapters.pytorch_adapter import to_cpu_numpy
from openfl.utilities import Metric
from openfl.utilities import Metric, TensorKey
from openfl.utilities import TensorKey
from openfl.utilities import tqdm_report_hook
from openfl.utilities import validate_file_hash
from openfl.utilities.data_splitters import EqualNumPyDataSplitter
from openfl.utilities.data_splitters import RandomNumPyDataSplitter
from openfl.utilities.data_splitters.numpy import LogNormalNumPyDataSplitter
from openfl.utilities.fedcurv.torch import FedCurv
from openfl.utilities.split import split_tensor_dict_for_holdouts
import openfl.utilities.optimizers.torch.fedprox
""".strip().splitlines()
"""What an archive or a shard descriptor may import at a site."""

ELSEWHERE = """
from openfl.component.envoy.envoy import Envoy
from openfl.experimental.interface import FLSpec
from openfl.experimental.placement import aggregator, collaborator
from openfl.federated import KerasDataLoader
from openfl.federated import KerasTaskRunner
from openfl.federated import PyTorchDataLoader
from openfl.federated import PyTorchTaskRunner
from openfl.federated import TensorFlowDataLoader
from openfl.federated import TensorFlowTaskRunner
from openfl.federated.task.runner_pt import change_tags
import openfl.native
""".strip().splitlines()
"""What no envoy imports: a shard descriptor's own main program, the frontend's notebooks, the task-runner and workflow APIs."""
