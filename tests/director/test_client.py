"""The director's client where the connection breaks."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from openfl_aio.config import Endpoint, RetryPolicy
from openfl_aio.director.client import DirectorClient
from openfl_aio.domain import Metric
from openfl_aio.errors import ConnectionLostError, RemoteProtocolError
from openfl_aio.transport.server import Server
from openfl_aio.wire.messages import director as messages
from tests.faults.proxy import Network, Proxy

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


class Measuring(messages.DirectorBase):
    """Tells ``count`` metrics, all of them to everybody, or as OpenFL 1.6 what it told nobody yet.

    Each call breaks after as many as the next of ``cuts`` says.
    """

    def __init__(self, count: int, *cuts: int, drains: bool = False, shrinks: bool = False) -> None:
        self.count = count
        self.cuts = list(cuts)
        self.drains = drains
        self.shrinks = shrinks
        self.told = 0
        self.calls = 0

    async def get_metric_stream(
        self, message: messages.GetMetricStreamRequest
    ) -> AsyncIterator[messages.GetMetricStreamResponse]:
        """One metric a round; none of them is a number, so that no two are equal as numbers."""
        self.calls += 1
        end = self.cuts.pop(0) if self.cuts else self.count
        for number in range(self.told if self.drains else 0, self.count):
            if not end:
                if self.shrinks and self.calls > 1:
                    return
                raise GRPCError(Status.UNAVAILABLE, "cut")
            end -= 1
            self.told = number + 1
            yield messages.GetMetricStreamResponse(metric_name="loss", metric_value=float("nan"), round=number)


async def follow(service: Measuring, retry: RetryPolicy) -> list[Metric]:
    async with (
        Server([service], listen=Endpoint(), tls=None) as server,
        DirectorClient(server.endpoint, retry=retry) as client,
    ):
        return [metric async for metric in client.get_metric_stream("exp")]


AT_ONCE = RetryPolicy(first_delay=0.01, max_delay=0.01)


@pytest.mark.parametrize("drains", [False, True], ids=["ours", "1.6"])
async def test_metrics_go_on_where_they_were_cut(drains: bool) -> None:
    service = Measuring(9, 0, 3, 2, 0, 5, drains=drains)
    assert [metric.round_number for metric in await follow(service, AT_ONCE)] == list(range(9))
    assert service.calls > 3


async def test_no_metric_is_lost_or_repeated_when_connections_are_cut_anywhere() -> None:
    made = 0
    async with Server([Measuring(300)], listen=Endpoint(), tls=None) as server:
        for seed in range(6):
            async with (
                Proxy(server.endpoint, Network(cuts=3, cut_between=(20, 9000)), seed=seed) as proxy,
                DirectorClient(proxy.endpoint, retry=AT_ONCE) as client,
            ):
                metrics = [metric async for metric in client.get_metric_stream("exp")]
            assert [metric.round_number for metric in metrics] == list(range(300))
            made += proxy.record.connections - 1
    assert made >= 3


async def test_metrics_that_never_end_are_given_up() -> None:
    with pytest.raises(ConnectionLostError, match="following the metrics at the director"):
        await follow(Measuring(9, 5, *[3] * 10_000), RetryPolicy(first_delay=0.01, max_delay=0.01, max_elapsed=0.1))


async def test_metrics_that_became_fewer_are_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="there were 5 metrics, and then only 2"):
        await follow(Measuring(9, 5, 2, shrinks=True), AT_ONCE)
