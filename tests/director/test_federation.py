"""Whole federations through a director over mutual TLS, the collaborators on its own port."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import cloudpickle
import numpy as np
import pytest
import yaml

from openfl_aio.aggregator.client import AggregatorClient
from openfl_aio.collaborator.collaborator import Collaborator
from openfl_aio.collaborator.task_runner import TaskContext, TaskOutput
from openfl_aio.compat.imports import install, uninstall
from openfl_aio.config import DirectorConfig, RetryPolicy, Timeouts, default_tasks
from openfl_aio.director.client import DirectorClient
from openfl_aio.director.service import Director
from openfl_aio.director.servicer import encode_model
from openfl_aio.director.upload import decode_model
from openfl_aio.domain import ExperimentStatus, Metric, ModelKind, ShardInfo, TaskKind
from openfl_aio.errors import AuthorizationError, NotFoundError
from openfl_aio.experiment.run import Run
from openfl_aio.plan.assigned import AGGREGATION_FILE, ASSIGNER_FILE
from openfl_aio.plan.experiment import experiment_plan
from openfl_aio.plan.plan import Plan
from openfl_aio.testing.ca import ThrowawayCA
from openfl_aio.transport.identity import Caller
from tests.plan.frontends import stock_assigner

pytestmark = pytest.mark.real_time

RETRY = RetryPolicy(max_elapsed=2.0)
TIMEOUTS = Timeouts(drain=1.0, long_poll=5.0)
NAMES = ("one", "two", "three")


class AddOne:
    """Trains by adding one to everything; the accuracy is the mean of ``w``."""

    async def tensor_names(self) -> Sequence[str]:
        """Return the one tensor."""
        return ("w",)

    async def run(self, context: TaskContext, tensors: Mapping[str, np.ndarray]) -> TaskOutput:
        """Train or validate."""
        if context.task.kind is TaskKind.TRAIN or context.task.name == "train":
            return TaskOutput(samples=5, tensors={"w": tensors["w"] + 1}, metrics={"loss": 0.5})
        return TaskOutput(samples=5, metrics={"accuracy": float(tensors["w"].mean())})


async def archive(plan: Plan) -> AsyncIterator[bytes]:
    """Yield a workspace archive that holds nothing but a plan."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zf:
        zf.writestr("plan/plan.yaml", plan.dump())
    yield buffer.getvalue()


async def submit(client: DirectorClient, name: str, *, rounds: int, collaborators: Sequence[str]) -> None:
    """Submit an experiment that adds one per round."""
    plan = experiment_plan(
        task_runner="adding.AddOne",
        settings={},
        rounds=rounds,
        tasks=default_tasks(),
        agg_addr="localhost",
        agg_port=client.endpoint.port,
        tls=True,
    )
    accepted = await client.set_new_experiment(
        name,
        collaborators=collaborators,
        model=encode_model({"w": np.zeros((2, 2), dtype=np.float32)}),
        archive=archive(plan),
    )
    assert accepted


async def take_part(client: DirectorClient, ca: ThrowawayCA, name: str, *, retry: RetryPolicy = RETRY) -> str:
    """Do what an envoy does: register, wait, fetch, work; return the experiment's name."""
    assert await client.update_shard_info(ShardInfo(name, sample_shape=("2",), target_shape=("1",)))
    experiment = await client.wait_experiment(name)
    data = b"".join([bytes(chunk) async for chunk in client.get_experiment_data(experiment, name)])
    with zipfile.ZipFile(io.BytesIO(data)) as zf:
        plan = Plan.parse(zf.read("plan/plan.yaml").decode())
    config = plan.collaborator_config(name, tls=ca.client(name), retry=retry)
    async with AggregatorClient(config) as aggregator:
        await Collaborator(
            name=name,
            aggregator=aggregator,
            aggregator_uuid=config.aggregator_uuid,
            runner=AddOne(),
            tasks=plan.tasks,
        ).run()
    return experiment


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> ThrowawayCA:
    """Return an authority that has issued all the certificates these tests need."""
    ca = ThrowawayCA(tmp_path_factory.mktemp("cert"))
    ca.server()
    for name in (*NAMES, "ada", "eve"):
        ca.client(name)
    return ca


