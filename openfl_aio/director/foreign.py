"""Assigners and aggregation functions of users' own, run in a confined child process if the operator allowed it.

The child has limits, no open file and nothing of the director's environment, and ends with the director. It is no sandbox:
it may do what the director's user may do, or the user that ``process_limits.run_as`` names. What comes back is JSON and raw
arrays.
"""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread
import numpy as np
from numpy.typing import NDArray

import openfl_aio
from openfl_aio.config import Limits, ProcessLimits
from openfl_aio.confinement.process import ConfinedProcess
from openfl_aio.domain import Task, TaskKind, check_name
from openfl_aio.errors import ArchiveError, ConfigurationError, ProtocolError, TensorError
from openfl_aio.plan.assigned import AGGREGATION_FILE, ASSIGNER_FILE
from openfl_aio.storage.unpack import unpack
from openfl_aio.tensors.aggregation import AggregationContext, History, LocalTensor, PrivilegedFunction
from openfl_aio.tensors.aggregation.base import check_shape, check_weight, read_only
from openfl_aio.transport.child_channel import ChannelClosed, FrameChannel

__all__ = ["PickledFunctions", "Table", "run_assigner"]

COMPLAINT_LINES: Final = 5
COMPLAINT_BYTES: Final = 1000
DEATH_SECONDS: Final = 2.0  # in which a guardian says why it ended a child
LEAST_ANSWER_BYTES: Final = 1 << 20  # so that a small array of a wrong shape is told by its shape

Table = tuple[dict[str, tuple[str, ...]], ...]
Arrays = dict[str, NDArray[Any]]
T = TypeVar("T")


