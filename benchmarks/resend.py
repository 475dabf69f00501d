"""How long until results that were answered before are answered again, against the first time, over TCP?

The reply to an upload may be lost, and then it is sent again. The aggregator has a journal on the disk; each of its
collaborators hands in the same results twice, one collaborator after the other. All is in one event loop, over the
loopback in plaintext. That the results counted once is checked.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
from _harness import Comparison, arguments, expect, report
from _network import client_of, event_loop, within

from openfl_aio.aggregator.service import Aggregator
from openfl_aio.config import AggregatorConfig, Endpoint, Timeouts
from openfl_aio.domain import Task, TaskKind
from openfl_aio.tensors.codec import TensorCodec
from openfl_aio.tensors.key import TensorKey

MIB = 2**20
TASK = "train"
CASES = [("4 KiB", 2**12, 25), ("1 MiB", MIB, 25), ("16 MiB", 16 * MIB, 10), ("128 MiB", 128 * MIB, 5)]
SMALL = [("4 KiB", 2**12, 2)]


class Sender:
    """Hands in results twice, each time as another collaborator."""

    def __init__(self, aggregator: Aggregator, nbytes: int) -> None:
        self._aggregator = aggregator
        self._names = iter(aggregator.collaborators)
        self._values = np.ones(nbytes // 4, np.float32)
        self._sent = 0

    async def send_twice(self) -> tuple[float, float]:
        """Return the seconds that the first and the second time took."""
        name = next(self._names)
        tensor = TensorCodec().encode(TensorKey.of("w", name, 0, tags=("trained",)), self._values)
        seconds = []
        async with client_of(self._aggregator, name) as api:
            await api.get_tasks()
            for _ in range(2):
                start = time.perf_counter()
                await api.send_local_task_results(round_number=0, task_name=TASK, data_size=1, tensors=[tensor])
                seconds.append(time.perf_counter() - start)
        self._sent += 1
        counts = self._aggregator.upload_counts()
        expect((counts.accepted, counts.duplicates) == (self._sent, self._sent), f"uploads were counted as {counts}")
        return seconds[0], seconds[1]


@asynccontextmanager
async def sending(nbytes: int, pairs: int, folder: Path) -> AsyncIterator[Sender]:
    """Open an aggregator whose first round nobody ends."""
    config = AggregatorConfig(
        collaborators=[f"c{number}" for number in range(pairs + 2)],
        rounds=1,
        tasks=(Task(TASK, TASK, TaskKind.TRAIN, apply_local=False),),
        listen=Endpoint(),
        workspace=folder,
        timeouts=Timeouts(drain=1),
    )
    async with Aggregator(config, initial_model={"w": np.zeros(nbytes // 4, np.float32)}) as aggregator:
        yield Sender(aggregator, nbytes)


def measure(case: str, nbytes: int, pairs: int) -> Comparison:
    with (
        tempfile.TemporaryDirectory() as folder,
        event_loop() as portal,
        portal.wrap_async_context_manager(sending(nbytes, pairs, Path(folder))) as sender,
    ):
        portal.call(within, sender.send_twice)  # warm
        seconds = [portal.call(within, sender.send_twice) for _ in range(pairs)]
    first, again = zip(*seconds, strict=True)
    return Comparison(case, "first time", "again", nbytes, first, again)


def main() -> None:
    options = arguments(__doc__)
    cases = SMALL if options.small else CASES
    comparisons = [measure(case, nbytes, min(pairs, options.pairs)) for case, nbytes, pairs in cases]
    report("results that were answered before, sent again", comparisons, options)


if __name__ == "__main__":
    main()
