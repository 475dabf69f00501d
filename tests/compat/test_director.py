"""The director's server and its two clients under OpenFL's names: called directly, and through a socket."""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import numpy as np
import pytest

from openfl_aio.compat import DirectorClient, DirectorGRPCServer, ShardDirectorClient
from openfl_aio.config import TLSConfig
from openfl_aio.director.service import Director
from openfl_aio.director.servicer import encode_model
from openfl_aio.errors import (
    AuthenticationError,
    AuthorizationError,
    ConfigurationError,
    EmptyStreamError,
    ExperimentNotFoundError,
    InvalidStateError,
    NotFoundError,
    ShardNotFoundError,
)
from openfl_aio.testing.ca import ThrowawayCA
from openfl_aio.transport.server import Server
from openfl_aio.wire import convert
from openfl_aio.wire.messages import director

pytestmark = pytest.mark.real_time

PLAN = """\
aggregator:
  template: openfl.component.Aggregator
  settings: {rounds_to_train: 1}
collaborator:
  template: openfl.component.Collaborator
  settings: {delta_updates: false}
network:
  template: openfl.federation.Network
  settings: {agg_addr: localhost, agg_port: 1, tls: TLS, hash_salt: auto}
assigner:
  template: openfl.component.RandomGroupedAssigner
  settings: {task_groups: [{name: all, percentage: 1.0, tasks: [train]}]}
tasks:
  settings: {}
  train: {function: train, kwargs: {}}
compression_pipeline:
  template: openfl.pipelines.NoCompressionPipeline
  settings: {}
"""
MODEL = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}
DATA = SimpleNamespace(dataset_description="digits", sample_shape=["8", "8"], target_shape=["10"])


def an_archive(*, tls: bool) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zf:
        zf.writestr("plan/plan.yaml", PLAN.replace("TLS", str(tls).lower()))
    return buffer.getvalue()


def files(tls: TLSConfig | None) -> dict[str, Any]:
    if tls is None:
        return {"tls": False, "root_certificate": None, "private_key": None, "certificate": None}
    return {"tls": True, "root_certificate": tls.ca, "private_key": tls.private_key, "certificate": tls.certificate}


@asynccontextmanager
async def serving(
    cls: type[DirectorGRPCServer] = DirectorGRPCServer, tls: TLSConfig | None = None, **more: Any
) -> AsyncIterator[DirectorGRPCServer]:
    arguments: dict[str, Any] = {
        "director_cls": Director,
        "listen_host": "localhost",
        "listen_port": 0,
        "sample_shape": ["8", "8"],
        "target_shape": ["10"],
    }
    async with cls(**arguments | files(tls) | more) as server:
        yield server


def frontend(
    server: DirectorGRPCServer, tls: TLSConfig | None = None, client_id: str | None = "alice"
) -> DirectorClient:
    return DirectorClient(
        client_id=client_id, director_host="localhost", director_port=server.endpoint.port, **files(tls)
    )


def envoy(server: DirectorGRPCServer, tls: TLSConfig | None = None, name: str = "one") -> ShardDirectorClient:
    return ShardDirectorClient(
        director_host="localhost", director_port=server.endpoint.port, shard_name=name, **files(tls)
    )


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> ThrowawayCA:
    ca = ThrowawayCA(tmp_path_factory.mktemp("ca") / "cert")
    ca.server()
    for name in ("one", "alice"):
        ca.client(name)
    return ca


async def until(client: DirectorClient, name: str, status: str) -> None:
    with anyio.fail_after(10):
        while (await client.get_experiment_status(name)).experiment_status != status:
            await anyio.sleep(0.01)


