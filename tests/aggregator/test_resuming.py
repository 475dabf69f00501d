"""Uploads that are cut, over sockets and through a proxy: what arrived is not sent again."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openfl_aio.aggregator.client import AggregatorClient
from openfl_aio.aggregator.service import Aggregator
from openfl_aio.aggregator.servicer import AggregatorServicer
from openfl_aio.aggregator.uploads import Upload
from openfl_aio.config import AggregatorConfig, CollaboratorConfig, Endpoint, Limits, RetryPolicy, Timeouts, TLSConfig
from openfl_aio.domain import Header, Task, TaskKind, TensorQuery
from openfl_aio.errors import (
    AuthenticationError,
    ConnectionLostError,
    HeaderMismatchError,
    LocalProtocolError,
    MalformedStreamError,
    NotFoundError,
)
from openfl_aio.storage.journal import Entry
from openfl_aio.tensors.codec import TensorCodec
from openfl_aio.tensors.key import TensorKey
from openfl_aio.testing.ca import ThrowawayCA
from openfl_aio.transport.identity import Caller, as_caller
from openfl_aio.transport.metadata import as_request
from openfl_aio.wire import convert
from openfl_aio.wire.continuation import Continuation, new_upload_id
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
        assert sum(fed) > len(there.sent)  # what came before the cut is read twice


async def test_an_upload_that_was_forgotten_comes_as_a_whole(tmp_path: Path, fed: list[int]) -> None:
    async with site(tmp_path, fed, [(400_000, NEVER)], limits=Limits(suspended_seconds=0)) as there:
        await there.send()
        assert await there.kept() == [there.sent]
        assert sum(fed) > len(there.sent)  # what came before the cut is read twice


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


CHUNK = 9_999
SMALL = {"w": np.zeros(50_000, np.float32)}
SENT = [
    TensorCodec().encode(TensorKey.of("w", "one", 0, tags=("trained",)), np.arange(50_000, dtype=np.float32)),
    TensorCodec().encode(TensorKey.of("acc", "one", 0, report=True, tags=("metric", "trained")), np.array(0.5)),
]


@dataclass
class Call:
    """One call of an upload: after ``cut`` bytes it waits for more, and ends as ``how`` says."""

    cut: int
    how: str  # lost: the transport raises; cancelled: maybe within a write; dead: the server does not know; "": it is whole
    after: float = 0.0  # seconds, of a cancelled one
    waits: anyio.Event = field(default_factory=anyio.Event)

    async def chunks(self, data: bytes) -> AsyncIterator[DataStream]:
        data = data[: self.cut]
        for at in range(0, len(data), CHUNK):
            piece = data[at : at + CHUNK]
            yield DataStream(size=len(piece), npbytes=piece)
        self.waits.set()
        if self.how == "lost":
            raise OSError("as whatever a transport raises when its peer is gone")
        if self.how:
            await anyio.sleep_forever()


async def bring(service: Aggregator, calls: Sequence[Call]) -> list[int]:
    """Bring `SENT` in ``calls``, and what is left in another one; return where each began."""
    servicer, upload_id = AggregatorServicer(service.find), new_upload_id()
    header = Header("one", service.uuid, service.federation_uuid)
    parts = encode_task_results(header=header, round_number=0, task_name="train", data_size=2, tensors=SENT)
    data = b"".join(bytes(part) for part in parts)
    query = v1.UploadQuery(header=convert.header_to_proto(header), upload_id=upload_id)
    began: list[int] = []
    dead = []
    for call in [*calls, Call(NEVER, "")]:
        offset = (await servicer.get_offset(query)).bytes if began else 0
        began.append(offset)
        said = Continuation(upload_id, offset, header) if offset else Continuation(upload_id)
        with as_request(said.metadata()):
            sending = asyncio.ensure_future(servicer.send_local_task_results(call.chunks(data[offset:])))
        if call.how == "dead":
            await call.waits.wait()
            dead.append((call, sending))
            continue
        if call.how == "cancelled":
            await anyio.sleep(call.after)
            sending.cancel()
        with suppress(OSError, asyncio.CancelledError):
            await sending
    for call, sending in dead:
        if call.cut > 100:
            with anyio.fail_after(10), pytest.raises(ConnectionLostError):
                await sending
        else:  # nobody can know yet what the call brings
            sending.cancel()
            with suppress(ConnectionLostError, asyncio.CancelledError):
                await sending
    (entry,) = await service._journal.entries(service.federation_uuid, 0)
    assert payload(entry) == data
    entry.close()
    return began


CALLS = st.builds(
    Call,
    cut=st.integers(0, 210_000),
    how=st.sampled_from(["lost", "cancelled", "dead"]),
    after=st.sampled_from([0.0, 0.0005, 0.002]),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(CALLS, max_size=6))
def test_any_sequence_of_cuts_gives_the_same_bytes(calls: list[Call]) -> None:
    async def main(workspace: Path) -> None:
        config = AggregatorConfig(collaborators=("one", "two"), rounds=1, workspace=workspace)
        async with Aggregator(config, initial_model=SMALL) as service:
            with as_caller(Caller("one", authenticated=True)):
                began = await bring(service, calls)
            assert began == sorted(began), "nothing that was there is forgotten"
            assert len(service.suspended) == 0

    with tempfile.TemporaryDirectory() as folder:
        anyio.run(main, Path(folder))


async def test_a_cut_is_gone_on_with_at_the_byte(tmp_path: Path) -> None:
    config = AggregatorConfig(collaborators=("one", "two"), rounds=1, workspace=tmp_path)
    async with Aggregator(config, initial_model=SMALL) as service:
        with as_caller(Caller("one", authenticated=True)):
            calls = [Call(70_000, "lost"), Call(1, "lost"), Call(30_000, "dead"), Call(NEVER, "lost")]
            *began, whole = await bring(service, calls)
            assert began == [0, 70_000, 70_001, 100_001]
            assert whole > 200_000, "all of it had come, and only the end was missing"


@dataclass
class Cut:
    """An aggregator that has one suspended upload of the collaborator one."""

    service: Aggregator
    servicer: AggregatorServicer
    workspace: Path
    upload_id: str = field(default_factory=new_upload_id)

    @property
    def header(self) -> Header:
        return Header("one", self.service.uuid, self.service.federation_uuid)

    @property
    def data(self) -> bytes:
        parts = encode_task_results(header=self.header, round_number=0, task_name="train", data_size=2, tensors=SENT)
        return b"".join(bytes(part) for part in parts)

    async def send(self) -> None:
        await self.servicer.send_local_task_results(Call(NEVER, "").chunks(self.data))

    async def begin(self, upload_id: str | None = None) -> None:
        with (
            as_request(Continuation(upload_id or self.upload_id).metadata()),
            pytest.raises(OSError, match="peer is gone"),
        ):
            await self.servicer.send_local_task_results(Call(150_000, "lost").chunks(self.data))

    async def go_on(self, offset: int, header: Header | None = None, upload_id: str | None = None) -> None:
        said = Continuation(upload_id or self.upload_id, offset, header or self.header)
        with as_request(said.metadata()):
            await self.servicer.send_local_task_results(Call(10, "").chunks(bytes(10)))

    async def offset(self, header: Header | None = None) -> int:
        proto = convert.header_to_proto(header or self.header)
        return (await self.servicer.get_offset(v1.UploadQuery(header=proto, upload_id=self.upload_id))).bytes

    def files(self) -> list[Path]:
        return [path for path in (self.workspace / "journal").rglob("*") if path.is_file()]


@pytest.fixture
async def cut(tmp_path: Path) -> AsyncIterator[Cut]:
    config = AggregatorConfig(collaborators=("one", "two"), rounds=1, workspace=tmp_path)
    async with Aggregator(config, initial_model=SMALL) as service:
        there = Cut(service, AggregatorServicer(service.find), tmp_path)
        with as_caller(Caller("one", authenticated=True)):
            await there.begin()
        yield there


async def test_who_may_go_on_with_an_upload(cut: Cut) -> None:
    other = Header("one", cut.service.uuid, "another")
    two = Header("two", cut.service.uuid, cut.service.federation_uuid)
    with as_caller(Caller("two", authenticated=True)):
        for call in (cut.go_on(150_000), cut.offset()):
            with pytest.raises(AuthenticationError):
                await call
        assert await cut.offset(two) == 0
        with pytest.raises(NotFoundError, match="send it as a whole"):
            await cut.go_on(150_000, two)
    with as_caller(Caller("one", authenticated=True)):
        for call in (cut.go_on(150_000, other), cut.offset(other)):
            with pytest.raises(HeaderMismatchError):
                await call
        with pytest.raises(NotFoundError, match="send it as a whole"):
            await cut.go_on(150_000, upload_id=new_upload_id())
        for offset in (1, 149_999, 150_001, 2**62):
            with pytest.raises(MalformedStreamError, match="go on at 150000 bytes"):
                await cut.go_on(offset)
        assert await cut.offset() == 150_000, "nothing of all that did any harm"


async def test_a_rest_that_is_no_upload_is_refused_like_any_other(cut: Cut) -> None:
    with as_caller(Caller("one", authenticated=True)):
        with pytest.raises(MalformedStreamError, match="the stream ended after 150010 bytes"):
            await cut.go_on(150_000)
        assert await cut.offset() == 0
    assert cut.files() == []


async def test_a_new_whole_upload_of_the_same_name_ends_the_old(cut: Cut) -> None:
    with as_caller(Caller("one", authenticated=True)):
        await cut.begin()
        assert await cut.offset() == 150_000
    assert len(cut.files()) == 1


async def test_one_who_suspends_many_has_as_many_as_tasks(cut: Cut) -> None:
    with as_caller(Caller("one", authenticated=True)):
        for _ in range(20):
            await cut.begin(new_upload_id())
    tasks = len(cut.service.config.tasks)
    assert len(cut.service.suspended) == tasks
    while len(cut.files()) > tasks:  # they go in the background
        await anyio.sleep(0.01)
    assert cut.service.suspended.nbytes == tasks * 150_000


async def test_nothing_is_left_when_the_aggregator_stops(tmp_path: Path) -> None:
    config = AggregatorConfig(collaborators=("one", "two"), rounds=1, workspace=tmp_path)
    async with Aggregator(config, initial_model=SMALL) as service:
        there = Cut(service, AggregatorServicer(service.find), tmp_path)
        with as_caller(Caller("one", authenticated=True)):
            await there.begin()
        assert len(there.files()) == 1
    assert there.files() == []


async def test_nothing_is_suspended_in_memory(tmp_path: Path) -> None:
    config = AggregatorConfig(collaborators=("one", "two"), rounds=1, durability="memory")
    async with Aggregator(config, initial_model=SMALL) as service:
        there = Cut(service, AggregatorServicer(service.find), tmp_path)
        with as_caller(Caller("one", authenticated=True)):
            await there.begin()
            assert await there.offset() == 0


async def test_a_round_that_closes_lets_go_of_what_would_be_late(tmp_path: Path) -> None:
    tasks = (Task("train", "train", TaskKind.TRAIN, apply_local=False),)
    config = AggregatorConfig(collaborators=("one",), rounds=2, workspace=tmp_path, tasks=tasks)
    async with Aggregator(config, initial_model=SMALL) as service:
        there = Cut(service, AggregatorServicer(service.find), tmp_path)
        with as_caller(Caller("one", authenticated=True)):
            await there.begin()
            assert len(service.suspended) == 1
            await there.send()
            await service.get_aggregated_tensor("one", TensorQuery("w", 1, tags=("model",)))
            assert (service.round_number, len(service.suspended)) == (1, 0)


async def test_a_suspended_upload_takes_nobodys_turn(tmp_path: Path, fed: list[int]) -> None:
    """Neither a place among those that are read at once nor room to receive."""
    limits = Limits(max_uploads=1, max_uploads_per_connection=1, max_receiving_bytes=1)
    async with site(tmp_path, fed, [(400_000, NEVER)], limits=limits) as there:
        await there.send()
        assert (sum(fed), await there.kept()) == (len(there.sent), [there.sent])
