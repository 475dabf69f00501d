from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import anyio
import numpy as np
import pytest

from openfl_aio.collaborator.task_runner import TaskContext
from openfl_aio.config import ProcessLimits
from openfl_aio.domain import ShardInfo, Task, TaskKind
from openfl_aio.envoy.process_runner import ProcessTaskRunner, RunnerSpec
from openfl_aio.errors import ConfigurationError, TaskError

pytestmark = pytest.mark.real_time

SOURCE = """
import os, signal, subprocess, sys, time
import numpy as np
from openfl_aio.collaborator.task_runner import TaskOutput

class Shard:
    def __init__(self, *, value):
        self.value = value
        self.sample_shape = [8, 8]
        self.target_shape = ["1"]
        self.dataset_description = "four"
    def __len__(self):
        return self.value
    def get_dataset(self, dataset_type):
        return self.value

class Runner:
    def __init__(self, shard, *, rate=1):
        self.value = shard.get_dataset("train") if shard else 0
        self.rate = rate
    def set_optimizer_treatment(self, opt_treatment):
        print("told", opt_treatment, flush=True)
    def tensor_names(self):
        return ["w"]
    def run(self, context, tensors):
        print("running", context.task.name)
        return getattr(self, context.task.function_name)(context, tensors)
    def train(self, context, tensors):
        trained = tensors["w"] + self.value * self.rate
        metrics = {"loss": np.float32(0.5), "round": context.round_number}
        return TaskOutput(np.int64(3), {"w": trained}, metrics)
    def read_input(self, context, tensors):
        return TaskOutput(1, metrics={"read": len(sys.stdin.read()), "pid": os.getpid()})
    def fail(self, context, tensors):
        raise RuntimeError("the data is gone")
    def exit(self, context, tensors):
        sys.exit(3)
    def nothing(self, context, tensors):
        return None
    def text(self, context, tensors):
        return TaskOutput(1, {"w": np.array(["a"])})
    def odd(self, context, tensors):
        return TaskOutput("many", metrics={"loss": "low"})
    def huge(self, context, tensors):
        return TaskOutput(1, {"w": np.zeros(1 << 25)})
    def die(self, context, tensors):
        print("last words", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    def talk(self, context, tensors):
        while True:
            print("x" * 4096)
    def leave(self, context, tensors):
        os._exit(7)
    def hang(self, context, tensors):
        child = subprocess.Popen(["sleep", "60"])
        with open("pids", "w") as file:
            print(os.getpid(), child.pid, file=file)
        os.rename("pids", "hanging")
        time.sleep(60)
"""


@pytest.fixture
def spec(tmp_path: Path) -> RunnerSpec:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    (workspace / "child_source.py").write_text(SOURCE)
    return RunnerSpec(
        "child_source.Runner",
        workspace,
        {"rate": 2},
        shard_template="child_source:Shard",
        shard_path=workspace,
        shard_params={"value": 5},
    )


def folder(spec: RunnerSpec) -> Path:
    assert spec.path is not None
    return spec.path


@pytest.fixture
async def runner(spec: RunnerSpec) -> AsyncIterator[ProcessTaskRunner]:
    async with ProcessTaskRunner(spec, log=folder(spec) / "log") as started:
        yield started


def context(function: str) -> TaskContext:
    return TaskContext(Task("work", function, TaskKind.TRAIN), 4, "site")


async def alive(pid: int) -> bool:
    try:
        state = (await anyio.Path(f"/proc/{pid}/stat").read_text()).rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


async def gone(*pids: int) -> None:
    with anyio.fail_after(10):
        while any([await alive(pid) for pid in pids]):
            await anyio.sleep(0.01)


