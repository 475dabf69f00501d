"""Our aggregation functions against OpenFL 1.6's own, on the same tensors.

Runs where ``openfl==1.6`` is installed too: ``nox -s interop_openfl``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from openfl.interface import aggregation_functions as theirs
from openfl.interface.aggregation_functions.core import AdaptiveAggregation as TheirAdaptive
from openfl.utilities.optimizers.numpy import NumPyAdagrad, NumPyAdam, NumPyYogi
from openfl.utilities.types import LocalTensor as TheirTensor

from openfl_aio.tensors.aggregation import (
    NO_STATE,
    AdaptiveAggregation,
    AggregationContext,
    LocalTensor,
    ServerOptimizer,
    State,
    get_aggregation,
)

pytestmark = pytest.mark.cell(
    server="in one process", client="aggregation functions", must="the same model", link="none"
)

SHAPES = [(), (1,), (7,), (3, 5), (2, 3, 4, 5), (20_000,)]
ROUNDS = 5


def stack(shape: tuple[int, ...], count: int, seed: int, spread: float = 1.0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [np.asarray(spread * random.standard_normal(shape), np.float32) for _ in range(count)]


def both(arrays: list[np.ndarray], samples: list[int]) -> tuple[list[LocalTensor], list[TheirTensor]]:
    """The same tensors for either side; OpenFL's aggregator passes weights that add up to 1."""
    ours = [LocalTensor(f"c{i}", float(n), array) for i, (array, n) in enumerate(zip(arrays, samples, strict=True))]
    shares = np.array(samples) / sum(samples)
    return ours, [TheirTensor(t.collaborator, t.values, share) for t, share in zip(ours, shares, strict=True)]


@pytest.mark.parametrize(
    ("name", "their_class", "tensor_name"),
    [
        ("weighted_average", theirs.WeightedAverage, "w"),
        ("median", theirs.Median, "w"),
        ("geometric_median", theirs.GeometricMedian, "w"),
        ("fedcurv_weighted_average", theirs.FedCurvWeightedAverage, "layer.weight"),
        ("fedcurv_weighted_average", theirs.FedCurvWeightedAverage, "layer.weight_u"),
        ("fedcurv_weighted_average", theirs.FedCurvWeightedAverage, "layer.weight_v"),
        ("fedcurv_weighted_average", theirs.FedCurvWeightedAverage, "layer.weight_w"),
    ],
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_functions_without_a_memory(
    name: str, their_class: Any, tensor_name: str, shape: tuple[int, ...], count: int
) -> None:
    samples = [1 + 37 * number % 11 for number in range(count)]
    ours, their_tensors = both(stack(shape, count, seed=count), samples)
    expected = their_class().call(their_tensors, iter(()), tensor_name, 0, ("trained",))
    result = get_aggregation(name).aggregate(ours, AggregationContext(tensor_name, 0, ("trained",)))
    assert result.shape == np.shape(expected)
    # OpenFL sums FedCurv's matrices in float32
    tolerance = 2e-6 if tensor_name.endswith(("_u", "_v", "_w")) else 1e-7
    np.testing.assert_allclose(result, np.asarray(expected, np.float32), rtol=3e-7, atol=tolerance)


def test_the_geometric_median_with_one_far_away() -> None:
    arrays = stack((4, 6), 6, seed=1)
    arrays[2] += 1000
    ours, their_tensors = both(arrays, [3, 1, 4, 1, 5, 9])
    expected = theirs.GeometricMedian().call(their_tensors)
    result = get_aggregation("geometric_median").aggregate(ours, AggregationContext("w", 0))
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-6)


def fresh(their_class: Any, **arguments: Any) -> Any:
    """OpenFL's functions are singletons, which would keep the optimizer of another test."""
    type(their_class)._instances.pop(their_class, None)
    return their_class(**arguments)


def history(model: np.ndarray, number: int) -> Iterator[dict[str, Any]]:
    """What OpenFL's tensor database holds of the global model of a round."""
    tags = ("aggregated",) if number else ("model",)
    yield {"tensor_name": "w", "round": number, "tags": tags, "nparray": model}


