"""An experiment at the director, from its owner's side."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import numpy as np

from openfl_aio.director.client import DirectorClient
from openfl_aio.director.upload import decode_model
from openfl_aio.domain import ExperimentDescription, ExperimentStatus, Metric, ModelKind
from openfl_aio.errors import ExperimentFailedError, ExperimentNotFoundError

__all__ = ["Run"]

SETTLE = 0.05  # seconds between the last metric and the final status


class Run:
    """Follows one experiment; any number may follow the same, also from another process of the same owner."""

    def __init__(self, name: str, client: DirectorClient) -> None:
        self.name = name
        self._client = client

    def __repr__(self) -> str:
        return f"<Run {self.name!r} at {self._client.endpoint}>"

    async def status(self) -> ExperimentStatus:
        """Return where the experiment stands. Raises `ExperimentNotFoundError` if it is absent or not yours."""
        status = await self._client.get_experiment_status(self.name)
        if status is None:
            raise ExperimentNotFoundError(f"no experiment {self.name!r} of yours at the director")
        return status

    async def describe(self) -> ExperimentDescription:
        """Return all that the director tells of the experiment."""
        return await self._client.get_experiment_description(self.name)

    def metrics(self) -> AsyncIterator[Metric]:
        """Yield every metric from the first on, live, until the experiment ends."""
        return self._client.get_metric_stream(self.name)

    async def wait(self) -> ExperimentStatus:
        """Return once the experiment has finished. Raises `ExperimentFailedError` if it ended otherwise."""
        status = await self.status()
        while not status.ended:
            async for _ in self.metrics():
                pass
            status = await self.status()
            if not status.ended:
                # metrics end with the last round, a moment before the director has written the end down
                await anyio.sleep(SETTLE)
        if status is not ExperimentStatus.FINISHED:
            raise ExperimentFailedError(f"experiment {self.name!r} ended as {status.value!r}; see the director's log")
        return status

    async def best_model(self) -> dict[str, np.ndarray]:
        """Return the model with the best validation score so far, float32 arrays by tensor name."""
        return await self._model(ModelKind.BEST)

    async def last_model(self) -> dict[str, np.ndarray]:
        """Return the model of the last complete round, float32 arrays by tensor name."""
        return await self._model(ModelKind.LAST)

    async def remove(self) -> None:
        """Stop the experiment if it runs, and make the director forget it."""
        await self._client.remove_experiment_data(self.name)

    async def _model(self, kind: ModelKind) -> dict[str, np.ndarray]:
        tensors = await self._client.get_trained_model(self.name, kind)
        if tensors is None:
            raise ExperimentNotFoundError(f"no experiment {self.name!r} of yours at the director")
        if not tensors:
            raise ExperimentFailedError(
                f"experiment {self.name!r} has no {kind.name.lower()} model yet; wait for a round"
            )
        return decode_model(tensors)
