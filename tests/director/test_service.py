"""The fourteen calls through a real socket, as envoys and frontends make them."""

from __future__ import annotations

import asyncio
import io
import shutil
import sqlite3
import zipfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import numpy as np
import pytest

from openfl_aio.config import DirectorConfig, Endpoint, Limits, RetryPolicy, Timeouts
from openfl_aio.director.client import DirectorClient
from openfl_aio.director.experiments import Experiment
from openfl_aio.director.service import Director
from openfl_aio.director.servicer import DirectorServicer, encode_model
from openfl_aio.director.upload import decode_model, receive_experiment
from openfl_aio.domain import DeviceInfo, ExperimentStatus, Header, Metric, ModelKind, ShardInfo, Verdict
from openfl_aio.errors import (
    AlreadyExistsError,
    AuthorizationError,
    ConfigurationError,
    ExperimentNotFoundError,
    MalformedMessageError,
    MalformedStreamError,
    NotFoundError,
    NotReadyError,
    OpenFLAioError,
    ProtocolError,
    ShardNotFoundError,
    StorageFullError,
    TransportError,
)
from openfl_aio.plan.plan import Plan
from openfl_aio.tensors.codec import TensorCodec
from openfl_aio.tensors.key import TensorKey
from openfl_aio.transport.identity import Caller, as_caller
from openfl_aio.wire.incremental import encode_task_results
from openfl_aio.wire.messages import director as messages

pytestmark = pytest.mark.real_time

PLAN = """\
aggregator:
  template: openfl.component.Aggregator
  settings:
    rounds_to_train: 1
collaborator:
  template: openfl.component.Collaborator
  settings:
    delta_updates: false
network:
  template: openfl.federation.Network
  settings:
    agg_addr: localhost
    agg_port: 1
    tls: false
    hash_salt: auto
assigner:
  template: openfl.component.RandomGroupedAssigner
  settings:
    task_groups:
    - name: all
      percentage: 1.0
      tasks: [train]
tasks:
  settings: {}
  train:
    function: train
    kwargs: {}
compression_pipeline:
  template: openfl.pipelines.NoCompressionPipeline
  settings: {}
"""

MODEL = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(3, dtype=np.float32)}


def shard(name: str) -> ShardInfo:
    """Return a shard that the director of these tests accepts."""
    return ShardInfo(name, description="digits", n_samples=7, sample_shape=("8", "8"), target_shape=("10",))


def archive(plan: str | None = PLAN, **files: str) -> bytes:
    """Return a workspace archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zf:
        if plan is not None:
            zf.writestr("plan/plan.yaml", plan)
        for name, text in files.items():
            zf.writestr(f"{name}.py", text)
    return buffer.getvalue()


async def in_chunks(data: bytes, size: int = 100) -> AsyncIterator[bytes]:
    """Yield ``data`` in pieces, so that a submission has several messages."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def submit(
    client: DirectorClient, name: str = "exp", *, collaborators: tuple[str, ...] = ("one",), data: bytes | None = None
) -> bool:
    """Submit an experiment with `MODEL`."""
    return await client.set_new_experiment(
        name,
        collaborators=collaborators,
        model=encode_model(MODEL),
        archive=in_chunks(archive() if data is None else data),
    )


@pytest.fixture
async def director() -> AsyncIterator[Director]:
    """Serve in plaintext on a free port of loopback."""
    config = DirectorConfig(
        listen=Endpoint(host="127.0.0.1", port=0),
        sample_shape=("8", "8"),
        target_shape=("10",),
        timeouts=Timeouts(drain=1.0, long_poll=2.0),
    )
    async with Director(config) as director:
        yield director


Connect = Callable[..., AbstractAsyncContextManager[DirectorClient]]