@pytest.mark.parametrize("with_tls", [False, True], ids=["plaintext", "mutual TLS"])
async def test_an_experiment_under_openfls_names(ca: ThrowawayCA, tmp_path: Path, with_tls: bool) -> None:
    server_tls, one, alice = (ca.server(), ca.client("one"), ca.client("alice")) if with_tls else (None, None, None)
    path = tmp_path / "work.zip"
    path.write_bytes(an_archive(tls=with_tls))
    async with (
        serving(tls=server_tls) as server,
        envoy(server, one) as worker,
        frontend(server, alice) as user,
    ):
        assert await worker.report_shard_info(DATA, (0,)) is True
        devices = [{"index": 0, "name": "gpu"}]
        period = await worker.send_health_check(
            envoy_name="one", is_experiment_running=False, cuda_devices_info=devices
        )
        assert period == 60
        assert await user.get_dataset_info() == (["8", "8"], ["10"])
        envoys = await user.get_envoys()
        assert isinstance(envoys, dict)
        assert envoys["one"]["is_online"] is True
        assert envoys["one"]["shard_info"].node_info.cuda_devices[0].name == "gpu"
        raw = await user.get_envoys(raw_result=True)
        assert isinstance(raw, director.GetEnvoysResponse)
        assert raw.envoy_infos[0].shard_info is not None

        assert await user.set_new_experiment("exp", ["one"], path, {}) is None  # as OpenFL: nothing is sent
        answer = await user.set_new_experiment("exp", ["one"], path, MODEL)
        assert answer is not None
        assert answer.accepted
        await until(user, "exp", "in_progress")
        assert await worker.wait_experiment() == "exp"
        archive = b"".join([chunk.npbytes async for chunk in worker.get_experiment_data("exp")])
        assert zipfile.ZipFile(io.BytesIO(archive)).namelist() == ["plan/plan.yaml"]
        (item,) = await user.get_experiments_list()
        assert (item.name, item.status, item.collaborators_amount) == ("exp", "in_progress", 1)
        description = await user.get_experiment_description("exp")
        assert [task.name for task in description.tasks] == ["train"]
        np.testing.assert_array_equal((await user.get_last_model("exp"))["w"], MODEL["w"])
        assert await user.get_best_model("exp") == {}
        await worker.set_experiment_failed("exp", 1, "out of memory")
        await until(user, "exp", "failed")
        assert [metric async for metric in user.stream_metrics("exp")] == []
        assert await user.remove_experiment_data("exp") is True
        assert await user.get_experiments_list() == []
        with pytest.raises(NotFoundError):
            await user.get_experiment_description("exp")


async def test_a_director_that_does_not_know_an_envoy_says_so() -> None:
    async with serving() as server, envoy(server) as worker:
        with pytest.raises(ShardNotFoundError):
            await worker.send_health_check(envoy_name="one", is_experiment_running=False)


