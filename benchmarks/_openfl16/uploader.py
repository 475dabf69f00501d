"""The client of OpenFL 1.6, unmodified, with one tensor to upload again and again.

Settings: ``port``, ``names`` (one), ``parameters``, ``aggregator_uuid``, ``federation_uuid`` and ``stubs`` (this folder).
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "_peers"))
from lines import answer, prepare

SETTINGS = prepare()

import numpy as np  # noqa: E402
from openfl.protocols import base_pb2  # noqa: E402
from openfl.transport import AggregatorGRPCClient  # noqa: E402

logging.disable(logging.CRITICAL)
NAME = SETTINGS["names"][0]
CLIENT = AggregatorGRPCClient(
    agg_addr="localhost",
    agg_port=SETTINGS["port"],
    tls=False,
    disable_client_auth=True,
    root_certificate=None,
    certificate=None,
    private_key=None,
    aggregator_uuid=SETTINGS["aggregator_uuid"],
    federation_uuid=SETTINGS["federation_uuid"],
    client_reconnect_interval=1,
)
VALUES = np.random.default_rng(1).standard_normal(SETTINGS["parameters"], np.float32)
round_number = -1


def next_task() -> dict[str, Any]:
    """Ask for the next task until the round before is over."""
    global round_number
    before = round_number
    while round_number == before:
        tasks, number, sleep, _ = CLIENT.get_tasks(NAME)
        if tasks:
            round_number = number
        else:
            time.sleep(min(sleep, 1))
    return {}


def upload() -> dict[str, Any]:
    """Hand in the tensor; the seconds are those of the client's call."""
    metadata = base_pb2.MetadataProto(int_list=VALUES.shape)
    tensor = base_pb2.NamedTensor(
        name="w0",
        round_number=round_number,
        lossless=True,
        tags=["compressed", "trained"],
        transformer_metadata=[metadata],
        data_bytes=VALUES.tobytes(),
    )
    start = time.perf_counter()
    CLIENT.send_local_task_results(NAME, round_number, "train", 1, [tensor])
    return {"seconds": time.perf_counter() - start}


answer({}, {"next_task": next_task, "upload": upload})
