from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import numpy as np
import pytest

from openfl_aio.aggregator.client import AggregatorClient
from openfl_aio.aggregator.run import configure, main, open_aggregator, wait_until_over
from openfl_aio.config import Endpoint
from openfl_aio.errors import ConfigurationError, StorageError
from openfl_aio.plan.plan import Plan
from openfl_aio.storage.models import ModelFiles
from openfl_aio.tensors.codec import TensorCodec
from openfl_aio.tensors.key import TensorKey

pytestmark = pytest.mark.real_time

PLAN = """\
aggregator:
  settings:
    rounds_to_train: 1
    init_state_path: save/init.pbuf
    best_state_path: save/best.pbuf
    last_state_path: save/last.pbuf
network:
  settings: {agg_addr: localhost, agg_port: 0, tls: false}
tasks:
  train: {function: fit, kwargs: {}}
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "plan.yaml").write_text(PLAN)
    (tmp_path / "plan" / "cols.yaml").write_text("collaborators:\n  - one\n")
    return tmp_path


async def save_model(workspace: Path) -> None:
    await ModelFiles().save(workspace / "save" / "init.pbuf", {"w": np.ones(2, np.float32)}, round_number=0)


async def test_a_federation_from_a_workspace(workspace: Path) -> None:
    await save_model(workspace)
    plan_path, cols = workspace / "plan" / "plan.yaml", workspace / "plan" / "cols.yaml"
    async with open_aggregator(plan_path, cols, root=workspace) as service:
        plan = await anyio.to_thread.run_sync(Plan.load, plan_path)
        config = plan.collaborator_config("one", endpoint=service.endpoint)
        async with AggregatorClient(config) as api:
            assert [task.name for task in (await api.get_tasks()).tasks] == ["train"]
            trained = TensorCodec().encode(TensorKey.of("w", "one", 0, tags=("trained",)), np.full(2, 4.0))
            await api.send_local_task_results(round_number=0, task_name="train", data_size=5, tensors=[trained])
            assert (await api.get_tasks()).quit
        await wait_until_over(service)
    saved = await ModelFiles().load(workspace / "save" / "last.pbuf")
    assert saved.round_number == 1
    np.testing.assert_array_equal(saved.tensors["w"], [4, 4])


async def test_a_workspace_without_a_model(workspace: Path) -> None:
    with pytest.raises(StorageError, match=r"init\.pbuf"):
        await open_aggregator(workspace / "plan/plan.yaml", workspace / "plan/cols.yaml", root=workspace).__aenter__()
    (workspace / "plan" / "plan.yaml").write_text(PLAN.replace("    init_state_path: save/init.pbuf\n", ""))
    with pytest.raises(ConfigurationError, match="init_state_path"):
        await open_aggregator(workspace / "plan/plan.yaml", workspace / "plan/cols.yaml", root=workspace).__aenter__()


def test_certificates_are_where_openfl_puts_them(workspace: Path) -> None:
    plan = Plan.parse(PLAN.replace("tls: false", "tls: true").replace("localhost", "Agg.Example.org"))
    config = configure(plan, workspace / "plan" / "cols.yaml", root=workspace)
    assert config.tls is not None
    assert config.tls.certificate == workspace / "cert" / "server" / "agg_agg.example.org.crt"
    assert config.listen == Endpoint(host="0.0.0.0", port=0)
    chosen = configure(plan, workspace / "plan" / "cols.yaml", root=workspace, listen=Endpoint(port=7))
    assert chosen.listen == Endpoint(port=7)


def test_plaintext_is_for_this_machine_unless_told_twice(workspace: Path) -> None:
    plan, cols = Plan.parse(PLAN), workspace / "plan" / "cols.yaml"
    assert configure(plan, cols, root=workspace).listen == Endpoint(host="127.0.0.1")
    everywhere = configure(plan, cols, root=workspace, allow_plaintext_anywhere=True)
    assert everywhere.listen == Endpoint(host="0.0.0.0")


def test_exit_codes(workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    assert main(["start", "-p", "absent.yaml"]) == 2
    assert main(["start"]) == 6  # the initial model is missing
    errors = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in errors if line.startswith("error")] == ["error", "error"]


def test_a_signal_ends_the_process_cleanly(workspace: Path) -> None:
    anyio.run(save_model, workspace)
    process = subprocess.Popen(
        [sys.executable, "-m", "openfl_aio.aggregator", "start", "-p", "plan/plan.yaml", "-c", "plan/cols.yaml"],
        cwd=workspace,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    try:
        assert process.stdout is not None
        assert "serves at 127.0.0.1:" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()


def test_a_list_of_nobody_is_refused_with_its_file(workspace: Path) -> None:
    cols = workspace / "plan" / "cols.yaml"
    cols.write_text("collaborators: []\n")
    plan = Plan.load(workspace / "plan" / "plan.yaml")
    with pytest.raises(ConfigurationError, match=r"cols\.yaml: collaborators: expected at least one name, got none"):
        configure(plan, cols, root=workspace)


def test_lists_of_denied_certificates_come_from_the_plan_or_the_command_line(workspace: Path) -> None:
    text = PLAN.replace("tls: false", "deny_list: deny.txt, crl: lists/ca.crl")
    (workspace / "plan" / "plan.yaml").write_text(text)
    plan, names = Plan.load(workspace / "plan" / "plan.yaml"), workspace / "plan" / "cols.yaml"
    tls = configure(plan, names, root=workspace).tls
    assert tls is not None
    assert (tls.deny_list, tls.crl) == (workspace / "deny.txt", workspace / "lists/ca.crl")
    tls = configure(plan, names, root=workspace, deny_list=Path("other.txt")).tls
    assert tls is not None
    assert (tls.deny_list, tls.crl) == (Path("other.txt"), workspace / "lists/ca.crl")


def test_lists_of_denied_certificates_mean_nothing_in_plaintext(workspace: Path) -> None:
    plan = Plan.load(workspace / "plan" / "plan.yaml")
    with pytest.raises(ConfigurationError, match="nobody can be denied in plaintext"):
        configure(plan, workspace / "plan" / "cols.yaml", root=workspace, crl=Path("ca.crl"))
