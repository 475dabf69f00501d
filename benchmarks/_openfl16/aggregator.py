"""The real aggregator of OpenFL 1.6 behind its own server, unmodified.

Settings: ``port``, ``tensors`` (names), ``parameters`` (float32 values of each), ``collaborators``, ``tasks`` (names),
``rounds``, ``folder``, ``aggregator_uuid``, ``federation_uuid`` and ``stubs`` (this folder).
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "_peers"))
from lines import answer, prepare

SETTINGS = prepare()

import numpy as np  # noqa: E402

assert importlib.util  # OpenFL uses this module and does not import it
from openfl.component import Aggregator, RandomGroupedAssigner  # noqa: E402
from openfl.interface.aggregation_functions import WeightedAverage  # noqa: E402
from openfl.transport import AggregatorGRPCServer  # noqa: E402
from openfl.utilities import add_log_level  # noqa: E402

add_log_level("METRIC", 25)
logging.disable(logging.CRITICAL)
source = np.random.default_rng(0)
folder = Path(SETTINGS["folder"])
assigner = RandomGroupedAssigner(
    task_groups=[{"name": "all", "percentage": 1.0, "tasks": SETTINGS["tasks"]}],
    tasks={name: {"aggregation_type": WeightedAverage()} for name in SETTINGS["tasks"]},
    authorized_cols=SETTINGS["collaborators"],
    rounds_to_train=SETTINGS["rounds"],
)
aggregator = Aggregator(
    aggregator_uuid=SETTINGS["aggregator_uuid"],
    federation_uuid=SETTINGS["federation_uuid"],
    authorized_cols=SETTINGS["collaborators"],
    init_state_path=str(folder / "init.pbuf"),
    best_state_path=str(folder / "best.pbuf"),
    last_state_path=str(folder / "last.pbuf"),
    assigner=assigner,
    rounds_to_train=SETTINGS["rounds"],
    db_store_rounds=2,
    initial_tensor_dict={
        name: source.standard_normal(SETTINGS["parameters"], np.float32) for name in SETTINGS["tensors"]
    },
)
server = AggregatorGRPCServer(aggregator=aggregator, agg_port=SETTINGS["port"], tls=False)
running = server.get_server()
running.start()
answer({"port": SETTINGS["port"]}, {})
running.stop(0)
