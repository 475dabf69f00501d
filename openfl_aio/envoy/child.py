"""The child process of an envoy: loads the shard and the task runner, then runs one task after another.

Started as ``python -m openfl_aio.envoy.child FD`` with one end of a socket pair as file descriptor FD, under a guardian
that ends it with the envoy. What foreign code prints goes to standard error.
Names of OpenFL 1.6 that foreign code imports are ours here, unless ``--real-openfl`` is given.
"""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np

from openfl_aio.collaborator.task_runner import TaskContext, TaskOutput, TaskRunner, load_runner
from openfl_aio.domain import Task, TaskKind
from openfl_aio.envoy.shard import ShardDescriptor, describe_shard, load_shard
from openfl_aio.errors import OpenFLAioError, TaskError
from openfl_aio.transport.child_channel import ChannelClosed, FrameChannel

__all__ = ["Service", "main"]

TRACEBACK_LINES: Final = 40
_NO_LIMIT: Final = 1 << 62  # the parent is trusted

Reply = tuple[dict[str, Any], dict[str, np.ndarray]]


class Service:
    """Answers the parent's requests, one at a time."""

    def __init__(self, channel: FrameChannel) -> None:
        self._channel = channel
        self._shard: ShardDescriptor | None = None
        self._runner: TaskRunner | None = None
        self._operations: dict[str, Callable[[dict[str, Any], dict[str, np.ndarray]], Reply]] = {
            "load": self._load,
            "describe": self._describe,
            "tensor_names": self._tensor_names,
            "run": self._run,
        }

    def serve(self) -> None:
        """Answer until the parent closes the channel."""
        while True:
            try:
                header, arrays = self._channel.receive(max_array_bytes=_NO_LIMIT)
            except ChannelClosed:
                return
            try:
                reply, made = self._operations[header["op"]](header, arrays)
                self._channel.send({"ok": True, **reply}, made)
            except ChannelClosed:
                return
            except BaseException as exc:  # foreign code may raise SystemExit, and that is a failed task too
                self._channel.send(_failure(exc))

    def _load(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        if header["shard_template"] is not None:
            # loaded in the envoy's own folder: the operator's params may hold relative paths
            shard_path = header["shard_path"]
            self._shard = load_shard(
                header["shard_template"],
                path=None if shard_path is None else Path(shard_path),
                params=header["shard_params"],
            )
        if header["template"] is not None:
            os.chdir(header["path"])
            self._runner = load_runner(
                header["template"],
                path=Path(header["path"]),
                shard=self._shard,
                settings=header["settings"],
                opt_treatment=header["opt_treatment"],
            )
        return {}, {}

    def _describe(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        if self._shard is None:
            raise TaskError("no shard descriptor is loaded yet")
        info = describe_shard(self._shard, name=header["name"])
        described = {
            "description": info.description,
            "n_samples": info.n_samples,
            "sample_shape": info.sample_shape,
            "target_shape": info.target_shape,
        }
        return described, {}

    def _loaded(self) -> TaskRunner:
        if self._runner is None:
            raise TaskError("no task runner is loaded yet")
        return self._runner

    def _tensor_names(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        return {"names": [str(name) for name in self._loaded().tensor_names()]}, {}

    def _run(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        task = Task(header["task"], header["function_name"], TaskKind(header["kind"]), header["apply_local"])
        for array in arrays.values():
            array.flags.writeable = False
        output: object = self._loaded().run(TaskContext(task, header["round"], header["collaborator"]), arrays)
        if not isinstance(output, TaskOutput):
            raise TaskError(f"task {task.name!r} must return a TaskOutput, got {type(output).__name__}")
        tensors = {str(name): np.asarray(values) for name, values in output.tensors.items()}
        state = {str(name): np.asarray(values) for name, values in output.state.items()}
        reply = {
            "samples": _plain(output.samples),
            "metrics": {str(name): _plain(value) for name, value in output.metrics.items()},
            "state": sorted(state),
            "state_is_shared": bool(output.state_is_shared),
        }
        return reply, {**tensors, **state}


def _plain(value: object) -> object:
    """Turn NumPy's numbers into Python's; what is no number stays, for the parent's check to name."""
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, int | float | None) else repr(value)


def _failure(exc: BaseException) -> dict[str, Any]:
    lines = "".join(traceback.format_exception(exc)).splitlines()[-TRACEBACK_LINES:]
    known = isinstance(exc, OpenFLAioError)
    return {
        "ok": False,
        "type": type(exc).__name__,
        "message": str(exc) if known else f"{type(exc).__name__}: {exc}",
        "traceback": lines,
    }


def main() -> None:
    """Serve the parent on the descriptor named on the command line."""
    channel = FrameChannel(socket.socket(fileno=int(sys.argv[1])))
    os.dup2(2, 1)
    if "--real-openfl" not in sys.argv:
        # by its name: the facade is a floor above the roles
        import_module("openfl_aio.compat.imports").install()
    Service(channel).serve()


if __name__ == "__main__":
    main()