class PickledCode:
    """The pickles of one archive, in a confined child process that works in ``folder / "workspace"``. Made by `start`.

    `ask` and `aggregate` block, for a thread that `anyio.to_thread` started, one at a time. A call that takes longer than
    ``limits.task_seconds`` ends the child, and so does `kill`, from any thread.
    """

    def __init__(self, process: ConfinedProcess, channel: FrameChannel, log: Path, limits: ProcessLimits) -> None:
        self._process = process
        self._channel = channel
        self._log = log
        self._limits = limits
        self._late = False

    @classmethod
    async def start(cls, archive: Path, folder: Path, *, limits: Limits, process_limits: ProcessLimits) -> Self:
        """Unpack ``archive`` in ``folder`` and start the child. Raises `ArchiveError`, `ConfigurationError`."""
        workspace, log = folder / "workspace", folder / "said.log"
        await unpack(archive, workspace, limits=limits)
        variables = {
            "PATH": os.defpath,
            "HOME": str(workspace),
            "PYTHONPATH": str(Path(openfl_aio.__file__).parent.parent),
            "PYTHONUNBUFFERED": "1",
        }
        ours, theirs = socket.socketpair()
        try:
            said = await anyio.to_thread.run_sync(lambda: log.open("ab"))
            try:
                process = await ConfinedProcess.start(
                    [sys.executable, "-P", "-m", "openfl_aio.director.pickled_child", str(theirs.fileno())],
                    limits=process_limits,
                    variables=variables,
                    cwd=workspace,
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    pass_fds=(theirs.fileno(),),
                    folders=(workspace,),
                    files=(log,),
                )
            finally:
                said.close()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return cls(process, FrameChannel(ours), log, process_limits)

    def ask(self, request: Mapping[str, Any], *, what: str) -> dict[str, Any]:
        """Return the answer to ``request``. Raises `ArchiveError` that begins with ``what``, the file and its object."""

        def talk(channel: FrameChannel) -> dict[str, Any]:
            channel.send(request)
            return channel.receive(max_array_bytes=0)[0]

        return self._checked(self._exchange(talk, what=what), what=what)

    def aggregate(
        self, function: str, tensors: Iterable[LocalTensor], context: AggregationContext, history: History
    ) -> NDArray[np.float32]:
        """Return what the aggregation function of the task function ``function`` makes of ``tensors``.

        One of them at a time is in our memory, and rows of ``history`` are read when the function looks at them.
        Raises `ArchiveError` if it fails, `TensorError` for tensors that do not belong together and for what is no aggregate.
        """
        what = f"{AGGREGATION_FILE}: the aggregation function of {function!r}"
        shape: tuple[int, ...] = ()

        def talk(channel: FrameChannel) -> tuple[dict[str, Any], Arrays]:
            nonlocal shape
            channel.send(
                {
                    "op": "aggregate",
                    "function": function,
                    "tensor_name": context.tensor_name,
                    "round": context.round_number,
                    "tags": list(context.tags),
                }
            )
            for number, tensor in enumerate(tensors):
                shape = tensor.shape if number == 0 else shape
                check_weight(tensor, context)
                check_shape(tensor, shape, context)
                head = {"collaborator": tensor.collaborator, "weight": tensor.weight}
                channel.send(head, {"values": tensor.array()})
            channel.send({})
            # twice: a function may compute in double precision
            return _answering(channel, history, most=max(LEAST_ANSWER_BYTES, 2 * 4 * math.prod(shape)))

        reply, arrays = self._exchange(talk, what=what)
        self._checked(reply, what=what)
        values = arrays.get("values")
        if values is None or values.shape != shape:
            got = "nothing" if values is None else f"shape {values.shape}"
            raise TensorError(f"{what} gave {got} for tensor {context.tensor_name!r}; expected shape {shape}")
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(values, np.float32).reshape(shape)
        if not np.isfinite(values).all():
            raise TensorError(f"{what} gave values that are not finite for tensor {context.tensor_name!r}")
        return read_only(values)

    def kill(self) -> None:
        """End the child and what it started, at once; a call that waits for it in another thread fails."""
        self._process.kill()
        self._channel.interrupt()

    async def end(self) -> None:
        """End the child and wait until it is gone."""
        self.kill()
        await self._process.end()
        self._channel.close()

    def _exchange(self, talk: Callable[[FrameChannel], T], *, what: str) -> T:
        timer = None
        if self._limits.task_seconds is not None:
            timer = threading.Timer(self._limits.task_seconds, self._expire)
            timer.daemon = True
            timer.start()
        try:
            return talk(self._channel)
        except ChannelClosed:
            raise ArchiveError(f"{what} {anyio.from_thread.run(self._death)}") from None
        except ProtocolError as exc:
            self.kill()
            raise ArchiveError(f"{what} gave an answer that cannot be used: {exc}") from None
        except BaseException:
            self.kill()  # half of a request may be sent
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _expire(self) -> None:
        self._late = True
        self.kill()

    async def _death(self) -> str:
        """Say how the child ended, with the last lines that it printed."""
        if self._late:
            return f"took longer than {self._limits.task_seconds:g} s"
        with anyio.move_on_after(DEATH_SECONDS):
            await self._process.wait()  # by itself, so that it tells why
        ending = await self._process.end()
        said = await anyio.to_thread.run_sync(_last_lines, self._log)
        return f"{ending}" + (f"; it printed last: {said}" if said else "")

    def _checked(self, reply: dict[str, Any] | tuple[Any, ...], *, what: str) -> dict[str, Any]:
        assert isinstance(reply, dict)
        if reply.get("ok") is not True:
            raise ArchiveError(f"{what} failed: {reply.get('message', 'no reason given')!s:.1000}")
        return reply


def _last_lines(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - COMPLAINT_BYTES))
        return "\n".join(file.read().decode(errors="replace").strip().splitlines()[-COMPLAINT_LINES:])


def _answering(channel: FrameChannel, history: History, *, most: int) -> tuple[dict[str, Any], Arrays]:
    """Answer what the child asks of ``history`` until it has its result, and return that."""
    while True:
        reply, arrays = channel.receive(max_array_bytes=most)
        if reply.get("want") == "rows":
            keys = [row.key for row in history]
            channel.send(
                {"rows": [[key.tensor_name, key.origin, key.round_number, key.report, key.tags] for key in keys]}
            )
        elif reply.get("want") == "values":
            index = reply.get("row")
            if not isinstance(index, int) or not 0 <= index < len(history):
                raise ArchiveError(f"{AGGREGATION_FILE}: asks for row {index!r:.60} of {len(history)}")
            channel.send({}, {"values": np.asarray(history[index].read())})
        else:
            return reply, arrays


