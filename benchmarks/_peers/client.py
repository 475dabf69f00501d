"""Collaborators on grpcio, sync or aio, each over a channel of its own.

The serialized upload is made before the clock runs, and only cut into chunks while it does. Settings: ``kind``
("sync" or "aio"), ``stubs``, ``port``, ``names``, ``parameters``, and ``tls`` (paths by name, or null).
"""

# ruff: noqa: D102 - the operations are the same as those of `_ours/client.py`

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

from lines import answer, prepare

SETTINGS = prepare()

import grpc  # noqa: E402 - the stubs are on the path now
import numpy as np  # noqa: E402
from openfl.protocols import aggregator_pb2, aggregator_pb2_grpc, base_pb2  # noqa: E402

OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # else channels to one server share a connection
]
CHUNK_BYTES = 2 * 2**20


def credentials(name: str) -> Any:
    tls = SETTINGS["tls"]
    if tls is None:
        return None
    paths = {key: Path(path).read_bytes() for key, path in tls[name].items()}
    return grpc.ssl_channel_credentials(paths["ca"], paths["private_key"], paths["certificate"])


def connect(name: str) -> Any:
    module = grpc if SETTINGS["kind"] == "sync" else grpc.aio
    target = f"localhost:{SETTINGS['port']}"
    secure = credentials(name)
    if secure is None:
        return module.insecure_channel(target, options=OPTIONS)
    return module.secure_channel(target, secure, options=OPTIONS)


def header(name: str) -> Any:
    return aggregator_pb2.MessageHeader(sender=name, receiver="aggregator_federation", federation_uuid="federation")


class Common:
    """The messages that both kinds send."""

    def __init__(self) -> None:
        self.names: list[str] = SETTINGS["names"]
        self.values = np.random.default_rng(0).standard_normal(SETTINGS["parameters"], np.float32)
        self.stubs = [aggregator_pb2_grpc.AggregatorStub(connect(name)) for name in self.names]
        self.late: list[float] = []
        self._upload: bytes | None = None

    def serialized(self) -> bytes:
        if self._upload is None:
            tensor = base_pb2.NamedTensor(
                name="w",
                lossless=True,
                tags=["compressed", "trained"],
                transformer_metadata=[base_pb2.MetadataProto(int_list=list(self.values.shape))],
                data_bytes=self.values.tobytes(),
            )
            message = aggregator_pb2.TaskResults(
                header=header(self.names[0]), task_name="train", data_size=1, tensors=[tensor]
            )
            self._upload = message.SerializeToString()
        return self._upload

    def chunks(self) -> Iterator[Any]:
        data = self.serialized()
        for start in range(0, len(data), CHUNK_BYTES):
            piece = data[start : start + CHUNK_BYTES]
            yield base_pb2.DataStream(size=len(piece), npbytes=piece)

    def tasks(self) -> Any:
        return aggregator_pb2.GetTasksRequest(header=header(self.names[0]))

    def query(self, name: str) -> Any:
        return aggregator_pb2.GetAggregatedTensorRequest(header=header(name), tensor_name="w", tags=["model"])

    def check(self, reply: Any, check: bool) -> None:
        array = np.frombuffer(memoryview(reply.tensor.data_bytes), np.float32)
        if array.shape != self.values.shape:
            raise ValueError(f"wrong result: {array.shape}")
        if check and not np.array_equal(array, self.values):
            raise ValueError("wrong result: not the model's values")


