"""A server on grpcio that speaks to a client of OpenFL 1.6 and throws away what is uploaded, chunk by chunk.

What an upload can reach at best with that client. Settings: ``port``, ``collaborators`` (one), ``aggregator_uuid``,
``federation_uuid`` and ``stubs`` (this folder).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "_peers"))
from lines import answer, prepare

SETTINGS = prepare()

import grpc  # noqa: E402
from openfl.protocols import aggregator_pb2, aggregator_pb2_grpc  # noqa: E402
from openfl.transport.grpc.grpc_channel_options import channel_options  # noqa: E402


class Discarding(aggregator_pb2_grpc.AggregatorServicer):  # type: ignore[misc]
    """There is always a round to train in, one further after each upload."""

    def __init__(self) -> None:
        self._round = 0

    def GetTasks(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name on the wire
        """Answer the round's one task."""
        tasks = [aggregator_pb2.Task(name="train")]
        return aggregator_pb2.GetTasksResponse(header=header(), round_number=self._round, tasks=tasks)

    def SendLocalTaskResults(self, request: Iterator[Any], context: Any) -> Any:  # noqa: N802
        """Look at no more than the size of each chunk."""
        if sum(len(chunk.npbytes) for chunk in request) == 0:
            raise RuntimeError("nothing came")
        self._round += 1
        return aggregator_pb2.SendLocalTaskResultsResponse(header=header())


def header() -> Any:
    """Return the header of every reply."""
    return aggregator_pb2.MessageHeader(
        sender=SETTINGS["aggregator_uuid"],
        receiver=SETTINGS["collaborators"][0],
        federation_uuid=SETTINGS["federation_uuid"],
    )


server = grpc.server(ThreadPoolExecutor(max_workers=os.cpu_count()), options=channel_options)
aggregator_pb2_grpc.add_AggregatorServicer_to_server(Discarding(), server)
server.add_insecure_port(f"[::]:{SETTINGS['port']}")
server.start()
answer({"port": SETTINGS["port"]}, {})
server.stop(0)
