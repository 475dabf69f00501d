"""The job through bad networks, in one process: aggregator, proxy and collaborators on one event loop."""

from __future__ import annotations

import logging
import random
import tempfile
import time
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from openfl_aio.aggregator.client import AggregatorClient
from openfl_aio.aggregator.service import Aggregator
from openfl_aio.config import Endpoint, Limits, Timeouts
from openfl_aio.domain import Metric, ModelKind
from openfl_aio.errors import OpenFLAioError
from openfl_aio.tensors.codec import EncodedTensor
from openfl_aio.testing.ca import ThrowawayCA
from openfl_aio.testing.federation import InProcessAggregator
from tests.faults.job import NAMES, Job, counted_once, digest, take_part, work
from tests.faults.proxy import Network, Proxy
from tests.faults.table import Seen

__all__ = [
    "MTLS",
    "NETWORKS",
    "PLAINTEXT",
    "QUICK",
    "QUICK_JOB",
    "QUICK_TIMEOUTS",
    "Fault",
    "leaf",
    "play",
    "reference",
]

PLAINTEXT, MTLS = "plaintext", "mtls"
SECONDS = 300.0  # that a job may take through the worst of networks
# so small that what takes a minute by default takes a second
QUICK = Limits(keepalive_seconds=0.5, keepalive_timeout=0.5, progress_seconds=2.0, handshake_seconds=2.0)
QUICK_TIMEOUTS = Timeouts(connect=1.0, long_poll=1.0, drain=1.0)
QUICK_JOB = Job(limits=QUICK, timeouts=QUICK_TIMEOUTS)


@dataclass(frozen=True)
class Fault:
    """One network, the job that is done through it, and how often. ``bounded`` is what CI plays, None for nothing."""

    name: str
    what: str
    network: Network
    job: Job = field(default_factory=Job)
    times: int = 1
    bounded: Network | None = None
    api: type[AggregatorClient] = AggregatorClient


class Twice(AggregatorClient):
    """Sends every result twice, by turns at once and one after the other, and again a round later."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self._sent: list[tuple[int, str, int, list[EncodedTensor]]] = []
        self._random = random.Random(0)

    async def send_local_task_results(
        self, *, round_number: int, task_name: str, data_size: int, tensors: Iterable[EncodedTensor]
    ) -> None:
        """See the class."""
        kept = list(tensors)
        once = super().send_local_task_results

        async def send(number: int, task: str, size: int, values: list[EncodedTensor]) -> None:
            await once(round_number=number, task_name=task, data_size=size, tensors=values)

        ours = (round_number, task_name, data_size, kept)
        if self._random.random() < 0.5:
            async with anyio.create_task_group() as group:
                group.start_soon(send, *ours)
                group.start_soon(send, *ours)
        else:
            await send(*ours)
            await send(*ours)
        if self._sent:
            await send(*self._random.choice(self._sent))
        self._sent.append(ours)


_CUTS = Network(cuts=50)

NETWORKS = {
    fault.name: fault
    for fault in (
        Fault("nothing", "a proxy that does nothing", Network(), bounded=Network()),
        Fault(
            "latency",
            "200 ms ± 100 in each direction",
            Network(latency=(0.2, 0.1)),
            bounded=Network(latency=(0.02, 0.01)),
        ),
        Fault(
            "throttle",
            "256 KiB/s a connection and direction",
            Network(rate=256 * 1024),
            job=Job(elements=40_000),
            bounded=Network(rate=1024 * 1024),
        ),
        Fault(
            "segments_1",
            "segments of 1 byte",
            Network(segment=1),
            job=Job(elements=400),
            bounded=Network(segment=3),
        ),
        Fault("segments_1000", "segments of 1,000 bytes", Network(segment=1000), bounded=Network(segment=1000)),
        Fault("cuts", "50 cuts at random bytes, either direction", _CUTS, times=4, bounded=Network(cuts=15)),
        Fault(
            "cuts_slow",
            "30 cuts, 20 ms ± 10 and segments of 1,000 bytes",
            Network(cuts=30, latency=(0.02, 0.01), segment=1000),
        ),
        Fault(
            "lost_replies",
            "30 requests that arrive, their answers swallowed",
            Network(lost_replies=30, cut_between=(500, 40_000)),
            bounded=Network(lost_replies=8, cut_between=(500, 40_000)),
        ),
        Fault("duplicates", "every result sent twice and more", Network(), bounded=Network(), api=Twice),
        Fault(
            "blackholes",
            "up to 4 times silence of 2 s; connections stay dead",
            Network(holes=(0.1, 3.3, 6.5, 9.7), hole_seconds=2.0, rate=64 * 1024),
            job=QUICK_JOB,
            bounded=Network(holes=(0.1,), hole_seconds=1.0),
        ),
        Fault(
            "silences",
            "up to 4 times silence of 0.7 s; connections go on",
            Network(holes=(0.1, 1.6, 3.1, 4.6), hole_seconds=0.7, rate=64 * 1024, resume=True),
            job=QUICK_JOB,
        ),
    )
}


class _Ignored(logging.Handler):
    """Counts the results that the aggregator took note of and did not count again."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += " ignored: " in record.getMessage()


