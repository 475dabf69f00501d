"""Fixtures for every test: a virtual clock by default, a real one on request, and no blocking call on the loop."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

from openfl_aio.testing.clock import backend_options


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run async tests on virtual time, unless they are marked ``real_time``."""
    if request.node.get_closest_marker("real_time"):
        return "asyncio", {"debug": True}
    return "asyncio", backend_options()


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[BlockBuster]:
    """Fail any async test that blocks the event loop (only calls made by this package count)."""
    with blockbuster_ctx("openfl_aio") as guard:
        # the tracer of coverage takes its own lock, whatever code it traces
        guard.functions["threading.Lock.acquire"].can_block_in("coverage/collector.py", {"lock_data"})
        yield guard


@pytest.fixture(autouse=True)
def log_handlers() -> Iterator[None]:
    """Take away the log handler that a command's main set up: its stream ends with the test."""
    logger = logging.getLogger("openfl_aio")
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)
