"""The facade and the real classes whose names it has, each as the other's peer."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.to_thread
import numpy as np
import pytest

from openfl_aio.aggregator.service import Aggregator
from openfl_aio.compat import (
    AggregatorGRPCClient,
    AggregatorGRPCServer,
    DirectorClient,
    DirectorGRPCServer,
    ShardDirectorClient,
)
from openfl_aio.config import AggregatorConfig, Timeouts
from openfl_aio.director.service import Director
from openfl_aio.errors import NotFoundError, OpenFLAioError, ShardNotFoundError
from openfl_aio.storage.keys import CertificateLayout
from openfl_aio.tensors.codec import TensorCodec
from openfl_aio.tensors.key import TensorKey
from openfl_aio.wire import convert, messages
from tests.interop_openfl.processes import Program, Programs, free_port

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.timeout(60),
    pytest.mark.cell(must="calls of each method, with the same outcome"),
]

LARGE = 3 * 2**20  # elements: 12 MiB of float32, several chunks
UUIDS: dict[str, Any] = {"aggregator_uuid": "aggregator_plan.yaml_1", "federation_uuid": "plan.yaml_1"}
TASKS = ["aggregated_model_validation", "train", "locally_tuned_model_validation"]
PLAN = """\
aggregator: {template: openfl.component.Aggregator, settings: {rounds_to_train: 3}}
collaborator: {template: openfl.component.Collaborator, settings: {delta_updates: false}}
network: {template: openfl.federation.Network, settings: {agg_addr: localhost, agg_port: 1, tls: TLS}}
assigner:
  template: openfl.component.RandomGroupedAssigner
  settings: {task_groups: [{name: all, percentage: 1.0, tasks: [train]}]}
tasks: {settings: {}, train: {function: train, kwargs: {}}}
compression_pipeline: {template: openfl.pipelines.NoCompressionPipeline, settings: {}}
"""

security = pytest.mark.parametrize(
    "tls", [pytest.param(False, marks=pytest.mark.full, id="plain"), pytest.param(True, id="mtls")]
)


class Files:
    """Arguments for certificates by OpenFL's names; none of them without TLS."""

    def __init__(self, folder: Path, *, tls: bool) -> None:
        self._layout = CertificateLayout(folder)
        self.tls = tls

    def _of(self, pair: Any) -> dict[str, Any]:
        if not self.tls:
            return {"tls": False, "root_certificate": None, "certificate": None, "private_key": None}
        return {
            "tls": True,
            "root_certificate": str(self._layout.chain),
            "certificate": str(pair.certificate),
            "private_key": str(pair.private_key),
        }

    def server(self) -> dict[str, Any]:
        """Return a server's."""
        return self._of(self._layout.server("localhost"))

    def client(self, name: str) -> dict[str, Any]:
        """Return a participant's."""
        return self._of(self._layout.client(name))


@pytest.fixture
def files(ca_folder: Path, tls: bool) -> Files:
    return Files(ca_folder, tls=tls)


def start(programs: Programs, role: str, folder: Path, **options: Any) -> Program:
    return programs.peer("facade", role, json.dumps(options), cwd=folder)


async def told(program: Program) -> Any:
    """Return the facts that a real peer has told at its end."""
    said = await anyio.to_thread.run_sync(program.succeed)
    return json.loads(said.strip().splitlines()[-1])


def archive(path: Path, *, tls: bool) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zf:
        zf.writestr("plan/plan.yaml", PLAN.replace("TLS", str(tls).lower()))
    path.write_bytes(buffer.getvalue())
    return buffer.getvalue()


def federation_of_one() -> AggregatorConfig:
    return AggregatorConfig(
        uuid=UUIDS["aggregator_uuid"],
        federation_uuid=UUIDS["federation_uuid"],
        collaborators=("one",),
        rounds=1,
        timeouts=Timeouts(drain=0.5),
    )


def named(name: str, values: Any, *tags: str, report: bool = False) -> messages.NamedTensor:
    key = TensorKey.of(name, "one", 0, report=report, tags=tags)
    return convert.tensor_to_proto(TensorCodec().encode(key, np.asarray(values, np.float32)))


@security
@pytest.mark.cell(server="our AggregatorGRPCServer", client="real AggregatorGRPCClient")
async def test_the_real_client_with_our_aggregator_server(
    programs: Programs, tmp_path: Path, files: Files, tls: bool
) -> None:
    aggregator = Aggregator(federation_of_one(), initial_model={"w": np.full(LARGE, 2, np.float32)})
    async with AggregatorGRPCServer(aggregator, 0, **files.server()) as server:
        assert server.server is not None
        port = server.server.endpoint.port
        peer = start(programs, "aggregator-client", tmp_path, port=port, files=files.client("one"), **UUIDS)
        facts = await told(peer)
        assert facts == {"tasks": TASKS, "round": 0, "sleep": 0, "quits": False, "first": 2.0, "quits_then": True}
        await server.serve()  # it was told to quit, so this returns
        assert (await aggregator.wait_complete())["w"].tolist() == [3.0] * LARGE


