"""Our channel in longer talks: going away, limits on streams, windows, deadlines, and calls that are given up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

import anyio
import anyio.lowlevel
import pytest

from openfl_aio.errors import (
    ConnectError,
    ConnectionLostError,
    DeadlineExceededError,
    MessageTooLargeError,
    OpenFLAioError,
    RemoteProtocolError,
)
from openfl_aio.transport.channel import translate
from openfl_aio.wire.messages import DataStream, aggregator
from tests.transport.http2.conformance.scripted import (
    HEAD,
    OK,
    SECONDS,
    TASKS,
    Connection,
    Script,
    answer,
    calling,
    outcome,
)
from tests.transport.http2.conformance.wire import (
    Code,
    Kind,
    Setting,
    block,
    data,
    goaway,
    headers,
    message,
    ping,
    reset,
    settings,
    varint,
    window_update,
)

pytestmark = pytest.mark.real_time

HALF: Final = message(b"\x10\x07")[:4]


async def not_http_2(connection: Connection) -> None:
    connection.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    connection.close()


async def closed_at_once(connection: Connection) -> None:
    connection.close()


async def broken_off_at_once(connection: Connection) -> None:
    connection.abort()


async def ping_instead_of_settings(connection: Connection) -> None:
    connection.send(ping())
    await connection.until(lambda: False)


@pytest.mark.parametrize("script", [not_http_2, closed_at_once, broken_off_at_once, ping_instead_of_settings])
async def test_a_server_that_is_none_is_a_lost_connection(script: Script) -> None:
    async with calling(script) as (stub, _):
        error = await outcome(stub)
        assert error is not None
        assert issubclass(error, (ConnectionLostError, ConnectError, RemoteProtocolError))
        assert await outcome(stub) is None


async def test_9113_3_4_the_client_begins_as_it_must() -> None:
    async with calling() as (stub, server):
        assert await outcome(stub) is None
        assert await outcome(stub) is None
        connection = server.connections[0]
    assert connection.preface == b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    assert (connection.frames[0].kind, connection.frames[0].flags) == (Kind.SETTINGS, 0)
    assert connection.settings[Setting.ENABLE_PUSH] == 0
    assert connection.settings_acks == 1


async def test_grpc_requests_are_well_formed() -> None:
    async with calling() as (stub, server):
        assert await outcome(stub, deadline=1.5) is None
        (fields,) = server.connections[0].fields.values()
    names = [name for name, _ in fields]
    assert set(names[:4]) == {":method", ":scheme", ":path", ":authority"}
    assert names.index("te") < names.index("content-type") or "te" in names
    found = dict(fields)
    assert found[":method"] == "POST"
    assert found[":scheme"] == "http"
    assert found[":path"] == "/openfl.aggregator.Aggregator/GetTasks"
    assert found["te"] == "trailers"
    assert found["content-type"].startswith("application/grpc")
    assert "grpc-timeout" in found
    assert [name for name in names if name != name.lower()] == []


async def test_grpc_ping_is_answered_at_any_time() -> None:
    async def script(connection: Connection) -> None:
        await connection.start()
        connection.send(ping(b"settings"))
        stream = await connection.request()
        connection.send(ping(b"-request") + headers(stream, HEAD) + ping(b"-headers") + data(stream, HALF))
        connection.send(ping(b"--within") + data(stream, message(b"\x10\x07")[4:]) + headers(stream, OK, end=True))
        connection.send(ping(b"trailers"))
        await connection.until(lambda: len(connection.pongs) == 5)

    async with calling(script) as (stub, server):
        assert await outcome(stub) is None
        assert await outcome(stub) is None
        assert server.connections[0].pongs == [b"settings", b"-request", b"-headers", b"--within", b"trailers"]


async def test_grpc_goaway_lets_calls_finish_and_sends_new_ones_elsewhere() -> None:
    said = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.start()
        stream = await connection.request()
        connection.send(goaway(stream) + ping())
        await connection.until(lambda: bool(connection.pongs))
        said.set()
        await asyncio.sleep(0.1)
        connection.send(answer(stream))

    async with calling(script) as (stub, server), anyio.create_task_group() as group:
        outcomes: list[type[OpenFLAioError] | None] = []

        async def first() -> None:
            outcomes.append(await outcome(stub))

        group.start_soon(first)
        await said.wait()
        assert await outcome(stub) is None
        assert len(server.connections) == 2, "the second call went to a connection of its own"
        group.cancel_scope.deadline = anyio.current_time() + SECONDS
        while not outcomes:
            await anyio.sleep(0.01)
        assert outcomes == [None]
        assert server.connections[0].ended == [1], "no call was begun after GOAWAY"


@pytest.mark.parametrize("limit", [1, 3])
async def test_grpc_no_more_streams_than_the_server_allows(limit: int) -> None:
    most = 0

    async def script(connection: Connection) -> None:
        nonlocal most
        await connection.start((Setting.MAX_CONCURRENT_STREAMS, limit))
        answered = 0
        while answered < 12:
            stream = await connection.request()
            await asyncio.sleep(0.005)
            connection.send(ping())  # what was sent meanwhile is read before the answer to it
            pongs = len(connection.pongs)
            await connection.until(lambda pongs=pongs: len(connection.pongs) > pongs)  # type: ignore[misc]
            most = max(most, len(connection.fields) - answered)
            connection.send(answer(stream))
            answered += 1

    async with calling(script) as (stub, server), anyio.create_task_group() as group:
        assert await outcome(stub) is None  # so that the client has seen the settings
        outcomes: list[type[OpenFLAioError] | None] = []

        async def call() -> None:
            outcomes.append(await outcome(stub))

        for _ in range(11):
            group.start_soon(call)
        while len(outcomes) < 11:
            await anyio.sleep(0.01)
        assert outcomes == [None] * 11
        assert len(server.connections) == 1
    assert most == limit


async def test_9113_5_1_2_a_limit_on_streams_may_rise() -> None:
    async def script(connection: Connection) -> None:
        await connection.start((Setting.MAX_CONCURRENT_STREAMS, 0))
        await connection.until(lambda: connection.settings_acks == 1)
        await asyncio.sleep(0.05)
        connection.send(settings((Setting.MAX_CONCURRENT_STREAMS, 10)))

    async with calling(script) as (stub, server):
        assert await outcome(stub) is None
        assert await outcome(stub) is None
        assert len(server.connections) == 1


async def test_grpc_goaway_does_not_keep_calls_waiting_that_were_not_begun() -> None:
    gone = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.start((Setting.MAX_CONCURRENT_STREAMS, 1))
        connection.send(answer(await connection.request()))
        stream = await connection.request()
        connection.send(goaway(stream) + ping())
        await connection.until(lambda: bool(connection.pongs))
        await gone.wait()
        connection.send(answer(stream))

    async with calling(script) as (stub, _), anyio.create_task_group() as group:
        assert await outcome(stub) is None
        outcomes: list[type[OpenFLAioError] | None] = []

        async def call() -> None:
            outcomes.append(await outcome(stub))

        group.start_soon(call)
        group.start_soon(call)
        while not outcomes:  # the call that waits for its turn is told at once, and may be made again
            await anyio.sleep(0.01)
        assert outcomes[0] in (None, ConnectionLostError, ConnectError)
        gone.set()
        while len(outcomes) < 2:
            await anyio.sleep(0.01)
        assert outcomes[1] is None
        assert await outcome(stub) is None


async def test_grpc_an_answer_of_many_small_messages() -> None:
    count = 5_000

    async def script(connection: Connection) -> None:
        await connection.start()
        stream = await connection.request()
        connection.send(
            headers(stream, HEAD) + data(stream, message(b"\x28\x07")) * count + headers(stream, OK, end=True)
        )

    async with calling(script) as (stub, server):
        with translate():
            rounds = [reply.round async for reply in stub.get_metric_stream(aggregator.GetMetricStreamRequest())]
        assert rounds == [7] * count
        assert await outcome(stub) is None
        assert len(server.connections) == 1


async def known(connection: Connection) -> None:
    """Answer the first call, and wait until the client keeps to the settings."""
    await connection.until(lambda: 1 in connection.fields)
    connection.send(window_update(1, 5))  # if the window is too small for a request
    connection.send(answer(await connection.request()))
    await connection.until(lambda: connection.settings_acks == 1)


def chunks(count: int, size: int) -> Iterator[DataStream]:
    """Return so many messages of an upload."""
    for _ in range(count):
        yield DataStream(size=size, npbytes=bytes(size))


@pytest.mark.parametrize(
    ("window", "frame_bytes"),
    [(1, 16_384), (1_000, 16_384), (65_535, 16_384), (200_000, 16_384), (200_000, 30_000), (2**31 - 1, 2**24 - 1)],
)
async def test_9113_6_9_uploads_keep_to_windows_and_frame_sizes(window: int, frame_bytes: int) -> None:
    total = 300 if window == 1 else 150_000
    sizes: list[int] = []

    async def script(connection: Connection) -> None:
        await connection.start((Setting.INITIAL_WINDOW_SIZE, window), (Setting.MAX_FRAME_SIZE, frame_bytes))
        await known(connection)
        of_stream, of_connection = window, 65_535 - len(connection.bodies[1])
        while 3 not in connection.ended:
            before = len(connection.frames)
            await connection.read()
            for one in connection.frames[before:]:
                if one.kind != Kind.DATA:
                    continue
                size = len(one.payload)
                sizes.append(size)
                assert size <= frame_bytes
                of_stream, of_connection = of_stream - size, of_connection - size
                assert of_stream >= 0, "beyond the stream's window"
                assert of_connection >= 0, "beyond the connection's window"
                if not of_stream:
                    connection.send(window_update(3, window))
                    of_stream = window
                if not of_connection:
                    connection.send(window_update(0, 65_535))
                    of_connection = 65_535
        connection.send(settings((Setting.INITIAL_WINDOW_SIZE, 65_535)) + window_update(0, 65_535))

    async with calling(script) as (stub, server):
        assert await outcome(stub) is None
        with anyio.fail_after(SECONDS), translate():
            await stub.send_local_task_results(chunks(3, total // 3))
        assert len(server.connections[0].bodies[3]) >= total
        assert await outcome(stub) is None
    assert sum(sizes) >= total


async def test_9113_6_9_2_a_window_that_shrinks_below_zero_is_waited_for() -> None:
    async def script(connection: Connection) -> None:
        await connection.start((Setting.INITIAL_WINDOW_SIZE, 10_000))
        await known(connection)
        await connection.until(lambda: len(connection.bodies.get(3, b"")) == 10_000)
        connection.send(settings((Setting.INITIAL_WINDOW_SIZE, 4_000)) + window_update(3, 6_000) + ping())
        await connection.until(lambda: bool(connection.pongs))
        assert len(connection.bodies[3]) == 10_000, "the window is 0 now"
        connection.send(window_update(3, 100) + ping())
        await connection.until(lambda: len(connection.pongs) == 2 and len(connection.bodies[3]) >= 10_100)
        assert len(connection.bodies[3]) == 10_100
        connection.send(window_update(3, 1_000_000))

    async with calling(script) as (stub, _):
        assert await outcome(stub) is None
        with anyio.fail_after(SECONDS), translate():
            await stub.send_local_task_results(chunks(1, 30_000))


async def test_grpc_a_deadline_resets_the_stream() -> None:
    async def script(connection: Connection) -> None:
        await connection.start()
        await connection.request()
        await connection.until(lambda: 1 in connection.resets)

    async with calling(script) as (stub, server):
        assert await outcome(stub, deadline=0.1) is DeadlineExceededError
        assert await outcome(stub) is None
        assert server.connections[0].resets == {1: Code.CANCEL}
        assert len(server.connections) == 1


async def test_grpc_a_call_given_up_resets_the_stream() -> None:
    async def script(connection: Connection) -> None:
        await connection.start()
        await connection.request()
        await connection.until(lambda: 1 in connection.resets)

    async with calling(script) as (stub, server):
        with anyio.move_on_after(0.1):
            await stub.get_tasks(TASKS)
        assert await outcome(stub) is None
        assert server.connections[0].resets == {1: Code.CANCEL}
        assert len(server.connections) == 1


async def test_9113_5_1_what_comes_after_our_reset_is_ignored() -> None:
    async def script(connection: Connection) -> None:
        await connection.start()
        await connection.request()
        await connection.until(lambda: 1 in connection.resets)
        connection.send(answer(1) + window_update(1, 1) + reset(1))

    async with calling(script) as (stub, server):
        assert await outcome(stub, deadline=0.1) is DeadlineExceededError
        assert await outcome(stub) is None
        assert len(server.connections) == 1


async def test_7541_4_2_a_server_without_a_header_table_gets_none() -> None:
    async def script(connection: Connection) -> None:
        await connection.start((Setting.HEADER_TABLE_SIZE, 0))
        await known(connection)
        connection.limit_header_table(0)

    async with calling(script) as (stub, _):
        assert [await outcome(stub) for _ in range(3)] == [None] * 3


@pytest.mark.parametrize("code", [Code.NO_ERROR, Code.CANCEL, None])
async def test_9113_8_1_an_upload_that_is_refused_early_ends_with_the_reason(code: Code | None) -> None:
    async def script(connection: Connection) -> None:
        await connection.start()
        await connection.until(lambda: 1 in connection.bodies)
        refusal = block([(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "8")])
        connection.send(headers(1, refusal, end=True) + window_update(0, 10_000_000))
        connection.send(window_update(1, 10_000_000) if code is None else reset(1, code))

    async with calling(script) as (stub, server):
        with pytest.raises(MessageTooLargeError), anyio.fail_after(SECONDS), translate():
            await stub.send_local_task_results(chunks(4, 1_000_000))
        assert await outcome(stub) is None
        assert len(server.connections) == 1


async def test_9113_8_1_an_answer_before_the_end_of_the_upload_is_taken() -> None:
    async def script(connection: Connection) -> None:
        await connection.start()
        await connection.until(lambda: 1 in connection.bodies)
        connection.send(answer(1) + reset(1, Code.NO_ERROR) + window_update(0, 10_000_000))

    async with calling(script) as (stub, server):
        with anyio.fail_after(SECONDS), translate():
            await stub.send_local_task_results(chunks(4, 1_000_000))
        assert await outcome(stub) is None
        assert len(server.connections) == 1


async def test_9113_6_9_an_answer_is_taken_with_the_windows_that_were_promised() -> None:
    size = 20_000_000

    async def script(connection: Connection) -> None:
        await connection.start()
        await connection.request()
        room = {0: 65_535, 1: connection.settings.get(Setting.INITIAL_WINDOW_SIZE, 65_535)}
        seen = 0

        def credit() -> None:
            nonlocal seen
            for one in connection.frames[seen:]:
                if one.kind == Kind.WINDOW_UPDATE:
                    room[one.stream] = room.get(one.stream, 0) + int.from_bytes(one.payload, "big")
            seen = len(connection.frames)

        connection.send(headers(1, HEAD))
        octets = memoryview(message(b"\x1a" + varint(size) + bytes(size)))
        while octets:
            credit()
            piece = octets[: min(room[0], room[1], 16_384)]
            if not piece:
                await connection.read()
                continue
            octets = octets[len(piece) :]
            room[0] -= len(piece)
            room[1] -= len(piece)
            connection.send(data(1, bytes(piece)))
            await connection.drain()
        connection.send(headers(1, OK, end=True))

    async with calling(script) as (stub, server):
        with anyio.fail_after(SECONDS), translate():
            replies = [reply async for reply in stub.get_metric_stream(aggregator.GetMetricStreamRequest())]
        assert [len(reply.metric_name) for reply in replies] == [size]
        assert await outcome(stub) is None
        assert len(server.connections) == 1
