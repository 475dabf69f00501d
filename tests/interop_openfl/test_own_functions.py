"""What functions of users' own build on, against OpenFL 1.6's: optimizers, adaptive functions, the tensor database.

Runs where ``openfl==1.6`` is installed too: ``nox -s interop_openfl``.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from openfl.databases import TensorDB
from openfl.interface import aggregation_functions as theirs
from openfl.interface.aggregation_functions.core import AdaptiveAggregation as TheirAdaptive
from openfl.utilities.optimizers import numpy as their_optimizers
from openfl.utilities.types import LocalTensor, SingletonABCMeta, TensorKey

from openfl_aio.compat.imports import functions, optimizers
from openfl_aio.compat.imports.tensor_db import TensorDatabase
from openfl_aio.plan.releases import LATER_FUNCTIONS
from openfl_aio.plan.templates import AGGREGATIONS

pytestmark = pytest.mark.cell(
    server="in one process", client="functions of users' own", must="the same model and table of tensors", link="none"
)

SHAPE = (3, 4)


@pytest.fixture(autouse=True)
def made_anew() -> Iterator[None]:
    """OpenFL keeps one object of each function for ever, whatever it is made of: other tests must not leave theirs here."""
    SingletonABCMeta._instances.clear()
    yield
    SingletonABCMeta._instances.clear()


def paths_of_functions() -> dict[str, Any]:
    """Return every aggregation function of OpenFL's by every path that a plan may name it by."""
    below = pkgutil.walk_packages(theirs.__path__, f"{theirs.__name__}.")
    modules = [theirs, *(importlib.import_module(found.name) for found in below)]
    return {
        f"{module.__name__}.{name}": value
        for module in modules
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, theirs.AggregationFunction)
        # modules import what they build on, and nobody names it by their paths
        if value.__module__ == module.__name__ or hasattr(module, "__path__")
    }


def test_a_plan_may_name_each_function_that_can_be_made() -> None:
    found = paths_of_functions()
    assert len(found) > 14
    bases = {path for path, value in found.items() if inspect.isabstract(value) or value is TheirAdaptive}
    assert bases == set(AGGREGATIONS.elsewhere) - set(LATER_FUNCTIONS)
    assert all(AGGREGATIONS.name_of(path) for path in set(found) - bases)