@pytest.fixture
def connect(director: Director) -> Connect:
    """Return a function that opens a client with a given ``client_id``."""

    def open_client(client_id: str | None = None) -> DirectorClient:
        return DirectorClient(
            director.endpoint,
            client_id=client_id,
            retry=RetryPolicy(max_elapsed=1.0),
            timeouts=Timeouts(connect=5.0),
        )

    return open_client


async def until(client: DirectorClient, name: str, status: ExperimentStatus) -> None:
    """Return once an experiment has a status; fails after a while."""
    with anyio.fail_after(10):
        while await client.get_experiment_status(name) is not status:
            await anyio.sleep(0.01)


async def test_an_envoy_registers_and_is_listed(director: Director, connect: Connect) -> None:
    async with connect() as client:
        assert await client.update_shard_info(replace(shard("one"), sample_shape=("9",))) is False
        assert await client.get_envoys() == ()
        with pytest.raises(NotFoundError, match="Unknown shard one"):
            await client.update_envoy_status("one", is_experiment_running=False)
        assert await client.update_shard_info(shard("one")) is True
        period = await client.update_envoy_status(
            "one", is_experiment_running=True, devices=[DeviceInfo(0, name="gpu")]
        )
        (envoy,) = await client.get_envoys()
        info = await client.get_dataset_info()
    assert period == 60.0
    assert envoy.is_online
    assert envoy.is_experiment_running
    assert envoy.valid_seconds == 120.0
    assert envoy.shard == replace(shard("one"), devices=(DeviceInfo(0, name="gpu"),))
    assert (info.sample_shape, info.target_shape) == (("8", "8"), ("10",))


async def test_a_submission_wakes_its_envoys_and_serves_a_rewritten_plan(director: Director, connect: Connect) -> None:
    got: list[str] = []
    async with connect("ada") as frontend, connect() as envoy:
        await envoy.update_shard_info(shard("one"))
        async with anyio.create_task_group() as group:

            async def wait() -> None:
                got.append(await envoy.wait_experiment("one"))

            group.start_soon(wait)
            with anyio.fail_after(5):
                while not director.parked:
                    await anyio.sleep(0.01)
            assert await submit(frontend, data=archive(runner="x = 1")) is True
        assert got == ["exp"]
        assert await envoy.wait_experiment("one") == "exp"
        assert await frontend.get_experiment_status("exp") is ExperimentStatus.IN_PROGRESS
        data = b"".join([bytes(chunk) async for chunk in envoy.get_experiment_data("exp", "one")])
        with pytest.raises(NotFoundError):
            _ = [chunk async for chunk in envoy.get_experiment_data("exp", "two")]
        with pytest.raises(NotFoundError):
            _ = [chunk async for chunk in envoy.get_experiment_data("other", "one")]
    with zipfile.ZipFile(io.BytesIO(data)) as zf:
        assert zf.read("runner.py") == b"x = 1"
        plan = Plan.parse(zf.read("plan/plan.yaml").decode())
    assert plan.endpoint.port == director.endpoint.port
    assert plan.endpoint.host == "localhost"
    aggregator = director.find_aggregator(plan.federation_uuid)
    assert aggregator.uuid == plan.aggregator_uuid
    assert aggregator.collaborators == ("one",)


async def test_a_failure_report_ends_the_experiment_and_is_never_refused(director: Director, connect: Connect) -> None:
    async with connect("ada") as frontend, connect() as envoy:
        await envoy.set_experiment_failed("exp", "one", error_description="nothing is there")
        await submit(frontend)
        await until(frontend, "exp", ExperimentStatus.IN_PROGRESS)
        await envoy.set_experiment_failed("exp", "two", error_description="not mine")
        assert await frontend.get_experiment_status("exp") is ExperimentStatus.IN_PROGRESS
        await envoy.set_experiment_failed("exp", "one", error_code=3, error_description="ValueError: bad\n")
        await envoy.set_experiment_failed("exp", "one", error_description="again")
        assert await frontend.get_experiment_status("exp") is ExperimentStatus.FAILED
        assert [metric async for metric in frontend.get_metric_stream("exp")] == []
    assert director.error_of(Caller("ada", False), "exp") == "envoy one failed with code 3: ValueError: bad"


