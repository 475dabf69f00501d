"""What a director keeps of its experiments beyond its own life: rows, archives, models."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from openfl_aio.director.experiments import Experiment
from openfl_aio.domain import Metric, ModelKind
from openfl_aio.errors import NotFoundError
from openfl_aio.storage.files import remove_quietly
from openfl_aio.storage.registry import ExperimentRecord

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from openfl_aio.storage.director_storage import DirectorStorage

__all__ = ["Records"]

MODELS: Final = "models"


class Records:
    """Keeps experiments in ``storage``, and their models under ``workspace`` if there is one.

    Folders are named by the archive's id, which is ours, never by a name that a peer chose.
    """

    def __init__(self, storage: DirectorStorage, workspace: Path | None) -> None:
        self._storage = storage
        self._workspace = workspace
        self._order = anyio.Lock()  # rows of one experiment are written in the order of its changes

    async def experiments(self) -> list[Experiment]:
        """Return what an earlier director of this workspace kept, and remove the files that nobody needs any more.

        A director that was killed leaves those of experiments that it was about to keep, to end or to remove.
        """
        orphans = set(await self._storage.archives.ids())
        found = []
        for record in await self._storage.registry.experiments():
            orphans.discard(record.archive_id)
            found.append(
                Experiment(
                    name=record.name,
                    owner=record.owner,
                    collaborators=record.collaborators,
                    archive_id=record.archive_id,
                    status=record.status,
                    federation_uuid=record.federation_uuid,
                    created=record.created,
                    error=record.error,
                    assigned=record.assigned,
                    told=record.told,
                )
            )
        for archive_id in orphans:
            await self._storage.archives.remove(archive_id)
        await anyio.to_thread.run_sync(self._remove_other_models, {experiment.archive_id for experiment in found})
        await self._storage.keep_federations(
            experiment.federation_uuid for experiment in found if not experiment.status.ended
        )
        return found

    def _remove_other_models(self, archive_ids: set[str]) -> None:
        if self._workspace is not None:
            for path in (self._workspace / MODELS).glob("*"):
                if path.name not in archive_ids:
                    remove_quietly(path)

    async def save(self, experiment: Experiment) -> None:
        """Write the experiment as it is when its turn comes, so that the last row is the last state."""
        async with self._order:
            await self._storage.registry.save_experiment(
                ExperimentRecord(
                    name=experiment.name,
                    owner=experiment.owner,
                    collaborators=experiment.collaborators,
                    status=experiment.status,
                    archive_id=experiment.archive_id,
                    federation_uuid=experiment.federation_uuid,
                    created=experiment.created,
                    error=experiment.error,
                    assigned=experiment.assigned,
                    told=experiment.told,
                )
            )

    async def save_initial(self, experiment: Experiment, model: Mapping[str, np.ndarray]) -> None:
        """Keep the model that an experiment begins with. Raises `StorageFullError`."""
        path = self._initial_path(experiment)
        if path is not None:
            await self._storage.models.save(path, model, round_number=0)

    async def initial(self, experiment: Experiment) -> dict[str, np.ndarray]:
        """Return the model that an experiment begins with. Raises `NotFoundError`, `CorruptFileError`."""
        path = self._initial_path(experiment)
        if path is None or not await anyio.Path(path).exists():
            raise NotFoundError(f"the initial model of experiment {experiment.name!r} is gone; submit it again")
        return dict((await self._storage.models.load(path)).tensors)

    async def save_metrics(self, experiment: Experiment, metrics: Sequence[Metric]) -> None:
        """Keep all the metrics of an experiment that has ended; those that are kept already are not added again."""
        kept = await self._storage.registry.metrics(experiment.name)
        await self._storage.registry.append_metrics(experiment.name, metrics[len(kept) :])

    async def metrics(self, experiment: Experiment) -> list[Metric]:
        """Return the metrics of an experiment that has ended."""
        return await self._storage.registry.metrics(experiment.name)

    def _initial_path(self, experiment: Experiment) -> Path | None:
        path = self.model_path(experiment, ModelKind.LAST)
        return None if path is None else path.with_name("initial.pbuf")

    async def forget(self, experiment: Experiment) -> None:
        """Remove the row, then the files."""
        async with self._order:
            await self._storage.registry.remove_experiment(experiment.name)
        await self.remove_files(experiment)

    async def remove_files(self, experiment: Experiment) -> None:
        """Remove archive and models; what is not there is no error."""
        await self._storage.archives.remove(experiment.archive_id)
        path = self.model_path(experiment, ModelKind.LAST)
        if path is not None:
            await anyio.to_thread.run_sync(lambda: shutil.rmtree(path.parent, ignore_errors=True))

    async def nbytes(self, experiments: Sequence[Experiment]) -> int:
        """Return how many bytes the archives and models of ``experiments`` have on the disk."""
        paths = [self.model_path(experiment, kind) for experiment in experiments for kind in ModelKind]
        sizes = await self._storage.archives.nbytes(experiment.archive_id for experiment in experiments)

        def models() -> int:
            return sum(path.stat().st_size for path in paths if path is not None and path.is_file())

        return sizes + await anyio.to_thread.run_sync(models)

    def model_path(self, experiment: Experiment, kind: ModelKind) -> Path | None:
        """Return where a model of the experiment is kept; None without a workspace."""
        if self._workspace is None:
            return None
        return self._workspace / MODELS / experiment.archive_id / f"{kind.name.lower()}.pbuf"

    async def model(self, experiment: Experiment, kind: ModelKind) -> Mapping[str, np.ndarray]:
        """Return a model that was kept, empty if none was. Raises `CorruptFileError`."""
        path = self.model_path(experiment, kind)
        if path is None or not await anyio.Path(path).exists():
            return {}
        return (await self._storage.models.load(path)).tensors
