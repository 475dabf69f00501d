"""Assigners and aggregation functions of users' own, run in a child process if the operator allowed it.

The child has its own process group, a limit of time, no key and nothing of the director's environment, and it ends with
the director. It is no sandbox: it may do what the director's user may do. What comes back is JSON and raw arrays.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import anyio
import anyio.to_thread
import numpy as np
from numpy.typing import NDArray

import openfl_aio
from openfl_aio.config import Limits, Timeouts
from openfl_aio.domain import Task, TaskKind, check_name
from openfl_aio.errors import ArchiveError, ConfigurationError, ProtocolError, TensorError
from openfl_aio.plan.assigned import AGGREGATION_FILE, ASSIGNER_FILE
from openfl_aio.storage.unpack import unpack
from openfl_aio.tensors.aggregation import AggregationContext, History, LocalTensor, PrivilegedFunction
from openfl_aio.tensors.aggregation.base import check_shape, check_weight, read_only
from openfl_aio.transport.child_channel import ChannelClosed, FrameChannel

__all__ = ["PickledFunctions", "Table", "run_assigner"]

COMPLAINT_LINES: Final = 5
LEAST_ANSWER_BYTES: Final = 1 << 20  # so that a small array of a wrong shape is told by its shape

Table = tuple[dict[str, tuple[str, ...]], ...]
Arrays = dict[str, NDArray[Any]]
T = TypeVar("T")


class PickledCode:
    """The pickles of one archive, in a child process that works in ``workspace``, the unpacked archive.

    Methods block, and one thread at a time may call them; `kill` may be called by any. A call that takes longer than
    ``seconds`` kills the child.
    """

    def __init__(self, workspace: Path, *, seconds: float) -> None:
        self._workspace = workspace
        self._seconds = seconds
        self._late = False
        self._said: deque[str] = deque(maxlen=COMPLAINT_LINES)

    def start(self) -> None:
        """Start the child."""
        ours, theirs = socket.socketpair()
        environment = {
            "PATH": os.defpath,
            "HOME": str(self._workspace),
            "PYTHONPATH": str(Path(openfl_aio.__file__).parent.parent),
            "PYTHONUNBUFFERED": "1",
        }
        with theirs, ExitStack() as stack:
            stack.callback(ours.close)
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "openfl_aio.director.pickled_child", str(theirs.fileno())],
                stdin=subprocess.PIPE,  # held open as long as we live
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                cwd=self._workspace,
                env=environment,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
            stack.pop_all()
        self._channel = FrameChannel(ours)
        self._listener = threading.Thread(target=self._listen, daemon=True, name="pickled code says")
        self._listener.start()

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
        try:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # it ended meanwhile
        self._channel.interrupt()

    def close(self) -> None:
        """End the child and wait until it is gone."""
        self.kill()
        self._process.wait()
        self._listener.join()
        self._channel.close()
        for stream in (self._process.stdin, self._process.stderr):
            assert stream is not None
            stream.close()

    def _exchange(self, talk: Callable[[FrameChannel], T], *, what: str) -> T:
        timer = threading.Timer(self._seconds, self._expire)
        timer.daemon = True
        timer.start()
        try:
            return talk(self._channel)
        except ChannelClosed:
            raise ArchiveError(self._death(what)) from None
        except ProtocolError as exc:
            self.kill()
            raise ArchiveError(f"{what} gave an answer that cannot be used: {exc}") from None
        except BaseException:
            self.kill()  # half of a request may be sent
            raise
        finally:
            timer.cancel()

    def _expire(self) -> None:
        self._late = True
        self.kill()

    def _death(self, what: str) -> str:
        if self._late:
            return f"{what} took longer than {self._seconds:g} s"
        self.kill()
        code = self._process.wait()
        self._listener.join()
        return f"{what} ended its process with code {code}: " + "\n".join(self._said)[-1000:]

    def _checked(self, reply: dict[str, Any] | tuple[Any, ...], *, what: str) -> dict[str, Any]:
        assert isinstance(reply, dict)
        if reply.get("ok") is not True:
            raise ArchiveError(f"{what} failed: {reply.get('message', 'no reason given')!s:.1000}")
        return reply

    def _listen(self) -> None:
        """Keep the last lines that the child says, so that it never waits for somebody to read them."""
        assert self._process.stderr is not None
        while line := self._process.stderr.readline(4096):
            self._said.append(line.decode(errors="replace").rstrip("\n"))


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

    Entering raises `ArchiveError` if they cannot be loaded. They go on from round to round as OpenFL's do, in the child's
    memory: who starts the child anew starts them anew.
    """

    def __init__(self, archive: Path, tasks: Sequence[Task], *, limits: Limits, timeouts: Timeouts) -> None:
        self._archive = archive
        self._tasks = tuple(tasks)
        self._limits = limits
        self._seconds = timeouts.pickled_code
        self._code: PickledCode | None = None

    @property
    def functions(self) -> dict[str, PickledFunction]:
        """The functions by the names of their tasks, for an `Aggregator`."""
        assert self._code is not None, "entered before"
        return {task.name: PickledFunction(self._code, task) for task in self._tasks}

    async def __aenter__(self) -> Self:
        self._folder = await anyio.to_thread.run_sync(_temporary_folder)
        try:
            self._code = await _started(self._archive, Path(self._folder.name), self._limits, self._seconds)
            request = {
                "op": "load",
                "file": AGGREGATION_FILE,
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
                await anyio.to_thread.run_sync(self._code.close)
            await anyio.to_thread.run_sync(self._folder.cleanup)

    def kill(self) -> None:
        """End the child now; what waits for it in a thread fails."""
        if self._code is not None:
            self._code.kill()


async def run_assigner(
    archive: Path, collaborators: Sequence[str], rounds: int, *, limits: Limits, seconds: float
) -> tuple[tuple[Task, ...], Table]:
    """Run the assigner in the zip file ``archive`` for every round; return the tasks and who does which of them when.

    Raises `ArchiveError`, with the last lines of what the child said, for one that fails, takes longer than ``seconds`` or
    answers what no assigner can.
    """
    request = {"op": "assign", "file": ASSIGNER_FILE, "collaborators": list(collaborators), "rounds": rounds}
    what = f"{ASSIGNER_FILE}: its assigner"
    async with anyio.TemporaryDirectory(prefix="openfl-aio-assigner-") as folder:
        code = await _started(archive, Path(folder), limits, seconds)
        try:
            answer = await _in_thread(code, lambda code: code.ask(request, what=what))
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(code.close)
    try:
        return _checked(answer)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigurationError) as exc:
        raise ArchiveError(f"{what} gave what is no assignment ({exc!s:.200})") from None


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="openfl-aio-functions-", ignore_cleanup_errors=True)


async def _started(archive: Path, folder: Path, limits: Limits, seconds: float) -> PickledCode:
    workspace = folder / "workspace"
    await unpack(archive, workspace, limits=limits)
    code = PickledCode(workspace, seconds=seconds)
    await anyio.to_thread.run_sync(code.start)
    return code


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
