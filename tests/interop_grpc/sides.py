"""Our two sides of a case, and what the tests vary."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from openfl_aio.config import Endpoint, Limits, Timeouts
from openfl_aio.testing.ca import ThrowawayCA
from openfl_aio.transport.channel import open_channel
from openfl_aio.transport.server import Server
from tests.interop_grpc import our_client
from tests.interop_grpc.our_services import Probe, TestService
from tests.interop_grpc.processes import PeerProcess, Started, peers

MIB = 1024 * 1024

versions = pytest.mark.parametrize("version", sorted(peers()))
transports = pytest.mark.parametrize("tls", [False, True], ids=["plaintext", "mtls"])
clients = pytest.mark.parametrize("client", ["sync", "aio"])
servers = pytest.mark.parametrize("server", ["sync", "aio"])
PeerClient = Callable[[str, str], PeerProcess]
PeerServer = Callable[[str, str], Started]


@asynccontextmanager
async def our_server(
    ca: ThrowawayCA, *, tls: bool, case: str = "", drain: float = 5.0, deny_list: Path | None = None
) -> AsyncIterator[Server]:
    """Serve the test service and the probe, with a limit that lets the huge messages in."""
    limits = Limits(max_request_bytes=65 * MIB) if case == "huge_messages" else Limits()
    server = Server(
        [TestService(), Probe()],
        listen=Endpoint(),
        tls=ca.server().model_copy(update={"deny_list": deny_list}) if tls else None,
        limits=limits,
        timeouts=Timeouts(drain=drain),
    )
    async with server:
        yield server


@asynccontextmanager
async def our_peer(ca: ThrowawayCA, target: str, *, tls: bool) -> AsyncIterator[our_client.Peer]:
    """Give our client on ``target``."""
    host, _, port = target.rpartition(":")
    endpoint = Endpoint(host=host, port=int(port))
    async with open_channel(endpoint, tls=ca.client("peer") if tls else None) as channel:
        yield our_client.Peer(channel)
    await anyio.sleep(0.01)  # the socket is closed a turn of the loop later, and a test's loop ends at once
