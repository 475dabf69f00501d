from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from openfl_aio.collaborator.openfl_runner import OpenFLTaskRunner, is_openfl_runner
from openfl_aio.collaborator.task_runner import TaskContext
from openfl_aio.domain import Task, TaskKind
from openfl_aio.errors import TaskError

TRAIN = Task("train", "train_task", TaskKind.TRAIN)
LOCAL = Task("locally_tuned_model_validation", "validate_task", TaskKind.VALIDATE, apply_local=True)


class Key(NamedTuple):
    name: str
    origin: str
    round_number: int
    report: bool
    tags: tuple[str, ...]


class Runner:
    """As OpenFL's PyTorch runner: the optimizer has a state, and says by text whether it has one."""

    def __init__(self) -> None:
        self.tensor_dict_split_fn_kwargs = {"holdout_tensor_names": ["__opt_state_needed"]}
        self.calls: list[tuple[Any, ...]] = []
        self.treatment = ""

    def set_optimizer_treatment(self, treatment: str) -> None:
        self.treatment = treatment

    def initialize_tensorkeys_for_functions(self, with_opt_vars: bool = False) -> None:
        self.calls.append(("initialize", with_opt_vars))

    def get_tensor_dict(self, with_opt_vars: bool = False) -> dict[str, Any]:
        return {"w": np.zeros(2, np.float32), "count": np.array(3), "text": np.array("a"), "__opt_state_needed": "true"}

    def get_train_data_size(self) -> int:
        return 7

    def get_valid_data_size(self) -> int:
        return 4

    def get_required_tensorkeys_for_function(self, name: str, **kwargs: Any) -> list[Key]:
        keys = [Key("w", "GLOBAL", 0, False, ("model",)), Key("count", "GLOBAL", 0, False, ("model",))]
        if kwargs.get("apply") == "local":
            keys.append(Key("text", "LOCAL", 0, False, ("trained",)))
        return keys

    def train_task(self, col_name: str, round_num: int, input_tensor_dict: dict[str, Any], **kwargs: Any) -> Any:
        self.calls.append((col_name, round_num, kwargs))
        w = input_tensor_dict.pop("w")
        w += 1
        tags = ("trained",)
        sent = {
            Key("loss", col_name, round_num, True, ("metric",)): np.array(0.5),
            Key("w", col_name, round_num, False, tags): w,
            Key("count", col_name, round_num, False, tags): input_tensor_dict["count"],
            Key("momentum", col_name, round_num, False, tags): w * 2,
        }
        return sent, {Key("text", col_name, round_num, False, tags): np.array("b")}

    def validate_task(self, col_name: str, round_num: int, input_tensor_dict: dict[str, Any], **kwargs: Any) -> Any:
        self.calls.append((sorted(input_tensor_dict), kwargs))
        return {Key("acc", col_name, round_num, True, ("metric", "validate_local")): np.float32(0.25)}, {}


MODEL = {"w": np.ones(2, np.float32), "count": np.array(3, np.float32)}
SETTINGS: dict[str, dict[str, Any]] = {"train": {"epochs": 2}, LOCAL.name: {"apply": "local"}}


def adapter(runner: Runner, treatment: str = "RESET") -> OpenFLTaskRunner:
    return OpenFLTaskRunner(runner, settings=SETTINGS, opt_treatment=treatment)


def test_what_is_held_back_is_no_tensor_of_the_model() -> None:
    runner = Runner()
    assert adapter(runner, "CONTINUE_LOCAL").tensor_names() == ("w", "count")
    assert runner.treatment == "CONTINUE_LOCAL"
    assert runner.calls == [("initialize", False)]


@pytest.mark.parametrize("treatment", ["RESET", "CONTINUE_GLOBAL"])
def test_training_and_the_validation_of_what_was_trained(treatment: str) -> None:
    runner = Runner()
    ours = adapter(runner, treatment)
    output = ours.run(TaskContext(TRAIN, 3, "one"), MODEL)
    assert (output.samples, output.metrics) == (7, {"loss": 0.5})
    assert list(output.tensors) == ["w", "count"]
    np.testing.assert_array_equal(output.tensors["w"], [2, 2])
    np.testing.assert_array_equal(MODEL["w"], [1, 1], "the runner gets copies")
    np.testing.assert_array_equal(output.state["momentum"], [4, 4])
    assert output.state_is_shared is (treatment == "CONTINUE_GLOBAL")
    validated = ours.run(TaskContext(LOCAL, 3, "one"), output.tensors)
    assert (validated.samples, validated.metrics, validated.tensors, validated.state) == (4, {"acc": 0.25}, {}, {})
    assert runner.calls[1:] == [("one", 3, {"epochs": 2}), (["count", "text", "w"], {"apply": "local"})]


def test_what_cannot_be_done_is_said() -> None:
    ours = adapter(Runner())
    with pytest.raises(TaskError, match="needs text, which neither the model nor this site has"):
        ours.run(TaskContext(LOCAL, 0, "one"), MODEL)
    with pytest.raises(TaskError, match="Runner has no method 'absent'"):
        ours.run(TaskContext(Task("x", "absent"), 0, "one"), MODEL)


def test_what_is_such_a_runner() -> None:
    assert is_openfl_runner(Runner)
    assert not is_openfl_runner(TaskContext)
