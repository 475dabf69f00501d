"""The director's client where the connection breaks."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from openfl_aio.config import Endpoint, RetryPolicy
from openfl_aio.director.client import DirectorClient
from openfl_aio.errors import ConnectionLostError, RemoteProtocolError
from openfl_aio.transport.server import Server
from openfl_aio.wire.messages import director as messages

pytestmark = pytest.mark.real_time

ARCHIVE = bytes(range(256)) * 40


class Breaking(messages.DirectorBase):
    """Streams an archive whose transfer breaks after ``cuts`` bytes, one after another."""

    def __init__(self, *cuts: int, shrinks: bool = False) -> None:
        self.cuts = list(cuts)
        self.shrinks = shrinks
        self.calls = 0

    async def get_experiment_data(
        self, message: messages.GetExperimentDataRequest
    ) -> AsyncIterator[messages.ExperimentData]:
        """Chunks of another size each time."""
        self.calls += 1
        size = 1000 + 777 * (self.calls % 3)
        archive = ARCHIVE[: len(ARCHIVE) // 4] if self.shrinks and self.calls > 1 else ARCHIVE
        end = self.cuts.pop(0) if self.cuts else None
        for start in range(0, len(archive), size):
            if end is not None and start >= end:
                raise GRPCError(Status.UNAVAILABLE, "cut")
            chunk = archive[start : start + size]
            yield messages.ExperimentData(size=len(chunk), npbytes=chunk)


async def fetch(service: Breaking, retry: RetryPolicy) -> bytes:
    async with (
        Server([service], listen=Endpoint(), tls=None) as server,
        DirectorClient(server.endpoint, retry=retry) as client,
    ):
        return b"".join([bytes(chunk) async for chunk in client.get_experiment_data("exp", "one")])


async def test_an_archive_goes_on_where_it_was_cut() -> None:
    service = Breaking(0, 3000, 2000, 8000)
    assert await fetch(service, RetryPolicy(first_delay=0.01, max_delay=0.01)) == ARCHIVE
    assert service.calls == 5


async def test_an_archive_that_never_comes_is_given_up() -> None:
    with pytest.raises(ConnectionLostError, match="fetching an experiment at the director"):
        await fetch(Breaking(*[3000] * 10_000), RetryPolicy(first_delay=0.01, max_delay=0.01, max_elapsed=0.1))


async def test_an_archive_that_became_another_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="the archive had 5331 bytes, and then only 2560"):
        await fetch(Breaking(5000, shrinks=True), RetryPolicy(first_delay=0.01))
