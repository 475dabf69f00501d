"""A grpcio server of OpenFL's services, sync or aio, that does the least that a server can do.

Of an upload it parses the chunks and looks at their bytes through a view; a tensor's answer lies ready; the tasks are
the same each time; nothing is checked, kept or aggregated. Whoever waits for an experiment waits until ``wake``.
Settings: ``kind`` ("sync" or "aio"), ``stubs``, ``parameters``, ``workers`` (threads of the sync server), and ``tls``
(paths, or null).
"""

# ruff: noqa: D102, N802 - the services say what their calls do, and name them

from __future__ import annotations

import asyncio
import threading
import time
from concurrent import futures
from pathlib import Path
from typing import Any

from lines import answer, prepare

SETTINGS = prepare()

import grpc  # noqa: E402 - the stubs are on the path now
import numpy as np  # noqa: E402
from openfl.protocols import aggregator_pb2, aggregator_pb2_grpc, base_pb2, director_pb2, director_pb2_grpc  # noqa: E402

OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),
]
LOCAL = "127.0.0.1:0"


def tensor_reply() -> Any:
    values = np.random.default_rng(0).standard_normal(SETTINGS["parameters"], np.float32)
    tensor = base_pb2.NamedTensor(
        name="w",
        lossless=True,
        tags=["compressed", "model"],
        transformer_metadata=[base_pb2.MetadataProto(int_list=list(values.shape))],
        data_bytes=values.tobytes(),
    )
    return aggregator_pb2.GetAggregatedTensorResponse(header=header("one"), tensor=tensor)


def header(receiver: str) -> Any:
    return aggregator_pb2.MessageHeader(sender="aggregator_federation", receiver=receiver, federation_uuid="federation")


def tasks_reply(request: Any) -> Any:
    task = aggregator_pb2.Task(name="train", function_name="train", task_type="train", apply_local=False)
    return aggregator_pb2.GetTasksResponse(header=header(request.header.sender), round_number=0, tasks=[task])


def upload_reply() -> Any:
    return aggregator_pb2.SendLocalTaskResultsResponse(header=header("one"))


def look(chunk: Any) -> int:
    return len(memoryview(chunk.npbytes))


def description() -> Any:
    return aggregator_pb2.GetExperimentDescriptionResponse(
        experiment=base_pb2.ExperimentDescription(name="federation", status="in_progress")
    )


class Waiting:
    """How many wait for an experiment, and its name once there is one; used under ``condition`` by threads."""

    def __init__(self) -> None:
        self.parked = 0
        self.name = ""
        self.generation = 0


class SyncAggregator(aggregator_pb2_grpc.AggregatorServicer):
    """Runs in the threads of the server's pool."""

    def __init__(self) -> None:
        self.reply = tensor_reply()

    def GetTasks(self, request: Any, context: Any) -> Any:
        return tasks_reply(request)

    def GetAggregatedTensor(self, request: Any, context: Any) -> Any:
        return self.reply

    def SendLocalTaskResults(self, request: Any, context: Any) -> Any:
        received = 0
        for chunk in request:
            received += look(chunk)
        if received < 4 * SETTINGS["parameters"]:
            context.abort(grpc.StatusCode.DATA_LOSS, f"only {received} bytes came")
        return upload_reply()

    def GetExperimentDescription(self, request: Any, context: Any) -> Any:
        return description()


class SyncDirector(director_pb2_grpc.DirectorServicer):
    """Parks a thread for each envoy that waits."""

    def __init__(self) -> None:
        self.waiting = Waiting()
        self.condition = threading.Condition()

    def UpdateShardInfo(self, request: Any, context: Any) -> Any:
        return director_pb2.UpdateShardInfoResponse(accepted=True)

    def WaitExperiment(self, request: Any, context: Any) -> Any:
        waiting = self.waiting
        with self.condition:
            generation = waiting.generation
            waiting.parked += 1
            self.condition.wait_for(lambda: waiting.generation != generation)
            waiting.parked -= 1
            return director_pb2.WaitExperimentResponse(experiment_name=waiting.name)

    def wake(self, name: str) -> dict[str, Any]:
        with self.condition:
            start = time.perf_counter()
            self.waiting.name = name
            self.waiting.generation += 1
            self.condition.notify_all()
        return {"start": start}

    def parked(self) -> dict[str, Any]:
        return {"parked": self.waiting.parked}


