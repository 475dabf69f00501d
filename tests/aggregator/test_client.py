from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from openfl_aio.aggregator.client import AggregatorClient
from openfl_aio.aggregator.service import Aggregator
from openfl_aio.aggregator.servicer import AggregatorServicer
from openfl_aio.config import AggregatorConfig, CollaboratorConfig, Endpoint, Limits, RetryPolicy, Timeouts, TLSConfig
from openfl_aio.domain import ModelKind, TensorQuery
from openfl_aio.errors import (
    AuthenticationError,
    AuthorizationError,
    HeaderMismatchError,
    InvalidStateError,
    LocalProtocolError,
    MalformedMessageError,
    MessageTooLargeError,
    NotFoundError,
    TransportError,
)
from openfl_aio.tensors.codec import EncodedTensor, TensorCodec
from openfl_aio.tensors.key import TensorKey
from openfl_aio.testing.ca import ThrowawayCA
from openfl_aio.transport.channel import call_with_retries
from openfl_aio.wire import convert
from openfl_aio.wire.messages import aggregator, v1

pytestmark = pytest.mark.real_time

MODEL = {"w": np.ones(1000, np.float32)}
IMPATIENT = RetryPolicy(max_elapsed=0.5)


@pytest.fixture
def certificates(tmp_path: Path) -> dict[str, TLSConfig]:
    ca = ThrowawayCA(tmp_path / "cert")
    return {"server": ca.server(), "one": ca.client("one"), "two": ca.client("two")}


@asynccontextmanager
async def serving(tls: TLSConfig | None = None, **more: Any) -> AsyncIterator[Aggregator]:
    config = AggregatorConfig(
        collaborators=("one", "two"), rounds=1, listen=Endpoint(), tls=tls, timeouts=Timeouts(drain=1), **more
    )
    async with Aggregator(config, initial_model=MODEL) as service:
        yield service


def client(service: Aggregator, name: str = "one", tls: TLSConfig | None = None, **more: Any) -> AggregatorClient:
    settings = {
        "name": name,
        "aggregator_uuid": service.uuid,
        "federation_uuid": service.federation_uuid,
        "endpoint": service.endpoint,
        "tls": tls,
        "limits": {"chunk_bytes": 1024},
        "retry": IMPATIENT,
    }
    return AggregatorClient(CollaboratorConfig(**(settings | more)))


def results(task: str) -> list[EncodedTensor]:
    if task != "train":
        key = TensorKey.of("acc", "x", 0, report=True, tags=("metric", "validate_agg"))
        return [TensorCodec().encode(key, np.array(0.5))]
    return [TensorCodec().encode(TensorKey.of("w", "x", 0, tags=("trained",)), np.full(1000, 3.0))]


async def take_part(service: Aggregator, name: str, tls: TLSConfig | None = None) -> None:
    async with client(service, name, tls) as api:
        assignment = await api.get_tasks()
        model = await api.get_aggregated_tensor(TensorQuery("w", 0, tags=("model",)))
        np.testing.assert_array_equal(TensorCodec().decode(model), MODEL["w"])
        for task in assignment.tasks:
            await api.send_local_task_results(
                round_number=0, task_name=task.name, data_size=2, tensors=iter(results(task.name))
            )
        while not (await api.get_tasks()).quit:
            pass


@pytest.mark.parametrize("secure", [False, True])
async def test_a_federation_over_sockets(tmp_path: Path, certificates: dict[str, TLSConfig], secure: bool) -> None:
    tls = certificates if secure else {}
    workspace = tmp_path / "workspace"
    async with serving(tls.get("server"), workspace=workspace) as service:
        async with anyio.create_task_group() as tasks:
            for name in ("one", "two"):
                tasks.start_soon(take_part, service, name, tls.get(name))
        await service.wait_quits_sent()
        np.testing.assert_array_equal((await service.wait_complete())["w"], np.full(1000, 3.0))
        assert service.model(ModelKind.BEST) is not None
    assert {"best.pbuf", "last.pbuf"} <= {path.name for path in workspace.iterdir()}


