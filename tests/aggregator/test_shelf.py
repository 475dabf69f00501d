from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread
import numpy as np
import pytest

from openfl_aio.aggregator.closing import RoundOutcome
from openfl_aio.aggregator.models import Difference, GlobalModels, Uncoded
from openfl_aio.aggregator.scratch import LEAST_BYTES, is_put_away
from openfl_aio.aggregator.shelf import Shelf
from openfl_aio.domain import TensorQuery
from openfl_aio.errors import StorageFullError
from openfl_aio.storage.checkpoint_file import Checkpoint
from openfl_aio.storage.federations import FileFederation, MemoryFederation
from openfl_aio.tensors.codec import EncodedTensor, TensorCodec
from openfl_aio.tensors.float_table import FloatTable

T = TypeVar("T")
LARGE = LEAST_BYTES // 4
CODEC = TensorCodec()


class Counting:
    """Counts what it is asked to run."""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self, function: Callable[[], T], /) -> T:
        self.calls += 1
        return await anyio.to_thread.run_sync(function)


def models_of(*values: float, codec: TensorCodec = CODEC) -> GlobalModels:
    def model(value: float) -> dict[str, np.ndarray]:
        return {"large": np.full((LARGE, 1), value, np.float32), "small": np.full(2, value, np.float32)}

    models = GlobalModels(model(values[0]), initial_round=0, origin="aggregator", codec=codec, store_rounds=2)
    for value in values[1:]:
        models.close_round(RoundOutcome(models.round_number, model(value), {}))
    return models


def ask(models: GlobalModels, name: str) -> EncodedTensor | Difference | Uncoded | None:
    return models.find(TensorQuery(name, models.round_number, tags=("aggregated", "delta")))


@pytest.mark.parametrize("in_files", [True, False])
async def test_a_delta_is_made_once_for_all_who_ask(tmp_path: Path, in_files: bool) -> None:
    models, offload = models_of(1, 3), Counting()
    shelf = Shelf(models, CODEC, offload, tmp_path if in_files else None)
    wanted = ask(models, "large")
    assert isinstance(wanted, Difference)
    got: list[EncodedTensor] = []

    async def fetch() -> None:
        got.append(await shelf.delta(wanted))

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(fetch)
    assert offload.calls == 1
    assert all(one.data is got[0].data for one in got)
    values = CODEC.decode(got[0])
    assert is_put_away(values) is in_files
    np.testing.assert_array_equal(values, np.full((LARGE, 1), 2.0))
    assert got[0].tags == ("aggregated", "compressed", "delta")
    found = ask(models, "large")
    assert isinstance(found, EncodedTensor)
    assert found.data is got[0].data


async def test_a_small_delta_is_made_on_the_spot(tmp_path: Path) -> None:
    models, offload = models_of(1, 3), Counting()
    wanted = ask(models, "small")
    assert isinstance(wanted, Difference)
    encoded = await Shelf(models, CODEC, offload, tmp_path).delta(wanted)
    assert offload.calls == 0
    np.testing.assert_array_equal(CODEC.decode(encoded), [2, 2])
    assert ask(models, "small") == encoded


@pytest.mark.parametrize(("name", "calls"), [("large", 1), ("small", 0)])
async def test_a_pipeline_codes_a_tensor_once_for_all_who_ask_and_a_large_one_elsewhere(name: str, calls: int) -> None:
    codec, offload = TensorCodec("random_shift"), Counting()
    models = models_of(1, 3, codec=codec)
    shelf = Shelf(models, codec, offload, None)
    wanted = models.find(TensorQuery(name, 1, tags=("model",), require_lossless=False))
    assert isinstance(wanted, Uncoded)
    got: list[EncodedTensor] = []

    async def fetch() -> None:
        got.append(await shelf.coded(wanted))

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(fetch)
    assert offload.calls == calls
    assert all(one.data is got[0].data for one in got)
    table = got[0].metadata[0].int_to_float
    assert isinstance(table, FloatTable)
    assert table.written is not None  # its bytes on the wire, which take as long
    np.testing.assert_allclose(codec.decode(got[0]), models.current[name], atol=1e-5)
    found = models.find(TensorQuery(name, 1, tags=("compressed", "model")))
    assert isinstance(found, EncodedTensor)
    assert (found.data is got[0].data, found.lossless, got[0].lossless) == (True, True, False)
    models.close_round(RoundOutcome(1, {name: models.current[name]}, {}))
    models.close_round(RoundOutcome(2, {name: models.current[name]}, {}))
    models.put_coded(wanted.key, got[0])  # somebody was slow
    assert models.known_coded(wanted.key) is None


async def test_older_models_go_to_files_and_the_current_one_stays(tmp_path: Path) -> None:
    models = models_of(1, 3, 5)
    current = models.current
    await Shelf(models, CODEC, Counting(), tmp_path).put_away()
    assert {(number, name): is_put_away(array) for number, name, array in models.older()} == {
        (0, "large"): True,
        (0, "small"): False,
        (1, "large"): True,
        (1, "small"): False,
    }
    assert models.current is current
    assert not is_put_away(current["large"])
    found = models.find(TensorQuery("large", 1, tags=("model",)))
    assert isinstance(found, EncodedTensor)
    np.testing.assert_array_equal(CODEC.decode(found), np.full((LARGE, 1), 3.0))
    assert list(tmp_path.iterdir()) == []


async def test_what_a_disk_does_not_take_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    models = models_of(1, 3)
    with caplog.at_level(logging.WARNING):
        await Shelf(models, CODEC, Counting(), tmp_path / "nowhere").put_away()
    assert "stays in memory" in caplog.text
    assert not any(is_put_away(array) for _, _, array in models.older())
    await Shelf(models, CODEC, Counting(), None).put_away()
    assert not any(is_put_away(array) for _, _, array in models.older())


async def test_the_current_model_lies_in_its_checkpoint_if_that_is_written(tmp_path: Path) -> None:
    models = models_of(1, 3)
    current = models.current
    store = FileFederation(tmp_path / "federation", anyio.to_thread.run_sync)
    shelf = Shelf(models, CODEC, Counting(), tmp_path, store)
    await shelf.put_away_current()
    assert models.current["large"] is current["large"]
    written = Checkpoint(1, {}, {("model", name): array for name, array in current.items()})
    await store.save(written, durable=False)
    await shelf.put_away_current()
    assert is_put_away(models.current["large"])
    assert models.current["small"] is current["small"]
    np.testing.assert_array_equal(models.current["large"], current["large"])


async def test_the_current_model_stays_where_its_checkpoint_cannot_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class NoDescriptor(MemoryFederation):
        async def look(self, round_number: int) -> None:
            raise StorageFullError("no file descriptor")

    models = models_of(1)
    await Shelf(models, CODEC, Counting(), tmp_path, NoDescriptor()).put_away_current()
    assert "stays in memory: no file descriptor" in caplog.text
    assert not is_put_away(models.current["large"])
