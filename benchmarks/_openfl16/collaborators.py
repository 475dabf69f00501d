"""Collaborators of the real OpenFL 1.6, unmodified, each in a thread with its own client; they hand the model in as it came.

Settings: ``port``, ``names``, ``tensors`` (names), ``aggregator_uuid``, ``federation_uuid``, ``delta_updates``, and ``stubs``
(this folder). ``run`` plays the federation to its end and returns when tasks came and when results were handed in,
in seconds of the system's monotonic clock, by name and round.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import time
from pathlib import Path
from threading import Thread
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "_peers"))
from lines import answer, prepare

SETTINGS = prepare()

import numpy as np  # noqa: E402

assert importlib.util  # OpenFL uses this module and does not import it
from openfl.component import Collaborator  # noqa: E402
from openfl.pipelines import NoCompressionPipeline  # noqa: E402
from openfl.transport import AggregatorGRPCClient  # noqa: E402
from openfl.utilities import TensorKey, add_log_level  # noqa: E402

TASKS = {
    "aggregated_model_validation": {"function": "validate", "kwargs": {"apply": "global"}},
    "train": {"function": "train", "kwargs": {}},
    "locally_tuned_model_validation": {"function": "validate", "kwargs": {"apply": "local"}},
}


class HandBack:
    """What OpenFL calls a task runner: it trains nothing and finds every model equally good."""

    def set_optimizer_treatment(self, treatment: str) -> None:
        """There is no optimizer."""

    def get_train_data_size(self) -> int:
        """Every collaborator weighs the same."""
        return 1

    get_valid_data_size = get_train_data_size

    def get_required_tensorkeys_for_function(self, function: str, **kwargs: Any) -> list[TensorKey]:
        """Return what the task reads: the model, or what was trained here."""
        local = kwargs.get("apply") == "local"
        origin, tags = ("LOCAL", ("trained",)) if local else ("GLOBAL", ("model",))
        return [TensorKey(name, origin, 0, False, tags) for name in SETTINGS["tensors"]]

    def train(self, col_name: str, round_num: int, input_tensor_dict: dict[str, Any], **_: Any) -> Any:
        """Return the model as it came."""
        trained = {
            TensorKey(name, col_name, round_num, False, ("trained",)): array
            for name, array in input_tensor_dict.items()
        }
        return trained, {}

    def validate(self, col_name: str, round_num: int, input_tensor_dict: dict[str, Any], apply: str) -> Any:
        """Return one metric."""
        tags = ("metric", "validate_local" if apply == "local" else "validate_agg")
        return {TensorKey("accuracy", col_name, round_num, True, tags): np.array(0.5)}, {}


class Watched:
    """A client of OpenFL, with notes of when it got tasks and when it began to hand in results."""

    def __init__(self, client: AggregatorGRPCClient) -> None:
        self._client = client
        self.began: dict[int, float] = {}
        self.handed: dict[int, float] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def get_tasks(self, collaborator: str) -> Any:
        """Ask, and note when the first tasks of a round came."""
        reply = self._client.get_tasks(collaborator)
        if reply[0]:
            self.began.setdefault(reply[1], time.monotonic())
        return reply

    def send_local_task_results(self, collaborator: str, round_number: int, *results: Any) -> Any:
        """Hand in, and note when that began; the last one of a round counts."""
        self.handed[round_number] = time.monotonic()
        return self._client.send_local_task_results(collaborator, round_number, *results)


def client() -> AggregatorGRPCClient:
    """Return a client as a plan without TLS makes it."""
    return AggregatorGRPCClient(
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


def run() -> dict[str, Any]:
    """Play to the end."""
    watched = {name: Watched(client()) for name in SETTINGS["names"]}
    threads = []
    for name, one in watched.items():
        member = Collaborator(
            collaborator_name=name,
            aggregator_uuid=SETTINGS["aggregator_uuid"],
            federation_uuid=SETTINGS["federation_uuid"],
            client=one,
            task_runner=HandBack(),
            task_config=TASKS,
            delta_updates=SETTINGS["delta_updates"],
            compression_pipeline=NoCompressionPipeline(),
        )
        threads.append(Thread(target=member.run, daemon=True))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "began": {name: one.began for name, one in watched.items()},
        "handed": {name: one.handed for name, one in watched.items()},
    }


add_log_level("METRIC", 25)
logging.disable(logging.CRITICAL)
answer({}, {"run": run})
