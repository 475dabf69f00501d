"""Answer JSON lines, one operation after another, until standard input ends. Standard library only."""

from __future__ import annotations

import json
import resource
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any


def prepare() -> dict[str, Any]:
    """Return the settings, with room for many connections, and with the generated stubs on the path."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    settings: dict[str, Any] = json.loads(sys.stdin.readline())
    sys.path.insert(0, settings["stubs"])
    return settings


def answer(ready: dict[str, Any], operations: Mapping[str, Callable[..., dict[str, Any] | None]]) -> None:
    """Say ``ready``, then answer."""
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = operations[request.pop("op")](**request)
        except Exception:
            reply = {"error": traceback.format_exc()}
        print(json.dumps(reply or {}), flush=True)
