"""The aggregator of the job in a process of its own, or a director.

``python -m tests.faults.served OPTIONS`` prints where it listens and answers ``{}`` with how far it is.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

import anyio

from openfl_aio.aggregator.service import Aggregator
from openfl_aio.config import AggregatorConfig, Limits, Timeouts
from openfl_aio.domain import Metric, ModelKind
from openfl_aio.telemetry.logs import configure_logging
from tests.faults.director import serve_director
from tests.faults.job import NAMES, Job, digest
from tests.faults.processes import questions, say, tls_of

__all__ = ["main"]


async def serve(options: dict[str, Any]) -> None:
    """Serve until nobody asks any more."""
    limits = Limits(**options.get("limits", {}))
    job = Job(elements=options["elements"], limits=limits, timeouts=Timeouts(**options.get("timeouts", {})))
    config: AggregatorConfig = job.aggregator(tls=tls_of(options.get("tls")), workspace=Path(options["workspace"]))
    config = config.model_copy(update={"durability": options.get("durability", "process")})
    metrics: list[Metric] = []
    async with Aggregator(config, initial_model=job.initial_model()) as aggregator, anyio.create_task_group() as group:

        async def follow() -> None:
            async for metric in aggregator.metrics():
                metrics.append(metric)  # noqa: PERF401 - others read it meanwhile

        group.start_soon(follow)
        say(
            {
                "port": aggregator.endpoint.port,
                "ids": {"aggregator_uuid": aggregator.uuid, "federation_uuid": aggregator.federation_uuid},
            }
        )
        async for _ in questions():
            model = aggregator.model(ModelKind.LAST)
            say(
                {
                    "round": aggregator.round_number,
                    "phase": aggregator.phase.name,
                    "model": digest(model) if model is not None and aggregator.phase.ended else None,
                    "metrics": [
                        [metric.origin, metric.task_name, metric.name, metric.value, metric.round_number]
                        for metric in metrics
                        if metric.origin in NAMES
                    ],
                }
            )
        group.cancel_scope.cancel()


def main() -> None:
    options = json.loads(sys.argv[1])
    if options.get("files"):
        resource.setrlimit(resource.RLIMIT_NOFILE, (options["files"], options["files"]))
    configure_logging("INFO")
    anyio.run(serve_director if options.get("director") else serve, options)


if __name__ == "__main__":
    main()
