"""What the benchmarks of the network share: an event loop in a thread, our aggregator, and stock grpclib beside it.

The stock candidate has the same calls, but its server only receives and discards, or hands out a reply that lies
ready: no checks, no journal, no aggregation. Messages are encoded by betterproto2 itself. It is the least that a
server on this stack can do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

import anyio
import grpclib.client
import grpclib.server
from anyio.from_thread import BlockingPortal, start_blocking_portal

from openfl_aio.aggregator.client import AggregatorClient
from openfl_aio.aggregator.service import Aggregator
from openfl_aio.config import CollaboratorConfig, Timeouts
from openfl_aio.wire import messages

__all__ = ["CHUNK_BYTES", "DiscardingServer", "client_of", "event_loop", "stock", "within"]

CHUNK_BYTES = 2 * 2**20
SECONDS = 30.0

T = TypeVar("T")


@contextmanager
def event_loop() -> Iterator[BlockingPortal]:
    """Run an event loop in a thread: candidates that are coroutines are called through the portal."""
    logging.getLogger("openfl_aio").setLevel(logging.ERROR)  # that plaintext is not secure is known here
    with start_blocking_portal() as portal:
        yield portal


async def within(call: Callable[[], Awaitable[T]]) -> T:
    """Return what ``call`` returns; a benchmark that hangs ends with `TimeoutError`."""
    with anyio.fail_after(SECONDS):
        return await call()


def client_of(aggregator: Aggregator, name: str) -> AggregatorClient:
    """Return a client for the collaborator ``name``, to be entered."""
    return AggregatorClient(
        CollaboratorConfig(
            name=name,
            aggregator_uuid=aggregator.uuid,
            federation_uuid=aggregator.federation_uuid,
            endpoint=aggregator.endpoint,
            timeouts=Timeouts(drain=1),
        )
    )


class DiscardingServer(messages.aggregator.AggregatorBase):
    """Counts the bytes of an upload and forgets them; answers every request for a tensor with ``reply``."""

    def __init__(self) -> None:
        self.received = 0
        self.reply = messages.aggregator.GetAggregatedTensorResponse()

    async def send_local_task_results(
        self, messages_: AsyncIterator[messages.DataStream]
    ) -> messages.aggregator.SendLocalTaskResultsResponse:
        """Receive and discard."""
        self.received = 0
        async for chunk in messages_:
            self.received += len(chunk.npbytes)
        return messages.aggregator.SendLocalTaskResultsResponse()

    async def get_aggregated_tensor(
        self, message: messages.aggregator.GetAggregatedTensorRequest
    ) -> messages.aggregator.GetAggregatedTensorResponse:
        """Hand out what lies ready."""
        return self.reply


@asynccontextmanager
async def stock(service: DiscardingServer) -> AsyncIterator[messages.aggregator.AggregatorStub]:
    """Serve on a free port of the loopback with grpclib as it is, and give a stub for it."""
    server = grpclib.server.Server([service])
    await server.start("127.0.0.1", 0)
    assert isinstance(server._server, asyncio.Server)
    port = server._server.sockets[0].getsockname()[1]
    try:
        async with grpclib.client.Channel("127.0.0.1", port) as channel:
            yield messages.aggregator.AggregatorStub(channel)
    finally:
        server.close()
        await server.wait_closed()
