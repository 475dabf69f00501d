"""``openfl-aio experiment`` against a director that serves on loopback, its sites played in a background thread."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from openfl_aio.aggregator.client import AggregatorClient
from openfl_aio.cli import main
from openfl_aio.collaborator.collaborator import Collaborator
from openfl_aio.collaborator.task_runner import TaskContext, TaskOutput
from openfl_aio.config import DirectorConfig, Endpoint, RetryPolicy, Timeouts
from openfl_aio.director.client import DirectorClient
from openfl_aio.director.service import Director
from openfl_aio.domain import ShardInfo
from openfl_aio.exit_codes import ExitCode
from openfl_aio.plan.plan import Plan

pytestmark = pytest.mark.real_time

TIMEOUTS = Timeouts(drain=1.0, long_poll=5.0)
RETRY = RetryPolicy(max_elapsed=2.0)
WORKSPACE = """
import numpy as np

class Adding:
    @classmethod
    def initial_model(cls):
        return {"w": np.zeros((2, 3), dtype=np.float32)}
"""


@dataclass(frozen=True)
class Adding:
    """Trains by adding ``step``; the accuracy is the mean of ``w``."""

    step: float

    async def tensor_names(self) -> Sequence[str]:
        return ("w",)

    async def run(self, context: TaskContext, tensors: Mapping[str, np.ndarray]) -> TaskOutput:
        if context.task.name == "train":
            return TaskOutput(
                samples=5,
                tensors={"w": tensors["w"] + self.step},
                metrics={"loss": math.nan if context.round_number == 1 else 0.5},
            )
        return TaskOutput(samples=5, metrics={"accuracy": float(tensors["w"].mean())})


async def site(endpoint: Endpoint, name: str, registered: Callable[[], None], fails: bool) -> None:
    """Do what an envoy does for one experiment."""
    async with DirectorClient(endpoint, client_id=name, retry=RETRY, timeouts=TIMEOUTS) as client:
        assert await client.update_shard_info(ShardInfo(name, sample_shape=("2",), target_shape=("1",)))
        registered()
        experiment = await client.wait_experiment(name)
        if fails:
            await client.set_experiment_failed(experiment, name, error_description="ValueError: no such column")
            return
        data = b"".join([bytes(chunk) async for chunk in client.get_experiment_data(experiment, name)])
        with zipfile.ZipFile(io.BytesIO(data)) as zf:
            assert "adding.py" in zf.namelist()
            plan = Plan.parse(zf.read("plan/plan.yaml").decode())
        config = plan.collaborator_config(name, tls=None, retry=RETRY)
        async with AggregatorClient(config) as aggregator:
            await Collaborator(
                name=name,
                aggregator=aggregator,
                aggregator_uuid=config.aggregator_uuid,
                runner=Adding(plan.task_runner.settings["step"]),
                tasks=plan.tasks,
            ).run()


class Served:
    """A director in another thread, and what its sites do there."""

    def __init__(self, portal: BlockingPortal, endpoint: Endpoint, workspace: Path) -> None:
        self.portal = portal
        self.endpoint = endpoint
        self.workspace = workspace
        self.sites: list[Future[None]] = []

    def start_sites(self, *names: str, fails: bool = False) -> None:
        """Start sites, and return once all are registered."""
        for name in names:
            there = self.portal.call(anyio.Event)
            self.sites.append(self.portal.start_task_soon(site, self.endpoint, name, there.set, fails))
            self.portal.call(there.wait)

    def run(self, *arguments: str, client_id: str = "ada") -> int:
        """Run ``openfl-aio experiment`` and return its exit code."""
        connection = ["--director-host", "127.0.0.1", "--director-port", str(self.endpoint.port), "--disable-tls"]
        return run(*connection, "--client-id", client_id, *arguments)

    def submit(self, name: str, *arguments: str) -> int:
        """Submit the adding workspace for three rounds."""
        return self.run(
            "submit", name, "--workspace", str(self.workspace), "--task-runner", "adding.Adding", "--rounds", "3",
            *arguments,
        )  # fmt: skip


def run(*arguments: str) -> int:
    """Run ``openfl-aio experiment`` and return its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(["experiment", *arguments])
    return int(ended.value.code or 0)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Write a workspace with a task runner."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    (folder / "adding.py").write_text(WORKSPACE)
    return folder


@pytest.fixture
def served(workspace: Path) -> Iterator[Served]:
    """Serve in plaintext on a free port, in another thread."""
    config = DirectorConfig(
        listen=Endpoint(host="127.0.0.1", port=0), sample_shape=("2",), target_shape=("1",), timeouts=TIMEOUTS
    )
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(Director(config)) as director:
        served = Served(portal, director.endpoint, workspace)
        yield served
        for started in served.sites:
            started.cancel()


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def objects(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=pytest.fail) for line in lines(capsys)]


