"""A call's stream over two joined connections: messages both ways, early answers, ends of all kinds, and fair turns."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import Any

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError
from h2.exceptions import StreamClosedError

from openfl_aio.config import Limits
from openfl_aio.errors import MalformedMessageError, MessageTooLargeError
from openfl_aio.transport.http2.connection import Connection
from openfl_aio.transport.http2.frames import ErrorCode, window_frame
from openfl_aio.transport.http2.messages import PREFIX
from openfl_aio.transport.http2.stream import CompressedMessageError, Stream
from openfl_aio.transport.wrappers import CleanWrapper
from tests.transport.http2.pipes import Pipe, join, nothing, served
from tests.transport.http2.recording import REQUEST, RESPONSE, TRAILERS, data, head, message, settings

OPEN = Limits(control_burst=10_000, small_frame_burst=100_000)


@pytest.fixture(autouse=True)
def a_fast_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing cost so much time that reading is paused for it."""
    monkeypatch.setattr("openfl_aio.transport.http2.connection.time.thread_time", lambda: 0.0)


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def begin(client: Connection, *, end: bool = False) -> Stream:
    stream = client.create_stream()
    await stream.send_request(REQUEST, end_stream=end)
    return stream


async def messages(stream: Stream) -> list[bytes]:
    found = []
    while (one := await stream.receive()) is not None:
        found.append(bytes(one))
    return found


async def echo(stream: Stream) -> None:
    """Answer each message with itself."""
    await stream.send_headers(RESPONSE)
    while (one := await stream.receive()) is not None:
        await stream.send([bytes(one)])
    await stream.send_headers(TRAILERS, end_stream=True)


async def take(stream: Stream) -> None:
    """Read everything and answer with the number of bytes."""
    size = 0
    while (one := await stream.receive()) is not None:
        size += len(one)
    await stream.send_headers(RESPONSE)
    await stream.send([str(size).encode()])
    await stream.send_headers(TRAILERS, end_stream=True)


# ------------------------------------------------------------------------------------------------------ messages


@pytest.mark.parametrize("sizes", [[], [0], [1, 2, 3], [10_000] * 40, [5_000_000], [0, 70_000, 0, 300_000, 16_384 - 5]])
@pytest.mark.parametrize("pooled", [False, True])
async def test_messages_go_there_and_back(sizes: list[int], pooled: bool) -> None:
    client, server, handlers = await join(echo, limits=Limits(max_request_bytes=6_000_000), pooled=pooled)
    stream = await begin(client)
    sent = [bytes([number]) * size for number, size in enumerate(sizes)]

    async def send() -> None:
        for number, one in enumerate(sent):
            await stream.send([one[:100], one[100:]], end=number == len(sent) - 1)
        if not sent:
            await stream.end()

    sending = asyncio.create_task(send())
    assert await stream.recv_headers() == RESPONSE
    assert await messages(stream) == sent
    assert await stream.recv_trailers() == TRAILERS
    assert await stream.recv_headers() == RESPONSE
    await sending
    stream.release()
    await turns()

    assert client.engine.streams == server.engine.streams == {}
    assert server.engine.busy == 0
    assert [task.exception() for task in handlers.tasks] == [None]


async def test_grpclibs_way_of_sending_is_understood() -> None:
    client, _, _ = await join(take)
    stream = await begin(client)
    await stream.send_data(message(b"abc"))
    await stream.send_data(b"", end_stream=True)

    assert await messages(stream) == [b"3"]
    assert stream.id == 1
    assert stream._transport is stream, "grpclib asks it whether it is closing"
    assert repr(stream) == "<Stream 1 of <Connection [::1]:4711>>"


async def test_a_view_is_valid_until_the_next_message_is_asked_for() -> None:
    seen: list[Any] = []

    async def look(stream: Stream) -> None:
        while (one := await stream.receive()) is not None:
            before = bytes(one)
            await turns(20)  # the next one arrives meanwhile
            seen.append(before == bytes(one))

    client, _, _ = await join(look, pooled=True)
    stream = await begin(client)
    for number in range(5):
        await stream.send([bytes([number]) * 100_000], end=number == 4)
    await turns(300)

    assert seen == [True] * 5


