from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import hpack
import pytest

from openfl_aio.wire import codec
from openfl_aio.wire.messages import DataStream, aggregator
from tests.attacks import frames, payloads
from tests.attacks.attacker import ATTACKS
from tests.attacks.catalogue import MTLS, PLAINTEXT, Stage
from tests.attacks.wire import Target, Wire

pytestmark = pytest.mark.real_time


@contextmanager
def peer(talk: Callable[[socket.socket], None]) -> Iterator[Target]:
    """Give an address where ``talk`` is had with each who connects."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                with sock:
                    talk(sock)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield Target("127.0.0.1", listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def connected(target: Target, **options: bool) -> Wire:
    wire = Wire(deadline=time.monotonic() + 5, **options)
    assert wire.connect(target)
    return wire


def until_ended(wire: Wire) -> str | None:
    while wire.ended is None and time.monotonic() < wire.deadline:
        wire.read()
    return wire.ended


def goodbye(code: int) -> bytes:
    return frames.frame(frames.GOAWAY, 0, 0, bytes(4) + code.to_bytes(4, "big"))


def test_a_block_is_what_hpack_reads() -> None:
    fields = hpack.Decoder().decode(frames.block("/a/b", [("x-long", "y" * 5_000)], tls=True))
    assert {str(name): str(value) for name, value in fields} == {
        ":method": "POST",
        ":scheme": "https",
        ":path": "/a/b",
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
        "x-long": "y" * 5_000,
    }


def test_the_code_of_goaway_is_kept_when_the_connection_ends() -> None:
    with peer(lambda sock: sock.sendall(goodbye(11))) as target:
        assert until_ended(connected(target)) == "goaway:11"


def test_goaway_is_found_although_the_connection_broke_while_sending() -> None:
    def talk(sock: socket.socket) -> None:
        sock.recv(1)
        sock.sendall(goodbye(11))

    with peer(talk) as target:
        wire = connected(target, reading=False)
        while wire.send(bytes(65_536)):
            pass
        assert wire.ended == "goaway:11"


def test_a_close_without_a_word_is_told_from_a_refusal() -> None:
    with peer(lambda sock: None) as target:
        assert until_ended(connected(target)) == "closed"
    wire = Wire(deadline=time.monotonic() + 5)
    assert not wire.connect(target)
    assert wire.ended == "refused"


def test_data_waits_for_the_window_and_stops_at_a_reset() -> None:
    def talk(sock: socket.socket) -> None:
        got = 0
        while got < 65_535:  # all that the first window takes, with the frames' headers
            got += len(sock.recv(65_536))
        sock.sendall(frames.window_update(0, 100) + frames.window_update(1, 50))
        while got < 65_535 + 5 * 9 + 50:
            got += len(sock.recv(65_536))
        sock.sendall(frames.reset(1, frames.CANCEL))
        sock.recv(1)

    with peer(talk) as target:
        wire = connected(target)
        assert not wire.send_data(1, bytes(100_000))
        assert wire.outcomes == {"rst:8": 1}
        assert wire.windows[1] == 0
        wire.drop()


def test_answers_are_read_where_asked_for() -> None:
    block = hpack.Encoder().encode([(":status", "200"), ("grpc-status", "8"), ("grpc-accept-encoding", "identity")])

    def talk(sock: socket.socket) -> None:
        sock.sendall(frames.headers(1, block, end=True))

    with peer(talk) as target:
        wire = connected(target, answers=True)
        until_ended(wire)
    assert wire.outcomes == {"status:8": 1, "accepts:identity": 1}
    assert wire.over == {1}


def test_a_flood_begins_again_where_it_was_ended() -> None:
    def talk(sock: socket.socket) -> None:
        sock.recv(65_536)
        sock.sendall(goodbye(11))

    with peer(talk) as target:
        stage = Stage(target, 1.0)
        stage.flood(lambda wire: iter([frames.ping()] * 1_000_000))
        report = stage.report()
    assert report["connections"] > 1
    assert report["endings"]["goaway:11"] >= 1
    assert report["longest_life"] < 1.0


def test_messages_by_hand_are_what_the_codec_reads() -> None:
    request = codec.decode(
        aggregator.GetAggregatedTensorRequest, payloads.get_tensor("one", payloads.SMALL, round_number=1)[5:]
    )
    assert (request.tensor_name, request.round_number, request.tags) == (payloads.SMALL, 1, ["model"])
    assert request.header is not None
    assert request.header.sender == "one"
    chunk = codec.decode(DataStream, payloads.chunk(b"abc"))
    assert (chunk.size, bytes(chunk.npbytes)) == (3, b"abc")


def test_every_attack_says_what_it_does_and_ci_plays_a_choice_of_them() -> None:
    assert len(ATTACKS) >= 40
    assert [attack.name for attack in ATTACKS.values() if len(attack.what) < 10] == []
    for link, least in ((PLAINTEXT, 10), (MTLS, 4)):
        assert len([attack for attack in ATTACKS.values() if link in attack.bounded]) >= least
    assert all(set(attack.bounded) <= set(attack.links) for attack in ATTACKS.values())
