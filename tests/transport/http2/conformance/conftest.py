"""One server in plaintext and one with mutual TLS for all cases, and what must hold after each."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest

from openfl_aio.testing.ca import ThrowawayCA
from tests.transport.http2.conformance.peer import Peer
from tests.transport.http2.conformance.serving import ServerThread, run_server


@pytest.fixture(scope="session")
def plaintext() -> Iterator[ServerThread]:
    with run_server() as server:
        yield server


@pytest.fixture(scope="session")
def mutual_tls(ca: ThrowawayCA) -> Iterator[ServerThread]:
    files = ca.client("hospital_one")
    context = ssl.create_default_context(cafile=files.ca)
    assert files.certificate is not None
    context.load_cert_chain(files.certificate, files.private_key)
    context.set_alpn_protocols(["h2"])
    with run_server(ca.server(), context) as server:
        yield server


@pytest.fixture(params=["plaintext", "mutual_tls"])
def server(request: pytest.FixtureRequest) -> ServerThread:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, ServerThread)
    return found


@pytest.fixture
def peer(server: ServerThread) -> Iterator[Peer]:
    """A connection of its own for each case; afterwards the server must be as before."""
    with server.connect() as peer:
        yield peer
    server.check_unharmed()