async def test_tasks_run_in_another_process(runner: ProcessTaskRunner, spec: RunnerSpec) -> None:
    assert await runner.tensor_names() == ("w",)
    output = await runner.run(context("train"), {"w": np.ones((2, 2), np.float32)})
    assert output.samples == 3
    assert output.metrics == {"loss": 0.5, "round": 4}
    np.testing.assert_array_equal(output.tensors["w"], np.full((2, 2), 11, np.float32))
    output = await runner.run(context("read_input"), {})
    assert output.metrics["read"] == 0
    assert output.metrics["pid"] not in (os.getpid(), runner.pid)
    assert "running work" in await anyio.Path(folder(spec) / "log").read_text()
    assert str(runner.pid) in repr(runner)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("fail", "(?s)task 'work' raised RuntimeError: the data is gone\n.*in fail"),
        ("exit", "raised SystemExit: 3"),
        ("nothing", "must return a TaskOutput, got NoneType"),
        ("text", "must be numeric"),
    ],
)
async def test_a_failed_task_leaves_the_child_usable(runner: ProcessTaskRunner, function: str, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        await runner.run(context(function), {})
    assert await runner.tensor_names() == ("w",)


async def test_odd_values_come_back_for_the_check_to_name(runner: ProcessTaskRunner) -> None:
    output = await runner.run(context("odd"), {})
    values: list[object] = [output.samples, *output.metrics.values()]
    assert values == ["'many'", "'low'"]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("die", "(?s)task 'work': the child process was killed by signal 9; it printed last:\n.*last words"),
        ("leave", "the child process ended with exit code 7"),
        ("huge", "the child's answer cannot be used: expected arrays of at most"),
    ],
)
async def test_the_death_of_the_child_is_a_failed_task(runner: ProcessTaskRunner, function: str, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        await runner.run(context(function), {})
    with pytest.raises(TaskError):
        await runner.run(context("train"), {})


async def test_a_task_that_never_ends_is_ended(spec: RunnerSpec) -> None:
    limits = ProcessLimits(task_seconds=8)  # loading has as long, and may be slow
    async with ProcessTaskRunner(spec, log=folder(spec) / "log", limits=limits) as runner:
        with pytest.raises(TaskError, match=r"task 'work' took longer than 8 s \(task_seconds\): it was ended"):
            await runner.run(context("hang"), {})
        hidden = (await anyio.Path(folder(spec) / "hanging").read_text()).split()
    await gone(*map(int, hidden))


async def test_a_passed_limit_is_named_in_the_task_s_failure(spec: RunnerSpec) -> None:
    limits = ProcessLimits(disk_bytes=1 << 20)
    async with ProcessTaskRunner(spec, log=folder(spec) / "log", limits=limits) as runner:
        with pytest.raises(
            TaskError, match=r"(?s)task 'work': the child process was ended: its files had .*disk_bytes"
        ):
            await runner.run(context("talk"), {})
        with pytest.raises(TaskError):
            await runner.tensor_names()


async def test_cancelling_kills_the_whole_group(runner: ProcessTaskRunner, spec: RunnerSpec) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(runner.run, context("hang"), {})
        with anyio.fail_after(20):
            while not await anyio.Path(folder(spec) / "hanging").exists():
                await anyio.sleep(0.01)
        pids = [int(pid) for pid in (await anyio.Path(folder(spec) / "hanging").read_text()).split()]
        group.cancel_scope.cancel()
    await gone(*pids)
    with pytest.raises(TaskError):
        await runner.tensor_names()


async def test_leaving_the_context_ends_the_child(spec: RunnerSpec) -> None:
    async with ProcessTaskRunner(spec, log=folder(spec) / "log") as runner:
        pid = runner.pid
    await gone(pid)
    with pytest.raises(TaskError, match="is not running"):
        _ = runner.pid
    with pytest.raises(TaskError, match="is not running"):
        await runner.tensor_names()
    assert "pid=None" in repr(runner)


@pytest.mark.parametrize(("treatment", "said"), [("RESET", "told RESET"), (None, "")])
async def test_a_runner_is_told_what_becomes_of_its_optimizer(
    spec: RunnerSpec, treatment: str | None, said: str
) -> None:
    log = folder(spec) / "log"
    async with ProcessTaskRunner(replace(spec, opt_treatment=treatment), log=log) as runner:
        await runner.tensor_names()
    assert log.read_text().strip() == said


async def test_a_child_ends_with_its_parent(spec: RunnerSpec) -> None:
    source = f"""
import anyio, os
from pathlib import Path
from openfl_aio.envoy.process_runner import ProcessTaskRunner, RunnerSpec
async def main():
    async with ProcessTaskRunner(RunnerSpec("child_source.Runner", Path({str(folder(spec))!r})), log=Path(os.devnull)) as r:
        print(r.pid, flush=True)
        os._exit(0)
anyio.run(main)
"""
    done = await anyio.run_process([sys.executable, "-c", source], cwd=Path(__file__).parents[2])
    await gone(int(done.stdout))


@pytest.mark.parametrize(
    ("template", "settings", "message"),
    [
        ("absent.Runner", {}, "no module 'absent'"),
        ("child_source.Absent", {}, "has no class 'Absent'"),
        ("child_source.Runner", {"speed": 1}, "could not be built with settings"),
    ],
)
async def test_what_cannot_be_loaded_is_a_configuration_error(
    spec: RunnerSpec, template: str, settings: dict[str, int], message: str
) -> None:
    wrong = RunnerSpec(template, spec.path, settings, cuda_devices=(0, 1))
    with pytest.raises(ConfigurationError, match=message):
        async with ProcessTaskRunner(wrong, log=folder(spec) / "log"):
            pass


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="FileNotFoundError"):
        async with ProcessTaskRunner(RunnerSpec("a.B", tmp_path / "absent"), log=tmp_path / "log"):
            pass
    absent = RunnerSpec(None, None, shard_template="a.B", shard_path=tmp_path / "absent")
    with pytest.raises(FileNotFoundError):
        async with ProcessTaskRunner(absent, log=tmp_path / "log"):
            pass


async def test_a_shard_is_described_by_the_child(spec: RunnerSpec, tmp_path: Path) -> None:
    alone = RunnerSpec(None, None, shard_template=spec.shard_template, shard_path=spec.path, shard_params={"value": 4})
    async with ProcessTaskRunner(alone, log=tmp_path / "log") as runner:
        assert await runner.describe_shard("site") == ShardInfo("site", "four", 4, ("8", "8"), ("1",))
        with pytest.raises(TaskError, match="no task runner is loaded"):
            await runner.tensor_names()
    async with ProcessTaskRunner(RunnerSpec(spec.template, spec.path), log=tmp_path / "log") as runner:
        with pytest.raises(ConfigurationError, match="no shard descriptor is loaded"):
            await runner.describe_shard("site")


async def test_the_operator_gets_one_sentence_for_a_shard_that_cannot_be_built(tmp_path: Path) -> None:
    (tmp_path / "gone.py").write_text(
        'class Gone:\n    def __init__(self):\n        raise OSError("no disk\\nat all")\n'
    )
    spec = RunnerSpec(template=None, path=None, shard_template="gone.Gone", shard_path=tmp_path)
    with pytest.raises(ConfigurationError, match=r"OSError: no disk at all$") as refused:
        await ProcessTaskRunner(spec, log=tmp_path / "log").__aenter__()
    assert "\n" not in str(refused.value)
