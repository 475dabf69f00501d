"""What memory does an envoy that waits for an experiment cost the director, and how soon are all awake after a submit?

N envoys wait in WaitExperiment, each over its own TCP connection, in plaintext, to a director in a process of its own.
Memory is the growth of that process's resident size per envoy, first when all are connected and registered, then when
all wait; it is read from ``/proc``, so this runs on Linux. The clock for waking starts when an experiment for all of
them is submitted and stops when the last one has its name, the clients' own work included. The baseline of the table
is another director where a single envoy waits: the ratio tells what the others add.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import time
import zipfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio
import anyio.abc
import anyio.to_thread
import numpy as np
from _harness import Comparison, arguments, expect, report
from _network import within
from anyio.streams.buffered import BufferedByteReceiveStream

from openfl_aio.config import DirectorConfig, Endpoint, Timeouts, default_tasks
from openfl_aio.director.client import DirectorClient
from openfl_aio.director.service import Director
from openfl_aio.domain import ShardInfo
from openfl_aio.plan.experiment import experiment_plan
from openfl_aio.tensors.codec import TensorCodec
from openfl_aio.tensors.key import TensorKey

WARM_UP = 2
AT_ONCE = 50  # envoys that connect at the same time
SERVE = "--serve"


async def serve() -> None:
    """Be the director: print the port, then, for every line that comes, how many envoys wait."""
    logging.getLogger("openfl_aio").setLevel(logging.CRITICAL)
    # aggregators of removed experiments stay for one long poll
    config = DirectorConfig(sample_shape=("1",), target_shape=("1",), timeouts=Timeouts(drain=0, long_poll=0.1))
    async with Director(config) as director:
        print(director.endpoint.port, flush=True)
        while await anyio.to_thread.run_sync(sys.stdin.readline):
            print(director.parked, flush=True)


@dataclass
class Peer:
    """A director in its own process, and the clients of it in this one."""

    process: anyio.abc.Process
    output: BufferedByteReceiveStream
    stack: AsyncExitStack
    endpoint: Endpoint = field(default_factory=Endpoint)
    envoys: dict[str, DirectorClient] = field(default_factory=dict)
    submitted: int = 0

    async def line(self) -> int:
        """Return the number that the director prints next."""
        return int(await self.output.receive_until(b"\n", 100))

    async def parked(self) -> int:
        """Return how many envoys wait."""
        assert self.process.stdin is not None
        await self.process.stdin.send(b"\n")
        return await self.line()

    def resident(self) -> int:
        """Return the resident size of the director's process, in bytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    async def connect(self, names: list[str]) -> None:
        """Register envoys, each over a connection that stays."""
        limiter = anyio.CapacityLimiter(AT_ONCE)

        async def register(name: str) -> None:
            async with limiter:
                accepted = await self.envoys[name].update_shard_info(
                    ShardInfo(name, sample_shape=("1",), target_shape=("1",))
                )
            expect(accepted, f"{name} was not accepted")

        for name in names:
            client = DirectorClient(self.endpoint, client_id=name)
            self.envoys[name] = await self.stack.enter_async_context(client)
        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(register, name)

    async def wake(self, sizes: list[int] | None = None) -> float:
        """Let all envoys wait, submit, and return the seconds until the last one knows; ``sizes`` gets the memory."""
        experiment = f"experiment_{self.submitted}"
        self.submitted += 1
        woken: list[float] = []

        async def wait(name: str) -> None:
            got = await self.envoys[name].wait_experiment(name)
            woken.append(time.perf_counter())
            expect(got == experiment, f"{name} was told {got!r} instead of {experiment!r}")

        async with DirectorClient(self.endpoint, client_id="owner") as owner:
            async with anyio.create_task_group() as tasks:
                for name in self.envoys:
                    tasks.start_soon(wait, name)
                while await self.parked() < len(self.envoys):  # noqa: ASYNC110 - the director is another process
                    await anyio.sleep(0.01)
                expect(not woken, "somebody was woken without an experiment")
                if sizes is not None:
                    sizes.append(self.resident())
                start = time.perf_counter()
                await submit(owner, experiment, list(self.envoys))
            await owner.remove_experiment_data(experiment)
        expect(len(woken) == len(self.envoys), "somebody was not woken")
        return max(woken) - start


async def submit(owner: DirectorClient, name: str, envoys: list[str]) -> None:
    """Submit an experiment of which only the plan matters."""
    plan = experiment_plan(
        task_runner="unused.Runner",
        settings={},
        rounds=1,
        tasks=default_tasks(),
        agg_addr="localhost",
        agg_port=owner.endpoint.port,
        tls=False,
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zf:
        zf.writestr("plan/plan.yaml", plan.dump())

    async def archive() -> AsyncIterator[bytes]:
        yield buffer.getvalue()

    tensor = TensorCodec().encode(TensorKey.of("w", "", 0, tags=("model",)), np.zeros(1, np.float32))
    accepted = await owner.set_new_experiment(name, collaborators=envoys, model=[tensor], archive=archive())
    expect(accepted, f"{name} was not accepted")


@asynccontextmanager
async def peer() -> AsyncIterator[Peer]:
    """Start a director in its own process, which prints its port first; it ends with its standard input."""
    command = [sys.executable, __file__, SERVE]
    async with AsyncExitStack() as outer:
        process = await outer.enter_async_context(await anyio.open_process(command, stderr=None))
        assert process.stdin is not None
        assert process.stdout is not None
        outer.push_async_callback(process.wait)
        outer.push_async_callback(process.stdin.aclose)
        stack = await outer.enter_async_context(AsyncExitStack())
        yield Peer(process, BufferedByteReceiveStream(process.stdout), stack)


async def measure(envoys: int, pairs: int) -> tuple[Comparison, dict[str, float]]:
    async with peer() as alone, peer() as crowd:
        seconds: dict[str, list[float]] = {"alone": [], "crowd": []}
        for one in (alone, crowd):
            one.endpoint = Endpoint(port=await one.line())
        for one in (alone, crowd):
            await one.connect(["first"])
            for _ in range(WARM_UP):
                await within(one.wake)
        sizes = [crowd.resident()]
        await crowd.connect([f"envoy_{number}" for number in range(envoys - 1)])
        sizes.append(crowd.resident())
        await within(partial(crowd.wake, sizes))
        both = {"alone": alone, "crowd": crowd}
        for number in range(pairs):
            for name in both if number % 2 == 0 else reversed(both):
                seconds[name].append(await within(both[name].wake))
    comparison = Comparison(
        f"{envoys} envoys woken",
        "1 envoy",
        f"{envoys} envoys",
        0,
        tuple(seconds["alone"]),
        tuple(seconds["crowd"]),
    )
    before, connected, waiting = sizes
    memory = {
        f"{envoys} envoys: KiB per connected envoy": (connected - before) / (envoys - 1) / 1024,
        f"{envoys} envoys: KiB per waiting envoy": (waiting - before) / (envoys - 1) / 1024,
    }
    return comparison, memory


def main() -> None:
    if sys.argv[1:] == [SERVE]:
        anyio.run(serve)
        return
    options = arguments(__doc__)
    comparisons: list[Comparison] = []
    memory: dict[str, float] = {}
    for size in [10] if options.small else [50, 400]:
        comparison, more = anyio.run(measure, size, options.pairs)
        comparisons.append(comparison)
        memory |= more
    report("long poll: from a submit to the last waiting envoy", comparisons, options, extra=memory)


if __name__ == "__main__":
    main()
