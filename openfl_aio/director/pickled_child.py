"""The child process that runs an assigner or aggregation functions of a user's own, if the operator allowed that.

Started as ``python -m openfl_aio.director.pickled_child FD`` in the unpacked archive; requests and answers are frames on
the socket with that number. Names of OpenFL that the archive imports are ours here.
"""

from __future__ import annotations

import os
import pickle
import socket
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from openfl_aio.transport.child_channel import ChannelClosed, FrameChannel

__all__ = ["assign", "main"]

_NO_LIMIT: Final = 1 << 62  # the parent is trusted
_PLACE_LINES: Final = 3
# what they write pickle reads, without cloudpickle if nothing in the file needs it
_PICKLES: Final = tuple(
    f"openfl.plugins.interface_serializer.{name}"
    for name in ("cloudpickle_serializer.CloudpickleSerializer", "keras_serializer.KerasSerializer")
)


def assign(function: Any, collaborators: list[str], rounds: int) -> dict[str, Any]:
    """Return the tasks, and who does which of them in each round, as plain values."""
    tasks: dict[str, dict[str, Any]] = {}
    table = []
    for number in range(rounds):
        # OpenFL spells it so
        given = function(list(collaborators), number, number_of_callaborators=len(collaborators))
        row = {}
        for name, chosen in given.items():
            row[str(name)] = [task.name for task in chosen]
            for task in chosen:
                tasks[task.name] = {
                    "name": task.name,
                    "function_name": task.function_name,
                    "task_type": task.task_type,
                    "apply_local": bool(task.apply_local),
                }
        table.append(row)
    return {"tasks": list(tasks.values()), "table": table}


def restored(file: str, serializer: str | None) -> Any:
    """Return the object in ``file``, read by the class that the path ``serializer`` names, or by pickle for None.

    Raises `ImportError` with a sentence if that class is not installed here, nor in the archive.
    """
    path = _PICKLES[0] if serializer is None else serializer.replace(":", ".")
    if path in _PICKLES:
        return pickle.loads(Path(file).read_bytes())
    module, _, name = path.rpartition(".")
    try:
        reader = getattr(import_module(module), name)
    except (ImportError, AttributeError) as exc:
        raise ImportError(
            f"{file} is to be read by the plan's serializer {path}, which cannot be imported here ({exc}); install it "
            "beside the director, put it into the workspace, or let the plan name OpenFL's CloudpickleSerializer"
        ) from None
    return reader().restore_object(file)


class Service:
    """Answers the parent's requests, one at a time."""

    def __init__(self, channel: FrameChannel) -> None:
        self._channel = channel
        self._functions: dict[str, Any] = {}
        database = import_module("openfl_aio.compat.imports.tensor_db")
        self._database = database.TensorDatabase(self._rows, self._values)

    def serve(self) -> None:
        """Answer until the parent closes the channel."""
        operations = {"assign": self._assign, "load": self._load, "aggregate": self._aggregate}
        while True:
            try:
                request, _ = self._channel.receive(max_array_bytes=_NO_LIMIT)
                try:
                    reply, arrays = operations[request["op"]](request)
                    self._channel.send({"ok": True, **reply}, arrays)
                except ChannelClosed:
                    raise
                except BaseException as exc:  # foreign code may raise SystemExit too
                    self._channel.send({"ok": False, "message": _message(exc)})
            except ChannelClosed:
                return

    def _assign(self, request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        function = restored(request["file"], request["serializer"])
        return assign(function, request["collaborators"], request["rounds"]), {}

    def _load(self, request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        functions = restored(request["file"], request["serializer"])
        average = import_module("openfl_aio.compat.imports.functions").WeightedAverage()
        for name in request["functions"]:
            function = self._functions[name] = functions.get(name, average)
            if not callable(function):
                raise TypeError(f"the aggregation function of {name!r} is a {type(function).__name__}, not callable")
        return {}, {}

    def _aggregate(self, request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        received = []
        while True:
            head, arrays = self._channel.receive(max_array_bytes=_NO_LIMIT)
            if not arrays:
                break
            received.append((head["collaborator"], arrays["values"], head["weight"]))
        total = sum(weight for _, _, weight in received) or 1.0  # OpenFL's weights add up to 1
        make = import_module("openfl_aio.compat.imports.utilities").LocalTensor
        tensors = [make(name, values, weight / total) for name, values, weight in received]
        function, number = self._functions[request["function"]], request["round"]
        self._database.begin(number)
        seen = self._database.table() if getattr(function, "_privileged", False) else iter(self._database)
        values = function(tensors, seen, request["tensor_name"], number, tuple(request["tags"]))
        values = np.asarray(values)
        if values.dtype.kind not in "fiub" or values.dtype.itemsize > 8:
            raise TypeError(f"expected an array of numbers for {request['tensor_name']!r}, got dtype {values.dtype}")
        return {}, {"values": values}

    def _rows(self) -> list[list[Any]]:
        self._channel.send({"want": "rows"})
        rows: list[list[Any]] = self._channel.receive(max_array_bytes=0)[0]["rows"]
        return rows

    def _values(self, row: int) -> NDArray[Any]:
        self._channel.send({"want": "values", "row": row})
        return self._channel.receive(max_array_bytes=_NO_LIMIT)[1]["values"]


def _message(exc: BaseException) -> str:
    frames = traceback.extract_tb(exc.__traceback__)[-_PLACE_LINES:]
    place = " < ".join(f"{frame.name}, line {frame.lineno}" for frame in reversed(frames))
    return f"{type(exc).__name__}: {exc} ({place})"


def main() -> None:
    """Serve the parent on the descriptor named on the command line."""
    channel = FrameChannel(socket.socket(fileno=int(sys.argv[1])))
    sys.path.insert(0, os.getcwd())
    import_module("openfl_aio.compat.imports").install()
    Service(channel).serve()


if __name__ == "__main__":
    main()