@pytest.fixture
async def director(ca: ThrowawayCA, tmp_path: Path) -> AsyncIterator[Director]:
    """Serve over mutual TLS on a free port."""
    config = DirectorConfig(
        sample_shape=("2",), target_shape=("1",), tls=ca.server(), timeouts=TIMEOUTS, workspace=tmp_path / "director"
    )
    async with Director(config) as director:
        yield director


def client_of(director: Director, ca: ThrowawayCA, name: str) -> DirectorClient:
    """Return a client with the certificate of ``name``."""
    return DirectorClient(director.endpoint, tls=ca.client(name), retry=RETRY, timeouts=TIMEOUTS)


async def test_three_sites_train_and_the_owner_follows(director: Director, ca: ThrowawayCA) -> None:
    async with client_of(director, ca, "ada") as ada, anyio.create_task_group() as group:

        async def envoy(name: str) -> None:
            async with client_of(director, ca, name) as client:
                assert await take_part(client, ca, name) == "exp"

        await submit(ada, "exp", rounds=3, collaborators=NAMES)
        for name in NAMES:
            group.start_soon(envoy, name)
        with anyio.fail_after(15):
            first = [metric async for metric in ada.get_metric_stream("exp")]
            second = [metric async for metric in ada.get_metric_stream("exp")]
        assert first == second
        assert {metric.origin for metric in first} >= {*NAMES}
        assert {metric.round_number for metric in first} == {0, 1, 2}
        assert await ada.get_experiment_status("exp") is ExperimentStatus.FINISHED
        last = await ada.get_trained_model("exp", ModelKind.LAST)
        best = await ada.get_trained_model("exp", ModelKind.BEST)
        description = await ada.get_experiment_description("exp")
    assert last is not None
    assert best is not None
    np.testing.assert_allclose(decode_model(last)["w"], 3.0)
    assert decode_model(best).keys() == {"w"}
    assert description.progress == 1.0
    assert description.models == dict.fromkeys(("best", "last", "init"), "ready")


async def test_two_experiments_run_at_once(director: Director, ca: ThrowawayCA) -> None:
    async with client_of(director, ca, "ada") as ada, client_of(director, ca, "eve") as eve:
        async with anyio.create_task_group() as group:

            async def envoy(name: str) -> None:
                async with client_of(director, ca, name) as client:
                    await take_part(client, ca, name)

            await submit(ada, "first", rounds=2, collaborators=["one"])
            await submit(eve, "second", rounds=1, collaborators=["two"])
            group.start_soon(envoy, "one")
            group.start_soon(envoy, "two")
        with anyio.fail_after(10):
            for client, name in ((ada, "first"), (eve, "second")):
                _ = [metric async for metric in client.get_metric_stream(name)]
                assert await client.get_experiment_status(name) is ExperimentStatus.FINISHED
        assert await eve.get_experiment_status("first") is None


@pytest.mark.parametrize("how", ["cancel", "remove", "fail"])
async def test_collaborators_are_told_to_quit_when_an_experiment_ends_early(
    director: Director, ca: ThrowawayCA, how: str
) -> None:
    async with (
        client_of(director, ca, "ada") as ada,
        client_of(director, ca, "one") as one,
        client_of(director, ca, "two") as two,
    ):
        # "two" never works, so that the first round never ends
        await submit(ada, "exp", rounds=2, collaborators=["one", "two"])
        async with anyio.create_task_group() as group:
            group.start_soon(take_part, one, ca, "one")
            with anyio.fail_after(10):
                async for _ in ada.get_metric_stream("exp"):
                    break
            if how == "cancel":
                await director.cancel(Caller("ada", True), "exp")
            elif how == "remove":
                await ada.remove_experiment_data("exp")
            else:
                await two.set_experiment_failed("exp", "two", error_description="no data")
            group.cancel_scope.deadline = anyio.current_time() + 10
        assert not group.cancel_scope.cancelled_caught
        expected = {"cancel": ExperimentStatus.CANCELLED, "remove": None, "fail": ExperimentStatus.FAILED}[how]
        assert await ada.get_experiment_status("exp") is expected


async def test_a_certificate_speaks_for_its_own_name_only(director: Director, ca: ThrowawayCA) -> None:
    async with client_of(director, ca, "eve") as eve:
        with pytest.raises(AuthorizationError):
            await eve.update_shard_info(ShardInfo("one", sample_shape=("2",), target_shape=("1",)))
        with pytest.raises(AuthorizationError):
            await eve.wait_experiment("one")
        with pytest.raises(AuthorizationError):
            await eve.set_experiment_failed("exp", "one")
        with pytest.raises(AuthorizationError):
            _ = [chunk async for chunk in eve.get_experiment_data("exp", "one")]


