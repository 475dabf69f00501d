"""The aggregator's server and client under OpenFL's names: called directly, and through a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import anyio
import numpy as np
import pytest

from openfl_aio.aggregator.service import Aggregator
from openfl_aio.compat import AggregatorGRPCClient, AggregatorGRPCServer
from openfl_aio.config import AggregatorConfig, Endpoint, Limits, Timeouts, TLSConfig
from openfl_aio.domain import Header
from openfl_aio.errors import (
    AuthenticationError,
    ConfigurationError,
    ConnectionLostError,
    HeaderMismatchError,
    InvalidStateError,
    LocalProtocolError,
    NotFoundError,
    OpenFLAioError,
    RemoteProtocolError,
)
from openfl_aio.tensors.codec import TensorCodec
from openfl_aio.tensors.key import TensorKey
from openfl_aio.testing.ca import ThrowawayCA
from openfl_aio.transport.channel import Channel, translate
from openfl_aio.wire import convert, messages
from openfl_aio.wire.framing import data_stream
from openfl_aio.wire.incremental import encode_task_results
from openfl_aio.wire.messages import aggregator

pytestmark = pytest.mark.real_time

MODEL = {"w": np.ones(2, np.float32)}
LARGE = 3 * 2**20  # elements: 12 MiB of float32, several chunks


def an_aggregator(model: dict[str, Any] | None = None, **more: Any) -> Aggregator:
    more = {"collaborators": ("one",), "rounds": 1, "timeouts": Timeouts(drain=0.2, long_poll=1)} | more
    return Aggregator(AggregatorConfig(**more), initial_model=model or MODEL)


def files(tls: TLSConfig | None) -> dict[str, Any]:
    if tls is None:
        return {"tls": False, "root_certificate": None, "certificate": None, "private_key": None}
    return {"root_certificate": tls.ca, "certificate": tls.certificate, "private_key": tls.private_key}


def a_client(
    server: AggregatorGRPCServer,
    tls: TLSConfig | None = None,
    cls: type[AggregatorGRPCClient] = AggregatorGRPCClient,
    **more: Any,
) -> AggregatorGRPCClient:
    assert server.server is not None
    arguments: dict[str, Any] = {
        "agg_addr": "localhost",
        "agg_port": server.server.endpoint.port,
        "disable_client_auth": False,
        "aggregator_uuid": server.aggregator.uuid,
        "federation_uuid": server.aggregator.federation_uuid,
    }
    return cls(**arguments | files(tls) | more)


@asynccontextmanager
async def serving(
    cls: type[AggregatorGRPCServer] = AggregatorGRPCServer,
    tls: TLSConfig | None = None,
    model: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    **more: Any,
) -> AsyncIterator[AggregatorGRPCServer]:
    async with cls(an_aggregator(model, **config or {}), 0, **files(tls) | more) as server:
        yield server


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> ThrowawayCA:
    ca = ThrowawayCA(tmp_path_factory.mktemp("ca") / "cert")
    ca.server()
    for name in ("one", "two", "mallory", "everybody"):
        ca.client(name)
    return ca


@pytest.fixture(params=["plaintext", "mutual TLS"])
def sides(request: pytest.FixtureRequest, ca: ThrowawayCA) -> tuple[TLSConfig | None, TLSConfig | None]:
    return (None, None) if request.param == "plaintext" else (ca.server(), ca.client("one"))


def named(name: str, values: Any, *tags: str, report: bool = False) -> messages.NamedTensor:
    key = TensorKey.of(name, "one", 0, report=report, tags=tags)
    return convert.tensor_to_proto(TensorCodec().encode(key, np.asarray(values, np.float32)))


async def test_a_round_under_openfls_names(sides: tuple[TLSConfig | None, TLSConfig | None]) -> None:
    trained = np.arange(LARGE, dtype=np.float32)
    async with (
        serving(tls=sides[0], model={"w": np.zeros(LARGE, np.float32)}) as server,
        a_client(server, sides[1]) as client,
    ):
        tasks, round_number, sleep_time, quits = await client.get_tasks("one")
        assert [task.name for task in tasks] == [
            "aggregated_model_validation",
            "train",
            "locally_tuned_model_validation",
        ]
        assert (round_number, sleep_time, quits) == (0, 0, False)
        tensor = await client.get_aggregated_tensor("one", "w", 0, False, ["model"], True)
        assert not TensorCodec().decode(convert.tensor_from_proto(tensor)).any()
        await client.send_local_task_results("one", 0, "train", 3, [named("w", trained, "trained")])
        for task, tag in (("aggregated_model_validation", "agg"), ("locally_tuned_model_validation", "local")):
            metric = named("acc", 0.5, "metric", f"validate_{tag}", report=True)
            await client.send_local_task_results("one", 0, task, 3, iter([metric]))
        model = await server.aggregator.wait_complete()
        np.testing.assert_array_equal(model["w"], trained)
        assert (await client.get_tasks("one"))[3] is True


async def test_a_client_without_a_plan_reads_whatever_the_server_s_pipeline_writes() -> None:
    codec, elements = TensorCodec("random_shift"), 60_000
    async with (
        serving(model={"w": np.zeros(elements, np.float32)}, config={"pipeline": "random_shift"}) as server,
        a_client(server) as client,
    ):
        tensor = await client.get_aggregated_tensor("one", "w", 0, False, ["model"], True)
        assert len(tensor.transformer_metadata[0].int_to_float) == elements
        np.testing.assert_allclose(codec.decode(convert.tensor_from_proto(tensor)), 0, atol=2e-6)
        key = TensorKey.of("w", "one", 0, tags=("trained",))
        trained = convert.tensor_to_proto(codec.encode(key, np.ones(elements, np.float32)))
        await client.send_local_task_results("one", 0, "train", 3, [trained])
        assert server.aggregator.upload_counts().accepted == 1


async def test_serve_ends_when_everybody_was_told_to_quit() -> None:
    server = AggregatorGRPCServer(an_aggregator(), 0, tls=False)
    async with anyio.create_task_group() as group:
        group.start_soon(server.serve)
        while not server.aggregator.entered or server.server is None:
            await anyio.sleep(0.01)
        request = aggregator.GetTasksRequest(header=header_of(server))
        server.aggregator.stop("enough")
        assert (await server.GetTasks(request, None)).quit
    assert not server.aggregator.entered


async def test_an_aggregator_that_somebody_else_entered_stays_at_work() -> None:
    async with an_aggregator() as ours:
        async with AggregatorGRPCServer(ours, 0, tls=False):
            pass
        assert ours.entered


async def test_a_server_that_serves_is_not_entered_again() -> None:
    async with serving() as server:
        assert server.server is not None
        first = server.server.endpoint
        with pytest.raises(InvalidStateError, match="entered already"):
            await server.__aenter__()
        assert server.server.endpoint == first
        assert server.aggregator.entered
        async with a_client(server) as client:
            assert (await client.get_tasks("one"))[0]
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(first.host, first.port)


async def test_an_aggregator_with_a_port_of_its_own_is_not_served_on_another() -> None:
    server = AggregatorGRPCServer(an_aggregator(listen=Endpoint(host="localhost", port=0)), 0, tls=False)
    with pytest.raises(InvalidStateError, match=r"leave AggregatorConfig\.listen unset"):
        await server.__aenter__()
    assert not server.aggregator.entered


def header_of(server: AggregatorGRPCServer, sender: str = "one") -> aggregator.MessageHeader:
    return convert.header_to_proto(Header(sender, server.aggregator.uuid, server.aggregator.federation_uuid))


async def test_every_method_called_directly() -> None:
    async with serving() as server:
        header = header_of(server)
        tasks = await server.GetTasks(aggregator.GetTasksRequest(header=header), None)
        assert tasks.header == server.get_header("one")
        assert len(tasks.tasks) == 3
        question = aggregator.GetAggregatedTensorRequest(
            header=header, tensor_name="w", tags=["model"], require_lossless=True
        )
        answer = await server.GetAggregatedTensor(question, None)
        assert answer.tensor is not None
        assert answer.tensor.name == "w"
        parts = encode_task_results(
            header=convert.header_from_proto(header),
            round_number=0,
            task_name="train",
            data_size=1,
            tensors=[convert.tensor_from_proto(named("w", [5, 5], "trained"))],
        )
        reply = await server.SendLocalTaskResults(list(data_stream(parts, chunk_bytes=7)), None)
        assert reply.header == server.get_header("one")
        assert server.aggregator.upload_counts().accepted == 1


class FakeContext:
    """What tests of code for OpenFL pass; ``abort`` does not raise, as a mock's."""

    def __init__(self, name: str | None = None) -> None:
        self.name = name
        self.aborted: list[tuple[object, str]] = []

    def invocation_metadata(self) -> list[tuple[str, str | bytes]]:
        return []

    def auth_context(self) -> dict[str, list[bytes]]:
        return {} if self.name is None else {"x509_common_name": [self.name.encode()]}

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def abort(self, code: object, details: str = "") -> None:
        self.aborted.append((code, details))