class PickledFunction(PrivilegedFunction):
    """The aggregation function of a user's own for one task. It may remember what it likes between the rounds."""

    name = "pickled"
    holds_all = False  # each tensor is handed over before the next one is taken

    def __init__(self, code: PickledCode, task: Task) -> None:
        self._code = code
        self._function = task.function_name

    def aggregate_with(
        self, tensors: Iterable[LocalTensor], context: AggregationContext, history: History
    ) -> NDArray[np.float32]:
        """Return what the child makes of ``tensors``. Raises `ArchiveError`, `TensorError`."""
        return self._code.aggregate(self._function, tensors, context, history)


class PickledFunctions:
    """The aggregation functions of users' own in the zip file ``archive``, in a child process as long as the context is open.

    ``serializer`` is the class path of what reads their file, pickle if None. Entering raises `ArchiveError` if they cannot
    be loaded. They go on from round to round as OpenFL's do, in the child's
    memory: who starts the child anew starts them anew.
    """

    def __init__(
        self,
        archive: Path,
        tasks: Sequence[Task],
        *,
        limits: Limits,
        process_limits: ProcessLimits,
        serializer: str | None = None,
    ) -> None:
        self._archive = archive
        self._tasks = tuple(tasks)
        self._limits = limits
        self._process_limits = process_limits
        self._serializer = serializer
        self._code: PickledCode | None = None

    @property
    def functions(self) -> dict[str, PickledFunction]:
        """The functions by the names of their tasks, for an `Aggregator`."""
        assert self._code is not None, "entered before"
        return {task.name: PickledFunction(self._code, task) for task in self._tasks}

    async def __aenter__(self) -> Self:
        self._folder = await anyio.to_thread.run_sync(_temporary_folder)
        try:
            self._code = await PickledCode.start(
                self._archive, Path(self._folder.name), limits=self._limits, process_limits=self._process_limits
            )
            request = {
                "op": "load",
                "file": AGGREGATION_FILE,
                "serializer": self._serializer,
                "functions": [task.function_name for task in self._tasks],
            }
            await _in_thread(self._code, lambda code: code.ask(request, what=AGGREGATION_FILE))
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            if self._code is not None:
                await self._code.end()
            await anyio.to_thread.run_sync(self._folder.cleanup)

    def kill(self) -> None:
        """End the child now; what waits for it in a thread fails."""
        if self._code is not None:
            self._code.kill()


async def run_assigner(
    archive: Path,
    collaborators: Sequence[str],
    rounds: int,
    *,
    limits: Limits,
    process_limits: ProcessLimits,
    serializer: str | None = None,
) -> tuple[tuple[Task, ...], Table]:
    """Run the assigner in the zip file ``archive`` for every round; return the tasks and who does which of them when.

    ``serializer`` is the class path of what reads the file, pickle if None. Raises `ArchiveError`, with the last lines of
    what the child said, for one that fails, passes one of ``process_limits`` or answers what no assigner can.
    """
    request = {
        "op": "assign",
        "file": ASSIGNER_FILE,
        "serializer": serializer,
        "collaborators": list(collaborators),
        "rounds": rounds,
    }
    what = f"{ASSIGNER_FILE}: its assigner"
    async with anyio.TemporaryDirectory(prefix="openfl-aio-assigner-") as folder:
        code = await PickledCode.start(archive, Path(folder), limits=limits, process_limits=process_limits)
        try:
            answer = await _in_thread(code, lambda code: code.ask(request, what=what))
        finally:
            await code.end()
    try:
        return _checked(answer)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigurationError) as exc:
        raise ArchiveError(f"{what} gave what is no assignment ({exc!s:.200})") from None


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="openfl-aio-functions-", ignore_cleanup_errors=True)


async def _in_thread(code: PickledCode, call: Callable[[PickledCode], T]) -> T:
    """Run ``call`` in a thread that no other experiment waits for; when cancelled, kill the child so that it ends."""
    try:
        return await anyio.to_thread.run_sync(call, code, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1))
    except anyio.get_cancelled_exc_class():
        code.kill()
        raise


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
