"""Hostile archives, submitted over the wire and served to an envoy: refused, with nothing outside and nothing left."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio.to_thread
import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from openfl_aio.config import DirectorConfig, Endpoint, Timeouts
from openfl_aio.director.client import DirectorClient
from openfl_aio.director.service import Director
from openfl_aio.director.servicer import encode_model
from openfl_aio.envoy.workspace import Workspaces
from openfl_aio.errors import ArchiveError
from openfl_aio.transport.channel import open_channel
from openfl_aio.wire import convert
from openfl_aio.wire.messages import director as calls
from tests.director.test_hostile_names import everything, messages_of
from tests.director.test_service import MODEL, submit
from tests.storage.test_unpack import HOSTILE, LIMITS

pytestmark = pytest.mark.real_time


def infos(data: bytes) -> AsyncIterator[calls.ExperimentInfo]:
    """Return a submission of ``data`` in two messages, neither of which is the whole."""
    model = convert.model_to_proto(encode_model(MODEL))
    middle = len(data) // 2
    return messages_of(
        *(
            calls.ExperimentInfo(
                name="exp",
                collaborator_names=["one"],
                experiment_data=calls.ExperimentData(size=len(part), npbytes=part),
                model_proto=model,
            )
            for part in (data[:middle], data[middle:])
        )
    )


@pytest.fixture
async def director(tmp_path: Path) -> AsyncIterator[Director]:
    config = DirectorConfig(
        listen=Endpoint(port=0),
        limits=LIMITS,
        timeouts=Timeouts(drain=0.5, long_poll=2.0),
        workspace=tmp_path / "work/director",
    )
    async with Director(config) as director:
        yield director


@pytest.mark.parametrize("case", [case for case in HOSTILE if HOSTILE[case][0]])
async def test_a_director_refuses_it_and_keeps_nothing(case: str, director: Director, tmp_path: Path) -> None:
    before = await anyio.to_thread.run_sync(everything, tmp_path)
    async with open_channel(director.endpoint, tls=None) as channel:
        with pytest.raises(GRPCError) as refused:
            await calls.DirectorStub(channel).set_new_experiment(infos(HOSTILE[case][0]))
    assert refused.value.status is Status.INVALID_ARGUMENT
    assert await anyio.to_thread.run_sync(everything, tmp_path) == before
    async with DirectorClient(director.endpoint) as client:
        assert await client.get_experiment_status("exp") is None
        assert await submit(client), "the name is free"


@pytest.mark.parametrize("case", [case for case in HOSTILE if HOSTILE[case][0]])
async def test_an_envoy_refuses_it_and_keeps_nothing(case: str, tmp_path: Path) -> None:
    async def served() -> AsyncIterator[bytes]:
        yield HOSTILE[case][0]

    async with Workspaces(tmp_path / "work/envoy", limits=LIMITS) as workspaces:
        before = await anyio.to_thread.run_sync(everything, tmp_path)
        with pytest.raises(ArchiveError):
            async with workspaces.run(served()):
                pass
        assert await anyio.to_thread.run_sync(everything, tmp_path) == before
