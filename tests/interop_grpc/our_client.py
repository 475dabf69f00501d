"""The cases with our channel as the client."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import anyio
import pytest
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

from openfl_aio.errors import MalformedMessageError
from openfl_aio.transport.channel import Channel
from tests.interop_grpc import stubs
from tests.interop_grpc.peers.shared import (
    BINARY,
    BULK,
    MUCH,
    PING,
    ROUND,
    SPECIAL,
    TEXT,
    Crc,
    as_pairs,
    churn,
    pattern,
)

testing: Any = stubs.testing()
probe: Any = stubs.probe()

CASES: dict[str, Callable[[Peer], Awaitable[Any]]] = {}
SECONDS = 20.0
MIB = 1024 * 1024
TEST, PROBE = "/grpc.testing.TestService/", "/interop.Probe/"


class Peer:
    """One channel and its stubs."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.test: Any = testing.TestServiceStub(channel, timeout=SECONDS)
        self.unimplemented: Any = testing.UnimplementedServiceStub(channel, timeout=SECONDS)
        self.probe: Any = probe.ProbeStub(channel, timeout=SECONDS)

    def duplex(self, *, timeout: float = SECONDS, metadata: Any = None) -> Any:
        """Return a call of both directions that is not begun yet."""
        return self.channel.request(
            f"{TEST}FullDuplexCall",
            Cardinality.STREAM_STREAM,
            testing.StreamingOutputCallRequest,
            testing.StreamingOutputCallResponse,
            timeout=timeout,
            metadata=metadata,
        )

    async def until_running(self, key: str) -> None:
        """Return once the server has begun with the call ``key``."""
        while (await self.probe.observe(probe.ObserveRequest(key=key, at_once=True))).state == "absent":
            await anyio.sleep(0.01)


def case(function: Callable[[Peer], Awaitable[Any]]) -> Callable[[Peer], Awaitable[Any]]:
    """Offer ``function`` under its name."""
    CASES[function.__name__] = function
    return function


async def ending(call: Awaitable[Any]) -> tuple[str, str]:
    """Return the name of the status that ``call`` ends with, or REFUSED for an answer we do not take, and the text."""
    try:
        await call
    except GRPCError as exc:
        return exc.status.name, exc.message or ""
    except MalformedMessageError as exc:
        return "REFUSED", str(exc)
    return "OK", ""


async def status(call: Awaitable[Any]) -> str:
    """Return the name of the status that ``call`` ends with."""
    return (await ending(call))[0]


async def everything(call: AsyncIterator[Any]) -> list[Any]:
    """Return every message of ``call``."""
    return [message async for message in call]


async def at_once(*calls: Awaitable[Any]) -> list[Any]:
    """Return the results of ``calls``, made at the same time."""
    results: dict[int, Any] = {}

    async def run(number: int, call: Awaitable[Any]) -> None:
        results[number] = await call

    async with anyio.create_task_group() as group:
        for number, call in enumerate(calls):
            group.start_soon(run, number, call)
    return [results[number] for number in range(len(calls))]


def large(**more: Any) -> Any:
    """Return the request of the large unary cases."""
    return testing.SimpleRequest(response_size=314159, payload=testing.Payload(body=bytes(271828)), **more)


def outputs(*sizes: int) -> list[Any]:
    """Return what a request says to be answered with bodies of these sizes."""
    return [testing.ResponseParameters(size=size) for size in sizes]


def ping(wanted: int, sent: int) -> Any:
    """Return one request of the ping-pong case."""
    return testing.StreamingOutputCallRequest(
        response_parameters=outputs(wanted), payload=testing.Payload(body=bytes(sent))
    )


@case
async def empty_unary(peer: Peer) -> None:
    assert await peer.test.empty_call(testing.Empty()) == testing.Empty()


@case
async def large_unary(peer: Peer) -> None:
    assert (await peer.test.unary_call(large())).payload.body == bytes(314159)