def arrays(seed: int, count: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.standard_normal(SHAPE).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("name", ["NumPyAdagrad", "NumPyAdam", "NumPyYogi"])
def test_optimizers_make_the_same_steps_from_the_same_attributes(name: str) -> None:
    (first,) = arrays(0, 1)
    ours = getattr(optimizers, name)(params={"w": first.copy()}, learning_rate=0.1)
    real = getattr(their_optimizers, name)(params={"w": first.copy()}, learning_rate=0.1)
    assert sorted(vars(ours)) == sorted(vars(real))
    for gradient in arrays(1, 5):
        ours.step({"w": gradient})
        real.step({"w": gradient})
        np.testing.assert_allclose(ours.params["w"], real.params["w"], rtol=1e-5)
    with pytest.raises(KeyError):
        ours.step({"x": first})


@pytest.mark.parametrize("name", ["WeightedAverage", "Median", "GeometricMedian", "FedCurvWeightedAverage"])
def test_functions_that_users_extend_give_the_same(name: str) -> None:
    tensors = [LocalTensor(str(at), values, 0.25 * (at + 1) / 1.5) for at, values in enumerate(arrays(2, 3))]
    expected = getattr(theirs, name)().call(tensors, iter(()), "w_u", 0, ("trained",))
    result = getattr(functions, name)().call(tensors, iter(()), "w_u", 0, ("trained",))
    np.testing.assert_allclose(result, expected, rtol=1e-5)


def history(rounds: int) -> tuple[list[list[Any]], list[np.ndarray]]:
    """What a director has: the models of ``rounds``, and two collaborators' tensors of the last."""
    values = arrays(3, rounds + 2)
    rows: list[list[Any]] = [["w", "aggregator", number, False, ["model"]] for number in range(rounds)]
    rows += [["w", name, rounds - 1, False, ["trained"]] for name in ("one", "two")]
    return rows, values


def test_an_adaptive_function_of_the_users_own_optimizer_finds_the_model_of_its_round() -> None:
    rows, values = history(2)
    database = TensorDatabase(lambda: rows, values.__getitem__)
    database.begin(1)
    real = TensorDB()
    real.cache_tensor({TensorKey("w", "aggregator", 1, False, ("aggregated",)): values[1]})
    tensors = [LocalTensor(name, values[at], 0.5) for at, name in ((2, "one"), (3, "two"))]
    params = {"w": values[1].copy()}
    ours = functions.AdaptiveAggregation(optimizers.NumPyAdam(params=params), functions.WeightedAverage())
    their_optimizer = their_optimizers.NumPyAdam(params={"w": values[1].copy()})
    expected = TheirAdaptive(their_optimizer, theirs.WeightedAverage())(tensors, real._iterate(), "w", 1, ("trained",))
    result = ours(tensors, iter(database), "w", 1, ("trained",))
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    assert np.allclose(ours(tensors, iter(()), "x", 1, ("trained",)), (values[2] + values[3]) / 2)


def test_rows_have_the_keys_and_tags_of_openfls() -> None:
    rows, values = history(2)
    database = TensorDatabase(lambda: rows, values.__getitem__)
    database.begin(1)
    real = TensorDB()
    keys: list[tuple[str, int, tuple[str, ...]]]
    keys = [("aggregator", 0, ("model",)), ("aggregator", 1, ("model",)), ("aggregator", 1, ("aggregated",))]
    keys += [("aggregator", 0, ("trained",))]  # what was aggregated of the round before
    keys += [("aggregator", 1, ("one", "trained")), ("aggregator", 1, ("trained", "two"))]
    for (origin, number, tags), array in zip(keys, [*values[:2], values[1], values[1], *values[2:]], strict=True):
        real.cache_tensor({TensorKey("w", origin, number, False, tags): array})

    def seen(found: Any) -> list[Any]:
        return sorted((row["round"], row["tags"], row["tensor_name"], row["nparray"].tolist()) for row in found)

    assert seen(iter(database)) == seen(real._iterate())
    assert [row.round for row in database] == [1, 1, 1, 1, 0, 0]
    assert set(next(iter(database))) == set(next(iter(real._iterate())).index)


def test_a_privileged_function_finds_what_it_stored_in_later_rounds() -> None:
    rows, values = history(1)
    database = TensorDatabase(lambda: rows, values.__getitem__)
    database.begin(0)
    real = TensorDB()
    for frame in (database.table(), real.tensor_db):
        frame.store(tensor_name="mine", tags=("kept",), nparray=values[0])
        frame.store(tensor_name="mine", tags=("kept",), nparray=values[1])
        frame.store(tensor_name="mine", tags=("kept",), nparray=values[2], overwrite=False)
        frame.store(tensor_name="none", tags=("kept",))
        np.testing.assert_array_equal(frame.retrieve(tensor_name="mine", tags=("kept",)), values[1])
        assert frame.retrieve(tensor_name="none", tags=("kept",)) is None
        assert len(frame.search(tensor_name="mine")) == 1
        assert len(frame.search(tensor_name="absent")) == len(frame)
    database.begin(5)
    np.testing.assert_array_equal(database.table().retrieve(tensor_name="mine", tags=("kept",)), values[1])
    assert len(database.table()) == len(rows) + 1


def test_metrics_of_earlier_rounds_stay_as_openfls_do() -> None:
    values = [np.float32(0.25), np.float32(0.5)]
    at = 0
    database = TensorDatabase(
        lambda: [["acc", "one", at, True, ["metric", "validate_agg"]]], lambda row: np.asarray(values[at])
    )
    for at in range(2):
        database.begin(at)
    found = [(row.round, row.tags, float(row.nparray)) for row in database]
    tags = ("metric", "one", "validate_agg")
    assert found == [(1, tags, 0.5), (0, tags, 0.25)]
    assert list(database.table()["nparray"]) == values
