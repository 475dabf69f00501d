"""Assigners and aggregation functions of users' own run in a child process, which has a time limit and nothing of ours."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import cloudpickle
import numpy as np
import pytest

from openfl_aio.compat.imports import install, uninstall
from openfl_aio.config import DirectorConfig, Limits, ProcessLimits
from openfl_aio.director.foreign import PickledFunctions, run_assigner
from openfl_aio.domain import Task, TaskKind
from openfl_aio.errors import ArchiveError, OpenFLAioError, TensorError
from openfl_aio.plan.assigned import AGGREGATION_FILE, ASSIGNER_FILE
from openfl_aio.tensors.aggregation import AggregationContext, History, HistoryRow, LocalTensor
from openfl_aio.tensors.key import TensorKey

pytestmark = pytest.mark.real_time

LIMITS = DirectorConfig().process_limits

HELPER = """
from openfl.component.assigner.tasks import TrainTask, ValidateTask

TRAIN = TrainTask("train", "fit")
CHECK = ValidateTask("check", "look", apply_local=True)
"""


def archive_of(folder: Path, function: Callable[..., object]) -> Path:
    path = folder / "archive.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(ASSIGNER_FILE, cloudpickle.dumps(function))
        archive.writestr("site_tasks.py", HELPER)
    return path


def made(body: str) -> Callable[..., object]:
    """Return a function that cloudpickle sends by value."""
    names: dict[str, Callable[..., object]] = {}
    exec(f"def assigner(collaborators, round_number, number_of_callaborators):\n{body}", names)
    return names["assigner"]


async def test_it_is_asked_for_every_round_with_openfls_arguments_and_modules_of_the_archive(tmp_path: Path) -> None:
    function = made(
        """
    from site_tasks import CHECK, TRAIN
    assert number_of_callaborators == len(collaborators) == 2
    print("to be seen by nobody")
    return {name: [TRAIN, CHECK] if index == round_number else [CHECK] for index, name in enumerate(collaborators)}
"""
    )
    tasks, table = await run_assigner(
        archive_of(tmp_path, function), ["one", "two"], 2, limits=Limits(), process_limits=LIMITS
    )
    assert set(tasks) == {
        Task("train", "fit", TaskKind.TRAIN, apply_local=False),
        Task("check", "look", TaskKind.VALIDATE, apply_local=True),
    }
    assert table == ({"one": ("train", "check"), "two": ("check",)}, {"one": ("check",), "two": ("train", "check")})


async def test_it_has_nothing_of_our_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "1")
    function = made("    import os\n    raise ValueError(f'sees {sorted(os.environ)}')")
    with pytest.raises(ArchiveError, match="sees") as info:
        await run_assigner(archive_of(tmp_path, function), ["one"], 1, limits=Limits(), process_limits=LIMITS)
    assert "SECRET" not in str(info.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("    raise ValueError('no such day')", "no such day"),
        ("    import os; os._exit(3)", "ended with exit code 3"),
        ("    return [bytes(1 << 20) + b'x' for _ in range(2000)]", r"of memory, 1024 are allowed \(memory_bytes\)"),
        ("    return 7", "AttributeError"),
        ("    return {'one': [7]}", "AttributeError"),
        ("    import time; time.sleep(60)", "longer than 3 s"),
    ],
)
async def test_whatever_it_does_instead_is_told(tmp_path: Path, body: str, message: str) -> None:
    # a child may take long to start
    limits = ProcessLimits(**{**dict(LIMITS), "task_seconds": 3.0}) if "sleep" in body else LIMITS
    with pytest.raises(ArchiveError, match=message):
        await run_assigner(archive_of(tmp_path, made(body)), ["one"], 1, limits=Limits(), process_limits=limits)


async def test_an_answer_that_is_none_is_refused(tmp_path: Path) -> None:
    function = made(
        """
    from openfl.component.assigner.tasks import TrainTask
    return {"one": [TrainTask("../x", "fit")]}
"""
    )
    with pytest.raises(ArchiveError, match="no assignment"):
        await run_assigner(archive_of(tmp_path, function), ["one"], 1, limits=Limits(), process_limits=LIMITS)


TRAIN = Task("train", "fit", TaskKind.TRAIN)
LOCALS = [LocalTensor("one", 10.0, np.ones(3, np.float32)), LocalTensor("two", 30.0, np.full(3, 2, np.float32))]
MODEL = np.full(3, 7, np.float32)
KEYS = [
    TensorKey.of("w", "aggregator", 4, tags=("model",)),
    TensorKey.of("w", "one", 4, tags=("trained", "delta")),
]


@contextmanager
def openfl() -> Iterator[None]:
    """Give OpenFL's names for a moment, as they are where a frontend is."""
    install()
    try:
        yield
    finally:
        uninstall()


