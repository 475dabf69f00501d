"""The server under test, on a loop in a thread of its own, and what it may never do."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import anyio
import anyio.lowlevel

from openfl_aio.config import Endpoint, Limits, Timeouts, TLSConfig
from openfl_aio.transport.server import Server
from openfl_aio.wire.messages import DataStream, aggregator
from tests.transport.http2.conformance.peer import SECONDS, Peer

__all__ = ["ServerThread", "Service", "run_server"]


class Service(aggregator.AggregatorBase):
    """Answers at once, waits for ever, counts what is uploaded, or streams as much as is asked for."""

    def __init__(self) -> None:
        self.alive = 0  # handlers of calls that wait

    async def get_tasks(self, message: aggregator.GetTasksRequest) -> aggregator.GetTasksResponse:
        await anyio.lowlevel.checkpoint()  # a handler that others have overtaken by the time it answers
        return aggregator.GetTasksResponse(tasks=[aggregator.Task(name="train")])

    async def get_aggregated_tensor(
        self, message: aggregator.GetAggregatedTensorRequest
    ) -> aggregator.GetAggregatedTensorResponse:
        await self._wait()
        raise AssertionError("unreachable")

    async def send_local_task_results(
        self, messages: AsyncIterator[DataStream]
    ) -> aggregator.SendLocalTaskResultsResponse:
        count = 0
        async for message in messages:
            count += 1
            if bytes(message.npbytes) == b"do not read on":
                await self._wait()
        return aggregator.SendLocalTaskResultsResponse(header=aggregator.MessageHeader(sender=str(count)))

    async def get_metric_stream(
        self, message: aggregator.GetMetricStreamRequest
    ) -> AsyncIterator[aggregator.GetMetricStreamResponse]:
        for number in range(3):
            yield aggregator.GetMetricStreamResponse(round=number, metric_name="x" * int(message.experiment_name))

    async def _wait(self) -> None:
        self.alive += 1
        try:
            await anyio.sleep_forever()
        finally:
            self.alive -= 1


class Records(logging.Handler):
    """Keeps what a peer's fault must not lead to: errors and tracebacks."""

    def __init__(self) -> None:
        super().__init__()
        self.bad: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR or record.exc_info:
            self.bad.append(self.format(record))


class ServerThread:
    """A server that runs. Use `run_server`."""

    def __init__(
        self, tls: TLSConfig | None, context: ssl.SSLContext | None, limits: Limits | None, drain: float
    ) -> None:
        self.service = Service()
        self.records = Records()
        self.endpoint = Endpoint()
        self.stop: Callable[[], object] = lambda: None  # begin to stop, without waiting for it
        self._tls = tls
        self._context = context
        self._limits = limits
        self._timeouts = Timeouts(drain=drain)

    async def serve(self, started: threading.Event) -> None:
        """Serve until cancelled."""
        async with Server(
            [self.service], listen=Endpoint(), tls=self._tls, limits=self._limits, timeouts=self._timeouts
        ) as server:
            self.endpoint = server.endpoint
            started.set()
            await anyio.sleep_forever()

    def connect(self) -> Peer:
        """Return a new connection on which nothing is sent yet."""
        sock = socket.create_connection(("127.0.0.1", self.endpoint.port), timeout=SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context is not None:
            sock = self._context.wrap_socket(sock, server_hostname="127.0.0.1")
        return Peer(sock)

    def check_unharmed(self) -> None:
        """The next client is served, no handler of an ended connection goes on, and no traceback is in the log."""
        with self.connect() as peer:
            peer.start()
            answer = peer.call()
            assert (answer.field(":status"), answer.field("grpc-status")) == ("200", "0"), peer.story()
        until = time.monotonic() + SECONDS
        while self.service.alive and time.monotonic() < until:
            time.sleep(0.002)
        alive, self.service.alive = self.service.alive, 0
        assert alive == 0, f"{alive} handlers outlived their connection"
        bad, self.records.bad = self.records.bad, []
        assert bad == []


@contextmanager
def run_server(
    tls: TLSConfig | None = None,
    context: ssl.SSLContext | None = None,
    limits: Limits | None = None,
    drain: float = SECONDS,
) -> Iterator[ServerThread]:
    """Run a server inside the block; ``context`` is what clients use if it is one with TLS."""
    server = ServerThread(tls, context, limits, drain)
    started = threading.Event()
    loop = asyncio.new_event_loop()

    def run() -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            pass
        finally:
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    task = loop.create_task(server.serve(started))
    server.stop = lambda: loop.call_soon_threadsafe(task.cancel)
    thread = threading.Thread(target=run, name="conformance server")
    root = logging.getLogger()
    root.addHandler(server.records)
    thread.start()
    try:
        assert started.wait(10), "the server did not start"
        yield server
    finally:
        if not task.done():
            server.stop()
        thread.join(2 * SECONDS)
        root.removeHandler(server.records)
        assert not thread.is_alive(), "the server did not stop"
