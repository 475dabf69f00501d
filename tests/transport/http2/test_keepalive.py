"""A client asks a silent server whether it is there, no oftener than servers of others allow, and gives a dead one up."""

from __future__ import annotations

import asyncio
import socket
from itertools import pairwise
from typing import Any

import pytest

from openfl_aio.config import Limits
from openfl_aio.transport.http2 import frames
from openfl_aio.transport.http2.connection import Connection
from openfl_aio.transport.http2.frames import ACK, OUR_PING, PING, frame
from openfl_aio.transport.http2.keepalive import POLITE_SECONDS
from openfl_aio.transport.http2.shared import Shared
from openfl_aio.transport.http2.stream import Stream
from openfl_aio.transport.sockets import unsent_bytes
from tests.transport.http2.pipes import Pipe
from tests.transport.http2.recording import RESPONSE, TRAILERS, head

LIMITS = Limits()
SILENCE, PATIENCE = LIMITS.keepalive_seconds, LIMITS.keepalive_timeout
QUESTION = [(":method", "POST"), (":scheme", "http"), (":path", "/a/b")]


def client() -> tuple[Connection, Pipe]:
    """Return a client's connection and the pipe of which the test is the server."""
    connection = Connection(Shared(LIMITS, client=True))
    pipe = Pipe(connection)
    connection.connection_made(pipe)
    pipe.give(frames.settings_frame({}))
    pipe.buffer.clear()  # the preface
    return connection, pipe


async def call(connection: Connection, pipe: Pipe) -> Stream:
    stream = connection.create_stream()
    await stream.send_request(QUESTION, end_stream=True)
    await asyncio.sleep(0)
    pipe.sent()
    return stream


def pings(pipe: Pipe) -> list[bytes]:
    """Return the payloads of the questions that were asked since the last time."""
    return [one.opaque_data for one in pipe.sent() if type(one).__name__ == "PingFrame"]


async def test_a_server_that_does_not_answer_is_given_up() -> None:
    connection, pipe = client()
    stream = await call(connection, pipe)
    await asyncio.sleep(SILENCE - 1)
    assert pings(pipe) == []
    await asyncio.sleep(1.5)
    assert pings(pipe) == [OUR_PING]
    await asyncio.sleep(PATIENCE - 1)
    assert not pipe.lost
    await asyncio.sleep(1)

    assert pipe.lost
    assert stream.lost == "the server does not answer"


async def test_silence_without_a_call_means_nothing() -> None:
    connection, pipe = client()
    await asyncio.sleep(10 * SILENCE)
    stream = await call(connection, pipe)
    await asyncio.sleep(SILENCE - 1)
    assert pings(pipe) == []  # the silence before the call does not count
    stream.reset_nowait()
    stream.release()
    await asyncio.sleep(10 * SILENCE)
    assert pings(pipe) == []
    assert not pipe.lost


async def test_who_answers_is_asked_again_but_not_so_often_that_servers_of_others_mind() -> None:
    connection, pipe = client()
    await call(connection, pipe)
    asked = []
    began = connection.now()
    while connection.now() - began < 3 * POLITE_SECONDS:
        await asyncio.sleep(1)
        for payload in pings(pipe):
            asked.append(connection.now() - began)
            pipe.give(frame(PING, ACK, 0, payload))
    assert not pipe.lost
    assert len(asked) == 3
    assert asked[0] <= SILENCE + 1
    assert all(later - earlier >= 300 for earlier, later in pairwise(asked))


async def test_after_an_answer_a_server_may_be_asked_again() -> None:
    connection, pipe = client()
    for number in range(1, 6, 2):
        stream = await call(connection, pipe)
        await asyncio.sleep(SILENCE + 1)
        assert pings(pipe) == [OUR_PING]
        pipe.give(frame(PING, ACK, 0, OUR_PING))
        await asyncio.sleep(PATIENCE)
        pipe.give(head(number, fields=RESPONSE + TRAILERS, end=True))
        stream.release()


async def test_a_server_that_asks_as_ours_do_is_asked_as_often() -> None:
    connection, pipe = client()
    await call(connection, pipe)
    pipe.give(frame(PING, 0, 0, OUR_PING))
    pipe.sent()
    count = 0
    for _ in range(int(5 * SILENCE)):
        await asyncio.sleep(1)
        for payload in pings(pipe):
            count += 1
            pipe.give(frame(PING, ACK, 0, payload))
    assert count >= 4  # a question a period, where others get one in five


async def test_any_byte_is_an_answer() -> None:
    connection, pipe = client()
    await call(connection, pipe)
    await asyncio.sleep(SILENCE + 1)
    assert pings(pipe) == [OUR_PING]
    pipe.give(frames.window_frame(0, 1))
    await asyncio.sleep(PATIENCE)
    assert not pipe.lost


async def test_a_question_behind_bytes_that_still_leave_may_take_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    unsent = [300, 200, 100, 100]

    def left(sock: Any) -> int:
        return unsent.pop(0)

    monkeypatch.setattr("openfl_aio.transport.http2.keepalive.unsent_bytes", left)
    connection, pipe = client()
    await call(connection, pipe)
    await asyncio.sleep(SILENCE + 0.5 + 2 * PATIENCE)
    assert not pipe.lost
    await asyncio.sleep(PATIENCE)
    assert pipe.lost
    assert unsent == []


async def test_a_lost_connection_leaves_no_timer() -> None:
    connection, pipe = client()
    await call(connection, pipe)
    pipe.abort()
    assert connection.keepalive is not None
    assert connection.keepalive._timer is None


def test_what_a_socket_has_not_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = socket.create_connection(listener.getsockname())
        with sender:
            assert unsent_bytes(sender) == 0
            sender.setblocking(False)
            while True:
                try:
                    sender.send(bytes(1 << 20))
                except BlockingIOError:
                    break
            assert unsent_bytes(sender) > 0
    assert unsent_bytes(sender) == 0
    assert unsent_bytes(None) == 0