def functions_of(folder: Path, body: str, limits: ProcessLimits = LIMITS) -> PickledFunctions:
    """Return a function of a user's own, whose method ``call`` has ``body``."""
    source = f"""
from openfl.interface.aggregation_functions import AggregationFunction
class Mine(AggregationFunction):
    def __init__(self):
        super().__init__()
        self.calls = 0
    def call(self, local_tensors, db_iterator, tensor_name, fl_round, tags):
        import numpy as np
        self.calls += 1
{body}
"""
    names: dict[str, Any] = {"__name__": "__main__"}
    with openfl():
        exec(source, names)
        pickled = cloudpickle.dumps({"fit": names["Mine"]()})
    path = folder / "archive.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(AGGREGATION_FILE, pickled)
    return PickledFunctions(path, [TRAIN], limits=Limits(), process_limits=limits)


async def aggregate(functions: PickledFunctions, tensors: list[LocalTensor] = LOCALS) -> np.ndarray:
    history = History(HistoryRow(key, lambda: MODEL) for key in KEYS)
    call = partial(
        functions.functions["train"].aggregate_with, tensors, AggregationContext("w", 4, ("trained",)), history
    )
    return await anyio.to_thread.run_sync(call)


async def test_a_function_gets_what_openfls_director_gives_it_and_goes_on_from_round_to_round(tmp_path: Path) -> None:
    body = """
        assert [(tensor.col_name, tensor.weight) for tensor in local_tensors] == [("one", 0.25), ("two", 0.75)]
        assert (tensor_name, fl_round, tags) == ("w", 4, ("trained",))
        rows = [(row["tensor_name"], row["round"], row["tags"]) for row in db_iterator]
        assert rows == [("w", 4, ("model",)), ("w", 4, ("aggregated",)), ("w", 4, ("one", "trained"))], rows
        return sum(tensor.weight * tensor.tensor for tensor in local_tensors) + self.calls
"""
    async with functions_of(tmp_path, body) as functions:
        for calls in (1, 2):
            values = await aggregate(functions)
            np.testing.assert_array_equal(values, np.full(3, 1.75 + calls, np.float32))
            assert values.dtype == np.float32
            assert not values.flags.writeable


async def test_a_function_may_call_openfls_own_and_read_the_model_and_deltas_are_applied(tmp_path: Path) -> None:
    body = """
        from openfl.interface.aggregation_functions import Median
        model = next(row["nparray"] for row in db_iterator if "aggregated" in row["tags"])
        return Median().call(local_tensors) + model
"""
    tensors = [LocalTensor("one", 1.0, np.ones(3, np.float32), base=MODEL)]
    async with functions_of(tmp_path, body) as functions:
        np.testing.assert_array_equal(await aggregate(functions, tensors), np.full(3, 15))


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ("raise ValueError('too few')", ArchiveError, r"aggregation_function_obj\.pkl: .*'fit' failed.*too few.*call"),
        ("raise SystemExit(4)", ArchiveError, "SystemExit: 4"),
        ("import os, sys; print('so it ends', file=sys.stderr); os._exit(3)", ArchiveError, "code 3; .*: so it ends"),
        ("import os; os.kill(os.getpid(), 11)", ArchiveError, "signal 11"),
        ("x = [bytes(1 << 20) + b'x' for _ in range(2000)]", ArchiveError, r"1024 are allowed \(memory_bytes\)"),
        ("import time; time.sleep(60)", ArchiveError, "longer than 3 s"),
        ("return np.ones(4)", TensorError, r"shape \(4,\).*expected shape \(3,\)"),
        ("return np.ones((1000, 1000))", OpenFLAioError, "cannot be used"),
        ("return None", ArchiveError, "expected an array of numbers"),
        ("return np.full(3, np.nan)", TensorError, "not finite"),
        ("return np.full(3, 1e300)", TensorError, "not finite"),
    ],
)
async def test_whatever_a_function_does_instead_is_told(
    tmp_path: Path, body: str, error: type[OpenFLAioError], message: str
) -> None:
    async with functions_of(tmp_path, f"        {body}") as functions:
        if "sleep" in body:  # from now on: loading is a call too, and a child may take long to start
            assert functions._code is not None
            functions._code._limits = ProcessLimits(task_seconds=3.0)
        with pytest.raises(error, match=message):
            await aggregate(functions)


async def test_tensors_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    async with functions_of(tmp_path, "        return 0") as functions:
        with pytest.raises(TensorError, match="expected shape"):
            await aggregate(functions, [*LOCALS, LocalTensor("three", 1.0, np.ones(4, np.float32))])


async def test_functions_that_cannot_be_loaded_are_told_before_the_first_round(tmp_path: Path) -> None:
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(AGGREGATION_FILE, b"cnowhere\nMine\n.")
    functions = PickledFunctions(path, [TRAIN], limits=Limits(), process_limits=LIMITS)
    with pytest.raises(ArchiveError, match="No module named 'nowhere'"):
        async with functions:
            pass
    assert not Path(functions._folder.name).exists()


async def test_killed_code_ends_the_call_that_waits_for_it(tmp_path: Path) -> None:
    async with functions_of(tmp_path, "        import time; time.sleep(600)") as functions:
        failed: list[str] = []

        async def wait() -> None:
            with pytest.raises(ArchiveError) as info:
                await aggregate(functions)
            failed.append(str(info.value))

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.sleep(0.2)
            functions.kill()
        assert "it was told to end" in failed[0]
    assert not Path(functions._folder.name).exists()