async def test_memory_of_an_upload_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    allocated = []

    def count(size: int) -> memoryview:
        allocated.append(size)
        return memoryview(bytearray(size))

    monkeypatch.setattr("openfl_aio.transport.http2.messages.allocate", count)
    limits = Limits(max_stream_window=1 << 20)
    client, _, _ = await join(take, pooled=True, limits=limits)
    stream = await begin(client)
    for number in range(200):
        await stream.send([bytes(100_000)], end=number == 199)
    assert await messages(stream) == [b"20000000"]

    assert len([size for size in allocated if size > 65_536]) <= 12, "more than the window holds"


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (PREFIX.pack(1, 3) + b"abc", CompressedMessageError),
        (PREFIX.pack(0, 1001), MessageTooLargeError),
        (PREFIX.pack(0, 900) + b"abc", MalformedMessageError),
        (b"\0\0", MalformedMessageError),
    ],
)
async def test_a_bad_message_is_told_after_the_good_ones(wrong: bytes, error: type[Exception]) -> None:
    told: list[Any] = []

    async def read(stream: Stream) -> None:
        try:
            while (one := await stream.receive()) is not None:
                told.append(bytes(one))
        except Exception as exc:
            told.append(type(exc))

    _, pipe, _ = served(read, limits=Limits(max_request_bytes=1000))
    pipe.give(head(1), data(1, message(b"good") + message(b"better") + wrong, end=True))
    await turns()

    assert told == [b"good", b"better", error]


async def test_a_reader_of_many_small_messages_lets_others_have_their_turn() -> None:
    others = []

    async def read(stream: Stream) -> None:
        while await stream.receive() is not None:
            others.append(False)

    _, pipe, handlers = served(read, limits=OPEN)
    pipe.give(head(1), data(1, message(b"x") * 100, end=True))

    async def other() -> None:
        while not handlers.tasks or not handlers.tasks[0].done():
            others.append(True)
            await asyncio.sleep(0)

    await asyncio.wait_for(other(), 10)
    together = "".join("o" if other else "." for other in others)
    assert max(map(len, together.split("o"))) <= 32


# ------------------------------------------------------------------------------------------------------ ends


async def test_a_cancelled_call_ends_its_handler() -> None:
    client, server, handlers = await join(nothing)
    stream = await begin(client)
    await turns()
    await stream.reset()
    stream.release()
    await turns()

    assert handlers.resets == ["Stream reset by remote party, error_code: 8"]
    assert server.engine.streams == client.engine.streams == {}
    assert not stream.closable


@pytest.mark.parametrize("what", ["receive", "recv_headers", "recv_trailers"])
@pytest.mark.parametrize("late", [False, True])
async def test_a_lost_connection_wakes_whoever_waits(what: str, late: bool) -> None:
    client, server, _ = await join(nothing)
    stream = await begin(client, end=True)
    await turns()
    if late:
        server.abort()
    waiting = asyncio.create_task(getattr(stream, what)())
    await turns()
    server.abort()
    with pytest.raises(StreamTerminatedError, match="Connection lost"):
        await asyncio.wait_for(waiting, 1)
    assert stream.is_closing()
    with pytest.raises(StreamClosedError):
        await stream.send([b"x"])


async def test_a_lost_connection_wakes_whoever_sends() -> None:
    client, server, _ = await join(nothing)
    stream = await begin(client)
    pipe = client._transport
    assert isinstance(pipe, Pipe)
    pipe.taken = False
    sending = asyncio.create_task(stream.send([bytes(20_000_000)]))
    await turns()
    assert not sending.done()
    server.abort()
    with pytest.raises(StreamClosedError):
        await asyncio.wait_for(sending, 1)


async def test_an_answer_may_come_before_the_request_is_complete() -> None:
    async def refuse(stream: Stream) -> None:
        await stream.receive()
        await stream.send_headers([*RESPONSE, ("grpc-status", "8")], end_stream=True)

    client, server, handlers = await join(refuse)
    stream = await begin(client)
    stream.wrapper = wrapper = CleanWrapper()
    await stream.send([b"first"])
    with pytest.raises(StreamTerminatedError), wrapper:
        await stream.send([bytes(1_000_000) for _ in range(50)])  # more than the windows hold

    assert (await stream.recv_headers())[-1] == ("grpc-status", "8")
    assert await stream.receive() is None
    assert client.engine.streams == server.engine.streams == {}
    assert client.usable
    assert handlers.resets == []


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (ErrorCode.REFUSED_STREAM, Status.UNAVAILABLE),
        (ErrorCode.ENHANCE_YOUR_CALM, Status.RESOURCE_EXHAUSTED),
        (ErrorCode.CANCEL, None),
        (ErrorCode.INTERNAL_ERROR, None),
    ],
)
async def test_a_reset_means_to_a_client_what_grpc_says(code: ErrorCode, status: Status | None) -> None:
    async def refuse(stream: Stream) -> None:
        await stream.reset(code)

    client, _, _ = await join(refuse)
    stream = await begin(client, end=True)
    stream.wrapper = wrapper = CleanWrapper()
    with pytest.raises((GRPCError, StreamTerminatedError)) as caught, wrapper:
        await stream.recv_headers()

    assert getattr(caught.value, "status", None) is status


