from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openfl_aio.errors import ConfigurationError
from openfl_aio.experiment.experiment import Experiment

RUNNER = """
import numpy as np

class Good:
    @classmethod
    def initial_model(cls):
        return {"w": np.ones((2, 3)), "b": np.zeros(3)}

class Empty:
    @classmethod
    def initial_model(cls):
        return {}

class Bare:
    pass
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "experiment_test_runner.py").write_text(RUNNER)
    return tmp_path


def make(folder: Path, **changes: Any) -> Experiment:
    arguments: dict[str, Any] = {
        "name": "x",
        "workspace": folder,
        "rounds": 1,
        "task_runner": "experiment_test_runner.Good",
    }
    return Experiment(**(arguments | changes))


def test_the_initial_model_is_the_one_given_or_the_task_runners(workspace: Path) -> None:
    model = make(workspace).model()
    assert {name: (values.shape, values.dtype.name) for name, values in model.items()} == {
        "w": ((2, 3), "float32"),
        "b": ((3,), "float32"),
    }
    assert make(workspace, initial_model={"only": np.float64(2)}).model() == {"only": np.float32(2)}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"name": "../victim"}, "not a plain name"),
        ({"rounds": 0}, "at least 1 round, got 0"),
        ({"workspace": Path("nowhere")}, "is no folder"),
    ],
)
def test_what_cannot_work_is_refused_at_construction(workspace: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        make(workspace, **changes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"task_runner": "experiment_test_runner.Bare"}, r"has no initial_model\(\)"),
        ({"task_runner": "experiment_test_runner.Empty"}, "must map tensor names to arrays"),
        ({"task_runner": "experiment_test_runner.Missing"}, "no class 'Missing'"),
        ({"initial_model": {"w": np.array([1.0, np.nan])}}, "not finite in w"),
    ],
)
def test_a_model_that_cannot_start_is_refused_with_the_reason(
    workspace: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        make(workspace, **changes).model()
