"""Aggregation functions of OpenFL's frontend, from its pickles and without running them."""

from __future__ import annotations

import base64
import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

from openfl_aio.domain import Task, TaskKind
from openfl_aio.plan.assigned import ForeignCodeError
from openfl_aio.plan.pickled_functions import Functions, read_functions
from openfl_aio.tensors.aggregation import KNOWN_AGGREGATIONS, AggregationFunction
from tests.plan.frontends import adaptive_function, frontend, stock_functions
from tests.plan.test_assigned import LAUGHS

TRAIN = Task("train", "fit", TaskKind.TRAIN, apply_local=False)
LOCAL = Task("locally_tuned_model_validate", "check", TaskKind.VALIDATE, apply_local=True)
GLOBAL = Task("aggregated_model_validate", "check", TaskKind.VALIDATE, apply_local=False)
FOLDER = Path(__file__).parent / "pickled"
PYTHONS = [f"python3.{minor}" for minor in range(8, 13)]
VERSIONS = ("python", "cloudpickle", "numpy")
PARAMS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(2, np.float32)}


@pytest.fixture(params=PYTHONS)
def pickled(request: pytest.FixtureRequest) -> dict[str, bytes]:
    """What OpenFL 1.6 makes of its own functions on each Python, and what was made of users' by cloudpickle."""
    kept: dict[str, str] = {}
    for folder in (FOLDER, FOLDER / "functions"):
        kept |= json.loads((folder / f"{request.param}.json").read_text())
    return {name: base64.b64decode(text) for name, text in kept.items() if name not in VERSIONS}


def is_of(function: AggregationFunction, name: str) -> bool:
    return type(function) is KNOWN_AGGREGATIONS[name]


def test_functions_without_a_memory_are_read_on_every_python(pickled: dict[str, bytes]) -> None:
    assert read_functions(pickled["default_aggregation"]) == Functions()
    assert read_functions(pickled["aggregation"]) == Functions({"train": "geometric_median", "validate": "median"})
    names = {
        "WeightedAverage": "weighted_average",
        "Median": "median",
        "GeometricMedian": "geometric_median",
        "FedCurvWeightedAverage": "fedcurv_weighted_average",
    }
    for theirs, ours in names.items():
        assert read_functions(pickled[theirs]) == Functions({"train": ours})


@pytest.mark.parametrize(
    ("name", "written", "others"),
    [
        ("Adam", "adam:learning_rate=0.01,initial_accumulator_value=0.0,epsilon=1e-08,betas=0.9/0.999", ""),
        (
            "Adam with settings",
            "adam:learning_rate=0.5,initial_accumulator_value=0.1,epsilon=0.01,betas=0.5/0.75",
            "median",
        ),
        ("Adam of a model", "adam:learning_rate=0.25,initial_accumulator_value=0.0,epsilon=1e-08,betas=0.9/0.999", ""),
        ("Adagrad", "adagrad:learning_rate=0.5,initial_accumulator_value=0.1,epsilon=0.001", ""),
        (
            "Yogi",
            "yogi:learning_rate=0.01,initial_accumulator_value=0.0,epsilon=1e-08,betas=0.9/0.999,shrinking=1",
            "",
        ),
    ],
)
def test_adaptive_functions_are_read_on_every_python(
    pickled: dict[str, bytes], name: str, written: str, others: str
) -> None:
    found = read_functions(pickled[name])
    assert found.by_function == {"train": written}
    function = found.adaptive["train"]
    assert is_of(function.optimizer, written.partition(":")[0])
    assert is_of(function.otherwise, others or "weighted_average")
    wide = np.arange(12, dtype=np.float32).reshape(3, 4)
    params = {"c": wide / 8, "f": wide, "one": np.array(2, np.float32), "cut": wide[:, ::2]}
    assert sorted(function.params) == (["c"] if others else sorted(params))
    for key, values in function.params.items():
        np.testing.assert_array_equal(values, params[key], strict=True)
        assert not values.flags.writeable
    task = Task("fitting", "train", TaskKind.TRAIN)
    assert found.adaptive_of([task, TRAIN]) == {"fitting": function}


