"""Processes that end with their owner: whatever happens inside the block, nothing it started is left."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio.abc import ByteReceiveStream, Process
from anyio.streams.buffered import BufferedByteReceiveStream

from openfl_aio.errors import ExperimentFailedError

__all__ = ["Child", "running"]

GRACE = 10.0  # seconds between SIGTERM and SIGKILL
LONGEST_LINE = 4096
TAIL_BYTES = 2000


@dataclass(slots=True)
class Child:
    """A Python module running as a process of its own, in a process group of its own."""

    name: str
    process: Process
    log: Path

    async def first_line(self) -> str:
        """Return the first line the process prints. Raises `ExperimentFailedError` if it ends before."""
        assert self.process.stdout is not None, "started with a pipe"
        try:
            line = await BufferedByteReceiveStream(self.process.stdout).receive_until(b"\n", LONGEST_LINE)
        except (anyio.IncompleteRead, anyio.EndOfStream):
            raise await self.death() from None
        return line.decode(errors="replace")

    async def watch(self) -> None:
        """Wait for an end that nobody asked for, and raise `ExperimentFailedError` with the log's last lines."""
        await self.process.wait()
        raise await self.death()

    async def death(self) -> ExperimentFailedError:
        """Return the error that says how the process ended."""
        code = await self.process.wait()
        text = (await anyio.Path(self.log).read_bytes())[-TAIL_BYTES:].decode(errors="replace").strip()
        return ExperimentFailedError(f"{self.name} ended with exit code {code}:\n{text}")


@asynccontextmanager
async def running(name: str, module: str, arguments: Sequence[str], *, log: Path, cwd: Path) -> AsyncIterator[Child]:
    """Run ``python -m module``, standard error to the file ``log``; end its whole process group on leaving."""
    descriptor = await anyio.to_thread.run_sync(os.open, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        process = await anyio.open_process(
            [sys.executable, "-m", module, *arguments],
            stdin=None,
            stderr=descriptor,
            cwd=cwd,
            start_new_session=True,
            # one thread each: the sites share this machine
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        )
    finally:
        os.close(descriptor)
    try:
        yield Child(name, process, log)
    finally:
        with anyio.CancelScope(shield=True):
            await _end(process)


async def _end(process: Process) -> None:
    _signal(process, signal.SIGTERM)
    with anyio.move_on_after(GRACE):
        await _drain(process.stdout)
        await process.wait()
    _signal(process, signal.SIGKILL)  # the group may outlive its leader
    await process.wait()
    await process.aclose()


async def _drain(stream: ByteReceiveStream | None) -> None:
    # a child that prints into a full pipe would never end
    if stream is not None:
        async for _ in stream:
            pass


def _signal(process: Process, number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass
