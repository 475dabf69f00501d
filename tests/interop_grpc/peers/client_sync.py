"""grpcio's synchronous client: runs one case for each line of JSON on standard input and prints how it went."""

from __future__ import annotations

import importlib
import json
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
messages: Any = importlib.import_module("testing.messages_pb2")
empty: Any = importlib.import_module("testing.empty_pb2")
services: Any = importlib.import_module("testing.test_pb2_grpc")
probe: Any = importlib.import_module("probe_pb2")
probes: Any = importlib.import_module("probe_pb2_grpc")

CASES: dict[str, Callable[[Any], Any]] = {}
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
            self.channel = grpc.secure_channel(target, credentials, options=options)
        else:
            self.channel = grpc.insecure_channel(target, options=options)
        self.test = services.TestServiceStub(self.channel)
        self.unimplemented = services.UnimplementedServiceStub(self.channel)
        self.probe = probes.ProbeStub(self.channel)

    def observe(self, key: str) -> Any:
        """Return what the server noticed of the call ``key``, once it is over."""
        return self.probe.Observe(probe.ObserveRequest(key=key), timeout=SECONDS)

    def until_running(self, key: str) -> None:
        """Return once the server has begun with the call ``key``."""
        while self.probe.Observe(probe.ObserveRequest(key=key, at_once=True), timeout=SECONDS).state == "absent":
            time.sleep(0.01)