async def test_refusals() -> None:
    async with serving() as service:
        async with client(service) as api:
            with pytest.raises(NotFoundError):
                await api.get_aggregated_tensor(TensorQuery("nothing", 0, tags=("model",)))
            with pytest.raises(LocalProtocolError, match="sample"):
                await api.send_local_task_results(
                    round_number=0, task_name="train", data_size=0, tensors=results("train")
                )
        async with client(service, "mallory") as api:
            with pytest.raises(AuthorizationError):
                await api.get_tasks()
        async with client(service, federation_uuid="other") as api:
            with pytest.raises(LocalProtocolError, match="same plan"):
                await api.get_tasks()
        async with client(service, aggregator_uuid="aggregator_other") as api:
            with pytest.raises(LocalProtocolError, match="same plan"):
                await api.get_tasks()
        stranger = client(service)
        with pytest.raises(HeaderMismatchError, match="expected a reply"):
            stranger._check(aggregator.GetTasksResponse())


async def test_a_foreign_certificate(certificates: dict[str, TLSConfig]) -> None:
    async with serving(certificates["server"]) as service, client(service, "one", certificates["two"]) as api:
        with pytest.raises(AuthenticationError):
            await api.get_tasks()


async def test_statistics_are_those_of_its_server() -> None:
    async with serving() as service, client(service) as one:
        await one.get_tasks()
        statistics = service.statistics()
        assert (statistics.connections, statistics.unauthenticated, statistics.refused) == (1, 0, 0)
        assert statistics.loop.longest_stall >= 0

    config = AggregatorConfig(collaborators=("one",), rounds=1)
    async with Aggregator(config, initial_model=MODEL) as unbound:
        with pytest.raises(InvalidStateError, match="does not listen"):
            unbound.statistics()


async def test_an_aggregator_that_is_not_there() -> None:
    async with serving() as service:
        pass
    async with client(service) as api:
        with pytest.raises(TransportError, match="GetTasks at the aggregator"):
            await api.get_tasks()


# MODEL has 4000 bytes; an answer is refused if 64 KiB and its data do not fit in a message
SMALL_MESSAGES = Limits(max_message_bytes=64 * 1024, chunk_bytes=1024)


async def test_a_tensor_that_no_message_can_hold_comes_in_parts() -> None:
    async with serving(limits=SMALL_MESSAGES) as service, client(service) as api:
        model = await api.get_aggregated_tensor(TensorQuery("w", 0, tags=("model",)))
        assert (model.name, model.tags) == ("w", ("compressed", "model"))
        np.testing.assert_array_equal(TensorCodec().decode(model), MODEL["w"])
        with pytest.raises(NotFoundError):
            await api.get_aggregated_tensor(TensorQuery("other", 0, tags=("model",)))


async def test_parts_go_to_collaborators_only() -> None:
    async with serving(limits=SMALL_MESSAGES) as service, client(service, "mallory") as api:
        request = convert.query_to_proto(TensorQuery("w", 0, tags=("model",)), header=api._header)
        with pytest.raises(AuthorizationError):
            await call_with_retries(IMPATIENT, lambda: api._get_tensor(request), what="GetTensor")


async def test_an_answer_beyond_the_own_limit_comes_in_parts() -> None:
    limits = Limits(max_message_bytes=2048, chunk_bytes=1024)
    async with serving(limits=Limits(chunk_bytes=1024)) as service, client(service, limits=limits) as api:
        model = await api.get_aggregated_tensor(TensorQuery("w", 0, tags=("model",)))
        np.testing.assert_array_equal(TensorCodec().decode(model), MODEL["w"])


async def test_a_server_that_has_no_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As OpenFL's own: it refuses what does not fit, and does not know the other call."""
    monkeypatch.setattr(AggregatorServicer, "__mapping__", aggregator.AggregatorBase.__mapping__)
    async with serving(limits=SMALL_MESSAGES) as service, client(service) as api:
        with pytest.raises(MessageTooLargeError, match="in parts"):
            await api.get_aggregated_tensor(TensorQuery("w", 0, tags=("model",)))


WIDE = {name: np.full(100, number, np.float32) for number, name in enumerate("abcdefgh")}
WIDE_QUERIES = [TensorQuery(name, 0, tags=("model",)) for name in WIDE]