@pytest.mark.parametrize("bad", [{"index": 0, "bogus": 1}, {"index": "first"}, 5])
async def test_health_is_reported_without_devices_that_cannot_be_told(
    bad: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as server, envoy(server) as worker, frontend(server) as user:
        await worker.report_shard_info(DATA, (0,))
        devices = [{"index": 1, "name": "gpu"}, bad]
        assert (
            await worker.send_health_check(envoy_name="one", is_experiment_running=False, cuda_devices_info=devices)
            == 60
        )
        assert "no CUDA device is reported" in caplog.text
        envoys = await user.get_envoys()
        assert isinstance(envoys, dict)
        assert envoys["one"]["is_online"]


@pytest.mark.parametrize("status", ["INTERNAL", "PERMISSION_DENIED", "INVALID_ARGUMENT"])
async def test_health_that_could_not_be_reported_is_logged(status: str, caplog: pytest.LogCaptureFixture) -> None:
    class Refusing(DirectorGRPCServer):
        async def UpdateEnvoyStatus(  # noqa: N802
            self, request: Any, context: Any
        ) -> director.UpdateEnvoyStatusResponse:
            context.abort(status, "not today")
            raise AssertionError("never")

    async with serving(Refusing) as server, envoy(server) as worker:
        assert await worker.send_health_check(envoy_name="one", is_experiment_running=False) is None
        assert "no health was reported" in caplog.text
        assert "not today" in caplog.text


async def test_every_method_called_directly() -> None:
    async with serving() as server:
        shard = director.ShardInfo(
            node_info=director.NodeInfo(name="one"), sample_shape=["8", "8"], target_shape=["10"]
        )
        registered = await server.UpdateShardInfo(director.UpdateShardInfoRequest(shard_info=shard), None)
        assert registered.accepted
        health = await server.UpdateEnvoyStatus(director.UpdateEnvoyStatusRequest(name="one"), None)
        assert health.health_check_period is not None
        assert [info.is_online for info in (await server.GetEnvoys(director.GetEnvoysRequest(), None)).envoy_infos]
        dataset = await server.GetDatasetInfo(director.GetDatasetInfoRequest(), None)
        assert dataset.shard_info is not None
        assert dataset.shard_info.target_shape == ["10"]
        with pytest.raises(EmptyStreamError):
            await server.SetNewExperiment([], None)
        data = an_archive(tls=False)
        submission = director.ExperimentInfo(
            name="exp",
            collaborator_names=["one"],
            model_proto=convert.model_to_proto(encode_model(MODEL)),
            experiment_data=director.ExperimentData(size=len(data), npbytes=data),
        )
        assert (await server.SetNewExperiment([submission], None)).accepted
        waiting = await server.WaitExperiment(director.WaitExperimentRequest(collaborator_name="one"), None)
        assert waiting.experiment_name == "exp"
        request = director.GetExperimentDataRequest(experiment_name="exp", collaborator_name="one")
        assert b"".join([chunk.npbytes async for chunk in server.GetExperimentData(request, None)])
        status = director.GetExperimentStatusRequest(experiment_name="exp")
        assert (await server.GetExperimentStatus(status, None)).experiment_status == "in_progress"
        listed = await server.GetExperimentsList(director.GetExperimentsListRequest(), None)
        assert [item.name for item in listed.experiments] == ["exp"]
        described = await server.GetExperimentDescription(director.GetExperimentDescriptionRequest(name="exp"), None)
        assert described.experiment is not None
        last = director.GetTrainedModelRequestModelType.LAST_MODEL
        model = await server.GetTrainedModel(
            director.GetTrainedModelRequest(experiment_name="exp", model_type=last), None
        )
        assert model.model_proto is not None
        failure = director.SetExperimentFailedRequest(experiment_name="exp", collaborator_name="one", error_code=1)
        await server.SetExperimentFailed(failure, None)
        metrics = server.GetMetricStream(director.GetMetricStreamRequest(experiment_name="exp"), None)
        assert [metric async for metric in metrics] == []
        removal = director.RemoveExperimentRequest(experiment_name="exp")
        assert (await server.RemoveExperimentData(removal, None)).acknowledgement


class FakeContext:
    def __init__(self, metadata: dict[str, str | bytes], name: str | None = None) -> None:
        self._metadata = metadata
        self._name = name

    def invocation_metadata(self) -> list[tuple[str, str | bytes]]:
        return list(self._metadata.items())

    def auth_context(self) -> dict[str, list[bytes]]:
        return {} if self._name is None else {"x509_common_name": [self._name.encode()]}

    def peer(self) -> str:
        return "unknown"

    def abort(self, code: Any, details: str = "") -> Any:
        raise AssertionError("nobody aborts")


async def test_who_calls(ca: ThrowawayCA) -> None:
    async with serving() as server:
        assert server.get_caller(None) == "__default__"
        assert server.get_caller(FakeContext({})) == "__default__"
        assert server.get_caller(FakeContext({"client_id": "alice"}, "mallory")) == "alice"
        assert server.get_caller(FakeContext({"client_id": b"alice"})) == "alice"
    async with serving(tls=ca.server()) as server:
        assert server.get_caller(FakeContext({"client_id": "mallory"}, "alice")) == "alice"
        with pytest.raises(AuthenticationError):
            server.get_caller(FakeContext({"client_id": "mallory"}))
        status = director.UpdateEnvoyStatusRequest(name="one")
        with pytest.raises(AuthorizationError):
            await server.UpdateEnvoyStatus(status, FakeContext({}, "mallory"))
        with pytest.raises(AuthorizationError):  # a proven name, though it is that of who gives none
            await server.UpdateEnvoyStatus(status, FakeContext({}, "__default__"))
        data = director.GetExperimentDataRequest(experiment_name="exp", collaborator_name="one")
        with pytest.raises(AuthorizationError):
            await anext(aiter(server.GetExperimentData(data, FakeContext({}, "mallory"))))


async def test_a_caller_that_would_have_to_be_awaited_is_nobody() -> None:
    class Async(DirectorGRPCServer):
        async def get_caller(self, context: Any) -> str:  # type: ignore[override]
            return "alice"

    async with serving(Async) as server:
        with pytest.raises(TypeError, match="get_caller: expected a plain method"):
            await server.GetDatasetInfo(director.GetDatasetInfoRequest(), None)


async def test_the_wire_calls_what_a_subclass_overrides() -> None:
    class Overriding(DirectorGRPCServer):
        def get_caller(self, context: Any) -> str:
            return super().get_caller(context).removesuffix("@example")

        async def GetDatasetInfo(self, request: Any, context: Any) -> director.GetDatasetInfoResponse:  # noqa: N802
            return director.GetDatasetInfoResponse(shard_info=director.ShardInfo(sample_shape=[context.peer()]))

        async def GetMetricStream(  # noqa: N802
            self, request: Any, context: Any
        ) -> AsyncIterator[director.GetMetricStreamResponse]:
            for number in range(3):
                yield director.GetMetricStreamResponse(metric_name=self.get_caller(context), round=number)

    async with serving(Overriding) as server, frontend(server, client_id="alice@example") as user:
        (peer,) = (await user.get_dataset_info())[0]
        assert peer.startswith("ipv4:127.0.0.1:")
        metrics = [metric async for metric in user.stream_metrics("exp")]
        assert [(metric["metric_name"], metric["round"]) for metric in metrics] == [
            ("alice", 0),
            ("alice", 1),
            ("alice", 2),
        ]


async def test_a_director_of_ones_own_is_made_and_mounted() -> None:
    class Own(Director):
        async def get_dataset_info(self, caller: Any) -> Any:
            raise ExperimentNotFoundError(f"asked by {caller.name}")

    async with serving(director_cls=Own) as server, frontend(server) as user:
        assert isinstance(server.director, Own)
        with pytest.raises(NotFoundError, match="asked by alice"):
            await user.get_dataset_info()


async def a_review(plan: Any) -> bool:
    return bool(plan.tasks[0].name != "train")


def a_blocking_review(name: str, path: Path) -> bool:
    assert name == "exp"
    return "rounds_to_train: 1" not in path.read_text()


@pytest.mark.parametrize("review", [a_review, a_blocking_review])
async def test_a_review_turns_a_plan_down(tmp_path: Path, review: Callable[..., Any]) -> None:
    path = tmp_path / "work.zip"
    path.write_bytes(an_archive(tls=False))
    async with serving(review_plan_callback=review) as server, frontend(server) as user:
        await user.set_new_experiment("exp", ["one"], str(path), MODEL)
        await until(user, "exp", "rejected")


@pytest.mark.parametrize("accepts", [True, False])
@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "answers a coroutine"])
async def test_a_review_is_asked_with_the_experiments_name_inside_its_workspace(
    tmp_path: Path, accepts: bool, wrapped: bool
) -> None:
    seen: list[Any] = []

    def review(name: str, path: Path) -> Any:
        code = path.parent.parent / "src" / "model.py"
        seen.append((name, path.relative_to(path.parent.parent), code.read_text(), "agg_addr" in path.read_text()))
        seen.append(path)
        return answer() if wrapped else accepts

    async def answer() -> bool:
        return accepts

    path = tmp_path / "work.zip"
    path.write_bytes(an_archive(tls=False))
    with zipfile.ZipFile(path, "a") as zf:
        zf.writestr("src/model.py", "the user's code")
    async with serving(review_plan_callback=review) as server, frontend(server) as user:
        await user.set_new_experiment("my-experiment", ["one"], str(path), MODEL)
        await until(user, "my-experiment", "in_progress" if accepts else "rejected")
    arguments, copy = seen
    assert arguments == ("my-experiment", Path("plan/plan.yaml"), "the user's code", True)
    assert not copy.exists()