def case(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Offer ``function`` under its name."""
    CASES[function.__name__] = function
    return function


def ending(call: Callable[[], Any]) -> tuple[str, str]:
    """Return the name of the status that ``call`` ends with, and its text."""
    try:
        call()
    except grpc.RpcError as exc:
        return str(exc.code().name), str(exc.details())
    return "OK", ""


def status(call: Callable[[], Any]) -> str:
    """Return the name of the status that ``call`` ends with."""
    return ending(call)[0]


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
def empty_unary(peer: Peer) -> None:
    assert peer.test.EmptyCall(empty.Empty(), timeout=SECONDS) == empty.Empty()


@case
def large_unary(peer: Peer) -> None:
    assert peer.test.UnaryCall(large(), timeout=SECONDS).payload.body == bytes(314159)


@case
def client_compressed_unary(peer: Peer) -> list[str]:
    """Return how the probe, the compressed and the plain call end."""
    expected, unexpected = messages.BoolValue(value=True), messages.BoolValue(value=False)
    gzip = grpc.Compression.Gzip
    call = peer.test.UnaryCall
    return [
        status(lambda: call(large(expect_compressed=expected), timeout=SECONDS)),
        status(lambda: call(large(expect_compressed=expected), timeout=SECONDS, compression=gzip)),
        status(lambda: call(large(expect_compressed=unexpected), timeout=SECONDS)),
    ]


@case
def server_compressed_unary(peer: Peer) -> None:
    for wanted in (True, False):
        request = large(response_compressed=messages.BoolValue(value=wanted))
        assert peer.test.UnaryCall(request, timeout=SECONDS).payload.body == bytes(314159)


def inputs(*sizes: int, **more: Any) -> Iterator[Any]:
    """Return the requests of the client streaming cases."""
    for size in sizes:
        yield messages.StreamingInputCallRequest(payload=messages.Payload(body=bytes(size)), **more)


@case
def client_streaming(peer: Peer) -> None:
    answer = peer.test.StreamingInputCall(inputs(27182, 8, 1828, 45904), timeout=SECONDS)
    assert answer.aggregated_payload_size == 74922


@case
def client_compressed_streaming(peer: Peer) -> list[str]:
    """Return how the probe, the compressed and the plain call end."""
    expected, unexpected = messages.BoolValue(value=True), messages.BoolValue(value=False)
    gzip = grpc.Compression.Gzip
    call = peer.test.StreamingInputCall
    return [
        status(lambda: call(inputs(27182, expect_compressed=expected), timeout=SECONDS)),
        status(lambda: call(inputs(27182, 45904, expect_compressed=expected), timeout=SECONDS, compression=gzip)),
        status(lambda: call(inputs(27182, 45904, expect_compressed=unexpected), timeout=SECONDS)),
    ]


@case
def server_streaming(peer: Peer) -> None:
    sizes = [31415, 9, 2653, 58979]
    request = messages.StreamingOutputCallRequest(response_parameters=outputs(*sizes))
    answers = list(peer.test.StreamingOutputCall(request, timeout=SECONDS))
    assert [answer.payload.body for answer in answers] == [bytes(size) for size in sizes]


@case
def server_compressed_streaming(peer: Peer) -> None:
    wanted = outputs(31415, 92653)
    wanted[0].compressed.value, wanted[1].compressed.value = True, False
    request = messages.StreamingOutputCallRequest(response_parameters=wanted)
    answers = list(peer.test.StreamingOutputCall(request, timeout=SECONDS))
    assert [answer.payload.body for answer in answers] == [bytes(31415), bytes(92653)]


@case
def ping_pong(peer: Peer) -> None:
    turn = threading.Semaphore(1)

    def requests() -> Iterator[Any]:
        for wanted, sent in PING:
            turn.acquire()
            yield ping(wanted, sent)

    sizes = []
    for answer in peer.test.FullDuplexCall(requests(), timeout=SECONDS):
        sizes.append(len(answer.payload.body))
        turn.release()
    assert sizes == [wanted for wanted, _ in PING]


@case
def half_duplex(peer: Peer) -> None:
    answers = peer.test.HalfDuplexCall((ping(*pair) for pair in PING), timeout=SECONDS)
    assert [len(answer.payload.body) for answer in answers] == [wanted for wanted, _ in PING]


@case
def empty_stream(peer: Peer) -> None:
    assert list(peer.test.FullDuplexCall(iter(()), timeout=SECONDS)) == []


@case
def custom_metadata(peer: Peer) -> None:
    sent = (TEXT, BINARY)
    answer, unary = peer.test.UnaryCall.with_call(large(), metadata=sent, timeout=SECONDS)
    duplex = peer.test.FullDuplexCall(iter([ping(314159, 271828)]), metadata=sent, timeout=SECONDS)
    assert [len(answer.payload.body) for answer in (answer, *duplex)] == [314159] * 2
    for call in (unary, duplex):
        assert TEXT in [tuple(pair) for pair in call.initial_metadata()]
        assert BINARY in [tuple(pair) for pair in call.trailing_metadata()]


def check_metadata(peer: Peer, metadata: Any) -> None:
    """Assert that ``metadata`` goes up, and down as initial and as trailing metadata."""
    answer, call = peer.probe.EchoMetadata.with_call(probe.MetadataRequest(), metadata=metadata, timeout=SECONDS)
    wanted = as_pairs(metadata)
    assert [(pair.key, pair.value) for pair in answer.pairs] == wanted
    assert as_pairs(call.initial_metadata()) == wanted
    assert as_pairs(call.trailing_metadata()) == wanted


@case
def metadata_round_trip(peer: Peer) -> None:
    """Many values, those of one key in order, any byte in binary ones."""
    check_metadata(peer, ROUND)


@case
def metadata_churn(peer: Peer) -> None:
    """More headers than either side's table holds, on one connection."""
    for number in range(150):
        check_metadata(peer, churn(number))


@case
def metadata_over_limit(peer: Peer) -> list[str]:
    """Return how calls end with much metadata, with too much, and without any."""
    park = peer.probe.Park
    return [
        status(lambda metadata=metadata: park(probe.ParkRequest(key="m"), metadata=metadata, timeout=SECONDS))  # type: ignore[misc]
        for metadata in MUCH
    ]


def check_status(peer: Peer, message: str) -> None:
    """Assert that code and text come as they were sent, in a unary call and in a stream."""
    wanted = messages.EchoStatus(code=2, message=message)
    unary, duplex = peer.test.UnaryCall, peer.test.FullDuplexCall
    request = messages.SimpleRequest(response_status=wanted)
    assert ending(lambda: unary(request, timeout=SECONDS)) == ("UNKNOWN", message)
    requests = [messages.StreamingOutputCallRequest(response_status=wanted)]
    assert ending(lambda: list(duplex(iter(requests), timeout=SECONDS))) == ("UNKNOWN", message)


@case
def status_code_and_message(peer: Peer) -> None:
    check_status(peer, "test status message")


@case
def special_status_message(peer: Peer) -> None:
    check_status(peer, SPECIAL)


@case
def every_status(peer: Peer) -> None:
    """Each code arrives as it was sent."""
    codes = {code.value[0]: code.name for code in grpc.StatusCode}
    calls = {
        code: peer.test.UnaryCall.future(
            messages.SimpleRequest(response_status=messages.EchoStatus(code=code)), timeout=SECONDS
        )
        for code in range(1, 17)
    }
    assert {code: call.code().name for code, call in calls.items()} == {code: codes[code] for code in range(1, 17)}


@case
def unimplemented_method(peer: Peer) -> None:
    assert status(lambda: peer.test.UnimplementedCall(empty.Empty(), timeout=SECONDS)) == "UNIMPLEMENTED"


@case
def unimplemented_service(peer: Peer) -> None:
    assert status(lambda: peer.unimplemented.UnimplementedCall(empty.Empty(), timeout=SECONDS)) == "UNIMPLEMENTED"


@case
def cancel_after_begin(peer: Peer) -> None:
    hold = threading.Event()
    call = peer.test.StreamingInputCall.future(iter(hold.wait, True), timeout=SECONDS)
    call.cancel()
    hold.set()
    assert call.cancelled()
    assert call.code() is grpc.StatusCode.CANCELLED


@case
def cancel_after_first_response(peer: Peer) -> None:
    done = threading.Event()

    def requests() -> Iterator[Any]:
        yield ping(31415, 27182)
        done.wait(SECONDS)

    call = peer.test.FullDuplexCall(requests(), timeout=SECONDS)
    assert len(next(call).payload.body) == 31415
    call.cancel()
    done.set()
    assert status(lambda: next(call)) == "CANCELLED"


@case
def cancel_reaches_the_server(peer: Peer) -> None:
    key = uuid.uuid4().hex
    call = peer.probe.Park.future(probe.ParkRequest(key=key, milliseconds=15_000), timeout=SECONDS)
    peer.until_running(key)
    call.cancel()
    assert call.code() is grpc.StatusCode.CANCELLED
    assert peer.observe(key).state == "cancelled"


@case
def server_gives_up(peer: Peer) -> None:
    assert status(lambda: peer.probe.GiveUp(probe.ParkRequest(key="x"), timeout=SECONDS)) == "CANCELLED"
    assert peer.test.EmptyCall(empty.Empty(), timeout=SECONDS) == empty.Empty()


@case
def timeout_on_sleeping_server(peer: Peer) -> None:
    hold = threading.Event()

    def requests() -> Iterator[Any]:
        yield messages.StreamingOutputCallRequest(payload=messages.Payload(body=bytes(27182)))
        hold.wait(SECONDS)

    call = peer.test.FullDuplexCall(requests(), timeout=0.001)
    assert status(lambda: next(call)) == "DEADLINE_EXCEEDED"
    hold.set()


@case
def deadline_reaches_the_server(peer: Peer) -> None:
    """The server knows the deadline and ends the call at it."""
    key = uuid.uuid4().hex
    peer.test.EmptyCall(empty.Empty(), timeout=SECONDS)  # connected, so that the whole time is the call's
    started = time.monotonic()
    request = probe.ParkRequest(key=key, milliseconds=15_000)
    assert status(lambda: peer.probe.Park(request, timeout=0.5)) == "DEADLINE_EXCEEDED"
    assert 0.4 < time.monotonic() - started < 3
    seen = peer.observe(key)
    assert seen.state == "cancelled"
    assert 0.05 < seen.seconds_left < 0.7, seen.seconds_left


@case
def concurrent_large_unary(peer: Peer) -> None:
    """A hundred on one channel."""
    calls = [peer.test.UnaryCall.future(large(), timeout=SECONDS) for _ in range(100)]
    assert all(call.result().payload.body == bytes(314159) for call in calls)


@case
def more_calls_than_streams(peer: Peer) -> None:
    """Calls beyond the server's limit of streams wait for their turn."""
    peer.test.EmptyCall(empty.Empty(), timeout=SECONDS)  # the server's settings are known
    requests = [probe.ParkRequest(key="many", milliseconds=number % 7) for number in range(1000)]
    calls = [peer.probe.Park.future(request, timeout=SECONDS) for request in requests]
    assert all(call.result() == probe.ParkResponse() for call in calls)


def upload(peer: Peer, chunks: int, size: int) -> None:
    crc = Crc()

    def requests() -> Iterator[Any]:
        for number in range(chunks):
            body = pattern(number, size)
            crc.add(body)
            yield probe.Chunk(body=body)

    digest = peer.probe.Upload(requests(), timeout=SECONDS)
    assert (digest.size, digest.crc32) == (chunks * size, crc.crc32)


def download(peer: Peer, chunks: int, size: int) -> None:
    request = probe.DownloadRequest(chunks=chunks, size=size, seed=7)
    bodies = [chunk.body for chunk in peer.probe.Download(request, timeout=SECONDS)]
    assert bodies == [pattern(7 + number, size) for number in range(chunks)]


@case
def bulk(peer: Peer) -> None:
    """Every byte of streams of many windows arrives, in messages below, at and above a frame, both ways at once."""
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(way, peer, chunks, size) for way in (upload, download) for chunks, size in BULK]
        for job in jobs:
            job.result()


