"""Handshakes that must fail, and certificate files that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from openfl_aio.config import Endpoint, Timeouts, TLSConfig
from openfl_aio.errors import ConfigurationError, ConnectError, ConnectionLostError
from openfl_aio.pki import create_ca
from openfl_aio.testing.ca import ThrowawayCA
from openfl_aio.transport.channel import open_channel, translate
from openfl_aio.transport.credentials import Credentials
from openfl_aio.transport.server import Server
from openfl_aio.wire.messages import aggregator

pytestmark = pytest.mark.real_time


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    # a loop in debug mode reports every failed handshake as an error of the test
    return "asyncio", {"debug": False}


class Deaf(aggregator.AggregatorBase):
    async def get_tasks(self, message: aggregator.GetTasksRequest) -> aggregator.GetTasksResponse:
        raise AssertionError("a stranger was served")


async def call(*, server: TLSConfig, client: TLSConfig | None) -> None:
    async with (
        Server([Deaf()], listen=Endpoint(), tls=server, timeouts=Timeouts(drain=1)) as serving,
        open_channel(serving.endpoint, tls=client, timeouts=Timeouts(connect=5)) as channel,
    ):
        with translate():
            await aggregator.AggregatorStub(channel).get_tasks(aggregator.GetTasksRequest())


async def test_client_of_another_authority_is_not_served(ca: ThrowawayCA, foreign_ca: ThrowawayCA) -> None:
    stranger = foreign_ca.client("hospital_one").model_copy(update={"ca": ca.layout.chain})
    with pytest.raises((ConnectError, ConnectionLostError)):
        await call(server=ca.server(), client=stranger)


async def test_server_of_another_authority_is_not_trusted(ca: ThrowawayCA, foreign_ca: ThrowawayCA) -> None:
    distrustful = ca.client("hospital_one").model_copy(update={"ca": foreign_ca.layout.chain})
    with pytest.raises(ConnectError, match="not accepted"):
        await call(server=ca.server(), client=distrustful)


async def test_server_certificate_does_not_serve_as_a_client(ca: ThrowawayCA) -> None:
    with pytest.raises((ConnectError, ConnectionLostError)):
        await call(server=ca.server(), client=ca.server())


async def test_plaintext_client_of_a_tls_server_gets_a_clear_end(ca: ThrowawayCA) -> None:
    with pytest.raises((ConnectError, ConnectionLostError)):
        await call(server=ca.server(), client=None)


@pytest.mark.parametrize("load", [Credentials.load_client, Credentials.load_server])
@pytest.mark.parametrize("field", ["ca", "certificate", "private_key"])
async def test_missing_and_broken_files_are_one_sentence(
    load: Any, field: str, ca: ThrowawayCA, tmp_path: Path
) -> None:
    path = tmp_path / "file.pem"
    tls = ca.server().model_copy(update={field: path})
    with pytest.raises(ConfigurationError, match="No such file"):
        await load(tls)
    path.write_bytes(b"nonsense")
    with pytest.raises(ConfigurationError, match=r"no PEM certificate|cannot be used"):
        await load(tls)


async def test_key_of_another_certificate_is_one_sentence(ca: ThrowawayCA, tmp_path: Path) -> None:
    path = tmp_path / "other.key"
    path.write_bytes(create_ca().key_pem)
    with pytest.raises(ConfigurationError, match="does not belong"):
        await Credentials.load_server(ca.server().model_copy(update={"private_key": path}))


async def test_a_server_needs_a_certificate_and_a_client_may_go_without(ca: ThrowawayCA) -> None:
    bare = TLSConfig(ca=ca.layout.chain)
    await Credentials.load_client(bare)
    with pytest.raises(ConfigurationError, match="a server needs a certificate"):
        await Credentials.load_server(bare)
    with pytest.raises(ConfigurationError, match="expected both or neither"):
        TLSConfig(ca=ca.layout.chain, certificate=ca.layout.chain)
