"""Uploads that are cut, over sockets and through a proxy: what arrived is not sent again."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import numpy as np
import pytest

from openfl_aio.aggregator.client import AggregatorClient
from openfl_aio.aggregator.service import Aggregator
from openfl_aio.aggregator.servicer import AggregatorServicer
from openfl_aio.aggregator.uploads import Upload
from openfl_aio.config import AggregatorConfig, CollaboratorConfig, Endpoint, Limits, RetryPolicy, Timeouts, TLSConfig
from openfl_aio.errors import ConnectionLostError, LocalProtocolError
from openfl_aio.storage.journal import Entry
from openfl_aio.tensors.codec import TensorCodec
from openfl_aio.tensors.key import TensorKey
from openfl_aio.testing.ca import ThrowawayCA
from openfl_aio.wire.incremental import encode_task_results
from openfl_aio.wire.messages import DataStream, aggregator, v1

pytestmark = pytest.mark.real_time

MODEL = {"a": np.ones(300_000, np.float32), "b": np.ones(100_000, np.float32)}
RESULTS = [
    TensorCodec().encode(TensorKey.of(name, "one", 0, tags=("trained",)), np.arange(base.size, dtype=np.float32) % 1000)
    for name, base in MODEL.items()
]
NEVER = 2**62


@dataclass
class Proxy:
    """Passes bytes on, and cuts the connection number n after ``cuts[n]`` of them (up, down); later ones are not cut."""

    target: Endpoint
    cuts: Sequence[tuple[int, int]]
    up: list[int] = field(default_factory=list)  # bytes that each connection brought to the server

    async def handle(self, client: anyio.abc.SocketStream) -> None:
        number = len(self.up)
        self.up.append(0)
        most = self.cuts[number] if number < len(self.cuts) else (NEVER, NEVER)
        server = await anyio.connect_tcp(self.target.host, self.target.port)
        async with client, server, anyio.create_task_group() as group:

            async def pump(source: anyio.abc.SocketStream, sink: anyio.abc.SocketStream, side: int) -> None:
                left = most[side]
                try:
                    while left > 0:
                        data = await source.receive(min(left, 65536))
                        await sink.send(data)
                        left -= len(data)
                        if side == 0:
                            self.up[number] += len(data)
                except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                    pass
                if side == 0:
                    await sink.send_eof()  # what is on the way arrives, unlike with a reset
                    await anyio.sleep(0.05)
                group.cancel_scope.cancel()

            group.start_soon(pump, client, server, 0)
            group.start_soon(pump, server, client, 1)


@asynccontextmanager
async def through(target: Endpoint, cuts: Sequence[tuple[int, int]]) -> AsyncIterator[tuple[Proxy, Endpoint]]:
    proxy = Proxy(target, cuts)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, proxy.handle)
        yield proxy, Endpoint(port=listener.extra(anyio.abc.SocketAttribute.local_port))
        group.cancel_scope.cancel()


@dataclass
class Site:
    """An aggregator behind a proxy, a client, and what was fed to the aggregator's uploads."""

    service: Aggregator
    proxy: Proxy
    client: AggregatorClient
    fed: list[int]

    async def send(self, task: str = "train") -> None:
        await self.client.send_local_task_results(round_number=0, task_name=task, data_size=2, tensors=RESULTS)

    @property
    def sent(self) -> bytes:
        return b"".join(
            bytes(part)
            for part in encode_task_results(
                header=self.client._header, round_number=0, task_name="train", data_size=2, tensors=RESULTS
            )
        )

    async def kept(self) -> list[bytes]:
        entries = await self.service._journal.entries(self.service.federation_uuid, 0)
        try:
            return [payload(entry) for entry in entries]
        finally:
            for entry in entries:
                entry.close()


def payload(entry: Entry) -> bytes:
    return bytes(entry._data)


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The length of each piece that was fed to an upload."""
    pieces: list[int] = []
    write = Upload._write

    async def counting(upload: Upload, data: Any) -> None:
        await write(upload, data)
        pieces.append(len(data))

    monkeypatch.setattr(Upload, "_write", counting)
    return pieces


@pytest.fixture
def offsets(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the aggregator answered to those who asked where to go on."""
    answers: list[int] = []
    get_offset = AggregatorServicer.get_offset

    async def noting(servicer: AggregatorServicer, message: v1.UploadQuery) -> v1.UploadOffset:
        answer = await get_offset(servicer, message)
        answers.append(answer.bytes)
        return answer

    monkeypatch.setattr(AggregatorServicer, "get_offset", noting)
    return answers


@pytest.fixture
def certificates(tmp_path: Path) -> dict[str, TLSConfig]:
    ca = ThrowawayCA(tmp_path / "cert")
    return {"server": ca.server(), "one": ca.client("one")}