async def test_a_server_that_serves_is_not_entered_again() -> None:
    async with serving() as server:
        assert isinstance(server.server, Server)
        first = server.endpoint
        assert server.server.endpoint == first
        with pytest.raises(InvalidStateError, match="entered already"):
            await server.__aenter__()
        assert server.endpoint == first
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(first.host, first.port)


async def test_start_serves_until_it_is_cancelled() -> None:
    server = DirectorGRPCServer(director_cls=Director, tls=False, listen_port=0)
    assert repr(server) == "DirectorGRPCServer('localhost:0')"
    with pytest.raises(InvalidStateError, match="does not serve yet"):
        _ = server.endpoint

    async def until_it_serves() -> None:
        while True:
            try:
                assert server.endpoint.port
            except InvalidStateError:
                await anyio.sleep(0.01)
            else:
                return

    async with anyio.create_task_group() as group:
        group.start_soon(server.start)
        with anyio.fail_after(10):
            await until_it_serves()
        async with frontend(server) as user:
            assert await user.get_dataset_info() == ([], [])
        group.cancel_scope.cancel()
    assert server.server is None


async def test_requirements_are_not_installed_and_a_warning_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(install_requirements=True):
        assert "install_requirements has no effect" in caplog.text


def test_tls_without_certificates_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="tls=False"):
        DirectorGRPCServer(director_cls=Director)
    with pytest.raises(ConfigurationError, match="tls=False"):
        ShardDirectorClient(director_host="localhost", director_port=1, shard_name="one")
