"""The lists of an operator's file at work: each call by each kind of caller, over mutual TLS."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import anyio
import numpy as np
import pytest

from openfl_aio.config import DirectorConfig, default_tasks
from openfl_aio.director.client import DirectorClient
from openfl_aio.director.service import Director
from openfl_aio.director.servicer import encode_model
from openfl_aio.domain import ExperimentStatus
from openfl_aio.errors import AuthenticationError, AuthorizationError, NotFoundError, OpenFLAioError
from openfl_aio.plan.experiment import experiment_plan
from openfl_aio.plan.files import load_director_config
from openfl_aio.testing.ca import ThrowawayCA
from openfl_aio.transport.channel import Channel, open_channel, translate
from openfl_aio.wire.messages import aggregator, director
from tests.director.test_federation import archive

pytestmark = pytest.mark.real_time

FILE: Final = """\
root_certificate: cert/cert_chain.crt
private_key: {key}
certificate: {certificate}
settings:
  listen_host: localhost
  listen_port: 0
  sample_shape: ['1']
  target_shape: ['1']
  workspace: state
  envoys: [one]
  users: [ada, bob]
  operators: [root]
"""
NAMES: Final = ("one", "ada", "bob", "root", "eve")

Call = Callable[[Channel, str], Awaitable[Any]]
Stub = director.DirectorStub


async def every(answers: AsyncIterator[Any]) -> None:
    async for _ in answers:
        pass


def shard(name: str) -> director.UpdateShardInfoRequest:
    info = director.ShardInfo(node_info=director.NodeInfo(name=name), sample_shape=["1"], target_shape=["1"])
    return director.UpdateShardInfoRequest(shard_info=info)


def data(name: str) -> director.GetExperimentDataRequest:
    return director.GetExperimentDataRequest(experiment_name="exp", collaborator_name=name)


def failed(name: str) -> director.SetExperimentFailedRequest:
    return director.SetExperimentFailedRequest(experiment_name="other", collaborator_name=name)


def tasks(name: str) -> aggregator.GetTasksRequest:
    return aggregator.GetTasksRequest(header=aggregator.MessageHeader(sender=name, federation_uuid="exp"))


COLLABORATORS: Final[dict[str, Call]] = {
    "GetTasks": lambda c, n: aggregator.AggregatorStub(c).get_tasks(tasks(n)),
}
ENVOYS: Final[dict[str, Call]] = {
    "UpdateShardInfo": lambda c, n: Stub(c).update_shard_info(shard(n)),
    "UpdateEnvoyStatus": lambda c, n: Stub(c).update_envoy_status(director.UpdateEnvoyStatusRequest(name=n)),
    "WaitExperiment": lambda c, n: Stub(c).wait_experiment(director.WaitExperimentRequest(collaborator_name=n)),
    "GetExperimentData": lambda c, n: every(Stub(c).get_experiment_data(data(n))),
    "SetExperimentFailed": lambda c, n: Stub(c).set_experiment_failed(failed(n)),
}
USERS: Final[dict[str, Call]] = {
    "SetNewExperiment": lambda c, n: Stub(c).set_new_experiment([director.ExperimentInfo(name=f"of-{n}")]),
}
FRONTENDS: Final[dict[str, Call]] = {
    "GetDatasetInfo": lambda c, _: Stub(c).get_dataset_info(director.GetDatasetInfoRequest()),
    "GetEnvoys": lambda c, _: Stub(c).get_envoys(director.GetEnvoysRequest()),
    "GetExperimentsList": lambda c, _: Stub(c).get_experiments_list(director.GetExperimentsListRequest()),
    "GetExperimentStatus": lambda c, _: Stub(c).get_experiment_status(
        director.GetExperimentStatusRequest(experiment_name="exp")
    ),
    "GetExperimentDescription": lambda c, _: Stub(c).get_experiment_description(
        director.GetExperimentDescriptionRequest(name="exp")
    ),
    "GetTrainedModel": lambda c, _: Stub(c).get_trained_model(director.GetTrainedModelRequest(experiment_name="exp")),
    "GetMetricStream": lambda c, _: every(
        Stub(c).get_metric_stream(director.GetMetricStreamRequest(experiment_name="exp"))
    ),
    "RemoveExperimentData": lambda c, _: Stub(c).remove_experiment_data(
        director.RemoveExperimentRequest(experiment_name="other")
    ),
}
CALLS: Final = {**COLLABORATORS, **ENVOYS, **USERS, **FRONTENDS}
PERMITTED: Final = {
    "one": {*COLLABORATORS, *ENVOYS},
    "ada": {*USERS, *FRONTENDS},
    "bob": {*USERS, *FRONTENDS},
    "root": set(FRONTENDS),
    "eve": set[str](),
}


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> ThrowawayCA:
    """Return an authority that has issued all the certificates these tests need."""
    ca = ThrowawayCA(tmp_path_factory.mktemp("lists") / "cert")
    ca.server()
    for name in NAMES:
        ca.client(name)
    return ca


@pytest.fixture
def config(ca: ThrowawayCA, tmp_path: Path) -> DirectorConfig:
    """Return what an operator wrote into a file."""
    tls = ca.server()
    (tmp_path / "cert").symlink_to(tls.ca.parent)
    path = tmp_path / "director_config.yaml"
    path.write_text(FILE.format(key=tls.private_key, certificate=tls.certificate))
    return load_director_config(path)


@pytest.fixture
async def serving(config: DirectorConfig, ca: ThrowawayCA) -> AsyncIterator[Director]:
    """Serve as the file says, with an experiment of ada's in progress at one."""
    async with Director(config) as serving:
        async with DirectorClient(serving.endpoint, tls=ca.client("ada")) as ada:
            await submit(ada, "exp")
            with anyio.fail_after(10):
                while await ada.get_experiment_status("exp") is not ExperimentStatus.IN_PROGRESS:
                    await anyio.sleep(0.01)
        yield serving