def test_what_users_pickle_is_refused_on_every_python(pickled: dict[str, bytes]) -> None:
    with pytest.raises(ForeignCodeError, match=r"aggregation_function_obj\.pkl holds for 'train' .*allow_pickled_code"):
        read_functions(pickled["own_aggregation"])


def test_aggregation_functions_are_those_of_the_tasks_functions() -> None:
    found = read_functions(stock_functions(fit="Median", other="Median"))
    assert found.of((TRAIN, LOCAL, GLOBAL)) == {
        "train": "median",
        "locally_tuned_model_validate": "weighted_average",
        "aggregated_model_validate": "weighted_average",
    }


def test_an_adaptive_function_keeps_its_settings_its_parameters_and_the_other_function() -> None:
    found = read_functions(adaptive_function(lambda table: None, PARAMS))
    assert (
        found.by_function["fit"] == "adam:learning_rate=0.5,initial_accumulator_value=0.0,epsilon=1e-06,betas=0.8/0.9"
    )
    function = found.adaptive["fit"]
    assert is_of(function.otherwise, "median")
    np.testing.assert_equal(function.params, PARAMS)


class Mine:
    """Anything of a user's own."""


def of_fit(change: Callable[[Any], object]) -> Callable[[Any], object]:
    """Return what does ``change`` to the function in a table."""
    return lambda table: change(table["fit"])


def stepped(function: Any) -> None:
    function.optimizer.grads_second_moment["w"][0] = 1


def counted(function: Any) -> None:
    function.optimizer.current_step["b"] = 1


def forgotten(function: Any) -> None:
    del function.optimizer.learning_rate


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (of_fit(lambda function: setattr(function, "optimizer", Mine())), "with the optimizer .*Mine"),
        (of_fit(lambda function: setattr(function, "default_agg_func", Mine())), "with .*Mine as its agg_func"),
        (of_fit(lambda function: setattr(function, "default_agg_func", function)), "Adam.* as its agg_func"),
        (of_fit(lambda function: delattr(function, "optimizer")), "without an optimizer"),
        (of_fit(lambda function: setattr(function.optimizer, "params", Mine())), "Mine as its params"),
        (of_fit(lambda function: function.optimizer.params.update(w=np.arange(3))), "parameter 'w', no array"),
        (of_fit(lambda function: function.optimizer.params.update(w=[1.0])), "parameter 'w', no array"),
        (of_fit(lambda function: function.optimizer.params.update({("w", 1): 1})), "dict as its params"),
        (of_fit(stepped), "made steps already .*second_moment of 'w'"),
        (of_fit(counted), "made steps already .*current_step"),
        (of_fit(forgotten), "as its learning_rate"),
        (of_fit(lambda function: setattr(function.optimizer, "epsilon", 0.0)), "epsilon"),
        (
            of_fit(lambda function: setattr(function.optimizer, "epsilon", 1 << 2000)),
            "as its epsilon, no number that is finite",
        ),
        (lambda table: table.update(fit=type(table["fit"])), "Adam"),
        (
            lambda table: table.update(other=table["fit"]),
            "for 'other' one optimizer for the two functions fit and other",
        ),
    ],
)
def test_an_adaptive_function_that_only_openfl_could_run_is_a_users_own(
    change: Callable[[Any], object], said: str
) -> None:
    pickled = adaptive_function(change, PARAMS)
    with pytest.raises(ForeignCodeError, match=rf"aggregation_function_obj\.pkl .*(?:{said}).*allow_pickled_code"):
        read_functions(pickled)
    found = read_functions(pickled, allow_foreign=True)
    assert found.unreadable or set(found.foreign) & {"fit", "other"}


def test_settings_may_be_numbers_of_numpy() -> None:
    pickled = adaptive_function(
        of_fit(lambda function: setattr(function.optimizer, "beta_1", np.float32(0.25))), PARAMS
    )
    assert read_functions(pickled).by_function["fit"].endswith("betas=0.25/0.9")


