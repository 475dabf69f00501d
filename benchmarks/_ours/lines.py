"""Answer JSON lines with coroutines: one operation after another, until standard input ends."""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

__all__ = ["Operations", "answer", "prepare"]

Operations = Mapping[str, Callable[..., Awaitable[dict[str, Any] | None]]]


def prepare() -> dict[str, Any]:
    """Return the settings, with room for many connections and only errors logged."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    logging.getLogger("openfl_aio").setLevel(logging.ERROR)  # that plaintext is not secure is known here
    settings: dict[str, Any] = json.loads(sys.stdin.readline())
    return settings


async def answer(ready: dict[str, Any], operations: Operations) -> None:
    """Say ``ready``, then answer."""
    print(json.dumps(ready), flush=True)
    reader = asyncio.StreamReader(limit=2**26)  # names of thousands of envoys are one line
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        request = json.loads(line)
        try:
            reply = await operations[request.pop("op")](**request)
        except Exception:
            reply = {"error": traceback.format_exc()}
        print(json.dumps(reply or {}), flush=True)
