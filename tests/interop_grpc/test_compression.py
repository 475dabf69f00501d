"""What a client sees on the wire when it compresses: grpcio keeps that to itself, so frames are looked at here."""

from __future__ import annotations

import gzip
import socket
from typing import Any

import anyio.to_thread
import h2.config
import h2.connection
import h2.events
import pytest

from openfl_aio.testing.ca import ThrowawayCA
from openfl_aio.wire import codec
from tests.interop_grpc.our_client import testing
from tests.interop_grpc.sides import our_server

pytestmark = pytest.mark.real_time

HEADERS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "localhost"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
    ("grpc-encoding", "gzip"),
    ("grpc-accept-encoding", "identity,gzip"),
]


def call(port: int, path: str, body: bytes) -> dict[str, str]:
    """Send one request of one call and return every header and trailer of the answer."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    got: dict[str, str] = {}
    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        connection.initiate_connection()
        connection.send_headers(1, [(":path", path), *HEADERS])
        connection.send_data(1, body, end_stream=True)
        sock.sendall(connection.data_to_send())
        while data := sock.recv(65536):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                    headers: Any = event.headers
                    got.update(headers)
                if isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                    return got
            sock.sendall(connection.data_to_send())
    return got


@pytest.mark.parametrize("path", ["UnaryCall", "StreamingInputCall"])
async def test_a_compressed_message_is_refused_with_what_is_accepted(path: str, ca: ThrowawayCA) -> None:
    kind = testing.SimpleRequest if path == "UnaryCall" else testing.StreamingInputCallRequest
    packed = gzip.compress(codec.encode(kind(payload=testing.Payload(body=bytes(5000)))))
    body = b"\1" + len(packed).to_bytes(4, "big") + packed
    async with our_server(ca, tls=False) as server:
        port = server.endpoint.port
        got = await anyio.to_thread.run_sync(call, port, f"/grpc.testing.TestService/{path}", body)
    assert got["grpc-status"] == "12"
    assert got["grpc-accept-encoding"] == "identity"