@pytest.mark.parametrize("tls", [True], ids=["mtls"])
@pytest.mark.cell(server="our AggregatorGRPCServer", client="real AggregatorGRPCClient", must="a stranger ends")
async def test_a_real_client_that_takes_no_part_ends(
    programs: Programs, tmp_path: Path, files: Files, tls: bool
) -> None:
    aggregator = Aggregator(federation_of_one(), initial_model={"w": np.zeros(1, np.float32)})
    async with AggregatorGRPCServer(aggregator, 0, **files.server()) as server:
        assert server.server is not None
        port = server.server.endpoint.port
        options = {"port": port, "name": "three", "files": files.client("three"), **UUIDS}
        peer = start(programs, "aggregator-stranger", tmp_path, **options)
        assert await told(peer) == {"code": "UNAUTHENTICATED"}


@security
@pytest.mark.cell(server="our DirectorGRPCServer", client="real clients of the director")
async def test_the_real_clients_with_our_director_server(
    programs: Programs, tmp_path: Path, files: Files, tls: bool
) -> None:
    work = tmp_path / "work.zip"
    archive(work, tls=tls)
    async with DirectorGRPCServer(
        director_cls=Director,
        listen_host="localhost",
        listen_port=0,
        sample_shape=["8"],
        target_shape=["1"],
        envoy_health_check_period=7,
        **files.server(),
    ) as server:
        certificates = {"envoy": files.client("one"), "user": files.client("three")}
        peer = start(
            programs,
            "director-clients",
            tmp_path,
            port=server.endpoint.port,
            files={},
            archive=str(work),
            **certificates,
        )
        facts = await told(peer)
    assert facts.pop("bytes") > 0
    assert facts == {
        "accepted": True,
        "period": 7,
        "shapes": [["8"], ["1"]],
        "online": True,
        "submitted": True,
        "work": "exp",
        "status": "in_progress",
        "model": [1.0, 1.0],
        "best": [],
        "listed": ["exp"],
        "rounds": 3,
        "then": "failed",
        "metrics": [],
        "removed": True,
        "last": "",
    }


@security
@pytest.mark.cell(server="real AggregatorGRPCServer", client="our AggregatorGRPCClient")
async def test_our_client_with_the_real_aggregator_server(
    programs: Programs, tmp_path: Path, files: Files, tls: bool
) -> None:
    port = free_port()
    options = {"port": port, "files": files.server(), "size": LARGE, **UUIDS}
    peer = start(programs, "aggregator-server", tmp_path, **options)
    async with AggregatorGRPCClient(
        "localhost", port, False, client_reconnect_interval=0.1, **files.client("one"), **UUIDS
    ) as client:
        tasks, round_number, sleep_time, quits = await client.get_tasks("one")  # waits for the server
        assert ([task.name for task in tasks], round_number, sleep_time, quits) == (TASKS, 0, 0, False)
        tensor = await client.get_aggregated_tensor("one", "w", 0, False, ["model"], True)
        values = TensorCodec().decode(convert.tensor_from_proto(tensor))
        assert values.tolist() == [2.0] * LARGE
        await client.send_local_task_results("one", 0, "train", 3, [named("w", values + 1, "trained")])
        for task, tag in ((TASKS[0], "validate_agg"), (TASKS[2], "validate_local")):
            metric = named("acc", 0.5, "metric", tag, report=True)
            await client.send_local_task_results("one", 0, task, 3, [metric])
        assert (await client.get_tasks("one"))[3] is True
    assert await told(peer) == {"last": 3.0, "size": LARGE}


@security
@pytest.mark.cell(server="real DirectorGRPCServer", client="our clients of the director")
async def test_our_clients_with_the_real_director_server(
    programs: Programs, tmp_path: Path, files: Files, tls: bool
) -> None:
    port = free_port()
    work = tmp_path / "work.zip"
    data = archive(work, tls=tls)
    start(programs, "director-server", tmp_path, port=port, files=files.server())
    where: dict[str, Any] = {"director_host": "localhost", "director_port": port}
    async with (
        ShardDirectorClient(shard_name="one", **where, **files.client("one")) as envoy,
        DirectorClient(client_id="alice", **where, **files.client("three")) as user,
    ):
        assert await user.get_dataset_info() == (["8"], ["1"])  # waits for the server
        with pytest.raises(ShardNotFoundError):
            await envoy.send_health_check(envoy_name="one", is_experiment_running=False)
        shard = SimpleNamespace(dataset_description="digits", sample_shape=["8"], target_shape=["1"])
        assert await envoy.report_shard_info(shard, (0,)) is True
        assert await envoy.send_health_check(envoy_name="one", is_experiment_running=False) == 5
        answer = await user.set_new_experiment("exp", ["one"], work, {"w": np.ones(2)})
        assert answer is not None
        assert answer.accepted
        assert (await user.get_experiment_status("exp")).experiment_status == "pending"
        chunks = [chunk.npbytes async for chunk in envoy.get_experiment_data("exp")]
        assert b"".join(chunks) == data
        assert [item.name for item in await user.get_experiments_list()] == ["exp"]
        # what the real one cannot answer is an error here, and not an endless retry
        for asked in (user.get_experiment_description("exp"), user.get_last_model("exp")):
            with pytest.raises(OpenFLAioError):
                await asked
        with pytest.raises((OpenFLAioError, NotFoundError)):
            async for _ in user.stream_metrics("unknown"):
                pass
        assert await user.remove_experiment_data("exp") is True
        assert (await user.get_experiment_status("exp")).experiment_status == ""
