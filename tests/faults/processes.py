"""Processes of this package that answer questions: a line of JSON in, a line of JSON out."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from openfl_aio.config import TLSConfig

__all__ = ["ROOT", "Process", "questions", "say", "started", "tls_of", "tls_to"]

ROOT = Path(__file__).parents[2]
MOST_LOG = 4 * 1024 * 1024


class Process:
    """A module of this package in a process of its own. What it logs is kept in memory: its disk may be full."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.log = bytearray()
        self._logging = asyncio.get_running_loop().create_task(self._drain())

    @property
    def pid(self) -> int:
        """Its id."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit code, None while it runs."""
        return self._process.returncode

    async def _drain(self) -> None:
        assert self._process.stderr is not None
        while data := await self._process.stderr.read(65_536):
            self.log += data[: MOST_LOG - len(self.log)]

    async def hear(self, seconds: float = 60.0) -> dict[str, Any]:
        """Return the next line that it prints. Raises `RuntimeError` if none comes."""
        assert self._process.stdout is not None
        line = b""
        with anyio.move_on_after(seconds):
            line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"process {self.pid} said nothing; it logged {self.log[-2000:].decode()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def ask(self, **question: Any) -> dict[str, Any]:
        """Send a question and return the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        await self._process.stdin.drain()
        return await self.hear()

    async def end(self) -> None:
        """Kill it, if it has not ended by itself."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._logging


@asynccontextmanager
async def started(
    module: str, options: Mapping[str, Any], *, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Process]:
    """Give a process that runs ``tests.faults.<module>`` with ``options``; it ends with the context."""
    process = Process(
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            f"tests.faults.{module}",
            json.dumps(options),
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=MOST_LOG,
        )
    )
    try:
        yield process
    finally:
        with anyio.CancelScope(shield=True):
            await process.end()


async def questions() -> AsyncIterator[dict[str, Any]]:
    """Yield what is asked on standard input (in the process)."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield json.loads(line)


def say(what: Mapping[str, Any]) -> None:
    """Answer (in the process)."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def tls_to(config: TLSConfig | None) -> dict[str, str] | None:
    """Return certificate paths as JSON has them."""
    if config is None:
        return None
    return {"ca": str(config.ca), "certificate": str(config.certificate), "private_key": str(config.private_key)}


def tls_of(paths: Mapping[str, str] | None) -> TLSConfig | None:
    """Return the configuration that `tls_to` wrote."""
    return None if paths is None else TLSConfig(**{name: Path(path) for name, path in paths.items()})
