from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openfl_aio.collaborator.task_runner import TaskContext
from openfl_aio.compat.imports.runner import ArchiveRunner
from openfl_aio.domain import Task, TaskKind
from openfl_aio.errors import TaskError

SETTINGS: dict[str, Any] = {
    "model_file": "model_obj.pkl",
    "tasks_file": "tasks_obj.pkl",
    "loader_file": "loader_obj.pkl",
    "serializer": "openfl.plugins.interface_serializer.cloudpickle_serializer.CloudpickleSerializer",
    "adapter": "archive_adapter.Adapter",
}
ZEROS = {"w": np.zeros(3, np.float32), "seen": np.zeros((), np.float32)}


class Shard:
    def get_dataset(self, dataset_type: str) -> float:
        return 4.0


def runner(**settings: Any) -> ArchiveRunner:
    return ArchiveRunner(Shard(), **{**SETTINGS, **settings})


def context(function: str, kind: TaskKind = TaskKind.VALIDATE, round_number: int = 3) -> TaskContext:
    return TaskContext(Task(function, function, kind), round_number, "site")


@pytest.mark.usefixtures("archive")
def test_training_calls_the_function_as_its_contract_says() -> None:
    tried = runner()
    assert tried.tensor_names() == ("w", "seen")
    output = tried.run(context("train", TaskKind.TRAIN), ZEROS)
    assert output.samples == 7
    assert output.metrics == {"now": 3.0, "device_is_cpu": 1.0}
    np.testing.assert_array_equal(output.tensors["w"], np.full(3, 4.0))  # half of the way to 2 * 4
    assert sorted(output.tensors) == ["seen", "w"]
    # sent although every round begins without it: servers of 1.6 want it of all or of none
    assert list(output.state) == ["velocity"]
    assert not output.state_is_shared


@pytest.mark.usefixtures("archive")
def test_validation_gets_the_other_loader_and_returns_no_tensors() -> None:
    output = runner().run(context("validate"), {**ZEROS, "w": np.ones(3, np.float32)})
    assert (output.samples, output.metrics) == (5, {"loader": 108.0, "w": 3.0})
    assert not output.tensors
    assert not output.state


@pytest.mark.usefixtures("archive")
@pytest.mark.parametrize(
    ("treatment", "model_file", "velocity"),
    [
        # RESET asks for an optimizer, and OpenFL's own model interface answers with the same one again
        ("RESET", "model_obj.pkl", 8.0),
        ("RESET", "renewed_model_obj.pkl", 4.0),
        ("CONTINUE_LOCAL", "model_obj.pkl", 8.0),
        ("CONTINUE_LOCAL", "renewed_model_obj.pkl", 8.0),
        ("CONTINUE_GLOBAL", "model_obj.pkl", 104.0),
        ("CONTINUE_GLOBAL", "renewed_model_obj.pkl", 104.0),
    ],
)
def test_what_becomes_of_the_optimizer(treatment: str, model_file: str, velocity: float) -> None:
    tried = runner(opt_treatment=treatment, model_file=model_file)
    first = tried.run(context("train", TaskKind.TRAIN), ZEROS)
    shared = {"velocity": np.full(3, 100.0, np.float32)} if first.state_is_shared else {}
    # validating in between must not touch it
    tried.run(context("validate"), ZEROS)
    second = tried.run(context("train", TaskKind.TRAIN), {**ZEROS, **shared})
    assert first.state_is_shared is (treatment == "CONTINUE_GLOBAL")
    np.testing.assert_array_equal(second.state["velocity"], np.full(3, velocity))


@pytest.mark.usefixtures("archive")
@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("absent", "no function 'absent' is registered, only odd, silent, train, validate, wrong"),
        ("odd", "metric 'text' must be one number, got 'much'"),
        ("wrong", "must return its metrics as a dictionary, got int"),
    ],
)
def test_a_broken_contract_is_named(function: str, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        runner().run(context(function), ZEROS)


@pytest.mark.usefixtures("archive")
def test_a_task_without_metrics() -> None:
    assert runner().run(context("silent"), ZEROS).metrics == {}


def test_files_that_cannot_be_read(archive: Path) -> None:
    (archive / "tasks_obj.pkl").write_bytes(b"copenfl.native\nthing\n.")
    with pytest.raises(TaskError, match=r"tasks_obj\.pkl of the archive needs what is not installed here: .*native"):
        runner()
    (archive / "tasks_obj.pkl").write_bytes(b"\x80\x04broken")
    with pytest.raises(TaskError, match=r"tasks_obj\.pkl of the archive cannot be read: .*Python version"):
        runner()