@case
async def server_compressed_unary(peer: Peer) -> list[str]:
    """Return how the call ends whose answer may be compressed, and the other one."""

    async def call(wanted: bool) -> None:
        answer = await peer.test.unary_call(large(response_compressed=testing.BoolValue(value=wanted)))
        assert answer.payload.body == bytes(314159)

    return [await status(call(True)), await status(call(False))]


@case
async def client_streaming(peer: Peer) -> None:
    requests = [
        testing.StreamingInputCallRequest(payload=testing.Payload(body=bytes(size))) for size in (27182, 8, 1828, 45904)
    ]
    assert (await peer.test.streaming_input_call(requests)).aggregated_payload_size == 74922


@case
async def server_streaming(peer: Peer) -> None:
    sizes = [31415, 9, 2653, 58979]
    request = testing.StreamingOutputCallRequest(response_parameters=outputs(*sizes))
    answers = await everything(peer.test.streaming_output_call(request))
    assert [bytes(answer.payload.body) for answer in answers] == [bytes(size) for size in sizes]


@case
async def server_compressed_streaming(peer: Peer) -> list[str]:
    """Return how the call ends whose first answer may be compressed, and one without such an answer."""

    async def call(first: bool) -> None:
        wanted = outputs(31415, 92653)
        wanted[0].compressed, wanted[1].compressed = testing.BoolValue(value=first), testing.BoolValue(value=False)
        request = testing.StreamingOutputCallRequest(response_parameters=wanted)
        answers = await everything(peer.test.streaming_output_call(request))
        assert [bytes(answer.payload.body) for answer in answers] == [bytes(31415), bytes(92653)]

    return [await status(call(True)), await status(call(False))]


@case
async def ping_pong(peer: Peer) -> None:
    async with peer.duplex() as call:
        await call.send_request()
        for wanted, sent in PING:
            await call.send_message(ping(wanted, sent))
            assert len((await call.recv_message()).payload.body) == wanted
        await call.end()
        assert await call.recv_message() is None


@case
async def half_duplex(peer: Peer) -> None:
    answers = await everything(peer.test.half_duplex_call(ping(*pair) for pair in PING))
    assert [len(answer.payload.body) for answer in answers] == [wanted for wanted, _ in PING]


@case
async def empty_stream(peer: Peer) -> None:
    assert await everything(peer.test.full_duplex_call([])) == []


async def with_metadata(call: Any, request: Any) -> tuple[Any, list[Any], list[Any]]:
    """Return the only answer of ``call``, and its initial and trailing metadata."""
    async with call:
        await call.send_message(request, end=True)
        answer = await call.recv_message()
        await call.recv_trailing_metadata()
        return answer, list(call.initial_metadata.items()), list(call.trailing_metadata.items())


@case
async def custom_metadata(peer: Peer) -> None:
    unary = peer.channel.request(
        f"{TEST}UnaryCall",
        Cardinality.UNARY_UNARY,
        testing.SimpleRequest,
        testing.SimpleResponse,
        timeout=SECONDS,
        metadata=[TEXT, BINARY],
    )
    duplex = peer.duplex(metadata=[TEXT, BINARY])
    for call, request in ((unary, large()), (duplex, ping(314159, 271828))):
        answer, initial, trailing = await with_metadata(call, request)
        assert len(answer.payload.body) == 314159
        assert TEXT in initial
        assert BINARY in trailing


async def check_metadata(peer: Peer, metadata: Any) -> None:
    """Assert that ``metadata`` goes up, and down as initial and as trailing metadata."""
    call = peer.channel.request(
        f"{PROBE}EchoMetadata",
        Cardinality.UNARY_UNARY,
        probe.MetadataRequest,
        probe.MetadataResponse,
        timeout=SECONDS,
        metadata=metadata,
    )
    answer, initial, trailing = await with_metadata(call, probe.MetadataRequest())
    wanted = as_pairs(metadata)
    assert [(pair.key, bytes(pair.value)) for pair in answer.pairs] == wanted
    assert as_pairs(initial) == wanted
    assert as_pairs(trailing) == wanted


