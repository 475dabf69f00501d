"""Tasks of OpenFL's frontend, from its pickles and without running them."""

from __future__ import annotations

import base64
import functools
import json
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

from openfl_aio.domain import Task, TaskKind
from openfl_aio.errors import ArchiveError
from openfl_aio.plan.assigned import MAX_PICKLED_BYTES, ForeignCodeError, read_tasks
from tests.plan.frontends import frontend, registered, stock_assigner

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


def test_what_users_pickle_is_refused_on_every_python(pickled: dict[str, bytes]) -> None:
    with pytest.raises(ForeignCodeError, match=r"task_assigner_obj\.pkl holds .*__main__\.own"):
        read_tasks(pickled["own_assigner"])


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


def test_the_stock_assigner_gives_its_tasks_in_its_order() -> None:
    assert read_tasks(stock_assigner(names=NAMES)) == (TRAIN, LOCAL, GLOBAL)
    assert read_tasks(stock_assigner(train=False, names=NAMES)) == (GLOBAL,)


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


class Ring:
    """Assigns as an object that is called."""

    def __call__(self, collaborators: list[str], round_number: int, **kwargs: object) -> object:
        return {name: [] for name in collaborators}

    def turn(self, collaborators: list[str], round_number: int, **kwargs: object) -> object:
        return {name: [] for name in collaborators}


def own(collaborators: list[str], round_number: int, **kwargs: object) -> object:
    return {(name, round_number): [] for name in collaborators}


def sent(value: object) -> bytes:
    """Return the pickle of something that is defined in this module, with its code, as a notebook's is."""
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    try:
        pickled: bytes = cloudpickle.dumps(value)
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    return pickled


KEPT: dict[str, object] = {}


def keeping(collaborators: list[str], round_number: int, **kwargs: object) -> object:
    return dict.fromkeys(collaborators, KEPT["x"])


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (own, r"test_assigned\.own"),
        (Ring(), r"an object of class tests\.plan\.test_assigned\.Ring"),
        (Ring, r"holds class tests\.plan\.test_assigned\.Ring"),
        (Ring().turn, r"the method tests\.plan\.test_assigned\.Ring\.turn"),
        (functools.partial(own, x=1), r"functools\.partial of tests\.plan\.test_assigned\.own"),
        (functools.partial(functools.partial(print), 1), r"functools\.partial of "),
        (lambda collaborators, round_number: {}, r"<lambda>"),
        (os.system, r"holds \w+\.system"),
        ({"a": 1}, r"holds a value of type dict"),
        ("some text", r"holds a value of type str"),
    ],
)
def test_whatever_stands_there_is_named(value: object, name: str) -> None:
    with pytest.raises(ForeignCodeError, match=rf"task_assigner_obj\.pkl .*{name}.*allow_pickled_code"):
        read_tasks(sent(value))


@pytest.mark.parametrize(
    "kept",
    [{("one", 0): "train"}, bytearray(b"abc"), np.zeros(400_000), b"x" * 3_000_000],
    ids=["tuple keys", "bytearray", "a large array", "large bytes"],
)
def test_what_a_function_holds_does_not_hide_its_name(kept: object) -> None:
    KEPT["x"] = kept
    with pytest.raises(ForeignCodeError, match=r"task_assigner_obj\.pkl holds .*test_assigned\.keeping.*allow_pickled"):
        read_tasks(sent(keeping))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x80\x02}(d.", "begins with a value of type dict, and uses the instruction DICT"),
        (
            sent(own).partition(b"__qualname__")[0],
            r"begins with tests\.plan\.test_assigned\.own, and is no pickle that can be read",
        ),
        (b"", "is no pickle"),
        (pickle.dumps(1 << 4000), "LONG4"),
        (b"x" * (MAX_PICKLED_BYTES + 1), f"{MAX_PICKLED_BYTES} are read"),
    ],
    ids=["protocol 0", "cut", "nothing", "a long number", "too long"],
)
def test_what_cannot_be_read_is_told_with_the_option(data: bytes, said: str) -> None:
    with pytest.raises(ForeignCodeError, match=rf"task_assigner_obj\.pkl .*{said}.*allow_pickled_code"):
        read_tasks(data)


def test_a_function_that_dill_wrote_is_named() -> None:
    # dill's code object and function, as far as they tell a name
    code = b"\x8c\x0adill._dill\x8c\x0c_create_code\x93(K\x02\x8c\x08<string>\x8c\x04held\x8c\x04heldtR"
    data = (
        b"\x8c\x0adill._dill\x8c\x10_create_function\x93(" + code + b"}\x8c\x08__name__\x8c\x08__main__s\x8c\x04heldtR."
    )
    with pytest.raises(ForeignCodeError, match=r"holds __main__\.held, which"):
        read_tasks(b"\x80\x04" + data)


SERIALIZERS = "openfl.plugins.interface_serializer"


@pytest.mark.parametrize("name", ["keras_serializer.KerasSerializer", "dill_serializer.DillSerializer"])
def test_openfls_other_serializers_write_pickles_too(name: str) -> None:
    assert read_tasks(stock_assigner(names=NAMES), serializer=f"{SERIALIZERS}.{name}") == (TRAIN, LOCAL, GLOBAL)
    with pytest.raises(
        ForeignCodeError, match=rf"own.*serializer is .*{name}.*CloudpickleSerializer.*allow_pickled_code"
    ):
        read_tasks(sent(own), serializer=f"{SERIALIZERS}.{name}")


def test_what_a_serializer_of_the_users_own_wrote_is_not_read() -> None:
    with pytest.raises(ForeignCodeError, match=r"task_assigner.*serializer mine\.Serializer.*allow_pickled_code"):
        read_tasks(stock_assigner(), serializer="mine.Serializer")
