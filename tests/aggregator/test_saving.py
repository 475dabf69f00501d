from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from numpy.typing import NDArray

from openfl_aio.aggregator.saving import Saver
from openfl_aio.errors import StorageError, StorageFullError
from openfl_aio.storage.models import ModelFiles

MODEL = {"w": np.zeros(1, np.float32)}
BEST, LAST = Path("best"), Path("last")


class SlowFiles(ModelFiles):
    """Takes ten seconds for each model. For rounds in ``full`` there is no room, those in ``broken`` fail."""

    def __init__(self, *, full: Sequence[int] = (), broken: Sequence[int] = ()) -> None:
        super().__init__()
        self.saved: list[tuple[str, int, float]] = []
        self.full = set(full)
        self._broken = broken

    async def save(
        self, path: Path, tensors: Mapping[str, NDArray[Any]], *, round_number: int, durable: bool = True
    ) -> None:
        assert not durable
        await anyio.sleep(10)
        if round_number in self.full:
            raise StorageFullError("no space")
        if round_number in self._broken:
            raise StorageError("broken")
        self.saved.append((path.name, round_number, anyio.current_time()))


async def test_models_are_saved_in_turn_and_of_one_path_the_newest() -> None:
    files, errors = SlowFiles(), list[Exception]()
    async with anyio.create_task_group() as group:
        saver = Saver(files, durable=False, start=group.start_soon, failed=errors.append)
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
    files, errors = SlowFiles(broken=[1]), list[Exception]()
    async with anyio.create_task_group() as group:
        saver = Saver(files, durable=False, start=group.start_soon, failed=errors.append)
        await saver.save(LAST, MODEL, round_number=1)
        await saver.settled()
        assert [str(error) for error in errors] == ["broken"]
        assert saver.error is errors[0]
        await saver.save(LAST, MODEL, round_number=2)
        await saver.settled()
        assert saver.error is None


async def test_a_full_disk_is_tried_again_until_there_is_room_and_told_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    files, errors = SlowFiles(full=[1]), list[Exception]()
    async with anyio.create_task_group() as group:
        saver = Saver(files, durable=False, start=group.start_soon, failed=errors.append)
        await saver.save(LAST, MODEL, round_number=1)
        await anyio.sleep(120)
        assert "writing" in repr(saver)
        assert 1 <= sum("no space" in message for message in caplog.messages) <= 3
        files.full.clear()
        await saver.settled()
    assert [name for name, *_ in files.saved] == ["last"]
    assert errors == []


async def test_whoever_closes_waits_for_no_disk() -> None:
    files, errors = SlowFiles(full=[1]), list[Exception]()
    async with anyio.create_task_group() as group:
        saver = Saver(files, durable=False, start=group.start_soon, failed=errors.append)
        await saver.save(LAST, MODEL, round_number=1)
        await anyio.sleep(30)
        saver.close()
        await saver.settled()
    assert [str(error) for error in errors] == ["no space"]


async def test_other_things_are_written_before_models_and_one_at_a_time() -> None:
    files, errors, written = SlowFiles(), list[Exception](), list[tuple[str, float]]()

    async def write(name: str) -> None:
        await anyio.sleep(5)
        written.append((name, anyio.current_time()))

    async with anyio.create_task_group() as group:
        saver = Saver(files, durable=False, start=group.start_soon, failed=errors.append)
        begun = anyio.current_time()
        await saver.save(LAST, MODEL, round_number=1)
        await saver.write(lambda: write("first"))
        assert anyio.current_time() == begun
        await saver.write(lambda: write("second"))
        assert anyio.current_time() == begun + 5
        await saver.settled()
    assert [(name, at - begun) for name, at in written] == [
        ("first", 5),
        ("second", 20),
    ]  # a model that waited goes between
    assert files.saved == [("last", 1, begun + 15)]
    assert errors == []


async def test_what_cannot_be_written_does_not_stop_what_follows() -> None:
    errors = list[Exception]()

    async def fail() -> None:
        raise StorageError("broken")

    async with anyio.create_task_group() as group:
        saver = Saver(SlowFiles(), durable=False, start=group.start_soon, failed=errors.append)
        await saver.write(fail)
        await saver.write(fail)
        await saver.settled()
    assert [str(error) for error in errors] == ["broken", "broken"]


async def test_what_was_submitted_is_saved_although_its_owner_ends() -> None:
    files, errors = SlowFiles(), list[Exception]()
    async with anyio.create_task_group() as group:
        saver = Saver(files, durable=False, start=group.start_soon, failed=errors.append)
        await saver.save(LAST, MODEL, round_number=1)
        await saver.save(BEST, MODEL, round_number=1)
        group.cancel_scope.cancel()
    assert [name for name, *_ in files.saved] == ["last", "best"]
    assert errors == []
