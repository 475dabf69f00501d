from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest

from openfl_aio.errors import ConfigurationError, ShapeMismatchError, TensorError
from openfl_aio.tensors.aggregation import (
    NO_STATE,
    AdagradAdaptiveAggregation,
    AdamAdaptiveAggregation,
    AdaptiveAggregation,
    AggregationContext,
    FedAvgM,
    LocalTensor,
    Median,
    State,
    StatefulFunction,
    WeightedAverage,
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


def test_yogis_second_moment_shrinks_too_if_that_is_wanted() -> None:
    function = YogiAdaptiveAggregation(betas=(0.5, 0.75), initial_accumulator_value=10.0, shrinking=1)
    _, state = run(function, 1)
    assert state["second"][0] == pytest.approx(0.75 * 10 - 0.25 * 1, rel=1e-6)
    with pytest.raises(ConfigurationError, match="shrinking: expected 0 or 1, got 2"):
        YogiAdaptiveAggregation(shrinking=2)


def adaptive(start: float = 5.0) -> AdaptiveAggregation:
    optimizer = AdamAdaptiveAggregation(learning_rate=0.25)
    return AdaptiveAggregation(optimizer, params={"w": np.array([start], np.float32)}, otherwise=Median())


def test_an_adaptive_function_moves_its_parameters_from_where_they_are() -> None:
    assert run(adaptive(), 3) == run(AdamAdaptiveAggregation(learning_rate=0.25), 3)
    # the first step leaves from the parameter, the second from the model
    assert run(adaptive(8.0), 1)[0] == pytest.approx(7.75, rel=1e-6)
    state = run(adaptive(8.0), 1)[1]
    assert run(adaptive(100.0), 1, state=state, start=7.75)[0] == pytest.approx(7.5, rel=1e-2)


def test_an_adaptive_function_leaves_all_other_tensors_to_the_other_function() -> None:
    tensors = [LocalTensor(str(value), 1, np.array([value], np.float32)) for value in (1, 2, 9)]
    for base in (None, np.array([5], np.float32)):  # also those that the model has
        step = adaptive().step(tensors, AggregationContext("x", 0, (), base))
        assert (float(step.values[0]), dict(step.state)) == (2, {})
    assert adaptive().holds_all
    assert not AdaptiveAggregation(AdamAdaptiveAggregation(), params={}, otherwise=WeightedAverage()).holds_all


def test_an_adaptive_function_of_another_model_is_refused() -> None:
    tensors = [LocalTensor("a", 1, np.ones((2, 1), np.float32))]
    with pytest.raises(TensorError, match="global model does not have"):
        adaptive().step(tensors, AggregationContext("w", 0, ()))
    with pytest.raises(ShapeMismatchError, match=r"expected shape \(1,\) for tensor 'w', as in the params of adam"):
        adaptive().step(tensors, AggregationContext("w", 0, (), np.ones((2, 1), np.float32)))


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
