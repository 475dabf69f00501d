"""grpc.aio's client: runs one case for each line of JSON on standard input and prints how it went."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import time
import traceback
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from tests.interop_grpc.peers.common import UNLIMITED, arguments, grpc, say
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

OPTIONS = arguments(__doc__)
aio: Any = importlib.import_module("grpc.aio")
messages: Any = importlib.import_module("testing.messages_pb2")
empty: Any = importlib.import_module("testing.empty_pb2")
services: Any = importlib.import_module("testing.test_pb2_grpc")
probe: Any = importlib.import_module("probe_pb2")
probes: Any = importlib.import_module("probe_pb2_grpc")

CASES: dict[str, Callable[[Any], Awaitable[Any]]] = {}
SECONDS = 20.0
MIB = 1024 * 1024


class Peer:
    """One channel and its stubs."""

    def __init__(self, target: str, tls: bool) -> None:
        options = [*UNLIMITED, ("grpc.use_local_subchannel_pool", 1)]
        if tls:
            credentials = grpc.ssl_channel_credentials(
                OPTIONS.ca.read_bytes(), OPTIONS.key.read_bytes(), OPTIONS.certificate.read_bytes()
            )
            self.channel = aio.secure_channel(target, credentials, options=options)
        else:
            self.channel = aio.insecure_channel(target, options=options)
        self.test = services.TestServiceStub(self.channel)
        self.unimplemented = services.UnimplementedServiceStub(self.channel)
        self.probe = probes.ProbeStub(self.channel)

    async def observe(self, key: str) -> Any:
        """Return what the server noticed of the call ``key``, once it is over."""
        return await self.probe.Observe(probe.ObserveRequest(key=key), timeout=SECONDS)

    async def until_running(self, key: str) -> None:
        """Return once the server has begun with the call ``key``."""
        request = probe.ObserveRequest(key=key, at_once=True)
        while (await self.probe.Observe(request, timeout=SECONDS)).state == "absent":
            await asyncio.sleep(0.01)


def case(function: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
    """Offer ``function`` under its name."""
    CASES[function.__name__] = function
    return function


async def ending(call: Awaitable[Any]) -> tuple[str, str]:
    """Return the name of the status that ``call`` ends with, and its text."""
    try:
        await call
    except grpc.RpcError as exc:
        return str(exc.code().name), str(exc.details())
    except asyncio.CancelledError:  # how this API says that this side cancelled
        return "CANCELLED", ""
    return "OK", ""


async def status(call: Awaitable[Any]) -> str:
    """Return the name of the status that ``call`` ends with."""
    return (await ending(call))[0]


async def everything(call: AsyncIterator[Any]) -> list[Any]:
    """Return every message of ``call``."""
    return [message async for message in call]


def large(**more: Any) -> Any:
    """Return the request of the large unary cases."""
    return messages.SimpleRequest(response_size=314159, payload=messages.Payload(body=bytes(271828)), **more)


def outputs(*sizes: int) -> list[Any]:
    """Return what a request says to be answered with bodies of these sizes."""
    return [messages.ResponseParameters(size=size) for size in sizes]


def ping(wanted: int, sent: int) -> Any:
    """Return one request of the ping-pong case."""
    return messages.StreamingOutputCallRequest(
        response_parameters=outputs(wanted), payload=messages.Payload(body=bytes(sent))
    )


@case
async def empty_unary(peer: Peer) -> None:
    assert await peer.test.EmptyCall(empty.Empty(), timeout=SECONDS) == empty.Empty()


@case
async def large_unary(peer: Peer) -> None:
    assert (await peer.test.UnaryCall(large(), timeout=SECONDS)).payload.body == bytes(314159)


@case
async def client_compressed_unary(peer: Peer) -> list[str]:
    """Return how the probe, the compressed and the plain call end."""
    expected, unexpected = messages.BoolValue(value=True), messages.BoolValue(value=False)
    gzip = grpc.Compression.Gzip
    call = peer.test.UnaryCall
    return [
        await status(call(large(expect_compressed=expected), timeout=SECONDS)),
        await status(call(large(expect_compressed=expected), timeout=SECONDS, compression=gzip)),
        await status(call(large(expect_compressed=unexpected), timeout=SECONDS)),
    ]


@case
async def server_compressed_unary(peer: Peer) -> None:
    for wanted in (True, False):
        request = large(response_compressed=messages.BoolValue(value=wanted))
        assert (await peer.test.UnaryCall(request, timeout=SECONDS)).payload.body == bytes(314159)


async def inputs(*sizes: int, **more: Any) -> AsyncIterator[Any]:
    """Return the requests of the client streaming cases."""
    for size in sizes:
        yield messages.StreamingInputCallRequest(payload=messages.Payload(body=bytes(size)), **more)


@case
async def client_streaming(peer: Peer) -> None:
    answer = await peer.test.StreamingInputCall(inputs(27182, 8, 1828, 45904), timeout=SECONDS)
    assert answer.aggregated_payload_size == 74922


@case
async def client_compressed_streaming(peer: Peer) -> list[str]:
    """Return how the probe, the compressed and the plain call end."""
    expected, unexpected = messages.BoolValue(value=True), messages.BoolValue(value=False)
    gzip = grpc.Compression.Gzip
    call = peer.test.StreamingInputCall
    return [
        await status(call(inputs(27182, expect_compressed=expected), timeout=SECONDS)),
        await status(call(inputs(27182, 45904, expect_compressed=expected), timeout=SECONDS, compression=gzip)),
        await status(call(inputs(27182, 45904, expect_compressed=unexpected), timeout=SECONDS)),
    ]


@case
async def server_streaming(peer: Peer) -> None:
    sizes = [31415, 9, 2653, 58979]
    request = messages.StreamingOutputCallRequest(response_parameters=outputs(*sizes))
    answers = await everything(peer.test.StreamingOutputCall(request, timeout=SECONDS))
    assert [answer.payload.body for answer in answers] == [bytes(size) for size in sizes]


@case
async def server_compressed_streaming(peer: Peer) -> None:
    wanted = outputs(31415, 92653)
    wanted[0].compressed.value, wanted[1].compressed.value = True, False
    request = messages.StreamingOutputCallRequest(response_parameters=wanted)
    answers = await everything(peer.test.StreamingOutputCall(request, timeout=SECONDS))
    assert [answer.payload.body for answer in answers] == [bytes(31415), bytes(92653)]


@case
async def ping_pong(peer: Peer) -> None:
    call = peer.test.FullDuplexCall(timeout=SECONDS)
    for wanted, sent in PING:
        await call.write(ping(wanted, sent))
        assert len((await call.read()).payload.body) == wanted
    await call.done_writing()
    assert await call.read() is aio.EOF
    assert await call.code() is grpc.StatusCode.OK


@case
async def half_duplex(peer: Peer) -> None:
    answers = await everything(peer.test.HalfDuplexCall((ping(*pair) for pair in PING), timeout=SECONDS))
    assert [len(answer.payload.body) for answer in answers] == [wanted for wanted, _ in PING]


@case
async def empty_stream(peer: Peer) -> None:
    call = peer.test.FullDuplexCall(timeout=SECONDS)
    await call.done_writing()
    assert await call.read() is aio.EOF
    assert await call.code() is grpc.StatusCode.OK


@case
async def custom_metadata(peer: Peer) -> None:
    sent = (TEXT, BINARY)
    unary = peer.test.UnaryCall(large(), metadata=sent, timeout=SECONDS)
    duplex = peer.test.FullDuplexCall(iter([ping(314159, 271828)]), metadata=sent, timeout=SECONDS)
    answers = [await unary, *await everything(duplex)]
    assert [len(answer.payload.body) for answer in answers] == [314159] * 2
    for call in (unary, duplex):
        assert TEXT in list(await call.initial_metadata())
        assert BINARY in list(await call.trailing_metadata())


async def check_metadata(peer: Peer, metadata: Any) -> None:
    """Assert that ``metadata`` goes up, and down as initial and as trailing metadata."""
    call = peer.probe.EchoMetadata(probe.MetadataRequest(), metadata=metadata, timeout=SECONDS)
    wanted = as_pairs(metadata)
    assert [(pair.key, pair.value) for pair in (await call).pairs] == wanted
    assert as_pairs(await call.initial_metadata()) == wanted
    assert as_pairs(await call.trailing_metadata()) == wanted


@case
async def metadata_round_trip(peer: Peer) -> None:
    """Many values, those of one key in order, any byte in binary ones."""
    await check_metadata(peer, ROUND)


@case
async def metadata_churn(peer: Peer) -> None:
    """More headers than either side's table holds, on one connection."""
    await asyncio.gather(*[check_metadata(peer, churn(number)) for number in range(150)])


