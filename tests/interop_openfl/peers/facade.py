"""The real OpenFL's own transport classes, for tests of the facade: the first argument says which, JSON says how.

``aggregator-client``, ``aggregator-stranger`` and ``director-clients`` call a server and print what came as a line of
JSON; ``aggregator-server`` and ``director-server`` serve until they have nothing more to do, or are killed.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import grpc
import numpy as np
from openfl.component.aggregator.aggregator import Aggregator
from openfl.component.assigner.random_grouped_assigner import RandomGroupedAssigner
from openfl.component.director.director import Director
from openfl.interface.aggregation_functions import WeightedAverage
from openfl.interface.cli import setup_logging
from openfl.pipelines import NoCompressionPipeline, TensorCodec
from openfl.protocols import utils
from openfl.transport import AggregatorGRPCClient, AggregatorGRPCServer, DirectorGRPCServer
from openfl.transport.grpc.director_client import DirectorClient, ShardDirectorClient
from openfl.utilities import TensorKey

ROLE, OPTIONS = sys.argv[1], json.loads(sys.argv[2])
FILES = OPTIONS["files"]  # root_certificate, certificate, private_key; or tls=False and None for each
CODEC = TensorCodec(NoCompressionPipeline())


def tell(**facts):
    """Print the facts that the test looks at."""
    print(json.dumps(facts), flush=True)


def named(name, values, *tags, report=False):
    """Return a tensor as a collaborator sends it."""
    key = TensorKey(name, "one", 0, report, tuple(sorted(tags)))
    key, data, metadata = CODEC.compress(key, np.asarray(values, np.float32))
    return utils.construct_named_tensor(key, data, metadata, lossless=True)


def a_client():
    """Return a client of the aggregator."""
    return AggregatorGRPCClient(
        agg_addr="localhost",
        agg_port=OPTIONS["port"],
        disable_client_auth=False,
        aggregator_uuid=OPTIONS["aggregator_uuid"],
        federation_uuid=OPTIONS["federation_uuid"],
        client_reconnect_interval=1,
        **FILES,
    )


def aggregator_stranger():
    """Ask for tasks as somebody who takes no part, and tell of which refusal that ended."""
    try:
        a_client().get_tasks(OPTIONS["name"])
    except grpc.RpcError as error:
        tell(code=error.code().name)


def aggregator_client():
    """Do one round as collaborator one, with a tensor of several chunks."""
    client = a_client()
    tasks, round_number, sleep_time, quits = client.get_tasks("one")
    names = [task.name for task in tasks]
    tensor = client.get_aggregated_tensor("one", "w", 0, False, ["model"], True)
    values = np.frombuffer(tensor.data_bytes, np.float32)
    client.send_local_task_results("one", 0, "train", 3, [named("w", values + 1, "trained")])
    for name in names:
        if name != "train":
            tag = "validate_local" if name.startswith("locally") else "validate_agg"
            metric = named("acc", 0.5, "metric", tag, report=True)
            client.send_local_task_results("one", 0, name, 3, [metric])
    tell(
        tasks=names,
        round=round_number,
        sleep=sleep_time,
        quits=quits,
        first=float(values[0]),
        quits_then=client.get_tasks("one")[3],
    )


def director_clients():
    """Be an envoy and a frontend, and ask everything."""
    where = {"director_host": "localhost", "director_port": OPTIONS["port"]}
    envoy = ShardDirectorClient(shard_name="one", **where, **{**FILES, **OPTIONS["envoy"]})
    user = DirectorClient(client_id="alice", **where, **{**FILES, **OPTIONS["user"]})
    data = SimpleNamespace(dataset_description="digits", sample_shape=["8"], target_shape=["1"])
    facts = {
        "accepted": envoy.report_shard_info(data, (0,)),
        "period": envoy.send_health_check(envoy_name="one", is_experiment_running=False),
        "shapes": [list(shape) for shape in user.get_dataset_info()],
        "online": user.get_envoys()["one"]["is_online"],
        "submitted": user.set_new_experiment("exp", ["one"], OPTIONS["archive"], {"w": np.ones(2)}).accepted,
        "work": envoy.wait_experiment(),
        "bytes": sum(len(chunk.npbytes) for chunk in envoy.get_experiment_data("exp")),
    }
    while user.get_experiment_status("exp").experiment_status == "pending":
        time.sleep(0.05)
    facts["status"] = user.get_experiment_status("exp").experiment_status
    facts["model"] = user.get_last_model("exp")["w"].tolist()
    facts["best"] = list(user.get_best_model("exp"))
    facts["listed"] = [item.name for item in user.get_experiments_list()]
    facts["rounds"] = user.get_experiment_description("exp").total_rounds
    envoy.set_experiment_failed("exp", 1, "out of memory")
    facts["then"] = user.get_experiment_status("exp").experiment_status
    facts["metrics"] = list(user.stream_metrics("exp"))
    facts["removed"] = user.remove_experiment_data("exp")
    facts["last"] = user.get_experiment_status("exp").experiment_status
    tell(**facts)


def aggregator_server():
    """Serve one round for collaborator one; ends when it was told to quit."""
    setup_logging()  # the aggregator logs at a level that this defines
    init = Path("init.pbuf")
    proto = utils.construct_model_proto({"w": np.full(OPTIONS["size"], 2, np.float32)}, 0, NoCompressionPipeline())
    utils.dump_proto(model_proto=proto, fpath=str(init))
    names = ["aggregated_model_validation", "train", "locally_tuned_model_validation"]
    tasks = {name: {"function": name, "kwargs": {}, "aggregation_type": WeightedAverage()} for name in names}
    assigner = RandomGroupedAssigner(
        task_groups=[{"name": "all", "percentage": 1.0, "tasks": names}],
        tasks=tasks,
        authorized_cols=["one"],
        rounds_to_train=1,
    )
    aggregator = Aggregator(
        OPTIONS["aggregator_uuid"],
        OPTIONS["federation_uuid"],
        ["one"],
        str(init),
        "best.pbuf",
        "last.pbuf",
        assigner,
        rounds_to_train=1,
        compression_pipeline=NoCompressionPipeline(),
        db_store_rounds=2,
    )
    AggregatorGRPCServer(aggregator, OPTIONS["port"], **FILES).serve()
    tensors, _ = utils.deconstruct_model_proto(utils.load_proto("last.pbuf"), NoCompressionPipeline())
    tell(last=float(tensors["w"][0]), size=len(tensors["w"]))


def director_server():
    """Serve as a director, until killed."""
    DirectorGRPCServer(
        director_cls=Director,
        listen_host="localhost",
        listen_port=OPTIONS["port"],
        envoy_health_check_period=5,
        sample_shape=["8"],
        target_shape=["1"],
        **FILES,
    ).start()


{
    "aggregator-client": aggregator_client,
    "aggregator-server": aggregator_server,
    "aggregator-stranger": aggregator_stranger,
    "director-clients": director_clients,
    "director-server": director_server,
}[ROLE]()
