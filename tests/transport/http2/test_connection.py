"""A connection on asyncio: deadlines, peers that do not read, the last word, and how it ends."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from openfl_aio.config import Limits
from openfl_aio.transport.http2 import frames
from openfl_aio.transport.http2.connection import LINGER_BYTES, LINGER_SECONDS, Connection, Shared
from openfl_aio.transport.http2.frames import END_STREAM, PING, ErrorCode, frame
from openfl_aio.transport.http2.messages import PREFIX
from openfl_aio.transport.http2.stream import Stream
from openfl_aio.transport.http2.windows import WindowPool
from tests.transport.http2.pipes import Pipe, join, nothing, served
from tests.transport.http2.recording import REQUEST, RESPONSE, TRAILERS, data, head, message, settings

LIMITS = Limits()
QUESTION = frame(PING, 0, 0, bytes(8))


@pytest.fixture(autouse=True)
def a_fast_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing cost so much time that reading is paused for it."""
    monkeypatch.setattr("openfl_aio.transport.http2.connection.time.thread_time", lambda: 0.0)


def names(sent: list[Any]) -> list[str]:
    return [type(one).__name__.removesuffix("Frame") for one in sent]


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def read_all(stream: Stream) -> None:
    while await stream.receive() is not None:
        pass


# ------------------------------------------------------------------------------------------------------ deadlines


async def test_who_does_not_greet_in_time_is_sent_away() -> None:
    connection, pipe, _ = served(ready=False)
    pipe.sent()
    began = connection.now()
    connection.check(began + LIMITS.preface_seconds - 0.1)
    assert pipe.sent() == []
    connection.check(began + LIMITS.preface_seconds)

    (last,) = pipe.sent()
    assert last.error_code == ErrorCode.SETTINGS_TIMEOUT
    await asyncio.sleep(LINGER_SECONDS + 0.1)
    assert pipe.lost


async def test_a_header_block_must_end_in_time() -> None:
    connection, pipe, _ = served()
    pipe.give(head(1, flags=0))
    began = connection.now()
    connection.check(began + LIMITS.header_seconds - 0.1)
    assert pipe.sent() == []
    connection.check(began + LIMITS.header_seconds)

    assert pipe.sent()[-1].error_code == ErrorCode.PROTOCOL_ERROR


async def test_a_message_must_come_on() -> None:
    connection, pipe, handlers = served(read_all)
    pipe.give(head(1), data(1, PREFIX.pack(0, 1000)))
    await turns()
    began = connection.now()
    connection.check(began + LIMITS.progress_seconds - 1)
    pipe.give(data(1, b"more"))
    connection.check(began + LIMITS.progress_seconds)
    connection.check(began + 2 * LIMITS.progress_seconds - 1)
    assert pipe.sent() == []
    connection.check(began + 2 * LIMITS.progress_seconds)

    reset = pipe.sent()[0]
    assert (reset.stream_id, reset.error_code) == (1, ErrorCode.CANCEL)
    await turns()
    assert handlers.resets == ["no progress in time"]
    pipe.give(QUESTION)
    assert names(pipe.sent()) == ["Ping"], "the connection goes on"


async def test_a_handler_that_takes_its_time_is_not_its_callers_fault() -> None:
    connection, pipe, handlers = served(nothing)
    pipe.give(head(1), data(1, PREFIX.pack(0, 1000)))
    await turns()
    connection.check(connection.now() + LIMITS.progress_seconds + 1)

    assert handlers.resets == []


