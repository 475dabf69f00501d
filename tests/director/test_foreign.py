"""An assigner of a user's own runs in a child process, which has a time limit and nothing of ours."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import cloudpickle
import pytest

from openfl_aio.config import DirectorConfig, Limits, ProcessLimits
from openfl_aio.director.foreign import run_assigner
from openfl_aio.domain import Task, TaskKind
from openfl_aio.errors import ArchiveError
from openfl_aio.plan.assigned import ASSIGNER_FILE

pytestmark = pytest.mark.real_time

LIMITS = DirectorConfig().process_limits
HELPER = """
from openfl.component.assigner.tasks import TrainTask, ValidateTask

TRAIN = TrainTask("train", "fit")
CHECK = ValidateTask("check", "look", apply_local=True)
"""


def archive_of(folder: Path, function: Callable[..., object]) -> Path:
    path = folder / "archive.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(ASSIGNER_FILE, cloudpickle.dumps(function))
        archive.writestr("site_tasks.py", HELPER)
    return path


def made(body: str) -> Callable[..., object]:
    """Return a function that cloudpickle sends by value."""
    names: dict[str, Callable[..., object]] = {}
    exec(f"def assigner(collaborators, round_number, number_of_callaborators):\n{body}", names)
    return names["assigner"]


async def test_it_is_asked_for_every_round_with_openfls_arguments_and_modules_of_the_archive(tmp_path: Path) -> None:
    function = made(
        """
    from site_tasks import CHECK, TRAIN
    assert number_of_callaborators == len(collaborators) == 2
    print("to be seen by nobody")
    return {name: [TRAIN, CHECK] if index == round_number else [CHECK] for index, name in enumerate(collaborators)}
"""
    )
    tasks, table = await run_assigner(
        archive_of(tmp_path, function), ["one", "two"], 2, limits=Limits(), process_limits=LIMITS
    )
    assert set(tasks) == {
        Task("train", "fit", TaskKind.TRAIN, apply_local=False),
        Task("check", "look", TaskKind.VALIDATE, apply_local=True),
    }
    assert table == ({"one": ("train", "check"), "two": ("check",)}, {"one": ("check",), "two": ("train", "check")})


async def test_it_has_nothing_of_our_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "1")
    function = made("    import os\n    raise ValueError(f'sees {sorted(os.environ)}')")
    with pytest.raises(ArchiveError, match="sees") as info:
        await run_assigner(archive_of(tmp_path, function), ["one"], 1, limits=Limits(), process_limits=LIMITS)
    assert "SECRET" not in str(info.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("    raise ValueError('no such day')", "no such day"),
        ("    import os; os._exit(3)", "ended with exit code 3"),
        ("    return [bytes(1 << 20) + b'x' for _ in range(2000)]", r"of memory, 1024 are allowed \(memory_bytes\)"),
        ("    return 7", "AttributeError"),
        ("    return {'one': [7]}", "AttributeError"),
        ("    import time; time.sleep(60)", "longer than 3 s"),
    ],
)
async def test_whatever_it_does_instead_is_told(tmp_path: Path, body: str, message: str) -> None:
    # a child may take long to start
    limits = ProcessLimits(**{**dict(LIMITS), "task_seconds": 3.0}) if "sleep" in body else LIMITS
    with pytest.raises(ArchiveError, match=message):
        await run_assigner(archive_of(tmp_path, made(body)), ["one"], 1, limits=Limits(), process_limits=limits)


async def test_an_answer_that_is_none_is_refused(tmp_path: Path) -> None:
    function = made(
        """
    from openfl.component.assigner.tasks import TrainTask
    return {"one": [TrainTask("../x", "fit")]}
"""
    )
    with pytest.raises(ArchiveError, match="no assignment"):
        await run_assigner(archive_of(tmp_path, function), ["one"], 1, limits=Limits(), process_limits=LIMITS)
