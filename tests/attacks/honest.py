"""The process of an honest client: 50 calls a second on a kept channel and 5 new connections a second with a call.

``python -m tests.attacks.honest OPTIONS`` answers ``{"do": "begin", "port": …, "service": …}`` and ``{"do": "end"}``,
the latter with how the calls went that were begun in between.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import anyio

from openfl_aio.config import Endpoint, Timeouts
from openfl_aio.transport.channel import Channel, open_channel, translate
from openfl_aio.wire.messages import aggregator, director
from tests.attacks.payloads import AGGREGATOR_UUID, FEDERATION_UUID
from tests.attacks.served import say, tls_of

NAME = "two"
KEPT_A_SECOND, FRESH_A_SECOND = 50, 5
CALL_SECONDS = 5.0


class Record:
    """How calls of one kind went."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.failures: Counter[str] = Counter()

    def summary(self) -> dict[str, Any]:
        """Return the number of calls, the share that was answered, and latencies in milliseconds."""
        done = sorted(self.seconds)
        calls = len(done) + sum(self.failures.values())

        def at(share: float) -> float | None:
            return round(done[min(len(done) - 1, int(share * len(done)))] * 1e3, 1) if done else None

        good = round(100 * len(done) / calls, 2) if calls else None
        return {"calls": calls, "good": good, "p50": at(0.5), "p99": at(0.99), "failures": dict(self.failures)}


class Honest:
    """Calls at a steady pace, whatever becomes of the calls before."""

    def __init__(self, options: dict[str, Any], question: dict[str, Any]) -> None:
        self._tls = tls_of(options)
        self._endpoint = Endpoint(port=question["port"])
        self._director = question["service"] == "director"
        self.kept, self.fresh = Record(), Record()
        self.late = Record()  # how late our own timers were: what the machine adds to every latency

    async def run(self) -> None:
        """Call until cancelled; calls in flight are then waited for."""
        async with AsyncExitStack() as stack, anyio.create_task_group() as calls:
            channel = await stack.enter_async_context(self._channel())
            scope = anyio.CancelScope()
            self.stop = scope.cancel
            self.ready.set()
            with scope:
                start, ticks = time.monotonic(), 0
                while True:
                    calls.start_soon(self._timed, self.kept, lambda: self._call(channel))
                    if ticks % (KEPT_A_SECOND // FRESH_A_SECOND) == 0:
                        calls.start_soon(self._fresh)
                    ticks += 1
                    due = start + ticks / KEPT_A_SECOND
                    await anyio.sleep(max(0.0, due - time.monotonic()))
                    self.late.seconds.append(time.monotonic() - due)

    def begin(self) -> None:
        self.ready = anyio.Event()
        self.task = asyncio.create_task(self.run())

    def _channel(self) -> Any:
        timeouts = Timeouts(connect=CALL_SECONDS)
        return open_channel(self._endpoint, tls=self._tls, timeouts=timeouts, metadata={"client_id": NAME})

    async def _fresh(self) -> None:
        async with self._channel() as channel:
            await self._timed(self.fresh, lambda: self._call(channel))

    async def _timed(self, record: Record, call: Callable[[], Awaitable[object]]) -> None:
        began = time.perf_counter()
        try:
            with translate():
                await call()
        except Exception as exc:
            record.failures[f"{type(exc).__name__}: {exc}"[:120]] += 1
        else:
            record.seconds.append(time.perf_counter() - began)

    async def _call(self, channel: Channel) -> None:
        if self._director:
            await director.DirectorStub(channel).get_dataset_info(
                director.GetDatasetInfoRequest(), timeout=CALL_SECONDS
            )
        else:
            header = aggregator.MessageHeader(sender=NAME, receiver=AGGREGATOR_UUID, federation_uuid=FEDERATION_UUID)
            reply = await aggregator.AggregatorStub(channel).get_tasks(
                aggregator.GetTasksRequest(header=header), timeout=CALL_SECONDS
            )
            if not reply.tasks:
                raise RuntimeError("no tasks in the answer")


async def serve(options: dict[str, Any]) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    say({"ready": True})
    client: Honest | None = None
    while line := await reader.readline():
        question = json.loads(line)
        if question["do"] == "begin":
            client = Honest(options, question)
            client.begin()
            await client.ready.wait()
            say({})
        elif client is not None:
            client.stop()
            await client.task
            kinds = {"kept": client.kept, "fresh": client.fresh, "late": client.late}
            say({name: record.summary() for name, record in kinds.items()})


if __name__ == "__main__":
    logging.getLogger("openfl_aio").setLevel(logging.ERROR)
    asyncio.run(serve(json.loads(sys.argv[1])))
