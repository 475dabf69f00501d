"""Uploads at the same time: so many are read at once, one connection has so many, and the others wait or are refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from openfl_aio.config import Endpoint, Limits
from openfl_aio.transport.channel import Channel, open_channel
from openfl_aio.transport.server import Server
from openfl_aio.wire.messages import DataStream, aggregator

pytestmark = pytest.mark.real_time


class Slow(aggregator.AggregatorBase):
    """Reads uploads and keeps them until told; remembers how many it had at most at once."""

    def __init__(self) -> None:
        self.reading = self.most = self.bytes = 0
        self.go_on = asyncio.Event()
        self.changed = asyncio.Event()

    async def send_local_task_results(
        self, messages: AsyncIterator[DataStream]
    ) -> aggregator.SendLocalTaskResultsResponse:
        self.reading += 1
        self.most = max(self.most, self.reading)
        self.changed.set()
        try:
            async for message in messages:
                self.bytes += len(message.npbytes)
            await self.go_on.wait()
        finally:
            self.reading -= 1
        return aggregator.SendLocalTaskResultsResponse()

    async def until_reading(self, count: int) -> None:
        while self.reading < count:
            self.changed.clear()
            await self.changed.wait()


@asynccontextmanager
async def serving(limits: Limits, count: int) -> AsyncIterator[tuple[Slow, Server, list[Channel]]]:
    """Serve, and give ``count`` channels, which are as many connections."""
    service = Slow()
    async with AsyncExitStack() as stack:
        server = Server([service], listen=Endpoint(host="127.0.0.1", port=0), tls=None, limits=limits)
        await stack.enter_async_context(server)
        channels = [await stack.enter_async_context(open_channel(server.endpoint, tls=None)) for _ in range(count)]
        yield service, server, channels


def upload(channel: Channel) -> asyncio.Task[aggregator.SendLocalTaskResultsResponse]:
    async def chunks() -> AsyncIterator[DataStream]:
        for _ in range(3):
            yield DataStream(size=70_000, npbytes=bytes(70_000))

    return asyncio.create_task(_send(channel, chunks()))


async def _send(channel: Channel, chunks: AsyncIterator[DataStream]) -> aggregator.SendLocalTaskResultsResponse:
    return await aggregator.AggregatorStub(channel).send_local_task_results(chunks)


async def test_a_server_reads_so_many_at_once_and_the_others_wait() -> None:
    async with serving(Limits(max_uploads=2), 6) as (service, server, channels):
        uploads = [upload(channel) for channel in channels]
        await asyncio.wait_for(service.until_reading(2), 10)
        while server.statistics().calls < 6:
            await asyncio.sleep(0.01)
        assert service.most == 2
        service.go_on.set()
        await asyncio.wait_for(asyncio.gather(*uploads), 10)

    assert service.most == 2
    assert service.bytes == 6 * 210_000


async def test_a_connection_has_so_many_and_the_next_is_refused() -> None:
    async with serving(Limits(max_uploads_per_connection=2), 2) as (service, _, (one, two)):
        uploads = [upload(one) for _ in range(2)]
        await asyncio.wait_for(service.until_reading(2), 10)
        with pytest.raises(GRPCError, match="at most 2 uploads at once") as caught:
            await asyncio.wait_for(upload(one), 10)
        assert caught.value.status is Status.RESOURCE_EXHAUSTED
        uploads.append(upload(two))  # another connection has its own
        await asyncio.wait_for(service.until_reading(3), 10)
        service.go_on.set()
        await asyncio.wait_for(asyncio.gather(*uploads), 10)
        await asyncio.wait_for(upload(one), 10)  # there is room again


async def test_an_upload_that_is_given_up_while_it_waits_makes_room() -> None:
    async with serving(Limits(max_uploads=1), 3) as (service, server, (one, two, three)):
        first = upload(one)
        await asyncio.wait_for(service.until_reading(1), 10)
        second = upload(two)
        while server.statistics().calls < 2:
            await asyncio.sleep(0.01)
        second.cancel()
        while server.statistics().calls > 1:
            await asyncio.sleep(0.01)
        third = upload(three)
        service.go_on.set()
        await asyncio.wait_for(asyncio.gather(first, third), 10)

    assert service.most == 1


@pytest.mark.parametrize("size", [700, 70_000])
async def test_uploads_that_wait_do_not_starve_the_one_of_their_connection_whose_turn_it_is(size: int) -> None:
    async def slowly() -> AsyncIterator[DataStream]:
        for number in range(1_000_000 // size):
            yield DataStream(size=size, npbytes=bytes(size))
            await asyncio.sleep(0.002 if number % 8 == 0 else 0)

    async with serving(Limits(max_uploads=1, progress_seconds=2), 1) as (service, _, (one,)):
        service.go_on.set()
        await asyncio.wait_for(asyncio.gather(*(_send(one, slowly()) for _ in range(6))), 20)

    assert service.most == 1
    assert service.bytes == 6 * (1_000_000 // size) * size