@case
def cancel_midway(peer: Peer) -> None:
    """Streams that end in the middle of their bytes take nothing of the connection's window with them."""

    def chunks() -> Iterator[Any]:
        while True:
            yield probe.Chunk(body=bytes(300_000))

    for number in range(24):
        call = peer.probe.Download(probe.DownloadRequest(chunks=16, size=MIB // 4, seed=number), timeout=SECONDS)
        assert next(call).body == pattern(number, MIB // 4)
        call.cancel()
        sending = peer.probe.Upload.future(chunks(), timeout=SECONDS)
        time.sleep(0.01)
        sending.cancel()
    download(peer, 4, 4 * MIB)
    upload(peer, 16, MIB)


@case
def small_answers(peer: Peer) -> None:
    """Thousands of messages of few bytes, each of which may cost a WINDOW_UPDATE, are no abuse."""
    download(peer, 5000, 10)


@case
def huge_messages(peer: Peer) -> None:
    """64 MiB in one message, up and down."""
    upload(peer, 1, 64 * MIB)
    download(peer, 1, 64 * MIB)


@case
def message_over_limit(peer: Peer) -> list[str]:
    """Return how a message of 8 MiB ends, and a call after it."""
    request = messages.SimpleRequest(payload=messages.Payload(body=bytes(8 * MIB)))
    return [
        status(lambda: peer.test.UnaryCall(request, timeout=SECONDS)),
        status(lambda: peer.test.EmptyCall(empty.Empty(), timeout=SECONDS)),
    ]


@case
def drain(peer: Peer) -> dict[str, str]:
    """Hold calls while the server stops: say when they run, and return how each ended, and one begun meanwhile."""
    keys = {name: uuid.uuid4().hex for name in ("parked", "waiting")}
    go_on = threading.Event()

    def chunks() -> Iterator[Any]:
        yield probe.Chunk(body=b"first")
        go_on.wait(SECONDS)
        for _ in range(8):
            yield probe.Chunk(body=bytes(MIB))

    upload = peer.probe.Upload.future(chunks(), timeout=SECONDS)
    parked = peer.probe.Park.future(probe.ParkRequest(key=keys["parked"], milliseconds=800), timeout=SECONDS)
    waiting = peer.probe.WaitExperiment.future(
        probe.ParkRequest(key=keys["waiting"], milliseconds=15_000), timeout=SECONDS
    )
    for key in keys.values():
        peer.until_running(key)
    say(event="running")
    ends = {"waiting": waiting.code().name}
    ends["new"] = status(lambda: peer.test.EmptyCall(empty.Empty(), timeout=SECONDS))
    go_on.set()  # the rest of the upload is sent to a server that is stopping
    ends["upload"] = upload.code().name
    ends["parked"] = parked.code().name
    return ends


@case
def denied(peer: Peer) -> dict[str, str]:
    """Hold a call while our certificate is denied: say when it runs, and return how it ended, and one after it."""
    key = uuid.uuid4().hex
    parked = peer.probe.Park.future(probe.ParkRequest(key=key, milliseconds=15_000), timeout=SECONDS)
    peer.until_running(key)
    say(event="running")
    ends = {"parked": parked.code().name}
    ends["new"] = status(lambda: peer.test.EmptyCall(empty.Empty(), timeout=SECONDS))
    return ends


def main() -> None:
    """Run what standard input asks for."""
    for line in sys.stdin:
        order = json.loads(line)
        peer = Peer(order["target"], order["tls"])
        try:
            say(value=CASES[order["case"]](peer))
        except Exception:
            say(error=traceback.format_exc())
        finally:
            peer.channel.close()


if __name__ == "__main__":
    main()