@case
async def metadata_over_limit(peer: Peer) -> list[str]:
    """Return how calls end with much metadata, with too much, and without any."""
    return [
        await status(peer.probe.Park(probe.ParkRequest(key="m"), metadata=metadata, timeout=SECONDS))
        for metadata in MUCH
    ]


async def check_status(peer: Peer, message: str) -> None:
    """Assert that code and text come as they were sent, in a unary call and in a stream."""
    wanted = messages.EchoStatus(code=2, message=message)
    unary = peer.test.UnaryCall(messages.SimpleRequest(response_status=wanted), timeout=SECONDS)
    assert await ending(unary) == ("UNKNOWN", message)
    requests = [messages.StreamingOutputCallRequest(response_status=wanted)]
    duplex = peer.test.FullDuplexCall(iter(requests), timeout=SECONDS)
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
    codes = {code.value[0]: code.name for code in grpc.StatusCode}
    calls = {
        code: peer.test.UnaryCall(
            messages.SimpleRequest(response_status=messages.EchoStatus(code=code)), timeout=SECONDS
        )
        for code in range(1, 17)
    }
    got = {code: (await call.code()).name for code, call in calls.items()}
    assert got == {code: codes[code] for code in range(1, 17)}


@case
async def unimplemented_method(peer: Peer) -> None:
    assert await status(peer.test.UnimplementedCall(empty.Empty(), timeout=SECONDS)) == "UNIMPLEMENTED"


