"""Environments, certificates and running peers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from openfl_aio.testing.ca import ThrowawayCA
from tests.interop_grpc.processes import PeerProcess, Started, peers
from tests.interop_grpc.stubs import run_protoc

pytest.register_assert_rewrite("tests.interop_grpc.our_client")


@pytest.fixture
def anyio_backend() -> str:
    """The loop as programs run it: gigabytes go through these tests, which is too much for asyncio's debug mode."""
    return "asyncio"


@pytest.fixture(scope="session")
def ca(tmp_path_factory: pytest.TempPathFactory) -> ThrowawayCA:
    authority = ThrowawayCA(tmp_path_factory.mktemp("ca") / "cert")
    authority.server()
    authority.client("peer")
    return authority


@pytest.fixture(scope="session")
def peer_stubs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of the classes that each environment's own compiler made."""
    folders = {}
    for version, python in peers().items():
        folder = folders[version] = tmp_path_factory.mktemp("stubs")
        run_protoc(python, f"--python_out={folder}", f"--grpc_python_out={folder}")
    return folders


@pytest.fixture(scope="session")
def started(ca: ThrowawayCA, peer_stubs: dict[str, Path]) -> Iterator[Callable[[str, str], PeerProcess]]:
    """Give the process of a program in an environment; each is started once, or again if it ended."""
    running: dict[tuple[str, str], PeerProcess] = {}
    with ExitStack() as stack:

        def get(version: str, program: str) -> PeerProcess:
            process = running.get((version, program))
            if process is None or not process.running:
                tls = ca.server() if program.startswith("server") else ca.client("peer")
                process = PeerProcess(peers()[version], program, stubs=peer_stubs[version], tls=tls)
                running[version, program] = stack.enter_context(process)
            return running[version, program]

        yield get


@pytest.fixture(scope="session")
def peer_client(started: Callable[[str, str], PeerProcess]) -> Callable[[str, str], PeerProcess]:
    """Give grpcio's client: version, then sync or aio."""
    return lambda version, kind: started(version, f"client_{kind}")


@pytest.fixture(scope="session")
def peer_server(started: Callable[[str, str], PeerProcess]) -> Callable[[str, str], Started]:
    """Give grpcio's server: version, then sync or aio."""
    servers: dict[tuple[str, str], Started] = {}

    def get(version: str, kind: str) -> Started:
        if (version, kind) not in servers or not servers[version, kind].process.running:
            servers[version, kind] = Started(started(version, f"server_{kind}"))
        return servers[version, kind]

    return get
