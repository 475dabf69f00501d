from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from openfl_aio.collaborator.run import announce, configure, load_workspace_runner, main, run_main
from openfl_aio.config import Endpoint, TLSConfig
from openfl_aio.errors import (
    ConfigurationError,
    TaskError,
)
from openfl_aio.plan.plan import Plan

PLAN = """
aggregator: {settings: {rounds_to_train: 1}}
network: {settings: {agg_addr: 127.0.0.1, agg_port: 1, hash_salt: x, tls: TLS}}
data_loader: {template: run_source.Loader, settings: {rows: 3}}
task_runner: {template: run_source.Runner, settings: {rate: 2}}
tasks:
  train: {function: train, kwargs: {}}
"""

SOURCE = """
class Loader:
    def __init__(self, data_path, rows):
        self.data_path, self.rows = data_path, rows
        if data_path == "broken":
            raise OSError("no such data")

class Runner:
    def __init__(self, shard, rate):
        self.shard, self.rate = shard, rate
    def tensor_names(self):
        return []
    def run(self, context, tensors):
        return None
"""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend("/nowhere")
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("run_source", None)
    (tmp_path / "run_source.py").write_text(SOURCE)
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "plan.yaml").write_text(PLAN.replace("TLS", "true"))
    (tmp_path / "plan" / "data.yaml").write_text("one,first\ntwo,broken\n")
    return tmp_path


def test_certificates_are_where_openfl_puts_them(workspace: Path) -> None:
    plan = Plan.load(workspace / "plan" / "plan.yaml")
    config = configure(plan, "one", root=workspace)
    cert = workspace / "cert"
    assert config.tls == TLSConfig(
        ca=cert / "cert_chain.crt",
        certificate=cert / "client" / "col_one.crt",
        private_key=cert / "client" / "col_one.key",
    )
    assert config.endpoint == Endpoint(host="127.0.0.1", port=1)
    assert configure(plan.rewritten(tls=False), "one", root=workspace).tls is None


def test_loader_and_runner_come_from_the_workspace(workspace: Path) -> None:
    plan = Plan.load(workspace / "plan" / "plan.yaml")
    runner: Any = load_workspace_runner(plan, data_path="first", root=workspace)
    assert (runner.shard.data_path, runner.shard.rows, runner.rate) == ("first", 3, 2)
    with pytest.raises(ConfigurationError, match="could not be built for 'broken': OSError: no such data"):
        load_workspace_runner(plan, data_path="broken", root=workspace)
    bare = Plan.parse(
        "\n".join(line for line in PLAN.splitlines() if not line.startswith("data_loader")).replace("TLS", "no")
    )
    runner = load_workspace_runner(bare, data_path="first", root=workspace)
    assert runner.shard == "first"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-n", "three"], 2, "names no data for collaborator 'three', only for one, two"),
        (["-n", "two", "--debug"], 2, "no such data"),
        (["start", "-n", "one"], 2, "cert"),
        (["-n", "one", "-p", "absent.yaml"], 2, "absent.yaml"),
    ],
)
def test_what_cannot_work_is_one_sentence_and_a_code(
    workspace: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert main(arguments) == code
    error = capsys.readouterr().err
    assert "error: " in error
    assert message in error


def test_errors_of_task_groups_are_unwrapped(capsys: pytest.CaptureFixture[str]) -> None:
    async def fail() -> None:
        raise ExceptionGroup("several", [TaskError("it broke")])

    async def surprise() -> None:
        raise ExceptionGroup("several", [ZeroDivisionError()])

    assert run_main(fail, debug=False) == 5
    assert "error: it broke" in capsys.readouterr().err
    assert run_main(surprise, debug=False) == 1
    assert "unforeseen ZeroDivisionError" in capsys.readouterr().err


def test_it_says_for_whom_it_works(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    announce(configure(Plan.load(workspace / "plan" / "plan.yaml"), "one", root=workspace))
    assert capsys.readouterr().out == "collaborator one works for the aggregator at 127.0.0.1:1\n"


@pytest.mark.real_time
async def test_python_m_starts_it() -> None:
    command = [sys.executable, "-m", "openfl_aio.collaborator", "--help"]
    done = await anyio.run_process(command, cwd=Path(__file__).parents[2])
    assert b"--collaborator_name" in done.stdout
