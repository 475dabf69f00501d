from __future__ import annotations

import math

import numpy as np
import pytest

from openfl_aio.aggregator.closing import AggregatedMetric, RoundOutcome
from openfl_aio.aggregator.models import Best, Difference, GlobalModels
from openfl_aio.domain import ModelKind, TensorQuery
from openfl_aio.errors import TensorNotFoundError
from openfl_aio.tensors.codec import EncodedTensor, TensorCodec

MODEL = {"w": np.ones(2, np.float32)}
AGGREGATED = ("metric", "validate_agg")


def make(*, initial_round: int = 0, store_rounds: int = 2) -> GlobalModels:
    return GlobalModels(
        MODEL, initial_round=initial_round, origin="aggregator", codec=TensorCodec(), store_rounds=store_rounds
    )


def close(models: GlobalModels, value: float, *metrics: AggregatedMetric) -> bool:
    model = {"w": np.full(2, value, np.float32)}
    return models.close_round(RoundOutcome(models.round_number, model, {}, metrics))


def score(value: float, name: str = "acc") -> AggregatedMetric:
    return AggregatedMetric("validation", name, AGGREGATED, value)


def test_the_best_model_is_the_one_that_was_validated() -> None:
    models = make()
    assert models.model(ModelKind.BEST) is None
    assert not close(models, 2, score(math.nan))
    assert close(models, 3, score(0.5), score(0.9, "other"))
    assert not close(models, 4, score(0.4), score(9.0, "other"))
    assert not close(models, 5, AggregatedMetric("train", "loss", ("metric", "trained"), 9.0))
    best = models.model(ModelKind.BEST)
    assert best is not None
    np.testing.assert_array_equal(best["w"], [2, 2])
    np.testing.assert_array_equal(models.current["w"], [5, 5])
    assert models.best == Best(0.5, 1, "validation", "acc")


def test_old_rounds_are_forgotten() -> None:
    models = make(initial_round=5)
    for value in range(3):
        close(models, value, score(0.1))
    assert "round 8" in repr(models)
    assert models.nbytes == 8
    assert sorted(models.history()) == [7, 8]
    for number in (7, 8):
        assert models.find(TensorQuery("w", number, tags=("model",))) is not None
    assert models.find(TensorQuery("w", 9, tags=("model",))) is None
    assert models.find(TensorQuery("acc", 9, report=True, tags=AGGREGATED)) is None
    assert models.find(TensorQuery("acc", 7, report=True, tags=AGGREGATED)) is not None
    for query in (TensorQuery("w", 6, tags=("model",)), TensorQuery("acc", 6, report=True, tags=AGGREGATED)):
        with pytest.raises(TensorNotFoundError, match="round 6"):
            models.find(query)


def test_the_first_metric_of_a_key_stays() -> None:
    models = make()
    models.put_metric("loss", 0, ("metric",), 1.0)
    models.put_metric("loss", 0, ("metric",), 2.0)
    found = models.find(TensorQuery("loss", 0, report=True, tags=("metric",)))
    assert isinstance(found, EncodedTensor)
    assert TensorCodec().decode(found) == 1.0


def delta_of(number: int) -> TensorQuery:
    return TensorQuery("w", number, tags=("aggregated", "delta"))


def test_a_delta_is_there_as_long_as_its_round_and_made_when_asked_for() -> None:
    models = make()
    for value in (2, 4, 7):
        close(models, value)
    for number, difference in ((2, 2), (3, 3)):
        found = models.find(delta_of(number))
        assert isinstance(found, Difference)
        np.testing.assert_array_equal(found.new - found.base, np.full(2, difference))
    assert models.find(delta_of(4)) is None
    with pytest.raises(TensorNotFoundError, match="round 1"):
        models.find(delta_of(1))  # although its model is kept, for the next delta
    with pytest.raises(TensorNotFoundError, match="round 1"):
        models.find(TensorQuery("w", 1, tags=("model",)))


def test_a_delta_that_was_made_is_kept_with_its_round() -> None:
    models = make()
    close(models, 2)
    wanted = models.find(delta_of(1))
    assert isinstance(wanted, Difference)
    made = TensorCodec().encode(wanted.key, wanted.new - wanted.base, lossless=True)
    models.put_delta(made)
    assert models.find(delta_of(1)) is made
    for value in (3, 4):
        close(models, value)
    models.put_delta(made)  # somebody was slow
    with pytest.raises(TensorNotFoundError, match="round 1"):
        models.find(delta_of(1))


def test_older_models_can_be_moved_and_the_best_one_with_them() -> None:
    models = make()
    close(models, 2, score(0.5))
    assert [(number, name) for number, name, _ in models.older()] == [(0, "w")]
    elsewhere = np.ones(2, np.float32)
    models.move(0, "w", elsewhere)
    best = models.model(ModelKind.BEST)
    assert best is not None
    assert best["w"] is elsewhere
    models.move(9, "w", elsewhere)  # no such round
    close(models, 3)
    close(models, 4)
    assert [number for number, _, _ in models.older()] == [1, 2]
    models.move(0, "w", np.zeros(2, np.float32))  # dropped meanwhile
    assert best["w"] is elsewhere
