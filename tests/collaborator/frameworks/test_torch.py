from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch: Any = pytest.importorskip("torch")

from openfl_aio.collaborator.frameworks.torch import TorchTaskRunner, get_tensors, set_tensors  # noqa: E402
from openfl_aio.collaborator.task_runner import TaskContext  # noqa: E402
from openfl_aio.domain import Task, TaskKind  # noqa: E402
from openfl_aio.errors import TensorError  # noqa: E402


def network() -> Any:
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 1))


def steps(model: Any, optimizer: Any, count: int = 2) -> float:
    """Train a little, the same wherever it is done; return the last loss."""
    source = torch.Generator().manual_seed(5)
    loss = torch.zeros(())
    for _ in range(count):
        samples = torch.randn(8, 3, generator=source)
        optimizer.zero_grad()
        loss = (model(samples) - samples.sum(1, keepdim=True)).square().mean()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def test_names_and_values_are_the_state_dictionary_s() -> None:
    model = network()
    tensors = get_tensors(model)
    assert list(tensors) == list(model.state_dict())
    assert tensors["1.num_batches_tracked"].dtype == np.int64
    np.testing.assert_array_equal(tensors["0.weight"], model[0].weight.detach().numpy())
    tensors["0.weight"][:] = 9
    assert not (model[0].weight == 9).any(), "copies"


OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.1),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("frozen", [False, True])
def test_training_goes_on_elsewhere_as_if_it_had_stayed(kind: str, frozen: bool) -> None:
    def make() -> tuple[Any, Any]:
        model = network()
        model[0].bias.requires_grad_(not frozen)
        return model, OPTIMIZERS[kind](model.parameters())

    here, there = make(), make()
    steps(*here)
    # what travels is float32 and cannot be written to
    sent = {
        name: values if isinstance(values, str) else np.asarray(values, np.float32)
        for name, values in get_tensors(*here).items()
    }
    for values in sent.values():
        if not isinstance(values, str):
            values.flags.writeable = False
    assert sent["__opt_state_needed"] == ("false" if kind == "sgd" else "true")
    set_tensors(there[0], sent, there[1])
    steps(*here)
    steps(*there)
    expected, got = get_tensors(*here), get_tensors(*there)
    assert list(got) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(got[name], values, err_msg=name)


def test_the_names_of_a_state_are_openfl_s() -> None:
    model = network()
    optimizer = torch.optim.Adam([{"params": model[0].parameters()}, {"params": model[2].parameters()}])
    assert get_tensors(model, optimizer)["__opt_state_needed"] == "false"
    steps(model, optimizer)
    tensors = get_tensors(model, optimizer)
    for group in (0, 1):
        for position in (0, 1):
            for key in ("step", "exp_avg", "exp_avg_sq"):
                assert f"__opt_state_{group}_{position}_istensor_{key}" in tensors
    np.testing.assert_array_equal(tensors["__opt_group_lengths"], [2, 2])
    assert len(tensors) == len(model.state_dict()) + 12 + 2


def test_what_does_not_fit_is_named() -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    tensors = get_tensors(model)
    with pytest.raises(TensorError, match=r"expected a tensor '0\.weight'"):
        set_tensors(model, {})
    needed = {**tensors, "__opt_state_needed": "true"}
    with pytest.raises(TensorError, match="expected a tensor '__opt_group_lengths'"):
        set_tensors(model, needed, optimizer)
    with pytest.raises(TensorError, match="of 1 parameter groups, got 2"):
        set_tensors(model, {**needed, "__opt_group_lengths": np.array([1, 1])}, optimizer)
    with pytest.raises(TensorError, match="of 6 parameters in group 0, got one of 5"):
        set_tensors(model, {**needed, "__opt_group_lengths": np.array([5])}, optimizer)


class Runner(TorchTaskRunner):
    def __init__(self, state: Any = "local") -> None:
        self.optimizer_state = state

    @classmethod
    def build(cls) -> tuple[Any, Any]:
        model = network()
        return model, torch.optim.Adam(model.parameters(), lr=0.1)

    def train(self, model: Any, optimizer: Any, context: TaskContext) -> tuple[int, dict[str, float]]:
        return 8, {"loss": steps(model, optimizer)}

    def validate(self, model: Any, context: TaskContext) -> tuple[int, dict[str, float]]:
        return 4, {"sum": float(sum(parameter.detach().sum() for parameter in model.parameters()))}


def context(kind: TaskKind) -> TaskContext:
    return TaskContext(Task("work", "work", kind), 0, "one")


@pytest.mark.parametrize(
    ("state", "treatment", "second_step"),
    [
        ("reset", None, 2),
        ("local", None, 4),
        ("shared", None, 12),
        # a plan decides, whatever the class says
        ("shared", "RESET", 2),
        ("reset", "CONTINUE_LOCAL", 4),
        ("local", "CONTINUE_GLOBAL", 12),
    ],
)
def test_a_runner_trains_and_keeps_its_optimizer_as_told(state: str, treatment: str | None, second_step: int) -> None:
    runner = Runner(state)
    if treatment is not None:
        runner.set_optimizer_treatment(treatment)
    model = Runner.initial_model()
    assert list(model) == list(runner.tensor_names())
    assert all(values.dtype == np.float32 for values in model.values())
    checked = runner.run(context(TaskKind.VALIDATE), model)
    assert (checked.samples, checked.tensors) == (4, {})
    output = runner.run(context(TaskKind.TRAIN), model)
    assert list(output.tensors) == list(model)
    assert output.state_is_shared is (second_step == 12)
    assert bool(output.state) is output.state_is_shared
    shared = {
        name: np.full_like(values, 10) if name.endswith("_step") else values for name, values in output.state.items()
    }
    runner.run(context(TaskKind.TRAIN), {**output.tensors, **shared})
    _, optimizer = runner._model()
    assert {int(each["step"]) for each in optimizer.state_dict()["state"].values()} == {second_step}
