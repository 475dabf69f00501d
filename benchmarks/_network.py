"""What benchmarks within one process share: an event loop in a thread, and clients of our aggregator."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from openfl_aio.aggregator.client import AggregatorClient
from openfl_aio.aggregator.service import Aggregator
from openfl_aio.config import CollaboratorConfig, Timeouts

__all__ = ["client_of", "event_loop", "within"]

SECONDS = 30.0

T = TypeVar("T")


@contextmanager
def event_loop() -> Iterator[BlockingPortal]:
    """Run an event loop in a thread: candidates that are coroutines are called through the portal."""
    logging.getLogger("openfl_aio").setLevel(logging.ERROR)  # that plaintext is not secure is known here
    with start_blocking_portal() as portal:
        yield portal


async def within(call: Callable[[], Awaitable[T]]) -> T:
    """Return what ``call`` returns; a benchmark that hangs ends with `TimeoutError`."""
    with anyio.fail_after(SECONDS):
        return await call()


def client_of(aggregator: Aggregator, name: str) -> AggregatorClient:
    """Return a client for the collaborator ``name``, to be entered."""
    return AggregatorClient(
        CollaboratorConfig(
            name=name,
            aggregator_uuid=aggregator.uuid,
            federation_uuid=aggregator.federation_uuid,
            endpoint=aggregator.endpoint,
            timeouts=Timeouts(drain=1),
        )
    )
