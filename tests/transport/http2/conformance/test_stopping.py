"""RFC 9113 section 6.8: a server that stops says so, finishes what it has begun, and takes no more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.transport.http2.conformance.peer import Peer
from tests.transport.http2.conformance.serving import ServerThread, run_server
from tests.transport.http2.conformance.wire import PARKED, UPLOAD, Code, block, chunk, data, headers, request

UNAVAILABLE = "14"


@pytest.fixture
def stopping() -> Iterator[ServerThread]:
    """A server of its own, which the test stops."""
    with run_server() as server:
        yield server


def told(peer: Peer, last_stream: int) -> None:
    """GOAWAY comes, without an error."""
    peer.wait(lambda: peer.goaway is not None, "GOAWAY")
    assert peer.goaway == (last_stream, Code.NO_ERROR), peer.story()


def test_9113_6_8_every_connection_is_told(stopping: ServerThread) -> None:
    with stopping.connect() as quiet, stopping.connect() as used:
        quiet.start()
        quiet.barrier()
        used.start()
        used.send(request(1))
        used.finished(1)
        stopping.stop()
        told(quiet, 0)
        told(used, 1)
        quiet.wait_closed()
        used.wait_closed()


def test_9113_6_8_what_was_begun_is_finished_and_nothing_else_begins(stopping: ServerThread) -> None:
    with stopping.connect() as peer:
        peer.start()
        peer.send(headers(1, block(UPLOAD)) + data(1, chunk(b"x")) + request(3, PARKED))
        peer.barrier()
        stopping.stop()
        told(peer, 3)
        assert peer.finished(3).field("grpc-status") == UNAVAILABLE, "who waits is told to ask again"
        peer.send(request(5))
        peer.wait(lambda: bool(peer.answer(5).resets), "RST_STREAM")
        assert peer.answer(5).resets == [Code.REFUSED_STREAM], peer.story()
        peer.send(data(1, chunk(b"y"), end=True))
        assert peer.finished(1).field("grpc-status") == "0", peer.story()
        peer.wait_closed()


def test_9113_6_8_nobody_new_is_let_in(stopping: ServerThread) -> None:
    with stopping.connect() as peer:
        peer.start()
        peer.send(headers(1, block(UPLOAD)) + data(1, chunk(b"x")))
        peer.barrier()
        stopping.stop()
        told(peer, 1)
        with pytest.raises(ConnectionRefusedError):
            stopping.connect()
        peer.send(data(1, end=True))
        assert peer.finished(1).field("grpc-status") == "0", peer.story()


def test_9113_6_8_a_call_that_never_ends_is_ended() -> None:
    with run_server(drain=0.1) as server, server.connect() as peer:
        peer.start()
        peer.send(headers(1, block(UPLOAD)) + data(1, chunk(b"x")))
        peer.barrier()
        server.stop()
        told(peer, 1)
        assert peer.finished(1).field("grpc-status") == UNAVAILABLE, peer.story()
        peer.wait_closed()
