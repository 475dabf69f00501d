"""A researcher with the real OpenFL: submits an experiment as a notebook does, follows it, prints how it ended.

Runs in the workspace that travels, where ``interactive_adapter.py`` is. What is defined here is in ``__main__``, so it
travels by value. The last line is JSON: the status, the last model, how many metrics came.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path.cwd()))

import openfl
from openfl.interface import aggregation_functions
from openfl.interface.aggregation_functions import AggregationFunction, WeightedAverage
from openfl.interface.aggregation_functions.experimental import PrivilegedAggregationFunction  # noqa: F401 - a tutorial's
from openfl.interface.interactive_api.experiment import DataInterface, FLExperiment, ModelInterface, TaskInterface
from openfl.interface.interactive_api.federation import Federation

parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--name", default="steps")
parser.add_argument("--cert")
parser.add_argument("--user", default="three")
parser.add_argument("--rounds", type=int, default=2)
parser.add_argument("--envoys", type=int, default=2)
parser.add_argument("--only", nargs="*", help="the envoys that take part, if not all")
parser.add_argument("--deltas", action="store_true")
parser.add_argument("--treatment", default="RESET")
parser.add_argument("--momentum", type=float, default=0.0)
parser.add_argument("--pipeline")
parser.add_argument("--agg-port", type=int, help="where an aggregator of its own serves the experiment")
parser.add_argument("--fail-at", type=float, default=0.0)
parser.add_argument("--gate", default="", help="a folder: training tells there that it began, and waits for a file go")
parser.add_argument("--remove", action="store_true", help="make the director forget the experiment in the end")
parser.add_argument("--own-assigner", action="store_true", help="one that lets a single site validate")
parser.add_argument("--own-function", help="aggregate by a class of this program, or of a tutorial of OpenFL's")
parser.add_argument("--stock-function", help="aggregate by one of OpenFL's, adaptive ones as its tutorial makes them")
parser.add_argument("--large", type=int, default=0, help="how many values a third tensor has")
parser.add_argument("--broken", action="store_true", help="send an archive that is none")
options = parser.parse_args()


class Model:
    """Two tensors that begin at fixed places."""

    def __init__(self):
        self.tensors = {"matrix": np.arange(12, dtype=np.float32).reshape(3, 4) / 7, "number": np.array(2, np.float32)}
        if options.large:
            self.tensors["large.weight"] = np.linspace(-3, 3, options.large, dtype=np.float32)
        if options.stock_function == "FedCurvWeightedAverage":  # it takes the ending for a term of its own
            self.tensors["matrix_u"] = self.tensors["matrix"] / 5


class Optimizer:
    """A velocity for each tensor."""

    def __init__(self, momentum):
        self.momentum = momentum
        self.velocity = {}


class Renewed(ModelInterface):
    """Makes a new optimizer whenever it is asked for one, which is when RESET forgets the velocities."""

    def provide_optimizer(self):
        """Return an optimizer that has not moved yet."""
        return Optimizer(self.optimizer.momentum)


class Targets(DataInterface):
    """The shard's number is the target of every value, and ten times it the number of samples."""

    @property
    def shard_descriptor(self):
        return self._shard_descriptor

    @shard_descriptor.setter
    def shard_descriptor(self, shard_descriptor):
        self._shard_descriptor = shard_descriptor
        self.number = shard_descriptor.get_dataset("train")

    def get_train_loader(self, **kwargs):
        return self.number

    def get_valid_loader(self, **kwargs):
        return self.number

    def get_train_data_size(self):
        return int(10 * self.number)

    def get_valid_data_size(self):
        return int(self.number)


class Halfway(AggregationFunction):
    """Go half of the way from the model before to the average, and remember how often."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def call(self, local_tensors, db_iterator, tensor_name, fl_round, tags):
        """Return the aggregate."""
        self.calls += 1
        average = WeightedAverage()(local_tensors, db_iterator, tensor_name, fl_round, tags)
        for row in db_iterator:
            if row["tensor_name"] == tensor_name and row["round"] == fl_round and "model" in row["tags"]:
                return (row["nparray"] + average) / 2
        return average


def own_function(name):
    """Return an aggregation function by its class."""
    if name != "Halfway":
        tutorial = "Federated_Pytorch_MNIST_custom_aggregation_Tutorial.ipynb"
        notebook = Path(openfl.__file__).parents[1] / "openfl-tutorials" / tutorial
        cells = ["".join(cell["source"]) for cell in json.loads(notebook.read_text())["cells"]]
        exec(next(source for source in cells if f"class {name}(" in source), globals())
    arguments = {"ClippedAveraging": [0.5], "ConditionalThresholdAveraging": [lambda round_number: -0.4]}
    return globals()[name](*arguments.get(name, []))


def stock_function(name, model):
    """Return an aggregation function of OpenFL's; "Yogi" around its optimizer, "Adam of some" with all that it takes."""
    if name == "Yogi":  # OpenFL's YogiAdaptiveAggregation cannot be made
        from openfl.interface.aggregation_functions.core import AdaptiveAggregation
        from openfl.utilities.optimizers.numpy import NumPyYogi

        return AdaptiveAggregation(NumPyYogi(model_interface=model, learning_rate=0.4), WeightedAverage())
    if name == "Adam of some":
        elsewhere = {"matrix": np.full((3, 4), 4, np.float32)}
        settings = {"learning_rate": 0.3, "betas": (0.5, 0.75), "initial_accumulator_value": 0.125, "epsilon": 0.01}
        return aggregation_functions.AdamAdaptiveAggregation(
            agg_func=aggregation_functions.Median(), params=elsewhere, **settings
        )
    arguments = {"model_interface": model, "learning_rate": 0.4} if "Adaptive" in name else {}
    return getattr(aggregation_functions, name)(**arguments)