async def submit(client: DirectorClient, name: str) -> None:
    """Submit an experiment that nobody carries out."""
    plan = experiment_plan(
        task_runner="nothing.Nothing",
        settings={},
        rounds=1,
        tasks=default_tasks(),
        agg_addr="localhost",
        agg_port=client.endpoint.port,
        tls=True,
    )
    model = encode_model({"w": np.zeros(1, np.float32)})
    await client.set_new_experiment(name, collaborators=["one"], model=model, archive=archive(plan))


@pytest.mark.parametrize("name", NAMES)
async def test_each_caller_has_the_calls_of_its_role_and_no_other(
    serving: Director, ca: ThrowawayCA, name: str
) -> None:
    refused: dict[str, OpenFLAioError] = {}
    async with open_channel(serving.endpoint, tls=ca.client(name)) as channel:
        for what, call in CALLS.items():
            try:
                with anyio.move_on_after(0.3 if what in PERMITTED[name] else 30), translate():
                    await call(channel, name)
            except (AuthenticationError, AuthorizationError) as exc:
                refused[what] = exc
            except OpenFLAioError:
                pass  # it was heard
    assert refused.keys() == CALLS.keys() - PERMITTED[name]
    # what ends a collaborator of OpenFL 1.6, and what everybody else is told
    assert all(isinstance(exc, AuthenticationError) == (what in COLLABORATORS) for what, exc in refused.items())


async def test_an_operator_follows_and_removes_what_another_user_may_not_see(
    serving: Director, ca: ThrowawayCA
) -> None:
    bob, root, ada = (DirectorClient(serving.endpoint, tls=ca.client(name)) for name in ("bob", "root", "ada"))
    async with bob, root, ada:
        assert await bob.get_experiment_status("exp") is None
        assert await bob.get_experiments_list() == ()
        with pytest.raises(NotFoundError):
            await bob.get_experiment_description("exp")
        assert await bob.remove_experiment_data("exp")  # of which he learns nothing
        assert [summary.name for summary in await root.get_experiments_list()] == ["exp"]
        assert (await root.get_experiment_description("exp")).status is ExperimentStatus.IN_PROGRESS
        with pytest.raises(AuthorizationError):
            await submit(root, "exp")
        assert await root.remove_experiment_data("exp")
        assert await ada.get_experiment_status("exp") is None
