"""The server over real loopback sockets, with generated stubs on the other side."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
import grpclib.client
import pytest
from anyio.abc import TaskStatus
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError

from openfl_aio.config import Endpoint, Limits, Timeouts, TLSConfig
from openfl_aio.errors import (
    ConfigurationError,
    ConnectError,
    ConnectionLostError,
    EmptyStreamError,
    HeaderMismatchError,
    InvalidStateError,
    MessageTooLargeError,
    NotFoundError,
    StorageFullError,
)
from openfl_aio.testing.ca import ThrowawayCA
from openfl_aio.transport import calls
from openfl_aio.transport.channel import Channel, open_channel, translate
from openfl_aio.transport.identity import current_caller
from openfl_aio.transport.server import Server
from openfl_aio.wire import codec
from openfl_aio.wire.messages import DataStream, aggregator

LOOPBACK = Endpoint(host="127.0.0.1", port=0)


class SmallAggregator(aggregator.AggregatorBase):
    """Answers with who calls; raises what the test wants; parks when asked for a tensor."""

    def __init__(self) -> None:
        self.error: Callable[[], BaseException] | None = None
        self.refusal: Exception | None = None  # of results
        self.parked = anyio.Event()
        self.go_on = anyio.Event()
        self.received: list[bytes] = []
        self.padding = ""
        self.endless = False
        self.pausing = False

    async def get_tasks(self, message: aggregator.GetTasksRequest) -> aggregator.GetTasksResponse:
        if self.error is not None:
            raise self.error()
        caller = current_caller()
        return aggregator.GetTasksResponse(
            header=aggregator.MessageHeader(sender=caller.name, receiver=str(caller.authenticated)),
            tasks=[aggregator.Task(name=caller.address.split(":")[0])],
        )

    async def get_aggregated_tensor(
        self, message: aggregator.GetAggregatedTensorRequest
    ) -> aggregator.GetAggregatedTensorResponse:
        self.parked.set()
        await self.go_on.wait()
        return aggregator.GetAggregatedTensorResponse(round_number=7)

    async def get_experiment_description(
        self, message: aggregator.GetExperimentDescriptionRequest
    ) -> aggregator.GetExperimentDescriptionResponse:
        self.parked.set()
        await self.go_on.wait()
        return aggregator.GetExperimentDescriptionResponse()

    async def send_local_task_results(
        self, messages: AsyncIterator[DataStream]
    ) -> aggregator.SendLocalTaskResultsResponse:
        if self.refusal is not None:
            raise self.refusal
        async for message in messages:
            self.received.append(bytes(message.npbytes))
            if self.pausing and len(self.received) > 10:  # when the windows have grown
                self.parked.set()
                await self.go_on.wait()
        return aggregator.SendLocalTaskResultsResponse(header=aggregator.MessageHeader(sender=current_caller().name))

    async def get_metric_stream(
        self, message: aggregator.GetMetricStreamRequest
    ) -> AsyncIterator[aggregator.GetMetricStreamResponse]:
        for number in range(3):
            yield aggregator.GetMetricStreamResponse(round=number, metric_name=self.padding)
        if self.endless:
            self.parked.set()
            await self.go_on.wait()
        if self.error is not None:
            raise self.error()


@asynccontextmanager
async def serving(
    service: SmallAggregator,
    *,
    server_tls: TLSConfig | None = None,
    client_tls: TLSConfig | None = None,
    limits: Limits | None = None,
    metadata: dict[str, str] | None = None,
    drain: float = 1.0,
) -> AsyncIterator[tuple[aggregator.AggregatorStub, Channel]]:
    """Serve ``service`` on a free port of loopback and give a stub on it."""
    timeouts = Timeouts(connect=5, drain=drain)
    async with (
        Server([service], listen=LOOPBACK, tls=server_tls, limits=limits, timeouts=timeouts) as server,
        open_channel(server.endpoint, tls=client_tls, timeouts=timeouts, metadata=metadata) as channel,
    ):
        yield aggregator.AggregatorStub(channel), channel


TASKS = aggregator.GetTasksRequest()
pytestmark = pytest.mark.real_time


async def test_plaintext_callers_are_what_they_claim() -> None:
    async with serving(SmallAggregator(), metadata={"client_id": "one"}) as (stub, _):
        reply = await stub.get_tasks(TASKS)
    assert reply.header is not None
    assert (reply.header.sender, reply.header.receiver) == ("one", "False")
    assert reply.tasks[0].name == "127.0.0.1"


async def test_plaintext_callers_without_a_claim_are_the_default() -> None:
    async with serving(SmallAggregator()) as (stub, _):
        reply = await stub.get_tasks(TASKS)
    assert reply.header is not None
    assert reply.header.sender == "__default__"


async def test_tls_callers_are_named_by_their_certificate(ca: ThrowawayCA) -> None:
    tls = ca.client("hospital_one")
    async with serving(SmallAggregator(), server_tls=ca.server(), client_tls=tls, metadata={"client_id": "x"}) as (
        stub,
        _,
    ):
        reply = await stub.get_tasks(TASKS)
    assert reply.header is not None
    assert (reply.header.sender, reply.header.receiver) == ("hospital_one", "True")


async def test_tls_client_of_a_plaintext_server_gets_a_clear_end(ca: ThrowawayCA) -> None:
    async with serving(SmallAggregator(), client_tls=ca.client("hospital_one")) as (stub, _):
        with pytest.raises(ConnectError, match=r"127\.0\.0\.1"):
            await stub.get_tasks(TASKS)


async def test_tls_connection_without_http2_is_closed(ca: ThrowawayCA) -> None:
    tls = ca.client("hospital_one")

    def talk(port: int) -> bytes:
        context = ssl.create_default_context(cafile=tls.ca)
        assert tls.certificate is not None
        context.load_cert_chain(tls.certificate, tls.private_key)
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as connection,
        ):
            try:
                return connection.recv(1)
            except (ConnectionError, ssl.SSLError):
                return b""

    async with Server([SmallAggregator()], listen=LOOPBACK, tls=ca.server()) as server:
        assert await anyio.to_thread.run_sync(talk, server.endpoint.port) == b""


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (NotFoundError("no experiment 'x'"), Status.NOT_FOUND, "no experiment 'x'"),
        (HeaderMismatchError("wrong receiver"), Status.INVALID_ARGUMENT, "wrong receiver"),
        (EmptyStreamError("nothing came"), Status.UNKNOWN, "nothing came"),
        (ExceptionGroup("tasks", [NotFoundError("inner")]), Status.NOT_FOUND, "inner"),
        (TimeoutError(), Status.DEADLINE_EXCEEDED, "the server did not finish in time"),
        (GRPCError(Status.ABORTED, "as is"), Status.ABORTED, "as is"),
        (ExceptionGroup("tasks", [GRPCError(Status.ABORTED, "as is")]), Status.ABORTED, "as is"),
    ],
)
async def test_errors_become_statuses(error: Exception, status: Status, text: str) -> None:
    service = SmallAggregator()
    service.error = lambda: error
    async with serving(service) as (stub, _):
        with pytest.raises(GRPCError) as caught:
            await stub.get_tasks(TASKS)
    assert (caught.value.status, caught.value.message) == (status, text)


async def test_unforeseen_errors_stay_here_but_can_be_found(caplog: pytest.LogCaptureFixture) -> None:
    service = SmallAggregator()
    service.error = lambda: KeyError("secret")
    async with serving(service) as (stub, _):
        with pytest.raises(GRPCError, match=r"internal error [0-9a-f]{16}") as caught:
            await stub.get_tasks(TASKS)
    assert caught.value.status is Status.INTERNAL
    assert caught.value.message is not None
    assert caught.value.message in caplog.text
    assert "secret" in caplog.text


async def test_refusals_leave_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    service = SmallAggregator()
    service.error = lambda: NotFoundError("x")
    with caplog.at_level(logging.INFO):
        async with serving(service) as (stub, _):
            with pytest.raises(GRPCError):
                await stub.get_tasks(TASKS)
    assert "Traceback" not in caplog.text


async def test_results_that_are_refused_again_and_again_are_told_once_for_each_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = SmallAggregator()
    reasons = ["expected less", "expected less", "expected more\nsecond line", "expected more\nsecond line"]
    async with serving(service) as (stub, _):
        for reason in reasons:
            service.refusal = MessageTooLargeError(reason)
            with pytest.raises(GRPCError, match="expected"):
                await stub.send_local_task_results([DataStream(size=1, npbytes=b"x")])
        service.refusal = None
        service.error = lambda: NotFoundError("x")
        with pytest.raises(GRPCError):
            await stub.get_tasks(TASKS)
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    told = [line for line in told if "refused" in line]
    assert [line.partition(" from ")[0] for line in told] == [
        "/openfl.aggregator.Aggregator/SendLocalTaskResults refused: RESOURCE_EXHAUSTED: 'expected less'",
        "/openfl.aggregator.Aggregator/SendLocalTaskResults refused: RESOURCE_EXHAUSTED: 'expected more\\nsecond line'",
    ]


async def test_stream_up_arrives_in_order_and_whole() -> None:
    service = SmallAggregator()
    chunks = [bytes([number]) * (number * 300_000) for number in range(12)]
    async with serving(service) as (stub, _):
        reply = await stub.send_local_task_results(DataStream(size=len(chunk), npbytes=chunk) for chunk in chunks)
    assert service.received == chunks
    assert reply.header is not None
    assert reply.header.sender == "__default__"


async def test_stream_down_ends_with_its_error() -> None:
    service = SmallAggregator()
    service.error = lambda: InvalidStateError("stopped")
    got = []
    async with serving(service) as (stub, _):
        with pytest.raises(InvalidStateError, match="stopped"), translate():  # noqa: PT012
            async for message in stub.get_metric_stream(aggregator.GetMetricStreamRequest()):
                got.append(message.round)  # noqa: PERF401 - what came before the error counts
    assert got == [0, 1, 2]


async def test_message_beyond_the_limit_is_refused_by_its_length() -> None:
    async with serving(SmallAggregator(), limits=Limits(max_message_bytes=1000)) as (stub, _):
        request = aggregator.GetTasksRequest(header=aggregator.MessageHeader(sender="x" * 2000))
        with pytest.raises(MessageTooLargeError, match="at most 1000 bytes"), translate():
            await stub.get_tasks(request)
        await stub.get_tasks(TASKS)  # and the next call is served


async def send_raw(channel: Channel, data: bytes) -> GRPCError:
    """Send bytes that are no proper gRPC message as the request of GetTasks, and return the answer."""
    call = channel.request(
        "/openfl.aggregator.Aggregator/GetTasks",
        Cardinality.UNARY_UNARY,
        aggregator.GetTasksRequest,
        aggregator.GetTasksResponse,
    )
    with pytest.raises(GRPCError) as caught:  # noqa: PT012
        async with call as stream:
            await stream.send_request()
            await stream._stream.send_data(data, end_stream=True)
            await stream.recv_initial_metadata()
    return caught.value


@pytest.mark.parametrize(
    ("data", "status", "text"),
    [
        (b"", Status.INVALID_ARGUMENT, "before its message"),
        (b"\0\0\0", Status.INVALID_ARGUMENT, "prefix of a message"),
        (b"\0\0\0\0\x09abc", Status.INVALID_ARGUMENT, "message of 9 bytes"),
        (b"\0\0\0\0\x01\xff", Status.INVALID_ARGUMENT, ""),
        (b"\x01\0\0\0\x01a", Status.UNIMPLEMENTED, "compressed"),
        (b"\0\xff\xff\xff\xff", Status.RESOURCE_EXHAUSTED, "4294967295"),
    ],
)
async def test_broken_messages_are_answered(data: bytes, status: Status, text: str) -> None:
    async with serving(SmallAggregator()) as (stub, channel):
        answer = await send_raw(channel, data)
        await stub.get_tasks(TASKS)
    assert answer.status is status
    assert text in (answer.message or "")


async def test_empty_frames_are_legal_anywhere() -> None:
    service = SmallAggregator()
    chunk = DataStream(size=3, npbytes=b"abc")
    async with serving(service) as (_, channel):
        call = channel.request(
            "/openfl.aggregator.Aggregator/SendLocalTaskResults",
            Cardinality.STREAM_UNARY,
            DataStream,
            aggregator.SendLocalTaskResultsResponse,
        )
        async with call as stream:
            await stream.send_request()
            data = codec.encode(chunk)
            for part in (b"", b"\0\0", b"", b"\0\0" + bytes([len(data)]), b"", data[:2], b"", b"", data[2:]):
                await stream._stream.send_data(part)
            await stream.send_message(chunk)
            await stream.end()
            assert await stream.recv_message() is not None
    assert service.received == [b"abc", b"abc"]


async def test_methods_that_are_not_there_say_so() -> None:
    async with serving(SmallAggregator()) as (stub, _):
        with pytest.raises(GRPCError) as caught:
            await stub.get_trained_model(aggregator.GetTrainedModelRequest())
    assert caught.value.status is Status.UNIMPLEMENTED


async def test_refusals_of_our_clients_come_at_once() -> None:
    service = SmallAggregator()
    service.error = lambda: NotFoundError("x")
    async with serving(service) as (stub, _):
        started = anyio.current_time()
        for _again in range(3):
            with pytest.raises(GRPCError):
                await stub.get_tasks(TASKS)
        assert anyio.current_time() - started < 1.5


async def test_refusals_of_stock_clients_are_slowed_down(monkeypatch: pytest.MonkeyPatch) -> None:
    service = SmallAggregator()
    service.error = lambda: NotFoundError("x")
    monkeypatch.setattr(
        grpclib.client, "USER_AGENT", "grpc-python/1.60.0 grpc-c/37.0.0 (linux; chttp2)"
    )  # the library's, not ours
    async with serving(service) as (stub, _):
        started = anyio.current_time()
        with pytest.raises(GRPCError):
            await stub.get_tasks(TASKS)
        assert anyio.current_time() - started >= 0.5


async def test_stock_clients_wait_longer_for_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    service = SmallAggregator()
    service.error = lambda: StorageFullError("x")
    monkeypatch.setattr(calls, "FULL_PAUSE", (2.5, 2.5))
    monkeypatch.setattr(grpclib.client, "USER_AGENT", "grpc-python/1.60.0 grpc-c/37.0.0 (linux; chttp2)")
    async with serving(service) as (stub, _):
        started = anyio.current_time()
        with pytest.raises(GRPCError, match="no room left"):
            await stub.get_tasks(TASKS)
        assert anyio.current_time() - started >= 2.5


async def test_waiting_calls_are_told_when_the_server_stops() -> None:
    service = SmallAggregator()
    failures: list[BaseException] = []

    async def ask(stub: aggregator.AggregatorStub) -> None:
        try:
            await stub.get_aggregated_tensor(aggregator.GetAggregatedTensorRequest())
        except GRPCError as exc:
            failures.append(exc)

    async with anyio.create_task_group() as group, Server([service], listen=LOOPBACK, tls=None) as server:
        channel = await group.start(hold_channel, server.endpoint)
        group.start_soon(ask, aggregator.AggregatorStub(channel))
        await service.parked.wait()
        started = anyio.current_time()
        await server.__aexit__(None, None, None)
        assert anyio.current_time() - started < 5
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    [failure] = failures
    assert isinstance(failure, GRPCError)
    assert failure.status is Status.UNAVAILABLE


@pytest.mark.parametrize("padding", ["", "x" * 3_000_000])
async def test_streams_down_end_when_the_server_stops(padding: str) -> None:
    """Between two messages, and (with more than the window holds) in the middle of one."""
    service = SmallAggregator()
    service.endless, service.padding = True, padding
    got: list[int] = []
    begun = anyio.Event()

    async def follow(stub: aggregator.AggregatorStub) -> None:
        async for message in stub.get_metric_stream(aggregator.GetMetricStreamRequest()):
            begun.set()
            await anyio.sleep(0.2)
            got.append(message.round)

    async with anyio.create_task_group() as group:
        server = await Server([service], listen=LOOPBACK, tls=None, timeouts=Timeouts(drain=30)).__aenter__()
        channel = await group.start(hold_channel, server.endpoint)
        async with anyio.create_task_group() as readers:

            async def read() -> None:
                with pytest.raises(ConnectionLostError, match="stopping"), translate():
                    await follow(aggregator.AggregatorStub(channel))

            readers.start_soon(read)
            await begun.wait()
            with anyio.fail_after(10):
                await server.__aexit__(None, None, None)
        group.cancel_scope.cancel()
    assert got[0] == 0


async def hold_channel(endpoint: Endpoint, *, task_status: TaskStatus[Channel]) -> None:
    async with open_channel(endpoint, tls=None) as channel:
        task_status.started(channel)
        await anyio.sleep_forever()


async def test_calls_in_flight_finish_and_new_ones_are_refused_while_the_server_stops() -> None:
    service = SmallAggregator()
    outcome: list[object] = []

    async def ask(stub: aggregator.AggregatorStub) -> None:
        outcome.append(
            await stub.get_experiment_description(aggregator.GetExperimentDescriptionRequest()),
        )

    async with anyio.create_task_group() as group:
        server = await Server([service], listen=LOOPBACK, tls=None).__aenter__()
        channel = await group.start(hold_channel, server.endpoint)
        stub = aggregator.AggregatorStub(channel)
        group.start_soon(ask, stub)
        await service.parked.wait()
        group.start_soon(server.__aexit__, None, None, None)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(GRPCError) as caught:
            await stub.get_tasks(TASKS)
        assert caught.value.status is Status.UNAVAILABLE
        service.go_on.set()
        while not outcome:
            await anyio.sleep(0.01)
        group.cancel_scope.cancel()
    assert outcome == [aggregator.GetExperimentDescriptionResponse()]


async def test_calls_that_outlast_the_drain_are_ended() -> None:
    service = SmallAggregator()
    failures: list[Status] = []

    async def ask(stub: aggregator.AggregatorStub) -> None:
        try:
            await stub.get_experiment_description(aggregator.GetExperimentDescriptionRequest())
        except GRPCError as exc:
            failures.append(exc.status)

    async with anyio.create_task_group() as group:
        server = await Server([service], listen=LOOPBACK, tls=None, timeouts=Timeouts(drain=0.05)).__aenter__()
        channel = await group.start(hold_channel, server.endpoint)
        group.start_soon(ask, aggregator.AggregatorStub(channel))
        await service.parked.wait()
        await server.__aexit__(None, None, None)
        while not failures:
            await anyio.sleep(0.01)
        group.cancel_scope.cancel()
    assert failures == [Status.UNAVAILABLE]


async def test_small_answers_are_not_held_back() -> None:
    async with (
        Server([SmallAggregator()], listen=LOOPBACK, tls=None) as server,
        open_channel(server.endpoint, tls=None) as channel,
    ):
        await aggregator.AggregatorStub(channel).get_tasks(TASKS)
        (connection,) = server._plane.shared.connections
        sock = connection.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_a_lost_connection_gives_back_what_its_windows_had() -> None:
    async with Server([SmallAggregator()], listen=LOOPBACK, tls=None) as server:
        pool = server._plane.shared.pool
        before = pool.left
        async with open_channel(server.endpoint, tls=None) as channel:
            chunks = [DataStream(size=300_000, npbytes=bytes(300_000))] * 10
            await aggregator.AggregatorStub(channel).send_local_task_results(chunks)
            assert pool.left < before, "a peer whose bytes are read gets larger windows"
        await server._plane.shared.emptied.wait()
        assert pool.left == before


async def test_an_upload_that_is_not_read_holds_up_no_other_call() -> None:
    service = SmallAggregator()
    service.pausing = True
    chunks = [DataStream(size=2_000_000, npbytes=bytes(2_000_000))] * 20
    async with serving(service) as (stub, _), anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(stub.send_local_task_results, chunks)
        await service.parked.wait()
        with anyio.fail_after(10):
            for _ in range(10):
                await stub.get_tasks(TASKS)
                await anyio.sleep(0.01)
        service.go_on.set()
    assert len(service.received) == 40


async def test_several_servers_run_in_one_loop() -> None:
    first, second = SmallAggregator(), SmallAggregator()
    async with serving(first) as (one, channel_one), serving(second) as (two, channel_two):
        assert channel_one.endpoint.port != channel_two.endpoint.port
        await one.get_tasks(TASKS)
        await two.get_tasks(TASKS)


async def test_endpoint_is_known_only_while_bound() -> None:
    server = Server([SmallAggregator()], listen=LOOPBACK, tls=None)
    with pytest.raises(InvalidStateError, match="not bound"):
        server.endpoint  # noqa: B018 - the property raises
    assert "127.0.0.1:0" in repr(server)


async def test_port_in_use_is_one_sentence() -> None:
    async with Server([SmallAggregator()], listen=LOOPBACK, tls=None) as server:
        with pytest.raises(ConfigurationError, match="port is in use"):
            await Server([SmallAggregator()], listen=server.endpoint, tls=None).__aenter__()


async def test_address_of_another_machine_is_one_sentence() -> None:
    elsewhere = Endpoint(host="203.0.113.1", port=0)
    with pytest.raises(ConfigurationError, match="no such address"):
        await Server([SmallAggregator()], listen=elsewhere, tls=None, allow_plaintext_anywhere=True).__aenter__()


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "example.org", ""])
async def test_plaintext_beyond_loopback_needs_a_second_word(host: str) -> None:
    with pytest.raises(ConfigurationError, match="allow_plaintext_anywhere"):
        await Server([SmallAggregator()], listen=Endpoint(host=host), tls=None).__aenter__()


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "localhost"])
async def test_plaintext_warns(host: str, caplog: pytest.LogCaptureFixture) -> None:
    listen_on = Endpoint(host=host)
    async with (
        Server([SmallAggregator()], listen=listen_on, tls=None, allow_plaintext_anywhere=True) as server,
        open_channel(Endpoint(host="127.0.0.1", port=server.endpoint.port), tls=None) as channel,
    ):
        await aggregator.AggregatorStub(channel).get_tasks(TASKS)
    assert "without TLS" in caplog.text
    assert server.endpoint.host == host


async def test_names_that_are_none_are_one_sentence() -> None:
    nowhere = Endpoint(host="no such host.invalid")
    with pytest.raises(ConfigurationError, match="expected a host name"):
        await Server([SmallAggregator()], listen=nowhere, tls=None, allow_plaintext_anywhere=True).__aenter__()


async def test_ports_of_both_families_are_bound_or_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        used = Endpoint(host="localhost", port=taken.getsockname()[1])
        with pytest.raises(ConfigurationError, match="port is in use"):
            await Server([SmallAggregator()], listen=used, tls=None).__aenter__()


async def test_a_fixed_port_serves_every_address_of_the_host() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    async with (
        Server([SmallAggregator()], listen=Endpoint(host="localhost", port=port), tls=None) as server,
        open_channel(Endpoint(host="127.0.0.1", port=port), tls=None) as channel,
    ):
        assert server.endpoint == Endpoint(host="localhost", port=port)
        await aggregator.AggregatorStub(channel).get_tasks(TASKS)