@pytest.mark.parametrize("crumbs", [0, 1000, 40_000])
async def test_an_answer_must_be_taken(crumbs: int) -> None:
    async def answer(stream: Stream) -> None:
        await stream.send_headers(RESPONSE)
        await stream.send([bytes(200_000)])

    connection, pipe, handlers = served(answer)
    pipe.give(settings(initial_window_size=0), head(1, end=True))
    await turns()
    pipe.sent()
    began = connection.now()
    connection.check(began + LIMITS.progress_seconds - 1)
    assert pipe.sent() == []
    if crumbs:
        pipe.give(frames.window_frame(1, crumbs))
        await turns()
        assert names(pipe.sent()) == ["Data"] * -(-crumbs // 16_384)
    connection.check(began + LIMITS.progress_seconds)

    # a few bytes would let a peer hold on to an answer for ever
    assert bool(handlers.resets) is (crumbs < 32 * 1024)


async def test_a_connection_without_calls_ends_in_friendship() -> None:
    connection, pipe, _ = served()
    pipe.give(head(1, end=True), frames.reset_frame(1, ErrorCode.CANCEL))
    await turns()
    began = connection.now()
    connection.check(began + LIMITS.idle_seconds - 1)
    assert not pipe.closing
    pipe.sent()
    connection.check(began + LIMITS.idle_seconds)

    assert pipe.sent()[-1].error_code == ErrorCode.NO_ERROR
    assert pipe.closing


@pytest.mark.parametrize("given_up", [False, True])
async def test_a_connection_with_a_call_or_a_handler_that_is_alive_is_not_idle(given_up: bool) -> None:
    async def stubborn(stream: Stream) -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if stream.lost is None:
                    raise

    connection, pipe, handlers = served(stubborn)
    pipe.give(head(1, end=True))
    await turns()
    if given_up:
        pipe.give(frames.reset_frame(1, ErrorCode.CANCEL))
        await turns()
    connection.check(connection.now() + 0.9 * LIMITS.idle_seconds)
    pipe.give(frame(PING, frames.ACK, 0, b"openflai"))
    connection.check(connection.now() + 2 * LIMITS.idle_seconds)

    assert not pipe.closing
    handlers.streams[0].lost = None
    handlers.tasks[0].cancel()
    await turns()
    assert connection.engine.busy == 0


async def test_a_silent_peer_is_asked_and_stays_if_it_answers() -> None:
    connection, pipe, handlers = served(nothing)
    pipe.give(head(1, end=True))
    await asyncio.sleep(LIMITS.keepalive_seconds - 1)
    connection.check(connection.now())
    assert pipe.sent() == []
    await asyncio.sleep(1)
    connection.check(connection.now())
    (question,) = pipe.sent()
    assert names([question]) == ["Ping"]
    await asyncio.sleep(LIMITS.keepalive_timeout)
    pipe.give(frame(PING, frames.ACK, 0, question.opaque_data))
    connection.check(connection.now())
    assert not pipe.lost
    assert pipe.sent() == []
    # this time it is really gone
    await asyncio.sleep(LIMITS.keepalive_seconds)
    connection.check(connection.now())
    await asyncio.sleep(LIMITS.keepalive_timeout - 1)
    connection.check(connection.now())
    assert not pipe.lost
    await asyncio.sleep(1)
    connection.check(connection.now())

    assert pipe.lost
    assert handlers.resets == ["Connection lost"]
    connection.check(connection.now() + 1000)  # nothing is left to end


# ------------------------------------------------------------------------------------------------------ the last word


async def test_the_last_word_is_written_before_the_end_and_what_comes_meanwhile_is_not_looked_at() -> None:
    connection, pipe, handlers = served()
    pipe.give(head(1, end=True))
    await turns()
    pipe.give(data(0))

    assert pipe.sent()[-1].error_code == ErrorCode.PROTOCOL_ERROR
    assert pipe.ended
    assert connection.is_closing()
    assert not connection.usable
    assert not pipe.lost
    assert handlers.resets == ["Protocol error"]
    pipe.give(b"\xff" * 1000)
    connection.check(connection.now() + 1000)
    await asyncio.sleep(LINGER_SECONDS - 0.1)
    assert not pipe.lost
    await asyncio.sleep(0.2)
    assert pipe.lost
    assert pipe.sent() == []


async def test_who_goes_on_sending_after_the_last_word_is_cut_off() -> None:
    _, pipe, _ = served()
    pipe.give(data(0))
    pipe.give(bytes(LINGER_BYTES))
    assert not pipe.lost
    pipe.give(b"x")

    assert pipe.lost


async def test_violations_are_counted_and_limits_are_logged_but_not_without_limit(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="openfl_aio")
    shared = Shared(Limits(control_burst=1))
    for _ in range(25):
        _, pipe, _ = served(shared=shared, ready=False)
        pipe.give(frames.PREFACE, settings(), QUESTION * 3)
    _, pipe, _ = served(shared=shared, ready=False)
    pipe.give(b"GET / HTTP/1.1\r\n\r\n")

    assert (shared.calmed, shared.faults) == (25, 1)
    assert len(caplog.records) == 10
    assert "[::1]:4711: connection ended: ENHANCE_YOUR_CALM, too many " in caplog.text
    await asyncio.sleep(1.5)
    _, pipe, _ = served(shared=shared, ready=False)
    pipe.give(frames.PREFACE, settings(), QUESTION * 3)
    assert "(15 more such lines were left out)" in caplog.text


async def test_a_peer_that_is_turned_away_hears_why_and_its_call_is_not_begun() -> None:
    _, pipe, handlers = served(ready=False, on_ready=lambda connection: False)
    pipe.give(frames.PREFACE, settings(), head(1, end=True))
    await turns()

    assert pipe.sent()[-1].error_code == ErrorCode.ENHANCE_YOUR_CALM
    assert handlers.streams == []


# ------------------------------------------------------------------------------------------------------ not reading


async def test_a_peer_that_takes_no_answers_is_not_read_on() -> None:
    _, pipe, _ = served(limits=Limits(max_queued_bytes=1000, control_burst=10_000))
    pipe.taken = False
    pipe.give(QUESTION * 100)
    assert pipe.reading
    pipe.give(QUESTION * 2000)
    assert pipe.reading
    pipe.give(QUESTION * 3000)
    assert not pipe.reading
    assert len(pipe.buffer) < 10_000, "what is not taken waits in the engine"

    pipe.take()
    await turns()
    assert pipe.reading
    assert len(pipe.sent()) == 5100


async def test_a_client_reads_on_whatever_its_server_does() -> None:
    client, server, _ = await join(limits=Limits(control_burst=100_000, max_queued_bytes=1000))
    pipe = client._transport
    assert isinstance(pipe, Pipe)
    pipe.taken = False
    for _ in range(20):
        server.engine.out.append(QUESTION * 500)
        server.flush()
        await turns()

    assert pipe.reading
    assert client._writer.queued > 64 * 1024
    pipe.take()
    await turns(20)
    assert client._writer.queued == 0


async def test_a_sender_waits_until_what_it_sent_is_taken() -> None:
    sent = []

    async def answer(stream: Stream) -> None:
        await stream.send_headers(RESPONSE)
        for number in range(20):
            await stream.send([bytes(50_000)])
            sent.append(number)
        await stream.send_headers(TRAILERS, end_stream=True)

    _, pipe, handlers = served(answer, limits=Limits(max_queued_bytes=100_000))
    pipe.taken = False
    pipe.give(settings(initial_window_size=2**31 - 1), frames.window_frame(0, 1 << 30), head(1, end=True))
    await turns(100)
    assert len(pipe.buffer) < 200_000
    assert 1 <= len(sent) <= 4

    for _ in range(100):
        pipe.buffer.clear()
        pipe.take()
        await turns()
    assert len(sent) == 20
    assert handlers.tasks[0].done()
    assert handlers.tasks[0].exception() is None


# ------------------------------------------------------------------------------------------------------ ends


async def test_a_lost_connection_tells_every_call_and_lets_go_of_everything() -> None:
    lost = []
    shared = Shared(Limits(stream_window=65_535, connection_window=65_535))
    whole = shared.pool.left
    connection, pipe, handlers = served(read_all, shared=shared, on_lost=lambda: lost.append(True))
    pipe.give(head(1), head(3))
    for _ in range(20):
        pipe.give(data(1, message(bytes(20_000))))
        await turns()
    assert shared.pool.left < whole
    assert shared.connections == {connection}
    pipe.abort()
    await turns()

    assert lost == [True]
    assert handlers.resets == ["Connection lost"] * 2
    assert shared.pool.left == whole
    assert shared.connections == set()
    assert shared.emptied.is_set()
    assert connection.engine.busy == 0
    connection.write([b"x"])
    connection.flush()
    connection.close()
    connection.abort()
    assert connection.get_extra_info("peername") is None


async def test_a_connection_that_is_aborted_before_it_is_made_is_closed_at_once() -> None:
    connection = Connection(Shared(Limits()))
    connection.close()
    connection.abort()
    pipe = Pipe(connection)
    connection.connection_made(pipe)

    assert pipe.lost


async def test_closing_sends_what_is_left_and_gives_a_peer_that_does_not_take_it_a_moment() -> None:
    connection, pipe, handlers = served()
    pipe.give(head(1, end=True))
    await turns()
    pipe.taken = False
    connection.engine.ping(bytes(8))
    connection.close("Server is stopping")

    assert handlers.resets == ["Server is stopping"]
    assert names(parse_of(pipe)) == ["Ping"]
    await asyncio.sleep(LINGER_SECONDS - 0.1)
    assert not pipe.lost
    await asyncio.sleep(0.2)
    assert pipe.lost


def parse_of(pipe: Pipe) -> list[Any]:
    kept = bytes(pipe.buffer)
    found = pipe.sent()
    pipe.buffer += kept
    return found


async def test_draining_says_goodbye_once_and_lets_calls_finish() -> None:
    async def answer(stream: Stream) -> None:
        await read_all(stream)
        await stream.send_headers(RESPONSE + TRAILERS, end_stream=True)

    connection, pipe, handlers = served(answer)
    pipe.give(head(1))
    await turns()
    connection.go_away()
    connection.go_away()
    (goodbye,) = pipe.sent()
    assert (goodbye.last_stream_id, goodbye.error_code) == (1, ErrorCode.NO_ERROR)
    pipe.give(head(3), data(1, message(b"x"), end=True))
    await turns()

    refused, answered = pipe.sent()
    assert (refused.stream_id, refused.error_code) == (3, ErrorCode.REFUSED_STREAM)
    assert (answered.stream_id, "END_STREAM" in answered.flags) == (1, True)
    assert handlers.resets == []


async def test_calls_that_come_and_are_given_up_in_one_piece_are_never_begun() -> None:
    connection, pipe, handlers = served()
    pipe.give(*(head(number) + frames.reset_frame(number, ErrorCode.CANCEL) for number in range(1, 100, 2)))
    await turns(10)

    assert handlers.streams == []
    assert connection.engine.busy == 0


async def test_an_odd_goodbye_ends_every_call_of_a_client(caplog: pytest.LogCaptureFixture) -> None:
    client, server, _ = await join()
    stream = client.create_stream()
    await stream.send_request([(":method", "POST"), (":scheme", "http"), (":path", "/a/b")], end_stream=True)
    await turns()
    server.engine.out.append(frame(frames.GOAWAY, 0, 0, b"\0\0\0\x01\xde\xad\xbe\xef" + b"go\naway"))
    server.flush()
    await turns()

    assert stream.lost is not None
    assert not client.usable
    assert "\n" not in caplog.messages[-1], "what a peer says makes no line of its own"


async def test_a_client_goes_once_its_server_says_goodbye_and_its_calls_are_done() -> None:
    async def answer(stream: Stream) -> None:
        await read_all(stream)
        await stream.send_headers(RESPONSE + TRAILERS, end_stream=True)

    client, server, _ = await join(answer)
    stream = client.create_stream()
    release = await stream.send_request([(":method", "POST"), (":scheme", "http"), (":path", "/a/b")])
    await turns()
    server.go_away()
    await turns()
    assert not client.usable
    assert not client.is_closing()
    with pytest.raises(ConnectionResetError):
        await client.create_stream().send_request([], end_stream=True)
    await stream.end()
    assert await stream.recv_headers() == RESPONSE + TRAILERS
    release()
    await turns(10)

    assert client.is_closing()
    idle, server, _ = await join()
    server.go_away()
    await turns()
    assert idle.is_closing()


async def test_what_comes_for_a_call_that_nobody_waits_for_is_counted_and_forgotten() -> None:
    async def answer(stream: Stream) -> None:
        await stream.send_headers(RESPONSE)
        await stream.send([bytes(300_000)])
        await stream.send_headers(TRAILERS, end_stream=True)

    for way in ("all", "none"):
        client, server, _ = await join(answer)
        stream = client.create_stream()
        release = await stream.send_request(REQUEST, end_stream=True)
        record = stream.record
        release()
        if way == "none":
            server.engine.reset(server.engine.streams.get(1, record), ErrorCode.CANCEL)
        await turns(50)
        assert client.engine.fault is None
        assert client.engine.streams == {}
        assert client.engine._window.left >= client.engine._window.size // 2
        assert record.inbound.take() is None


async def test_headers_wait_too_while_nothing_is_taken() -> None:
    async def answer(stream: Stream) -> None:
        await asyncio.sleep(0.1)
        await stream.send_headers(RESPONSE + TRAILERS, end_stream=True)

    connection, pipe, handlers = served(answer, limits=Limits(max_queued_bytes=100))
    pipe.give(head(1, end=True))
    pipe.taken = False
    pipe.give(QUESTION * 20)
    assert not connection.writable
    await asyncio.sleep(1)
    assert not handlers.tasks[0].done()
    connection.check(connection.now() + LIMITS.progress_seconds - 2)
    assert handlers.resets == []
    pipe.take()
    await turns()

    assert handlers.tasks[0].done()
    assert names(pipe.sent()) == ["Ping"] * 20 + ["Headers"]


async def test_many_answers_at_once_take_turns() -> None:
    async def answer(stream: Stream) -> None:
        await stream.send_headers(RESPONSE)
        await stream.send([bytes(3_000_000)])
        await stream.send_headers(TRAILERS, end_stream=True)

    client, _, handlers = await join(answer)
    streams = [client.create_stream() for _ in range(40)]
    for stream in streams:
        await stream.send_request(REQUEST, end_stream=True)

    async def read(stream: Stream) -> int:
        whole = await stream.receive()
        assert whole is not None
        return len(whole)

    assert await asyncio.gather(*map(read, streams)) == [3_000_000] * 40
    await turns(50)
    assert all(task.done() for task in handlers.tasks)


async def test_windows_that_were_had_are_given_back_by_clients_too() -> None:
    client, _, _ = await join()
    pool: WindowPool = client._shared.pool
    whole = pool.left
    client.abort()

    assert pool.left == whole


async def test_a_connection_says_whose_it_is() -> None:
    connection, _, _ = served()

    assert repr(connection) == "<Connection [::1]:4711>"
    assert connection.connection is connection
    assert connection.serves
    assert str(connection.get_peer().addr()) == "('::1', 4711, 0, 0)"
    assert END_STREAM == 1
