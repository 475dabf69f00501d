"""Every case in every pair of {ours, grpcio, grpc.aio} as client and as server, in plaintext and with mutual TLS.

The cases are the portable ones of gRPC's interoperability document, under its names, and some of our own. Left out are
those for credentials of a cloud and for caching proxies.

Compression is the one thing in which pairs differ. Ours neither compresses nor accepts what is compressed: as a client
it has no `client_compressed_...` cases and refuses the answers that grpcio's servers compress without asking what is
accepted; as a server it refuses with UNIMPLEMENTED, and it answers uncompressed when asked for compression, which the
specification leaves to the server. grpcio's Python API does not show whether a message was compressed, so its servers
let the document's probe pass.
"""

from __future__ import annotations

from typing import Any

import anyio.to_thread
import pytest

from openfl_aio.testing.ca import ThrowawayCA
from tests.interop_grpc import our_client
from tests.interop_grpc.sides import (
    PeerClient,
    PeerServer,
    clients,
    our_peer,
    our_server,
    servers,
    transports,
    versions,
)

pytestmark = pytest.mark.real_time

OTHERS_ONLY = {"client_compressed_unary", "client_compressed_streaming"}  # cases that our client cannot make
ALL = sorted({*our_client.CASES, *OTHERS_ONLY})
OURS_ONLY = {"metadata_over_limit"}  # grpcio's limits of metadata differ between versions
# grpcio's server refuses streams that come right after others ended, and its client gives up at the second refusal
NOT_AMONG_PEERS = {"more_calls_than_streams"}


def expected(case: str, *, client: str, server: str) -> list[str] | None:
    """Return what ``case`` gives; "ours", "sync" and "aio" are the sides."""
    if case in OTHERS_ONLY:
        return ["INVALID_ARGUMENT", "UNIMPLEMENTED", "OK"] if server == "ours" else ["OK"] * 3
    if case == "metadata_over_limit":
        return ["OK", "RESOURCE_EXHAUSTED", "OK"]
    if case == "message_over_limit":
        return ["RESOURCE_EXHAUSTED", "OK"] if server == "ours" else ["OK"] * 2
    if case.startswith("server_compressed") and client == "ours":
        if server == "ours" or (server, case) == ("aio", "server_compressed_unary"):  # grpc.aio forgets it there
            return ["OK"] * 2
        return ["REFUSED", "OK"]
    return None


@versions
@transports
@clients
@pytest.mark.parametrize("case", ALL)
async def test_grpcio_calls_our_server(
    version: str, tls: bool, client: str, case: str, ca: ThrowawayCA, peer_client: PeerClient
) -> None:
    peer = await anyio.to_thread.run_sync(peer_client, version, client)
    async with our_server(ca, tls=tls, case=case) as server:
        value = await anyio.to_thread.run_sync(lambda: peer.run(case, str(server.endpoint), tls=tls))
    assert value == expected(case, client=client, server="ours")


@versions
@transports
@servers
@pytest.mark.parametrize("case", sorted({*our_client.CASES} - OURS_ONLY))
async def test_we_call_grpcios_server(
    version: str, tls: bool, server: str, case: str, ca: ThrowawayCA, peer_server: PeerServer
) -> None:
    started = await anyio.to_thread.run_sync(peer_server, version, server)
    async with our_peer(ca, started.target(tls=tls), tls=tls) as peer:
        assert await our_client.CASES[case](peer) == expected(case, client="ours", server=server)


@transports
@pytest.mark.parametrize("case", sorted(our_client.CASES))
async def test_we_call_our_server(tls: bool, case: str, ca: ThrowawayCA) -> None:
    async with our_server(ca, tls=tls, case=case) as server, our_peer(ca, str(server.endpoint), tls=tls) as peer:
        assert await our_client.CASES[case](peer) == expected(case, client="ours", server="ours")


@versions
@transports
@clients
@servers
@pytest.mark.parametrize("case", sorted({*ALL} - OURS_ONLY - NOT_AMONG_PEERS))
def test_grpcio_calls_grpcio(
    version: str, tls: bool, client: str, server: str, case: str, peer_client: PeerClient, peer_server: PeerServer
) -> None:
    """The control: a case that fails here says nothing about us."""
    target = peer_server(version, server).target(tls=tls)
    value: Any = peer_client(version, client).run(case, target, tls=tls)
    assert value == expected(case, client=client, server=server)