async def test_what_an_envoy_may_repeat_is_logged_a_few_times(
    director: Director, caplog: pytest.LogCaptureFixture
) -> None:
    flooder = Caller("flooder", False)
    for _ in range(100):
        await director.set_experiment_failed(flooder, "nothing", "flooder", error_description="again")
        assert not await director.update_shard_info(flooder, replace(shard("flooder"), sample_shape=("9",)))
    lines = [record.getMessage() for record in caplog.records if "flooder" in record.getMessage()]
    assert any("failure report ignored" in line for line in lines)
    assert any("refused: shapes" in line for line in lines)
    assert len(lines) < 100


async def test_an_envoy_learns_that_it_is_not_known(connect: Connect) -> None:
    """So it registers again, where a director was replaced that knew it."""
    async with connect("one") as client:
        with pytest.raises(ShardNotFoundError, match="Unknown shard one"):
            await client.update_envoy_status("one", is_experiment_running=False)
        assert await client.update_shard_info(shard("one"))
        assert await client.update_envoy_status("one", is_experiment_running=False) > 0


async def test_an_envoy_that_was_not_kept_is_not_registered(
    director: Director, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(shard: ShardInfo) -> None:
        raise StorageFullError("no room")

    async with connect("one") as client:
        with monkeypatch.context() as patch:
            patch.setattr(director._storage.registry, "save_shard", full)
            with pytest.raises(StorageFullError):
                await client.update_shard_info(shard("one"))
        assert not await director.get_envoys(Caller("user", False))
        assert await client.update_shard_info(shard("one"))
        assert len(await director.get_envoys(Caller("user", False))) == 1


async def hand_in(director: Director, uuid: str, name: str) -> Verdict:
    """Hand in the model itself as the result of the only task."""
    aggregator = director.find_aggregator(uuid)
    upload = aggregator.upload(name)
    header = Header(name, aggregator.uuid, uuid)
    key = partial(TensorKey.of, origin=name, round_number=0, tags=("trained",))
    trained = [TensorCodec().encode(key(tensor), values) for tensor, values in MODEL.items()]
    for part in encode_task_results(header=header, round_number=0, task_name="train", data_size=1, tensors=trained):
        await upload.feed(part)
    return await upload.finish()


async def uuid_of(director: Director, name: str = "exp") -> str:
    """Return the federation of an experiment as the envoy `one` finds it in its archive."""
    caller = Caller("one", authenticated=False)
    data = b"".join([bytes(chunk) async for chunk in director.get_experiment_data(caller, name, "one")])
    with zipfile.ZipFile(io.BytesIO(data)) as zf:
        return Plan.parse(zf.read("plan/plan.yaml").decode()).federation_uuid


async def test_uploads_of_a_round_that_never_closes_go_with_the_experiment(tmp_path: Path) -> None:
    config = DirectorConfig(workspace=tmp_path, timeouts=Timeouts(drain=1.0, long_poll=0.1))
    journal = tmp_path / "journal"
    async with Director(config) as director, DirectorClient(director.endpoint, client_id="ada") as ada:
        await submit(ada, collaborators=("one", "two"))
        await until(ada, "exp", ExperimentStatus.IN_PROGRESS)
        assert await hand_in(director, await uuid_of(director), "one") is Verdict.ACCEPTED
        assert list(journal.rglob("*.upload"))
        await ada.remove_experiment_data("exp")
        with anyio.fail_after(10):
            while list(journal.iterdir()) or list((tmp_path / "federations").iterdir()):
                await anyio.sleep(0.01)


def told(workspace: Path) -> list[tuple[int]]:
    """Return what the database says of each experiment."""
    with closing(sqlite3.connect(workspace / "openfl_aio.db")) as connection:
        return connection.execute("SELECT told FROM experiments").fetchall()


async def test_after_a_restart_the_same_results_count_and_the_late_are_told_to_quit(tmp_path: Path) -> None:
    config = DirectorConfig(workspace=tmp_path, timeouts=Timeouts(drain=1.0, long_poll=0.1))
    async with Director(config) as director, DirectorClient(director.endpoint, client_id="ada") as ada:
        await submit(ada, collaborators=("one", "two"))
        await until(ada, "exp", ExperimentStatus.IN_PROGRESS)
        uuid = await uuid_of(director)
        assert await hand_in(director, uuid, "one") is Verdict.ACCEPTED
    async with Director(config) as director, DirectorClient(director.endpoint, client_id="ada") as ada:
        assert await uuid_of(director) == uuid
        with anyio.fail_after(10):
            while True:
                try:
                    assert await hand_in(director, uuid, "one") is Verdict.DUPLICATE
                    break
                except NotReadyError:
                    await anyio.sleep(0.01)
        assert await hand_in(director, uuid, "two") is Verdict.ACCEPTED
        await until(ada, "exp", ExperimentStatus.FINISHED)
        assert (await director.find_aggregator(uuid).get_tasks("one")).quit
    async with Director(config) as director:
        with anyio.fail_after(10):
            while True:
                try:
                    aggregator = director.find_aggregator(uuid)
                    break
                except NotFoundError:
                    await anyio.sleep(0.01)
        assert (await aggregator.get_tasks("two")).quit
        assert (await aggregator.get_tasks("one")).quit
        with anyio.fail_after(10):
            while told(tmp_path) != [(1,)]:
                await anyio.sleep(0.01)


async def test_what_a_killed_director_left_of_experiments_that_are_over_is_removed(tmp_path: Path) -> None:
    config = DirectorConfig(workspace=tmp_path, timeouts=Timeouts(drain=1.0, long_poll=0.1))
    async with Director(config) as director, DirectorClient(director.endpoint, client_id="ada") as ada:
        await submit(ada, "over")
        await until(ada, "over", ExperimentStatus.IN_PROGRESS)
        assert await hand_in(director, await uuid_of(director, "over"), "one") is Verdict.ACCEPTED
        await until(ada, "over", ExperimentStatus.FINISHED)
        await submit(ada, "going_on", collaborators=("one", "two"))
        await until(ada, "going_on", ExperimentStatus.IN_PROGRESS)
        assert await hand_in(director, await uuid_of(director, "going_on"), "one") is Verdict.ACCEPTED
        killed = tmp_path.with_name("killed")
        shutil.copytree(tmp_path, killed)
    (killed / "models" / ("0" * 32)).mkdir()  # of one that was submitted and not kept, or removed
    (killed / "models" / ("0" * 32) / "initial.pbuf").write_bytes(b"model")
    (killed / "journal" / ("0" * 32)).mkdir()
    async with Director(config.model_copy(update={"workspace": killed})) as director:
        async with DirectorClient(director.endpoint, client_id="ada") as ada:
            assert await ada.get_trained_model("over", ModelKind.LAST)
        for name in ("federations", "journal"):
            assert len(list((killed / name).iterdir())) == 1
        assert len(list((killed / "models").iterdir())) == 2
        uuid = await uuid_of(director, "going_on")
        with anyio.fail_after(10):
            while True:
                try:
                    assert await hand_in(director, uuid, "one") is Verdict.DUPLICATE
                    break
                except NotReadyError:
                    await anyio.sleep(0.01)


async def test_a_waiting_envoy_is_known_after_a_restart(tmp_path: Path) -> None:
    config = DirectorConfig(
        workspace=tmp_path, sample_shape=("8", "8"), target_shape=("10",), timeouts=Timeouts(drain=1.0, long_poll=0.1)
    )
    one = Caller("one", authenticated=False)
    async with Director(config) as director:
        assert await director.update_shard_info(one, shard("one"))
    async with Director(config) as director:
        (envoy,) = await director.get_envoys(Caller("ada", authenticated=False))
        assert (envoy.shard, envoy.is_online) == (shard("one"), False)
        await director.update_envoy_status(one, "one", is_experiment_running=False)
        (envoy,) = await director.get_envoys(Caller("ada", authenticated=False))
        assert envoy.is_online


async def test_nobody_is_told_of_a_start_that_is_not_kept(
    director: Director, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restart would take it back: an envoy that was told asks for an archive that nobody serves."""
    save, kept = director._records.save, anyio.Event()

    async def slowly(experiment: Experiment) -> None:
        if experiment.status is ExperimentStatus.IN_PROGRESS:
            with anyio.fail_after(5):
                await kept.wait()
        await save(experiment)

    monkeypatch.setattr(director._records, "save", slowly)
    async with connect("one") as envoy, connect("ada") as owner:
        await submit(owner)
        with anyio.move_on_after(0.3) as waited:
            await envoy.wait_experiment("one")
        assert waited.cancelled_caught
        assert await owner.get_experiment_status("exp") is ExperimentStatus.PENDING
        kept.set()
        with anyio.fail_after(5):
            assert await envoy.wait_experiment("one") == "exp"
        assert await owner.get_experiment_status("exp") is ExperimentStatus.IN_PROGRESS


async def test_an_experiment_whose_end_is_being_kept_is_given_to_nobody(
    director: Director, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An envoy that was told to quit comes again at once, and would take part in it a second time."""
    save, keeping, kept = director._records.save_metrics, anyio.Event(), anyio.Event()

    async def slowly(experiment: Experiment, metrics: list[Metric]) -> None:
        if experiment.name == "exp":
            keeping.set()
            with anyio.fail_after(5):
                await kept.wait()
        await save(experiment, metrics)

    monkeypatch.setattr(director._records, "save_metrics", slowly)
    async with connect("one") as envoy, connect("ada") as owner:
        for name in ("exp", "next"):
            await submit(owner, name)
            await until(owner, name, ExperimentStatus.IN_PROGRESS)
        uuid = await uuid_of(director)
        assert await envoy.wait_experiment("one") == "exp"
        assert await hand_in(director, uuid, "one") is Verdict.ACCEPTED
        with anyio.fail_after(5):
            await keeping.wait()
            assert (await director.find_aggregator(uuid).get_tasks("one")).quit
            assert await owner.get_experiment_status("exp") is ExperimentStatus.IN_PROGRESS
            assert await envoy.wait_experiment("one") == "next"
        kept.set()
        await until(owner, "exp", ExperimentStatus.FINISHED)


async def test_while_an_experiment_is_loaded_nothing_is_made_up(director: Director, connect: Connect) -> None:
    async with connect("one") as envoy, connect("ada") as owner:
        await submit(owner)
        with anyio.fail_after(5):
            await envoy.wait_experiment("one")
        execution = director._runs._executions["exp"]
        loaded, execution.aggregator = execution.aggregator, None  # as between a restart and its end
        caller = Caller("ada", authenticated=False)
        for call in (
            director.get_experiment_description(caller, "exp"),
            director.get_trained_model(caller, "exp", ModelKind.LAST),
        ):
            with pytest.raises(NotReadyError, match="is being loaded"):
                await call
        metrics = director.get_metric_stream(caller, "exp")
        with anyio.move_on_after(0.2) as waited:
            await anext(metrics)
        assert waited.cancelled_caught, "a stream that ends would say that there are no metrics"
        execution.aggregator = loaded


async def test_an_experiment_is_its_owners(director: Director, connect: Connect) -> None:
    async with connect("ada") as ada, connect("eve") as eve:
        await submit(ada)
        await until(ada, "exp", ExperimentStatus.IN_PROGRESS)
        assert await eve.get_experiment_status("exp") is None
        assert await eve.get_experiments_list() == ()
        assert await eve.get_trained_model("exp", ModelKind.LAST) is None
        for name in ("exp", "absent"):
            with pytest.raises(NotFoundError, match=name):
                await eve.get_experiment_description(name)
            with pytest.raises(NotFoundError, match=name):
                _ = [metric async for metric in eve.get_metric_stream(name)]
            assert await eve.remove_experiment_data(name) is True
        with pytest.raises(AlreadyExistsError, match="taken"):
            await submit(eve)
        (summary,) = await ada.get_experiments_list()
        assert (summary.name, summary.status) == ("exp", ExperimentStatus.IN_PROGRESS)
        assert (summary.collaborators, summary.tasks, summary.progress) == (1, 1, 0.0)
        description = await ada.get_experiment_description("exp")
        assert description.total_rounds == 1
        assert description.models["init"] == "ready"
        assert [progress.name for progress in description.collaborators] == ["one"]
        tensors = await ada.get_trained_model("exp", ModelKind.LAST)
        assert tensors is not None
        model = decode_model(tensors)
        assert model.keys() == MODEL.keys()
        assert all(np.array_equal(model[name], MODEL[name]) for name in MODEL)
        assert all(tensor.tags == ("model",) for tensor in tensors)
        assert await ada.get_trained_model("exp", ModelKind.BEST) == ()


async def test_removal_stops_and_forgets(director: Director, connect: Connect) -> None:
    async with connect("ada") as ada, connect() as envoy:
        await submit(ada)
        await until(ada, "exp", ExperimentStatus.IN_PROGRESS)
        assert await ada.remove_experiment_data("exp") is True
        assert await ada.get_experiment_status("exp") is None
        with pytest.raises(NotFoundError):
            _ = [chunk async for chunk in envoy.get_experiment_data("exp", "one")]
        await submit(ada)
        await until(ada, "exp", ExperimentStatus.IN_PROGRESS)


async def test_a_removal_that_was_cut_is_done_when_it_is_acknowledged(
    director: Director, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = director._storage.registry
    remove = registry.remove_experiment
    caller = Caller("ada", authenticated=False)
    reached, may_go_on = anyio.Event(), anyio.Event()

    async def slow(name: str) -> None:
        reached.set()
        await may_go_on.wait()
        await remove(name)

    monkeypatch.setattr(registry, "remove_experiment", slow)
    async with connect("ada") as ada:
        await submit(ada)
        first = asyncio.create_task(director.remove_experiment_data(caller, "exp"))
        await reached.wait()
        first.cancel()  # as the call of a connection that breaks
        second = asyncio.create_task(director.remove_experiment_data(caller, "exp"))
        await anyio.sleep(0.05)
        assert not second.done()
        may_go_on.set()
        assert await second
        assert await registry.experiments() == []


async def test_cancelling_is_for_the_owner(director: Director, connect: Connect) -> None:
    ada = Caller("ada", False)
    async with connect("ada") as client:
        await submit(client)
        await until(client, "exp", ExperimentStatus.IN_PROGRESS)
        with pytest.raises(ExperimentNotFoundError):
            await director.cancel(Caller("eve", False), "exp")
        assert await director.cancel(ada, "exp") is True
        assert await director.cancel(ada, "exp") is False
        assert await client.get_experiment_status("exp") is ExperimentStatus.CANCELLED


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (archive(None), "plan/plan.yaml"),
        (
            archive(PLAN.replace("tls: false", "tls: true")),
            "network.settings.tls is true, but this director serves plaintext; set it to false",
        ),
        (archive(PLAN.replace("tls: false", "use_tls: true")), "network.settings.use_tls is true, but"),
        (archive("aggregator: ["), "plan/plan.yaml"),
        (archive(PLAN.replace("rounds_to_train: 1", "rounds_to_train: 0")), "rounds_to_train"),
    ],
)
async def test_an_archive_that_cannot_work_fails_its_experiment(
    director: Director, connect: Connect, data: bytes, why: str
) -> None:
    async with connect("ada") as client:
        assert await submit(client, data=data) is True
        await until(client, "exp", ExperimentStatus.FAILED)
        description = await client.get_experiment_description("exp")
        assert description.models == dict.fromkeys(("best", "last", "init"), "pending")
        assert await client.get_trained_model("exp", ModelKind.BEST) == ()
        assert [metric async for metric in client.get_metric_stream("exp")] == []
    assert why in director.error_of(Caller("ada", False), "exp")


@pytest.mark.parametrize("name", ["", "..", "../victim", "a/b"])
async def test_hostile_names_are_refused(director: Director, connect: Connect, name: str) -> None:
    async with connect("ada") as client:
        with pytest.raises(OpenFLAioError, match="not a plain name"):
            await submit(client, name)
        assert await client.get_experiments_list() == ()


async def test_an_empty_submission_or_model_is_refused(director: Director, connect: Connect) -> None:
    async with connect("ada") as client:
        with pytest.raises(ProtocolError):
            await submit(client, data=b"")
        with pytest.raises(OpenFLAioError, match="without tensors"):
            await client.set_new_experiment("exp", collaborators=["one"], model=(), archive=in_chunks(archive()))
        assert await client.get_experiments_list() == ()
    assert await director.archive_ids() == []


async def test_a_chunk_that_is_not_as_long_as_declared_is_refused(director: Director) -> None:
    async def stream() -> AsyncIterator[messages.ExperimentInfo]:
        data = archive()
        for size in (0, 7):
            yield messages.ExperimentInfo(
                name="exp",
                collaborator_names=["one"],
                experiment_data=messages.ExperimentData(size=size, npbytes=data),
            )

    with pytest.raises(MalformedStreamError, match="7 bytes as declared"):
        await receive_experiment(director, Caller("ada", False), stream(), limits=Limits())
    assert await director.archive_ids() == []


async def test_an_archive_beyond_the_limit_is_refused_and_removed() -> None:
    config = DirectorConfig(limits=Limits(max_archive_bytes=150))
    async with Director(config) as director, DirectorClient(director.endpoint, client_id="ada") as client:
        with pytest.raises(OpenFLAioError, match="150 bytes"):
            await submit(client)
        assert await director.archive_ids() == []
        assert await client.get_experiments_list() == ()


async def test_statistics_are_those_of_its_server(director: Director, connect: Connect) -> None:
    before = director.statistics().connections
    async with connect("ada") as ada:
        await ada.get_experiments_list()
        assert director.statistics().connections == before + 1


async def test_messages_without_their_parts_are_malformed(director: Director) -> None:
    servicer = DirectorServicer(director, limits=Limits())
    with as_caller(Caller("one", False)):
        with pytest.raises(MalformedMessageError, match="shard_info"):
            await servicer.update_shard_info(messages.UpdateShardInfoRequest())
        reply = await servicer.get_trained_model(
            messages.GetTrainedModelRequest(model_type=messages.GetTrainedModelRequestModelType(7))
        )
    assert reply.model_proto is None


async def test_a_review_needs_a_reviewer() -> None:
    director = Director(DirectorConfig(review_experiment=True))
    with pytest.raises(ConfigurationError, match="review_experiment: expected a review function, got none"):
        await director.__aenter__()


async def test_review_turns_a_plan_down() -> None:
    seen: list[str] = []

    async def review(plan: Plan) -> bool:
        seen.append(plan.experiment)
        return False

    async with (
        Director(DirectorConfig(), review=review) as director,
        DirectorClient(director.endpoint, client_id="ada") as client,
    ):
        await submit(client)
        await until(client, "exp", ExperimentStatus.REJECTED)
    assert seen == ["exp"]


async def test_a_review_that_raises_fails_the_experiment_and_nothing_else() -> None:
    async def review(plan: Plan) -> bool:
        raise ZeroDivisionError(plan.name)

    async with (
        Director(DirectorConfig(), review=review) as director,
        DirectorClient(director.endpoint, client_id="ada") as client,
    ):
        await submit(client)
        await until(client, "exp", ExperimentStatus.FAILED)
        assert director.error_of(Caller("ada", False), "exp") == "internal error of the director: ZeroDivisionError"
        await submit(client, "other")
        await until(client, "other", ExperimentStatus.FAILED)


async def test_an_experiment_removed_during_its_review_leaves_nothing() -> None:
    asked = anyio.Event()

    async def review(plan: Plan) -> bool:
        asked.set()
        await anyio.sleep_forever()
        return True

    async with (
        Director(DirectorConfig(), review=review) as director,
        DirectorClient(director.endpoint, client_id="ada") as client,
    ):
        await submit(client)
        with anyio.fail_after(5):
            await asked.wait()
        assert await client.get_experiment_status("exp") is ExperimentStatus.PENDING
        await client.remove_experiment_data("exp")
        assert await client.get_experiments_list() == ()
        assert await director.archive_ids() == []


async def test_cancelled_during_its_review_it_never_starts() -> None:
    go = anyio.Event()

    async def review(plan: Plan) -> bool:
        await go.wait()
        return True

    ada = Caller("ada", False)
    async with (
        Director(DirectorConfig(), review=review) as reviewing,
        DirectorClient(reviewing.endpoint, client_id="ada") as client,
    ):
        await submit(client)
        assert await reviewing.cancel(ada, "exp") is True
        go.set()
        assert [metric async for metric in client.get_metric_stream("exp")] == []
        assert await client.get_experiment_status("exp") is ExperimentStatus.CANCELLED


async def test_an_exception_in_the_block_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError, match="mine"):
        async with Director(DirectorConfig()):
            raise KeyError("mine")


