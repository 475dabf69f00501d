"""``python -m tests.identity`` prints who is let in and who is not. The exit code is 1 unless all are as they must be."""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import numpy as np

from openfl_aio.aggregator.service import Aggregator
from openfl_aio.config import AggregatorConfig, Endpoint
from tests.identity.cases import CASES, Workshop, attempt, workshop


@asynccontextmanager
async def served(shop: Workshop) -> AsyncIterator[int]:
    """Give the port of an aggregator with the collaborators "one" and "two" over mutual TLS."""
    config = AggregatorConfig(collaborators=("one", "two"), rounds=1, listen=Endpoint(), tls=shop.ca.server())
    async with Aggregator(config, initial_model={"w": np.zeros(1, np.float32)}) as aggregator:
        yield aggregator.endpoint.port


async def table(shop: Workshop) -> int:
    """Print a line a case and return how many are not as they must be."""
    wrong = 0
    async with served(shop) as port:
        for case in CASES:
            outcome = await anyio.to_thread.run_sync(attempt, port, case, shop)
            right = outcome == case.expected
            wrong += not right
            more = "" if right else f"  WRONG, expected {case.expected}"
            sys.stdout.write(f"{case.what:28} {outcome}{more}\n")
    sys.stdout.write(f"{len(CASES) - wrong}/{len(CASES)} as they must be\n")
    return wrong


def main() -> int:
    logging.getLogger("openfl_aio").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="identity-") as folder:
        return 1 if anyio.run(table, workshop(Path(folder))) else 0


if __name__ == "__main__":
    sys.exit(main())