async def test_a_restarted_director_still_has_the_models(ca: ThrowawayCA, tmp_path: Path) -> None:
    config = DirectorConfig(
        sample_shape=("2",), target_shape=("1",), tls=ca.server(), timeouts=TIMEOUTS, workspace=tmp_path
    )
    async with Director(config) as director, client_of(director, ca, "ada") as ada:
        await submit(ada, "exp", rounds=2, collaborators=["one"])
        async with client_of(director, ca, "one") as envoy:
            await take_part(envoy, ca, "one")
        with anyio.fail_after(5):
            _ = [metric async for metric in ada.get_metric_stream("exp")]
        before = [await ada.get_trained_model("exp", kind) for kind in ModelKind]
    async with Director(config) as director, client_of(director, ca, "ada") as ada:
        assert await ada.get_experiment_status("exp") is ExperimentStatus.FINISHED
        assert (await ada.get_experiment_description("exp")).progress == 1.0
        for kind, model in zip(ModelKind, before, strict=True):
            after = await ada.get_trained_model("exp", kind)
            assert model is not None
            assert after is not None
            np.testing.assert_array_equal(decode_model(after)["w"], decode_model(model)["w"])
        assert len(await director.archive_ids()) == 1
        await ada.remove_experiment_data("exp")
        assert await director.archive_ids() == []
    assert not list((tmp_path / "models").rglob("*"))


async def test_a_director_goes_on_with_what_an_earlier_one_ran(ca: ThrowawayCA, tmp_path: Path) -> None:
    config = DirectorConfig(
        sample_shape=("2",), target_shape=("1",), tls=ca.server(), timeouts=TIMEOUTS, workspace=tmp_path
    )
    async with Director(config) as director, client_of(director, ca, "ada") as ada:
        await submit(ada, "exp", rounds=1, collaborators=["one"])
        with anyio.fail_after(5):
            while await ada.get_experiment_status("exp") is not ExperimentStatus.IN_PROGRESS:
                await anyio.sleep(0.01)
        config = config.model_copy(update={"listen": director.endpoint})  # the served plan names it
    async with Director(config) as director, client_of(director, ca, "ada") as ada:
        assert await ada.get_experiment_status("exp") is ExperimentStatus.IN_PROGRESS
        async with client_of(director, ca, "one") as envoy:
            await take_part(envoy, ca, "one")
        with anyio.fail_after(5):
            metrics = [metric async for metric in ada.get_metric_stream("exp")]
        assert metrics
        assert await ada.get_experiment_status("exp") is ExperimentStatus.FINISHED
    async with Director(config) as director, client_of(director, ca, "ada") as ada:
        assert [metric async for metric in ada.get_metric_stream("exp")] == metrics
        with pytest.raises(NotFoundError):
            await ada.get_experiment_description("other")
        await ada.remove_experiment_data("exp")
        assert not list((tmp_path / "federations").iterdir())
        await submit(ada, "exp", rounds=1, collaborators=["one"])


async def test_who_follows_the_metrics_goes_on_at_the_next_director(ca: ThrowawayCA, tmp_path: Path) -> None:
    config = DirectorConfig(
        sample_shape=("2",), target_shape=("1",), tls=ca.server(), timeouts=TIMEOUTS, workspace=tmp_path
    )
    retry = RetryPolicy(max_delay=0.5, max_elapsed=60.0)
    metrics: list[Metric] = []
    followed = anyio.Event()

    async def envoy(name: str) -> None:
        async with DirectorClient(config.listen, tls=ca.client(name), retry=retry) as client:
            await take_part(client, ca, name, retry=retry)

    async def follow(client: DirectorClient) -> None:
        async for metric in client.get_metric_stream("exp"):
            metrics.append(metric)  # noqa: PERF401 - seen as they come
        followed.set()

    with anyio.fail_after(60):
        async with AsyncExitStack() as stack, anyio.create_task_group() as group:
            async with Director(config) as director:
                config = config.model_copy(update={"listen": director.endpoint})
                ada = await stack.enter_async_context(
                    DirectorClient(director.endpoint, tls=ca.client("ada"), retry=retry)
                )
                await submit(ada, "exp", rounds=2, collaborators=["one", "two"])
                group.start_soon(follow, ada)
                group.start_soon(envoy, "one")
                while len(metrics) < 3:  # all that one site has to say of the first round
                    await anyio.sleep(0.01)
            async with Director(config):
                await envoy("two")
                assert await Run("exp", ada).wait() is ExperimentStatus.FINISHED
                await followed.wait()  # it may still wait to call again when the last round is over
                assert [metric async for metric in ada.get_metric_stream("exp")] == metrics
    assert [metric.round_number for metric in metrics] == [0] * 9 + [1] * 9


