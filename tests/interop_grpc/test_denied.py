"""A certificate that is denied while its connection is open, as grpcio's clients see it."""

from __future__ import annotations

from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from openfl_aio.testing.ca import ThrowawayCA
from tests.interop_grpc.sides import PeerClient, clients, our_server, versions

pytestmark = pytest.mark.real_time


@versions
@clients
async def test_grpcios_calls_are_refused_once_its_certificate_is_denied(
    version: str, client: str, ca: ThrowawayCA, peer_client: PeerClient, tmp_path: Path
) -> None:
    deny_list = tmp_path / "deny.txt"
    deny_list.write_text("")
    peer = await anyio.to_thread.run_sync(peer_client, version, client)
    async with our_server(ca, tls=True, deny_list=deny_list) as server:
        peer.tell({"case": "denied", "target": str(server.endpoint), "tls": True})
        event = await anyio.to_thread.run_sync(peer.hear)
        assert event == {"event": "running"}, event
        deny_list.write_text("CN=peer\n")
        ends = await anyio.to_thread.run_sync(peer.result)
        assert ends == {"parked": "UNAUTHENTICATED", "new": "UNAUTHENTICATED"}
        with anyio.fail_after(15):
            while server.statistics().connections:
                await anyio.sleep(0.05)