model_interface = Renewed(Model(), Optimizer(options.momentum), "interactive_adapter.Adapter")
tasks = TaskInterface()
aggregation_function = None
if options.own_function:
    aggregation_function = own_function(options.own_function)
elif options.stock_function:
    aggregation_function = stock_function(options.stock_function, model_interface)


@(tasks.set_aggregation_function(aggregation_function) if aggregation_function else lambda function: function)
@tasks.add_kwargs(rate=0.5, fail_at=options.fail_at, gate=options.gate, experiment=options.name)
@tasks.register_fl_task(model="model", data_loader="target", device="device", optimizer="optimizer")
def train(model, target, device, optimizer, rate, fail_at, gate, experiment):
    """Move towards the target."""
    if target == fail_at:
        raise RuntimeError("the data is gone")
    if gate:
        (Path(gate) / experiment).touch()
        while not (Path(gate) / "go").exists():
            time.sleep(0.05)
    for name, values in model.tensors.items():
        before = optimizer.velocity.get("velocity_" + name, np.zeros_like(values))
        velocity = optimizer.momentum / target * before + rate * (target - values)
        optimizer.velocity["velocity_" + name] = np.asarray(velocity, np.float32)
        model.tensors[name] = np.asarray(values + velocity, np.float32)
    return {"distance": float(np.abs(model.tensors["matrix"] - target).mean())}


@tasks.register_fl_task(model="model", data_loader="target", device="device")
def validate(model, target, device):
    """Tell how near the target is."""
    closeness = -float(np.abs(model.tensors["matrix"] - target).mean())
    return {"closeness": closeness, "acc": closeness}


transport = {"tls": False}
if options.cert:
    cert = Path(options.cert)
    transport = {
        "tls": True,
        "cert_chain": str(cert / "cert_chain.crt"),
        "api_cert": str(cert / "client" / f"col_{options.user}.crt"),
        "api_private_key": str(cert / "client" / f"col_{options.user}.key"),
    }
federation = Federation(client_id=options.user, director_node_fqdn="localhost", director_port=options.port, **transport)
while True:
    try:
        online = [name for name, info in federation.get_shard_registry().items() if info["is_online"]]
    except Exception as exc:  # the real director fails until every envoy has waited for work
        online = [repr(exc)]
    if len(online) == options.envoys:
        break
    time.sleep(0.1)
print(f"envoys online: {sorted(online)}")
if options.only:
    registry = federation.get_shard_registry
    federation.get_shard_registry = lambda: {name: registry()[name] for name in options.only}

experiment = FLExperiment(federation=federation, experiment_name=options.name)
override = {"compression_pipeline.template": options.pipeline, "network.settings.agg_port": options.agg_port}
override = {key: value for key, value in override.items() if value} or None
registered = tasks.get_registered_tasks()


def turns(collaborators, round_number, **kwargs):
    """Let everybody train, and one after the other validate."""
    turn = round_number % len(collaborators)
    given = {name: [registered["train"]] for name in collaborators}
    given[collaborators[turn]].append(registered["aggregated_model_validate"])
    return given


if options.broken:
    pack = experiment._pack_the_workspace

    def packed():
        """Pack, and spoil it."""
        path = pack()
        Path(path).write_bytes(b"no zip")
        return path

    experiment._pack_the_workspace = packed

send = federation.dir_client.set_new_experiment
began = 0.0


def sent(**kwargs):
    """Send, and remember when."""
    global began
    began = time.monotonic()
    return send(**kwargs)


federation.dir_client.set_new_experiment = sent
experiment.start(
    model_provider=model_interface,
    task_keeper=tasks,
    data_loader=Targets(),
    rounds_to_train=options.rounds,
    delta_updates=options.deltas,
    opt_treatment=options.treatment,
    override_config=override,
    task_assigner=turns if options.own_assigner else None,
)
print("submitted")
# of an experiment that never came to an aggregator the real director tells neither, and lets wait for ever
metrics = [] if options.broken else list(federation.dir_client.stream_metrics(options.name))
while True:
    status = experiment.get_experiment_status()
    if status not in ("pending", "in_progress"):
        break
    time.sleep(0.1)
seconds = time.monotonic() - began
model = {} if options.broken else experiment.get_last_model().tensors
result = {
    "status": status,
    "metrics": len(metrics),
    "done": [[metric["metric_origin"], metric["task_name"], metric["round"]] for metric in metrics],
    "seconds": seconds,
    "model": {name: values.tolist() for name, values in model.items()},
}
if options.remove:
    experiment.remove_experiment_data()
print(json.dumps(result))