async def test_an_answer_without_a_status_is_malformed() -> None:
    async def forget(stream: Stream) -> None:
        await stream.send_headers(RESPONSE)
        await stream.end()

    client, _, _ = await join(forget)
    stream = await begin(client, end=True)
    await turns()
    with pytest.raises(MalformedMessageError, match="without a status"):
        await stream.recv_trailers()


async def test_what_is_closed_cannot_be_sent_on() -> None:
    client, _, _ = await join(echo)
    stream = await begin(client, end=True)
    send, whole = stream.send, stream.send_data
    for act in (stream.end, partial(send, [b"x"]), partial(whole, b""), partial(send, [bytes(99_999)])):
        with pytest.raises(StreamClosedError):
            await act()
    assert await stream.recv_headers() == RESPONSE


async def test_a_stream_that_was_never_opened_can_be_let_go_of() -> None:
    client, _, _ = await join(echo)
    stream = client.create_stream()
    assert stream.id is None
    stream.release()

    assert client.engine.streams == {}


# ------------------------------------------------------------------------------------------------------ turns


async def test_more_calls_than_the_server_takes_wait_until_others_end() -> None:
    async def answer(stream: Stream) -> None:
        await messages(stream)
        await stream.send_headers(RESPONSE + TRAILERS, end_stream=True)

    client, _, handlers = await join(answer, limits=Limits(max_streams=2))
    first, second = await begin(client), await begin(client)
    third = asyncio.create_task(begin(client))
    await turns()
    assert not third.done()
    await second.end()
    await second.recv_headers()
    second.release()

    assert (await asyncio.wait_for(third, 1)).id == 5
    await first.end()
    await first.recv_headers()
    assert handlers.resets == []


async def test_calls_that_wait_are_told_when_the_connection_is_lost() -> None:
    client, _, _ = await join(nothing, limits=Limits(max_streams=1))
    await begin(client)
    waiting = asyncio.create_task(begin(client))
    await turns()
    client.abort()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(waiting, 1)


async def test_a_small_call_does_not_wait_for_two_large_ones() -> None:
    order: list[str] = []
    client, _, _ = await join(take, limits=Limits(max_request_bytes=60_000_000))

    async def call(name: str, parts: Iterable[bytes]) -> None:
        stream = await begin(client)
        await stream.send(list(parts), end=True)
        await messages(stream)
        order.append(name)

    large = [asyncio.create_task(call(name, [bytes(50_000_000)])) for name in ("one", "two")]
    await turns(20)
    small = asyncio.create_task(call("small", [b"x"]))
    await asyncio.gather(*large, small)

    assert order[0] == "small"


async def test_two_large_answers_share_the_connection() -> None:
    left: dict[int, list[int]] = {}

    async def answer(stream: Stream) -> None:
        await stream.send_headers(RESPONSE)
        await stream.send([bytes(20_000_000)])
        await stream.send_headers(TRAILERS, end_stream=True)

    client, _, _ = await join(answer)
    streams = [await begin(client, end=True) for _ in range(2)]

    async def watch() -> None:
        while not all(task.done() for task in reading):
            for stream in streams:
                left.setdefault(stream.record.id, []).append(stream.record.inbound.received)
            await asyncio.sleep(0)

    reading = [asyncio.create_task(messages(stream)) for stream in streams]
    await watch()

    apart = [abs(one - two) for one, two in zip(left[1], left[3], strict=True)]
    assert max(apart) <= 9_000_000, "no further than a window"


# ------------------------------------------------------------------------------------------------------ windows


async def test_a_sender_waits_for_the_window_and_goes_on_when_it_opens() -> None:
    done: list[bool] = []

    async def answer(stream: Stream) -> None:
        await stream.send_headers(RESPONSE)
        await stream.send([bytes(30_000)])
        done.append(True)

    _, pipe, _ = served(answer)
    pipe.give(settings(initial_window_size=10_000), head(1, end=True))
    await turns()
    assert not done
    assert sum(len(one.data) for one in pipe.sent() if type(one).__name__ == "DataFrame") == 10_000
    pipe.give(window_frame(1, 10_000))
    await turns()
    assert not done
    pipe.give(settings(initial_window_size=20_005))
    await turns()

    assert done


async def test_what_a_handler_leaves_unread_opens_the_connection_for_others() -> None:
    async def ignore(stream: Stream) -> None:
        await turns(30)

    limits = Limits(stream_window=65_535, connection_window=65_535, max_connection_window=65_535)
    client, server, _ = await join(ignore, limits=limits)
    stream = await begin(client)
    with pytest.raises(StreamClosedError):
        await asyncio.wait_for(stream.send([bytes(1_000_000)]), 5)
    stream.release()
    await turns(50)

    assert client.engine._sender.window >= 65_535 // 2
    assert server.engine._window.left == client.engine._sender.window
