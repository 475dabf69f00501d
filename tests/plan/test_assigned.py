"""Tasks and aggregation functions of OpenFL's frontend, from its pickles and without running them."""

from __future__ import annotations

import base64
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from openfl_aio.domain import Task, TaskKind
from openfl_aio.errors import ArchiveError
from openfl_aio.plan.assigned import ForeignCodeError, Functions, read_functions, read_tasks
from tests.plan.frontends import frontend, registered, stock_assigner, stock_functions

TRAIN = Task("train", "fit", TaskKind.TRAIN, apply_local=False)
LOCAL = Task("locally_tuned_model_validate", "check", TaskKind.VALIDATE, apply_local=True)
GLOBAL = Task("aggregated_model_validate", "check", TaskKind.VALIDATE, apply_local=False)
NAMES = ("fit", "check")
PICKLED = sorted((Path(__file__).parent / "pickled").glob("*.json"), key=lambda path: path.stem)


@pytest.fixture(params=PICKLED, ids=[path.stem for path in PICKLED])
def pickled(request: pytest.FixtureRequest) -> dict[str, bytes]:
    """What cloudpickle makes on each Python of OpenFL's own assigners, without their instructions, and of others."""
    kept = json.loads(request.param.read_text())
    return {name: base64.b64decode(text) for name, text in kept.items() if name not in ("python", "cloudpickle")}


def test_there_are_pickles_of_all_pythons_that_frontends_run_on() -> None:
    assert sorted(path.stem for path in PICKLED) == sorted(f"python3.{minor}" for minor in range(8, 13))


def test_what_openfl_itself_pickles_is_read(pickled: dict[str, bytes]) -> None:
    train = Task("train", "train", TaskKind.TRAIN, apply_local=False)
    tuned = Task("locally_tuned_model_validate", "validate", TaskKind.VALIDATE, apply_local=True)
    aggregated = Task("aggregated_model_validate", "validate", TaskKind.VALIDATE, apply_local=False)
    assert read_tasks(pickled["both"]) == (train, tuned, aggregated)
    assert read_tasks(pickled["validate"]) == (aggregated,)
    assert read_functions(pickled["default_aggregation"]) == Functions()
    assert read_functions(pickled["aggregation"]) == Functions({"train": "geometric_median", "validate": "median"})


def test_what_users_pickle_is_refused_on_every_python(pickled: dict[str, bytes]) -> None:
    with pytest.raises(ForeignCodeError, match=r"task_assigner_obj\.pkl holds .*__main__\.own"):
        read_tasks(pickled["own_assigner"])
    with pytest.raises(ArchiveError, match=r"aggregation_function_obj\.pkl"):
        read_functions(pickled["own_aggregation"])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(b"interactive_api.experiment", b"interactive_api.experimenX", id="another module"),
        pytest.param(b"round_number", b"round_numbex", id="another variable"),
        pytest.param(b"component.assigner.tasks", b"component.assigner.taskX", id="tasks of another module"),
        pytest.param(b"__module__", b"__modulX__", id="no module"),
    ],
)
def test_what_differs_from_openfls_own_is_not_taken_for_it(pickled: dict[str, bytes], old: bytes, new: bytes) -> None:
    assert old in pickled["both"]
    with pytest.raises(ArchiveError, match=r"task_assigner_obj\.pkl"):
        read_tasks(pickled["both"].replace(old, new))


LAUGHS = b")" + b"2\x86" * 60  # sixty tuples, each twice the one before: printing or comparing them never ends


@pytest.mark.parametrize(
    "data",
    [
        LAUGHS + b".",
        b"\x8c\x01x\x8c\x01y\x93" + LAUGHS + b"R.",
        b"\x8c\x01x\x8c\x01y\x93)R(N}\x8c\x0a__module__" + LAUGHS + b"stb.",
        b"]\x94h\x00a.",
    ],
)
def test_what_is_nested_without_end_is_refused_without_walking_through_it(data: bytes) -> None:
    with pytest.raises(ForeignCodeError, match=r"task_assigner_obj\.pkl"):
        read_tasks(b"\x80\x04" + data)
    with pytest.raises(ArchiveError, match=r"aggregation_function_obj\.pkl"):
        read_functions(b"\x80\x04" + data)