HALF = """
from openfl.interface.aggregation_functions import AggregationFunction
class Half(AggregationFunction):
    def call(self, local_tensors, db_iterator, tensor_name, fl_round, tags):
        if fl_round >= LAST:
            raise ValueError("enough")
        return sum(tensor.weight * tensor.tensor for tensor in local_tensors) / 2
"""


SERIALIZER = "openfl.plugins.interface_serializer.cloudpickle_serializer.CloudpickleSerializer"


def of_openfls_frontend(rounds: int, *, last: int, port: int) -> bytes:
    """Return an archive as OpenFL's frontend makes it, with a function that halves, until the round ``last``."""
    plan = experiment_plan(
        task_runner="adding.AddOne",
        settings={},
        rounds=rounds,
        tasks=default_tasks(),
        agg_addr="localhost",
        agg_port=port,
    )
    config = yaml.safe_load(plan.dump())
    config["tasks"] = {"settings": {}}
    config["assigner"]["settings"] = {}
    config["task_runner"]["required_plugin_components"] = {"framework_adapters": "adding.Adapter"}
    config["api_layer"] = {"required_plugin_components": {"serializer_plugin": SERIALIZER}, "settings": {}}
    names: dict[str, Any] = {"__name__": "__main__", "LAST": last}
    install()
    try:
        exec(HALF, names)
        function = cloudpickle.dumps({"train": names["Half"]()})
    finally:
        uninstall()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zf:
        zf.writestr("plan/plan.yaml", yaml.safe_dump(config))
        zf.writestr(ASSIGNER_FILE, stock_assigner())
        zf.writestr(AGGREGATION_FILE, function)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("allowed", "last", "error"),
    [
        (True, 9, ""),
        (True, 1, r"round 1 could not be aggregated: aggregation_function_obj\.pkl: .*ValueError: enough"),
        (False, 9, r"aggregation_function_obj\.pkl holds .*Half.*allow_pickled_code"),
    ],
    ids=["runs", "fails", "refused"],
)
async def test_an_aggregation_function_of_the_users_own(
    ca: ThrowawayCA, tmp_path: Path, allowed: bool, last: int, error: str
) -> None:
    config = DirectorConfig(
        sample_shape=("2",),
        target_shape=("1",),
        tls=ca.server(),
        timeouts=TIMEOUTS,
        workspace=tmp_path / "director",
        allow_pickled_code=allowed,
    )
    async with Director(config) as director, client_of(director, ca, "ada") as ada, anyio.create_task_group() as group:

        async def data() -> AsyncIterator[bytes]:
            yield of_openfls_frontend(2, last=last, port=director.endpoint.port)

        await ada.set_new_experiment(
            "halves", collaborators=NAMES, model=encode_model({"w": np.full((2, 2), 8, np.float32)}), archive=data()
        )

        async def envoy(name: str) -> None:
            async with client_of(director, ca, name) as client:
                await take_part(client, ca, name)

        if allowed:
            for name in NAMES:
                group.start_soon(envoy, name)
        status = await ended(ada, "halves")
        assert status is (ExperimentStatus.FAILED if error else ExperimentStatus.FINISHED)
        if error:
            assert re.search(error, director.error_of(Caller("ada", authenticated=True), "halves"))
        else:
            model = await ada.get_trained_model("halves", ModelKind.LAST)
            assert model is not None
            np.testing.assert_allclose(decode_model(model)["w"], np.full((2, 2), ((8 + 1) / 2 + 1) / 2))


async def ended(client: DirectorClient, name: str) -> ExperimentStatus:
    """Wait for the end of an experiment and return how it ended."""
    with anyio.fail_after(50):
        while True:
            status = await client.get_experiment_status(name)
            if status is not None and status.ended:
                return status
            await anyio.sleep(0.05)