@case
async def metadata_round_trip(peer: Peer) -> None:
    """Many values, those of one key in order, any byte in binary ones."""
    await check_metadata(peer, ROUND)


@case
async def metadata_churn(peer: Peer) -> None:
    """More headers than either side's table holds, on one connection."""
    await at_once(*[check_metadata(peer, churn(number)) for number in range(150)])


@case
async def metadata_over_limit(peer: Peer) -> list[str]:
    """Return how calls end with much metadata, with too much, and without any."""
    return [await status(peer.probe.park(probe.ParkRequest(key="m"), metadata=metadata)) for metadata in MUCH]


async def check_status(peer: Peer, message: str) -> None:
    """Assert that code and text come as they were sent, in a unary call and in a stream."""
    wanted = testing.EchoStatus(code=2, message=message)
    unary = peer.test.unary_call(testing.SimpleRequest(response_status=wanted))
    assert await ending(unary) == ("UNKNOWN", message)
    duplex = peer.test.full_duplex_call([testing.StreamingOutputCallRequest(response_status=wanted)])
    assert await ending(everything(duplex)) == ("UNKNOWN", message)


@case
async def status_code_and_message(peer: Peer) -> None:
    await check_status(peer, "test status message")


@case
async def special_status_message(peer: Peer) -> None:
    await check_status(peer, SPECIAL)


@case
async def every_status(peer: Peer) -> None:
    """Each code arrives as it was sent."""
    requests = [testing.SimpleRequest(response_status=testing.EchoStatus(code=code)) for code in range(1, 17)]
    got = await at_once(*[status(peer.test.unary_call(request)) for request in requests])
    assert got == [Status(code).name for code in range(1, 17)]


@case
async def unimplemented_method(peer: Peer) -> None:
    assert await status(peer.test.unimplemented_call(testing.Empty())) == "UNIMPLEMENTED"


@case
async def unimplemented_service(peer: Peer) -> None:
    assert await status(peer.unimplemented.unimplemented_call(testing.Empty())) == "UNIMPLEMENTED"


@case
async def cancel_after_begin(peer: Peer) -> None:
    call = peer.channel.request(
        f"{TEST}StreamingInputCall",
        Cardinality.STREAM_UNARY,
        testing.StreamingInputCallRequest,
        testing.StreamingInputCallResponse,
        timeout=SECONDS,
    )
    async with call:
        await call.send_request()
        await call.cancel()
    await empty_unary(peer)


@case
async def cancel_after_first_response(peer: Peer) -> None:
    async with peer.duplex() as call:
        await call.send_request()
        await call.send_message(ping(31415, 27182))
        assert len((await call.recv_message()).payload.body) == 31415
        await call.cancel()
    await empty_unary(peer)


@case
async def cancel_reaches_the_server(peer: Peer) -> None:
    """A task that is cancelled takes its call with it."""
    key = uuid.uuid4().hex
    async with anyio.create_task_group() as group:
        group.start_soon(peer.probe.park, probe.ParkRequest(key=key, milliseconds=15_000))
        await peer.until_running(key)
        group.cancel_scope.cancel()
    assert (await peer.probe.observe(probe.ObserveRequest(key=key))).state == "cancelled"


@case
async def server_gives_up(peer: Peer) -> None:
    """As trailers with the status, or as a reset: grpcio's servers do the one, ours the other."""
    with pytest.raises((GRPCError, StreamTerminatedError)) as caught:
        await peer.probe.give_up(probe.ParkRequest(key="x"))
    if isinstance(caught.value, GRPCError):
        assert caught.value.status is Status.CANCELLED
    await empty_unary(peer)


@case
async def timeout_on_sleeping_server(peer: Peer) -> None:
    async def exchange() -> None:
        async with peer.duplex(timeout=0.001) as call:
            await call.send_message(testing.StreamingOutputCallRequest(payload=testing.Payload(body=bytes(27182))))
            await call.recv_message()

    # either this side's clock ends the call, or the server's answer does
    with pytest.raises((TimeoutError, GRPCError)) as caught:
        await exchange()
    if isinstance(caught.value, GRPCError):
        assert caught.value.status is Status.DEADLINE_EXCEEDED
    await empty_unary(peer)


