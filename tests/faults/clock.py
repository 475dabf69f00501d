"""A job, and envoys that wait, in a process whose wall clock jumps by two days: ``python -m tests.faults.clock OPTIONS``.

The clock that jumps is the one that the system's library tells, so that OpenSSL sees it too. No other process does.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
import struct
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from openfl_aio.aggregator.client import AggregatorClient
from openfl_aio.aggregator.service import Aggregator
from openfl_aio.config import DirectorConfig, Endpoint, RetryPolicy, StragglerConfig, Timeouts
from openfl_aio.director.client import DirectorClient
from openfl_aio.director.service import Director
from openfl_aio.domain import ModelKind, ShardInfo
from openfl_aio.errors import ConnectError, OpenFLAioError
from openfl_aio.testing.ca import ThrowawayCA
from openfl_aio.transport.channel import Retries
from tests.faults.job import NAMES, Job, counted_once, digest, take_part
from tests.faults.processes import say

__all__ = ["build", "main"]

DAYS = 2 * 24 * 3600
JUMPS = (DAYS, -DAYS, DAYS, -2 * DAYS)  # to a clock that is two days late in the end
TASK_SECONDS = 0.05
HEALTH_SECONDS = 1  # the director counts on a sign of life within twice that


def build(folder: Path) -> dict[str, str] | None:
    """Return the environment in which the wall clock is moved by a file, None without a C compiler. Blocks."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or sys.platform != "linux":
        return None
    library, shift = folder / "clock.so", folder / "shift"
    source = Path(__file__).with_name("clock.c")
    done = subprocess.run(
        [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(source)], capture_output=True, check=False
    )
    if done.returncode != 0:
        return None
    shift.write_bytes(bytes(8))
    return {"LD_PRELOAD": str(library), "FAULTS_CLOCK": str(shift)}


class Clock:
    """The wall clock of this process."""

    def __init__(self) -> None:
        with open(os.environ["FAULTS_CLOCK"], "r+b") as file:
            self._shift = mmap.mmap(file.fileno(), 8)
        self._seconds = 0

    def jump(self, seconds: int) -> None:
        """Let it jump, from now on."""
        self._seconds += seconds
        self._shift[:] = struct.pack("q", self._seconds)


class Play:
    """What happens in the process, and what was seen."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.ca = ThrowawayCA(Path(options["certificates"]))
        for name in (*NAMES, "site"):
            self.ca.client(name)
        self.server = self.ca.server()
        self.workspace = Path(options["workspace"])
        self.clock = Clock()
        self.broken: list[str] = []
        self.counts = {"jumps": 0, "retries": 0, "refused": 0, "signs of life": 0}

    async def run(self) -> None:
        """Run the job and let the clock jump meanwhile."""
        job = Job(timeouts=Timeouts(long_poll=2.0, drain=1.0))
        config = job.aggregator(tls=self.server, workspace=self.workspace).model_copy(
            # a round that is cut would miss results
            update={"stragglers": StragglerConfig(kind="cutoff", cutoff_seconds=3600.0)}
        )
        director = DirectorConfig(
            tls=self.server, sample_shape=("1",), target_shape=("1",), envoy_health_check_period=HEALTH_SECONDS
        )
        async with (
            Aggregator(config, initial_model=job.initial_model()) as aggregator,
            Director(director) as other,
            DirectorClient(other.endpoint, tls=self.ca.client("site")) as site,
            anyio.create_task_group() as group,
        ):
            group.start_soon(self.wait_as_envoy, site)
            group.start_soon(self.report_as_envoy, site)
            ids = {"aggregator_uuid": aggregator.uuid, "federation_uuid": aggregator.federation_uuid}
            async with anyio.create_task_group() as members:
                for name in NAMES:
                    mine = job.collaborator(name, ids, aggregator.endpoint, self.ca.client(name))
                    members.start_soon(partial(take_part, mine, seconds=TASK_SECONDS))
                await anyio.sleep(0.5)
                for seconds in JUMPS:
                    await self.jump(seconds, site, aggregator.endpoint, ids, job)
                self.clock.jump(DAYS)
                await self.strangers(aggregator.endpoint, ids, job, welcome=True)
            model = aggregator.model(ModelKind.LAST)
            metrics = [metric async for metric in aggregator.metrics()]
            group.cancel_scope.cancel()
        self.broken += [f"R15: {text}" for text in counted_once(metrics)]
        if self.counts["retries"]:
            self.broken.append(f"R15: {self.counts['retries']} calls were made again")
        say({"model": digest(model or {}), "counts": self.counts, "broken": self.broken})

    async def jump(self, seconds: int, site: DirectorClient, endpoint: Endpoint, ids: dict[str, str], job: Job) -> None:
        """Let the clock jump, and look at everything that might believe it."""
        before = time.time()
        self.clock.jump(seconds)
        self.counts["jumps"] += 1
        if abs(time.time() - before - seconds) > 60:
            self.broken.append("the clock did not jump: nothing was proved")
        shifted = abs(self.clock._seconds) >= DAYS
        await self.strangers(endpoint, ids, job, welcome=not shifted)
        await anyio.sleep(0.3)
        (envoy,) = await site.get_envoys()
        if not envoy.is_online:
            self.broken.append(f"R15: the envoy is lost after a jump of {seconds} s")
        if abs(envoy.last_updated - time.time()) > 60:
            self.broken.append(f"R15: its last sign of life is told as of {envoy.last_updated - time.time():.0f} s off")

    async def strangers(self, endpoint: Endpoint, ids: dict[str, str], job: Job, *, welcome: bool) -> None:
        """See whether a new connection is judged by the time that it is now."""
        config = job.collaborator(NAMES[0], ids, endpoint, self.ca.client(NAMES[0])).model_copy(
            update={"retry": RetryPolicy(first_delay=0.001, max_delay=0.001, max_elapsed=0.001)}
        )
        try:
            async with AggregatorClient(config) as client:
                await client.get_tasks()
        except ConnectError as exc:
            self.counts["refused"] += 1
            if welcome:
                self.broken.append(f"R15: a valid certificate was refused: {exc}")
            elif "certificate" not in str(exc):
                self.broken.append(f"R15: refused for another reason than the certificate: {exc}")
        else:
            if not welcome:
                self.broken.append("R15: a certificate was accepted outside of its time")

    async def wait_as_envoy(self, site: DirectorClient) -> None:
        """Be registered, and wait for an experiment that never comes."""
        await site.update_shard_info(ShardInfo("site", sample_shape=("1",), target_shape=("1",)))
        await site.wait_experiment("site")

    async def report_as_envoy(self, site: DirectorClient) -> None:
        """Give signs of life."""
        await anyio.sleep(0.3)
        while True:
            period = await site.update_envoy_status("site", is_experiment_running=False)
            self.counts["signs of life"] += 1
            await anyio.sleep(period)


def main() -> None:
    play = Play(json.loads(sys.argv[1]))
    pause = Retries.after

    async def counted(self: Retries, exc: OpenFLAioError) -> None:
        if self._policy.max_elapsed != 0.001:  # not those of strangers
            play.counts["retries"] += 1
        await pause(self, exc)

    Retries.after = counted  # type: ignore[method-assign]
    anyio.run(play.run)


if __name__ == "__main__":
    main()
