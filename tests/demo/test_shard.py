from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import openfl_aio.demo
from openfl_aio.collaborator.task_runner import TaskContext, TaskRunner, check_output, load_runner
from openfl_aio.config import default_tasks
from openfl_aio.demo.shard import DigitsShard
from openfl_aio.envoy.shard import describe_shard, load_shard
from openfl_aio.errors import ConfigurationError

WORKSPACE = Path(openfl_aio.demo.__file__).parent / "workspace"


@pytest.fixture(scope="module")
def shard() -> DigitsShard:
    return DigitsShard(site=1, sites=3)


@pytest.fixture
def runner(shard: DigitsShard) -> TaskRunner:
    return load_runner("digits_task.DigitsTask", path=WORKSPACE, shard=shard, settings={"steps": 5})


def test_a_shard_keeps_a_fifth_back_and_describes_itself(shard: DigitsShard) -> None:
    training, validation = shard.get_dataset("train"), shard.get_dataset("val")
    assert len(training) + len(validation) == len(shard)
    assert len(validation) == -(-len(shard) // 5)
    info = describe_shard(shard, name="site_2")
    assert (info.sample_shape, info.target_shape, info.n_samples) == (("64",), ("1",), len(shard))
    assert "site 2 of 3" in info.description
    with pytest.raises(ConfigurationError, match="has train, val"):
        shard.get_dataset("test")


def test_an_envoy_loads_it_by_name(shard: DigitsShard) -> None:
    loaded = load_shard("openfl_aio.demo.shard.DigitsShard", path=None, params={"site": 1, "sites": 3})
    assert np.array_equal(loaded.get_dataset("train").labels, shard.get_dataset("train").labels)


def test_the_submitted_task_runner_gives_what_each_default_task_must(runner: TaskRunner) -> None:
    model = dict(type(runner).initial_model().items())  # type: ignore[attr-defined]
    shapes = {name: values.shape for name, values in model.items()}
    assert set(runner.tensor_names()) == set(model)
    for task in default_tasks():
        output = runner.run(TaskContext(task, 0, "site_2"), model)
        check_output(output, task=task, shapes=shapes)
        assert list(output.metrics) == (["loss"] if task.name == "train" else ["accuracy"])
