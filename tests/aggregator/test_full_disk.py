"""A disk that is full, or no descriptor to open a file, delays a round and ends nothing."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from openfl_aio.aggregator import closer
from openfl_aio.aggregator.closing import RoundOutcome, aggregate_round
from openfl_aio.aggregator.models import GlobalModels
from openfl_aio.aggregator.scratch import LEAST_BYTES, is_put_away
from openfl_aio.aggregator.service import Aggregator
from openfl_aio.aggregator.shelf import Shelf
from openfl_aio.config import AggregatorConfig
from openfl_aio.errors import ExperimentFailedError, StorageFullError
from openfl_aio.storage.federations import MemoryFederation
from openfl_aio.storage.file_journal import FileJournal
from openfl_aio.tensors.codec import TensorCodec
from openfl_aio.tensors.key import TensorKey
from openfl_aio.testing.federation import InProcessAggregator, inline


class Disk:
    """Has room for what an aggregation puts away after so many tries."""

    def __init__(self, fails: int) -> None:
        self.fails = fails
        self.tries = 0

    def __call__(self, *arguments: Any, **options: Any) -> RoundOutcome:
        self.tries += 1
        if self.tries <= self.fails:
            raise StorageFullError("no space")
        return aggregate_round(*arguments, **options)


async def one_round(aggregator: Aggregator) -> None:
    api = InProcessAggregator(aggregator, "one")
    tensor = TensorCodec().encode(TensorKey.of("w", "one", 0, tags=("trained",)), np.full(2, 4.0))
    for task in (await api.get_tasks()).tasks:
        tensors = [tensor] if task.name == "train" else []
        await api.send_local_task_results(round_number=0, task_name=task.name, data_size=1, tensors=tensors)


async def test_a_round_that_a_full_disk_did_not_let_aggregate_is_aggregated_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk(fails=9)
    monkeypatch.setattr(closer, "aggregate_round", disk)
    config = AggregatorConfig(collaborators=("one",), rounds=1)
    async with Aggregator(config, initial_model={"w": np.zeros(2, np.float32)}, offload=inline) as aggregator:
        await one_round(aggregator)
        model = await aggregator.wait_complete()
    np.testing.assert_array_equal(model["w"], [4, 4])
    assert disk.tries == 10
    assert 1 <= sum("waiting for room" in message for message in caplog.messages) <= 2


async def test_an_aggregator_that_is_closed_waits_for_no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closer, "aggregate_round", Disk(fails=10**9))
    config = AggregatorConfig(collaborators=("one",), rounds=1)
    async with Aggregator(config, initial_model={"w": np.zeros(2, np.float32)}, offload=inline) as aggregator:
        await one_round(aggregator)
        await anyio.sleep(100)
    with pytest.raises(ExperimentFailedError):
        await aggregator.wait_complete()


async def test_a_log_that_a_full_disk_does_not_let_shorten_stays_long(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def compact(*_: object, **options: object) -> None:
        raise StorageFullError("no space")

    monkeypatch.setattr(MemoryFederation, "compact", compact)
    config = AggregatorConfig(collaborators=("one",), rounds=1)
    async with Aggregator(config, initial_model={"w": np.zeros(2, np.float32)}, offload=inline) as aggregator:
        await one_round(aggregator)
        model = await aggregator.wait_complete()
    np.testing.assert_array_equal(model["w"], [4, 4])
    assert "stays as long as it is: no space" in caplog.text


async def test_a_checkpoint_that_cannot_be_opened_leaves_an_older_model_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class NoDescriptor(MemoryFederation):
        async def look(self, round_number: int) -> None:
            raise StorageFullError("no file descriptor")

    model = {"w": np.zeros(LEAST_BYTES // 4, np.float32)}
    codec = TensorCodec()
    models = GlobalModels(model, initial_round=0, origin="aggregator", codec=codec, store_rounds=2)
    models.close_round(RoundOutcome(0, {"w": model["w"] + 1}, {}))
    await Shelf(models, codec, inline, tmp_path, NoDescriptor()).put_away()
    assert "stays in memory: no file descriptor" in caplog.text
    assert not any(is_put_away(array) for _, _, array in models.older())


@pytest.mark.real_time
async def test_a_journal_that_cannot_be_listed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_descriptor(self: Path, pattern: str) -> list[Path]:
        raise OSError(errno.EMFILE, "too many")

    journal = FileJournal(tmp_path)
    await journal.open()
    try:
        with monkeypatch.context() as patched:
            patched.setattr(Path, "glob", no_descriptor)
            with pytest.raises(StorageFullError, match="no file descriptor"):
                await journal.drop("f", 1)
            with pytest.raises(StorageFullError, match="no file descriptor"):
                await journal.entries("f", 1)
        assert await journal.entries("f", 1) == []
    finally:
        await journal.close()
