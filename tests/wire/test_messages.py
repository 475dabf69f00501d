from __future__ import annotations

from typing import Any

import pytest

from openfl_aio.wire import messages
from openfl_aio.wire.messages import aggregator, director

AGGREGATOR = {
    "GetTasks",
    "GetAggregatedTensor",
    "SendLocalTaskResults",
    "GetMetricStream",
    "GetTrainedModel",
    "GetExperimentDescription",
    "Ping",  # of 1.9
    "InteropRelay",  # of 1.8 and 1.9
}
DIRECTOR = {
    "UpdateShardInfo",
    "WaitExperiment",
    "GetExperimentData",
    "UpdateEnvoyStatus",
    "SetExperimentFailed",
    "GetExperimentDescription",
    "GetExperimentsList",
    "SetNewExperiment",
    "GetExperimentStatus",
    "GetDatasetInfo",
    "GetTrainedModel",
    "GetMetricStream",
    "RemoveExperimentData",
    "GetEnvoys",
}


@pytest.mark.parametrize(
    ("service", "path", "calls"),
    [
        (aggregator.AggregatorBase(), "/openfl.aggregator.Aggregator/", AGGREGATOR),
        (director.DirectorBase(), "/openfl.director.Director/", DIRECTOR),
    ],
)
def test_the_calls_have_the_paths_of_openfl(service: Any, path: str, calls: set[str]) -> None:
    assert set(service.__mapping__()) == {path + call for call in calls}


def test_every_name_is_there() -> None:
    assert all(hasattr(messages, name) for name in messages.__all__)