@pytest.mark.parametrize("name", ["mallory", None])
async def test_a_certificate_that_is_not_the_senders_is_refused(ca: ThrowawayCA, name: str | None) -> None:
    async with serving(tls=ca.server()) as server:
        request = aggregator.GetTasksRequest(header=header_of(server))
        context = FakeContext(name)
        with pytest.raises(AuthenticationError):
            await server.GetTasks(request, context)
        details = f"Invalid collaborator. CN: |{name or ''}| collaborator_common_name: |one|"
        assert context.aborted == [("UNAUTHENTICATED", details)]
        assert (await server.GetTasks(request, FakeContext("one"))).tasks


async def test_check_request_raises_value_errors() -> None:
    async with serving() as server:
        for wrong in (header_of(server, "mallory"), None, aggregator.MessageHeader(sender="one")):
            with pytest.raises(ValueError, match=r"no collaborator|do both sides have the same plan") as raised:
                server.check_request(aggregator.GetTasksRequest(header=wrong))
            assert isinstance(raised.value, OpenFLAioError)
        server.check_request(aggregator.GetTasksRequest(header=header_of(server)))


CALLS: dict[str, Callable[[AggregatorGRPCClient, str], Awaitable[Any]]] = {
    "GetTasks": lambda client, name: client.get_tasks(name),
    "GetAggregatedTensor": lambda client, name: client.get_aggregated_tensor(name, "w", 0, False, ["model"], True),
    "SendLocalTaskResults": lambda client, name: client.send_local_task_results(
        name, 0, "train", 1, [named("w", [5, 5], "trained")]
    ),
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@each_call
async def test_another_name_than_the_certificates_is_refused_through_the_wire(
    ca: ThrowawayCA, call: Callable[[AggregatorGRPCClient, str], Awaitable[Any]]
) -> None:
    both = {"collaborators": ("one", "two")}
    async with serving(tls=ca.server(), config=both) as server, a_client(server, ca.client("two")) as client:
        with pytest.raises(AuthenticationError, match=r"CN: \|two\| collaborator_common_name: \|one\|"):
            await call(client, "one")
        await call(client, "two")
        assert server.aggregator.upload_counts().accepted == (call is CALLS["SendLocalTaskResults"])


@each_call
async def test_who_takes_no_part_is_told_so_by_the_status_that_ends_a_client_of_openfl(
    ca: ThrowawayCA, call: Callable[[AggregatorGRPCClient, str], Awaitable[Any]]
) -> None:
    async with serving(tls=ca.server()) as server, a_client(server, ca.client("mallory")) as client:
        with pytest.raises(AuthenticationError):
            await call(client, "mallory")


async def test_who_takes_no_part_is_refused_before_anything_is_asked_or_read(ca: ThrowawayCA) -> None:
    class Asked(AggregatorGRPCServer):
        calls = 0

        async def GetTasks(self, request: Any, context: Any) -> aggregator.GetTasksResponse:  # noqa: N802
            self.calls += 1
            return await super().GetTasks(request, context)

    name = {"single_col_cert_common_name": "everybody"}
    for config, certificate in (({}, "one"), (name, "everybody")):
        async with serving(Asked, tls=ca.server(), config=config) as server:
            assert isinstance(server, Asked)
            for own, answered in (("mallory", 0), (certificate, 1)):
                more: dict[str, Any] = config
                async with a_client(server, ca.client(own), **more) as client:
                    with pytest.raises(AuthenticationError) if not answered else nullcontext():
                        await client.get_tasks("one")
                assert server.calls == answered


async def test_a_matching_certificate_of_who_takes_no_part_is_refused_in_a_direct_call(ca: ThrowawayCA) -> None:
    async with serving(tls=ca.server()) as server:
        request = aggregator.GetTasksRequest(header=header_of(server, "mallory"))
        context = FakeContext("mallory")
        with pytest.raises(AuthenticationError, match=r"CN: \|mallory\|"):
            await server.GetTasks(request, context)
        assert [code for code, _ in context.aborted] == ["UNAUTHENTICATED"]


async def test_one_certificate_for_all_collaborators(ca: ThrowawayCA) -> None:
    name: dict[str, Any] = {"single_col_cert_common_name": "everybody"}
    config = {"collaborators": ("one", "two"), **name}
    trained = [named("w", [5, 5], "trained")]
    async with serving(tls=ca.server(), config=config) as server:
        async with a_client(server, ca.client("everybody"), **name) as client:
            for sender in ("one", "two"):
                await client.send_local_task_results(sender, 0, "train", 1, trained)
            assert (await client.get_tasks("one"))[0]
            with pytest.raises(AuthenticationError, match=r"CN: \|everybody\| collaborator_common_name: \|mallory\|"):
                await client.get_tasks("mallory")
        assert server.aggregator.upload_counts().accepted == 2
        assert server.get_header("one").single_col_cert_common_name == "everybody"
        async with (
            a_client(server, ca.client("one"), **name) as own,
            a_client(server, ca.client("everybody")) as silent,
        ):
            with pytest.raises(AuthenticationError):  # a certificate of one's own is not the one
                await own.get_tasks("one")
            with pytest.raises(LocalProtocolError):  # who does not know of it has another plan
                await silent.get_tasks("one")


async def test_client_certificates_can_be_left_out_on_both_sides(
    ca: ThrowawayCA, caplog: pytest.LogCaptureFixture
) -> None:
    both = {"collaborators": ("one", "two")}
    async with serving(tls=ca.server(), config=both, disable_client_auth=True) as server:
        assert "callers without one are believed whatever name they give" in caplog.text
        for own in (ca.client("one"), ca.client("mallory")):  # which is not shown
            async with a_client(server, own, disable_client_auth=True) as client:
                assert (await client.get_tasks("one"))[0]
        bare: dict[str, Any] = {"certificate": None, "private_key": None, "disable_client_auth": True}
        async with a_client(server, ca.client("one"), **bare) as client:
            assert (await client.get_tasks("one"))[0]
        async with a_client(server, ca.client("two")) as client:  # whoever shows one is no other
            with pytest.raises(AuthenticationError, match=r"CN: \|two\|"):
                await client.get_tasks("one")


class Overriding(AggregatorGRPCServer):
    seen: Any = None

    async def GetTasks(self, request: Any, context: Any) -> aggregator.GetTasksResponse:  # noqa: N802
        Overriding.seen = (dict(context.invocation_metadata()), context.auth_context(), context.peer(), repr(context))
        if request.header.sender == "abort":
            context.abort(5, "not here")
        answer = await super().GetTasks(request, context)
        answer.sleep_time = 77
        return answer


async def test_the_wire_calls_what_a_subclass_overrides(ca: ThrowawayCA) -> None:
    async with serving(Overriding, ca.server()) as server, a_client(server, ca.client("one")) as client:
        assert (await client.get_tasks("one"))[2] == 77
        metadata, auth, peer, text = Overriding.seen
        assert isinstance(metadata, dict)
        assert auth["x509_common_name"] == [b"one"]
        assert peer.startswith(("ipv4:127.0.0.1:", "ipv6:[::1]:"))
        assert text.startswith("<CallContext 'one' from ")
        with pytest.raises(NotFoundError, match="not here"):
            await client.get_tasks("abort")


async def test_an_exception_that_nobody_foresaw_is_in_the_log_alone(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(AggregatorGRPCServer):
        async def GetTasks(self, request: Any, context: Any) -> aggregator.GetTasksResponse:  # noqa: N802
            raise RuntimeError("boom")

    async with serving(Broken) as server, a_client(server) as client:
        with pytest.raises(RemoteProtocolError, match=r"INTERNAL: internal error [0-9a-f]{16}$") as raised:
            await client.get_tasks("one")
    identity = str(raised.value).split()[-1]
    (record,) = [record for record in caplog.records if identity in record.message]
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "boom"


class Stricter(AggregatorGRPCServer):
    def check_request(self, request: Any) -> None:
        super().check_request(request)
        raise ValueError("closed for today")

    def get_header(self, collaborator_name: str) -> aggregator.MessageHeader:
        raise NotImplementedError


async def test_an_overridden_check_counts_for_every_call() -> None:
    async with serving(Stricter) as server, a_client(server) as client:
        with pytest.raises(LocalProtocolError, match="closed for today"):
            await client.get_tasks("one")
        with pytest.raises(LocalProtocolError, match="closed for today"):
            await client.send_local_task_results("one", 0, "train", 1, [])
        # also for the calls that OpenFL has no name for here
        stub = messages.v1.TensorsStub(client.channel)  # type: ignore[arg-type]
        request = aggregator.GetAggregatedTensorRequest(header=header_of(server), tensor_name="w", tags=["model"])
        with pytest.raises(LocalProtocolError, match="closed for today"), translate():
            async for _ in stub.get_tensor(request):
                pass


class AsyncCheck(AggregatorGRPCServer):
    async def check_request(self, request: Any) -> None:  # type: ignore[override]
        raise ValueError("closed for today")


class AsyncValidate(AggregatorGRPCServer):
    async def validate_collaborator(self, request: Any, context: Any) -> None:  # type: ignore[override]
        raise AuthenticationError("closed for today")


class AsyncHeader(AggregatorGRPCServer):
    async def get_header(self, collaborator_name: str) -> Any:  # type: ignore[override]
        return super().get_header(collaborator_name)


@each_call
@pytest.mark.parametrize("cls", [AsyncCheck, AsyncValidate])
async def test_a_check_that_would_have_to_be_awaited_lets_nobody_in(
    cls: type[AggregatorGRPCServer], call: Callable[[AggregatorGRPCClient, str], Awaitable[Any]]
) -> None:
    async with serving(cls) as server, a_client(server) as client:
        with pytest.raises(RemoteProtocolError, match="internal error"):
            await call(client, "one")
        assert server.aggregator.upload_counts().accepted == 0


@pytest.mark.parametrize(
    ("cls", "method"),
    [(AsyncCheck, "check_request"), (AsyncValidate, "validate_collaborator"), (AsyncHeader, "get_header")],
)
async def test_a_method_that_must_be_plain_says_so(cls: type[AggregatorGRPCServer], method: str) -> None:
    async with serving(cls) as server:
        with pytest.raises(TypeError, match=f"{method}: expected a plain method"):
            await server.GetTasks(aggregator.GetTasksRequest(header=header_of(server)), None)


async def test_the_rpcs_that_openfl_left_out_are_answered() -> None:
    async with serving() as server, a_client(server) as client:
        assert client.channel is not None
        stub = aggregator.AggregatorStub(client.channel)
        with translate():
            description = await stub.get_experiment_description(
                aggregator.GetExperimentDescriptionRequest(name=server.aggregator.federation_uuid)
            )
        assert description.experiment is not None
        assert description.experiment.total_rounds == 1


async def test_a_reply_of_another_aggregator_is_a_value_error() -> None:
    class Impostor(AggregatorGRPCServer):
        def get_header(self, collaborator_name: str) -> aggregator.MessageHeader:
            return aggregator.MessageHeader(sender="aggregator of mallory", receiver=collaborator_name)

    async with serving(Impostor) as server, a_client(server) as client:
        with pytest.raises(ValueError, match="do both sides have the same plan") as raised:
            await client.get_tasks("one")
        assert isinstance(raised.value, HeaderMismatchError)


async def test_an_overridden_validate_response_counts() -> None:
    seen: list[Any] = []

    class Lenient(AggregatorGRPCClient):
        def validate_response(self, reply: Any, collaborator_name: str) -> None:
            seen.append(reply)

    async with serving() as server, a_client(server, cls=Lenient) as client:
        await client.get_tasks("one")
        await client.get_aggregated_tensor("one", "w", 0, False, ["model"], True)
        await client.send_local_task_results("one", 0, "train", 1, [named("w", [5, 5], "trained")])
    tasks, tensor, taken = seen
    assert [task.name for task in tasks.tasks][1] == "train"
    assert tensor.tensor.name == "w"
    assert isinstance(taken, aggregator.SendLocalTaskResultsResponse)
    assert {reply.header.receiver for reply in seen} == {"one"}


async def test_an_override_sees_a_tensor_that_came_in_parts() -> None:
    seen: list[Any] = []

    class Looking(AggregatorGRPCClient):
        def validate_response(self, reply: Any, collaborator_name: str) -> None:
            super().validate_response(reply, collaborator_name)
            seen.append(reply)

    limits = {"limits": Limits(max_message_bytes=1024 * 1024)}
    model = {"w": np.ones(LARGE, np.float32)}
    async with serving(model=model, config=limits) as server, a_client(server, cls=Looking) as client:
        tensor = await client.get_aggregated_tensor("one", "w", 0, False, ["model"], True)
    (reply,) = seen
    assert isinstance(reply, aggregator.GetAggregatedTensorResponse)
    assert (reply.round_number, reply.tensor) == (0, tensor)


async def test_a_validation_that_would_have_to_be_awaited_takes_no_reply() -> None:
    class Async(AggregatorGRPCClient):
        async def validate_response(self, reply: Any, collaborator_name: str) -> None:  # type: ignore[override]
            raise ValueError("wrong")

    async with serving() as server, a_client(server, cls=Async) as client:
        with pytest.raises(TypeError, match="validate_response: expected a plain method"):
            await client.get_tasks("one")


def test_a_reply_is_compared_by_all_four_fields_of_its_header() -> None:
    client = AggregatorGRPCClient("localhost", 1, False, None, None, None, False, "agg", "f", "everybody")
    right = {
        "sender": "agg",
        "receiver": "one",
        "federation_uuid": "f",
        "single_col_cert_common_name": "everybody",
    }
    client.validate_response(aggregator.GetTasksResponse(header=aggregator.MessageHeader(**right)), "one")
    for field in right:
        header = aggregator.MessageHeader(**right | {field: "other"})
        with pytest.raises(ValueError, match="do both sides have the same plan"):
            client.validate_response(aggregator.GetTasksResponse(header=header), "one")


async def test_a_client_connects_at_its_first_call_and_again_after_it_was_disconnected() -> None:
    async with serving() as server:
        client = a_client(server)
        assert client.channel is None
        assert (await client.get_tasks("one"))[0]
        first = client.channel
        assert (await client.get_tasks("one"))[0]
        assert client.channel is first
        await client.disconnect()
        await client.disconnect()
        assert client.channel is None
        assert (await client.get_tasks("one"))[0]
        await client.reconnect()
        assert isinstance(client.channel, Channel)
        assert client.channel is not first
        assert (await client.get_tasks("one"))[0]
        await client.disconnect()


async def test_a_channel_without_tls_comes_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    client = AggregatorGRPCClient("localhost", 1, False, None, None, None, tls=False)
    client.create_insecure_channel("host:5").close()
    assert [record.levelname for record in caplog.records if "no TLS on the channel to host:5" in record.message] == [
        "WARNING"
    ]


async def test_a_client_waits_for_a_server_that_is_not_there_yet() -> None:
    async with serving() as first:
        client = a_client(first, client_reconnect_interval=0)
        assert first.server is not None
        port = first.server.endpoint.port
    answers: list[Any] = []

    async def ask() -> None:
        answers.append(await client.get_tasks("one"))

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await anyio.sleep(0.1)
        assert not answers
        async with AggregatorGRPCServer(an_aggregator(), port, tls=False):
            with anyio.fail_after(10):
                while not answers:
                    await anyio.sleep(0.01)
        await client.disconnect()


async def test_a_client_tries_again_within_the_interval_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    class EnoughError(Exception):
        pass

    pauses: list[float] = []

    async def no_sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 20:
            raise EnoughError

    async with serving() as gone:
        client = a_client(gone, client_reconnect_interval=5)
    monkeypatch.setattr(anyio, "sleep", no_sleep)
    with pytest.raises(EnoughError):
        await client.get_tasks("one")
    assert 0.5 < max(pauses) <= 5  # each is drawn between nothing and the interval
    await client.disconnect()


@pytest.mark.parametrize(
    "make",
    [
        lambda: AggregatorGRPCClient("localhost", 1, False, None, "crt", "key"),
        lambda: AggregatorGRPCClient("localhost", 1, False, "ca", None, "key"),
        lambda: AggregatorGRPCClient("localhost", "auto", False, None, None, None, tls=False),
    ],
)
async def test_a_client_that_cannot_work_says_so(make: Callable[[], AggregatorGRPCClient]) -> None:
    with pytest.raises(ConfigurationError):
        await make().reconnect()


async def test_a_server_without_certificates_says_so() -> None:
    with pytest.raises(ConfigurationError, match="tls=False"):
        AggregatorGRPCServer(an_aggregator(), 0).get_server()


async def test_a_call_after_the_end_of_the_server_is_refused() -> None:
    async with serving() as server:
        client = a_client(server)
        await client.get_tasks("one")
    assert client.channel is not None
    with pytest.raises((ConnectionLostError, OSError, OpenFLAioError)), translate():
        await aggregator.AggregatorStub(client.channel).get_tasks(aggregator.GetTasksRequest())
    await client.disconnect()
