"""Assigners of users' own, run in a confined child process if the operator allowed it.

The child has limits, no open file and nothing of the director's environment. It is no sandbox: it may do what the
director's user may do, or the user that ``process_limits.run_as`` names.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.abc

import openfl_aio
from openfl_aio.config import Limits, ProcessLimits
from openfl_aio.confinement.process import ConfinedProcess
from openfl_aio.domain import Task, TaskKind, check_name
from openfl_aio.errors import ArchiveError, ConfigurationError
from openfl_aio.plan.assigned import ASSIGNER_FILE
from openfl_aio.storage.unpack import unpack

__all__ = ["Table", "run_assigner"]

MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
MAX_COMPLAINT_BYTES: Final = 64 * 1024
COMPLAINT_LINES: Final = 5

Table = tuple[dict[str, tuple[str, ...]], ...]


async def run_assigner(
    archive: Path, collaborators: Sequence[str], rounds: int, *, limits: Limits, process_limits: ProcessLimits
) -> tuple[tuple[Task, ...], Table]:
    """Run the assigner in the zip file ``archive`` for every round; return the tasks and who does which of them when.

    Raises `ArchiveError`, with the last lines of what the child said, for one that fails, passes one of ``process_limits``
    or answers what no assigner can.
    """
    request = json.dumps({"file": ASSIGNER_FILE, "collaborators": list(collaborators), "rounds": rounds})
    async with anyio.TemporaryDirectory(prefix="openfl-aio-assigner-") as folder:
        workspace = Path(folder) / "workspace"
        await unpack(archive, workspace, limits=limits)
        answer = await _ask(workspace, request.encode(), process_limits)
    try:
        return _checked(json.loads(answer))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigurationError) as exc:
        raise ArchiveError(f"{ASSIGNER_FILE}: its assigner gave what is no assignment ({exc!s:.200})") from None


async def _ask(workspace: Path, request: bytes, limits: ProcessLimits) -> bytes:
    variables = {
        "PATH": os.defpath,
        "HOME": str(workspace),
        "PYTHONPATH": str(Path(openfl_aio.__file__).parent.parent),
        "PYTHONUNBUFFERED": "1",
    }
    child = await ConfinedProcess.start(
        [sys.executable, "-P", "-m", "openfl_aio.director.assigner_child"],
        limits=limits,
        variables=variables,
        cwd=workspace,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        folders=(workspace,),
    )
    answer, complaint = bytearray(), bytearray()
    try:
        with anyio.move_on_after(limits.task_seconds) as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(_collect, child.process.stdout, answer, MAX_ANSWER_BYTES)
                group.start_soon(_collect, child.process.stderr, complaint, MAX_COMPLAINT_BYTES)
                assert child.process.stdin is not None
                try:
                    await child.process.stdin.send(request)
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    pass  # it ended already; its exit code says so
                await child.process.stdin.aclose()
                await child.wait()
    finally:
        ending = await child.end()
    said = "\n".join(bytes(complaint).decode(errors="replace").strip().splitlines()[-COMPLAINT_LINES:])
    if scope.cancelled_caught:
        raise ArchiveError(f"{ASSIGNER_FILE}: its assigner took longer than {limits.task_seconds:g} s")
    if ending.code != 0 or ending.reason or len(answer) > MAX_ANSWER_BYTES:
        raise ArchiveError(f"{ASSIGNER_FILE}: its assigner {ending}: {said[-1000:]}")
    return bytes(answer)


async def _collect(stream: anyio.abc.ByteReceiveStream | None, into: bytearray, most: int) -> None:
    """Read to the end and keep ``most`` bytes and a few, so that whoever writes more never waits."""
    assert stream is not None
    async for data in stream:
        if len(into) <= most:
            into += data


def _checked(answer: Any) -> tuple[tuple[Task, ...], Table]:
    kinds = {kind.value: kind for kind in TaskKind}
    tasks = tuple(
        Task(
            check_name(task["name"], what="task"),
            str(task["function_name"]),
            kinds[task["task_type"]],
            apply_local=task["apply_local"] is True,
        )
        for task in answer["tasks"]
    )
    table = tuple({name: tuple(names) for name, names in row.items()} for row in answer["table"])
    return tasks, table