async def play(fault: Fault, link: str, ca: ThrowawayCA, *, seed: int, bounded: bool, expected: str) -> Seen:
    """Do the job through a network and judge what came out."""
    network = fault.bounded if bounded and fault.bounded is not None else fault.network
    seen = Seen(fault.name, link)
    ignored = _Ignored()
    logger = logging.getLogger("openfl_aio.aggregator.intake")
    logger.addHandler(ignored)
    began = time.monotonic()
    try:
        with anyio.fail_after(SECONDS):
            await _run(fault, network, link, ca, seed=seed, expected=expected, seen=seen)
    except TimeoutError:
        seen.broken.append(f"R16: not over after {SECONDS:.0f} s")
    except (OpenFLAioError, ExceptionGroup) as exc:
        seen.broken.append(f"R16: {leaf(exc)}")
    finally:
        logger.removeHandler(ignored)
    seen.seconds = time.monotonic() - began
    seen.counts["ignored"] = ignored.count
    return seen


async def _run(
    fault: Fault, network: Network, link: str, ca: ThrowawayCA, *, seed: int, expected: str, seen: Seen
) -> None:
    job, folder = fault.job, await anyio.to_thread.run_sync(tempfile.TemporaryDirectory)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(anyio.to_thread.run_sync, folder.cleanup)
        config = job.aggregator(tls=ca.server() if link == MTLS else None, workspace=Path(folder.name))
        aggregator = await stack.enter_async_context(Aggregator(config, initial_model=job.initial_model()))
        proxy = await stack.enter_async_context(Proxy(aggregator.endpoint, network, seed=seed))
        ids = {"aggregator_uuid": aggregator.uuid, "federation_uuid": aggregator.federation_uuid}
        async with anyio.create_task_group() as group:
            for name in NAMES:
                tls = ca.client(name) if link == MTLS else None
                mine = job.collaborator(name, ids, proxy.endpoint, tls)
                group.start_soon(partial(take_part, mine, api=fault.api))
            await aggregator.wait_complete()
            metrics: list[Metric] = [metric async for metric in aggregator.metrics()]
        model = aggregator.model(ModelKind.LAST)
        record = proxy.record
    seen.counts |= {
        "connections": record.connections,
        "cuts": record.cuts,
        "lost": record.lost_replies,
        "holes": record.holes,
        "counted": len({(m.origin, m.task_name, m.round_number) for m in metrics if m.origin in NAMES}),
    }
    seen.broken += [f"R11: {text}" for text in counted_once(metrics)]
    if model is None or digest(model) != expected:
        seen.broken.append(f"R16: another model than without faults: {digest(model or {})}, expected {expected}")
    seen.broken += _not_played(network, fault, seen)


def _not_played(network: Network, fault: Fault, seen: Seen) -> list[str]:
    """Say which faults did not happen half as often as they were to: then the job proved little."""
    missing = []
    for name, wanted in (("cuts", network.cuts), ("lost", network.lost_replies), ("holes", len(network.holes))):
        if seen.counts[name] < wanted / 2:
            missing.append(f"only {seen.counts[name]} of {wanted} {name} were played")
    return missing


async def reference(job: Job) -> str:
    """Return the fingerprint of the model of a job that nothing disturbs, in memory and without a network."""
    config = job.aggregator(tls=None, workspace=None).model_copy(update={"listen": None})
    async with Aggregator(config, initial_model=job.initial_model()) as aggregator:
        ids = {"aggregator_uuid": aggregator.uuid, "federation_uuid": aggregator.federation_uuid}
        async with anyio.create_task_group() as group:
            for name in NAMES:
                mine = job.collaborator(name, ids, Endpoint(port=1), None)
                group.start_soon(work, mine, InProcessAggregator(aggregator, name))
        return digest(await aggregator.wait_complete())


def leaf(exc: BaseException) -> str:
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return f"{type(exc).__name__}: {exc}"
