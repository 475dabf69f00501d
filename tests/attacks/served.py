"""The process that is attacked: a real aggregator with tensors of 4 kB, 1 and 8 MiB and a real director, in one loop.

``python -m tests.attacks.served OPTIONS`` prints its ports, answers ``{"do": "begin"}`` and ``{"do": "tell"}`` with
how long the loop stood still in between, and ends at SIGTERM as the command line does.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import numpy as np

from openfl_aio.aggregator.service import Aggregator
from openfl_aio.config import AggregatorConfig, DirectorConfig, Endpoint, Limits, TLSConfig
from openfl_aio.director.service import Director
from openfl_aio.telemetry.logs import configure_logging
from openfl_aio.transport.signals import serve_until_signalled
from tests.attacks.payloads import SIZES

COLLABORATORS = ("one", "two", "three")
BEAT = 0.01
KEPT = 6_000  # beats: a minute's


class Pulse:
    """Measures for how long the event loop stood still, by a timer of its own.

    Only as much of a gap counts as the process itself was computing: on a busy machine the rest is its neighbours'.
    """

    def __init__(self) -> None:
        self.begin()
        self._loop = asyncio.get_running_loop()
        self._beat()

    def begin(self) -> None:
        self.longest = self.longest_by_clock = 0.0
        self._starved = array("d", bytes(8 * KEPT))  # of one size from the start: its memory is not the server's
        self._beats = 0

    @property
    def starved(self) -> float:
        """Return how long, but for one beat in a hundred, others had the processor when it was our turn."""
        waits = sorted(self._starved[: self._beats])
        return waits[int(0.99 * len(waits))] if waits else 0.0

    def _beat(self) -> None:
        self._due = self._loop.time() + BEAT
        self._busy = time.process_time()
        self._loop.call_at(self._due, self._check)

    def _check(self) -> None:
        late = self._loop.time() - self._due
        self.longest_by_clock = max(self.longest_by_clock, late)
        ours = min(late, time.process_time() - self._busy)
        self.longest = max(self.longest, ours)
        if self._beats < KEPT:
            self._starved[self._beats] = late - ours
            self._beats += 1
        self._beat()


def tls_of(options: dict[str, Any]) -> TLSConfig | None:
    """Return the server's TLS configuration, None for plaintext."""
    if options.get("tls") is None:
        return None
    return TLSConfig(**{name: Path(path) for name, path in options["tls"].items()})


@asynccontextmanager
async def both(options: dict[str, Any]) -> AsyncIterator[tuple[Aggregator, Director]]:
    """Give a serving aggregator and a serving director."""
    workspace, tls = Path(options["workspace"]), tls_of(options)
    limits = Limits(**options.get("limits", {}))
    model = {name: np.ones(size, np.float32) for name, size in SIZES.items()}
    aggregator = AggregatorConfig(
        collaborators=COLLABORATORS,
        rounds=10,
        listen=Endpoint(),
        tls=tls,
        limits=limits,
        workspace=workspace / "aggregator",
    )
    director = DirectorConfig(tls=tls, limits=limits, workspace=workspace / "director")
    async with Aggregator(aggregator, initial_model=model) as one, Director(director) as other:
        yield one, other


def answer(pulse: Pulse, question: dict[str, Any]) -> dict[str, Any]:
    if question["do"] == "begin":
        pulse.begin()
    return {
        "stall": pulse.longest,
        "stall_by_clock": pulse.longest_by_clock,
        "starved": pulse.starved,
        "tasks": len(asyncio.all_tasks()),
    }


def say(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def started(entered: tuple[Aggregator, Director]) -> None:
    pulse = Pulse()
    rest = bytearray()
    loop = asyncio.get_running_loop()

    def asked() -> None:
        try:
            data = os.read(0, 65_536)
        except BlockingIOError:
            return
        if not data:
            loop.remove_reader(0)
            return
        rest.extend(data)
        while b"\n" in rest:
            line, _, left = bytes(rest).partition(b"\n")
            rest[:] = left
            say(answer(pulse, json.loads(line)))

    os.set_blocking(0, False)
    loop.add_reader(0, asked)
    aggregator, director = entered
    say({"aggregator": aggregator.endpoint.port, "director": director.endpoint.port})


def main() -> None:
    options = json.loads(sys.argv[1])
    if options.get("files"):
        resource.setrlimit(resource.RLIMIT_NOFILE, (options["files"], options["files"]))
    configure_logging("INFO")
    anyio.run(lambda: serve_until_signalled(both(options), started=started))


if __name__ == "__main__":
    main()