class AioAggregator(aggregator_pb2_grpc.AggregatorServicer):
    """Runs on the event loop."""

    def __init__(self) -> None:
        self.reply = tensor_reply()

    async def GetTasks(self, request: Any, context: Any) -> Any:
        return tasks_reply(request)

    async def GetAggregatedTensor(self, request: Any, context: Any) -> Any:
        return self.reply

    async def SendLocalTaskResults(self, request: Any, context: Any) -> Any:
        received = 0
        async for chunk in request:
            received += look(chunk)
        if received < 4 * SETTINGS["parameters"]:
            await context.abort(grpc.StatusCode.DATA_LOSS, f"only {received} bytes came")
        return upload_reply()

    async def GetExperimentDescription(self, request: Any, context: Any) -> Any:
        return description()


class AioDirector(director_pb2_grpc.DirectorServicer):
    """Parks a coroutine for each envoy that waits."""

    def __init__(self) -> None:
        self.waiting = Waiting()
        self.woken = asyncio.Event()

    async def UpdateShardInfo(self, request: Any, context: Any) -> Any:
        return director_pb2.UpdateShardInfoResponse(accepted=True)

    async def WaitExperiment(self, request: Any, context: Any) -> Any:
        self.waiting.parked += 1
        await self.woken.wait()
        self.waiting.parked -= 1
        return director_pb2.WaitExperimentResponse(experiment_name=self.waiting.name)

    async def wake(self, name: str) -> dict[str, Any]:
        start = time.perf_counter()
        self.waiting.name = name
        self.woken.set()
        self.woken = asyncio.Event()
        return {"start": start}

    async def parked(self) -> dict[str, Any]:
        return {"parked": self.waiting.parked}


def credentials() -> Any:
    tls = SETTINGS["tls"]
    if tls is None:
        return None
    pair = (Path(tls["private_key"]).read_bytes(), Path(tls["certificate"]).read_bytes())
    return grpc.ssl_server_credentials([pair], root_certificates=Path(tls["ca"]).read_bytes(), require_client_auth=True)


def bind(server: Any) -> int:
    secure = credentials()
    port: int = server.add_insecure_port(LOCAL) if secure is None else server.add_secure_port(LOCAL, secure)
    return port


def serve_sync() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(SETTINGS["workers"]), options=OPTIONS)
    director = SyncDirector()
    aggregator_pb2_grpc.add_AggregatorServicer_to_server(SyncAggregator(), server)
    director_pb2_grpc.add_DirectorServicer_to_server(director, server)
    port = bind(server)
    server.start()
    answer({"port": port}, {"parked": director.parked, "wake": director.wake})
    director.wake("")
    server.stop(0).wait()


async def serve_aio() -> None:
    server = grpc.aio.server(options=OPTIONS)
    director = AioDirector()
    aggregator_pb2_grpc.add_AggregatorServicer_to_server(AioAggregator(), server)
    director_pb2_grpc.add_DirectorServicer_to_server(director, server)
    port = bind(server)
    await server.start()
    loop = asyncio.get_running_loop()

    def on_loop(operation: Any) -> Any:
        return lambda **values: asyncio.run_coroutine_threadsafe(operation(**values), loop).result()

    operations = {"parked": on_loop(director.parked), "wake": on_loop(director.wake)}
    await asyncio.to_thread(answer, {"port": port}, operations)
    await server.stop(0)


if __name__ == "__main__":
    if SETTINGS["kind"] == "sync":
        serve_sync()
    else:
        asyncio.run(serve_aio())
