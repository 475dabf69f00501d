from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest

from openfl_aio.errors import TensorError
from openfl_aio.tensors.aggregation import (
    NO_STATE,
    AdagradAdaptiveAggregation,
    AdamAdaptiveAggregation,
    AggregationContext,
    FedAvgM,
    LocalTensor,
    Median,
    State,
    StatefulFunction,
    YogiAdaptiveAggregation,
    get_aggregation,
)

NAMES = ["adagrad", "adam", "fedavgm", "yogi"]


def run(function: StatefulFunction, rounds: int, *, state: State = NO_STATE, start: float = 5.0) -> tuple[float, State]:
    """One number, always pulled by a tenth towards nought by one collaborator and three tenths by another."""
    model = np.array([start], np.float32)
    for number in range(rounds):
        context = AggregationContext("w", number, (), model)
        tensors = [LocalTensor("a", 1, model * np.float32(0.9)), LocalTensor("b", 1, model * np.float32(0.7))]
        step = function.step(tensors, context, state)
        model, state = step.values, step.state
    return float(model[0]), state


def test_adagrad_divides_by_the_root_of_the_sum_of_squares() -> None:
    result, state = run(AdagradAdaptiveAggregation(learning_rate=0.5, initial_accumulator_value=0.1), 1)
    assert result == pytest.approx(5 - 0.5 * 1 / (math.sqrt(0.1 + 1) + 1e-10), rel=1e-6)
    assert state["squares"][0] == pytest.approx(1.1, rel=1e-6)


def test_adams_first_step_is_as_long_as_its_learning_rate() -> None:
    result, state = run(AdamAdaptiveAggregation(learning_rate=0.25), 1)
    assert result == pytest.approx(4.75, rel=1e-6)
    assert [float(state[name][0]) for name in ("first", "second")] == pytest.approx([0.1, 0.001], rel=1e-5)


def test_adams_second_step() -> None:
    result, _ = run(AdamAdaptiveAggregation(learning_rate=1.0, betas=(0.5, 0.75)), 2)
    # gradients 1.0 and 0.8
    first, second = (0.5 * 0.5 + 0.5 * 0.8) / 0.75, (0.75 * 0.25 + 0.25 * 0.64) / (1 - 0.75**2)
    assert result == pytest.approx(4.0 - first / math.sqrt(second), rel=1e-5)


def test_yogis_second_moment_goes_down_by_no_more_than_the_square() -> None:
    function = YogiAdaptiveAggregation(betas=(0.5, 0.75), initial_accumulator_value=10.0)
    _, state = run(function, 1)
    assert state["second"][0] == pytest.approx(10 - 0.25 * 1, rel=1e-6)
    _, state = run(YogiAdaptiveAggregation(betas=(0.5, 0.75)), 1)
    assert state["second"][0] == pytest.approx(0.25, rel=1e-6)


def test_fedavgm_without_momentum_is_the_average_and_with_it_goes_further() -> None:
    assert run(FedAvgM(momentum=0.0), 1)[0] == pytest.approx(4.0, rel=1e-6)
    result, state = run(FedAvgM(momentum=0.5), 2)
    assert result == pytest.approx(4.0 - (0.5 * 1.0 + 0.8), rel=1e-6)
    assert state["velocity"][0] == pytest.approx(1.3, rel=1e-6)
    assert run(FedAvgM(learning_rate=0.5, momentum=0.0), 1)[0] == pytest.approx(4.5, rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_state_that_was_written_and_read_goes_on_to_the_same_bit(name: str) -> None:
    function = get_aggregation(name)
    assert isinstance(function, StatefulFunction)
    whole, _ = run(function, 6)
    middle, state = run(function, 3)
    file = io.BytesIO()
    np.savez(file, **dict[str, Any](state))
    file.seek(0)
    fresh = get_aggregation(name)
    assert isinstance(fresh, StatefulFunction)
    with np.load(file) as loaded:
        result, after = run(fresh, 3, state=dict(loaded), start=middle)
    assert result == whole
    assert int(after["steps"]) == 6


@pytest.mark.parametrize("name", NAMES)
def test_a_state_belongs_to_one_tensor_and_is_never_changed(name: str) -> None:
    function = get_aggregation(name)
    assert isinstance(function, StatefulFunction)
    _, state = run(function, 2)
    before = {key: array.tobytes() for key, array in state.items()}
    assert not any(array.flags.writeable for array in state.values())
    run(function, 2, state=state)
    run(function, 2)
    assert {key: array.tobytes() for key, array in state.items()} == before


@pytest.mark.parametrize("name", NAMES)
def test_every_element_goes_its_own_way_across_slices(name: str) -> None:
    model = np.linspace(-1, 1, 70_000, dtype=np.float32)
    part = model[65_000:65_010]

    def two_rounds(base: np.ndarray) -> np.ndarray:
        function, state, now = get_aggregation(name), NO_STATE, base
        for number in range(2):
            tensors = [LocalTensor("a", 1, now * np.float32(0.5)), LocalTensor("b", 2, now * np.float32(0.25))]
            step = function.step(tensors, AggregationContext("w", number, (), now), state)
            now, state = step.values, step.state
        return now

    assert two_rounds(model)[65_000:65_010].tobytes() == two_rounds(part).tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_what_the_model_does_not_have_is_averaged(name: str) -> None:
    tensors = [LocalTensor("a", 1, np.array([1.0])), LocalTensor("b", 3, np.array([5.0]))]
    step = get_aggregation(name).step(tensors, AggregationContext("new", 0))
    assert step.values[0] == 4.0
    assert not step.state


@pytest.mark.parametrize(
    "state", [{"first": np.zeros(1)}, {"first": np.zeros(1), "second": np.zeros(2), "steps": np.array(1)}]
)
def test_a_foreign_state_is_refused(state: State) -> None:
    context = AggregationContext("w", 0, (), np.zeros(1, np.float32))
    with pytest.raises(TensorError, match=r"expected the state \['first', 'second', 'steps'\] of the shape \(1,\)"):
        AdamAdaptiveAggregation().step([LocalTensor("a", 1, np.zeros(1))], context, state)


def test_a_function_without_a_memory_gives_no_state() -> None:
    step = Median().step([LocalTensor("a", 1, np.ones(2))], AggregationContext("w", 0), {"x": np.zeros(1)})
    assert np.array_equal(step.values, [1, 1])
    assert not step.state