def test_parameters_that_are_named_over_and_over_are_not_looked_at_as_often() -> None:
    big = np.zeros(2_000_000, np.float32)
    pickled = adaptive_function(lambda table: None, {"w": big})
    shared = {f"w{number}": big for number in range(500)}
    pickled = adaptive_function(of_fit(lambda function: function.optimizer.params.update(shared)), {"w": big})
    with pytest.raises(ForeignCodeError, match=r"more than .* bytes of parameters"):
        read_functions(pickled)


def test_empty_parameters_are_not_looked_at_for_ever() -> None:
    empty = np.zeros(0, np.float32)
    params = {f"w{number}": empty for number in range(5000)}

    def change(table: dict[str, Any]) -> None:
        for number in range(10):
            table[f"more{number}"] = copy.copy(table["fit"])
            table[f"more{number}"].optimizer = copy.copy(table["fit"].optimizer)  # all share the parameters

    found = read_functions(adaptive_function(change, params), allow_foreign=True)
    assert 0 < len(found.adaptive) < 10
    assert all("bytes of parameters" in said for said in found.foreign.values())


def test_a_class_of_a_users_own_is_not_taken_for_ours_by_its_name() -> None:
    made = type("median", (), {"__module__": "__main__"})
    with pytest.raises(ForeignCodeError, match=r"holds for 'fit' an object of class __main__\.median, which is no"):
        read_functions(cloudpickle.dumps({"fit": made()}))
    with frontend() as modules:
        pickled = cloudpickle.dumps({"fit": modules["openfl.interface.aggregation_functions"].Median})
    with pytest.raises(ForeignCodeError, match=r"holds for 'fit' .*\.Median, which"):  # the class, not an object of it
        read_functions(pickled)


@pytest.mark.parametrize(
    "data", [LAUGHS + b".", b"\x8c\x01x\x8c\x01y\x93" + LAUGHS + b"R.", b"]\x94h\x00a.", b"}\x94\x8c\x01xh\x00s."]
)
def test_what_is_nested_without_end_is_refused_without_walking_through_it(data: bytes) -> None:
    with pytest.raises(ForeignCodeError, match=r"aggregation_function_obj\.pkl"):
        read_functions(b"\x80\x04" + data)


def test_where_users_functions_may_run_they_are_told_from_openfls(pickled: dict[str, bytes]) -> None:
    found = read_functions(pickled["own_aggregation"], allow_foreign=True)
    tasks = [Task(name, name, TaskKind.TRAIN) for name in ("train", "other")]
    assert found.foreign_tasks(tasks) == (tasks[0],)
    assert found.of(tasks) == {"other": "weighted_average"}


@pytest.mark.parametrize("data", [b"\x80\x04.", pickle.dumps({"fit": 1}, protocol=0)])
def test_what_cannot_be_read_is_taken_for_the_users_where_it_may_run(data: bytes) -> None:
    found = read_functions(data, allow_foreign=True)
    assert found.foreign_tasks([TRAIN, LOCAL, GLOBAL]) == (TRAIN,)
    assert found.of([TRAIN, LOCAL]) == {"locally_tuned_model_validate": "weighted_average"}
    with pytest.raises(ForeignCodeError, match=r"aggregation_function_obj\.pkl .*allow_pickled_code"):
        read_functions(data)


def test_what_a_serializer_of_the_users_own_wrote_is_not_read() -> None:
    with pytest.raises(ForeignCodeError, match=r"aggregation_.*serializer mine\.Serializer.*allow_pickled_code"):
        read_functions(stock_functions(fit="Median"), serializer="mine.Serializer")
    assert read_functions(stock_functions(), serializer="mine.Serializer", allow_foreign=True).unreadable


def test_without_the_file_everything_is_averaged() -> None:
    assert Functions().of([TRAIN]) == {"train": "weighted_average"}