@pytest.mark.parametrize(
    ("ours_is", "their_class", "settings"),
    [
        ("adagrad", theirs.AdagradAdaptiveAggregation, {}),
        (
            "adagrad:learning_rate=0.5,initial_accumulator_value=0.25,epsilon=0.001",
            theirs.AdagradAdaptiveAggregation,
            {"learning_rate": 0.5, "initial_accumulator_value": 0.25, "epsilon": 0.001},
        ),
        ("adam", theirs.AdamAdaptiveAggregation, {}),
        (
            "adam:learning_rate=0.3,betas=0.5/0.75,initial_accumulator_value=0.125,epsilon=0.01",
            theirs.AdamAdaptiveAggregation,
            {"learning_rate": 0.3, "betas": (0.5, 0.75), "initial_accumulator_value": 0.125, "epsilon": 0.01},
        ),
    ],
)
@pytest.mark.parametrize("shape", [(3,), (4, 5), (40_000,)], ids=str)
def test_optimizers_over_rounds(
    ours_is: str, their_class: Any, settings: dict[str, Any], shape: tuple[int, ...]
) -> None:
    start = stack(shape, 1, seed=9)[0]
    function = get_aggregation(ours_is)
    their_function = fresh(their_class, params={"w": start.copy()}, **settings)
    our_model, their_model, state = start, start.copy(), NO_STATE
    for number in range(ROUNDS):
        moves = stack(shape, 3, seed=number, spread=0.1)
        ours, their_tensors = both([our_model * np.float32(0.9) + move for move in moves], [5, 1, 2])
        their_model = their_function.call(their_tensors, history(their_model, number), "w", number, ("trained",)).copy()
        step = function.step(ours, AggregationContext("w", number, ("trained",), our_model), state)
        our_model, state = step.values, step.state
        # OpenFL's moments are float64 from the second step on, ours float32
        np.testing.assert_allclose(our_model, their_model, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("ours_is", "optimizer", "moments"),
    [
        ("adagrad", NumPyAdagrad, {"squares": "grads_squared"}),
        ("adam", NumPyAdam, {"first": "grads_first_moment", "second": "grads_second_moment"}),
    ],
)
def test_what_optimizers_remember(ours_is: str, optimizer: Any, moments: dict[str, str]) -> None:
    model = stack((50,), 1, seed=3)[0]
    their_optimizer = optimizer(params={"w": model.copy()})
    state: State = NO_STATE
    function = get_aggregation(ours_is)
    for number in range(ROUNDS):
        target = stack((50,), 1, seed=10 + number)[0]
        their_optimizer.step({"w": model.astype(np.float64) - target})
        step = function.step([LocalTensor("c", 1, target)], AggregationContext("w", number, (), model), state)
        model, state = step.values, step.state
        np.testing.assert_allclose(model, their_optimizer.params["w"], rtol=1e-6, atol=1e-7)
        for ours_name, their_name in moments.items():
            np.testing.assert_allclose(
                state[ours_name], getattr(their_optimizer, their_name)["w"], rtol=1e-5, atol=1e-7
            )


def test_what_the_optimizer_does_not_know_is_averaged() -> None:
    ours, their_tensors = both(stack((6,), 3, seed=2), [1, 2, 3])
    their_function = fresh(theirs.AdamAdaptiveAggregation, params={"other": np.zeros(1, np.float32)})
    expected = their_function.call(their_tensors, iter(()), "w", 0, ("trained",))
    result = get_aggregation("adam").aggregate(ours, AggregationContext("w", 0))
    np.testing.assert_allclose(result, expected, rtol=3e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("ours_is", "optimizer", "settings"),
    [
        ("adagrad:learning_rate=0.3", NumPyAdagrad, {"learning_rate": 0.3}),
        ("adam:learning_rate=0.3,betas=0.5/0.75", NumPyAdam, {"learning_rate": 0.3, "betas": (0.5, 0.75)}),
        ("yogi:learning_rate=0.3,shrinking=1", NumPyYogi, {"learning_rate": 0.3}),
        (
            "yogi:betas=0.5/0.75,initial_accumulator_value=0.125,epsilon=0.01,shrinking=1",
            NumPyYogi,
            {"betas": (0.5, 0.75), "initial_accumulator_value": 0.125, "epsilon": 0.01},
        ),
    ],
)
@pytest.mark.parametrize("off", [0.0, 2.0], ids=["the model's parameters", "others"])
def test_adaptive_functions_over_rounds(ours_is: str, optimizer: Any, settings: dict[str, Any], off: float) -> None:
    """Parameters that are not the initial model's, and a function of its own for what has no parameter."""
    start = stack((4, 5), 1, seed=9)[0]
    params = {"w": start + np.float32(off)}
    ours_inner = get_aggregation(ours_is)
    assert isinstance(ours_inner, ServerOptimizer)
    function = AdaptiveAggregation(ours_inner, params=params, otherwise=get_aggregation("median"))
    their_optimizer = optimizer(params={"w": params["w"].copy()}, **settings)
    their_function = fresh(TheirAdaptive, optimizer=their_optimizer, agg_func=theirs.Median())
    our_model, their_model, state = start, start.copy(), NO_STATE
    for number in range(ROUNDS):
        moves = stack((4, 5), 3, seed=number, spread=0.1)
        ours, their_tensors = both([our_model * np.float32(0.9) + move for move in moves], [5, 1, 2])
        their_model = their_function.call(their_tensors, history(their_model, number), "w", number, ("trained",)).copy()
        step = function.step(ours, AggregationContext("w", number, ("trained",), our_model), state)
        our_model, state = step.values, step.state
        np.testing.assert_allclose(our_model, their_model, rtol=2e-5, atol=2e-6)
        expected = their_function.call(their_tensors, iter(()), "other", number, ("trained",))
        other = function.step(ours, AggregationContext("other", number, ("trained",), our_model))
        np.testing.assert_allclose(other.values, expected, rtol=3e-7, atol=1e-7)


def test_theirs_of_yogi_cannot_be_made() -> None:
    # by itself: around its optimizer OpenFL's base class can. Ours of that name is the papers' unless it shrinks
    with pytest.raises(TypeError, match="epsilo"):
        fresh(theirs.YogiAdaptiveAggregation, params={"w": np.zeros(1, np.float32)})