@case
async def unimplemented_service(peer: Peer) -> None:
    call = peer.unimplemented.UnimplementedCall(empty.Empty(), timeout=SECONDS)
    assert await status(call) == "UNIMPLEMENTED"


@case
async def cancel_after_begin(peer: Peer) -> None:
    call = peer.test.StreamingInputCall(timeout=SECONDS)
    call.cancel()
    assert await status(call) == "CANCELLED"
    assert await call.code() is grpc.StatusCode.CANCELLED


@case
async def cancel_after_first_response(peer: Peer) -> None:
    call = peer.test.FullDuplexCall(timeout=SECONDS)
    await call.write(ping(31415, 27182))
    assert len((await call.read()).payload.body) == 31415
    call.cancel()
    assert await status(call.read()) == "CANCELLED"
    assert await call.code() is grpc.StatusCode.CANCELLED


@case
async def cancel_reaches_the_server(peer: Peer) -> None:
    key = uuid.uuid4().hex
    call = peer.probe.Park(probe.ParkRequest(key=key, milliseconds=15_000), timeout=SECONDS)
    await peer.until_running(key)
    call.cancel()
    assert await status(call) == "CANCELLED"
    assert (await peer.observe(key)).state == "cancelled"


@case
async def server_gives_up(peer: Peer) -> None:
    assert await status(peer.probe.GiveUp(probe.ParkRequest(key="x"), timeout=SECONDS)) == "CANCELLED"
    assert await peer.test.EmptyCall(empty.Empty(), timeout=SECONDS) == empty.Empty()


@case
async def timeout_on_sleeping_server(peer: Peer) -> None:
    async def requests() -> AsyncIterator[Any]:
        yield messages.StreamingOutputCallRequest(payload=messages.Payload(body=bytes(27182)))
        await asyncio.sleep(SECONDS)

    # a write at the very moment of the deadline ends as this client's own error, whoever the server is: once more then
    for _ in range(20):
        call = peer.test.FullDuplexCall(requests(), timeout=0.001)
        await status(call.read())
        end = (await call.code()).name, await call.details()
        if end != ("INTERNAL", "Internal error from Core"):
            break
    assert end[0] == "DEADLINE_EXCEEDED", end


@case
async def deadline_reaches_the_server(peer: Peer) -> None:
    """The server knows the deadline and ends the call at it."""
    key = uuid.uuid4().hex
    await peer.test.EmptyCall(empty.Empty(), timeout=SECONDS)  # connected, so that the whole time is the call's
    started = time.monotonic()
    call = peer.probe.Park(probe.ParkRequest(key=key, milliseconds=15_000), timeout=0.5)
    assert await status(call) == "DEADLINE_EXCEEDED"
    assert 0.4 < time.monotonic() - started < 3
    seen = await peer.observe(key)
    assert seen.state == "cancelled"
    assert 0.05 < seen.seconds_left < 0.7, seen.seconds_left


@case
async def concurrent_large_unary(peer: Peer) -> None:
    """A hundred on one channel."""
    answers = await asyncio.gather(*[peer.test.UnaryCall(large(), timeout=SECONDS) for _ in range(100)])
    assert all(answer.payload.body == bytes(314159) for answer in answers)


