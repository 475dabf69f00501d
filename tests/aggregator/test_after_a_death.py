"""What an aggregator does that finds the state of one whose process died: each of these was lost once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import numpy as np
import pytest

from openfl_aio.aggregator.assigner import make_assigner
from openfl_aio.aggregator.rounds import Phase, RoundClosed, Rounds
from openfl_aio.aggregator.service import Aggregator
from openfl_aio.aggregator.stragglers import Cutoff
from openfl_aio.config import AggregatorConfig, Timeouts
from openfl_aio.domain import ModelKind, Task, TaskKind
from openfl_aio.errors import StorageFullError
from openfl_aio.storage.checkpoint_file import Checkpoint
from openfl_aio.storage.federations import FederationStore, MemoryFederation
from openfl_aio.storage.journal import MemoryJournal
from openfl_aio.storage.models import ModelFiles, SavedModel
from openfl_aio.tensors.codec import EncodedTensor, TensorCodec
from openfl_aio.tensors.key import TensorKey
from openfl_aio.testing.federation import InProcessAggregator, inline

MODEL = {"w": np.zeros(3, np.float32)}
VALIDATE = Task("validate", "validate", TaskKind.VALIDATE)
TRAIN = Task("train", "train", TaskKind.TRAIN)
GRACE = Timeouts(long_poll=30.0)


class Files(ModelFiles):
    """Model files that nobody sees: what was saved last, by path."""

    def __init__(self) -> None:
        super().__init__()
        self.saved: dict[Path, SavedModel] = {}

    async def save(self, path: Path, tensors: Any, *, round_number: int, durable: bool = True) -> None:
        """Keep the model."""
        await anyio.lowlevel.checkpoint()
        self.saved[path] = SavedModel(dict(tensors), round_number)


class Disk:
    """As much of a `Storage` as an aggregator uses, which outlives it."""

    def __init__(self) -> None:
        self.journal = MemoryJournal()
        self.store = MemoryFederation()
        self.models = Files()

    def federation(self, uuid: str) -> FederationStore:
        """Return the one federation."""
        return self.store


def aggregator(disk: Disk, *, rounds: int = 1, collaborators: tuple[str, ...] = ("one", "two")) -> Aggregator:
    config = AggregatorConfig(
        collaborators=collaborators,
        rounds=rounds,
        tasks=(VALIDATE, TRAIN),
        workspace=Path("nowhere"),
        timeouts=GRACE,
    )
    storage: Any = disk
    return Aggregator(config, initial_model=MODEL, storage=storage, offload=inline)


def results(task: Task, site: str, number: int, value: float) -> list[EncodedTensor]:
    codec = TensorCodec()
    if task.name == "train":
        return [codec.encode(TensorKey.of("w", site, number, tags=("trained",)), np.full(3, value, np.float32))]
    key = TensorKey.of("accuracy", site, number, report=True, tags=("metric", "validate_agg"))
    return [codec.encode(key, np.array(value, np.float32))]


async def work(service: Aggregator, number: int, *, value: float) -> None:
    for site in service.collaborators:
        api = InProcessAggregator(service, site)
        for task in (await api.get_tasks()).tasks:
            await api.send_local_task_results(
                round_number=number, task_name=task.name, data_size=1, tensors=results(task, site, number, value)
            )


class Died(Exception):
    """The process is no more."""


async def died(disk: Disk, *, rounds: int = 1, values: tuple[float, ...] = (0.5,)) -> None:
    """Leave on ``disk`` what an aggregator leaves that dies when the rounds of ``values`` are over."""
    service = aggregator(disk, rounds=rounds)
    async with service:
        for number, value in enumerate(values):
            await work(service, number, value=value)
            while service.round_number == number:
                await anyio.sleep(0.01)
        await anyio.sleep(1)  # all that is written meanwhile is written
        kept, uploads = disk.store, disk.journal
        disk.store, disk.journal = MemoryFederation(), MemoryJournal()
        disk.store.__dict__.update({name: _copy(value) for name, value in vars(kept).items()})
        disk.journal.__dict__.update({name: _copy(value) for name, value in vars(uploads).items()})


def _copy(value: object) -> object:
    return value.copy() if isinstance(value, dict | list) else value


@pytest.mark.parametrize(("values", "rounds"), [((0.5,), 1), ((0.5,), 3), ((0.7, 0.6), 2)])
async def test_models_that_were_not_saved_yet_are_saved(values: tuple[float, ...], rounds: int) -> None:
    disk = Disk()
    await died(disk, rounds=rounds, values=values)
    before = dict(disk.models.saved)
    assert {path.name for path in before} == {"best.pbuf", "last.pbuf"}
    disk.models.saved.clear()  # the process died before these were written
    async with aggregator(disk, rounds=rounds):
        await anyio.sleep(1)
    assert disk.models.saved.keys() == before.keys()
    for path, saved in disk.models.saved.items():
        assert saved.round_number == before[path].round_number
        np.testing.assert_array_equal(saved.tensors["w"], before[path].tensors["w"])


async def test_the_best_model_is_kept_for_good_again() -> None:
    """The process died between a checkpoint and the name that keeps it as the best one."""
    disk = Disk()
    await died(disk, rounds=9, values=(0.9, 0.5))  # round 0 validated the best model, the initial one
    assert disk.store._best is not None
    disk.store._best = None
    service = aggregator(disk, rounds=9)
    async with service:
        for number in (2, 3, 4):
            await work(service, number, value=0.1)
            while service.round_number == number:
                await anyio.sleep(0.01)
        await anyio.sleep(1)
        best: Checkpoint | None = disk.store._best
        assert best is not None
        assert best.round_number == 0
        model = service.model(ModelKind.BEST)
        assert model is not None
        np.testing.assert_array_equal(model["w"], MODEL["w"])


async def test_metrics_wait_for_a_log_that_a_full_disk_does_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk()
    flush = MemoryFederation.flush
    full = True

    async def no_space(self: MemoryFederation, *, durable: bool) -> None:
        if full:
            raise StorageFullError("no space")
        await flush(self, durable=durable)

    monkeypatch.setattr(MemoryFederation, "flush", no_space)
    service = aggregator(disk)
    async with service:

        async def send(site: str) -> None:
            await InProcessAggregator(service, site).send_local_task_results(
                round_number=0, task_name="validate", data_size=1, tensors=results(VALIDATE, site, 0, 0.7)
            )

        await send("one")
        assert (len(service._metrics), service._metrics.shown) == (1, 0)
        full = False
        await send("two")
        assert service._metrics.shown == 2


async def test_who_was_told_to_quit_before_may_come_again_for_a_while() -> None:
    disk = Disk()
    service = aggregator(disk)
    async with service:
        await work(service, 0, value=0.5)
        for site in service.collaborators:
            assert (await InProcessAggregator(service, site).get_tasks()).quit
        await service.wait_quits_sent()  # both are told: nobody is waited for
        await anyio.sleep(1)  # the last checkpoint is written
        kept = _copy(disk.store._lines)
        checkpoints = _copy(disk.store._checkpoints)
    disk.store.__dict__.update(_lines=kept, _checkpoints=checkpoints)  # as if it had died before it left
    service = aggregator(disk)
    async with service:
        begun = anyio.current_time()
        await service.wait_quits_sent()
        assert anyio.current_time() - begun == pytest.approx(GRACE.long_poll)


async def test_who_came_again_is_not_waited_for() -> None:
    disk = Disk()
    await died(disk)
    service = aggregator(disk)
    async with service, anyio.create_task_group() as group:
        begun = anyio.current_time()
        group.start_soon(service.wait_quits_sent)
        for site in service.collaborators:
            assert (await InProcessAggregator(service, site).get_tasks()).quit
    assert anyio.current_time() - begun < GRACE.long_poll


def test_a_cutoff_runs_again_although_nobody_asks() -> None:
    """Whoever has its tasks already does not ask before they are done; with one silent, nobody would close the round."""
    config = AggregatorConfig(collaborators=("one", "two"), rounds=1, tasks=(TRAIN,))

    def rounds() -> Rounds[str]:
        return Rounds(config.collaborators, 1, make_assigner(config), Cutoff(10.0))

    resumed = rounds()
    resumed.put_back({("one", "train"): "kept"}, 100.0)
    assert resumed.next_timer() == 110.0
    reported = rounds()
    reported.put_back({}, 100.0)
    assert reported.next_timer() is None
    reported.report("one", 0, "train", "result", 103.0)
    assert reported.next_timer() == 113.0
    reported.handle_timer(113.0)
    assert reported.phase is Phase.AGGREGATING
    (closed,) = [event for event in reported.events() if isinstance(event, RoundClosed)]
    assert closed.stragglers == ("two",)