class Sync(Common):
    """Threads and blocking stubs."""

    def __init__(self) -> None:
        super().__init__()
        self._pool = futures.ThreadPoolExecutor(max(1, len(self.names)))
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def next_task(self) -> None:
        for stub in self.stubs:
            stub.GetTasks(self.tasks())
        self.serialized()

    def upload(self) -> dict[str, Any]:
        start = time.perf_counter()
        list(self._pool.map(lambda stub: stub.SendLocalTaskResults(self.chunks()), self.stubs))
        return {"seconds": time.perf_counter() - start}

    def download(self, check: bool = False) -> dict[str, Any]:
        def one(name: str, stub: Any) -> None:
            self.check(stub.GetAggregatedTensor(self.query(name)), check)

        start = time.perf_counter()
        list(self._pool.map(one, self.names, self.stubs))
        return {"seconds": time.perf_counter() - start}

    def rate(self, in_flight: int, seconds: float) -> dict[str, Any]:
        """Keep so many calls open: blocking ones one at a time, else futures that free a place when they are done."""
        stub, request = self.stubs[0], self.tasks()
        start = time.perf_counter()
        end = start + seconds
        count = 0
        if in_flight == 1:
            while time.perf_counter() < end:
                stub.GetTasks(request)
                count += 1
            return {"rate": count / (time.perf_counter() - start)}
        places = threading.Semaphore(in_flight)
        failed: list[Any] = []

        def done(call: Any) -> None:
            if call.code() is not grpc.StatusCode.OK:
                failed.append(call.details())
            places.release()

        while time.perf_counter() < end and not failed:
            places.acquire()
            stub.GetTasks.future(request).add_done_callback(done)
            count += 1
        for _ in range(in_flight):
            places.acquire()
        if failed:
            raise ValueError(f"a call failed: {failed[0]}")
        return {"rate": count / (time.perf_counter() - start)}

    def tiny_start(self, rate: float) -> None:
        self.late = []
        self._stop.clear()
        self._thread = threading.Thread(target=self._call_all, args=(rate,))
        self._thread.start()

    def tiny_stop(self) -> dict[str, Any]:
        assert self._thread is not None
        self._stop.set()
        self._thread.join()
        return {"seconds": self.late}

    def _call_all(self, rate: float) -> None:
        request = aggregator_pb2.GetExperimentDescriptionRequest(name="federation")
        start = time.perf_counter()
        number = 0
        calls = []

        def done(due: float) -> Any:
            return lambda _: self.late.append(time.perf_counter() - due)

        while not self._stop.is_set():
            due = start + number / rate
            time.sleep(max(0.0, due - time.perf_counter()))
            call = self.stubs[0].GetExperimentDescription.future(request)
            call.add_done_callback(done(due))
            calls.append(call)
            number += 1
        for call in calls:
            call.result()


class Aio(Common):
    """Coroutines and the stubs of grpc.aio."""

    async def next_task(self) -> None:
        for stub in self.stubs:
            await stub.GetTasks(self.tasks())
        self.serialized()

    async def upload(self) -> dict[str, Any]:
        start = time.perf_counter()
        await asyncio.gather(*(stub.SendLocalTaskResults(self.chunks()) for stub in self.stubs))
        return {"seconds": time.perf_counter() - start}

    async def download(self, check: bool = False) -> dict[str, Any]:
        async def one(name: str, stub: Any) -> None:
            self.check(await stub.GetAggregatedTensor(self.query(name)), check)

        start = time.perf_counter()
        await asyncio.gather(*map(one, self.names, self.stubs))
        return {"seconds": time.perf_counter() - start}

    async def rate(self, in_flight: int, seconds: float) -> dict[str, Any]:
        stub, request = self.stubs[0], self.tasks()
        start = time.perf_counter()
        end = start + seconds
        counts: list[int] = []

        async def caller() -> None:
            count = 0
            while time.perf_counter() < end:
                await stub.GetTasks(request)
                count += 1
            counts.append(count)

        await asyncio.gather(*(caller() for _ in range(in_flight)))
        return {"rate": sum(counts) / (time.perf_counter() - start)}

    async def tiny_start(self, rate: float) -> None:
        self.late = []
        self._tiny = asyncio.create_task(self._call_all(rate))

    async def tiny_stop(self) -> dict[str, Any]:
        self._tiny.cancel()
        await asyncio.wait([self._tiny])
        return {"seconds": self.late}

    async def _call_all(self, rate: float) -> None:
        request = aggregator_pb2.GetExperimentDescriptionRequest(name="federation")

        async def one(due: float) -> None:
            await self.stubs[0].GetExperimentDescription(request)
            self.late.append(time.perf_counter() - due)

        start = time.perf_counter()
        number = 0
        async with asyncio.TaskGroup() as calls:
            try:
                while True:
                    due = start + number / rate
                    await asyncio.sleep(max(0.0, due - time.perf_counter()))
                    calls.create_task(one(due))
                    number += 1
            except asyncio.CancelledError:
                pass  # what is under way is waited for


OPERATIONS = ("next_task", "upload", "download", "rate", "tiny_start", "tiny_stop")


async def aio() -> None:
    client = Aio()
    loop = asyncio.get_running_loop()

    def on_loop(name: str) -> Any:
        return lambda **values: asyncio.run_coroutine_threadsafe(getattr(client, name)(**values), loop).result()

    await asyncio.to_thread(answer, {}, {name: on_loop(name) for name in OPERATIONS})


if __name__ == "__main__":
    if SETTINGS["kind"] == "sync":
        sync = Sync()
        answer({}, {name: getattr(sync, name) for name in OPERATIONS})
    else:
        asyncio.run(aio())
