from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import numpy as np
from numpy.typing import NDArray

from openfl_aio.aggregator.saving import ModelSaver
from openfl_aio.errors import StorageFullError
from openfl_aio.storage.models import ModelFiles

MODEL = {"w": np.zeros(1, np.float32)}
BEST, LAST = Path("best"), Path("last")


class SlowFiles(ModelFiles):
    """Takes ten seconds for each model, and fails for rounds in ``full``."""

    def __init__(self, *full: int) -> None:
        super().__init__()
        self.saved: list[tuple[str, int, float]] = []
        self._full = full

    async def save(
        self, path: Path, tensors: Mapping[str, NDArray[Any]], *, round_number: int, durable: bool = True
    ) -> None:
        assert not durable
        await anyio.sleep(10)
        if round_number in self._full:
            raise StorageFullError("no space")
        self.saved.append((path.name, round_number, anyio.current_time()))


async def test_models_are_saved_in_turn_and_of_one_path_the_newest() -> None:
    files, errors = SlowFiles(), list[Exception]()
    async with anyio.create_task_group() as group:
        saver = ModelSaver(files, durable=False, start=group.start_soon, failed=errors.append)
        await saver.settled()
        for round_number in range(1, 5):
            await saver.save(LAST, MODEL, round_number=round_number)
            await saver.save(BEST, MODEL, round_number=round_number)
            await anyio.sleep(1)
        assert "writing" in repr(saver)
        await saver.settled()
        assert "settled" in repr(saver)
        await saver.save(LAST, MODEL, round_number=9)
    names = [(name, round_number) for name, round_number, _ in files.saved]
    assert names == [("last", 1), ("best", 4), ("last", 4), ("last", 9)]
    assert errors == []


async def test_an_error_is_told_and_forgotten_with_the_next_success() -> None:
    files, errors = SlowFiles(1), list[Exception]()
    async with anyio.create_task_group() as group:
        saver = ModelSaver(files, durable=False, start=group.start_soon, failed=errors.append)
        await saver.save(LAST, MODEL, round_number=1)
        await saver.settled()
        assert [str(error) for error in errors] == ["no space"]
        assert saver.error is errors[0]
        await saver.save(LAST, MODEL, round_number=2)
        await saver.settled()
        assert saver.error is None


async def test_what_was_submitted_is_saved_although_its_owner_ends() -> None:
    files, errors = SlowFiles(), list[Exception]()
    async with anyio.create_task_group() as group:
        saver = ModelSaver(files, durable=False, start=group.start_soon, failed=errors.append)
        await saver.save(LAST, MODEL, round_number=1)
        await saver.save(BEST, MODEL, round_number=1)
        group.cancel_scope.cancel()
    assert [name for name, *_ in files.saved] == ["last", "best"]
    assert errors == []
