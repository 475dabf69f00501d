"""What a director makes of the pickles in an archive: read as data, run in a child process, or refused with a sentence."""

from __future__ import annotations

import importlib.util
import io
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import yaml

from openfl_aio.config import DirectorConfig, default_tasks
from openfl_aio.director.execution import Assigned, assigned_tasks
from openfl_aio.director.foreign import PickledFunctions
from openfl_aio.domain import Task, TaskKind
from openfl_aio.errors import ArchiveError
from openfl_aio.plan.assigned import MAX_PICKLED_BYTES
from openfl_aio.plan.experiment import experiment_plan
from openfl_aio.plan.plan import Plan
from openfl_aio.storage.archives import Archives
from tests.director.test_foreign import openfl
from tests.plan.frontends import adaptive_function, stock_assigner, stock_functions

pytestmark = pytest.mark.real_time

SERIALIZERS = "openfl.plugins.interface_serializer"
CLOUDPICKLE = f"{SERIALIZERS}.cloudpickle_serializer.CloudpickleSerializer"
ONLY_TRAIN = (Task("train", "fit", TaskKind.TRAIN, apply_local=False),)

HELD = """
def held(collaborators, round_number, number_of_callaborators):
    from openfl.component.assigner.tasks import TrainTask
    KEPT
    return {name: [TrainTask("train", "fit")] for name in collaborators}
"""


def plan_of(serializer: str) -> Plan:
    """Return the plan of OpenFL's frontend with a serializer."""
    plan = experiment_plan(
        task_runner="adding.AddOne", settings={}, rounds=2, tasks=default_tasks(), agg_addr="localhost", agg_port=1
    )
    config = yaml.safe_load(plan.dump())
    config["tasks"] = {"settings": {}}
    config["assigner"]["settings"] = {}
    config["task_runner"]["required_plugin_components"] = {"framework_adapters": "adding.Adapter"}
    config["api_layer"] = {"required_plugin_components": {"serializer_plugin": serializer}, "settings": {}}
    return Plan.parse(yaml.safe_dump(config))


async def assigned(
    folder: Path, members: Mapping[str, bytes], *, allowed: bool, serializer: str = CLOUDPICKLE
) -> tuple[Assigned, Path]:
    """Return what a director makes of an archive of the files ``members``, by their stems, and that archive."""
    archives = Archives(folder)
    await archives.open()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zf:
        for stem, data in members.items():
            zf.writestr(f"{stem}.py" if stem == "mine" else f"{stem}_obj.pkl", data)
    async with archives.receive() as sink:
        await sink.write(buffer.getvalue())
        archive = await sink.keep()
    config = DirectorConfig(allow_pickled_code=allowed)
    found = await assigned_tasks(archives, archive, plan_of(serializer), collaborators=["one", "two"], config=config)
    assert found is not None
    return found, archive.path


def holding(kept: object) -> bytes:
    """Return the pickle of an assigner that holds a value."""
    names: dict[str, Any] = {"__name__": "__main__", "KEPT": kept}
    exec(HELD, names)
    pickled: bytes = cloudpickle.dumps(names["held"])
    return pickled


ROWS: dict[str, Callable[[], bytes]] = {
    "tuple keys": lambda: holding({("one", 0): "train"}),
    "a bytearray": lambda: holding(bytearray(b"abc")),
    "a large array": lambda: holding(np.zeros(400_000)),
    "a number that is no value here": lambda: holding(1 << 4000),
    "too large": lambda: holding(bytes(MAX_PICKLED_BYTES)),
    "a number that is no value here, by protocol 2": lambda: cloudpickle.dumps(
        cloudpickle.loads(holding(1 << 4000)), protocol=2
    ),
    "pickle protocol 2": lambda: cloudpickle.dumps(cloudpickle.loads(holding(0)), protocol=2),
}
TOLD = {
    "a number that is no value here": r"begins with .*uses the instruction LONG4",
    "a number that is no value here, by protocol 2": r"begins with .*uses the instruction LONG4",
    "too large": r"is not read \(.*67108864",
}


