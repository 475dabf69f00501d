"""A task runner in a child process, which has limits and can be killed: foreign code never runs in the envoy's own."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import anyio
import anyio.to_thread
import numpy as np

from openfl_aio.collaborator.task_runner import TaskContext, TaskOutput
from openfl_aio.config import ProcessLimits
from openfl_aio.confinement.process import ConfinedProcess, environment
from openfl_aio.domain import ShardInfo
from openfl_aio.errors import ConfigurationError, ProtocolError, TaskError
from openfl_aio.transport.child_channel import ChannelClosed, FrameChannel

__all__ = ["ProcessTaskRunner", "RunnerSpec"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_REPLY_FLOOR: Final = 64 * 1024 * 1024
_REPLY_FACTOR: Final = 4  # float64 where float32 went in, and as much again
_LOG_TAIL_BYTES: Final = 4096
_LOG_TAIL_LINES: Final = 10
_DEATH_SECONDS: Final = 5.0  # between the end of the channel and that of a child that died


@dataclass(frozen=True, slots=True)
class RunnerSpec:
    """What the child loads: a task runner from the folder ``path`` (None: no runner), on a shard (None: no shard)."""

    template: str | None
    path: Path | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    shard_template: str | None = None
    shard_path: Path | None = None
    shard_params: Mapping[str, Any] = field(default_factory=dict)
    cuda_devices: tuple[int, ...] = ()
    real_openfl: bool = False  # OpenFL's names are OpenFL itself, installed in this environment
    opt_treatment: str | None = None  # what the plan says of the optimizer, for runners that take it


class ProcessTaskRunner:
    """An `AsyncTaskRunner` whose code runs in a confined process, for as long as the context is open.

    Cancelling a task ends the process with all that it started, and so does passing one of ``limits``: the runner cannot
    be used afterwards. What the code prints goes to ``log``.
    """

    def __init__(self, spec: RunnerSpec, *, log: Path, limits: ProcessLimits | None = None) -> None:
        self._spec = spec
        self._log = log
        self._limits = limits or ProcessLimits()
        self._process: ConfinedProcess | None = None
        self._channel: FrameChannel | None = None

    def __repr__(self) -> str:
        pid = None if self._process is None else self.pid
        return f"ProcessTaskRunner({self._spec.template!r}, pid={pid})"

    @property
    def pid(self) -> int:
        """The process id of the child's guardian, whose end is that of everything."""
        if self._process is None:
            raise TaskError("the task runner's process is not running")
        return self._process.process.pid

    async def __aenter__(self) -> Self:
        """Start the child and load the code there. Raises `ConfigurationError` if it cannot be loaded."""
        ours, theirs = socket.socketpair()
        try:
            log = await anyio.to_thread.run_sync(lambda: self._log.open("ab"))
            try:
                self._process = await ConfinedProcess.start(
                    [sys.executable, "-P", "-m", "openfl_aio.envoy.child", str(theirs.fileno()), *self._options()],
                    limits=self._limits,
                    variables=self._environment(),
                    cwd=self._spec.shard_path,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(theirs.fileno(),),
                    folders=() if self._spec.path is None else (self._spec.path,),
                    files=(self._log,),
                )
            finally:
                log.close()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._channel = FrameChannel(ours)
        try:
            await self._load()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._end()

    async def tensor_names(self) -> Sequence[str]:
        """Return the names of the model's tensors. Raises `TaskError`."""
        reply, _ = await self._call({"op": "tensor_names"}, {}, what="asking for the tensor names")
        return tuple(reply["names"])

    async def describe_shard(self, name: str) -> ShardInfo:
        """Return what is told of the shard to a director. Raises `ConfigurationError` if it cannot be described."""
        try:
            reply, _ = await self._call(
                {"op": "describe", "name": name}, {}, what="describing the shard", with_traceback=False
            )
        except TaskError as exc:
            raise ConfigurationError(str(exc)) from None
        return ShardInfo(
            name=name,
            description=reply["description"],
            n_samples=reply["n_samples"],
            sample_shape=tuple(reply["sample_shape"]),
            target_shape=tuple(reply["target_shape"]),
        )

    async def run(self, context: TaskContext, tensors: Mapping[str, np.ndarray]) -> TaskOutput:
        """Run the task in the child. Raises `TaskError`, with the traceback's last lines, if it fails or the child dies."""
        task = context.task
        request = {
            "op": "run",
            "task": task.name,
            "function_name": task.function_name,
            "kind": task.kind.value,
            "apply_local": task.apply_local,
            "round": context.round_number,
            "collaborator": context.collaborator,
        }
        reply, made = await self._call(request, tensors, what=f"task {task.name!r}")
        state = {name: made.pop(name) for name in reply["state"]}
        return TaskOutput(
            samples=reply["samples"],
            tensors=made,
            metrics=reply["metrics"],
            state=state,
            state_is_shared=reply["state_is_shared"],
        )

    async def _load(self) -> None:
        spec = self._spec
        request = {
            "op": "load",
            "template": spec.template,
            "path": None if spec.path is None else str(spec.path),
            "settings": dict(spec.settings),
            "opt_treatment": spec.opt_treatment,
            "shard_template": spec.shard_template,
            "shard_path": None if spec.shard_path is None else str(spec.shard_path),
            "shard_params": dict(spec.shard_params),
        }
        try:
            # who submitted a task runner wants to see where it failed; the envoy's operator gets a sentence
            what = f"loading {spec.template or spec.shard_template!r}"
            await self._call(request, {}, what=what, with_traceback=spec.template is not None)
        except TaskError as exc:
            raise ConfigurationError(str(exc)) from None

    def _options(self) -> list[str]:
        return ["--real-openfl"] if self._spec.real_openfl else []

    def _environment(self) -> dict[str, str]:
        variables = environment(os.environ, self._limits)
        if self._spec.cuda_devices:
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, self._spec.cuda_devices))
        return variables

    async def _call(
        self,
        request: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray],
        *,
        what: str,
        with_traceback: bool = True,
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        channel = self._channel
        if channel is None:
            raise TaskError(f"{what}: the task runner's process is not running")
        limit = max(_REPLY_FLOOR, _REPLY_FACTOR * sum(array.nbytes for array in arrays.values()))

        def exchange() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
            channel.send(request, arrays)
            return channel.receive(max_array_bytes=limit)

        try:
            with anyio.move_on_after(self._limits.task_seconds) as scope:
                reply, made = await self._in_thread(exchange)
            if scope.cancelled_caught:
                raise TaskError(f"{what} took longer than {self._limits.task_seconds:g} s (task_seconds): it was ended")
        except ChannelClosed:
            raise TaskError(f"{what}: {await self._death()}") from None
        except ProtocolError as exc:
            await self._end()
            raise TaskError(f"{what}: the child's answer cannot be used: {exc}") from exc
        if not reply.get("ok"):
            raise TaskError(self._sentence(reply, what=what, with_traceback=with_traceback))
        return reply, made

    async def _in_thread(self, exchange: Callable[[], T]) -> T:
        """Run ``exchange`` in a thread; cancellation kills the child, so that the thread ends, and then goes on."""
        result: list[T] = []
        failure: list[Exception] = []
        done = anyio.Event()

        async def worker() -> None:
            with anyio.CancelScope(shield=True):
                try:
                    # a limiter of its own: children of several experiments must not wait for each other's tasks
                    result.append(await anyio.to_thread.run_sync(exchange, limiter=anyio.CapacityLimiter(1)))
                except Exception as exc:
                    failure.append(exc)
            done.set()

        async with anyio.create_task_group() as group:
            group.start_soon(worker)
            try:
                await done.wait()
            except anyio.get_cancelled_exc_class():
                self._kill()
                raise
        if failure:
            raise failure[0]
        return result[0]

    @staticmethod
    def _sentence(reply: Mapping[str, Any], *, what: str, with_traceback: bool) -> str:
        lines = [str(line) for line in reply.get("traceback", ())]
        message = str(reply.get("message", "failed"))
        if reply.get("type") not in ("ConfigurationError", "TaskError"):
            message = f"{what} raised {message}"
        if with_traceback:
            return "\n".join([message, *lines])
        logger.debug("%s failed:\n%s", what, "\n".join(lines))
        return " ".join(message.split())

    async def _death(self) -> str:
        """Say how the child ended, with the last lines that it printed."""
        process = self._process
        if process is None:
            return "the child process has ended"
        with anyio.move_on_after(_DEATH_SECONDS):
            await process.wait()  # by itself, so that it tells why
        ending = await process.end()
        tail = await anyio.to_thread.run_sync(_tail, self._log)
        return f"the child process {ending}" + (f"; it printed last:\n{tail}" if tail else "")

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
        if self._channel is not None:
            self._channel.interrupt()

    async def _end(self) -> None:
        with anyio.CancelScope(shield=True):
            self._kill()
            if self._process is not None:
                await self._process.end()
                self._process = None
            if self._channel is not None:
                self._channel.close()
                self._channel = None


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LOG_TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-_LOG_TAIL_LINES:])
