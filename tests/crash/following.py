"""Whoever follows a federation to its end: its metrics as they come, then its models."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import anyio

from openfl_aio.domain import Metric, ModelKind
from openfl_aio.errors import OpenFLAioError
from tests.crash.history import History, Metrics, Model
from tests.crash.server import WITNESS

__all__ = ["read_all"]


async def read_all(
    history: History,
    stream: Callable[[], AsyncIterator[Metric]],
    model: Callable[[ModelKind], Awaitable[str | None]],
) -> None:
    """Follow the log of metrics, anew after each death, then fetch the models twice with a death between perhaps."""
    whole = False
    while not whole:
        call, metrics = history.begin(WITNESS, "GetMetricStream"), []
        try:
            async for metric in stream():
                metrics.append(metric)  # noqa: PERF401  what came before an error was seen too
            whole = True
        except OpenFLAioError:
            await anyio.sleep(0.02)
        history.end(call, Metrics(tuple(metrics), whole))
    for _ in range(2):
        for kind in (ModelKind.LAST, ModelKind.BEST):
            history.note(WITNESS, "model", Model(kind.name.lower(), await model(kind)))