def test_an_experiment_from_submission_to_its_models(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served.start_sites("one", "two")
    assert served.submit("exp", "--setting", "step=2", "--wait") == ExitCode.OK
    assert lines(capsys) == ["experiment exp: finished"]

    assert served.run("list") == ExitCode.OK
    listed = capsys.readouterr().out
    assert all(word in listed for word in ("exp", "finished", "100%"))
    assert served.run("list", "--json") == ExitCode.OK
    (summary,) = objects(capsys)
    assert (summary["name"], summary["status"], summary["collaborators"]) == ("exp", "finished", 2)
    assert summary["progress"] == 1.0

    assert served.run("status", "exp") == ExitCode.OK
    first, *others = lines(capsys)
    assert first.startswith("exp: finished, round ")
    assert [line.split(":")[0] for line in others] == ["  one", "  two"]
    assert served.run("status", "exp", "--json") == ExitCode.OK
    (facts,) = objects(capsys)
    assert (facts["status"], facts["total_rounds"]) == ("finished", 3)

    assert served.run("watch", "exp", "--json") == ExitCode.OK
    metrics = objects(capsys)
    assert {metric["round_number"] for metric in metrics} == {0, 1, 2}
    assert {metric["origin"] for metric in metrics} >= {"one", "two"}
    losses = {(metric["round_number"], metric["value"]) for metric in metrics if metric["name"] == "loss"}
    assert losses == {(0, 0.5), (1, None), (2, 0.5)}, "JSON has no NaN"
    assert served.run("watch", "exp") == ExitCode.OK
    told = lines(capsys)
    assert len(told) == len(metrics)
    assert "round 0 one train loss 0.5" in told

    # the best is the best of those validated; the last has not been, since no round followed
    for which, expected in (("last", 6.0), ("best", 4.0)):
        output = tmp_path / f"{which}.npz"
        assert served.run("model", "exp", "--which", which, "--output", str(output)) == ExitCode.OK
        assert lines(capsys) == [f"{which} model of exp: 1 tensors, 6 parameters, in {output}"]
        with np.load(output) as arrays:
            np.testing.assert_allclose(arrays["w"], np.full((2, 3), expected, dtype=np.float32))
        assert served.run("model", "exp", "--which", which, "--output", str(output), "--json") == ExitCode.OK
        facts = {"name": "exp", "model": which, "file": str(output), "parameters": 6, "tensors": {"w": [2, 3]}}
        assert [json.loads(line) for line in lines(capsys)] == [facts]


def test_a_watcher_sees_the_end_of_what_failed(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    served.start_sites("one", fails=True)
    assert served.submit("bad", "--collaborator", "one", "--setting", "step=1") == ExitCode.OK
    assert lines(capsys)[0].startswith("experiment bad: ")
    assert served.run("watch", "bad") == ExitCode.FAILED
    assert "experiment 'bad' ended as 'failed'" in error_of(capsys)
    capsys.readouterr()
    assert served.submit("plain", "--collaborator", "nobody", "--json") == ExitCode.OK
    assert [json.loads(line)["name"] for line in lines(capsys)] == ["plain"]
    assert served.run("model", "bad", "-o", str(served.workspace / "model.npz")) == ExitCode.FAILED
    assert "has no best model yet" in error_of(capsys)
    assert [path.name for path in served.workspace.iterdir() if path.is_file()] == ["adding.py"]


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what was written to standard error: one sentence, no traceback."""
    error = capsys.readouterr().err
    told = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(told) == 1, error
    assert "Traceback" not in error
    return told[0]


def test_nobody_sees_anothers_experiment(served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert served.submit("exp", "--collaborator", "one", "--setting", "step=1") == ExitCode.OK
    for name, client_id in (("exp", "eve"), ("other", "ada")):
        for arguments in (["status", name], ["watch", name], ["model", name, "-o", str(tmp_path / "m.npz")]):
            capsys.readouterr()
            assert served.run(*arguments, client_id=client_id) == ExitCode.NAME
            assert repr(name) in error_of(capsys)
    assert served.run("list", "--json", client_id="eve") == ExitCode.OK
    assert lines(capsys) == []
    assert not (tmp_path / "m.npz").exists()
    assert served.submit("exp", "--collaborator", "one") == ExitCode.NAME
    assert "'exp'" in error_of(capsys)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--setting", "step"], "--setting takes KEY=JSON such as learning_rate=0.1, got 'step'"),
        (["--setting", "a step=1"], "--setting takes KEY=JSON"),
        (["--setting", "kind=fast"], "--setting kind: 'fast' is no JSON"),
        (["--task-runner", "adding.Missing"], "no class 'Missing'"),
        ([], "no envoy is online at 127.0.0.1:"),
    ],
)
def test_a_submission_that_cannot_work_is_refused_here(
    served: Served, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--task-runner" in arguments:
        arguments = [*arguments, "--collaborator", "one"]
    assert served.submit("exp", *arguments) == ExitCode.CONFIGURATION
    assert sentence in error_of(capsys)
    assert served.run("list", "--json") == ExitCode.OK
    assert lines(capsys) == []


def test_a_director_that_is_not_there(free_tcp_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    port = free_tcp_port
    connection = ["-dh", "127.0.0.1", "-dp", str(port), "--disable-tls", "--retry-for", "0.5"]
    assert run(*connection, "list") == ExitCode.UNREACHABLE
    sentence = error_of(capsys)
    assert f"127.0.0.1:{port}" in sentence
    assert " s" in sentence


def test_certificates_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list") == ExitCode.CONFIGURATION
    assert "mutual TLS needs -rc, -pk and -oc" in error_of(capsys)
    files = ["-rc", str(tmp_path / "ca.crt"), "-pk", str(tmp_path / "a.key"), "-oc", str(tmp_path / "a.crt")]
    assert run(*files, "list") == ExitCode.CONFIGURATION
    assert str(tmp_path) in error_of(capsys)
