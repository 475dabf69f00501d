"""The test service and the probe on grpcio's synchronous server, plaintext and mTLS on a port each.

Prints the ports. Each line on standard input means: stop gracefully, start again on the same ports, print when done.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.interop_grpc.peers.common import UNLIMITED, arguments, grpc, say
from tests.interop_grpc.peers.shared import Book, Crc, as_pairs, echoes, pattern

OPTIONS = arguments(__doc__)
messages: Any = importlib.import_module("testing.messages_pb2")
empty: Any = importlib.import_module("testing.empty_pb2")
services: Any = importlib.import_module("testing.test_pb2_grpc")
probe: Any = importlib.import_module("probe_pb2")
probes: Any = importlib.import_module("probe_pb2_grpc")

GRACE = 5.0
STATUSES = {status.value[0]: status for status in grpc.StatusCode}


def echo(context: Any) -> None:
    """Send back the metadata that is to be echoed."""
    initial, trailing = echoes(context.invocation_metadata())
    if initial:
        context.send_initial_metadata(initial)
    if trailing:
        context.set_trailing_metadata(trailing)


def end_as_asked(request: Any, context: Any) -> None:
    """End the call with the status that the request names, if it does."""
    if request.HasField("response_status"):
        context.abort(STATUSES[request.response_status.code], request.response_status.message)


def payload(size: int) -> Any:
    """Return a body of ``size`` zeros."""
    return messages.Payload(body=bytes(size))


class TestService(services.TestServiceServicer):  # type: ignore[misc] # known at run time only
    """gRPC's test service."""

    def EmptyCall(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's names
        """Answer nothing."""
        echo(context)
        return empty.Empty()

    def UnaryCall(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answer a body of the size that is wanted."""
        echo(context)
        end_as_asked(request, context)
        if request.response_compressed.value:
            context.set_compression(grpc.Compression.Gzip)
        return messages.SimpleResponse(payload=payload(request.response_size))

    def _answers(self, request: Any, context: Any) -> Iterator[Any]:
        for wanted in request.response_parameters:
            if wanted.interval_us:
                time.sleep(wanted.interval_us / 1e6)
            if not wanted.compressed.value:
                context.disable_next_message_compression()
            yield messages.StreamingOutputCallResponse(payload=payload(wanted.size))

    def StreamingOutputCall(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        """Answer every size in turn."""
        echo(context)
        end_as_asked(request, context)
        if any(wanted.compressed.value for wanted in request.response_parameters):
            context.set_compression(grpc.Compression.Gzip)
        yield from self._answers(request, context)

    def StreamingInputCall(self, requests: Any, context: Any) -> Any:  # noqa: N802
        """Answer how many bytes came."""
        echo(context)
        return messages.StreamingInputCallResponse(
            aggregated_payload_size=sum(len(request.payload.body) for request in requests)
        )

    def FullDuplexCall(self, requests: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        """Answer each request before the next is read."""
        echo(context)
        for request in requests:
            end_as_asked(request, context)
            yield from self._answers(request, context)

    def HalfDuplexCall(self, requests: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        """Answer once all requests are there."""
        echo(context)
        for request in list(requests):
            yield from self._answers(request, context)


class Probe(probes.ProbeServicer):  # type: ignore[misc]
    """Says what it noticed."""

    def __init__(self) -> None:
        self._book = Book()

    def Park(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Wait for the time that is asked, or until the call is cancelled."""
        parked = self._book.open(request.key, context.time_remaining())
        if not context.add_callback(lambda: parked.end("cancelled")):
            parked.end("cancelled")
        if not parked.ended.wait(request.milliseconds / 1000):
            parked.end("finished")
        return probe.ParkResponse()

    WaitExperiment = Park

    def GiveUp(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Cancel the call from this side."""
        self._book.open(request.key, None).end("cancelled")
        context.cancel()
        return probe.ParkResponse()

    def Observe(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Say what became of a call."""
        since = time.monotonic()
        while not request.at_once and not self._book.finished_or_late(request.key, since):
            time.sleep(0.01)
        parked = self._book.find(request.key)
        if parked is None:
            return probe.ObserveResponse(state="absent")
        return probe.ObserveResponse(state=parked.state, seconds_left=parked.seconds_left)

    def EchoMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answer the metadata that came."""
        echo(context)
        pairs = as_pairs(context.invocation_metadata())
        return probe.MetadataResponse(pairs=[probe.Pair(key=key, value=value) for key, value in pairs])

    def Upload(self, requests: Any, context: Any) -> Any:  # noqa: N802
        """Answer the checksum of everything."""
        crc = Crc()
        for request in requests:
            crc.add(request.body)
        return probe.Digest(size=crc.size, crc32=crc.crc32)

    def Download(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        """Send what was asked for."""
        for number in range(request.chunks):
            yield probe.Chunk(body=pattern(request.seed + number, request.size))


def start(plaintext: int, mtls: int) -> tuple[Any, int, int]:
    """Return a running server and its two ports; 0 is any free one."""
    options = [*UNLIMITED, ("grpc.so_reuseport", 0)]
    server = grpc.server(ThreadPoolExecutor(max_workers=320), options=options)
    services.add_TestServiceServicer_to_server(TestService(), server)
    probes.add_ProbeServicer_to_server(Probe(), server)
    credentials = grpc.ssl_server_credentials(
        [(OPTIONS.key.read_bytes(), OPTIONS.certificate.read_bytes())],
        root_certificates=OPTIONS.ca.read_bytes(),
        require_client_auth=True,
    )
    plaintext = server.add_insecure_port(f"127.0.0.1:{plaintext}")
    mtls = server.add_secure_port(f"127.0.0.1:{mtls}", credentials)
    server.start()
    return server, plaintext, mtls


def main() -> None:
    """Serve until standard input ends."""
    server, plaintext, mtls = start(0, 0)
    say(plaintext=plaintext, mtls=mtls)
    for _ in sys.stdin:
        server.stop(GRACE).wait()
        server, *_ = start(plaintext, mtls)
        say(started=True)
    server.stop(None).wait()


if __name__ == "__main__":
    main()