@pytest.mark.parametrize("row", ROWS)
async def test_an_assigner_of_the_users_own_runs_if_the_operator_says_so_whatever_it_holds(
    tmp_path: Path, row: str
) -> None:
    data = ROWS[row]()
    found, _ = await assigned(tmp_path, {"task_assigner": data}, allowed=True)
    assert found.tasks == ONLY_TRAIN
    assert found.assigner.table == ({"one": ("train",), "two": ("train",)},) * 2
    told = TOLD.get(row, r"holds __main__\.held, which")
    with pytest.raises(ArchiveError, match=rf"task_assigner_obj\.pkl {told}.*'allow_pickled_code'"):
        await assigned(tmp_path, {"task_assigner": data}, allowed=False)


@pytest.mark.parametrize("data", [pickle.dumps({"fit": 1}, protocol=0), b"nothing", bytes(MAX_PICKLED_BYTES + 1)])
async def test_functions_that_cannot_be_read_are_left_to_the_child_or_refused(tmp_path: Path, data: bytes) -> None:
    members = {"task_assigner": stock_assigner(names=("fit", "check")), "aggregation_function": data}
    found, _ = await assigned(tmp_path, members, allowed=True)
    assert [task.name for task in found.pickled] == ["train"]
    with pytest.raises(ArchiveError, match=r"aggregation_function_obj\.pkl .*'allow_pickled_code'"):
        await assigned(tmp_path, members, allowed=False)


async def test_adaptive_functions_need_no_option(tmp_path: Path) -> None:
    params = {"w": np.ones(3, np.float32)}
    found, _ = await assigned(
        tmp_path,
        {
            "task_assigner": stock_assigner(names=("fit", "check")),
            "aggregation_function": adaptive_function(lambda table: None, params),
        },
        allowed=False,
    )
    assert found.aggregation["train"].startswith("adam:")
    assert list(found.functions) == ["train"]
    assert not found.pickled


MINE = b"""
import pickle
from openfl.plugins.interface_serializer.serializer_interface import Serializer
class Mine(Serializer):
    def __init__(self):
        self.start = 4
    def restore_object(self, filename):
        with open(filename, "rb") as file:
            file.seek(self.start)
            return pickle.load(file)
"""


async def test_a_serializer_of_the_users_own_reads_the_files_in_the_child(tmp_path: Path) -> None:
    assigner = b"mine" + holding(0)
    members = {"task_assigner": assigner, "mine": MINE}
    found, _ = await assigned(tmp_path, members, allowed=True, serializer="mine.Mine")
    assert found.tasks == ONLY_TRAIN
    with openfl():
        members["aggregation_function"] = b"mine" + stock_functions(fit="Median")
    found, path = await assigned(tmp_path, members, allowed=True, serializer="mine.Mine")
    assert found.pickled == ONLY_TRAIN
    config = DirectorConfig()
    async with PickledFunctions(
        path, found.pickled, serializer=found.serializer, limits=config.limits, process_limits=config.process_limits
    ) as functions:
        assert list(functions.functions) == ["train"]
    with pytest.raises(
        ArchiveError, match=r"aggregation_function_obj\.pkl .*plan's serializer mine\.Mine.*'allow_pickle"
    ):
        await assigned(tmp_path, members, allowed=False, serializer="mine.Mine")


async def test_a_serializer_that_is_not_there_is_told(tmp_path: Path) -> None:
    told = r"task_assigner_obj\.pkl.*the plan's serializer nowhere\.Mine, which cannot be imported here .*nowhere"
    with pytest.raises(ArchiveError, match=told):
        await assigned(tmp_path, {"task_assigner": holding(0)}, allowed=True, serializer="nowhere.Mine")


async def test_dills_files_need_dill(tmp_path: Path) -> None:
    dill = f"{SERIALIZERS}.dill_serializer.DillSerializer"
    data = holding(0)
    with pytest.raises(
        ArchiveError, match=r"held, which .*the plan's serializer is .*DillSerializer.*'allow_pickled_code'"
    ):
        await assigned(tmp_path, {"task_assigner": data}, allowed=False, serializer=dill)
    if importlib.util.find_spec("dill") is not None:
        found, _ = await assigned(tmp_path, {"task_assigner": data}, allowed=True, serializer=dill)
        assert found.tasks == ONLY_TRAIN
    else:
        with pytest.raises(ArchiveError, match=r"written by dill, which is not installed here; run: pip install dill"):
            await assigned(tmp_path, {"task_assigner": data}, allowed=True, serializer=dill)