async def test_leaving_is_possible_while_cancelled() -> None:
    config = DirectorConfig(timeouts=Timeouts(drain=1.0))
    with anyio.move_on_after(0.05) as scope:
        async with Director(config) as director, DirectorClient(director.endpoint) as client:
            await client.wait_experiment("one")
    assert scope.cancelled_caught


async def test_a_client_that_is_not_open_says_so() -> None:
    client = DirectorClient(Endpoint(host="127.0.0.1", port=1))
    assert repr(client) == "DirectorClient('127.0.0.1:1')"
    with pytest.raises(ProtocolError, match="async with"):
        await client.get_envoys()


async def test_a_director_that_is_not_there_is_told_with_how_long_it_was_tried() -> None:
    endpoint = Endpoint(host="127.0.0.1", port=1)
    async with DirectorClient(endpoint, retry=RetryPolicy(first_delay=0.01, max_elapsed=0.1)) as client:
        with pytest.raises(TransportError, match=r"listing envoys at the director 127.0.0.1:1: gave up after .* s"):
            await client.get_envoys()


async def test_a_certificate_speaks_for_its_own_name_only(director: Director) -> None:
    mallory = Caller("mallory", authenticated=True)
    with pytest.raises(AuthorizationError):
        await director.update_shard_info(mallory, shard("one"))
    with pytest.raises(AuthorizationError):
        await director.update_envoy_status(mallory, "one", is_experiment_running=False)
    with pytest.raises(AuthorizationError):
        await director.wait_experiment(mallory, "one")
    with pytest.raises(AuthorizationError):
        await director.set_experiment_failed(mallory, "exp", "one")
    with pytest.raises(AuthorizationError):
        _ = [chunk async for chunk in director.get_experiment_data(mallory, "exp", "one")]
    with pytest.raises(ShardNotFoundError):
        await director.update_envoy_status(mallory, "mallory", is_experiment_running=False)
