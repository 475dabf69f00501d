"""A server that stops while calls are in flight: GOAWAY, as each side sends and understands it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from openfl_aio.testing.ca import ThrowawayCA
from tests.interop_grpc.our_client import MIB, probe, testing
from tests.interop_grpc.processes import PeerProcess, Started, peers
from tests.interop_grpc.sides import PeerClient, clients, our_peer, our_server, servers, transports, versions

pytestmark = pytest.mark.real_time


@versions
@transports
@clients
async def test_our_server_lets_grpcios_calls_finish(
    version: str, tls: bool, client: str, ca: ThrowawayCA, peer_client: PeerClient
) -> None:
    peer = await anyio.to_thread.run_sync(peer_client, version, client)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(our_server(ca, tls=tls, drain=10))
        peer.tell({"case": "drain", "target": str(server.endpoint), "tls": tls})
        event = await anyio.to_thread.run_sync(peer.hear)
        assert event == {"event": "running"}, event
    ends = await anyio.to_thread.run_sync(peer.result)
    assert ends == {"waiting": "UNAVAILABLE", "new": "UNAVAILABLE", "upload": "OK", "parked": "OK"}


@versions
@transports
@servers
async def test_our_calls_finish_on_grpcios_server_and_the_next_one_connects_anew(
    version: str, tls: bool, server: str, ca: ThrowawayCA, peer_stubs: dict[str, Path]
) -> None:
    def start() -> Started:
        return Started(PeerProcess(peers()[version], f"server_{server}", stubs=peer_stubs[version], tls=ca.server()))

    started = await anyio.to_thread.run_sync(start)
    key = uuid.uuid4().hex
    go_on = anyio.Event()
    results: dict[str, Any] = {}

    async def chunks() -> AsyncIterator[Any]:
        yield probe.Chunk(body=b"first")
        await go_on.wait()
        for _ in range(8):
            yield probe.Chunk(body=bytes(MIB))

    try:
        async with our_peer(ca, started.target(tls=tls), tls=tls) as peer:

            async def park() -> None:
                results["parked"] = await peer.probe.park(probe.ParkRequest(key=key, milliseconds=800))

            async def upload() -> None:
                results["upload"] = (await peer.probe.upload(chunks())).size

            async with anyio.create_task_group() as group:
                group.start_soon(park)
                group.start_soon(upload)
                await peer.until_running(key)
                started.process.tell("stop")
                await anyio.sleep(0.3)  # GOAWAY is here
                go_on.set()
            assert results == {"parked": probe.ParkResponse(), "upload": 8 * MIB + len(b"first")}
            assert await anyio.to_thread.run_sync(started.process.hear) == {"started": True}
            assert await peer.test.empty_call(testing.Empty()) == testing.Empty()
    finally:
        await anyio.to_thread.run_sync(started.process.close)
