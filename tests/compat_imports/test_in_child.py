"""An archive in a child process, as an envoy runs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from openfl_aio.collaborator.task_runner import TaskContext
from openfl_aio.domain import Task, TaskKind
from openfl_aio.envoy.process_runner import ProcessTaskRunner, RunnerSpec
from openfl_aio.errors import ConfigurationError
from tests.compat_imports.test_runner import SETTINGS, ZEROS

pytestmark = pytest.mark.real_time


def spec(archive: Path, *, real_openfl: bool = False) -> RunnerSpec:
    return RunnerSpec(
        "openfl_aio.compat.imports.runner.ArchiveRunner",
        archive,
        {**SETTINGS, "opt_treatment": "CONTINUE_GLOBAL"},
        shard_template="archive_shard.Shard",
        shard_path=archive.parent,
        real_openfl=real_openfl,
    )


async def test_the_archive_runs_without_openfl(archive: Path) -> None:
    async with ProcessTaskRunner(spec(archive), log=archive.parent / "log") as runner:
        assert await runner.tensor_names() == ("w", "seen")
        output = await runner.run(TaskContext(Task("train", "train", TaskKind.TRAIN), 2, "site"), ZEROS)
    assert (output.samples, output.metrics["now"], sorted(output.tensors)) == (7, 2.0, ["seen", "w"])
    np.testing.assert_array_equal(output.state["velocity"], np.full(3, 4.0))
    assert output.state_is_shared


async def test_the_operator_may_want_openfl_itself(archive: Path) -> None:
    with pytest.raises(ConfigurationError, match="openfl"):
        async with ProcessTaskRunner(spec(archive, real_openfl=True), log=archive.parent / "log"):
            pass
