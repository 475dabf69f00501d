from __future__ import annotations

import math

import numpy as np
import pytest

from openfl_aio.aggregator.closing import AggregatedMetric, RoundOutcome
from openfl_aio.aggregator.models import GlobalModels
from openfl_aio.domain import ModelKind, TensorQuery
from openfl_aio.errors import TensorNotFoundError
from openfl_aio.tensors.codec import TensorCodec

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
    assert (models.best_score, models.best_round) == (0.5, 1)


def test_old_rounds_are_forgotten() -> None:
    models = make(initial_round=5)
    for value in range(3):
        close(models, value, score(0.1))
    assert "round 8" in repr(models)
    assert models.nbytes == 8
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
    assert found is not None
    assert TensorCodec().decode(found) == 1.0