def test_the_stock_assigner_gives_its_tasks_in_its_order() -> None:
    assert read_tasks(stock_assigner(names=NAMES)) == (TRAIN, LOCAL, GLOBAL)
    assert read_tasks(stock_assigner(train=False, names=NAMES)) == (GLOBAL,)


def test_aggregation_functions_are_those_of_the_tasks_functions() -> None:
    found = read_functions(stock_functions(fit="Median", other="Median"))
    assert found.of((TRAIN, LOCAL, GLOBAL)) == {
        "train": "median",
        "locally_tuned_model_validate": "weighted_average",
        "aggregated_model_validate": "weighted_average",
    }


def test_an_adaptive_function_keeps_its_settings() -> None:
    found = read_functions(stock_functions(fit="AdamAdaptiveAggregation"))
    name, _, settings = found.by_function["fit"].partition(":")
    assert name == "adam"
    assert set(settings.split(",")) == {
        "learning_rate=0.5",
        "initial_accumulator_value=0.0",
        "epsilon=1e-06",
        "betas=0.8/0.9",
    }


def of_its_own(modules: dict[str, Any]) -> Callable[..., object]:
    tasks = registered(modules)

    def assigner(collaborators: list[str], round_number: int, **kwargs: object) -> object:
        return {name: [tasks["train"]] for name in collaborators if round_number}

    return assigner


def test_a_function_of_the_users_own_is_refused_by_its_name_and_with_the_option() -> None:
    with frontend() as modules:
        pickled = cloudpickle.dumps(of_its_own(modules))
    with pytest.raises(ForeignCodeError, match=r"of_its_own\.<locals>\.assigner.*allow_pickled_code"):
        read_tasks(pickled)


def test_an_aggregation_function_of_the_users_own_is_refused_by_its_name() -> None:
    class Mine:
        pass

    pickled = cloudpickle.dumps({"fit": Mine()})
    with pytest.raises(ForeignCodeError, match=r"aggregation_function_obj\.pkl.*Mine.*allow_pickled_code"):
        read_functions(pickled)


def test_where_users_functions_may_run_they_are_told_from_openfls(pickled: dict[str, bytes]) -> None:
    found = read_functions(pickled["own_aggregation"], allow_foreign=True)
    tasks = [Task(name, name, TaskKind.TRAIN) for name in ("train", "other")]
    assert found.foreign_tasks(tasks) == (tasks[0],)
    assert found.of(tasks) == {"other": "weighted_average"}


def test_what_cannot_be_read_is_taken_for_the_users_where_it_may_run() -> None:
    found = read_functions(b"\x80\x04.", allow_foreign=True)
    assert found.foreign_tasks([TRAIN, LOCAL, GLOBAL]) == (TRAIN,)
    assert found.of([TRAIN, LOCAL]) == {"locally_tuned_model_validate": "weighted_average"}


def test_without_the_file_everything_is_averaged() -> None:
    assert Functions().of([TRAIN]) == {"train": "weighted_average"}


@pytest.mark.parametrize("value", [None, 7, "text", [], {"a": 1}, print, dict])
def test_anything_else_for_an_assigner_is_refused(value: object) -> None:
    with pytest.raises(ForeignCodeError, match=r"task_assigner_obj\.pkl"):
        read_tasks(pickle.dumps(value, protocol=4))


@pytest.mark.parametrize(
    ("name", "function", "kind"), [("../x", "f", "train"), (7, "f", "train"), ("x", None, "train"), ("x", "f", "fly")]
)
def test_a_task_that_is_none_is_refused(name: Any, function: Any, kind: Any) -> None:
    with frontend() as modules:
        tasks = registered(modules)
        tasks["train"].name, tasks["train"].function_name, tasks["train"].task_type = name, function, kind
        experiment = modules["openfl.interface.interactive_api.experiment"].FLExperiment()
        pickled = cloudpickle.dumps(experiment.define_task_assigner(tasks))
    with pytest.raises(ArchiveError, match=r"task_assigner_obj\.pkl"):
        read_tasks(pickled)