@asynccontextmanager
async def site(
    workspace: Path,
    fed: list[int],
    cuts: Sequence[tuple[int, int]],
    tls: dict[str, TLSConfig] | None = None,
    limits: Limits | None = None,
    **more: Any,
) -> AsyncIterator[Site]:
    tls = tls or {}
    config = AggregatorConfig(
        collaborators=("one", "two"),
        rounds=1,
        listen=Endpoint(),
        tls=tls.get("server"),
        timeouts=Timeouts(drain=1),
        workspace=workspace,
        limits=limits or Limits(),
        **more,
    )
    async with (
        Aggregator(config, initial_model=MODEL) as service,
        through(service.endpoint, cuts) as (proxy, endpoint),
        AggregatorClient(
            CollaboratorConfig(
                name="one",
                aggregator_uuid=service.uuid,
                federation_uuid=service.federation_uuid,
                endpoint=endpoint,
                tls=tls.get("one"),
                limits=Limits(chunk_bytes=16 * 1024),
                retry=RetryPolicy(first_delay=0.01, max_delay=0.05, max_elapsed=30),
            )
        ) as client,
    ):
        yield Site(service, proxy, client, fed)


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("seed", range(3))
async def test_what_arrived_is_not_sent_again(
    tmp_path: Path, certificates: dict[str, TLSConfig], fed: list[int], offsets: list[int], secure: bool, seed: int
) -> None:
    draw = random.Random(seed)
    cuts = [(draw.randrange(200_000, 500_000), NEVER) for _ in range(draw.randint(1, 4))]
    async with site(tmp_path / "workspace", fed, cuts, certificates if secure else None) as there:
        await there.send()
        assert await there.kept() == [there.sent]
        assert sum(fed) == len(there.sent), "each byte counted once"
        assert len(there.proxy.up) == len(cuts) + 1
        assert offsets[0] > 0
        assert sorted(set(offsets)) == offsets
        assert len(offsets) == len(cuts)
        for offset, sent in zip(offsets, there.proxy.up[1:], strict=True):
            assert sent < 1.02 * (len(there.sent) - offset) + 10_000, "the rest, in frames and TLS records"
        assert len(there.service.suspended) == 0


async def test_nothing_is_sent_again_when_only_the_reply_was_lost(
    tmp_path: Path, fed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = AggregatorServicer.send_local_task_results
    calls: list[int] = []

    async def losing(servicer: AggregatorServicer, messages: AsyncIterator[DataStream]) -> Any:
        calls.append(1)
        await answer(servicer, messages)
        raise ConnectionLostError("as a client sees a reply that does not come")

    monkeypatch.setattr(AggregatorServicer, "send_local_task_results", losing)
    async with site(tmp_path, fed, []) as there:
        await there.send()
        assert (len(calls), sum(fed), await there.kept()) == (1, len(there.sent), [there.sent])


async def test_a_server_that_has_no_such_service_gets_all_of_it_again(
    tmp_path: Path, fed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As OpenFL's own, which does not know the question."""
    monkeypatch.setattr(AggregatorServicer, "__mapping__", aggregator.AggregatorBase.__mapping__)
    async with site(tmp_path, fed, [(400_000, NEVER)]) as there:
        await there.send()
        assert await there.kept() == [there.sent]
        assert sum(fed) > len(there.sent) + 200_000


async def test_an_upload_that_was_forgotten_comes_as_a_whole(tmp_path: Path, fed: list[int]) -> None:
    async with site(tmp_path, fed, [(400_000, NEVER)], limits=Limits(suspended_seconds=0)) as there:
        await there.send()
        assert await there.kept() == [there.sent]
        assert sum(fed) > len(there.sent) + 200_000


async def test_a_rest_that_does_not_fit_is_refused_and_the_whole_sent(
    tmp_path: Path, fed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    resume = AggregatorServicer.get_offset

    async def lying(servicer: AggregatorServicer, message: v1.UploadQuery) -> v1.UploadOffset:
        answer = await resume(servicer, message)
        answer.bytes += 1
        return answer

    monkeypatch.setattr(AggregatorServicer, "get_offset", lying)
    async with site(tmp_path, fed, [(400_000, NEVER)]) as there:
        await there.send()
        assert await there.kept() == [there.sent]
        assert len(there.service.suspended) == 1, "the one that nobody asks for any more"


async def test_a_refused_upload_is_not_kept(tmp_path: Path, fed: list[int]) -> None:
    async with site(tmp_path, fed, []) as there:
        with pytest.raises(LocalProtocolError):
            await there.client.send_local_task_results(round_number=0, task_name="train", data_size=0, tensors=RESULTS)
        assert (len(there.service.suspended), await there.kept()) == (0, [])