@case
async def more_calls_than_streams(peer: Peer) -> None:
    """Calls beyond the server's limit of streams wait for their turn."""
    await peer.test.EmptyCall(empty.Empty(), timeout=SECONDS)  # the server's settings are known
    requests = [probe.ParkRequest(key="many", milliseconds=number % 7) for number in range(3000)]
    answers = await asyncio.gather(*[peer.probe.Park(request, timeout=SECONDS) for request in requests])
    assert answers == [probe.ParkResponse()] * 3000


async def upload(peer: Peer, chunks: int, size: int) -> None:
    crc = Crc()

    async def requests() -> AsyncIterator[Any]:
        for number in range(chunks):
            body = pattern(number, size)
            crc.add(body)
            yield probe.Chunk(body=body)

    digest = await peer.probe.Upload(requests(), timeout=SECONDS)
    assert (digest.size, digest.crc32) == (chunks * size, crc.crc32)


async def download(peer: Peer, chunks: int, size: int) -> None:
    request = probe.DownloadRequest(chunks=chunks, size=size, seed=7)
    bodies = [chunk.body async for chunk in peer.probe.Download(request, timeout=SECONDS)]
    assert bodies == [pattern(7 + number, size) for number in range(chunks)]


@case
async def bulk(peer: Peer) -> None:
    """Every byte of streams of many windows arrives, in messages below, at and above a frame, both ways at once."""
    await asyncio.gather(*[way(peer, chunks, size) for way in (upload, download) for chunks, size in BULK])


@case
async def cancel_midway(peer: Peer) -> None:
    """Streams that end in the middle of their bytes take nothing of the connection's window with them."""

    async def chunks() -> AsyncIterator[Any]:
        while True:
            yield probe.Chunk(body=bytes(300_000))

    for number in range(24):
        call = peer.probe.Download(probe.DownloadRequest(chunks=16, size=MIB // 4, seed=number), timeout=SECONDS)
        assert (await call.read()).body == pattern(number, MIB // 4)
        call.cancel()
        sending = peer.probe.Upload(chunks(), timeout=SECONDS)
        await asyncio.sleep(0.01)
        sending.cancel()
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
    request = messages.SimpleRequest(payload=messages.Payload(body=bytes(8 * MIB)))
    return [
        await status(peer.test.UnaryCall(request, timeout=SECONDS)),
        await status(peer.test.EmptyCall(empty.Empty(), timeout=SECONDS)),
    ]


@case
async def drain(peer: Peer) -> dict[str, str]:
    """Hold calls while the server stops: say when they run, and return how each ended, and one begun meanwhile."""
    keys = {name: uuid.uuid4().hex for name in ("parked", "waiting")}
    uploading = peer.probe.Upload(timeout=SECONDS)
    await uploading.write(probe.Chunk(body=b"first"))
    parked = peer.probe.Park(probe.ParkRequest(key=keys["parked"], milliseconds=800), timeout=SECONDS)
    waiting = peer.probe.WaitExperiment(probe.ParkRequest(key=keys["waiting"], milliseconds=15_000), timeout=SECONDS)
    for key in keys.values():
        await peer.until_running(key)
    say(event="running")
    ends = {"waiting": (await waiting.code()).name}
    ends["new"] = await status(peer.test.EmptyCall(empty.Empty(), timeout=SECONDS))
    for _ in range(8):  # the rest of the upload is sent to a server that is stopping
        await uploading.write(probe.Chunk(body=bytes(MIB)))
    await uploading.done_writing()
    ends["upload"] = (await uploading.code()).name
    ends["parked"] = (await parked.code()).name
    return ends


@case
async def denied(peer: Peer) -> dict[str, str]:
    """Hold a call while our certificate is denied: say when it runs, and return how it ended, and one after it."""
    key = uuid.uuid4().hex
    parked = peer.probe.Park(probe.ParkRequest(key=key, milliseconds=15_000), timeout=SECONDS)
    await peer.until_running(key)
    say(event="running")
    ends = {"parked": (await parked.code()).name}
    ends["new"] = await status(peer.test.EmptyCall(empty.Empty(), timeout=SECONDS))
    return ends


async def main() -> None:
    """Run what standard input asks for."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        order = json.loads(line)
        peer = Peer(order["target"], order["tls"])
        try:
            say(value=await asyncio.wait_for(CASES[order["case"]](peer), 2 * SECONDS))
        except Exception:
            say(error=traceback.format_exc())
        finally:
            await peer.channel.close()


if __name__ == "__main__":
    asyncio.run(main())
