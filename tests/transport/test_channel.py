"""Retries with an end, connections that cannot be made, and errors in our own words."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream, TaskStatus
from grpclib.const import Handler, Status
from grpclib.exceptions import GRPCError, StreamTerminatedError
from grpclib.exceptions import ProtocolError as GrpclibProtocolError
from h2.exceptions import StreamClosedError
from hypothesis import given, settings
from hypothesis import strategies as st

from openfl_aio.config import Endpoint, Limits, RetryPolicy, Timeouts
from openfl_aio.errors import (
    AlreadyExistsError,
    ConnectError,
    ConnectionLostError,
    DeadlineExceededError,
    InvalidStateError,
    LocalProtocolError,
    NotFoundError,
    OpenFLAioError,
    RemoteProtocolError,
    StorageFullError,
)
from openfl_aio.transport.channel import call_with_retries, open_channel, translate
from openfl_aio.transport.codec import StrictCodec
from openfl_aio.transport.server import Server
from openfl_aio.transport.status import FIXED_SENTENCES
from openfl_aio.wire.messages import DataStream, aggregator


def highest(low: float, high: float) -> float:
    return high


def failing(errors: list[BaseException], times: list[float]) -> Callable[[], Awaitable[str]]:
    remaining = list(errors)

    async def call() -> str:
        times.append(anyio.current_time())
        if remaining:
            raise remaining.pop(0)
        return "done"

    return call


async def test_pauses_grow_to_the_highest_delay() -> None:
    times: list[float] = []
    policy = RetryPolicy(first_delay=1, multiplier=2, max_delay=5, max_elapsed=None)
    call = failing([ConnectError("x")] * 5, times)
    assert await call_with_retries(policy, call, what="call", draw=highest) == "done"
    assert [round(after - before) for before, after in pairwise(times)] == [1, 2, 4, 5, 5]


@given(failures=st.integers(0, 200), budget=st.floats(0.1, 1000))
@settings(max_examples=30, deadline=None)
async def test_time_is_never_exceeded(failures: int, budget: float) -> None:
    times: list[float] = []
    started = anyio.current_time()
    policy = RetryPolicy(max_elapsed=budget)
    try:
        await call_with_retries(policy, failing([ConnectError("x")] * failures, times), what="call")
    except ConnectError as exc:
        said = str(exc)
    else:
        said = f"{failures + 1} attempts"
    assert f"{len(times)} attempts" in said
    assert anyio.current_time() - started < budget + 1


async def test_last_error_says_how_long_and_what_to_check() -> None:
    policy = RetryPolicy(first_delay=1, max_delay=1, max_elapsed=3.5)
    call = failing([GRPCError(Status.UNAVAILABLE, "starting")] * 9, [])
    with pytest.raises(
        ConnectionLostError, match=r"GetTasks from a:1: gave up after 3 s and 4 attempts, last: starting; check"
    ):
        await call_with_retries(policy, call, what="GetTasks from a:1", draw=highest)


async def test_other_errors_are_raised_at_once() -> None:
    times: list[float] = []
    with pytest.raises(NotFoundError, match="gone"):
        await call_with_retries(RetryPolicy(), failing([GRPCError(Status.NOT_FOUND, "gone")], times), what="call")
    assert len(times) == 1


async def test_what_is_retried_can_be_chosen() -> None:
    policy = RetryPolicy(first_delay=1, max_delay=1, max_elapsed=2.5)
    call = failing([InvalidStateError("not yet")], [])
    assert await call_with_retries(policy, call, what="call", retryable=(InvalidStateError,)) == "done"
    call = failing([InvalidStateError("not yet")] * 9, [])
    with pytest.raises(ConnectionLostError, match="not yet"):
        await call_with_retries(policy, call, what="call", retryable=(InvalidStateError,), draw=highest)


async def test_a_long_attempt_that_fails_is_no_time_of_failing() -> None:
    attempts = 0

    async def upload() -> str:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            await anyio.sleep(3600)
            raise ConnectionLostError("cut at the end")
        return "done"

    assert await call_with_retries(RetryPolicy(max_elapsed=60), upload, what="call") == "done"


FULL = GRPCError(Status.RESOURCE_EXHAUSTED, FIXED_SENTENCES[StorageFullError])


async def test_a_server_without_room_is_asked_again_until_time_is_up() -> None:
    policy = RetryPolicy(first_delay=1, max_delay=1, max_elapsed=3.5)
    assert await call_with_retries(policy, failing([FULL] * 3, []), what="call", draw=highest) == "done"
    with pytest.raises(StorageFullError, match="call: gave up after 3 s and 4 attempts, last: the server has no room"):
        await call_with_retries(policy, failing([FULL] * 9, []), what="call", draw=highest)


async def test_the_patient_wait_for_room_without_end_and_say_so_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    policy = RetryPolicy(first_delay=1, max_delay=10, max_elapsed=5)
    times: list[float] = []
    call = failing([FULL] * 100, times)
    assert await call_with_retries(policy, call, what="call", draw=highest, patient=True) == "done"
    assert times[-1] - times[0] > 900
    lines = [message for message in caplog.messages if "goes on until there is room" in message]
    assert 10 < len(lines) <= (times[-1] - times[0]) / 60 + 1
    # but nobody waits so long for a server that is away
    with pytest.raises(ConnectError):
        await call_with_retries(
            policy, failing([FULL] * 50 + [ConnectError("x")] * 50, []), what="call", draw=highest, patient=True
        )


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (StreamTerminatedError("Connection lost"), ConnectionLostError),
        (GrpclibProtocolError("twice"), LocalProtocolError),
        (TimeoutError(), DeadlineExceededError),
        (ConnectionResetError(), ConnectionLostError),
        (AssertionError("a test's"), AssertionError),
        (StreamClosedError(1), ConnectionLostError),
        (GRPCError(Status.ALREADY_EXISTS, "taken"), OpenFLAioError),
        (DeadlineExceededError("ours"), DeadlineExceededError),
        (KeyError("x"), KeyError),
    ],
)
def test_errors_are_put_in_our_words(raised: BaseException, expected: type[BaseException]) -> None:
    with pytest.raises(expected), translate():
        raise raised


@pytest.mark.real_time
async def test_nobody_listening_is_one_sentence() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = Endpoint(port=probe.getsockname()[1])  # bound, but not listening
        async with open_channel(endpoint, tls=None) as channel:
            with pytest.raises(
                ConnectError, match=rf"no connection to 127\.0\.0\.1:{endpoint.port} \(Connection refused\)"
            ):
                await aggregator.AggregatorStub(channel).get_tasks(aggregator.GetTasksRequest())


@pytest.mark.real_time
async def test_host_that_is_none_is_one_sentence() -> None:
    async with open_channel(Endpoint(host="no.such.host.invalid", port=1), tls=None) as channel:
        with pytest.raises(ConnectError, match=r"no connection to no\.such\.host\.invalid:1 \("):
            await aggregator.AggregatorStub(channel).get_tasks(aggregator.GetTasksRequest())


@pytest.mark.real_time
async def test_connecting_has_an_end() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        endpoint = Endpoint(port=silent.getsockname()[1])
        with socket.create_connection(("127.0.0.1", endpoint.port)):  # the queue is full now: the next waits
            async with open_channel(endpoint, tls=None, timeouts=Timeouts(connect=0.1)) as channel:
                with pytest.raises(ConnectError, match=r"within 0\.1 s"):
                    await aggregator.AggregatorStub(channel).get_tasks(aggregator.GetTasksRequest())


class Described(aggregator.AggregatorBase):
    async def get_experiment_description(
        self, message: aggregator.GetExperimentDescriptionRequest
    ) -> aggregator.GetExperimentDescriptionResponse:
        return aggregator.GetExperimentDescriptionResponse()


@pytest.mark.real_time
async def test_channel_connects_again_after_a_restart() -> None:
    request = aggregator.GetExperimentDescriptionRequest()
    async with Server([Described()], listen=Endpoint(), tls=None) as first:
        endpoint = first.endpoint
        channels = open_channel(endpoint, tls=None)
        channel = await channels.__aenter__()
        stub = aggregator.AggregatorStub(channel)
        await stub.get_experiment_description(request)
    with pytest.raises((ConnectError, ConnectionLostError)), translate():
        await stub.get_experiment_description(request)
    async with Server([Described()], listen=endpoint, tls=None):
        policy = RetryPolicy(max_elapsed=5)
        await call_with_retries(policy, lambda: stub.get_experiment_description(request), what="call")
        await channels.__aexit__(None, None, None)


class Collecting(aggregator.AggregatorBase):
    """Takes an upload, refuses it when told, and answers with 300 kB."""

    def __init__(self, refuse_after: int | None = None) -> None:
        self.refuse_after = refuse_after

    async def send_local_task_results(
        self, messages: AsyncIterator[DataStream]
    ) -> aggregator.SendLocalTaskResultsResponse:
        count = 0
        async for _ in messages:
            count += 1
            if count == self.refuse_after:
                raise AlreadyExistsError("enough")
        return aggregator.SendLocalTaskResultsResponse(header=aggregator.MessageHeader(sender="x" * 300_000))


def upload(stub: aggregator.AggregatorStub, chunks: int) -> Awaitable[aggregator.SendLocalTaskResultsResponse]:
    return stub.send_local_task_results(DataStream(size=50_000, npbytes=bytes(50_000)) for _ in range(chunks))


@pytest.mark.real_time
async def test_refusal_in_the_middle_of_an_upload_reaches_the_client() -> None:
    async with (
        Server([Collecting(refuse_after=3)], listen=Endpoint(), tls=None) as server,
        open_channel(server.endpoint, tls=None) as channel,
    ):
        with pytest.raises(AlreadyExistsError, match="enough"), translate():
            await upload(aggregator.AggregatorStub(channel), 400)


async def cutting_proxy(target: Endpoint, up: int, down: int, *, task_status: TaskStatus[Endpoint]) -> None:
    """Pass bytes on in both directions, and end the connection after so many."""

    async def handle(client: SocketStream) -> None:
        async with (
            client,
            await anyio.connect_tcp(target.host, target.port) as server,
            anyio.create_task_group() as group,
        ):

            async def pump(source: SocketStream, sink: SocketStream, count: int) -> None:
                try:
                    while count > 0:
                        data = await source.receive(min(count, 65536))
                        await sink.send(data)
                        count -= len(data)
                except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                    pass
                group.cancel_scope.cancel()

            group.start_soon(pump, client, server, up)
            group.start_soon(pump, server, client, down)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = int(listener.extra(SocketAttribute.local_port))
        task_status.started(Endpoint(port=port))
        await listener.serve(handle)


@pytest.mark.real_time
@pytest.mark.parametrize(
    ("up", "down"),
    [
        (0, 9**9),
        (30, 9**9),
        (200, 9**9),
        (70_000, 9**9),
        (999_999, 9**9),
        (9**9, 10),
        (9**9, 90),
        (9**9, 150),
        (9**9, 200_000),
    ],
)
async def test_cut_connections_are_lost_connections(up: int, down: int) -> None:
    async with (
        Server([Collecting()], listen=Endpoint(), tls=None) as server,
        anyio.create_task_group() as group,
    ):
        proxy = await group.start(cutting_proxy, server.endpoint, up, down)
        async with open_channel(proxy, tls=None) as channel:
            with anyio.fail_after(10), pytest.raises(ConnectionLostError), translate():
                await upload(aggregator.AggregatorStub(channel), 20)
        group.cancel_scope.cancel()


@pytest.mark.real_time
async def test_deadline_is_ours() -> None:
    class Slow(aggregator.AggregatorBase):
        async def get_tasks(self, message: aggregator.GetTasksRequest) -> aggregator.GetTasksResponse:
            await anyio.sleep_forever()
            raise AssertionError("never")

    async with (
        Server([Slow()], listen=Endpoint(), tls=None) as server,
        open_channel(server.endpoint, tls=None) as channel,
    ):
        with pytest.raises(DeadlineExceededError), translate():
            await aggregator.AggregatorStub(channel).get_tasks(aggregator.GetTasksRequest(), timeout=0.1)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0  # or scopes and timeouts around the next call would break


class Silent(aggregator.AggregatorBase):
    """Ends calls with OK and without a message, in one block of headers or in two."""

    def __init__(self, *, headers_first: bool) -> None:
        self.headers_first = headers_first

    def __mapping__(self) -> dict[str, Handler]:
        return {path: handler._replace(func=self.end) for path, handler in super().__mapping__().items()}

    async def end(self, stream: Any) -> None:
        await stream.recv_message()
        if self.headers_first:
            await stream.send_initial_metadata()
        raise GRPCError(Status.OK)


@pytest.mark.real_time
@pytest.mark.parametrize("headers_first", [False, True])
async def test_ok_without_a_message_is_no_answer_and_not_a_lost_connection(headers_first: bool) -> None:
    policy = RetryPolicy(max_elapsed=None)
    async with (
        Server([Silent(headers_first=headers_first)], listen=Endpoint(), tls=None) as server,
        open_channel(server.endpoint, tls=None) as channel,
    ):
        stub = aggregator.AggregatorStub(channel)
        with pytest.raises(RemoteProtocolError, match="OK without a message"), anyio.fail_after(10):
            await call_with_retries(policy, lambda: stub.get_tasks(aggregator.GetTasksRequest()), what="call")
        with pytest.raises(RemoteProtocolError, match="OK without a message"), translate():
            await upload(stub, 1)
        # a stream may be empty
        stream = stub.get_metric_stream(aggregator.GetMetricStreamRequest())
        assert [metric async for metric in stream] == []


def test_codec_refuses_a_message_of_another_type() -> None:
    with pytest.raises(LocalProtocolError, match="expected a GetTasksResponse to send, got GetTasksRequest"):
        StrictCodec(Limits()).encode(aggregator.GetTasksRequest(), aggregator.GetTasksResponse)