@case
async def deadline_reaches_the_server(peer: Peer) -> None:
    """The server knows the deadline and ends the call at it."""
    key = uuid.uuid4().hex
    await empty_unary(peer)  # connected, so that the whole time is the call's
    started = time.monotonic()
    with pytest.raises((TimeoutError, GRPCError)) as caught:
        await peer.probe.park(probe.ParkRequest(key=key, milliseconds=15_000), timeout=0.5)
    if isinstance(caught.value, GRPCError):
        assert caught.value.status is Status.DEADLINE_EXCEEDED
    assert 0.4 < time.monotonic() - started < 3
    seen = await peer.probe.observe(probe.ObserveRequest(key=key))
    assert seen.state == "cancelled"
    assert 0.05 < seen.seconds_left < 0.7


@case
async def concurrent_large_unary(peer: Peer) -> None:
    """A hundred on one channel."""
    answers = await at_once(*[peer.test.unary_call(large()) for _ in range(100)])
    assert all(answer.payload.body == bytes(314159) for answer in answers)


@case
async def more_calls_than_streams(peer: Peer) -> None:
    """Calls beyond the server's limit of streams wait for their turn."""
    requests = [probe.ParkRequest(key="many", milliseconds=number % 7) for number in range(1000)]
    answers = await at_once(*[peer.probe.park(request) for request in requests])
    assert answers == [probe.ParkResponse()] * 1000


async def upload(peer: Peer, chunks: int, size: int) -> None:
    crc = Crc()

    def requests() -> Any:
        for number in range(chunks):
            body = pattern(number, size)
            crc.add(body)
            yield probe.Chunk(body=body)

    digest = await peer.probe.upload(requests())
    assert (digest.size, digest.crc32) == (chunks * size, crc.crc32)


async def download(peer: Peer, chunks: int, size: int) -> None:
    request = probe.DownloadRequest(chunks=chunks, size=size, seed=7)
    number = 0
    async for chunk in peer.probe.download(request):
        assert chunk.body == pattern(7 + number, size)
        number += 1
    assert number == chunks


@case
async def bulk(peer: Peer) -> None:
    """Every byte of streams of many windows arrives, in messages below, at and above a frame, both ways at once."""
    await at_once(*[way(peer, chunks, size) for way in (upload, download) for chunks, size in BULK])


@case
async def cancel_midway(peer: Peer) -> None:
    """Streams that end in the middle of their bytes take nothing of the connection's window with them."""

    def chunks() -> Any:
        while True:
            yield probe.Chunk(body=bytes(300_000))

    for number in range(24):
        async with aclosing(
            peer.probe.download(probe.DownloadRequest(chunks=16, size=MIB // 4, seed=number))
        ) as bodies:
            assert (await anext(bodies)).body == pattern(number, MIB // 4)
        with anyio.move_on_after(0.01):
            await peer.probe.upload(chunks())
    await download(peer, 4, 4 * MIB)
    await upload(peer, 16, MIB)


@case
async def small_answers(peer: Peer) -> None:
    """Thousands of messages of few bytes, each of which may cost a WINDOW_UPDATE, are no abuse."""
    await download(peer, 5000, 10)


@case
async def huge_messages(peer: Peer) -> None:
    """64 MiB in one message, up and down."""
    await upload(peer, 1, 64 * MIB)
    await download(peer, 1, 64 * MIB)


@case
async def message_over_limit(peer: Peer) -> list[str]:
    """Return how a message of 8 MiB ends, and a call after it."""
    request = testing.SimpleRequest(payload=testing.Payload(body=bytes(8 * MIB)))
    return [await status(peer.test.unary_call(request)), await status(peer.test.empty_call(testing.Empty()))]
