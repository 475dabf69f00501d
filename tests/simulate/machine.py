"""What the system gives to processes, in place: threads, time, chance, a database's thread, a child that runs tasks.

The code under test is real, down to the frames on its connections and the pages of its database. Only what would not be
the same each time is something else while `simulated` is entered.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import random
import secrets
import sqlite3
import tempfile
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Self, TypeAlias
from unittest.mock import patch

import aiosqlite.core
import anyio
import anyio.lowlevel
import anyio.to_thread
import numpy as np

import openfl_aio.director.service
import openfl_aio.envoy.envoy
import openfl_aio.storage.storage
import openfl_aio.transport.http2.connection
import openfl_aio.transport.server
from openfl_aio.collaborator.collaborator import Collaborator
from openfl_aio.envoy.child import Service, _failure
from openfl_aio.envoy.process_runner import ProcessTaskRunner
from openfl_aio.errors import TaskError
from openfl_aio.storage.workers import Workers
from openfl_aio.transport.watchdog import StallWatch
from tests.simulate.disk import Killed
from tests.simulate.network import SimulatedAcceptor, bind
from tests.simulate.process import Process, current

__all__ = ["simulated"]

MEMORY: Final = Path("/dev/shm")  # a disk that forgets nothing while we run, and takes no time
TASK_SECONDS: Final = 2.0  # that a task takes, at most


@contextmanager
def simulated(seed: int) -> Iterator[Path]:
    """Let the product run in a `SimulatedLoop`; gives a folder that is removed afterwards.

    Of the dead some files stay open, a few for each death.
    """
    chance = random.Random(f"machine {seed}")
    state = random.getstate()
    connections: list[aiosqlite.Connection] = []
    with (
        tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as folder,
        ExitStack() as stack,
    ):
        random.seed(f"everybody {seed}")
        for target, name, stand_in in (
            (anyio.to_thread, "run_sync", _in_place),
            (Workers, "start", lambda _: None),
            (StallWatch, "start", lambda _: None),
            (secrets, "token_hex", lambda nbytes=16: chance.randbytes(nbytes).hex()),
            (uuid, "uuid4", lambda: uuid.UUID(bytes=chance.randbytes(16))),
            (tempfile, "tempdir", folder),
            (openfl_aio.director.service, "time", SimpleNamespace(time=_wall_time)),
            (openfl_aio.transport.http2.connection, "time", SimpleNamespace(thread_time=lambda: 0.0)),
            (openfl_aio.transport.server, "Acceptor", SimulatedAcceptor),
            (openfl_aio.transport.server, "_bind", bind),
            (openfl_aio.storage.storage, "_take_folder", _take_folder(openfl_aio.storage.storage._take_folder)),
            (openfl_aio.envoy.envoy, "ProcessTaskRunner", _TaskRunner),
            (aiosqlite.core, "Thread", _NoThread),
            (aiosqlite.core, "SimpleQueue", _DatabaseQueue),
            (aiosqlite.core.Connection, "__init__", _remember(aiosqlite.core.Connection.__init__, connections)),
        ):
            stack.enter_context(patch.object(target, name, stand_in))
        for logger in map(logging.getLogger, ("asyncio", "sqlalchemy")):  # they tell what the dead leave undone
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL + 1)
        stack.enter_context(patch.dict(Collaborator.__init__.__kwdefaults__, offload=_in_place))
        try:
            yield Path(folder)
        finally:
            for connection in connections:
                connection._connection = None  # or it would complain that nobody closed it
            gc.collect()
            random.setstate(state)


def _wall_time() -> float:
    return 1.7e9 + anyio.current_time()


async def _in_place(function: Callable[..., Any], *args: Any, **_: Any) -> Any:
    """Stand in for `anyio.to_thread.run_sync`: after a while, on the loop, also if the caller does not wait for it."""
    process = current()
    await anyio.lowlevel.checkpoint()
    if process is None:
        return function(*args)
    job = _Job(process, partial(function, *args))
    with anyio.CancelScope(shield=True):
        return await job.future


class _Job:
    """Something that a thread does: begun after a step of its process, and known to be done after another."""

    def __init__(self, process: Process, function: Callable[[], Any]) -> None:
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._process = process
        self._function = function
        self._after(self._do)

    def _after(self, act: Callable[[], None]) -> None:
        try:
            asyncio.get_running_loop().call_later(self._process.step(), act)
        except Killed as exc:
            self._fail(exc)

    def _do(self) -> None:
        try:
            self._process.check()
            result = self._function()
        except BaseException as exc:
            self._fail(exc)
        else:
            self._after(partial(self._tell, result))

    def _tell(self, result: Any) -> None:
        if self._process.dead:
            self._fail(Killed())
        elif not self.future.done():
            self.future.set_result(result)

    def _fail(self, exc: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(exc)


def _take_folder(take: Callable[[Path], int]) -> Callable[[Path], int]:
    def taken(path: Path) -> int:
        descriptor = take(path)
        process = current()
        if process is not None:
            process.locks.append(descriptor)
        return descriptor

    return taken


def _remember(init: Callable[..., None], made: list[Any]) -> Callable[..., None]:
    def remembered(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        made.append(self)

    return remembered


class _NoThread:
    daemon = True

    def __init__(self, **_: Any) -> None:
        pass

    def start(self) -> None:
        pass


_Answer: TypeAlias = "asyncio.Future[Any] | None"
_Order: TypeAlias = tuple[Process | None, _Answer, Callable[[], Any]]


class _DatabaseQueue:
    """What aiosqlite hands to the thread of a connection, done one after the other on the loop."""

    def __init__(self) -> None:
        self._next = 0.0
        self._waiting: deque[_Order] = deque()

    def __class_getitem__(cls, _: object) -> type[Self]:
        return cls

    def put_nowait(self, item: tuple[_Answer, Callable[[], Any]]) -> None:
        future, function = item
        process = current()
        loop = asyncio.get_running_loop()
        try:
            self._next = max(self._next, loop.time() + (0.0 if process is None else process.step()))
        except Killed as exc:
            if future is not None:
                future.set_exception(exc)
            return
        self._waiting.append((process, future, function))  # timers of one moment have no order among them
        loop.call_at(self._next, self._run)

    def _run(self) -> None:
        process, future, function = self._waiting.popleft()
        try:
            if process is not None:
                process.check()
            result = function()
        except BaseException as exc:
            if future is not None and not future.done():
                future.set_exception(exc)
            return
        if process is not None and isinstance(result, sqlite3.Connection):
            process.databases.append(result)
        elif process is not None and isinstance(result, sqlite3.Cursor):
            process.cursors.add(result)
        if future is not None and not future.done():
            future.set_result(result)


class _Service(Service):
    """The child's side, in the parent: in no folder of its own, with modules that are there already."""

    def __init__(self) -> None:
        super().__init__(None)  # type: ignore[arg-type] # its messages do not pass through a socket

    def answer(self, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], Any]:
        request: dict[str, Any] = json.loads(json.dumps(header))
        if request["op"] == "load":
            request["path"] = os.getcwd()
        try:
            reply, made = self._operations[request["op"]](request, {name: a.copy() for name, a in arrays.items()})
        except Exception as exc:
            return _failure(exc), {}
        return {"ok": True, **json.loads(json.dumps(reply))}, {name: array.copy() for name, array in made.items()}


class _TaskRunner(ProcessTaskRunner):
    """Does in the envoy what its child would do."""

    _service: _Service | None = None

    async def __aenter__(self) -> Self:
        self._service = _Service()
        await self._load()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._service = None

    async def _call(
        self,
        request: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray],
        *,
        what: str,
        with_traceback: bool = True,
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        process = current()
        assert process is not None
        assert self._service is not None
        await anyio.sleep(process.random.uniform(0, TASK_SECONDS))
        process.check()
        reply, made = self._service.answer(request, arrays)
        if not reply["ok"]:
            raise TaskError(self._sentence(reply, what=what, with_traceback=with_traceback))
        return reply, made