@asynccontextmanager
async def wide_client(service: Aggregator, **more: Any) -> AsyncIterator[tuple[AggregatorClient, list[str]]]:
    """Give a client with the paths of the calls that it makes."""
    calls: list[str] = []
    async with client(service, **more) as api:
        for stub in (api._stub, api._tensors):
            for name in ("get_aggregated_tensor", "get_tensors", "get_tensor"):
                method = getattr(stub, name, None)
                if method is not None:

                    def counted(request: Any, *, method: Any = method, name: str = name) -> Any:
                        calls.append(name)
                        return method(request)

                    setattr(stub, name, counted)
        yield api, calls


async def fetch_wide(api: AggregatorClient) -> None:
    found = await api.get_aggregated_tensors(WIDE_QUERIES)
    assert [tensor.name for tensor in found] == list(WIDE)
    for tensor in found:
        np.testing.assert_array_equal(TensorCodec().decode(tensor), WIDE[tensor.name])


@asynccontextmanager
async def serving_wide(**more: Any) -> AsyncIterator[Aggregator]:
    config = AggregatorConfig(
        collaborators=("one", "two"), rounds=1, listen=Endpoint(), timeouts=Timeouts(drain=1), **more
    )
    async with Aggregator(config, initial_model=WIDE) as service:
        yield service


async def test_small_tensors_come_in_one_call() -> None:
    async with serving_wide() as service, wide_client(service) as (api, calls):
        await fetch_wide(api)
        assert calls == ["get_tensors"]


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (3 * 400, ["get_tensors"] * 3),
        (7 * 400, ["get_tensors", "get_aggregated_tensor"]),
        (399, ["get_tensors", "get_aggregated_tensor"] * 7 + ["get_aggregated_tensor"]),
    ],
)
async def test_several_tensors_are_as_many_as_fit(
    monkeypatch: pytest.MonkeyPatch, room: int, expected: list[str]
) -> None:
    monkeypatch.setattr("openfl_aio.aggregator.servicer.SEVERAL_BYTES", room)
    async with serving_wide() as service, wide_client(service) as (api, calls):
        await fetch_wide(api)
        assert calls == expected


async def test_a_server_that_gives_no_several_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As OpenFL's own."""
    monkeypatch.setattr(AggregatorServicer, "__mapping__", aggregator.AggregatorBase.__mapping__)
    async with serving_wide() as service, wide_client(service) as (api, calls):
        await fetch_wide(api)
        await fetch_wide(api)
        assert calls == ["get_tensors"] + ["get_aggregated_tensor"] * 16


async def test_several_beyond_the_own_limit_come_one_by_one() -> None:
    limits = Limits(max_message_bytes=2048, chunk_bytes=1024)
    async with serving_wide() as service, wide_client(service, limits=limits) as (api, calls):
        await fetch_wide(api)
        assert calls == ["get_tensors"] + ["get_aggregated_tensor"] * 8


async def test_several_of_which_one_will_not_come() -> None:
    async with serving_wide() as service, client(service) as api:
        with pytest.raises(NotFoundError, match="none of that name"):
            await api.get_aggregated_tensors([*WIDE_QUERIES, TensorQuery("other", 0, tags=("model",))])


async def test_more_tensors_than_one_call_may_ask_for() -> None:
    async with serving_wide() as service, wide_client(service) as (api, calls):
        found = await api.get_aggregated_tensors([WIDE_QUERIES[0]] * 300)
        assert [tensor.name for tensor in found] == [WIDE_QUERIES[0].tensor_name] * 300
        assert calls == ["get_tensors"] * 3


async def test_several_go_to_collaborators_only_and_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving_wide() as service:
        async with client(service, "mallory") as api:
            with pytest.raises(AuthorizationError):
                await api.get_aggregated_tensors(WIDE_QUERIES)

        async def reversed_(servicer: AggregatorServicer, message: v1.TensorsRequest) -> v1.TensorsResponse:
            message.queries.reverse()
            return await answer(servicer, message)

        answer = AggregatorServicer.get_tensors
        monkeypatch.setattr(AggregatorServicer, "get_tensors", reversed_)
        async with client(service) as api:
            with pytest.raises(MalformedMessageError, match="begin otherwise"):
                await api.get_aggregated_tensors(WIDE_QUERIES)
